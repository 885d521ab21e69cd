"""What the figures draw: cells, limits, labels, words. On synthetic runs whose changes are known."""

import copy
import dataclasses
import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic_run
from matplotlib.collections import PathCollection, QuadMesh
from PIL import Image
from scipy import stats

from summlens import figures, names
from summlens.core.errors import UserError
from summlens.figures import heads, latent, over_time, parts, scores
from summlens.figures.kit import rundata
from summlens.figures.kit.grid import grids
from summlens.figures.kit.picture import chosen_frames, gif, render, settle
from summlens.figures.kit.style import diverging_norm
from summlens.stats.intervals import bootstrap_interval

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic_run.write(tmp_path_factory.mktemp("run"), layers=3, heads=5, steps=5, articles=6)


@pytest.fixture(scope="module")
def data(run):
    return figures.load(run)


@pytest.fixture(autouse=True)
def style():
    with figures.styled():
        yield


def meshes(figure) -> list[QuadMesh]:
    return [artist for axes in figure.axes for artist in axes.collections if isinstance(artist, QuadMesh)]


def heat(figure, cells: int) -> list[QuadMesh]:
    """The heatmaps of that many cells (colour bars are meshes too)."""
    return [mesh for mesh in meshes(figure) if mesh.get_array().size == cells]


def values(mesh: QuadMesh) -> np.ndarray:
    """What a heatmap shows, NaN where it is blank."""
    return np.ma.filled(mesh.get_array().astype(float), np.nan).ravel()


def test_load_reduces_per_article_numbers_to_series(run, data):
    assert data.shape == (3, 5) and data.articles == 6 and data.steps == [0, 20, 40, 60, 80]
    key = "attention/kl/summary"
    for index, step in enumerate(data.steps):
        stored = run.read_step(step).arrays[key]
        for layer in range(3):
            for head in range(5):
                expected = sum(float(stored[a, layer, head]) for a in range(6)) / 6
                assert data.heads[key][index, layer, head] == pytest.approx(expected, rel=1e-5)
            for article in range(6):
                expected = sum(float(stored[article, layer, h]) for h in range(5)) / 5
                assert data.layers[key][index, article, layer] == pytest.approx(expected, rel=1e-5)


def test_change_is_paired_over_articles(data):
    key = "attention/sparsity/summary"
    result = rundata.change(data, key)
    before, after = data.ends(key)
    assert result.change == pytest.approx((after.astype(float) - before).mean(0), rel=1e-6, abs=1e-9)
    for layer, head in [(2, 0), (1, 4), (2, 4)]:
        reference = stats.bootstrap(
            (after[:, layer, head].astype(float) - before[:, layer, head],),
            np.mean,
            method="percentile",
            n_resamples=9999,
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = reference.high - reference.low
        assert abs(result.low[layer, head] - reference.low) < 0.12 * width
        assert abs(result.high[layer, head] - reference.high) < 0.12 * width
    assert result.verdict[0, 0] == 0  # the head that synthetic_run leaves alone


def test_interval_treats_what_was_not_measured_as_absent():
    numbers = np.array([[1.0, np.nan], [3.0, np.inf], [2.0, 7.0]])
    mean, low, high = rundata.interval(numbers)
    assert mean.tolist() == [2.0, 7.0]
    assert low[1] == high[1] == 7.0 and 1.0 <= low[0] < 2.0 < high[0] <= 3.0


@pytest.mark.parametrize("key", ["entropy", "normalized_entropy", "sparsity", "copy_score", "head_output_norm"])
def test_change_heatmap_has_a_cell_a_head_and_a_scale_symmetric_about_zero(data, key):
    picture = heads.heatmap(data, key)
    result = rundata.change(data, heads.HEAD[key].array())
    base, tuned, change, *greyed = heat(picture.figure, 15)[:4]
    assert values(base) == pytest.approx(result.base.ravel())
    assert values(tuned) == pytest.approx(result.fine_tuned.ravel())
    assert values(change) == pytest.approx(result.change.ravel())
    assert base.get_clim() == tuned.get_clim()
    low, high = change.get_clim()
    assert -low == high == pytest.approx(np.abs(result.change).max())
    covered = ~np.ma.getmaskarray(greyed[0].get_array()) if greyed else np.zeros(15, bool)
    below = np.zeros((3, 5), bool) if result.above_noise is None else ~result.above_noise
    assert covered.reshape(3, 5).tolist() == ((result.verdict == 0) | below).tolist()
    assert ("noise floor" in picture.reading) == (key in ("normalized_entropy", "copy_score"))  # those with flags
    axes = picture.figure.axes[0]
    assert axes.get_ylabel() == "layer" and axes.yaxis_inverted()
    assert heads.HEAD[key].unit in [a.get_ylabel() for a in picture.figure.axes]
    assert "n = 6 probe articles" in picture.reading


def test_grids_say_where_the_heads_lie_on_the_page(data):
    picture = heads.heatmap(data, "entropy")
    settle(picture.figure)
    found = grids(picture.figure)
    assert [(grid.layers, grid.heads) for grid in found] == [(3, 5)] * 3  # neither colour bars nor the grey above
    width, height = picture.figure.canvas.get_width_height()
    for grid, axes in zip(found, picture.figure.axes, strict=False):
        for layer, head in [(0, 0), (2, 1), (1, 4)]:
            x, y = axes.transData.transform((head, layer))  # from the bottom left, in dots
            assert x / width == pytest.approx(grid.left + grid.width * (head + 0.5) / 5)
            assert 1 - y / height == pytest.approx(grid.top + grid.height * (layer + 0.5) / 3)
    result = rundata.change(data, heads.HEAD["entropy"].array())
    for grid, values in zip(found, (result.base, result.fine_tuned, result.change), strict=True):
        assert grid.values == pytest.approx(values)
    assert grids(latent.similarity(data).figure) == []
    moving = heads.evolution(data).grids
    assert len(moving) == 2 and all(grid.values is None for grid in moving)


def test_heads_below_the_noise_floor_are_greyed_though_their_interval_leaves_out_zero(data):
    result = rundata.change(data, heads.HEAD["normalized_entropy"].array())
    flags = np.array(data.causal["noise_floor"]["heads"]["normalized_entropy"]["flag"])
    assert result.above_noise.tolist() == flags.tolist()
    assert (result.uncertain & (result.verdict != 0)).any()
    untested = rundata.change(dataclasses.replace(data, causal=None), heads.HEAD["normalized_entropy"].array())
    assert untested.above_noise is None
    assert untested.uncertain.tolist() == (untested.verdict == 0).tolist()


def test_variant_without_the_sink_stands_beside_where_a_verdict_differs(run, data):
    altered = figures.load(run)
    key = "attention/sparsity_no_sink/summary"
    plain = rundata.change(altered, "attention/sparsity/summary")
    assert (plain.verdict != rundata.change(altered, key).verdict).sum() == 0
    assert len(heat(heads.heatmap(altered, "sparsity").figure, 15)) == 4  # base, fine-tuned, change, grey
    layer, head = np.argwhere(plain.verdict != 0)[0]
    altered.last.arrays[key] = altered.last.arrays[key].copy()
    altered.last.arrays[key][:, layer, head] = altered.first.arrays[key][:, layer, head]
    picture = heads.heatmap(altered, "sparsity")
    assert len(heat(picture.figure, 15)) == 8
    assert "the ringed head gets another verdict" in picture.reading
    rings = [c for axes in picture.figure.axes for c in axes.collections if isinstance(c, PathCollection)]
    assert [ring.get_offsets().tolist() for ring in rings] == [[[head, layer]]] * 2


def test_divergences_start_at_zero_on_one_scale(data):
    left, grey, right = heat(heads.heatmap(data, "kl").figure, 15)
    flags = np.array(data.causal["noise_floor"]["heads"]["kl"]["flag"])
    assert np.ma.getmaskarray(grey.get_array()).reshape(3, 5).tolist() == flags.tolist()  # below the floor: greyed
    assert left.get_clim() == right.get_clim() and left.get_clim()[0] == 0
    largest = max(data.last.arrays[f"attention/{k}/summary"].mean(0).max() for k in ("kl", "kl_no_sink"))
    assert left.get_clim()[1] == pytest.approx(float(largest), rel=1e-5)


def test_words_change_when_nothing_changed(run):
    still = figures.load(run)
    still.last.arrays.update({key: v for key, v in still.first.arrays.items() if key.startswith("attention/")})
    assert heads.heatmap(still, "kl").finding.startswith("No head's attention differs")
    assert heads.heatmap(still, "sparsity").finding.startswith("No head's attention sparsity (Gini) changed")


def test_ranking_and_table_put_the_most_moved_head_first(data):
    rows = heads.most_changed(data, 4)
    kl = data.last.arrays["attention/kl/summary"].mean(0)
    assert [row.name for row in rows] == [f"{i // 5}.{i % 5}" for i in np.argsort(-kl.ravel())[:4]]
    assert rows[0].name == "2.0"
    base, tuned, change, low, high = rows[0].numbers["head_output_norm"]
    assert change == pytest.approx(tuned - base, abs=1e-6) and low <= change <= high
    assert set(rows[0].weights) == set("qkvo") and "kl_no_sink" in rows[0].numbers
    axes = heads.ranking(data).figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == "2.0" and "bits" in axes.get_xlabel()


def test_evolution_has_a_frame_a_capture_and_fixed_colours(data):
    picture = heads.evolution(data)
    with Image.open(io.BytesIO(picture.animation)) as animation:
        assert animation.n_frames == 5
        frames = []
        for index in range(5):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB")).astype(int))
    # Nothing moves but the cells and the counter: the columns of the colour bars' ends stay.
    assert all((frame[:, -20:] == frames[0][:, -20:]).all() for frame in frames)
    assert all((a != b).any() for a, b in zip(frames, frames[1:], strict=False))


def test_frames_are_capped_and_keep_both_ends():
    assert chosen_frames(7) == list(range(7))
    chosen = chosen_frames(120)
    assert len(chosen) == 60 and chosen[0] == 0 and chosen[-1] == 119


def test_gif_drops_frames_rather_than_grow_too_large(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (12, 60, 60, 3), dtype=np.uint8)
    monkeypatch.setattr("summlens.figures.kit.picture.GIF_BYTES", 20_000)
    with Image.open(io.BytesIO(gif(list(noise), 50))) as animation:
        assert 2 <= animation.n_frames < 12


def test_slider_has_a_frame_a_step_on_one_scale(data):
    plot = heads.slider(data).plot
    assert [frame.name for frame in plot.frames] == ["0", "20", "40", "60", "80"]
    assert {frame.data[0].zmax for frame in plot.frames} == {plot.data[0].zmax}
    assert np.array(plot.frames[-1].data[0].z) == pytest.approx(data.heads["attention/kl/summary"][-1], abs=1e-5)
    assert [step.label for step in plot.layout.sliders[0].steps] == ["0", "20", "40", "60", "80"]


def test_temporal_bands_hold_the_change_since_the_first_capture(data):
    axes = next(
        a
        for a in over_time.temporal_metrics(data).figure.axes
        if a.get_title(loc="left") == "Attention sparsity (Gini)"
    )
    lines = [line for line in axes.lines if line.get_label().startswith("layer")]
    series = data.layers["attention/sparsity/summary"]
    for layer, line in enumerate(lines):
        expected = series[:, :, layer].mean(1) - series[0, :, layer].mean()
        assert line.get_ydata() == pytest.approx(expected, abs=1e-6) and line.get_ydata()[0] == 0
        assert list(line.get_xdata()) == data.steps
    assert len(lines) == 3 and axes.get_ylabel() == "change (0 to 1)"


def test_training_curves_use_what_was_logged(data):
    left, right = over_time.training_curves(data).figure.axes
    drawn = {line.get_label(): line for line in left.lines}
    assert list(drawn["validation"].get_xdata()) == [20, 40, 60, 80]
    assert list(drawn["training"].get_xdata()) == [19, 20, 39, 40, 59, 60, 79, 80]
    assert right.lines[0].get_ydata()[-1] == 0
    assert "nats" in left.get_ylabel()


def test_gradient_norms_skip_captures_without_a_gradient(data):
    whole, by_layer = over_time.gradient_norms(data).figure.axes
    assert list(whole.lines[0].get_xdata()) == [20, 40, 60, 80]
    assert len(by_layer.lines) == 3
    assert by_layer.lines[1].get_ydata()[0] == pytest.approx(data.infos[1]["gradients"]["layers"][1])


def test_weight_kinds_are_matrices_without_their_layer(data):
    kinds, table = parts.weight_table(data)
    assert kinds == list(synthetic_run.MATRICES) and table.shape == (6, 3)
    assert table[4, 2] == data.infos[-1]["weights"]["h.2.mlp.in"]["relative"]
    mesh = heat(parts.weight_change(data).figure, 18)[0]
    assert values(mesh) == pytest.approx(100 * table.ravel())
    by_head = heat(parts.weight_change_heads(data).figure, 15)
    assert len(by_head) == 4 and len({mesh.get_clim() for mesh in by_head}) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("transformer.h.11.attn.c_attn.q", "attn.c_attn.q"), ("model.layers.11.mlp.up_proj.weight", "mlp.up_proj")],
)
def test_weight_kind_of_other_architectures(name, kind):
    assert parts._short([parts._kind(name, 11)]) == [kind]


def test_activations_draw_base_and_fine_tuned_at_every_site(data):
    panels = parts.activations(data).figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == [site.title for site in names.SITES]
    assert [len(axes.lines[0].get_xdata()) for axes in panels] == [4, 3, 3, 3]


def test_neurons_are_ranked_in_their_own_deviations(data):
    change = rundata.neuron_change(data)
    layer, neuron = data.changed_neurons[0]
    assert abs(change[layer, neuron]) == np.abs(change).max()
    assert data.neurons[-1, 0] == data.last.arrays["neuron/mean"][layer, neuron]


def test_the_most_changed_neuron_has_its_interval_over_articles_where_the_causal_tests_read_it(tmp_path):
    run = synthetic_run.write(tmp_path, layers=2, heads=3, steps=3)
    data = figures.load(run)
    assert "there is no interval" in parts.neurons(data).caveat
    (layer, neuron), shape = data.changed_neurons[0], (data.articles, *data.last.arrays["neuron/mean"].shape)
    ends = {
        f"neurons/{name}{kind}": np.random.default_rng(n).normal(size=shape)
        for n, (name, kind) in enumerate(itertools.product(("base", "fine_tuned"), ("", "/max")))
    }
    run.write_arrays("causal.npz", ends)
    for kind, name in (("", "mean"), ("/max", "maximum")):
        before, after = (ends[f"neurons/{model}{kind}"][:, layer, neuron] for model in ("base", "fine_tuned"))
        mean, low, high = bootstrap_interval(after - before, resamples=1000)
        assert low < mean < high
        assert f"{name} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" in parts.neurons(data).caveat
    run.write_arrays("causal.npz", {key: values[:, :, 1:] for key, values in ends.items()})  # of another model
    assert "there is no interval" in parts.neurons(data).caveat


def test_similarity_and_logit_lens_draw_every_layer(data):
    rsa, cka = heat(latent.similarity(data).figure, 16)
    assert values(rsa) == pytest.approx(data.latent_arrays["rsa/base_fine_tuned"].ravel())
    assert rsa.get_clim()[1] == cka.get_clim()[1] == 1
    loss, rank = latent.logit_lens(data).figure.axes
    expected = data.latent_arrays["logit_lens/fine_tuned/loss"].mean(0)
    assert loss.lines[1].get_ydata() == pytest.approx(expected)
    assert rank.get_yscale() == "log" and len(latent.similarity_over_steps(data).figure.axes[0].lines) == 8


def test_representations_stand_beside_their_noise_floors(data):
    picture = latent.similarity(data)
    against = "Beyond what the choice of articles, rounding and another training seed would do: "
    assert f"{against}RSA at 2 of 4 layers and debiased linear CKA at 2 of 4 layers." in picture.finding
    rsa, floor, ring = picture.figure.axes[2].lines[:3]
    assert floor.get_ydata() == pytest.approx(0.8) and floor.get_linestyle() == "--"
    assert list(ring.get_xdata()) == [2, 3] and ring.get_ydata() == pytest.approx(rsa.get_ydata()[2:])
    dotted = latent.similarity_over_steps(data).figure.axes[0].lines[1]
    assert dotted.get_ydata() == pytest.approx([0.8, 0.8])
    picture = latent.logit_lens(data)
    base, _, above, below, ring = picture.figure.axes[0].lines
    assert above.get_ydata() - base.get_ydata() == pytest.approx(0.2)
    assert base.get_ydata() - below.get_ydata() == pytest.approx(0.2) and list(ring.get_xdata()) == [2, 3]
    assert "the loss of the target at 2 of 4 layers" in picture.finding and "ring" in picture.reading
    moved = latent.umap(data).finding
    assert moved.endswith("Beyond what rounding and another training seed would do: this distance at 2 of 4 layers.")

    data = dataclasses.replace(data, latent=copy.deepcopy(data.latent))
    for row in data.latent["noise_floor"]["layers"].values():
        row["flag"] = [False] * 4
    assert latent.similarity(data).finding.endswith("another training seed would do, in RSA and debiased linear CKA.")
    assert " No layer changed more than " in latent.logit_lens(data).finding
    data.latent["noise_floor"]["layers"]["rsa"]["of"] = 0
    assert latent.similarity(data).finding.endswith("would do, in debiased linear CKA.")
    del data.latent["noise_floor"]
    picture = latent.similarity(data)
    assert "would do" not in picture.finding and "ring" not in picture.reading
    assert len(picture.figure.axes[2].lines) == 2 and len(latent.similarity_over_steps(data).figure.axes[0].lines) == 4


def test_umap_holds_every_point_and_a_path_a_layer(data):
    picture = latent.umap(data)
    clouds = [trace for trace in picture.plot.data if trace.mode == "markers"]
    paths = [trace for trace in picture.plot.data if trace.mode == "lines"]
    assert len(clouds) == len(paths) == 4
    assert sum(len(cloud.x) for cloud in clouds) == 5 * 4 * 6
    first = data.latent_arrays["projection/umap3"][:6].mean(0)  # step 0, embeddings
    assert [paths[0].x[0], paths[0].y[0], paths[0].z[0]] == pytest.approx(first.tolist())
    with Image.open(io.BytesIO(picture.animation)) as animation:
        assert animation.n_frames > 20


def test_umap_of_many_layers_lists_some_and_says_so(data):
    deep = rundata.RunData(data.run, data.info)
    layer = np.repeat(np.arange(49), 4)
    points = np.random.default_rng(0).normal(size=(len(layer), 3))
    deep.latent_arrays = {"projection/umap3": points, "projection/layer": layer}
    deep.latent_arrays |= {"projection/step": np.tile([0, 0, 9, 9], 49), "projection/article": np.tile([0, 1], 98)}
    picture = latent.umap(deep)
    names = [trace.name for trace in picture.plot.data if trace.mode == "markers"]
    assert len(names) == 13 and names[0] == "embeddings" and names[-1] == "layer 48"
    assert "Points are drawn for 13 of the 49 layers." in picture.reading


def test_many_points_are_thinned_by_whole_steps():
    step = np.repeat(np.arange(50), 20)
    kept = latent._thinned(step, 200)
    assert len(kept) <= 200 and set(step[kept]) >= {0, 49}
    assert (np.unique(step[kept], return_counts=True)[1] == 20).all()


def test_scores_stand_in_reading_order_with_their_intervals(data):
    axes = scores.scores(data).figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()][:3] == ["Zero-shot", "Fine-tuned", "Lead-3"]
    saved = data.evaluation["systems"]["fine_tuned"]["scores"]["rouge1"]
    bar = axes.collections[1].get_segments()[0]
    assert bar[:, 0].tolist() == [saved["low"], saved["high"]]
    assert axes.get_xlabel() == "F1 × 100"


def test_controls_and_seeds_stand_between_the_models_and_the_baselines(data):
    """A control as good as the fine-tuned model is said to be so; the seeds' scores are the spread that is given."""
    evaluation = copy.deepcopy(data.evaluation)
    ours = evaluation["systems"]["fine_tuned"]["scores"]["rouge1"]["mean"]
    added = {"shuffled-pairs": ("Shuffled-pairs control", ours), "seed-43": ("Fine-tuned, seed 43", ours + 4)}
    for name, (label, mean) in added.items():
        number = {"mean": mean, "low": mean - 1, "high": mean + 1}
        evaluation["systems"][name] = {"label": label, "scores": {"rouge1": number}}
    saved = {"score": "rouge1", "difference": 0.0, "low": -1.0, "high": 1.0}
    evaluation["comparisons"].append({"a": "fine_tuned", "b": "shuffled-pairs", **saved})
    picture = scores.scores(dataclasses.replace(data, evaluation=evaluation))

    axes = picture.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("Zero-shot", "Fine-tuned", "Shuffled-pairs control", "Fine-tuned, seed 43"),
        *("Lead-3", "Random-3", "Extractive oracle"),
    ]
    zero_shot, fine_tuned, control, seed, *baselines = [(dot.get_color(), dot.get_marker()) for dot in axes.lines]
    assert seed == fine_tuned
    assert len({zero_shot, fine_tuned, control, *baselines}) == 4
    assert "No difference between the fine-tuned model and the shuffled-pairs control" in picture.finding
    assert f"over the 2 training seeds ROUGE-1 runs from {ours:.1f} to {ours + 4:.1f}" in picture.caveat
    assert "does not cover another training seed" in scores.scores(data).caveat


def test_comparison_turns_the_sign_when_saved_the_other_way_round(data):
    saved = {"a": "x", "b": "fine_tuned", "score": "rouge1", "difference": 2.0, "low": 1.0, "high": 4.0}
    data.evaluation["comparisons"].append(saved)
    turned = scores.comparison(data, "fine_tuned", "x", "rouge1")
    data.evaluation["comparisons"].pop()
    assert (turned["difference"], turned["low"], turned["high"]) == (-2.0, -4.0, -1.0)


def test_files_are_the_same_for_the_same_run(data):
    for suffix in ("png", "svg", "pdf"):
        first, second = (render(figures.scores.scores(data).figure, suffix) for _ in range(2))
        assert first == second


def test_diverging_scale_of_nothing():
    assert diverging_norm(np.full((2, 2), np.nan)).vmax == 1.0


# --- runs that are not as they should be


def drawn(run, *names: str) -> tuple[rundata.RunData, dict[str, figures.Picture], dict[str, str]]:
    """The run's data, the pictures of that name (all but the slow one without names), and why others are not there."""
    data = figures.load(run)
    pictures, missing = {}, {}
    for entry in figures.CATALOGUE:
        if entry.name in names or not (names or entry.name == "latent_umap"):
            try:
                pictures[entry.name] = entry.draw(data)
            except figures.Missing as reason:
                missing[entry.name] = str(reason)
    return data, pictures, missing


def test_no_steps(tmp_path):
    run = synthetic_run.write(tmp_path, steps=0)
    data, pictures, missing = drawn(run)
    assert "scores" in pictures and "captured step" in missing["heads_kl"]
    assert data.problems == []


def test_a_figure_of_one_layer_counts_layers_in_whole_numbers(tmp_path):
    _, pictures, _ = drawn(synthetic_run.write(tmp_path, layers=1, steps=2), "neurons", "activations")
    for axes in (pictures["neurons"].figure.axes[0], *pictures["activations"].figure.axes[1:]):
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [0]


def test_one_step(tmp_path):
    _, pictures, missing = drawn(synthetic_run.write(tmp_path, steps=1))
    assert missing["heads_evolution"] == "only one captured step, and a change needs two"
    assert "training_curves" in pictures and "activations" in pictures


def test_a_missing_and_a_truncated_step_are_named(tmp_path):
    run = synthetic_run.write(tmp_path, steps=6)
    (run.metrics / "step_000040.json").unlink()
    broken = run.metrics / "step_000060.npz"
    broken.write_bytes(broken.read_bytes()[:500])
    data, pictures, missing = drawn(run, "heads_slider", "temporal_metrics")
    assert data.steps == [0, 20, 80, 100] and not missing
    assert any("step_000060.npz is damaged" in problem for problem in data.problems)
    assert "no capture between step 20 and step 60, elsewhere there is one every 20 steps" in data.problems
    frames = pictures["heads_slider"].plot.frames
    assert [frame.name for frame in frames] == ["0", "20", "80", "100"]


def test_a_damaged_base_is_named(tmp_path):
    run = synthetic_run.write(tmp_path, steps=3)
    (run.metrics / "step_000000.json").write_text("{")
    problems = figures.load(run).problems
    assert "step_000000.json is damaged" in problems[0] and problems[1].endswith("base means step 20 here")


def test_analyses_of_two_pairs_of_models_are_not_taken_for_one(tmp_path):
    run = synthetic_run.write(tmp_path, 2, 2, steps=2)
    found = {name: run.read_json(name) for name in ("latent_space.json", "causal.json")}
    for name, tuned in (("latent_space.json", "runs/a"), ("causal.json", "runs/b")):
        run.write_json(name, {**found[name], "base": "gpt2", "fine_tuned": tuned})
    (problem,) = figures.load(run).problems
    assert "latent_space.json compares gpt2 with runs/a and causal.json compares gpt2 with runs/b" in problem
    run.write_json("causal.json", {**found["causal.json"], "base": "gpt2", "fine_tuned": "runs/a"})
    assert figures.load(run).problems == []


def test_another_schema_version_is_one_line(tmp_path):
    run = synthetic_run.write(tmp_path, steps=2)
    path = run.metrics / "run.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(UserError, match="schema version 99"):
        figures.load(run)
    command = [sys.executable, "visualize_metrics.py", "--output-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0 and "schema version 99" in result.stderr and "Traceback" not in result.stderr


def test_a_metric_that_is_not_a_number_is_crossed_out(tmp_path):
    run = synthetic_run.write(tmp_path, layers=2, heads=3, steps=3)
    for step in run.steps():
        saved = run.read_step(step)
        saved.arrays["attention/sparsity/summary"][:, 1, 2] = np.nan
        saved.arrays["attention/copy_score/summary"][0] = np.nan  # one article without a copied token
        saved.arrays["attention/kl/summary"][:] = np.nan
        run.write_step(step, {k: v for k, v in saved.info.items() if k not in ("step", "schema_version")}, saved.arrays)
    data, pictures, _ = drawn(run)
    assert np.ma.getmaskarray(heat(pictures["heads_sparsity"].figure, 6)[2].get_array()).sum() == 1
    assert "A cross marks" in pictures["heads_sparsity"].reading and "of 5 heads" in pictures["heads_sparsity"].finding
    assert np.isfinite(rundata.change(data, "attention/copy_score/summary").change).all()
    assert "could not be measured" in pictures["heads_kl"].finding


def rewrite(run, step, **info):
    saved = run.read_step(step)
    kept = {key: value for key, value in saved.info.items() if key not in ("step", "schema_version")}
    run.write_step(step, {**kept, **info}, saved.arrays)


def test_slim_captures_are_points_of_every_series_and_no_more(tmp_path):
    names = ("training_curves", "temporal_metrics", "heads_evolution", "heads_slider", "neurons")
    run = synthetic_run.write(tmp_path, layers=2, heads=3, steps=5)
    full = figures.load(run)
    for step in (20, 60):
        rewrite(run, step, whole=False)
    data, pictures, missing = drawn(run, *names)
    assert not missing and not data.problems
    assert data.steps == [0, 20, 40, 60, 80] and data.neuron_steps == [0, 40, 80]
    np.testing.assert_array_equal(data.neurons, full.neurons[::2])
    assert set(data.layers) == set(full.layers) and set(data.heads) == set(full.heads)
    for key, series in data.layers.items():
        np.testing.assert_allclose(series, full.layers[key], rtol=5e-4, err_msg=key)
    drawn_lines = [
        line for axes in pictures["temporal_metrics"].figure.axes for line in axes.lines if len(line.get_xdata()) > 2
    ]
    assert drawn_lines and all(list(line.get_xdata()) == data.steps for line in drawn_lines)
    assert len(pictures["heads_slider"].plot.frames) == 5

    rewrite(run, 80, whole=False)  # a run that was interrupted: its last capture so far is slim
    _, pictures, missing = drawn(run, *names, "heads_kl")
    assert set(missing) == {"neurons"} and "heads_kl" in pictures


@pytest.mark.parametrize(("layers", "head_count"), [(1, 1), (48, 25)])
def test_small_and_large_models(tmp_path, layers, head_count):
    names = (
        "heads_kl",
        "heads_entropy",
        "heads_slider",
        "temporal_metrics",
        "weight_change_heads",
        "neurons",
        "logit_lens",
    )
    run = synthetic_run.write(tmp_path, layers=layers, heads=head_count, steps=2, articles=3)
    _, pictures, missing = drawn(run, *names)
    assert not missing
    for picture in pictures.values():
        assert picture.figure is None or render(picture.figure, "svg")
    assert heat(pictures["heads_kl"].figure, layers * head_count)
    assert len(render(pictures["heads_entropy"].figure, "svg")) < 400_000


def test_twenty_thousand_neurons(tmp_path):
    run = synthetic_run.write(tmp_path, layers=2, heads=2, steps=2, articles=3, neurons=20_000)
    data, pictures, missing = drawn(run, "neurons")
    assert not missing and "of 40,000 neurons" in pictures["neurons"].finding
    assert len(data.changed_neurons) == 24 and len(render(pictures["neurons"].figure, "svg")) < 400_000


def test_figures_need_no_model():
    code = (
        "import sys; sys.path.insert(0, '.'); import visualize_metrics; before = set(sys.modules);"
        "assert not {'torch', 'transformers', 'matplotlib', 'plotly'} & before;"
        "from summlens import figures, report; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
