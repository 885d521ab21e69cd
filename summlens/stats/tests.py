"""Is it chance? Tests over articles and over parts, and what to believe of many of them.

Sources: Noreen, Computer-Intensive Methods for Testing Hypotheses (1989), and Riezler & Maxwell (2005) (approximate
randomisation); Benjamini & Hochberg (1995), "Controlling the false discovery rate" (through SciPy).
"""

import math

import numpy as np
from scipy.stats import false_discovery_control, spearmanr

from summlens.stats.columns import chunks, paired_differences

FEWEST_ARTICLES = 4  # fewer cannot be halved twice: neither a floor of halves nor a search and its test


def randomisation_test(a, b, resamples=10_000, seed=0, axis=0):
    """Two-sided p-value of the mean paired difference by approximate randomisation.

    Under the null hypothesis the two systems are exchangeable on every article, so each difference keeps its size and
    takes a random sign. p = (k + 1) / (resamples + 1), where k counts the random assignments whose absolute mean
    difference is at least the observed one. Shapes as in `paired_bootstrap`; NaN for a column without any pair.
    """
    differences = paired_differences(a, b, axis)
    shape = differences.shape[1:]
    differences = differences.reshape(len(differences), math.prod(shape))
    present = ~np.isnan(differences)
    differences = np.where(present, differences, 0.0)
    total = differences.sum(axis=0)
    # Sums that are equal in exact arithmetic must count as ties although they were added in another order.
    threshold = np.abs(total) - 1e-12 * np.abs(differences).sum(axis=0)
    generator = np.random.default_rng(seed)
    extreme = np.zeros(differences.shape[1], dtype=np.int64)
    for size in chunks(resamples, max(differences.shape)):
        bits = generator.integers(0, 256, (size, -(-len(differences) // 8)), dtype=np.uint8)
        positive = np.unpackbits(bits, axis=1, count=len(differences)).astype(np.float64)
        flipped = 2 * (positive @ differences) - total
        extreme += (np.abs(flipped) >= threshold).sum(axis=0)
    p_values = np.where(present.any(axis=0), (extreme + 1) / (resamples + 1), np.nan)
    return p_values.reshape(shape)[()]


_CHUNK = 1 << 22  # numbers held at a time in a bootstrap (32 MiB as float64)


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
    if articles < FEWEST_ARTICLES:
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
