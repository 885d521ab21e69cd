"""Uncertainty over articles: bootstrap intervals, paired bootstrap, randomisation tests and effect sizes.

Everything here resamples *articles*, so an interval says how a number would vary with other articles of the same kind.
It does not cover the variance between training seeds. NumPy only; seeded, so that a figure made twice is the same.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3 (percentile interval); Koehn (2004),
"Statistical Significance Tests for Machine Translation Evaluation" (paired bootstrap); Noreen, Computer-Intensive
Methods for Testing Hypotheses (1989), and Riezler & Maxwell (2005) (approximate randomisation); Cohen (1988) and
Lakens (2013), eq. 7 (effect size d_z).
"""

import math

import numpy as np

_CHUNK = 1 << 22  # numbers held at a time for the resampled articles (32 MiB as float64)
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
    mean = _divide(np.where(present, values, 0.0).sum(axis=0), count)
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
    difference, low, high = bootstrap_interval(_differences(a, b, axis), resamples, confidence, seed)
    return {"difference": difference, "low": low, "high": high}


def randomisation_test(a, b, resamples=10_000, seed=0, axis=0):
    """Two-sided p-value of the mean paired difference by approximate randomisation.

    Under the null hypothesis the two systems are exchangeable on every article, so each difference keeps its size and
    takes a random sign. p = (k + 1) / (resamples + 1), where k counts the random assignments whose absolute mean
    difference is at least the observed one. Shapes as in `paired_bootstrap`; NaN for a column without any pair.
    """
    differences = _differences(a, b, axis)
    shape = differences.shape[1:]
    differences = differences.reshape(len(differences), math.prod(shape))
    present = ~np.isnan(differences)
    differences = np.where(present, differences, 0.0)
    total = differences.sum(axis=0)
    # Sums that are equal in exact arithmetic must count as ties although they were added in another order.
    threshold = np.abs(total) - 1e-12 * np.abs(differences).sum(axis=0)
    generator = np.random.default_rng(seed)
    extreme = np.zeros(differences.shape[1], dtype=np.int64)
    for size in _chunks(resamples, max(differences.shape)):
        bits = generator.integers(0, 256, (size, -(-len(differences) // 8)), dtype=np.uint8)
        positive = np.unpackbits(bits, axis=1, count=len(differences)).astype(np.float64)
        flipped = 2 * (positive @ differences) - total
        extreme += (np.abs(flipped) >= threshold).sum(axis=0)
    p_values = np.where(present.any(axis=0), (extreme + 1) / (resamples + 1), np.nan)
    return p_values.reshape(shape)[()]


def effect_size(a, b, axis=0):
    """Cohen's d_z: the mean of the paired differences a - b over their standard deviation (n - 1 in the divisor).

    Shapes as in `paired_bootstrap`. 0 where every difference is 0, NaN where there are fewer than two pairs or where
    all differences are the same number other than 0.
    """
    differences = _differences(a, b, axis)
    present = ~np.isnan(differences)
    count = present.sum(axis=0)
    mean = _divide(np.where(present, differences, 0.0).sum(axis=0), count)
    squares = np.where(present, differences - mean, 0.0) ** 2
    deviation = np.sqrt(_divide(squares.sum(axis=0), count - 1))
    same = deviation <= 1e-12 * np.abs(mean)
    effect = _divide(mean, np.where(same, 0.0, deviation))
    return np.where((mean == 0) & (count > 1), 0.0, effect)[()]


def _resampled_means(centred, present, resamples, seed):
    """Means of `centred` (A, K) over the articles present, for each resample: (resamples, K)."""
    generator = np.random.default_rng(seed)
    articles = len(centred)
    complete = present.all()
    means = np.empty((resamples, centred.shape[1]))
    done = 0
    for size in _chunks(resamples, articles):
        # How often each article was drawn; weighted sums then are one matrix product for all the columns.
        drawn = generator.integers(0, articles, (size, articles))
        drawn += np.arange(0, size * articles, articles)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * articles).reshape(size, articles).astype(np.float64)
        kept = articles if complete else counts @ present.astype(np.float64)
        means[done : done + size] = _divide(counts @ centred, kept)
        done += size
    return means


def _differences(a, b, axis):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have the same shape, not {a.shape} and {b.shape}")
    return np.moveaxis(a - b, axis, 0)


def _chunks(resamples, width):
    """Sizes that add up to `resamples`, each with at most about _CHUNK numbers of `width` a resample."""
    size = max(1, _CHUNK // max(width, 1))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _divide(numerator, denominator):
    """numerator / denominator, NaN where the denominator is not above 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, dtype=np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
