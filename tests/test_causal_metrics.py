"""Shares, rank correlations, halves and false-discovery control against slow loops and SciPy; the noise floor."""

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from summlens import causal_noise
from summlens.metrics.effects import discoveries, halves, rank_correlation, share
from summlens.metrics.representation import bootstrap_counts


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_a_share_is_a_ratio_of_means_and_its_interval_resamples_both(random):
    gain = random.uniform(0.01, 2, 9)
    effects = gain[:, None, None] * random.uniform(0, 1, (9, 2, 3)) + random.normal(0, 0.1, (9, 2, 3))
    value, low, high = share(effects, gain, resamples=300, seed=5)
    assert value.shape == low.shape == high.shape == (2, 3)
    draws = []
    for counts in bootstrap_counts(9, 300, 5).astype(int):
        drawn = np.repeat(np.arange(9), counts)
        draws.append(sum(effects[i, 1, 2] for i in drawn) / sum(gain[i] for i in drawn))
    assert value[1, 2] == pytest.approx(effects[:, 1, 2].mean() / gain.mean())
    assert value[1, 2] != pytest.approx((effects[:, 1, 2] / gain).mean(), rel=1e-3)
    assert (low[1, 2], high[1, 2]) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    np.testing.assert_allclose(share(gain[:, None], gain), 1)


def test_rank_correlation_is_spearmans_of_the_means_with_ties(random):
    x = random.normal(size=(7, 12)) + np.arange(12)
    y = np.round(random.normal(size=(7, 12)) + 0.3 * np.arange(12))
    fixed = random.permutation(12).astype(float)
    for b in (y, fixed):
        value, low, high = rank_correlation(x, b, resamples=200, seed=2)
        means = x.mean(axis=0), (b.mean(axis=0) if b.ndim == 2 else b)
        assert value == pytest.approx(spearmanr(*means)[0])
        draws = []
        for counts in bootstrap_counts(7, 200, 2).astype(int):
            drawn = np.repeat(np.arange(7), counts)
            draws.append(spearmanr(x[drawn].mean(axis=0), b[drawn].mean(axis=0) if b.ndim == 2 else b)[0])
        assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1e-6)


def test_rank_correlation_without_parts_or_order():
    assert np.isnan(rank_correlation(np.ones((4, 2)), np.ones((4, 2)))).all()
    assert np.isnan(rank_correlation(np.ones((4, 5)), np.random.default_rng(0).random((4, 5)))).all()
    with_gap = np.array([1.0, 2, np.nan, 3, 4])
    value, low, high = rank_correlation(with_gap, np.array([2.0, 3, 9, 5, 7]))
    assert value == 1 and np.isnan([low, high]).all()  # one value a part: nothing to resample


@pytest.mark.parametrize("articles", [8, 9])
def test_halves_are_disjoint_and_equal_in_size(random, articles):
    values = random.normal(size=(articles, 2, 3)) * np.array([1, 10, 0.1])
    found = halves(values, halvings=4000, seed=1)
    differences = []
    for _ in range(4000):
        order = random.permutation(articles)
        differences.append(
            values[order[: articles // 2]].mean(0) - values[order[articles // 2 :][: articles // 2]].mean(0)
        )
    np.testing.assert_allclose(found, np.quantile(np.abs(differences), 0.95, axis=0), rtol=0.06)
    assert np.isnan(halves(values[:3])).all()
    assert (halves(np.ones((8, 4))) == 0).all()


def test_discoveries_are_benjamini_and_hochbergs(random):
    p_values = np.concatenate([random.uniform(0, 0.004, 6), random.uniform(0, 1, 30)])
    random.shuffle(p_values)
    p_values[4] = np.nan
    known = np.sort(p_values[np.isfinite(p_values)])
    passing = [p for rank, p in enumerate(known, start=1) if p <= 0.05 * rank / len(known)]
    threshold = max(passing, default=-1)
    found = discoveries(p_values.reshape(4, 9))
    np.testing.assert_array_equal(found, (p_values <= threshold).reshape(4, 9))
    assert found.any() and not found.ravel()[4]
    assert (p_values < 0.05).sum() > found.sum()  # more would be named without the control
    assert not discoveries(np.full(3, np.nan)).any()


def test_the_noise_floor_flags_the_planted_change_and_little_else(random):
    base = random.normal(size=(20, 4, 6))
    after = base + random.normal(0, 0.3, base.shape)
    after[:, 2, 1] += 3
    after[:, 0, 0] += 0.2 + 0.01 * random.normal(size=20)  # sure, and smaller than the difference between two halves
    before = {"attention/entropy/summary": base, "attention/kl/summary": np.zeros_like(base)}
    later = {"attention/entropy/summary": after, "attention/kl/summary": np.ones_like(base)}
    pairs = causal_noise.captured_pairs(before, later)
    assert pairs.keys() == {"heads/entropy"}  # a divergence would always be flagged
    neurons = random.normal(size=(20, 2, 50))
    moved = neurons + random.normal(0, 0.3, neurons.shape)
    moved[:, 1, 7] -= 4
    summary, arrays = causal_noise.above_noise({**pairs, "neurons": (neurons, moved)}, seed=0)
    flag = arrays["noise_floor/heads/entropy/flag"]
    assert flag.sum() == 1 and flag[2, 1]
    assert arrays["noise_floor/heads/entropy/p"][0, 0] < 0.01
    assert summary["heads"]["entropy"] == {"flag": pytest.approx(flag), "flagged": 1, "of": 24}
    assert arrays["noise_floor/neurons/flag"].nonzero() == (np.array([1]), np.array([7]))
    np.testing.assert_allclose(arrays["noise_floor/neurons/p"], ttest_rel(moved, neurons).pvalue)
    assert summary["neurons"]["flagged"] == 1 and summary["neurons"]["by_layer"].tolist() == [0, 1]


def test_an_article_without_a_value_takes_no_part_in_the_noise_floor(random):
    base = random.normal(size=(12, 2, 3))
    after = base + 5 + random.normal(0, 0.1, base.shape)
    base[4] = after[4] = np.nan
    _, arrays = causal_noise.above_noise({"heads/copy_score": (base, after)}, seed=0)
    assert arrays["noise_floor/heads/copy_score/flag"].all()


def test_flags_are_rare_where_nothing_changed(random):
    named = 0
    for _ in range(20):
        base = random.normal(size=(16, 6, 6))
        _, arrays = causal_noise.above_noise({"heads/x": (base, base + random.normal(0, 1, base.shape))}, seed=0)
        named += arrays["noise_floor/heads/x/flag"].any()
    assert named <= 4  # in one family of twenty, about, a false discovery
