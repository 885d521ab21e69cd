"""Numbers about effects: shares of a gain, agreement of two rankings, and what rises above noise. NumPy, float64.

A probe articles are on axis 0; intervals are percentile bootstraps over them, of the whole statistic.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval); Benjamini &
Hochberg (1995), "Controlling the false discovery rate" (through SciPy).
"""

import numpy as np
from scipy.stats import false_discovery_control, rankdata, spearmanr

from summlens.metrics.representation import bootstrap_counts

_CHUNK = 1 << 22  # numbers held at a time in a bootstrap (32 MiB as float64)


def share(effects, gain, resamples=1000, confidence=0.95, seed=0):
    """(share, low, high), each (...): the mean of `effects` (A, ...) over the mean of `gain` (A,).

    A ratio of means, not a mean of ratios: an article whose own gain is near zero has no say beyond its size. The
    articles are resampled for numerator and denominator together. NaN where the mean gain is zero.
    """
    effects, gain = np.asarray(effects, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    shape = effects.shape[1:]
    columns = effects.reshape(len(effects), -1)
    counts = bootstrap_counts(len(gain), resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = columns.mean(axis=0) / gain.mean()
        draws = (counts @ columns) / (counts @ gain)[:, None]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return tuple(np.reshape(array, shape)[()] for array in (value, low, high))


def rank_correlation(x, y, resamples=1000, confidence=0.95, seed=0):
    """(rho, low, high): Spearman correlation over K parts, such as heads, of what two measurements say about them.

    Args:
        x, y: (A, K) a value for each article, of which the mean is ranked, or (K,) where there is one value a part.

    Ties have their mean rank. The parts are given, the articles are resampled; the same draws serve x and y. Parts
    that are NaN in either are left out. NaN where fewer than three parts are left or either side is constant.
    """
    x, y = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (x, y))
    known = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
    x, y = x[:, known], y[:, known]
    if x.shape[1] < 3:
        return (np.nan,) * 3
    articles = max(len(x), len(y))
    value = _spearman(x.mean(axis=0, keepdims=True), y.mean(axis=0, keepdims=True))[0]
    if articles == 1:
        return value, np.nan, np.nan
    counts = bootstrap_counts(articles, resamples, seed)
    means = [counts @ side / articles if len(side) > 1 else np.repeat(side, resamples, axis=0) for side in (x, y)]
    draws = _spearman(*means)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return value, np.nan, np.nan
    return value, *np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])


def rank_p_value(x, y):
    """Two-sided p-value of `rank_correlation`'s rho, were any of the K parts' pairings as likely as the one there is.

    Student's t approximation of scipy.stats.spearmanr: it says what so few parts do by chance, which the interval over
    articles does not. NaN where rho is.
    """
    x, y = (np.atleast_2d(np.asarray(values, dtype=np.float64)).mean(axis=0) for values in (x, y))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(spearmanr(x, y).pvalue)


def _spearman(x, y):
    """(R,) correlation of the ranks in each row of x and y (R, K); NaN for a constant row."""
    ranks = [rankdata(side, axis=1) for side in (x, y)]
    a, b = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    size = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)


def halvings(articles, count, seed=0):
    """(count, A): 1 for the articles of one half, -1 for those of the other, at random; with an odd A one 0 a row."""
    half = articles // 2
    sides = np.array([1.0] * half + [-1.0] * half + [0.0] * (articles % 2))
    return np.random.default_rng(seed).permuted(np.tile(sides, (count, 1)), axis=1)


def halves(values, count=1000, confidence=0.95, seed=0):
    """(...): how far the means over two disjoint random halves of the articles differ, at most, in 95 % of halvings.

    `values` (A, ...) of one model: nothing but the articles differs between the halves. With an odd A one article is
    left out of each halving. NaN where a value is NaN or there are fewer than four articles.
    """
    values = np.asarray(values, dtype=np.float64)
    articles, shape = len(values), values.shape[1:]
    if articles < 4:
        return np.full(shape, np.nan)[()]
    values = values.reshape(articles, -1)
    signs = halvings(articles, count, seed) / (articles // 2)
    floor = np.empty(values.shape[1])
    width = max(1, _CHUNK // count)
    for start in range(0, values.shape[1], width):
        columns = slice(start, start + width)
        floor[columns] = np.quantile(np.abs(signs @ values[:, columns]), confidence, axis=0)
    return floor.reshape(shape)[()]


def discoveries(p_values, level=0.05):
    """(...) bool: which of many tests to believe when a share of at most `level` of those named may be false.

    Benjamini-Hochberg over every p-value given; NaN is no test and never a discovery.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    known = np.isfinite(p_values)
    found = np.zeros(p_values.shape, dtype=bool)
    if known.any():
        found[known] = false_discovery_control(p_values[known]) <= level
    return found
