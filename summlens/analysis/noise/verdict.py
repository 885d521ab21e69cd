"""Which changes of a run rise above noise: paired tests over the probe articles, and floors of what no change does.

For each head, layer or neuron the change from base to fine-tuned (the mean over the articles) is held against the same
number where nothing of interest changed, by up to three floors:

sampling   how far the means over two disjoint halves of the articles lie apart in base alone: the distance that 95 %
           of random halvings keep.
numerical  how far base lies from itself in bfloat16 (`summlens.analysis.noise.floors`).
seed       how far fine-tuned models of different seeds lie apart: the largest distance between any two. With it, the
           change that must be larger is the smallest of all seeds': between a seed that changed and one that did not
           the distance is the change itself.

`flag` is true where Benjamini-Hochberg at 5 % names the change, over all heads, layers or neurons of its metric and
again over all metrics of heads (or of layers) together, and its size is beyond every floor there is. By metric alone a
model that did not change would be named in one metric of twenty. The test asks whether the paired differences of the
articles could have either sign (two-sided): sign randomisation for heads and layers, paired t-test for neurons, too
many to resample.

A divergence (KL, JS, cosine) is never negative and base's from itself is zero: halves say nothing, and a test against
zero would name it whatever happened. Its floor is the divergence between the two models of a floor, its test is against
that divergence of the same articles, and p is the largest over the floors: it must rise above each. Without a floor it
has no flag. The neurons' numerical and seed floors are of means over all summary positions together. Weights have no
articles: those of a head are flagged where they moved further than the seeds' lie apart, without a test.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import ttest_rel

from summlens.analysis.noise.floors import Floor, Pair, numbers
from summlens.names import PROJECTIONS, head_weights, is_divergence
from summlens.stats.tests import discoveries, halves, randomisation_test

_SIGNS = 10_000, 100_000  # sign assignments of a randomisation test: the fewest and the most


def above_noise(
    pairs: Mapping[str, Pair], seed: int, floors: Mapping[str, Floor] | None = None
) -> tuple[dict, dict[str, np.ndarray]]:
    """(summary for causal.json, arrays noise_floor/<name>/<floor|p|flag> of the shape without articles).

    `floors`: `numerical` and `seed`, as far as there are any. Each metric's summary holds `median`, over its heads or
    layers: of the size of the change and of each floor, in the metric's unit.
    """
    floors = floors or {}
    summary: dict = {
        "definition": "flag: Benjamini-Hochberg at 5 % over paired tests by article, over each metric and over all "
        "metrics of heads or of layers together, and a change beyond every floor",
        "tests": "sign randomisation (heads, layers; divergences against those of the floors), paired t-test (neurons)",
        "floors": {"sampling": "95 % of the distances between disjoint halves of the probe articles in base alone"}
        | {name: floor.what for name, floor in floors.items()},
        "heads": {},
        "layers": {},
    }
    measured = {
        key: replace(
            floor,
            pairs=[(numbers(one), numbers(other)) for one, other in floor.pairs],
            start=numbers(floor.start),
            ends=[numbers(end) for end in floor.ends],
        )
        for key, floor in floors.items()
    }
    # So many that a single change among all tests of its level could still be named.
    tests: Counter[str] = Counter()
    for name, (base, _) in pairs.items():
        tests[name.split("/")[0]] += base[0].size
    found = {
        name: by_article(name, *pair, measured, seed, int(np.clip(20 * tests[name.split("/")[0]], *_SIGNS)))
        for name, pair in pairs.items()
    }
    found = {name: result for name, result in found.items() if result[0]}
    for level in ("heads", "layers"):
        over_all_metrics([result for name, result in found.items() if name.startswith(f"{level}/")])
    arrays = {}
    for name, (counts, own) in found.items():
        arrays |= {f"noise_floor/{name}/{key}": values for key, values in own.items()}
        if name == "neurons":
            flag = counts.pop("flag")
            summary["neurons"] = {**counts, "by_layer": flag.sum(axis=1)}
        else:
            level, metric = name.split("/")
            summary[level][metric] = counts
    return summary, arrays


def over_all_metrics(found: Sequence[tuple[dict, dict[str, np.ndarray]]]) -> None:
    """Takes back the flags, in what `verdict` said of several numbers, that Benjamini-Hochberg does not name over all
    of them together.
    """
    named = discoveries(np.concatenate([np.empty(0), *(arrays["p"].ravel() for _, arrays in found)]))
    for counts, arrays in found:
        mine, named = named[: arrays["p"].size], named[arrays["p"].size :]
        flag = arrays["flag"] & mine.reshape(arrays["p"].shape)
        arrays["flag"] = counts["flag"] = flag
        counts["flagged"] = int(flag.sum())


def by_article(
    name: str,
    base: np.ndarray,
    fine_tuned: np.ndarray,
    floors: Mapping[str, Floor],
    seed: int,
    signs: int = _SIGNS[0],
) -> tuple[dict, dict[str, np.ndarray]]:
    """What `verdict` says of the number `name`, (A, ...) of base and of fine-tuned; empty where it has no floor.

    `floors`: what was measured of each model holds `name`, (A, ...), where it could be measured. `signs`: how many
    random sign assignments a test has.
    """
    # An article may have no value at all: a copy score without a copied word.
    known = np.isfinite(base + fine_tuned).reshape(len(base), -1).any(axis=1)
    if not known.any():
        return {}, {}
    base, fine_tuned = base[known], fine_tuned[known]
    distances, ends, against = {}, {}, []
    if not is_divergence(name):
        distances["sampling"] = halves(base, seed=seed)
    for key, floor in floors.items():
        between = [one for one in (_between(name, *pair, known) for pair in floor.pairs) if one is not None]
        if between:
            distances[key] = np.max([np.abs(one.mean(axis=0)) for one in between], axis=0)
            against += between
        moved = (_between(name, end, floor.start, known) for end in floor.ends)
        ends[key] = [np.abs(one.mean(axis=0)) for one in moved if one is not None]
    if not distances:
        return {}, {}
    p_values = _p_values(name, base, fine_tuned, against, seed, signs)
    return verdict(np.abs((fine_tuned - base).mean(axis=0)), p_values, distances, ends)


def verdict(
    size: np.ndarray, p_values: np.ndarray, distances: Mapping[str, np.ndarray], ends: Mapping[str, list[np.ndarray]]
) -> tuple[dict, dict[str, np.ndarray]]:
    """({flag, flagged, of, median {change, <floor>}}, {<floor>|p|flag: array}), arrays of one shape.

    Flagged is what Benjamini-Hochberg names by `p_values` and whose `size` of change, and that in every end of the
    floor, is above the `distances` {floor: array}. A part without a p-value or without a floor's distance, NaN, is not
    flagged and not counted in `of`.
    """
    flag, tested = discoveries(p_values), np.isfinite(p_values)
    for key, distance in distances.items():
        with np.errstate(invalid="ignore"):
            flag &= np.min([size, *ends.get(key, [])], axis=0) > distance
        tested = tested & np.isfinite(distance)
    counts = {
        "flag": flag,
        "flagged": int(flag.sum()),
        "of": int(tested.sum()),
        "median": {key: _median(values) for key, values in {"change": size, **distances}.items()},
    }
    return counts, {**distances, "p": p_values, "flag": flag}


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def _between(name: str, one: Mapping, other: Mapping, known: np.ndarray) -> np.ndarray | None:
    """(A, ...) of the known articles: how far the `numbers` of a capture lie from another's; None where not measured.

    A divergence is that distance itself.
    """
    number, against = one.get(name), other.get(name)
    if number is None or against is None:
        return None
    distance = number if is_divergence(name) else number - against
    return distance if name == "neurons" else distance[known]


def _p_values(name: str, base: np.ndarray, fine_tuned: np.ndarray, against: list, seed: int, signs: int) -> np.ndarray:
    if is_divergence(name):
        return np.max([randomisation_test(fine_tuned, one, signs, seed) for one in against], axis=0)
    if name == "neurons":
        with np.errstate(invalid="ignore", divide="ignore"):
            return ttest_rel(fine_tuned, base, axis=0).pvalue
    return randomisation_test(fine_tuned, base, signs, seed)


def weights_beyond_seeds(last: Mapping, floor: Floor) -> tuple[dict, dict[str, np.ndarray]]:
    """({q|k|v|o: {flag, flagged, of}}, arrays noise_floor/weights/<q|k|v|o>/<seed|flag>, (L, H), model units).

    ||W - W0||_F of each head's weights in the seed that moved them least, against the largest ||W - W'||_F between the
    models of two seeds. Empty where the models were not compared.
    """
    summary, arrays = {}, {}
    for part in PROJECTIONS:
        key = head_weights(part, "absolute")
        between = [one[key] for one, _ in floor.pairs if key in one]
        moved = [end[key] for end in (last, *floor.ends) if key in end]
        if between and len(moved) == 1 + len(floor.ends):
            distance = np.max(between, axis=0)
            flag = np.min(moved, axis=0) > distance
            summary[part] = {"flag": flag, "flagged": int(flag.sum()), "of": flag.size}
            arrays |= {f"noise_floor/weights/{part}/seed": distance, f"noise_floor/weights/{part}/flag": flag}
    return summary, arrays
