"""Uncertainty over articles: bootstrap intervals of means, differences, shares and rank correlations; effect sizes.

Everything here resamples *articles*, so an interval says how a number would vary with other articles of the same kind.
It does not cover the variance between training seeds. Seeded, so that a figure made twice is the same.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3 (percentile interval); Koehn (2004),
"Statistical Significance Tests for Machine Translation Evaluation" (paired bootstrap); Cohen (1988) and Lakens (2013),
eq. 7 (effect size d_z).
"""

import math

import numpy as np
from scipy.stats import rankdata

from summlens.stats.columns import chunks, divide, paired_differences

RESAMPLES = 1000  # of every interval but those of the scores, which --resamples sets
_KEPT = 1 << 24  # resampled means held at a time, before their percentiles are taken (128 MiB)


def bootstrap_interval(values, resamples=10_000, confidence=0.95, seed=0, axis=0):
    """Percentile bootstrap interval of the mean over the articles.

    Args:
        values: array with the A articles along `axis` and any further axes. NaN marks an article that has no value in
            a column; it is left out of that column's mean, in the resamples too.
        resamples: how many times A articles are drawn with replacement. All columns see the same draws.
        confidence: share of the resampled means between `low` and `high`.

    Returns:
        (mean, low, high), each of the shape of `values` without `axis`, in the unit of `values`; NaN for a column
        without any value.
    """
    values = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 0)
    shape = values.shape[1:]
    values = values.reshape(len(values), math.prod(shape))
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    mean = divide(np.where(present, values, 0.0).sum(axis=0), count)
    # Centred values make the interval of a constant column exact, whatever its size.
    centred = np.where(present, values - mean, 0.0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    interval = np.full((2, values.shape[1]), np.nan)
    columns_at_a_time = max(1, _KEPT // resamples)
    for start in range(0, values.shape[1] if len(values) else 0, columns_at_a_time):
        columns = slice(start, start + columns_at_a_time)
        # The generator starts anew for every group of columns: the same articles are drawn for all of them.
        deviations = _resampled_means(centred[:, columns], present[:, columns], resamples, seed)
        known = count[columns] > 0
        interval[:, columns][:, known] = mean[columns][known] + np.nanquantile(deviations[:, known], tails, axis=0)
    if len(values):  # no mean lies beyond the values, not even by rounding
        smallest, largest = (
            np.where(present, values, np.inf).min(axis=0),
            np.where(present, values, -np.inf).max(axis=0),
        )
        interval = np.clip(interval, smallest, largest)
    low, high = interval
    return mean.reshape(shape)[()], low.reshape(shape)[()], high.reshape(shape)[()]


def paired_bootstrap(a, b, resamples=10_000, confidence=0.95, seed=0, axis=0):
    """Percentile bootstrap of the mean per-article difference a - b: {"difference", "low", "high"}.

    `a` and `b` have the same shape and the same articles, in the same order, along `axis`; an article that is NaN on
    either side is left out of that column. See `bootstrap_interval` for the arguments and the shapes returned.
    """
    difference, low, high = bootstrap_interval(paired_differences(a, b, axis), resamples, confidence, seed)
    return {"difference": difference, "low": low, "high": high}


def effect_size(a, b, axis=0):
    """Cohen's d_z: the mean of the paired differences a - b over their standard deviation (n - 1 in the divisor).

    Shapes as in `paired_bootstrap`. 0 where every difference is 0, NaN where there are fewer than two pairs or where
    all differences are the same number other than 0.
    """
    differences = paired_differences(a, b, axis)
    present = ~np.isnan(differences)
    count = present.sum(axis=0)
    mean = divide(np.where(present, differences, 0.0).sum(axis=0), count)
    squares = np.where(present, differences - mean, 0.0) ** 2
    deviation = np.sqrt(divide(squares.sum(axis=0), count - 1))
    same = deviation <= 1e-12 * np.abs(mean)
    effect = divide(mean, np.where(same, 0.0, deviation))
    return np.where((mean == 0) & (count > 1), 0.0, effect)[()]


def _resampled_means(centred, present, resamples, seed):
    """Means of `centred` (A, K) over the articles present, for each resample: (resamples, K)."""
    generator = np.random.default_rng(seed)
    articles = len(centred)
    complete = present.all()
    means = np.empty((resamples, centred.shape[1]))
    done = 0
    for size in chunks(resamples, articles):
        # How often each article was drawn; weighted sums then are one matrix product for all the columns.
        drawn = generator.integers(0, articles, (size, articles))
        drawn += np.arange(0, size * articles, articles)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * articles).reshape(size, articles).astype(np.float64)
        kept = articles if complete else counts @ present.astype(np.float64)
        means[done : done + size] = divide(counts @ centred, kept)
        done += size
    return means


def bootstrap_counts(articles, resamples, seed):
    """How often each article is drawn, with replacement, in each bootstrap sample: (resamples, A)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(articles, np.full(articles, 1 / articles), size=resamples).astype(np.float64)


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


def _spearman(x, y):
    """(R,) correlation of the ranks in each row of x and y (R, K); NaN for a constant row."""
    ranks = [rankdata(side, axis=1) for side in (x, y)]
    a, b = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    size = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)
