"""Figures of the causal tests draw what causal.json says, and the report's answer changes with it."""

import copy

import numpy as np
import pytest
import synthetic_run
from matplotlib.collections import PathCollection, QuadMesh

from summlens import figures
from summlens.figures import causes, format_and_task
from summlens.figures.kit.rundata import Missing
from summlens.report import answer

LAYERS, HEADS, ARTICLES = 3, 5, 6


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    run = synthetic_run.write(tmp_path_factory.mktemp("run"), LAYERS, HEADS, steps=3, articles=ARTICLES)
    return figures.load(run)


@pytest.fixture
def data(loaded):
    data = copy.copy(loaded)
    data.causal = copy.deepcopy(loaded.causal)
    return data


@pytest.fixture(autouse=True)
def style():
    with figures.styled():
        yield


def drawn(axes) -> list[np.ndarray]:
    """Every mesh of cells in a panel, NaN where it is blank."""
    found = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    return [np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(LAYERS, HEADS) for mesh in found]


def points(axes) -> np.ndarray:
    (scatter,) = (artist for artist in axes.collections if isinstance(artist, PathCollection))
    return np.asarray(scatter.get_offsets())


def test_ablation_draws_the_rises_and_greys_what_is_not_named(data):
    picture = causes.ablation(data)
    for axes, name in zip(picture.figure.axes, ("base", "fine_tuned", "difference"), strict=False):
        rises, grey = drawn(axes)
        expected = data.causal["ablation"]["mean"][name]["heads"]
        np.testing.assert_allclose(rises, expected["mean"])
        np.testing.assert_array_equal(np.isfinite(grey), ~np.array(expected["flag"]))
    assert "without head 2.3: 0.300 [0.250, 0.350] nats" in picture.finding and "1 of 15 heads" in picture.finding
    assert "head 2.3 leads (0.350" in picture.reading
    heads = data.causal["ablation"]["mean"]["fine_tuned"]["heads"]
    heads["flag"] = np.zeros((LAYERS, HEADS), dtype=bool).tolist()
    assert causes.ablation(data).finding.startswith("No single head of the fine-tuned model matters beyond chance")


def test_patching_draws_heads_above_layers(data):
    picture = causes.patching(data)
    top_left, top_right, bottom_left, _ = picture.figure.axes[:4]
    shares = 100 * np.array(data.causal["patching"]["noising"]["heads"]["share"])
    np.testing.assert_allclose(drawn(top_left)[0], shares)
    np.testing.assert_allclose(drawn(top_right)[0], shares)
    lines = {one.get_label(): one.get_ydata() for one in bottom_left.get_lines()}
    np.testing.assert_allclose(
        lines["residual stream"], 100 * np.array(data.causal["patching"]["noising"]["residual"]["share"])
    )
    assert len(lines["MLP"]) == LAYERS
    assert "With base's head 2.3 fine-tuned loses 40.0 [35.0, 45.0] % of its gain" in picture.finding
    assert "ρ = 0.90 [0.80, 0.95]" in picture.reading


def test_scatter_has_every_head_at_its_place(data):
    picture = causes.moved_and_matters(data)
    moved = np.array(data.causal["moved_and_matters"]["moved"]["kl"])
    shares = 100 * np.array(data.causal["patching"]["noising"]["heads"]["share"])
    np.testing.assert_allclose(points(picture.figure.axes[0]), np.stack([moved.ravel(), shares.ravel()], axis=1))
    assert "2.3" in {text.get_text() for text in picture.figure.axes[0].texts}
    assert "2.4" in {text.get_text() for text in picture.figure.axes[0].texts}  # moved most


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.8, 0.6, 0.9, "are closely those that matter most"),
        (0.6, 0.2, 0.8, "are roughly those"),
        (0.3, 0.1, 0.5, "are only loosely those"),
        (0.3, -0.1, 0.5, "no more than by chance"),
        (-0.5, -0.7, -0.1, "matter less than the others"),
        (0.9, None, None, "no more than by chance"),
        (None, None, None, "could not be ranked"),
    ],
)
def test_the_verdict_on_moving_and_mattering_follows_the_interval(value, low, high, words):
    by_chance = causes.verdict({"value": value, "low": low, "high": high, "p_value": 0.3}, "Attention KL from base")
    assert "could not be ranked" in by_chance or "no more than by chance" in by_chance  # so few heads, so weak an order
    assert words in causes.verdict(
        {"value": value, "low": low, "high": high, "p_value": 0.04}, "Attention KL from base"
    )
    assert words in causes.verdict({"value": value, "low": low, "high": high}, "Attention KL from base")


def test_circuit_and_noise_floor_draw_their_numbers(data):
    picture = causes.circuit(data)
    dots = [line for line in picture.figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [95, 85, 10]
    (random,) = (line for line in picture.figure.axes[0].get_lines() if line.get_marker() == "|")
    np.testing.assert_allclose(random.get_xdata(), [0, 10, 30])
    assert "2 of 15 heads (2.3, 0.1) recover 85 % [70, 95] of the gain, all heads 95 % [90, 100]" in picture.finding
    assert "3 random sets of that size recover 10 % at the median" in picture.finding
    dashed = [line.get_xdata()[0] for line in picture.figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert dashed == [80]
    data.causal["circuit"]["target_of"] = "all_heads"
    picture = causes.circuit(data)
    dashed = [line.get_xdata()[0] for line in picture.figure.axes[0].get_lines() if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([76]) and "80 % of what all heads recover, which is less than" in picture.reading

    picture = causes.noise_floor(data)
    left, middle, right = picture.figure.axes
    assert [round(bar.get_width(), 1) for bar in left.patches] == [93.3, 26.7, 6.7]
    marks = {line.get_label(): line for line in middle.get_lines()}
    assert marks["another seed"].get_xdata() == pytest.approx([25, 125])
    assert marks["another seed"].get_ydata().tolist() == [0, 2]  # the copy score of an old file has no medians
    assert marks["other articles (halves)"].get_xdata() == pytest.approx([50])  # a divergence has no halves
    assert "another seed: seed 43" in picture.reading and "seed" in picture.caveat
    assert [bar.get_height() for bar in right.patches] == [5, 10, 15]
    assert picture.finding.startswith("KL divergence from base changed beyond the noise floor in 14 of 15 heads")
    data.causal["left_out"]["noise_floor/seed"] = "--seeds 2 makes one"
    assert causes.noise_floor(data).caveat == "Another seed is no floor here: --seeds 2 makes one."
    for row in data.causal["noise_floor"]["heads"].values():
        row["flagged"] = 0
    assert causes.noise_floor(data).finding.startswith("No head changed beyond the noise floor")


def test_format_and_task_are_drawn_by_head_and_what_is_not_named_is_grey(data):
    picture = format_and_task.format_and_task(data, "shuffled-pairs")
    panels = [axes for axes in picture.figure.axes if axes.get_title(loc="left")]
    names = [(metric, part) for metric in format_and_task.SHOWN for part in ("total", "format", "task")]
    for axes, (metric, part) in zip(panels, names, strict=True):
        values, grey = drawn(axes)
        expected, low, high = data.control_arrays[f"shuffled-pairs/heads/{metric}/{part}"]
        np.testing.assert_allclose(values, expected)
        named = data.control_arrays[f"shuffled-pairs/heads/{metric}/flag"]
        if part == "total":
            named = np.array(data.causal["noise_floor"]["heads"][metric]["flag"]) & ((low > 0) | (high < 0))
        if part == "format":
            named = (low > 0) | (high < 0)
        np.testing.assert_array_equal(np.isfinite(grey), ~named)
        assert axes.collections[0].get_clim()[1] == pytest.approx(0.9 if metric == "kl" else 0.09)
    assert "60 % [50, 70] as far" in picture.finding
    assert picture.finding.endswith(
        "1 of 15 heads moved further than the format explains (another training seed was not tried)."
    )
    data.controls = {**data.controls, "seeds": ["43"]}
    told = format_and_task.finding(data, "shuffled-pairs")
    assert told.endswith("1 of 15 heads moved further than the format and another seed explain.")
    assert format_and_task.format_and_task(data, "language-model").name == "controls_language_model"
    data.control_arrays = {**data.control_arrays, "shuffled-pairs/heads/kl/flag": np.zeros((LAYERS, HEADS), bool)}
    assert "no part is shown to be the task's own" in format_and_task.finding(data, "shuffled-pairs")
    data.controls = None
    with pytest.raises(Missing, match="not compared with the control shuffled-pairs"):
        format_and_task.format_and_task(data, "shuffled-pairs")
    assert format_and_task.named(data) is None


def test_what_a_run_left_out_is_missing_with_its_own_reason(data):
    del data.causal["circuit"]
    data.causal["left_out"]["circuit"] = "restoring all heads recovers nothing"
    with pytest.raises(Missing, match="restoring all heads recovers nothing"):
        causes.circuit(data)
    data.causal["exact"] = False
    with pytest.raises(Missing) as missing:
        causes.circuit(data)
    assert missing.value.command == "python analyze_latent_space.py --causal exact"
    data.causal = None
    for entry in figures.CATALOGUE:
        if entry.section == "causes" and not entry.name.startswith("controls"):
            with pytest.raises(Missing, match="no causal.json"):
                entry.draw(data)


def said(data) -> str:
    return " ".join([*(text for _, text in answer.sentences(data)), *answer.details(data)])


def test_the_answer_quotes_the_causal_tests(data):
    text = said(data)
    assert "1 of 15 heads in normalized entropy and 30 of 72 neurons" in text
    assert "depends most on head 2.3: without it the loss on the reference summary rises by 0.300" in text
    assert (
        "head 2.3 alone carries more than any other: with base's output in its place 40.0 [35.0, 45.0] % is lost"
        in text
    )
    assert "are closely those that matter most (ρ = 0.70 [0.60, 0.80])" in text
    assert (
        "2 of 15 heads recover 85 % [70, 95] of the gain on held-out articles; as many heads recover 10 % chosen at "
        "random and 10 % chosen by attention KL (no better than random)." in text
    )
    data.causal["circuit"]["by_metric"]["kl"]["p_value"] = 0.02
    data.causal["circuit"]["target_of"] = "all_heads"
    text = said(data)
    assert (
        "All 15 heads together recover only 95 % [90, 100] of the gain on held-out articles; 2 of 15 heads recover"
        in text
    )
    assert "chosen by attention KL." in text
    del data.causal["circuit"]["random"]
    assert "All 15 heads are needed to recover 95 % [90, 100] of the gain" in said(data)


def test_the_answer_says_when_it_is_no_more_than_noise(data):
    for row in data.causal["noise_floor"]["heads"].values():
        row["flagged"] = 0
    data.causal["noise_floor"]["neurons"]["flagged"] = 0
    nothing = np.zeros((LAYERS, HEADS), dtype=bool).tolist()
    data.causal["ablation"]["mean"]["fine_tuned"]["heads"]["flag"] = nothing
    data.causal["patching"]["noising"]["heads"]["flag"] = nothing
    for row in data.causal["moved_and_matters"]["correlations"]:
        row["low"] = -0.2
    data.causal["circuit"]["random"]["p_value"] = 0.5
    text = said(data)
    assert "It is no more than noise: no head and no neuron changed beyond what" in text
    assert "No single head of the fine-tuned model matters beyond chance when it is ablated." in text
    assert "None of the 15 heads alone carries any of the gain beyond chance" in text
    assert "moving is not shown to be a sign of mattering" in text
    assert "no more than random sets of that size do by chance" in text
    assert "alone carries more" not in text and "depends most" not in text

    data.causal["loss"]["gain"]["low"] = -0.1
    assert "There is no effect to find causes of" in said(data) and "did not fall beyond its interval" in said(data)
    data.causal["loss"]["gain"].update(mean=-0.4, low=-0.5, high=-0.3)
    assert "reference summaries rose (fall: -0.400 [-0.500, -0.300]" in said(data)


def test_the_answer_explains_no_better_summaries_where_there_are_none(data):
    assert "what is explained here" not in said(data)
    data.evaluation = copy.deepcopy(data.evaluation)
    (found,) = (row for row in data.evaluation["comparisons"] if (row["b"], row["score"]) == ("zero_shot", "rouge1"))
    for difference, low, high, how in ((-3, -4, -2, "worse"), (0.5, -1, 2, "not shown to be better")):
        found.update(difference=difference, low=low, high=high)
        cause = answer.sentences(data)[-1][1]
        assert cause.startswith(f"The summaries are {how}, and what is explained here is the loss")


def test_heads_that_hold_the_gain_back_do_not_carry_it(data):
    heads = data.causal["patching"]["noising"]["heads"]
    for end in ("share", "low", "high"):
        heads[end] = (-np.abs(np.array(heads[end]))).tolist()
    cause = answer.sentences(data)[-1][1]
    assert "None of the 15 heads alone carries any of the gain beyond chance" in cause and "1 holds it back" in cause


def test_the_answer_names_another_metric_where_only_that_changed(data):
    heads = data.causal["noise_floor"]["heads"]
    heads["kl"].update(flagged=0, flag=np.zeros((LAYERS, HEADS), dtype=bool).tolist())
    heads["normalized_entropy"]["flagged"] = 0
    text = said(data)
    assert (
        "there is change in 0 of 15 heads in attention KL, 0 of 15 heads in normalized entropy, 4 of 15 heads in copy"
        in text
    )
    assert "in bits of KL divergence, in none of them beyond noise" in text


def test_the_answer_calls_an_estimate_an_estimate(data):
    data.causal["exact"] = False
    for test in ("ablation", "patching", "circuit", "moved_and_matters"):
        del data.causal[test]
    text = said(data)
    assert "By a gradient estimate of patching, base's output of head 2.3 costs fine-tuned most, 38.0" in text
    assert "no cause was tested by intervention" in text
    data.causal = {"schema_version": 1}
    assert "cannot be read" in answer.sentences(data)[-1][1]
