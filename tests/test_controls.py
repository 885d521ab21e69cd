"""What of a change is format and what is task: planted truths, a slow loop, and a real control that learned nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_examples, tiny_model

from summlens.analysis import controls, material
from summlens.analysis.noise import verdict
from summlens.analysis.noise.floors import captured_pairs, numerical, seeds
from summlens.artifacts import Run
from summlens.capture import capture, weight_change
from summlens.core.errors import UserError

ARTICLES, LAYERS, HEADS = 12, 2, 3


def arrays(random, start, moved):
    """A capture whose heads moved by `moved` (L, H): KL as far, entropy down by it, and every article a little off."""
    off = random.normal(0, 0.01, (ARTICLES, LAYERS, HEADS))
    return {
        "loss/summary": np.ones(ARTICLES),
        "attention/kl/summary": np.abs(moved) + 0.05 + np.abs(off),
        "attention/normalized_entropy/summary": start - moved + off,
        "activation/residual/mean_abs/summary": np.ones((ARTICLES, LAYERS + 1)) + off[:, :1, 0],
        "weights_by_head/q/relative": moved.astype(np.float32),
        "neuron/mean": np.zeros((LAYERS, 4)),
    }


@pytest.fixture
def run(tmp_path):
    """Head (1, 2) moved in the run alone, head (0, 1) in the run and in the shuffled control alike."""
    run, random = Run(tmp_path), np.random.default_rng(4)
    start = random.uniform(0.4, 0.6, (ARTICLES, LAYERS, HEADS))
    task, form = np.zeros((2, LAYERS, HEADS))
    task[1, 2], form[0, 1] = 0.5, 0.8
    nothing = {**arrays(random, start, 0 * task), "attention/kl/summary": np.zeros_like(start)}
    run.write_step(0, {}, nothing)
    run.write_step(8, {}, arrays(random, start, task + form))
    for name, moved in (("shuffled-pairs", form), ("language-model", 0 * form)):
        other = run.companion(name)
        other.write_json("run.json", {"state": "trained"})
        other.write_step(0, {}, nothing)
        other.write_step(8, {}, arrays(random, start, moved))
    return run


def test_task_and_format_are_told_apart(run):
    info, found = controls.split(run, seed=1)
    assert set(info["controls"]) == {"shuffled-pairs", "language-model"} and set(info["left_out"]) == {"seed"}
    for metric, sign in (("kl", 1), ("normalized_entropy", -1)):
        part = {name: found[f"shuffled-pairs/heads/{metric}/{name}"] for name in controls.SPLIT}
        flag = found[f"shuffled-pairs/heads/{metric}/flag"]
        assert np.argwhere(flag).tolist() == [[1, 2]]
        assert part["task"][0][1, 2] == pytest.approx(sign * 0.5, abs=0.02)
        assert part["format"][0][0, 1] == pytest.approx(sign * 0.8, abs=0.08)
        assert part["total"][0][0, 1] == pytest.approx(part["format"][0][0, 1], abs=0.02)
        assert part["task"][1][0, 1] < 0 < part["task"][2][0, 1]
        assert info["controls"]["shuffled-pairs"]["heads"][metric] == {"flagged": 1, "of": 6}
        alone = found[f"language-model/heads/{metric}/flag"]
        assert np.argwhere(alone).tolist() == [[0, 1], [1, 2]]  # plain language modelling moved neither
    assert info["controls"]["shuffled-pairs"]["layers"]["residual"]["flagged"] == 0
    np.testing.assert_allclose(found["shuffled-pairs/weights/q/task"], [[0, 0, 0], [0, 0, 0.5]])
    lines = controls.headlines(info)
    assert lines[0].startswith("control language-model: its heads moved") and "1 of 6 differ" in lines[1]


def test_a_part_that_another_seed_moves_as_far_is_not_the_tasks(run):
    """The seed's fine-tune moved head (0, 0) where the run's moved (1, 2): no more than two trainings do."""
    info, found = controls.split(run)
    assert "any two trainings" in info["left_out"]["seed"] and "shuffled-pairs/heads/kl/seed" not in found
    moved = np.zeros((LAYERS, HEADS))
    moved[0, 1], moved[0, 0] = 0.8, 0.5
    random = np.random.default_rng(9)
    start = run.read_step(0).arrays["attention/normalized_entropy/summary"]
    seed = run.companion("seed-43")
    seed.write_json("run.json", {"state": "trained"})
    seed.write_step(8, {}, arrays(random, start, moved))
    info, found = controls.split(run)
    assert info["seeds"] == ["43"] and "seed" not in info["left_out"]
    last, other = run.read_step(8).arrays, seed.read_step(8).arrays
    for metric in ("kl", "normalized_entropy"):
        key = f"attention/{metric}/summary"
        for place in np.ndindex(LAYERS, HEADS):
            apart = abs(np.mean([float(last[key][a][place]) - float(other[key][a][place]) for a in range(ARTICLES)]))
            assert found[f"shuffled-pairs/heads/{metric}/seed"][place] == pytest.approx(apart, rel=1e-6)
        assert not found[f"shuffled-pairs/heads/{metric}/flag"].any()
        assert np.argwhere(found[f"language-model/heads/{metric}/flag"]).tolist() == [[0, 1]]  # in both seeds
    assert info["controls"]["shuffled-pairs"]["heads"]["kl"]["flagged"] == 0


def test_the_parts_are_those_of_a_slow_loop(run):
    info, found = controls.split(run)
    base, last = run.read_step(0).arrays, run.read_step(8).arrays
    beside = run.companion("shuffled-pairs").read_step(8).arrays
    ours = theirs = 0.0
    for layer, head in np.ndindex(LAYERS, HEADS):
        sums = dict.fromkeys(controls.SPLIT, 0.0)
        for article in range(ARTICLES):
            place, key = (article, layer, head), "attention/normalized_entropy/summary"
            sums["total"] += float(last[key][place]) - float(base[key][place])
            sums["format"] += float(beside[key][place]) - float(base[key][place])
            sums["task"] += float(last[key][place]) - float(beside[key][place])
            ours += float(last["attention/kl/summary"][place])
            theirs += float(beside["attention/kl/summary"][place])
        for part, total in sums.items():
            value, low, high = found[f"shuffled-pairs/heads/normalized_entropy/{part}"][:, layer, head]
            assert value == pytest.approx(total / ARTICLES) and low <= value <= high
    movement = info["controls"]["shuffled-pairs"]["movement"]
    assert movement["share"] == pytest.approx(theirs / ours)
    assert movement["low"] < movement["share"] < movement["high"]


def test_what_cannot_be_compared_is_named(run, tmp_path):
    with pytest.raises(UserError, match="--resume --control shuffled-pairs makes one"):
        controls.split(Run(tmp_path / "other"))
    control = run.companion("shuffled-pairs")
    control.write_step(9, {}, control.read_step(8).arrays)
    info, found = controls.split(run)
    assert "no capture of step 8" in info["left_out"]["control shuffled-pairs"]
    assert all(key.startswith("language-model/") for key in found)
    other = run.companion("language-model")
    other.write_step(8, {}, {"loss/summary": np.ones(3)})
    assert "not of this run's probe articles" in controls.split(run)[0]["left_out"]["control language-model"]


def test_a_model_that_learned_nothing_shows_nothing(tmp_path):
    """Real models, trained with a step so small that float32 does not notice: nothing is flagged, nothing diverges."""
    base = tiny_model("gpt2").eval()
    examples = [dataclasses.replace(one, id=f"{one.id}{turn}") for turn in range(3) for one in tiny_examples()]

    def trained(order):
        model = tiny_model("gpt2").eval()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-12, weight_decay=0)
        for index in order:
            ids = torch.tensor([examples[index].input_ids])
            model(ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        return model.eval()

    run = Run(tmp_path)
    for name, order in (("", (0, 1, 2)), ("shuffled-pairs", (2, 1, 0)), ("seed-43", (1, 0, 2))):
        one, model = (run.companion(name) if name else run), trained(order)
        one.write_json("run.json", {"state": "trained"})
        one.write_step(0, {}, capture(base, examples, base=base))
        one.write_step(3, {}, capture(model, examples, base=base) | weight_change(model, base)[1])
        model.save_pretrained(one.model_outputs)
    info, found = controls.split(run)
    flags = {name: values for name, values in found.items() if name.endswith("/flag")}
    assert len(flags) > 20 and not any(flag.any() for flag in flags.values())
    assert abs(found["shuffled-pairs/heads/kl/total"]).max() < 1e-6
    first, last = material.captured_ends(run)
    floors = {
        "numerical": numerical(base, examples, first),
        "seed": seeds(run, trained((0, 1, 2)), examples, first, last),
    }
    summary, _ = verdict.above_noise(captured_pairs(first, last), 0, floors)
    assert {"kl", "js", "normalized_entropy"} <= set(summary["heads"])
    assert not any(row["flagged"] for level in ("heads", "layers") for row in summary[level].values())
