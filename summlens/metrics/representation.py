"""Representational similarity: RDMs and RSA, debiased linear CKA, cosine distances. NumPy, float64.

A articles are represented by a vector each, in every one of L layers: arrays are (A, D) or stacks (..., A, D).

RSA and CKA are statistics of pairs and quadruples of *different* articles. The bootstrap over articles keeps it so: an
article drawn w times weighs its pairs (quadruples) by w, and a pair of an article with itself, whose distance is zero
and whose similarity is largest by construction, never enters. For RSA this is what the RSA toolbox does (Schütt et al.
2023, eLife 12:e82566: entries between copies of one pattern are left out); for CKA it is the same rule applied to the
U-statistic, since copies on the off-diagonal of a Gram matrix would bring back the bias that the estimator removes.

Sources: Kriegeskorte, Mur & Bandettini (2008), "Representational similarity analysis"; Song et al. (2012), "Feature
selection via dependence maximization", JMLR 13, eq. 4-5 (unbiased HSIC); Kornblith et al. (2019), "Similarity of neural
network representations revisited" (CKA); Murphy, Zylberberg & Fyshe (2024), "Correcting biased centered kernel
alignment measures" (why the debiased estimator: the biased one nears 1 for random matrices with D >> A); Timkey & van
Schijndel (2021), "All bark and no bite" (why standardised features).
"""

import numpy as np
from scipy.stats import rankdata

from summlens.stats.intervals import bootstrap_counts

_CHUNK = 1 << 22  # weights held at a time in a bootstrap (32 MiB as float64)
_ROUNDING = 1e-12  # a spread below this share of the mean is rounding: the values are constant


def standardize(vectors):
    """Every feature to mean 0 and standard deviation 1 over the articles; constant features become 0.

    Args:
        vectors: (..., A, D), model units. Every leading index (layer, say) is standardised on its own.

    Returns:
        (..., A, D), standard deviations (divisor A).
    """
    centred = _centred(vectors, axis=-2)
    spread = np.sqrt(np.square(centred).mean(axis=-2, keepdims=True))
    return centred / np.where(spread > 0, spread, 1.0)


def rdm(vectors):
    """Representational dissimilarity matrix: 1 - Pearson correlation between the vectors of two articles.

    Args:
        vectors: (..., A, D).

    Returns:
        (..., A, A), 0..2, symmetric with a zero diagonal; NaN against an article whose vector is constant.
    """
    unit = _unit(_centred(vectors, axis=-1))
    distances = np.clip(1.0 - unit @ unit.swapaxes(-1, -2), 0.0, 2.0)
    diagonal = np.arange(distances.shape[-1])
    distances[..., diagonal, diagonal] = 0.0
    return distances


def rsa(rdm_a, rdm_b):
    """Similarity of two RDMs (A, A): Spearman correlation of their upper triangles, ties at their mean rank. -1..1.

    NaN where it is not defined: fewer than two pairs of articles, or a triangle that is constant or holds NaN.
    """
    return float(_unit_ranks(_upper(rdm_a)) @ _unit_ranks(_upper(rdm_b)))


def rsa_matrix(x, y):
    """RSA between all pairs of layers: x (La, A, D), y (Lb, A, E) -> (La, Lb)."""
    return _unit_ranks(_upper(rdm(x))) @ _unit_ranks(_upper(rdm(y))).T


def cka(x, y):
    """Debiased linear CKA of x (A, D) and y (A, E): about 0..1, around 0 for unrelated representations.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the unbiased estimator of HSIC and linear kernels K = X X', L = Y Y'.
    Being unbiased, HSIC may fall below zero, and so may this. NaN with fewer than four articles or a constant side.
    """
    return float(cka_matrix(np.asarray(x)[None], np.asarray(y)[None])[0, 0])


def cka_matrix(x, y):
    """Debiased linear CKA between all pairs of layers: x (La, A, D), y (Lb, A, E) -> (La, Lb)."""
    grams_x, grams_y = _gram(x), _gram(y)
    each = np.ones((1, grams_x.shape[-1]))
    own_x = np.concatenate([_hsic(k, k, each) for k in grams_x])
    own_y = np.concatenate([_hsic(k, k, each) for k in grams_y])
    cross = np.array([[_hsic(k, other, each)[0] for other in grams_y] for k in grams_x])
    return _cka(cross, own_x[:, None], own_y[None, :])


def rsa_interval(x, y, resamples=1000, confidence=0.95, seed=0):
    """RSA of x and y with its percentile bootstrap interval over the articles (rule for duplicates: module docstring).

    Args:
        x: (L, A, D). y: (L, A, E), or (S, L, A, E) for S comparisons with the same x.
        resamples: bootstrap samples; all layers and comparisons see the same ones.

    Returns:
        (value, low, high), each (L,) or (S, L).
    """
    return _interval(*rsa_draws(x, y, bootstrap_counts(np.shape(y)[-2], resamples, seed)), confidence)


def cka_interval(x, y, resamples=1000, confidence=0.95, seed=0):
    """Debiased linear CKA of x and y with its percentile bootstrap interval; arguments and result as `rsa_interval`."""
    return _interval(*cka_draws(x, y, bootstrap_counts(np.shape(y)[-2], resamples, seed)), confidence)


def rsa_draws(x, y, counts):
    """(value, draws), (L,) or (S, L) and (B, L) or (B, S, L): RSA of x and y, and in B samples of their articles.

    Args:
        x, y: as in `rsa_interval`.
        counts: (B, A) how often each sample holds an article: `bootstrap_counts`, or 0 and 1 for a part of them.
    """
    y = np.asarray(y)
    ranked_x = _upper(rdm(x))
    ranked_y = _upper(rdm(y)).reshape(-1, *ranked_x.shape)  # (S, L, pairs)
    values = (_unit_ranks(ranked_x) * _unit_ranks(ranked_y)).sum(axis=-1)
    left, right = np.triu_indices(y.shape[-2], k=1)
    drawn = np.empty((len(counts), *values.shape))
    size = max(1, _CHUNK // max(len(left), 1))
    for start in range(0, len(counts), size):
        rows = slice(start, start + size)
        weights = counts[rows, left] * counts[rows, right]
        for layer in range(len(ranked_x)):
            ranks_x = _weighted_ranks(ranked_x[layer], weights)
            for comparison in range(len(ranked_y)):
                ranks_y = _weighted_ranks(ranked_y[comparison, layer], weights)
                drawn[rows, comparison, layer] = _weighted_correlation(ranks_x, ranks_y, weights)
    drawn[:, np.isnan(values)] = np.nan  # distances that are not defined have no ranks
    return values.reshape(y.shape[:-2]), drawn.reshape(len(counts), *y.shape[:-2])


def cka_draws(x, y, counts):
    """Debiased linear CKA of x and y, and in B samples of their articles; arguments and result as `rsa_draws`.

    The U-statistics are weighted by `counts`; the features are not centred or scaled anew.
    """
    y = np.asarray(y)
    grams_x = _gram(x)
    articles = grams_x.shape[-1]
    grams_y = _gram(y).reshape(-1, *grams_x.shape)  # (S, L, A, A)
    weights = np.concatenate([np.ones((1, articles)), counts])  # the articles as they are first
    drawn = np.empty((len(weights), *grams_y.shape[:2]))
    for layer, k in enumerate(grams_x):
        own_x = _hsic(k, k, weights)
        for comparison, other in enumerate(grams_y[:, layer]):
            drawn[:, comparison, layer] = _cka(_hsic(k, other, weights), own_x, _hsic(other, other, weights))
    drawn = drawn.reshape(len(weights), *y.shape[:-2])
    return drawn[0], drawn[1:]


def cosine_distance(x, y):
    """1 - cosine of the angle between x and y (..., D), vector by vector: (...), 0..2; NaN for a zero vector."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # Half the squared distance of the unit vectors: exactly 0 for equal ones, exact for small angles.
    return 0.5 * np.square(_unit(x) - _unit(y)).sum(axis=-1)


def _centred(vectors, axis):
    """`vectors` less their mean along `axis`; exactly 0 where they are constant but for rounding."""
    vectors = np.asarray(vectors, dtype=np.float64)
    mean = vectors.mean(axis=axis, keepdims=True)
    centred = vectors - mean
    spread = np.sqrt(np.square(centred).mean(axis=axis, keepdims=True))
    return np.where(spread > _ROUNDING * np.abs(mean), centred, 0.0)


def _unit(x):
    """Vectors along the last axis at length 1; NaN for a zero vector."""
    return x / _positive(np.linalg.norm(x, axis=-1, keepdims=True))


def _positive(x):
    """A divisor: NaN where it is not above 0."""
    return np.where(x > 0, x, np.nan)


def _upper(rdms):
    """The entries above the diagonal, (..., A, A) -> (..., A (A - 1) / 2)."""
    rdms = np.asarray(rdms, dtype=np.float64)
    left, right = np.triu_indices(rdms.shape[-1], k=1)
    return rdms[..., left, right]


def _unit_ranks(values):
    """Mean ranks along the last axis, centred, of norm 1: their inner products are Spearman's correlations."""
    ranks = rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    return _unit(ranks)


def _weighted_ranks(values, weights):
    """Centred mean ranks of `values` (P,) where value p stands weights[b, p] times: (B, P)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # where a group of ties begins
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    below = np.cumsum(mass, axis=1) - mass
    total = weights.sum(axis=1, keepdims=True)
    return (below + (mass + 1) / 2 - (total + 1) / 2)[:, group]


def _weighted_correlation(x, y, weights):
    """Correlation of centred ranks x and y (B, P) under `weights` (B, P): (B,); NaN where a side is constant."""
    covariance = (weights * x * y).sum(axis=1)
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    return covariance / _positive(scale)


def _gram(vectors):
    """Linear Gram matrices (..., A, A) of the centred features: centring changes only unbiased HSIC's rounding."""
    centred = _centred(vectors, axis=-2)
    return centred @ centred.swapaxes(-1, -2)


def _hsic(k, l, weights):  # noqa: E741 - K and L are the literature's names
    """Unbiased HSIC of two Gram matrices (A, A) as a weighted U-statistic: weights (B, A) -> (B,).

    The mean of K_ij (L_ij - 2 L_iq + L_qr) over all quadruples of *different* articles i, j, q, r, each weighted by
    w_i w_j w_q w_r; for equal weights that is eq. 5 of Song et al. (2012). NaN without a quadruple.

    Each of the three sums below runs over different articles alone. It is a sum over all articles, which is a matrix
    product, less the terms in which two of them are the same. Diagonals are set to zero first, so that i = j, i = q and
    q = r need no such term where K_ij, L_iq or L_qr holds both. P1 is the sum of w, P2 that of w^2.

    pairs       sum over i != j of w_i w_j K_ij L_ij times the weight left for q != r, neither of them i or j:
                (P1 - w_i - w_j)^2 - (P2 - w_i^2 - w_j^2) = P1^2 - P2 - 2 P1 (w_i + w_j) + 2 (w_i^2 + w_j^2 + w_i w_j).
    triples     sum over i, j, q of w_i w_j w_q K_ij L_iq times the weight left for r: P1 - w_i - w_j - w_q.
                For one i, corner_i = (sum_j w_j K_ij) (sum_q w_q L_iq) - sum_j w_j^2 K_ij L_ij leaves out q = j.
    quadruples  sum over i, j, q, r of w_i w_j w_q w_r K_ij L_qr: the product of both whole sums, less what {i, j} and
                {q, r} have in common. They share one article in four ways, each the sum of w_i^2 corner_i, and both in
                two ways, each the sum of w_i^2 w_j^2 K_ij L_ij.
    """
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    w, w2, w3 = weights, weights**2, weights**3
    p1, p2 = w.sum(axis=1), w2.sum(axis=1)
    both = k * l
    row_k, row_l = w @ k, w @ l  # (B, A): sum over j of w_j K_ij
    both_w, both_w2 = w @ both, w2 @ both
    corner = row_k * row_l - both_w2
    shared_both = (w2 * both_w2).sum(axis=1)
    pairs = (
        (p1**2 - p2) * (w * both_w).sum(axis=1)
        - 4 * p1 * (w2 * both_w).sum(axis=1)
        + 4 * (w3 * both_w).sum(axis=1)
        + 2 * shared_both
    )
    # w_i (P1 - w_i) corner_i, less the terms of w_j and of w_q, in which corner's other factor has its weight squared.
    squared = (w2 @ k) * row_l + row_k * (w2 @ l) - 2 * (w3 @ both)
    triples = (w * (p1[:, None] - w) * corner).sum(axis=1) - (w * squared).sum(axis=1)
    quadruples = (w * row_k).sum(axis=1) * (w * row_l).sum(axis=1) - 4 * (w2 * corner).sum(axis=1) - 2 * shared_both
    return (pairs - 2 * triples + quadruples) / _positive(_quadruple_mass(weights))


def _quadruple_mass(weights):
    """Sum of w_i w_j w_q w_r over ordered quadruples of different articles, by Newton's identity: (B, A) -> (B,)."""
    p1, p2, p3, p4 = (np.power(weights, n).sum(axis=1) for n in (1, 2, 3, 4))
    return p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4


def _cka(cross, own_x, own_y):
    return cross / np.sqrt(_positive(own_x) * _positive(own_y))


def _interval(values, drawn, confidence):
    """Percentiles of `drawn` (resamples, ...), where defined: (values, low, high)."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = np.full((2, *values.shape), np.nan)
    defined = ~np.isnan(values) & ~np.isnan(drawn).all(axis=0)
    if defined.any():
        ends[:, defined] = np.nanquantile(drawn[:, defined], tails, axis=0)
    return values, *ends
