"""The smallest set of heads whose restoration recovers most of the fine-tuning gain, and what to compare it with.

Restoration: base runs with those heads' outputs taken from fine-tuned (denoising). The goal is TARGET of the gain, or,
where all heads together recover less than that, TARGET of what they recover. The set is sought on one half of the probe
articles and measured on the other, so that its share is not inflated by the search.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from summlens.analysis.causal.effects import chunks
from summlens.data.tokens import Example
from summlens.model.editing import Edit, Subject
from summlens.model.observing import evaluating
from summlens.stats.intervals import share

TARGET = 0.8
LOOKS = 4  # the fewest candidates measured anew at each step of the greedy search
RANDOM_SETS = 50
Head = tuple[int, int]


@torch.no_grad()
def find(
    base: nn.Module,
    fine_tuned: nn.Module,
    examples: Sequence[Example],
    gain: np.ndarray,
    single: np.ndarray,
    rankings: Mapping[str, np.ndarray],
    seed: int,
    resamples: int,
) -> dict | str:
    """The circuit as causal.json holds it, or the reason why there is none.

    Args:
        gain: (A,) loss of base - loss of fine-tuned.
        single: (A, L, H) gain recovered by restoring one head alone.
        rankings: name -> (L, H), larger = sooner: what a cheaper metric would choose.
    """
    with evaluating(base, fine_tuned):
        search = _Half(base, fine_tuned, examples, range(0, len(examples), 2))
        heads = [(layer, head) for layer in range(single.shape[1]) for head in range(single.shape[2])]
        everything, searched_gain = search.recovered(heads).mean(), gain[search.articles].mean()
        if not (everything > 0 and searched_gain > 0):
            return f"restoring all heads of fine-tuned in base recovers nothing ({everything:.3f} nats a token)"
        of_gain = everything >= TARGET * searched_gain
        known = {head: single[search.articles, head[0], head[1]].mean() for head in heads}
        chosen, reached = _greedy(search, known, TARGET * (searched_gain if of_gain else everything))
        del search
        held_out = _Half(base, fine_tuned, examples, range(1, len(examples), 2))
        held_out_gain = gain[held_out.articles]
        everything = held_out.recovered(heads)
        if not (everything.mean() > 0 and held_out_gain.mean() > 0):
            return "restoring all heads recovers nothing on the articles held out from the search"

        def measured(recovered: np.ndarray) -> dict:
            value, low, high = share(recovered, held_out_gain, resamples, seed=seed)
            return {"share": value, "low": low, "high": high}

        circuit = {
            "definition": f"smallest set found greedily whose restoration from fine-tuned recovers {TARGET:.0%} of "
            f"{'the gain' if of_gain else 'what all heads recover, for those recover less of the gain'}; shares are "
            "of the gain, on the articles held out from the search",
            "interval": "percentile bootstrap of the ratio of means over the held-out articles",
            "target": TARGET,
            "target_of": "gain" if of_gain else "all_heads",
            "heads": chosen,
            "size": len(chosen),
            "of": len(heads),
            "curve": [value / searched_gain for value in reached],
            "articles": {"search": (len(examples) + 1) // 2, "held_out": len(held_out.articles)},
            "all_heads": measured(everything),
            "greedy": measured(held_out.recovered(chosen)),
            "by_metric": {},
        }
        if len(chosen) < len(heads):
            generator = np.random.default_rng(seed)
            shares = [
                held_out.recovered([heads[i] for i in generator.permutation(len(heads))[: len(chosen)]]).mean()
                / held_out_gain.mean()
                for _ in range(RANDOM_SETS)
            ]

            def against_random(found: dict) -> float:
                return (sum(value >= found["share"] for value in shares) + 1) / (RANDOM_SETS + 1)

            for name, values in rankings.items():
                order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")[: len(chosen)]
                members = [heads[index] for index in order]
                found = measured(held_out.recovered(members))
                in_common = len(set(members) & set(chosen))
                circuit["by_metric"][name] = {**found, "in_common": in_common, "p_value": against_random(found)}
            circuit["random"] = {"shares": sorted(shares), "p_value": against_random(circuit["greedy"])}
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


def _greedy(search: _Half, known: dict[Head, float], goal: float) -> tuple[list[Head], list[float]]:
    """Heads in the order of their choice, and what they recover after each, nats a token of the searched articles.

    Lazy evaluation (Minoux 1978): a step measures anew the heads whose last `known` increments were largest, LOOKS or
    more of them, until none of the others was ever worth as much as the best of these. That is the choice of a search
    that measures every head at every step wherever a head is never worth more for the others' being there.
    """
    chosen: list[Head] = []
    curve: list[float] = []
    reached = 0.0
    while reached < goal and known:
        order = sorted(known, key=known.get, reverse=True)
        fresh = {} if chosen else {order[0]: known[order[0]]}  # the first increments are known already
        for head in order if chosen else ():
            if len(fresh) >= LOOKS and known[head] <= max(fresh.values()):
                break
            fresh[head] = search.recovered([*chosen, head]).mean() - reached
        known |= fresh
        best = max(fresh, key=fresh.get)
        reached += known.pop(best)
        chosen.append(best)
        curve.append(reached)
    return chosen, curve
