"""The smallest set of heads whose restoration recovers most of what all heads recover, and what to compare it with.

Restoration: base runs with those heads' outputs taken from fine-tuned (denoising). The set is sought on one half of the
probe articles and measured on the other, so that its share is not inflated by the search.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from summlens.architecture import evaluating
from summlens.causal_effects import chunks
from summlens.causal_forward import Edit, Subject
from summlens.data import Example
from summlens.metrics.effects import share

TARGET = 0.8  # of what restoring all heads recovers
LOOKS = 4  # candidates measured anew at each step of the greedy search
RANDOM_SETS = 20
Head = tuple[int, int]


@torch.no_grad()
def find(
    base: nn.Module,
    fine_tuned: nn.Module,
    examples: Sequence[Example],
    single: np.ndarray,
    rankings: Mapping[str, np.ndarray],
    seed: int,
    resamples: int,
) -> dict | str:
    """The circuit as causal.json holds it, or the reason why there is none.

    Args:
        single: (A, L, H) gain recovered by restoring one head alone.
        rankings: name -> (L, H), larger = sooner: what a cheaper metric would choose.

    The search is greedy with lazy evaluation (Minoux 1978): each step measures anew the LOOKS heads whose last known
    increments were largest and takes the best of them. Exact greedy where restored heads have diminishing returns.
    """
    with evaluating(base, fine_tuned):
        search = _Half(base, fine_tuned, examples, range(0, len(examples), 2))
        heads = [(layer, head) for layer in range(single.shape[1]) for head in range(single.shape[2])]
        everything = search.recovered(heads).mean()
        if not everything > 0:
            return f"restoring all heads of fine-tuned in base recovers nothing ({everything:.3f} nats a token)"
        known = {head: single[search.articles, head[0], head[1]].mean() for head in heads}
        chosen, curve = _greedy(search, known, everything)
        del search
        held_out = _Half(base, fine_tuned, examples, range(1, len(examples), 2))
        everything = held_out.recovered(heads)
        if not everything.mean() > 0:
            return "restoring all heads recovers nothing on the articles held out from the search"

        def measured(members: Sequence[Head]) -> dict:
            value, low, high = share(held_out.recovered(members), everything, resamples, seed=seed)
            return {"share": value, "low": low, "high": high}

        circuit = {
            "definition": f"smallest set found greedily whose restoration from fine-tuned recovers {TARGET:.0%} of "
            "what restoring all heads recovers; shares are of the latter, on the articles held out from the search",
            "interval": "percentile bootstrap of the ratio of means over the held-out articles",
            "target": TARGET,
            "heads": chosen,
            "size": len(chosen),
            "of": len(heads),
            "curve": curve,
            "articles": {"search": (len(examples) + 1) // 2, "held_out": len(held_out.articles)},
            "all_heads": float(everything.mean()),
            "greedy": measured(chosen),
            "by_metric": {},
        }
        if len(chosen) < len(heads):
            for name, values in rankings.items():
                order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")[: len(chosen)]
                members = [heads[index] for index in order]
                circuit["by_metric"][name] = {**measured(members), "in_common": len(set(members) & set(chosen))}
            generator = np.random.default_rng(seed)
            shares = [
                held_out.recovered([heads[i] for i in generator.permutation(len(heads))[: len(chosen)]]).mean()
                / everything.mean()
                for _ in range(RANDOM_SETS)
            ]
            as_good = sum(value >= circuit["greedy"]["share"] for value in shares)
            circuit["random"] = {"shares": sorted(shares), "p_value": (as_good + 1) / (RANDOM_SETS + 1)}
        return circuit


class _Half:
    """Half of the probe articles with both models' passes over them, kept for many sets of heads."""

    def __init__(self, base: nn.Module, fine_tuned: nn.Module, examples: Sequence[Example], indices):
        self.base, self.fine_tuned = Subject(base), Subject(fine_tuned)
        self.articles = list(indices)
        self._passes = []
        for batch in chunks(self.base, examples, self.articles):
            own, other = self.base.record(batch), self.fine_tuned.record(batch).heads
            self._passes.append((batch, own, other, self.base.loss(batch, own)))

    def recovered(self, heads: Sequence[Head]) -> np.ndarray:
        """(articles of this half,) fall of base's loss with these heads restored, nats a token."""
        falls = np.empty(len(self.articles))
        place = {article: row for row, article in enumerate(self.articles)}
        for batch, own, other, loss in self._passes:
            edits = [Edit("head", i, self.fine_tuned.contribution(other[i], i, h), h) for i, h in heads]
            fall = loss - self.base.loss(batch, own, edits)
            falls[[place[index] for index in batch.indices]] = fall.cpu().numpy()
        return falls


def _greedy(search: _Half, known: dict[Head, float], everything: float) -> tuple[list[Head], list[float]]:
    """Heads in the order of their choice, and the share recovered after each, on the searched articles."""
    chosen: list[Head] = []
    curve: list[float] = []
    reached = 0.0
    while reached < TARGET * everything and known:
        candidates = sorted(known, key=known.get, reverse=True)[:LOOKS]
        if chosen:  # the first increments are known already
            known |= {head: search.recovered([*chosen, head]).mean() - reached for head in candidates}
        best = max(candidates, key=known.get)
        reached += known.pop(best)
        chosen.append(best)
        curve.append(reached / everything)
    return chosen, curve
