"""Which changes of a run rise above noise: paired tests over the probe articles, and the spread between halves of them.

For each head, layer or neuron two questions are asked of the change from base to fine-tuned:

p        could the paired differences of the articles have either sign (two-sided; `p` is then large)? Sign
         randomisation for heads and layers, paired t-test for neurons, of which there are too many to resample.
halves   how far do the means over two disjoint halves of the articles lie apart in base alone, where nothing changed
         but the articles: the distance that 95 % of random halvings keep.

`flag` is true where Benjamini-Hochberg at 5 % names the change (over all heads, layers or neurons of one metric) and
its size is beyond `halves`. Divergences from base are left out: never negative, they would be named whatever happened.
"""

import re
from collections.abc import Mapping

import numpy as np
from scipy.stats import ttest_rel

from summlens.metrics.effects import discoveries, halves
from summlens.metrics.statistics import randomisation_test

_HEADS = re.compile(r"attention/(?!kl|js)(\w+)/summary|(head_output_norm)/summary")
_LAYERS = re.compile(r"activation/(\w+)/mean_abs/summary")

Pair = tuple[np.ndarray, np.ndarray]


def captured_pairs(first: Mapping, last: Mapping) -> dict[str, Pair]:
    """{heads/<metric> or layers/<site>: (base, fine-tuned)}, (A, L, H) or (A, L), of two captures' arrays."""
    pairs = {}
    for key in first:
        head, layer = _HEADS.fullmatch(key), _LAYERS.fullmatch(key)
        if key in last and (head or layer):
            name = f"heads/{head[1] or head[2]}" if head else f"layers/{layer[1]}"
            pairs[name] = (np.asarray(first[key], np.float64), np.asarray(last[key], np.float64))
    return pairs


def above_noise(pairs: Mapping[str, Pair], seed: int) -> tuple[dict, dict[str, np.ndarray]]:
    """(summary for causal.json, arrays noise_floor/<name>/<halves|p|flag> of the shape without articles)."""
    summary: dict = {
        "definition": "flag: Benjamini-Hochberg at 5 % over paired tests by article, and a change larger than 95 % of "
        "the differences between disjoint halves of the probe articles in base alone",
        "tests": "sign randomisation (heads, layers), paired t-test (neurons)",
        "heads": {},
        "layers": {},
    }
    arrays = {}
    for name, (base, fine_tuned) in pairs.items():
        # An article may have no value at all: a copy score without a copied word.
        known = np.isfinite(base + fine_tuned).reshape(len(base), -1).any(axis=1)
        base, fine_tuned = base[known], fine_tuned[known]
        if name == "neurons":
            with np.errstate(invalid="ignore", divide="ignore"):
                p_values = ttest_rel(fine_tuned, base, axis=0).pvalue
        else:
            p_values = randomisation_test(fine_tuned, base, seed=seed)
        floor = halves(base, seed=seed)
        with np.errstate(invalid="ignore"):
            beyond = np.abs((fine_tuned - base).mean(axis=0)) > floor
        flag = discoveries(p_values) & beyond
        arrays |= {f"noise_floor/{name}/{key}": v for key, v in (("halves", floor), ("p", p_values), ("flag", flag))}
        counts = {"flagged": int(flag.sum()), "of": int(np.isfinite(p_values).sum())}
        if name == "neurons":
            summary["neurons"] = {**counts, "by_layer": flag.sum(axis=1)}
        else:
            level, metric = name.split("/")
            summary[level][metric] = {"flag": flag, **counts}
    return summary, arrays
