"""Attention statistics from queries and keys, in blocks of query rows: exact, and never a T x T matrix.

For query t the causal row p is the softmax of scaling * q_t . k_j over the keys j = 0..t. Each metric exists as
defined and without the attention sink (`_no_sink`: position 0 removed, the remaining keys renormalised). A block
computes the sink-free row a once; the row as defined follows exactly from it, because with r = 1 - p_0

    p_j = r a_j,   H(p) = h(p_0) + r H(a),   KL(p || p') = kl(p_0 || p'_0) + r KL(a || a')

(the chain rule; Cover & Thomas 2006, sections 2.2 and 2.5), with p_0 and r as sigmoids of a difference of
log-sum-exps. Nothing is subtracted from a nearly full sink, no probability is put into a logarithm, and a divergence
stays finite and exact where probabilities underflow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


class Metric(NamedTuple):
    unit: str
    has_no_sink: bool
    description: str
    two_models: bool = False


METRICS = {
    "entropy": Metric("bits", True, "entropy of the attention row"),
    "normalized_entropy": Metric("0..1", True, "entropy over its maximum, log2 of the row's entries"),
    "sparsity": Metric("0..1", True, "Gini coefficient of the row over its own causal entries"),
    "first_token_share": Metric("share", False, "mass on the first token (the attention sink)"),
    "previous_token_share": Metric("share", True, "mass on the token just before the query"),
    "article_share": Metric("share", True, "mass on the article's tokens"),
    "summary_share": Metric("share", True, "mass on the summary's tokens so far"),
    "distance": Metric("tokens", True, "mean distance from the query to what it attends to"),
    "copy_score": Metric("share", True, "mass on earlier occurrences of the target, where the article has the target"),
    "kl": Metric("bits", True, "KL divergence of the fine-tuned row from the base row", two_models=True),
    "js": Metric("bits", True, "Jensen-Shannon divergence of the fine-tuned and the base row", two_models=True),
}
POSITIONS = ("summary", "all")
_MASKED = -1e30  # finite, so that 0 * score is 0; exp gives exactly 0 beside any real score


def metric_names(two_models: bool) -> list[str]:
    """Every metric with its sink-free form, in the order of METRICS; divergences only where there are two models."""
    chosen = {name: metric for name, metric in METRICS.items() if two_models or not metric.two_models}
    return [form for name, m in chosen.items() for form in ([name, f"{name}_no_sink"] if m.has_no_sink else [name])]


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
    """Every metric of METRICS (`kl` and `js` only with `base`), averaged over each example's queries.

    Returns {"<metric>/<positions>": (B, H) float32 on the CPU}. Rows for which a metric is undefined are left out of
    its mean: row 0 of normalized_entropy (no maximum), row 0 without its sink, and rows with a single entry of
    normalized_entropy_no_sink. `copy_score` is defined at summary queries only, whichever the positions. A mean over
    no row at all is NaN. A share of an empty region is 0. Computed in float32 whatever the inputs' type; per-query
    values are averaged in float64. Memory grows with T.
    """
    collected = {f"{name}/{where}": [] for where in positions for name in metric_names(base is not None)}
    for index, tokens in enumerate(batch):
        rows = row_statistics(
            _own(model, index, tokens), tokens, base and _own(base, index, tokens), block_elements=block_elements
        )
        rows = {name: values.cpu().double() for name, values in rows.items()}
        for where in positions:
            for name, values in rows.items():
                collected[f"{name}/{where}"].append(values[:, tokens.queries(where)].nanmean(-1).float())
    return {key: torch.stack(values) for key, values in collected.items()}


def row_statistics(
    model: Projected, tokens: Tokens, base: Projected | None = None, *, block_elements: int | None = None
) -> dict[str, Tensor]:
    """The value of every metric for every query of one example: {metric: (H, T) float32, NaN where undefined}.

    model, base: query (H, T, d) and key (Hkv, T, d) of the example's own tokens, without padding.
    """
    heads, length, _ = model.query.shape
    key_heads, device = len(model.key), model.query.device
    if block_elements is None:
        block_elements = 2**18 if device.type == "cpu" else 2**24  # within the cache; enough to fill a GPU
    copies = _copied_targets(tokens)
    out = {n: torch.full((heads, length), math.nan, device=device) for n in metric_names(base is not None)}
    # A block takes as many key heads, with the query heads that read them, as leave it room for 64 rows.
    step = min(key_heads, max(1, block_elements // (64 * length * (heads // key_heads))))
    for first in range(0, key_heads, step):
        group = slice(first, first + step)
        own, other = _heads(model, group, device), base and _heads(base, group, device)
        chosen = slice(first * heads // key_heads, min(first + step, key_heads) * heads // key_heads)
        start = 0
        while start < length:
            room = block_elements / len(own.query)  # the block has rows * (start + rows) scores a head
            rows = int((start**2 + 4 * room) ** 0.5 - start) // 2
            stop = min(length, start + max(16, rows))
            block = _Block.of(own, start, stop)
            values = _one_model(block, tokens, copies)
            if other is not None:
                values |= _two_models(block, _Block.of(other, start, stop))
            values |= _sparsity(block)  # last: it sorts the block's weights in place
            for name, value in values.items():
                out[name][chosen, start:stop] = value
            start = stop
    for name, values in out.items():
        if name.endswith("_no_sink"):
            values[:, :1] = math.nan
    out["normalized_entropy"][:, :1] = math.nan
    out["normalized_entropy_no_sink"][:, :2] = math.nan
    return out


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

    scores, weights: (H, R, K), K = stop; scores less the largest of their row, and exp(scores), which is exactly 0
    above the diagonal and at the sink; total: (H, R), so that a = weights / total is the sink-free row;
    sink_scores: (H, R); log_sink, log_rest: (H, R), log p_0 and log(1 - p_0); sink, rest: p_0 and 1 - p_0.
    In row 0 nothing remains: its rest is 0, and its sink-free values are finite but without meaning.
    """

    t: Tensor
    scores: Tensor
    weights: Tensor
    total: Tensor
    sink_scores: Tensor
    log_sink: Tensor
    log_rest: Tensor

    @classmethod
    def of(cls, model: Projected, start: int, stop: int) -> "_Block":
        heads, key_heads = model.query.shape[0], model.key.shape[0]
        # Query heads that share a key head are stacked as rows, so grouped keys are never expanded.
        rows = (model.query[:, start:stop] * model.scaling).reshape(key_heads, -1, model.key.shape[-1])
        scores = (rows @ model.key[:, :stop].transpose(1, 2)).view(heads, stop - start, stop)
        sink_scores = scores[:, :, 0].clone()
        scores[:, :, 0] = _MASKED
        t = torch.arange(start, stop, device=scores.device)
        scores[:, :, start:].masked_fill_(t > t[:, None], _MASKED)
        peak = scores.amax(-1)
        weights = scores.sub_(peak[..., None]).exp()
        total = weights.sum(-1)
        sink_scores -= peak
        gap = (total.log() - sink_scores).masked_fill(t == 0, _MASKED)
        return cls(t, scores, weights, total, sink_scores, logsigmoid(-gap), logsigmoid(gap))

    @property
    def sink(self) -> Tensor:
        return self.log_sink.exp()

    @property
    def rest(self) -> Tensor:
        return self.log_rest.exp()


def _copied_targets(tokens: Tokens) -> dict[int, int]:
    """{query: target} for the summary queries whose target occurs in the article."""
    ids = tokens.ids.tolist()
    article = set(ids[tokens.article_start : tokens.article_stop])
    queries = tokens.queries("summary")
    return {t: ids[t + 1] for t in range(queries.start, queries.stop) if ids[t + 1] in article}


def _one_model(block: _Block, tokens: Tokens, copies: dict[int, int]) -> dict[str, Tensor]:
    """Entropies, shares and distance of a block's rows: {metric: (H, R)}."""
    t, sink, rest = block.t, block.sink, block.rest
    start, keys = int(t[0]), block.scores.shape[-1]
    out = {"first_token_share": sink}

    # H(a) = log total - mean score: in nats, about the largest score, so that large scores cost no precision.
    nats = block.total.log() - (block.scores * block.weights).sum(-1) / block.total
    entropy = -(sink * block.log_sink + rest * block.log_rest) + rest * nats
    out["entropy"] = entropy.clamp_min(0) / math.log(2)
    out["entropy_no_sink"] = nats.clamp_min(0) / math.log(2)
    out["normalized_entropy"] = out["entropy"] / torch.log2(t + 1)
    out["normalized_entropy_no_sink"] = out["entropy_no_sink"] / torch.log2(t)

    # Positions count from the block's first row, so that a short distance at a late query keeps its digits.
    position = torch.arange(-start, keys - start, device=t.device, dtype=torch.float32)
    distance = (t - start) - (block.weights @ position) / block.total
    out["distance"], out["distance_no_sink"] = sink * t + rest * distance, distance

    previous = (t - 1).clamp_min(0).expand(block.scores.shape[0], -1)[..., None]
    previous = block.weights.gather(-1, previous)[..., 0] / block.total
    article = block.weights[..., tokens.article_start : tokens.article_stop].sum(-1) / block.total
    summary = block.weights[..., tokens.prompt_length :].sum(-1) / block.total
    shares = {  # name: (sink-free share, whether the sink is in the region)
        "previous_token_share": (previous, t == 1),
        "article_share": (article, tokens.article_start == 0 < tokens.article_stop),
        "summary_share": (summary, tokens.prompt_length == 0),
    }
    for name, (share, has_sink) in shares.items():
        out[name], out[f"{name}_no_sink"] = sink * has_sink + rest * share, share

    copy, copy_no_sink = torch.full_like(sink, math.nan), torch.full_like(sink, math.nan)
    rows = [row for row in range(len(t)) if start + row in copies]
    if rows:
        targets = torch.tensor([copies[start + row] for row in rows], device=t.device)
        same = tokens.ids[:keys].to(t.device) == targets[:, None]
        share = (block.weights[:, rows] * same).sum(-1) / block.total[:, rows]
        copy[:, rows] = sink[:, rows] * same[:, 0] + rest[:, rows] * share
        copy_no_sink[:, rows] = share
    return out | {"copy_score": copy, "copy_score_no_sink": copy_no_sink}


def _two_models(block: _Block, base: _Block) -> dict[str, Tensor]:
    """KL(block || base) and Jensen-Shannon divergence of a block's rows: {metric: (H, R)}, in bits.

    With x = log(p / p'), log(p / m) = log 2 - softplus(-x) and log(p' / m) = log 2 - softplus(x) for m = (p + p') / 2.
    """
    a, b = block.weights / block.total[..., None], base.weights / base.total[..., None]
    shift = block.total.log() - base.total.log()
    ratio = (block.scores - base.scores).sub_(shift[..., None])  # log(a / a')
    sink_ratio, rest_ratio = block.log_sink - base.log_sink, block.log_rest - base.log_rest
    rest = block.rest

    kl_no_sink = (a * ratio).sum(-1).clamp_min(0)
    kl = block.sink * sink_ratio + rest * (rest_ratio + kl_no_sink)

    def js(p: Tensor, q: Tensor, x: Tensor) -> Tensor:
        return (p * (math.log(2) - softplus(-x)) + q * (math.log(2) - softplus(x))) / 2

    js_no_sink = js(a, b, ratio).sum(-1)
    a, b = a.mul_(rest[..., None]), b.mul_(base.rest[..., None])
    js_whole = js(block.sink, base.sink, sink_ratio) + js(a, b, ratio.add_(rest_ratio[..., None])).sum(-1)
    nats = {"kl": kl, "kl_no_sink": kl_no_sink, "js": js_whole, "js_no_sink": js_no_sink}
    return {name: value.clamp_min(0) / math.log(2) for name, value in nats.items()}


def _sparsity(block: _Block) -> dict[str, Tensor]:
    """Gini coefficients of a block's rows: (n - 1 - 2 sum_j d_j p_j) / n, d_j = the number of entries larger than p_j.

    This is 2 sum_i i p_(i) / n - (n + 1) / n for ascending p_(i) (Hurley & Rickard 2009, table I) with ranks counted
    from the largest entry; zeros above the diagonal rank last and add nothing. The sink is inserted afterwards: every
    smaller entry moves one rank down. Sorts `block.weights` in place.
    """
    ordered = _sort(block.weights)
    below = ordered.cumsum(-1)  # its sum over all but the last is sum_j d_j weights_j: each counts once a larger entry
    mean_rank = below[..., :-1].sum(-1) / block.total
    place = torch.searchsorted(ordered, block.sink_scores.exp()[..., None], right=True)
    smaller = below.gather(-1, (place - 1).clamp_min(0)) * (place > 0) / below[..., -1:]
    larger = ordered.shape[-1] - place
    whole = block.rest * (mean_rank + smaller[..., 0]) + block.sink * larger[..., 0]
    t = block.t
    gini = {"sparsity": (t - 2 * whole) / (t + 1), "sparsity_no_sink": (t - 1 - 2 * mean_rank) / t}
    return {name: value.clamp_min(0) for name, value in gini.items()}  # rounding can leave -1e-8


def _sort(values: Tensor) -> Tensor:
    """Ascending along the last axis, in place where NumPy's sort (vectorised, several times faster) can be used."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    values.numpy().sort(axis=-1)
    return values
