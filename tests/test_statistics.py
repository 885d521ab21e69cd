"""Bootstrap, randomisation test and effect size against SciPy, exact enumeration and slow loops."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from summlens.stats import columns as columns_module
from summlens.stats import intervals
from summlens.stats.intervals import bootstrap_interval, effect_size, paired_bootstrap
from summlens.stats.tests import randomisation_test


def skewed(articles, *columns, seed=3):
    return np.random.default_rng(seed).gamma(0.8, 2.0, (articles, *columns))


def test_interval_agrees_with_scipy():
    values = skewed(60)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    mean, low, high = bootstrap_interval(values, resamples=40_000)
    assert mean == pytest.approx(values.mean(), rel=1e-14)
    assert [low, high] == pytest.approx(list(expected), abs=0.02)  # an interval about 1 wide
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[1] < mean < narrow[2] < high


def test_interval_is_the_slow_loop_over_the_same_draws_with_missing_articles():
    values = skewed(7, 3)
    values[[0, 4], 1] = np.nan
    values[:, 2] = np.nan
    resamples = 50
    drawn = np.random.default_rng(5).integers(0, 7, (resamples, 7))
    mean, low, high = bootstrap_interval(values, resamples=resamples, confidence=0.8, seed=5)
    for column in range(2):
        means = []
        for row in drawn:
            kept = [values[article, column] for article in row if not math.isnan(values[article, column])]
            if kept:
                means.append(sum(kept) / len(kept))
        assert mean[column] == pytest.approx(np.nanmean(values[:, column]))
        assert low[column] == pytest.approx(np.quantile(means, 0.1))
        assert high[column] == pytest.approx(np.quantile(means, 0.9))
    assert np.isnan([mean[2], low[2], high[2]]).all()


def test_chunks_of_resamples_and_of_columns_change_nothing(monkeypatch):
    values = skewed(11, 2, 5)
    values[3, 1, 2] = np.nan
    whole = bootstrap_interval(values, resamples=200)
    pairs = randomisation_test(values, values[::-1], resamples=200)
    monkeypatch.setattr(columns_module, "AT_ONCE", 11 * 8)
    monkeypatch.setattr(intervals, "_KEPT", 200 * 3)
    np.testing.assert_allclose(bootstrap_interval(values, resamples=200), whole, rtol=1e-12)
    assert randomisation_test(values, values[::-1], resamples=200).shape == pairs.shape == (2, 5)


def test_columns_share_the_draws_and_axes_are_kept():
    values = skewed(9, 4)
    both = np.stack([values, 10 - values], axis=-1)  # (9, 4, 2)
    mean, low, high = bootstrap_interval(both, resamples=300)
    assert mean.shape == low.shape == high.shape == (4, 2)
    np.testing.assert_allclose(low[:, 0], 10 - high[:, 1])  # exactly so only if the same articles were drawn
    np.testing.assert_allclose(bootstrap_interval(both.transpose(1, 0, 2), resamples=300, axis=1)[1], low)


def test_degenerate_samples():
    assert bootstrap_interval([3.7]) == (3.7, 3.7, 3.7)
    assert bootstrap_interval(np.full(23, 0.1), resamples=100)[1:] == pytest.approx((0.1, 0.1), abs=1e-15)
    assert np.isnan(bootstrap_interval([])).all()
    assert np.isnan(bootstrap_interval(np.empty((0, 2)))).all()
    assert np.isnan(bootstrap_interval([np.nan, np.nan])).all()
    assert np.isnan(randomisation_test([], []))
    assert np.isnan(randomisation_test([np.nan], [1.0]))
    with pytest.raises(ValueError, match="same shape"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_paired_bootstrap_is_the_interval_of_the_differences():
    a, b = skewed(30), skewed(30, seed=4)
    b[2] = np.nan
    result = paired_bootstrap(a, b, resamples=500, seed=2)
    expected = bootstrap_interval(a - b, resamples=500, seed=2)
    assert (result["difference"], result["low"], result["high"]) == expected
    assert result["difference"] == pytest.approx(np.nanmean(a - b))
    # pairing matters: a shared difficulty of the articles must not widen the interval
    difficulty = 100 * skewed(30, seed=8)
    shifted = paired_bootstrap(a + difficulty, b + difficulty, resamples=500, seed=2)
    assert shifted["low"] == pytest.approx(result["low"])


@pytest.mark.parametrize("shift", [0.0, 0.6, 3.0])
def test_randomisation_test_against_every_assignment_of_signs(shift):
    a, b = skewed(8) + shift, skewed(8, seed=7)
    differences = a - b
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=8)]
    exact = sum(value >= abs(differences.sum()) - 1e-9 for value in sums) / len(sums)
    assert randomisation_test(a, b, resamples=20_000) == pytest.approx(exact, abs=0.012)
    assert randomisation_test(b, a, resamples=20_000) == pytest.approx(exact, abs=0.012)  # two-sided


def test_randomisation_test_counts_ties_and_the_observed_assignment():
    assert randomisation_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], resamples=99) == 1.0
    # a single pair: both signs are as extreme as what was observed
    assert randomisation_test([5.0], [1.0], resamples=99) == 1.0
    far = randomisation_test(np.arange(40) + 5.0, np.arange(40), resamples=99)
    assert far == pytest.approx(1 / 100)


def test_randomisation_test_leaves_missing_pairs_out_of_their_column_only():
    a, b = skewed(20, 2) + 0.8, skewed(20, 2, seed=6)
    gaps = a.copy()
    gaps[:9, 0] = np.nan
    p_values = randomisation_test(gaps, b, resamples=20_000)
    assert p_values[0] == pytest.approx(randomisation_test(a[9:, 0], b[9:, 0], resamples=20_000), abs=0.02)
    assert p_values[1] == randomisation_test(a, b, resamples=20_000)[1]
    assert p_values[0] != randomisation_test(a, b, resamples=20_000)[0]


def test_effect_size_is_the_t_statistic_over_the_root_of_n():
    a, b = skewed(25, 3), skewed(25, 3, seed=5)
    expected = scipy.stats.ttest_rel(a, b).statistic / math.sqrt(25)
    np.testing.assert_allclose(effect_size(a, b), expected)
    a[4, 1] = np.nan
    kept = np.delete(a - b, 4, axis=0)[:, 1]
    assert effect_size(a, b)[1] == pytest.approx(kept.mean() / kept.std(ddof=1))
    assert effect_size([2.0, 3.0], [2.0, 3.0]) == 0.0
    assert np.isnan(effect_size([2.0, 3.0], [1.0, 2.0]))
    assert np.isnan(effect_size([2.0], [1.0]))
