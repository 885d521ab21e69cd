"""Three claims of arXiv 2505.17073 held against four runs: verdicts from saved files alone.

examples/paper_claims.sh makes the runs, each in a folder of its own below one folder:

full          a full fine-tune
lora          low-rank adapters on every layer
lora_claimed  adapters on the claimed layers: the paper's 2, 3 and 5 (counted from 0, as everywhere in this project), or
              those that LAYERS named; in a model that has no layer 5, the quarter of the layers, rounded up, whose
              attention changed most in the full fine-tune
lora_random   adapters on as many other layers, drawn by seed

Claims: (1) the claimed layers change most, (2) 62 % of the heads lose attention entropy, (3) adapters on the claimed
layers beat adapters on all of them, with 75 % fewer parameters.

    python -m summlens.claims verdicts DIR            the verdicts
    python -m summlens.claims layers DIR              the layers that lora_claimed is to train
    python -m summlens.claims finished OPTIONS        yes or no: whether the run with these options is finished
"""

import argparse
import dataclasses
import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from summlens.artifacts import RECORD, Run
from summlens.core.config import parse_command_line
from summlens.core.errors import UserError, one_line_errors
from summlens.core.selection import parse
from summlens.stats.intervals import bootstrap_counts, bootstrap_interval, paired_bootstrap
from summlens.stats.tests import randomisation_test

LAYERS, SHARE, SAVED = (2, 3, 5), 0.62, 0.75  # as the paper has them
RUNS = {
    "full": "the full fine-tune",
    "lora": "LoRA on all layers",
    "lora_claimed": "LoRA on the claimed layers",
    "lora_random": "LoRA on random other layers",
}
SCORES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeLsum": "ROUGE-Lsum"}
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, and the numbers that say so, a line each."""

    claim: str
    verdict: str
    reasons: list[str]


def verdicts(folder: Path, resamples: int = 10_000) -> list[Verdict]:
    """The verdicts on the three claims. Raises UserError where no run is finished, and for runs of unlike things."""
    runs = finished_runs(folder)
    if not runs:
        raise UserError(f"no run below {folder} is finished: examples/paper_claims.sh --output-dir {folder} makes them")
    check_comparable(runs)
    layers = claimed_layers(runs)
    names = _listed(layers)
    first = f"{names.capitalize()} change{'s' * (len(layers) == 1)} most"
    second = f"{SHARE:.0%} of the heads lose attention entropy"
    third = f"LoRA on {names} beats LoRA on all layers, with {SAVED:.0%} fewer parameters"
    claims = [
        (first, ["full"], partial(layers_change_most, runs, layers, resamples)),
        (second, ["full"], partial(heads_lose_entropy, runs, resamples)),
        (third, ["lora", "lora_claimed"], partial(claimed_lora_wins, runs, resamples)),
    ]
    found = []
    for claim, needed, test in claims:
        missing = [_absent(folder, name) for name in needed if name not in runs]
        verdict, reasons = (OPEN, missing) if missing else test()
        if "lora" in needed and not missing and "lora_random" not in runs:
            reasons.append(_absent(folder, "lora_random"))
        found.append(Verdict(claim, verdict, reasons))
    return found


def finished_runs(folder: Path) -> dict[str, Run]:
    """The runs below `folder` that are finished, by name."""
    runs = {name: Run(folder / name) for name in RUNS}
    return {name: run for name, run in runs.items() if run.has(RECORD) and run.read_json(RECORD)["finished"]}


def check_comparable(runs: dict[str, Run]) -> None:
    """Raises UserError where the runs differ in what they must share: the comparison would be of something else."""
    records = {name: run.read_json(RECORD) for name, run in runs.items()}
    first = next(iter(records))
    for name, record in records.items():
        for what in ("model", "data", "seed"):
            mine, other = (_shared(one[what]) for one in (record, records[first]))
            if mine != other:
                raise UserError(f"{name} and {first} differ in {what}: make them with the same options")
    adapted = {name: _settings(record["config"]) for name, record in records.items() if name.startswith("lora")}
    for name, settings in adapted.items():
        first = next(iter(adapted))
        for key, value in settings.items():
            if key != "trainable" and value != adapted[first][key]:
                raise UserError(f"{name} and {first} differ in {key}: make them with the same options")


def _settings(config: dict) -> dict:
    """A configuration without what does not change a run: its place, and how a step's articles are shared out."""
    kept = {key: value for key, value in config.items() if key not in ("output_dir", "batch_size", "accumulation")}
    return {**kept, "effective batch": config["batch_size"] * config["accumulation"]}


def _shared(value):
    return {k: v for k, v in value.items() if k not in ("trainable", "trained")} if isinstance(value, dict) else value


def claimed_layers(runs: dict[str, Run]) -> tuple[int, ...]:
    """The layers that are held to have changed most: those that lora_claimed trained, or else is to train."""
    if "lora_claimed" in runs:
        return parse(runs["lora_claimed"].read_json(RECORD)["model"]["trained"]).places
    if _has_the_papers(runs) or "full" not in runs:
        return LAYERS
    return most_changed(runs["full"])


def most_changed(run: Run) -> tuple[int, ...]:
    """The quarter of the layers, rounded up, with the largest mean attention KL over heads and probe articles."""
    divergence = layer_divergence(run).mean(axis=0)
    return tuple(sorted(map(int, _top(divergence, math.ceil(len(divergence) / 4)))))


def layer_divergence(run: Run, metric: str = "kl") -> np.ndarray:
    """Attention KL of the last captured step against step 0: (articles, layers), bits, the mean over heads."""
    return run.read_step(run.steps()[-1]).arrays[f"attention/{metric}/summary"].astype(np.float64).mean(axis=2)


def layer_weight_change(run: Run) -> np.ndarray:
    """Relative weight change at the last captured step: (layers,), the mean over a layer's matrices."""
    matrices = run.read_step(run.steps()[-1]).info["weights"].values()
    layers = range(1 + max(one["layer"] for one in matrices if one["layer"] is not None))
    return np.array([np.mean([one["relative"] for one in matrices if one["layer"] == layer]) for layer in layers])


def _has_the_papers(runs: dict[str, Run]) -> bool:
    return next(iter(runs.values())).read_json(RECORD)["model"]["layers"] > max(LAYERS)


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest `count` of (..., layers), the largest first."""
    return np.argsort(-values, axis=-1, kind="stable")[..., :count]


def layers_change_most(runs: dict[str, Run], claimed: tuple[int, ...], resamples: int) -> tuple[str, list[str]]:
    """Holds where the claimed layers are those of largest attention KL in 95 % of the resamples of the probe articles,
    and those of largest relative weight change too; does not where neither (5 %). Without reach where the layers were
    chosen for their change in this very run."""
    run, count = runs["full"], len(claimed)
    weights = layer_weight_change(run)
    by_weights = set(_top(weights, count)) == set(claimed)
    stable = {}
    reasons = []
    for metric, what in (("kl", "attention KL"), ("kl_no_sink", "attention KL without the first token")):
        values = layer_divergence(run, metric)
        above = _top(_resampled(values, resamples), count)
        share = np.array([(above == layer).any(axis=1).mean() for layer in range(values.shape[1])])
        stable[metric] = (np.sort(above, axis=1) == sorted(claimed)).all(axis=1).mean()
        order = ", ".join(
            f"{layer} ({values.mean(axis=0)[layer]:.3f})" for layer in _top(values.mean(axis=0), count + 2)
        )
        inside = ", ".join(f"{layer} in {share[layer]:.0%}" for layer in np.flatnonzero(share))
        reasons.append(
            f"{what}, bits, largest first: layers {order}; among the top {count} when the {len(values)} probe articles "
            f"are resampled: {inside}; exactly {_listed(claimed)}: {stable[metric]:.0%}"
        )
    if _verdict_of(stable["kl"], by_weights) == _verdict_of(stable["kl_no_sink"], by_weights):
        del reasons[1]
    order = ", ".join(f"{layer} ({weights[layer]:.4f})" for layer in _top(weights, count + 2))
    reasons.append(f"relative weight change, largest first: layers {order}")
    if not _has_the_papers(runs) and claimed == most_changed(run):
        reasons.append(
            f"the model has no layer {max(LAYERS)}: these layers were chosen because they changed most here, which "
            "makes no claim to test"
        )
        return OPEN, reasons
    return _verdict_of(stable["kl"], by_weights), reasons


def _verdict_of(share: float, by_weights: bool) -> str:
    if by_weights:
        return HOLDS if share >= 0.95 else OPEN
    return FAILS if share <= 0.05 else OPEN


def heads_lose_entropy(runs: dict[str, Run], resamples: int) -> tuple[str, list[str]]:
    """Holds where the interval of the share of heads whose mean entropy fell has the paper's share inside and one half
    outside, in bits and normalised alike; does not where the paper's share is outside."""
    run = runs["full"]
    steps = run.steps()
    first, last = (run.read_step(step).arrays for step in (steps[0], steps[-1]))
    found, reasons = [], []
    for metric, what in (("entropy", "entropy in bits"), ("normalized_entropy", "normalised entropy")):
        change, change_no_sink = (
            (last[key].astype(np.float64) - first[key]).reshape(len(first[key]), -1)
            for key in (f"attention/{metric}/summary", f"attention/{metric}_no_sink/summary")
        )
        change = change[np.isfinite(change).all(axis=1)]
        share = np.mean(change.mean(axis=0) < 0)
        low, high = np.quantile((_resampled(change, resamples) < 0).mean(axis=1), [0.025, 0.975])
        clear = np.mean(bootstrap_interval(change, resamples)[2] < 0)
        inside = round(low, 2) <= SHARE <= round(high, 2)  # the paper's share is in whole per cent
        found.append(FAILS if not inside else OPEN if low <= 0.5 else HOLDS)
        words = (
            "most heads lose" if low > 0.5 else "most heads gain" if high < 0.5 else "as many heads may gain as lose"
        )
        reasons.append(
            f"{what}: {words} it; it fell in {share:.0%} [{low:.0%}, {high:.0%}] of {change.shape[1]} heads (interval "
            f"over {len(change)} probe articles), in {clear:.0%} by more than its own interval; without the first "
            f"token in {np.mean(np.nanmean(change_no_sink, axis=0) < 0):.0%}"
        )
    return (found[0] if found[0] == found[1] else OPEN), reasons


def claimed_lora_wins(runs: dict[str, Run], resamples: int) -> tuple[str, list[str]]:
    """Holds where every ROUGE difference to LoRA on all layers is above zero with its whole interval, and three
    quarters of the parameters are saved; does not where one is below zero and none above."""
    numbers = {name: run.read_json(RECORD)["model"]["trainable"] for name, run in runs.items()}
    saved = 1 - numbers["lora_claimed"] / numbers["lora"]
    better, worse, line = _compare(runs, "lora", resamples)
    reasons = [line, f"it trains {numbers['lora_claimed']:,} of {numbers['lora']:,} parameters: {saved:.0%} fewer"]
    if "lora_random" in runs:
        more, less, line = _compare(runs, "lora_random", resamples)
        clear = "the choice of layers matters" if more else "random layers do better"
        reasons.append(f"{line}: {'no clear difference' if bool(more) == bool(less) else clear}")
    if worse and not better:
        return FAILS, reasons
    return (HOLDS if better == len(SCORES) and saved >= SAVED - 0.005 else OPEN), reasons


def _compare(runs: dict[str, Run], other: str, resamples: int) -> tuple[int, int, str]:
    """How many scores of LoRA on the claimed layers are clearly above and below the other's, and the numbers."""
    a, b = (_scores(runs[name]) for name in ("lora_claimed", other))
    found = paired_bootstrap(a, b, resamples)
    p_values = randomisation_test(a, b, resamples)
    each = ", ".join(
        f"{name} {difference:+.2f} [{low:+.2f}, {high:+.2f}] (p = {p:.3g})"
        for name, difference, low, high, p in zip(SCORES.values(), *found.values(), p_values, strict=True)
    )
    line = f"against {RUNS[other]}, points over {len(a)} test articles: {each}"
    return int((found["low"] > 0).sum()), int((found["high"] < 0).sum()), line


def _scores(run: Run) -> np.ndarray:
    """ROUGE of the fine-tuned model's summaries: (test articles, scores), points."""
    return np.array([[row["scores"]["fine_tuned"][score] for score in SCORES] for row in run.read_predictions()])


def _resampled(values: np.ndarray, resamples: int) -> np.ndarray:
    """Means of (A, K) over the articles as drawn with replacement: (resamples, K). The draws depend on A alone."""
    return bootstrap_counts(len(values), resamples, seed=0) @ values / len(values)


def _listed(layers: tuple[int, ...]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def _absent(folder: Path, name: str) -> str:
    return (
        f"{folder / name} ({RUNS[name]}) is not finished: examples/paper_claims.sh --output-dir {folder}, with the "
        "options of its first call, makes what is missing"
    )


def _print_verdicts(arguments: list[str]) -> None:
    for number, one in enumerate(verdicts(_folder(arguments)), start=1):
        print(f"{number}. {one.claim}: {one.verdict}")
        for reason in one.reasons:
            print(f"   - {reason}")
    print("Square brackets are 95 % bootstrap intervals over articles; they do not cover another training seed.")


def _print_layers(arguments: list[str]) -> None:
    runs = finished_runs(_folder(arguments))
    if "full" not in runs:
        raise UserError(_absent(_folder(arguments), "full"))
    print(",".join(map(str, LAYERS if _has_the_papers(runs) else most_changed(runs["full"]))))


def _print_finished(options: list[str]) -> None:
    config = dataclasses.asdict(parse_command_line(options)[0])
    run = Run(config["output_dir"])
    record = run.read_json(RECORD) if run.has(RECORD) else {"finished": False}
    print("yes" if record["finished"] and _settings(record["config"]) == _settings(config) else "no")


def _folder(arguments: list[str]) -> Path:
    if len(arguments) != 1:
        raise UserError("name the one folder that holds the runs: python -m summlens.claims verdicts runs/paper_claims")
    return Path(arguments[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["verdicts", "layers", "finished"])
    what, rest = parser.parse_args(sys.argv[1:2]).what, sys.argv[2:]
    with one_line_errors():
        {"verdicts": _print_verdicts, "layers": _print_layers, "finished": _print_finished}[what](rest)
