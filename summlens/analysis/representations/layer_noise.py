"""Which layers' representations changed beyond noise: the numbers of latent_space.json against their noise floors.

For the numbers that every article has (distance between layers, logit lens, divergence) floors, test and flag are those
of `noise.verdict`. RSA and CKA are numbers of all articles together; the size of a change is 1 - similarity of
base and fine-tuned at one layer, and its floors are:

sampling   how far the similarity over one half of the articles lies from that over the other: the distance that 95 % of
           random halvings keep. The features stay standardised over all articles.
numerical  1 - similarity of base and base rounded to bfloat16.
seed       1 - similarity of the fine-tuned models of two seeds, the largest of any two. With it, the change that must
           be larger is the smallest of all seeds'.

`flag` is true where Benjamini-Hochberg at 5 % names the change, over the layers and again over all numbers together,
and it is larger than every floor there is. p is the largest over the pairs of models behind the floors of a one-sided
paired bootstrap: (1 + resamples in which base and fine-tuned are at least as similar as the pair) / (1 + resamples),
both over the same resampled articles (paired bootstrap: Koehn 2004). Without such a pair there is no flag: that
fine-tuned differs from base at all is never in doubt.
"""

from collections.abc import Mapping

import numpy as np

from summlens.analysis.noise.floors import Floor, Pair
from summlens.analysis.noise.verdict import by_article, over_all_metrics, verdict
from summlens.metrics.representation import cka_draws, rsa_draws
from summlens.stats.intervals import bootstrap_counts
from summlens.stats.tests import halvings

SIMILARITIES = {"rsa": rsa_draws, "cka": cka_draws}
FEWEST_FOR_SIMILARITY = 5  # unbiased HSIC averages over four different articles: with just four it would have no spread
_HALVINGS = 200
_ROUNDING = 1e-12  # similarities nearer than that are equal: float64 sums in another order


def above_noise(
    pairs: Mapping[str, Pair], floors: Mapping[str, Floor[Mapping]], seed: int, resamples: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """(summary for latent_space.json, arrays noise_floor/<name>/<sampling|numerical|seed|p|flag>).

    Args:
        pairs: {name: (base, fine-tuned)}, (A, L + 1) or (A, L), and `vectors`: (L + 1, A, D) as RSA and CKA see them.
        floors: those of `numerical` and `seed` that there are, mappings with the names of `pairs`. A divergence in the
            first of a pair is that from the second, in an end that from the start.

    Each number's summary under `layers` is {flag, flagged, of, median {change, sampling, numerical, seed}}.
    """
    summary: dict = {
        "definition": "flag: Benjamini-Hochberg at 5 % over the layers and over all numbers together, and a change "
        "beyond every floor",
        "tests": "paired bootstrap over the articles against each floor's pair of models (RSA, CKA), sign "
        "randomisation (others); the change of RSA and CKA is 1 - similarity",
        "floors": {
            "sampling": "95 % of the distances between disjoint halves of the probe articles: in base alone; of RSA "
            "and CKA, between how similar base and fine-tuned are"
        }
        | {name: floor.what for name, floor in floors.items()},
        "layers": {},
    }
    found = {name: _similarity(draw, *pairs["vectors"], floors, seed, resamples) for name, draw in SIMILARITIES.items()}
    found |= {name: by_article(name, *pair, floors, seed) for name, pair in pairs.items() if name != "vectors"}
    over_all_metrics([result for result in found.values() if result[0]])
    arrays = {}
    for name, (counts, own) in found.items():
        arrays |= {f"noise_floor/{name}/{key}": values for key, values in own.items()}
        if counts:
            summary["layers"][name] = counts
    return summary, arrays


def _similarity(draw, base, fine_tuned, floors, seed, resamples) -> tuple[dict, dict[str, np.ndarray]]:
    """What `verdict` says of the similarity that `draw` measures; the sampling floor alone without another."""
    articles = base.shape[1]
    counts = bootstrap_counts(articles, resamples, seed)
    value, draws = draw(base, fine_tuned, counts)
    distances, ends, p_values = {"sampling": _between_halves(draw, base, fine_tuned, seed)}, {}, []
    for key, floor in floors.items():
        between = [draw(one["vectors"], other["vectors"], counts) for one, other in floor.pairs]
        distances[key] = np.max([1 - similarity for similarity, _ in between], axis=0)
        # Not "at least as similar" but "not less similar": a resample in which a side is not defined shows no drop.
        kept = [~(draws < theirs - _ROUNDING) for _, theirs in between]
        p_values += [(1 + one.sum(axis=0)) / (1 + resamples) for one in kept]
        start = floor.start["vectors"]
        ends[key] = [1 - draw(start, end["vectors"], counts[:0])[0] for end in floor.ends]
    if not p_values:
        return {}, distances
    return verdict(1 - value, np.where(np.isfinite(value), np.max(p_values, axis=0), np.nan), distances, ends)


def _between_halves(draw, base, fine_tuned, seed) -> np.ndarray:
    """(L + 1,): the sampling floor; NaN with fewer than FEWEST_FOR_SIMILARITY in a half."""
    sides = halvings(base.shape[1], _HALVINGS, seed)
    if (sides[0] > 0).sum() < FEWEST_FOR_SIMILARITY:
        return np.full(len(base), np.nan)
    _, draws = draw(base, fine_tuned, np.concatenate([sides > 0, sides < 0]).astype(np.float64))
    apart = np.abs(draws[:_HALVINGS] - draws[_HALVINGS:])
    # A half in which it is not defined is as far from the other as can be.
    floor = np.quantile(np.where(np.isnan(apart), np.inf, apart), 0.95, axis=0, method="higher")
    return np.where(np.isinf(floor), np.nan, floor)
