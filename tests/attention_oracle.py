"""Every attention metric as slow float64 loops over full attention maps, written from the definitions alone."""

import math

import numpy as np


def gini(values):
    """Mean absolute difference of all pairs over twice the mean."""
    values = np.array(values)
    return np.abs(values[:, None] - values).mean() / (2 * values.mean())


def entropy(p):
    return -sum(x * math.log2(x) for x in p if x > 0)


def kl(p, q):
    return sum(x * math.log2(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def js(p, q):
    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def without_sink(p):
    rest = sum(p[1:])
    return [x / rest for x in p[1:]] if len(p) > 1 else None


def row(p, example, t, base=None, sink_free=False):
    """{metric: value} of one causal row p (T entries, of which t + 1 are used); absent where it is undefined."""
    keys, p, base = list(range(t + 1)), list(p[: t + 1]), None if base is None else list(base[: t + 1])
    first_share = p[0]
    if sink_free:
        keys, p, base = keys[1:], without_sink(p), None if base is None else without_sink(base)
        if p is None:
            return {}
    ids, n = example.input_ids, example.prompt_length
    out = {
        "entropy": entropy(p),
        "sparsity": gini(p),
        "previous_token_share": sum(x for j, x in zip(keys, p, strict=True) if j == t - 1),
        "article_share": sum(
            x for j, x in zip(keys, p, strict=True) if example.article_start <= j < example.article_stop
        ),
        "summary_share": sum(x for j, x in zip(keys, p, strict=True) if j >= n),
        "distance": sum(x * (t - j) for j, x in zip(keys, p, strict=True)),
    }
    if len(p) > 1:
        out["normalized_entropy"] = out["entropy"] / math.log2(len(p))
    article = ids[example.article_start : example.article_stop]
    if n - 1 <= t < len(ids) - 1 and ids[t + 1] in article:
        out["copy_score"] = sum(x for j, x in zip(keys, p, strict=True) if ids[j] == ids[t + 1])
    if base is not None:
        out["kl"], out["js"] = kl(p, base), js(p, base)
    if sink_free:
        return {f"{name}_no_sink": value for name, value in out.items()}
    return out | {"first_token_share": first_share}


def statistics(maps, example, queries, base_maps=None):
    """{metric: mean over the queries} for one head; maps: (T, T) rows of probabilities."""
    found = {}
    for t in queries:
        for sink_free in (False, True):
            base = None if base_maps is None else base_maps[t]
            for name, value in row(maps[t], example, t, base, sink_free).items():
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
