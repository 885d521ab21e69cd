"""RSA, debiased CKA and distances against SciPy, rsatoolbox, slow loops and a second formulation of unbiased HSIC."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ortho_group, spearmanr

from summlens.metrics import representation as rep
from summlens.stats import intervals


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def related(layers=3, articles=9, width=7, seed=0):
    """Two stacks of layers that share part of their structure; no symmetry between them."""
    shared = random(layers, articles, width, seed=seed)
    return shared + 3.0, shared @ random(width, width + 2, seed=seed + 1) + 2 * random(
        layers, articles, width + 2, seed=9
    )


def quadruple_hsic(k, l, counts):  # noqa: E741
    """The kernel of the U-statistic (Song et al. 2012), averaged over ordered quadruples of different articles."""
    total = mass = 0.0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        weight = counts[i] * counts[j] * counts[q] * counts[r]
        total += weight * k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
        mass += weight
    return total / mass


def loop_cka(x, y, counts=None):
    counts = np.ones(len(x)) if counts is None else counts
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return quadruple_hsic(k, l, counts) / np.sqrt(quadruple_hsic(k, k, counts) * quadruple_hsic(l, l, counts))


def u_centred(k):
    """U-centring (Székely & Rizzo 2014, section 3): the second published formulation of the unbiased estimator."""
    n = len(k)
    k = k - np.diag(np.diag(k))
    rows = k.sum(axis=1) / (n - 2)
    centred = k - rows[:, None] - rows[None, :] + k.sum() / ((n - 1) * (n - 2))
    return centred - np.diag(np.diag(centred))


def biased_cka(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def test_standardize_is_per_feature_and_layer_and_constants_become_zero():
    vectors = random(2, 6, 4) * [1, 10, 100, 1] + 5
    vectors[1, :, 2] = 0.1 + 0.2
    scaled = rep.standardize(vectors)
    for layer, feature in itertools.product(range(2), range(4)):
        column = vectors[layer, :, feature]
        expected = np.zeros(6) if (layer, feature) == (1, 2) else (column - column.mean()) / column.std()
        np.testing.assert_allclose(scaled[layer, :, feature], expected, atol=1e-12)


def test_rdm_is_pearson_distance():
    vectors = random(2, 6, 5) + 4
    for layer in range(2):
        np.testing.assert_allclose(
            rep.rdm(vectors)[layer], squareform(pdist(vectors[layer], "correlation")), atol=1e-12
        )


def test_rsa_is_spearman_with_ties_at_their_mean_rank():
    a, b = (np.round(rep.rdm(random(8, 3, seed=s)), 1) for s in (1, 2))
    upper = np.triu_indices(8, k=1)
    assert len(np.unique(a[upper])) < len(a[upper]), "the case must have ties"
    assert rep.rsa(a, b) == pytest.approx(spearmanr(a[upper], b[upper]).statistic, abs=1e-12)


def test_rsa_matrix_is_rsa_of_every_pair_of_layers():
    x, y = related()
    y = y[:2]
    expected = [[rep.rsa(rep.rdm(a), rep.rdm(b)) for b in y] for a in x]
    np.testing.assert_allclose(rep.rsa_matrix(x, y), expected, atol=1e-12)


def test_rsa_agrees_with_rsatoolbox():
    data = pytest.importorskip("rsatoolbox.data", reason="rsatoolbox is not installed")
    from rsatoolbox.rdm import calc_rdm, compare

    x, y = related()
    theirs = compare(*(calc_rdm(data.Dataset(z[1]), method="correlation") for z in (x, y)), method="spearman")
    assert rep.rsa_matrix(x, y)[1, 1] == pytest.approx(theirs.item(), abs=1e-9)


def test_rsa_interval_resamples_articles_and_leaves_out_pairs_with_themselves():
    x, y = related(layers=2, articles=7)
    later = np.stack([y, y + random(2, 7, 9, seed=4)])
    later[0, 0, 1] = later[0, 0, 4]  # two articles with the same vector: ties
    value, low, high = rep.rsa_interval(x, later, resamples=40, seed=3)
    counts = intervals.bootstrap_counts(7, 40, seed=3)
    for step, layer in itertools.product(range(2), range(2)):
        a, b = rep.rdm(x[layer]), rep.rdm(later[step, layer])
        assert value[step, layer] == pytest.approx(rep.rsa(a, b))
        drawn = []
        for count in counts.astype(int):
            chosen = np.repeat(np.arange(7), count)
            pairs = [(i, j) for i, j in itertools.combinations(chosen, 2) if i != j]
            drawn.append(spearmanr([a[p] for p in pairs], [b[p] for p in pairs]).statistic)
        np.testing.assert_allclose((low[step, layer], high[step, layer]), np.quantile(drawn, [0.025, 0.975]), atol=1e-9)


def test_rsa_interval_does_not_depend_on_how_resamples_are_chunked(monkeypatch):
    x, y = related()
    whole = rep.rsa_interval(x, y, resamples=50)
    monkeypatch.setattr(rep, "_CHUNK", 100)
    np.testing.assert_array_equal(rep.rsa_interval(x, y, resamples=50), whole)


def test_cka_is_the_mean_over_quadruples_of_different_articles():
    x, y = related(articles=7)
    expected = [[loop_cka(a, b) for b in y] for a in x]
    np.testing.assert_allclose(rep.cka_matrix(x, y), expected, atol=1e-9)
    assert rep.cka(x[0], y[1]) == pytest.approx(expected[0][1], abs=1e-9)


def test_cka_agrees_with_u_centring_and_with_song_et_al():
    x, y = random(11, 30), random(11, 5, seed=1) + random(11, 30)[:, :5] + 2
    k, l = x @ x.T, y @ y.T  # noqa: E741
    inner = [(u_centred(a) * u_centred(b)).sum() for a, b in ((k, l), (k, k), (l, l))]
    assert rep.cka(x, y) == pytest.approx(inner[0] / np.sqrt(inner[1] * inner[2]), abs=1e-10)

    def song(k, l):  # noqa: E741 - eq. 5
        n, ones = len(k), np.ones(len(k))
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        between = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ l) + between - 2 / (n - 2) * (ones @ k @ l @ ones)) / (n * (n - 3))

    assert rep.cka(x, y) == pytest.approx(song(k, l) / np.sqrt(song(k, k) * song(l, l)), abs=1e-10)


def test_cka_interval_weighs_quadruples_of_different_articles():
    x, y = related(layers=2, articles=6)
    later = np.stack([y, y[::-1]])
    value, low, high = rep.cka_interval(x, later, resamples=25, seed=5)
    counts = intervals.bootstrap_counts(6, 25, seed=5)
    for step, layer in itertools.product(range(2), range(2)):
        assert value[step, layer] == pytest.approx(rep.cka(x[layer], later[step, layer]))
        drawn = [loop_cka(x[layer], later[step, layer], c) for c in counts if (c > 0).sum() >= 4]
        np.testing.assert_allclose((low[step, layer], high[step, layer]), np.quantile(drawn, [0.025, 0.975]), atol=1e-8)


def test_resampled_cka_too_is_invariant_to_a_shift_of_the_features(monkeypatch):
    x, y = related(articles=8)
    expected = rep.cka_interval(x, y, resamples=30)
    monkeypatch.setattr(rep, "_centred", lambda vectors, axis: np.asarray(vectors) + 2 * random(vectors.shape[-1]))
    np.testing.assert_allclose(rep.cka_interval(x, y, resamples=30), expected, atol=1e-8)


def test_debiased_cka_of_unrelated_representations_is_near_zero_where_the_biased_one_is_high():
    debiased = [rep.cka(random(20, 500, seed=s), random(20, 500, seed=s + 100)) for s in range(20)]
    assert biased_cka(random(20, 500, seed=0), random(20, 500, seed=100)) > 0.9
    assert abs(np.mean(debiased)) < 0.02


def test_intervals_cover_the_population_value():
    """Articles drawn from one population: about 95 % of the intervals hold what many articles give."""
    mixing = random(6, 6, seed=77)

    def sample(articles, seed):
        x = random(articles, 6, seed=seed)
        return x[None], (x @ mixing + 2 * random(articles, 6, seed=seed + 5000))[None]

    for interval, matrix in ((rep.rsa_interval, rep.rsa_matrix), (rep.cka_interval, rep.cka_matrix)):
        truth = matrix(*sample(600, 1))[0, 0]
        covered = 0
        for seed in range(60):
            _, low, high = interval(*sample(30, seed + 10), resamples=200)
            covered += low[0] <= truth <= high[0]
        assert covered >= 50, interval.__name__


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 12), st.integers(2, 9), st.floats(0.01, 100), st.integers(0, 10_000))
def test_cka_is_invariant_to_rotation_scale_and_shift(articles, width, scale, seed):
    x, y = random(articles, width, seed=seed), random(articles, width + 1, seed=seed + 1)
    moved = scale * x @ ortho_group.rvs(width, random_state=seed) + random(width, seed=seed)
    assert rep.cka(moved, y) == pytest.approx(rep.cka(x, y), abs=1e-7)
    assert rep.cka(x, y) == pytest.approx(rep.cka(y, x), abs=1e-9)
    assert rep.cka(x, moved) == pytest.approx(1, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 12), st.integers(3, 9), st.integers(0, 10_000))
def test_correlation_rdm_is_invariant_to_each_articles_scale_and_to_their_order(articles, width, seed):
    x = random(articles, width, seed=seed)
    scales = np.random.default_rng(seed).uniform(0.1, 10, (articles, 1))
    np.testing.assert_allclose(rep.rdm(scales * x + scales), rep.rdm(x), atol=1e-9)
    order = np.random.default_rng(seed).permutation(articles)
    np.testing.assert_allclose(rep.rdm(x[order]), rep.rdm(x)[np.ix_(order, order)], atol=1e-12)
    assert rep.rsa(rep.rdm(x), rep.rdm(x)) == pytest.approx(1)


def test_correlation_rdm_is_not_invariant_to_rotation():
    x = random(8, 5) + 1
    rotated = x @ ortho_group.rvs(5, random_state=0)
    assert np.abs(rep.rdm(rotated) - rep.rdm(x)).max() > 0.1


def test_cosine_distance_is_exact_for_equal_opposite_and_close_vectors():
    x, y = random(4, 3, 6), random(4, 3, 6, seed=1)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    expected = 1 - np.einsum("abd,abd->ab", x, y) / norms
    np.testing.assert_allclose(rep.cosine_distance(x, y), expected, atol=1e-12)
    np.testing.assert_allclose(rep.cosine_distance(x, -2 * x), 2, atol=1e-12)
    assert not rep.cosine_distance(x, x.copy()).any()
    assert rep.cosine_distance([1.0, 0.0], [1.0, 1e-9]) == pytest.approx(0.5e-18, rel=1e-6)


def test_what_is_not_defined_is_nan():
    x = random(5, 4)
    constant = np.full((5, 4), 0.1)
    assert np.isnan(rep.cka(x, constant)) and np.isnan(rep.rsa(rep.rdm(x), rep.rdm(constant)))
    assert np.isnan(rep.cka(x[:3], x[:3])) and np.isnan(rep.rsa(rep.rdm(x[:2]), rep.rdm(x[:2])))
    assert np.isnan(rep.cosine_distance([0.0, 0.0], [1.0, 0.0]))
    for interval in (rep.rsa_interval, rep.cka_interval):
        assert np.isnan(interval(x[None], constant[None], resamples=5)).all()
