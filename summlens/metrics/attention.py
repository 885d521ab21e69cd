"""Attention statistics from queries and keys, in blocks of query rows: exact, and never a T x T matrix.

For query t the causal row p is the softmax of scaling * q_t . k_j over the keys j = 0..t. Each metric exists as
defined and without the attention sink (`_no_sink`: position 0 removed, the remaining keys renormalised). A block
computes the sink-free row a once; the row as defined follows exactly from it, because with r = 1 - p_0

    p_j = r a_j,   H(p) = h(p_0) + r H(a),   KL(p || p') = kl(p_0 || p'_0) + r KL(a || a')

(the chain rule; Cover & Thomas 2006, sections 2.2 and 2.5), with p_0 and r as sigmoids of a difference of
log-sum-exps. Nothing is subtracted from a nearly full sink, no probability is put into a logarithm, and a divergence
stays finite and exact where probabilities underflow. Scores are held in bits (times log2 e), so that 2^score is the
weight and every logarithm is already in the unit of the metrics.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import logsigmoid, pad

from summlens.names import POSITIONS, attention_forms

_LN2 = math.log(2)
_MASKED = -1e30  # finite, so that 0 * score is 0; exp gives exactly 0 beside any real score


@dataclass(frozen=True)
class Tokens:
    """One example within a padded batch. Only `start` counts padding; everything else counts the example's own tokens.

    ids: (T,) token ids. The article is ids[article_start:article_stop]; the summary begins at index prompt_length, so
    the `summary` queries are prompt_length - 1 .. T - 2, and query t predicts ids[t + 1].
    """

    ids: Tensor
    article_start: int
    article_stop: int
    prompt_length: int
    start: int = 0

    @property
    def real(self) -> slice:
        """The example's own positions in the padded batch."""
        return slice(self.start, self.start + len(self.ids))

    def queries(self, positions: str) -> slice:
        """The query positions `summary` or `all`, counted from the example's first token."""
        return slice(self.prompt_length - 1, len(self.ids) - 1) if positions == "summary" else slice(0, len(self.ids))


class Projected(NamedTuple):
    """What one model brings to attention: query (B, H, T, d) and key (B, Hkv, T, d), after any rotation; scaling.

    Query head h reads key head h // (H / Hkv).
    """

    query: Tensor
    key: Tensor
    scaling: float


def attention_statistics(
    model: Projected,
    batch: Sequence[Tokens],
    base: Projected | None = None,
    *,
    positions: Sequence[str] = POSITIONS,
    block_elements: int | None = None,
) -> dict[str, Tensor]:
    """Every attention metric of `summlens.names` (divergences only with `base`), averaged over each example's queries.

    Returns {"<metric>/<positions>": (B, H) float32 on the CPU}. Rows for which a metric is undefined are left out of
    its mean: row 0 of normalized_entropy (no maximum), row 0 without its sink, and rows with a single entry of
    normalized_entropy_no_sink. `copy_score` is defined at summary queries only, whichever the positions. A mean over
    no row at all is NaN. A share of an empty region is 0. Computed in float32 whatever the inputs' type; per-query
    values are averaged in float64. Memory grows with T.
    """
    names = attention_forms(base is not None)
    means = []  # of an example: (positions, metrics, H)
    for index, tokens in enumerate(batch):
        rows = row_statistics(
            _own(model, index, tokens),
            tokens,
            base and _own(base, index, tokens),
            queries=tokens.queries("all" if "all" in positions else "summary"),
            block_elements=block_elements,
        )
        values = torch.stack([rows[name] for name in names]).cpu()  # one transfer an example
        means.append(
            torch.stack([values[..., tokens.queries(where)].nanmean(-1, dtype=torch.float64) for where in positions])
        )
    by_key = torch.stack(means, dim=2).float()
    return {f"{name}/{where}": by_key[p, m] for p, where in enumerate(positions) for m, name in enumerate(names)}


def row_statistics(
    model: Projected,
    tokens: Tokens,
    base: Projected | None = None,
    *,
    queries: slice | None = None,
    block_elements: int | None = None,
) -> dict[str, Tensor]:
    """The value of every metric for every query of one example: {metric: (H, T) float32, NaN where undefined}.

    model, base: query (H, T, d) and key (Hkv, T, d) of the example's own tokens, without padding. With `queries` only
    those are computed, and the others are NaN. `block_elements`: about how many scores of one model a block holds.

    On the CPU a block is the work of one thread, of as many as torch has: its operations are too short to be shared.
    """
    heads, length, _ = model.query.shape
    key_heads, device = len(model.key), model.query.device
    if block_elements is None:
        block_elements = 2**19 if device.type == "cpu" else 2**24  # about the cache; enough to fill a GPU
    most_rows = max(16, block_elements // 2**13)  # of a block: few, as its scores above the diagonal are thrown away
    ids, targets = tokens.ids.to(device), _copied_targets(tokens).to(device)
    queries = queries or slice(0, length)
    groups = []  # of key heads: {name: (H of the group, queries)}
    # A block takes as many key heads, with the query heads that read them, as leave it room for 32 rows.
    step = min(key_heads, max(1, block_elements // (32 * length * (heads // key_heads))))
    block_heads = step * heads // key_heads
    largest = min(block_heads * length**2, max(block_elements, block_heads * length * 16))
    for first in range(0, key_heads, step):
        group = slice(first, first + step)
        own, other = _heads(model, group, device), base and _heads(base, group, device)

        def work(spans: Iterator[slice], own=own, other=other) -> dict[int, dict[str, Tensor]]:
            scratch = torch.empty(2, 1 if other is None else 2, largest, device=device)
            done = {}
            for span in spans:
                block = _Block.of(own, span, scratch[:, 0])
                values = {} if other is None else _two_models(block, _Block.of(other, span, scratch[:, 1]))
                done[span.start] = values | _sums(block, tokens, ids, targets)
            return done

        blocks = _shared(work, _spans(queries, block_elements / len(own.query), most_rows), device)
        groups.append({name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]})
    outside = (queries.start, length - queries.stop)
    sums = {name: pad(torch.cat([group[name] for group in groups]), outside, value=math.nan) for name in groups[0]}
    out = _one_model(sums, tokens, targets) | {name: sums[name] for name in attention_forms(True) if name in sums}
    for name, values in out.items():
        if name.endswith("_no_sink"):
            values[:, :1] = math.nan
    out["normalized_entropy"][:, :1] = math.nan
    out["normalized_entropy_no_sink"][:, :2] = math.nan
    return out


def _spans(queries: slice, room: float, most_rows: int) -> Iterator[slice]:
    """The queries in blocks of rows whose scores, rows * stop a head, are about `room`: 16 rows at least."""
    start = queries.start
    while start < queries.stop:
        rows = int((start**2 + 4 * room) ** 0.5 - start) // 2
        stop = min(queries.stop, start + min(max(16, rows), most_rows))
        yield slice(start, stop)
        start = stop


def _shared(work: Callable[[Iterator], dict], tasks: Iterator, device: torch.device) -> list:
    """What `work` makes of the tasks, in the order of its keys: on the CPU by as many threads as torch has."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        done = work(tasks)
    else:
        tasks = iter(list(tasks))  # each thread takes the next: of a list, unlike a generator, any thread may
        torch.set_num_threads(1)  # of an operation; the new threads follow it
        try:
            with ThreadPoolExecutor(threads) as pool:
                parts = [pool.submit(torch.no_grad()(work), tasks) for _ in range(threads)]
                done = {key: value for part in parts for key, value in part.result().items()}
        finally:
            torch.set_num_threads(threads)
    return [done[key] for key in sorted(done)]


def _heads(projected: Projected, group: slice, device: torch.device) -> Projected:
    """The key heads of a group, in float32, and the query heads that read them."""
    query, key, scaling = projected
    return Projected(
        query.unflatten(0, (len(key), -1))[group].flatten(0, 1).to(device).float(),
        key[group].to(device).float(),
        scaling,
    )


def _own(projected: Projected, index: int, tokens: Tokens) -> Projected:
    """One example's queries and keys without its padding."""
    return Projected(projected.query[index, :, tokens.real], projected.key[index, :, tokens.real], projected.scaling)


@dataclass
class _Block:
    """Query rows t = start..stop-1 of one model against the keys 0..stop-1, the sink (key 0) taken out.

    scores, weights: (H, R, K), K = stop; scores in bits less the largest of their row, and 2^scores, which is exactly
    0 above the diagonal and at the sink; total: (H, R), so that a = weights / total is the sink-free row;
    sink_scores: (H, R), less the same. In row 0 nothing remains, and its sink-free values are finite but without
    meaning.
    """

    t: Tensor
    start: int
    scores: Tensor
    weights: Tensor
    total: Tensor
    sink_scores: Tensor

    @classmethod
    def of(cls, model: Projected, span: slice, scratch: Tensor) -> "_Block":
        """scratch: (2, n >= H * R * K), which holds scores and weights: memory fresh from the system is slow."""
        heads, key_heads = model.query.shape[0], model.key.shape[0]
        start, stop = span.start, span.stop
        # Query heads that share a key head are stacked as rows, so grouped keys are never expanded.
        rows = (model.query[:, start:stop] * (model.scaling / _LN2)).reshape(key_heads, -1, model.key.shape[-1])
        shape = (heads, stop - start, stop)
        scores, weights = scratch[:, : math.prod(shape)].unflatten(1, shape)
        torch.bmm(rows, model.key[:, :stop].transpose(1, 2), out=scores.view(key_heads, -1, stop))
        sink_scores = scores[:, :, 0].clone()
        scores[:, :, 0] = _MASKED
        t = torch.arange(start, stop, device=scores.device)
        scores[:, :, start:].add_(torch.full((len(t), len(t)), _MASKED, device=t.device).triu_(1))
        peak = scores.amax(-1)
        torch.exp2(scores.sub_(peak[..., None]), out=weights)
        return cls(t, start, scores, weights, weights.sum(-1), sink_scores - peak)


def _split(total: Tensor, sink_scores: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """log2 p_0 and log2(1 - p_0) of rows, from their sink-free total and their sink's score; row 0 is all sink."""
    gap = _LN2 * (total.log2() - sink_scores).masked_fill(t == 0, _MASKED)
    return logsigmoid(-gap) / _LN2, logsigmoid(gap) / _LN2


def _copied_targets(tokens: Tokens) -> Tensor:
    """(T,) the target of each summary query whose target occurs in the article; -1 at every other position."""
    article, queries = tokens.ids[tokens.article_start : tokens.article_stop], tokens.queries("summary")
    copied = torch.full_like(tokens.ids, -1)
    following = tokens.ids[queries.start + 1 : queries.stop + 1]
    copied[queries] = following.where(torch.isin(following, article), -1)
    return copied


def _sums(block: _Block, tokens: Tokens, ids: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What `_one_model` needs of a block's rows: {name: (H, R)}, sums over the keys of weights times something.

    `rank` is sum_i sum_j>i min(w_i, w_j) = sum_j d_j w_j, d_j the number of entries larger than w_j (zeros rank last
    and add nothing); `beside_sink` is sum_j min(w_0, w_j) for the sink's weight w_0. Uses up the block's
    scores and weights.
    """
    t, start, scores, weights = block.t, block.start, block.scores, block.weights
    keys = weights.shape[-1]
    key = torch.arange(keys, device=t.device, dtype=torch.float32)
    copied = torch.zeros_like(block.total)
    first = max(start, tokens.prompt_length - 1) - start
    if first < len(t):
        same = ids[:keys] == targets[start + first : start + len(t), None]
        copied[:, first:] = (weights[:, first:] * same).sum(-1)
    return {
        "total": block.total,
        "sink_scores": block.sink_scores,
        "scores": scores.mul_(weights).sum(-1),
        # Positions count from the block's first row, so that a short distance at a late query keeps its digits.
        "distances": (t - start) * block.total - weights @ (key - start),
        "previous": weights.gather(-1, (t - 1).clamp_min(0).expand(len(weights), -1)[..., None])[..., 0],
        "article": weights[..., tokens.article_start : tokens.article_stop].sum(-1),
        "summary": weights[..., tokens.prompt_length :].sum(-1),
        "copied": copied,
        "beside_sink": torch.minimum(weights, block.sink_scores.exp2()[..., None], out=scores).sum(-1),
        "rank": _sort(weights) @ (keys - 1 - key),
    }


def _one_model(sums: dict[str, Tensor], tokens: Tokens, targets: Tensor) -> dict[str, Tensor]:
    """Entropies, sparsity, shares and distance of all rows from their sums over keys: {metric: (H, T)}."""
    total = sums["total"]
    t = torch.arange(total.shape[-1], device=total.device)
    log_sink, log_rest = _split(total, sums["sink_scores"], t)
    sink, rest = log_sink.exp2(), log_rest.exp2()
    out = {"first_token_share": sink}

    # H(a) = log total - mean score: about the largest score, so that large scores cost no precision.
    entropy = total.log2() - sums["scores"] / total
    out["entropy"] = (rest * entropy - sink * log_sink - rest * log_rest).clamp_min(0)
    out["entropy_no_sink"] = entropy.clamp_min(0)
    out["normalized_entropy"] = out["entropy"] / torch.log2(t + 1)
    out["normalized_entropy_no_sink"] = out["entropy_no_sink"] / torch.log2(t)

    # Gini = (n - 1 - 2 sum_i sum_j>i min(p_i, p_j)) / n: 2 sum_i i p_(i) / n - (n + 1) / n for ascending p_(i)
    # (Hurley & Rickard 2009, table I) with ranks counted from the largest entry. The sink is one more entry.
    rank = sums["rank"] / total
    out["sparsity"] = ((t - 2 * rest * (rank + sums["beside_sink"] / total)) / (t + 1)).clamp_min(0)
    out["sparsity_no_sink"] = ((t - 1 - 2 * rank) / t).clamp_min(0)

    is_copied = targets >= 0
    sink_is_in = {
        "previous": t == 1,
        "article": tokens.article_start == 0 < tokens.article_stop,
        "summary": tokens.prompt_length == 0,
        "copied": tokens.ids[0].to(targets.device) == targets,
        "distances": t,
    }
    names = {"previous": "previous_token_share", "copied": "copy_score", "distances": "distance"}
    for region, of_sink in sink_is_in.items():
        name, share = names.get(region, f"{region}_share"), (sums[region] / total).clamp_min(0)
        out[name], out[f"{name}_no_sink"] = sink * of_sink + rest * share, share
    for name in ("copy_score", "copy_score_no_sink"):
        out[name] = out[name].masked_fill(~is_copied, math.nan)
    return out


def _two_models(block: _Block, base: _Block) -> dict[str, Tensor]:
    """KL(block || base) and Jensen-Shannon divergence of a block's rows: {metric: (H, R)}, in bits. Uses up the base's
    scores and weights."""
    a, b = block.weights / block.total[..., None], base.weights.div_(base.total[..., None])
    shift = block.total.log2() - base.total.log2()
    ratio = torch.sub(block.scores, base.scores, out=base.scores).sub_(shift[..., None])  # log2(a / a')
    (log_sink, log_rest), (base_log_sink, base_log_rest) = (
        _split(one.total, one.sink_scores, one.t) for one in (block, base)
    )
    sink, rest = log_sink.exp2(), log_rest.exp2()
    sink_ratio, rest_ratio = log_sink - base_log_sink, log_rest - base_log_rest

    kl_no_sink = vecdot(a, ratio).clamp_min(0)
    kl = sink * sink_ratio + rest * (rest_ratio + kl_no_sink)
    js_no_sink = _jensen_shannon(a, b, ratio).sum(-1)
    a, b = a.mul_(rest[..., None]), b.mul_(base_log_rest.exp2()[..., None])
    js = _jensen_shannon(a, b, ratio.add_(rest_ratio[..., None])).sum(-1)
    js += _jensen_shannon(sink, base_log_sink.exp2(), sink_ratio)
    divergences = {"kl": kl, "kl_no_sink": kl_no_sink, "js": js, "js_no_sink": js_no_sink}
    return {name: value.clamp_min(0) for name, value in divergences.items()}


def _jensen_shannon(p: Tensor, q: Tensor, ratio: Tensor) -> Tensor:
    """What each entry adds to the Jensen-Shannon divergence, in bits; ratio: log2(p / q).

    With m = (p + q) / 2 and e = log2(1 + 2^-|ratio|), the larger of p and q is 2^(1 - e) m and the smaller 2^-|ratio|
    of it, so p log2(p / m) + q log2(q / m) = (p + q) (1 - e) - min(p, q) |ratio|: no ratio of underflowed numbers.
    """
    distance = ratio.abs()
    surprise = distance.neg().exp2_().add_(1).log2_().neg_().add_(1).mul_(p + q)
    return surprise.sub_(distance.mul_(torch.minimum(p, q))).div_(2)


def _sort(values: Tensor) -> Tensor:
    """Ascending along the last axis; values: (..., K), contiguous and not negative. Uses up `values`.

    On the CPU by NumPy, whose sort is vectorised, in place, as integers: positive floats are in the order of their
    bits, and integers need no search for NaN.
    """
    if values.device.type != "cpu":
        return values.sort(-1).values
    values.numpy().view(np.int32).sort(axis=-1)
    return values
