"""The verdicts on the paper's claims, on files whose answers are known, and the script that makes the runs."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

from summlens import claims
from summlens.artifacts import Run
from summlens.core.config import PROJECT, preset
from summlens.core.errors import UserError

ARTICLES, HEADS, TESTS = 16, 12, 40
RESAMPLES = 2_000


def noise(scale, shape, seed=0):
    """Normal noise whose mean over the articles, the first axis, is exactly zero."""
    values = np.random.default_rng(seed).normal(0, scale, shape)
    return values - values.mean(axis=0)


def write(
    folder, name, *, layers=12, kl=None, weights=None, entropy=None, scores=0.0, trainable=100, trained="all", **config
):
    """A finished run: kl (A, L) bits, the same for all heads on average; weights (L,); entropy change (A, L, H)."""
    run = Run(folder / name)
    record = dataclasses.asdict(preset("small", output_dir=str(run.root), lora=name != "full", **config))
    model = {"name": "m", "layers": layers, "heads": HEADS, "trainable": trainable, "trained": trained}
    run.write_json(
        "run.json",
        {"finished": True, "config": record, "model": model, "data": {"fingerprint": "f"}, "seed": record["seed"]},
    )
    kl = np.ones((ARTICLES, layers)) if kl is None else np.asarray(kl, dtype=float)
    shape = (len(kl), layers, HEADS)
    entropy = np.zeros(shape) if entropy is None else entropy
    by_head = kl[:, :, None] * np.linspace(0.5, 1.5, HEADS)
    for step, size in ((0, 0.0), (9, 1.0)):
        arrays = {}
        for sink in ("", "_no_sink"):
            arrays[f"attention/kl{sink}/summary"] = (by_head * size).astype(np.float32)
            for metric in ("entropy", "normalized_entropy"):
                arrays[f"attention/{metric}{sink}/summary"] = (0.5 + entropy * size).astype(np.float32)
        changes = np.ones(layers) if weights is None else weights
        matrices = {
            f"{layer}.{which}": {"layer": layer, "relative": size * changes[layer] * (1 + sign / 10), "absolute": 9.0}
            for layer in range(layers)
            for which, sign in (("q", 1), ("o", -1))
        }
        run.write_step(
            step, {"weights": {"wte": {"layer": None, "relative": 99.0, "absolute": 9.0}, **matrices}}, arrays
        )
    values = np.broadcast_to(np.asarray(scores, dtype=float), (TESTS, 3)) if np.ndim(scores) < 2 else scores
    run.write_predictions(
        {"id": str(n), "scores": {"fine_tuned": dict(zip(claims.SCORES, map(float, row), strict=True))}}
        for n, row in enumerate(values)
    )
    return run


def planted(top, layers=12, height=1.0):
    """(kl, weights) in which the layers of `top` changed most, with little noise."""
    size = np.full(layers, 0.1)
    size[list(top)] = height
    return size + noise(0.01, (ARTICLES, layers)), size / 10


@pytest.mark.parametrize(
    ("by_attention", "by_weights", "verdict"),
    [
        ((2, 3, 5), (2, 3, 5), "holds"),
        ((9, 10, 11), (0, 1, 5), "does not hold"),
        ((2, 3, 5), (1, 3, 5), "cannot be told"),
    ],
)
def test_the_layers_that_change_most(tmp_path, by_attention, by_weights, verdict):
    run = write(tmp_path, "full", kl=planted(by_attention)[0], weights=planted(by_weights)[1])
    found, reasons = claims.layers_change_most({"full": run}, (2, 3, 5), RESAMPLES)
    assert found == verdict
    assert f"exactly layers 2, 3, 5: {100 if by_attention == (2, 3, 5) else 0}%" in reasons[0]
    assert [line.split(",")[0] for line in reasons] == ["attention KL", "relative weight change"]
    first = [int(layer) for layer in re.findall(r"(\d+) \(", reasons[1])]
    assert sorted(first[:3]) == list(by_weights)


def test_how_stable_the_top_is_follows_from_the_articles(tmp_path):
    """Layers 5 and 6 differ by +1 in 6 of 9 articles and by -1 in 3: 5 is ahead where at least 5 of 9 draws are +1."""
    kl = np.full((9, 12), 1.0)
    kl[:, [2, 3]] = 9.0
    kl[:, 5] += np.where(np.arange(9) < 6, 3.0, 2.0)
    kl[:, 6] += np.where(np.arange(9) < 6, 2.0, 3.0)
    run = write(tmp_path, "full", kl=kl, weights=planted((2, 3, 5))[1])
    verdict, reasons = claims.layers_change_most({"full": run}, (2, 3, 5), 20_000)
    expected = 100 * binom.sf(4, 9, 6 / 9)
    assert verdict == "cannot be told"
    assert float(re.search(r"exactly layers 2, 3, 5: (\d+)%", reasons[0])[1]) == pytest.approx(expected, abs=1.5)
    assert float(re.search(r"5 in (\d+)%", reasons[0])[1]) == pytest.approx(expected, abs=1.5)
    assert float(re.search(r"6 in (\d+)%", reasons[0])[1]) == pytest.approx(100 - expected, abs=1.5)


def entropy_change(share, common=0.0):
    """(A, L, H): the first heads fall by 0.1, the others rise; `common` noise moves all heads of an article alike."""
    falls = np.arange(12 * HEADS).reshape(12, HEADS) < round(share * 12 * HEADS)
    return np.where(falls, -0.1, 0.1) + noise(0.01, (ARTICLES, 12, HEADS)) + noise(common, (ARTICLES, 1, 1), seed=1)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (entropy_change(0.62), "holds", "most heads lose it; it fell in 62% [62%, 62%] of 144 heads"),
        (entropy_change(0.80), "does not hold", "most heads lose it; it fell in 80%"),
        (entropy_change(0.30), "does not hold", "most heads gain it; it fell in 30%"),
        (entropy_change(0.55, common=0.8), "cannot be told", "as many heads may gain as lose it; it fell in 55%"),
    ],
)
def test_the_share_of_heads_that_lose_entropy(tmp_path, change, verdict, words):
    found, reasons = claims.heads_lose_entropy({"full": write(tmp_path, "full", entropy=change)}, RESAMPLES)
    assert found == verdict
    assert all(words in line for line in reasons) and len(reasons) == 2


def test_the_interval_of_the_share_is_that_of_resampled_articles(tmp_path):
    change = np.random.default_rng(3).normal(-0.02, 0.2, (ARTICLES, 12, HEADS))
    line = claims.heads_lose_entropy({"full": write(tmp_path, "full", entropy=change)}, RESAMPLES)[1][0]
    share, low, high, clear = (float(number) for number in re.findall(r"(\d+)%", line)[:4])
    generator, shares, means = np.random.default_rng(9), [], []
    for _ in range(2_000):
        means.append(change[generator.choice(ARTICLES, ARTICLES)].mean(axis=0))
        shares.append(100 * np.mean(means[-1] < 0))
    assert share == pytest.approx(100 * np.mean(change.mean(axis=0) < 0), abs=0.51)
    assert [low, high] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=2)
    assert clear == pytest.approx(100 * np.mean(np.quantile(means, 0.975, axis=0) < 0), abs=3)
    assert 0 < clear < share


def four_runs(folder, claimed=0.0, random=0.0, trained="layers 2,3,5", trainable=25, **options):
    """All four runs; LoRA on the claimed and on random layers score so many points above LoRA on all, with noise."""
    kl, weights = planted((2, 3, 5))
    scores = 40 + noise(9, (TESTS, 3))
    write(folder, "full", kl=kl, weights=weights, entropy=entropy_change(0.62), **options)
    write(folder, "lora", scores=scores, **options)
    two = (("lora_claimed", claimed, trained), ("lora_random", random, "layers 0,7,8"))
    for seed, (name, gain, layers) in enumerate(two, start=2):
        own = scores + gain + noise(1, scores.shape, seed)
        write(folder, name, scores=own, trainable=trainable, trained=layers, **options)


def third(folder):
    return claims.verdicts(folder, RESAMPLES)[2]


@pytest.mark.parametrize(
    ("claimed", "random", "trainable", "verdict", "words"),
    [
        (3.0, 0.0, 25, "holds", "the choice of layers matters"),
        (3.0, 3.0, 25, "holds", "no clear difference"),
        (3.0, 0.0, 50, "cannot be told", "50% fewer"),
        (0.0, 0.0, 25, "cannot be told", "75% fewer"),
        (-3.0, 0.0, 25, "does not hold", "random layers do better"),
    ],
)
def test_lora_on_the_claimed_layers(tmp_path, claimed, random, trainable, verdict, words):
    four_runs(tmp_path, claimed, random, trainable=trainable)
    found = third(tmp_path)
    assert found.verdict == verdict and found.claim.startswith("LoRA on layers 2, 3, 5 beats LoRA on all layers")
    assert any(words in line for line in found.reasons)
    mine, other = (
        np.mean([row["scores"]["fine_tuned"]["rouge2"] for row in Run(tmp_path / name).read_predictions()])
        for name in ("lora_claimed", "lora")
    )
    difference, low, high = map(float, re.search(r"ROUGE-2 (\S+) \[(\S+), (\S+)\]", found.reasons[0]).groups())
    assert difference == pytest.approx(mine - other, abs=0.006) and low < difference < high < low + 2


def test_all_three_hold_where_all_were_planted(tmp_path):
    four_runs(tmp_path, claimed=2.0)
    found = claims.verdicts(tmp_path, RESAMPLES)
    assert [one.verdict for one in found] == ["holds"] * 3
    assert [one.claim.split()[0] for one in found] == ["Layers", "62%", "LoRA"]


@pytest.mark.parametrize(("layers", "top"), [(4, (3,)), (5, (0, 4))])
def test_a_model_without_the_papers_layers_is_tested_on_those_that_changed_most(tmp_path, capsys, layers, top):
    kl, weights = planted(top, layers)
    run = write(tmp_path, "full", layers=layers, kl=kl, weights=weights)
    claims._print_layers([str(tmp_path)])
    assert capsys.readouterr().out.strip() == ",".join(map(str, top))
    assert claims.claimed_layers({"full": run}) == top
    named = "Layer 3 changes" if top == (3,) else "Layers 0, 4 change"
    assert claims.verdicts(tmp_path, RESAMPLES)[0].claim == f"{named} most"
    verdict, reasons = claims.layers_change_most({"full": run}, top, RESAMPLES)
    assert verdict == "cannot be told" and "chosen because they changed most here" in reasons[-1]
    assert claims.layers_change_most({"full": run}, (1,), RESAMPLES)[0] == "does not hold"  # named by somebody: a claim


def test_a_model_with_the_papers_layers_is_tested_on_them(tmp_path, capsys):
    kl, weights = planted((7, 8, 9))
    write(tmp_path, "full", kl=kl, weights=weights)
    claims._print_layers([str(tmp_path)])
    assert capsys.readouterr().out.strip() == "2,3,5"


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match="no run below .* is finished: examples/paper_claims.sh --output-dir"):
        claims.verdicts(tmp_path)
    four_runs(tmp_path, claimed=2.0)
    for name, affected in (("lora_random", []), ("lora_claimed", [2]), ("full", [0, 1, 2])):
        record = Run(tmp_path / name).read_json("run.json")
        Run(tmp_path / name).write_json("run.json", {**record, "finished": False})
        found = claims.verdicts(tmp_path, RESAMPLES)
        assert [n for n, one in enumerate(found) if one.verdict == "cannot be told"] == affected
        naming = [line for one in found for line in one.reasons if str(tmp_path / name) in line]
        assert naming and all(f"paper_claims.sh --output-dir {tmp_path}" in line for line in naming)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("lora", "data", {"fingerprint": "other"}, "lora and full differ in data"),
        ("lora_random", "seed", 7, "lora_random and full differ in seed"),
        ("lora_claimed", "config", {"learning_rate": 0.5}, "lora_claimed and lora differ in learning_rate"),
    ],
)
def test_runs_of_unlike_things_are_refused(tmp_path, name, key, value, message):
    four_runs(tmp_path)
    record = Run(tmp_path / name).read_json("run.json")
    changed = {**record[key], **value} if isinstance(value, dict) else value
    Run(tmp_path / name).write_json("run.json", {**record, key: changed})
    with pytest.raises(UserError, match=message):
        claims.verdicts(tmp_path)


def test_a_run_counts_as_finished_only_with_the_same_options(tmp_path, capsys):
    def answer(*options):
        claims._print_finished([*options, "--output-dir", str(tmp_path / "full")])
        return capsys.readouterr().out.strip()

    assert answer("--preset", "small") == "no"
    write(tmp_path, "full", epochs=2.0, batch_size=4, accumulation=4)  # shared out otherwise, over other processes
    assert answer("--preset", "small", "--epochs", "2") == "yes"
    assert answer("--preset", "small", "--epochs", "2", "--accumulation", "4") == "no"
    assert answer("--preset", "small") == "no"


def test_the_command_line_prints_verdicts_without_torch(tmp_path):
    four_runs(tmp_path, claimed=2.0)
    code = f"""
import runpy, sys
sys.argv = ["claims", "verdicts", {str(tmp_path)!r}]
runpy.run_module("summlens.claims", run_name="__main__")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if re.match(r"\d\. ", line)] == [
        "1. Layers 2, 3, 5 change most: holds",
        "2. 62% of the heads lose attention entropy: holds",
        "3. LoRA on layers 2, 3, 5 beats LoRA on all layers, with 75% fewer parameters: holds",
    ]


@pytest.mark.parametrize("option", ["--lora", "--trainable", "--resume"])
def test_the_script_keeps_its_own_options_to_itself(option):
    done = subprocess.run([PROJECT / "examples/paper_claims.sh", option], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == f"error: {option} is this script's own business: leave it out\n"
