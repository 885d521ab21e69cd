"""Shares, rank correlations, halves and false-discovery control against slow loops and SciPy; the noise floor."""

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from summlens import names
from summlens.analysis.noise import verdict
from summlens.analysis.noise.floors import Floor, captured_pairs
from summlens.stats.intervals import bootstrap_counts, rank_correlation, share
from summlens.stats.tests import discoveries, halves, randomisation_test, rank_p_value

DIFFERENCES = [name for name in names.compared() if name.startswith("heads/") and not names.is_divergence(name)]


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


def test_the_p_value_of_a_rank_correlation_is_the_share_of_pairings_at_least_as_close(random):
    x = random.normal(size=(7, 24)) + 0.05 * np.arange(24)
    y = random.normal(size=24) + 0.05 * np.arange(24)
    value, p_value = rank_correlation(x, y)[0], rank_p_value(x, y)
    draws = [rank_correlation(x.mean(axis=0), random.permutation(y))[0] for _ in range(2000)]
    assert 0.01 < p_value < 0.6
    assert p_value == pytest.approx(np.mean(np.abs(draws) >= abs(value) - 1e-12), abs=0.03)
    assert np.isnan(rank_p_value(np.ones((4, 5)), np.arange(5))) and np.isnan(rank_p_value(np.ones(2), np.ones(2)))


def test_rank_correlation_without_parts_or_order():
    assert np.isnan(rank_correlation(np.ones((4, 2)), np.ones((4, 2)))).all()
    assert np.isnan(rank_correlation(np.ones((4, 5)), np.random.default_rng(0).random((4, 5)))).all()
    with_gap = np.array([1.0, 2, np.nan, 3, 4])
    value, low, high = rank_correlation(with_gap, np.array([2.0, 3, 9, 5, 7]))
    assert value == 1 and np.isnan([low, high]).all()  # one value a part: nothing to resample


@pytest.mark.parametrize("articles", [8, 9])
def test_halves_are_disjoint_and_equal_in_size(random, articles):
    values = random.normal(size=(articles, 2, 3)) * np.array([1, 10, 0.1])
    found = halves(values, count=4000, seed=1)
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
    pairs = captured_pairs(before, later)
    assert pairs.keys() == {"heads/entropy", "heads/kl"}
    neurons = random.normal(size=(20, 2, 50))
    moved = neurons + random.normal(0, 0.3, neurons.shape)
    moved[:, 1, 7] -= 4
    summary, arrays = verdict.above_noise({**pairs, "neurons": (neurons, moved)}, seed=0)
    assert "kl" not in summary["heads"]  # without a floor a divergence would always be flagged
    flag = arrays["noise_floor/heads/entropy/flag"]
    assert flag.sum() == 1 and flag[2, 1]
    assert arrays["noise_floor/heads/entropy/p"][0, 0] < 0.01
    found = summary["heads"]["entropy"]
    assert (found["flagged"], found["of"]) == (1, 24) and (found["flag"] == flag).all()
    assert found["median"]["change"] == np.median(np.abs((after - base).mean(axis=0)))
    assert arrays["noise_floor/neurons/flag"].nonzero() == (np.array([1]), np.array([7]))
    np.testing.assert_allclose(arrays["noise_floor/neurons/p"], ttest_rel(moved, neurons).pvalue)
    assert summary["neurons"]["flagged"] == 1 and summary["neurons"]["by_layer"].tolist() == [0, 1]


def test_an_article_without_a_value_takes_no_part_in_the_noise_floor(random):
    base = random.normal(size=(12, 2, 3))
    after = base + 5 + random.normal(0, 0.1, base.shape)
    base[4] = after[4] = np.nan
    _, arrays = verdict.above_noise({"heads/copy_score": (base, after)}, seed=0)
    assert arrays["noise_floor/heads/copy_score/flag"].all()


def test_flags_are_rare_where_nothing_changed(random):
    named = 0
    for _ in range(20):
        base = random.normal(size=(16, 6, 6))
        _, arrays = verdict.above_noise({"heads/entropy": (base, base + random.normal(0, 1, base.shape))}, seed=0)
        named += arrays["noise_floor/heads/entropy/flag"].any()
    assert named <= 4  # in one family of twenty, about, a false discovery


def test_many_metrics_do_not_make_a_discovery_of_nothing(random):
    """Nothing changed in any of many metrics, and the floors are low: hardly ever is a head named in any."""
    named = each = 0
    for _ in range(12):
        base = {name: random.normal(0, 1e-3, (16, 3, 4)) for name in DIFFERENCES}
        pairs = {name: (values, values + random.normal(0, 1, values.shape)) for name, values in base.items()}
        summary, arrays = verdict.above_noise(pairs, seed=0)
        named += any(row["flagged"] for row in summary["heads"].values())
        each += any(discoveries(arrays[f"noise_floor/{name}/p"]).any() for name in pairs)
        flat = np.concatenate([arrays[f"noise_floor/{name}/p"].ravel() for name in pairs])
        flags = np.concatenate([arrays[f"noise_floor/{name}/flag"].ravel() for name in pairs])
        assert not (flags & ~discoveries(flat)).any()
    assert named <= 3 < each  # what a family a metric would have named


def test_one_head_in_one_of_many_metrics_is_still_named(random):
    base = {name: random.normal(0, 1e-3, (24, 8, 8)) for name in DIFFERENCES}
    pairs = {name: (values, values + random.normal(0, 1, values.shape)) for name, values in base.items()}
    pairs["heads/sparsity"][1][:, 5, 2] += 3
    summary, _ = verdict.above_noise(pairs, seed=0)
    assert np.argwhere(summary["heads"]["sparsity"]["flag"]).tolist() == [[5, 2]]
    assert sum(row["flagged"] for row in summary["heads"].values()) == 1


def captured_like(random, base, moved):
    """The arrays of a capture: base with `moved` (L, H) added and a little noise of its own."""
    values = base + moved + random.normal(0, 0.01, base.shape)
    divergence = np.abs(moved) + 0.001 + np.abs(random.normal(0, 0.0001, base.shape))
    return {
        "attention/entropy/summary": values,
        "attention/kl/summary": divergence,
        "activation/residual/mean_abs/summary": values[:, :, 0],
        "activation/residual/l2/summary": values[:, :, 2],
        "neuron/mean": values.mean(axis=0),
    }


@pytest.fixture
def three_seeds(random):
    """Head (1, 2) moved in every seed, head (0, 1) in the run's own alone, head (0, 0) a third as far in another."""
    base = random.normal(size=(12, 2, 3)) * 0.1
    everywhere, here, partly = np.zeros((3, 2, 3))
    everywhere[1, 2], here[0, 1], partly[0, 0] = 2, 2, 3
    first = captured_like(random, base, np.zeros((2, 3)))
    first["attention/kl/summary"] = np.zeros_like(base)
    last = captured_like(random, base, everywhere + here + partly)
    ends = [captured_like(random, base, everywhere + share * partly) for share in (1 / 3, 1.1)]
    pairs = []
    for one, other in ((last, ends[0]), (last, ends[1]), (ends[0], ends[1])):
        apart = np.abs((one["attention/entropy/summary"] - other["attention/entropy/summary"]).mean(axis=0))
        between = apart + 0.001 + np.abs(random.normal(0, 0.0001, base.shape))
        pairs.append(({**one, "attention/kl/summary": between}, other))
    rounded = captured_like(random, base, np.full((2, 3), 0.002))
    return (
        first,
        last,
        {
            "numerical": Floor("bfloat16", [(rounded, first)], first),
            "seed": Floor("seeds", pairs, first, ends),
        },
    )


def test_what_another_seed_does_not_do_is_not_flagged(three_seeds):
    first, last, floors = three_seeds
    pairs = captured_pairs(first, last)
    pairs["neurons"] = first["attention/entropy/summary"], last["attention/entropy/summary"]
    summary, arrays = verdict.above_noise(pairs, 0, floors)
    for name in ("heads/entropy", "heads/kl", "neurons"):
        assert np.argwhere(arrays[f"noise_floor/{name}/flag"]).tolist() == [[1, 2]], name
    assert list(summary["floors"]) == ["sampling", "numerical", "seed"]
    flags = {name: row["flag"].tolist() for name, row in summary["layers"].items()}
    assert flags == {"residual": [False, False], "residual_l2": [False, True]}
    without, _ = verdict.above_noise(pairs, 0, {"numerical": floors["numerical"]})
    assert {tuple(place) for place in np.argwhere(without["heads"]["kl"]["flag"])} == {(0, 0), (0, 1), (1, 2)}
    assert set(summary["heads"]["kl"]["median"]) == {"change", "numerical", "seed"}  # no halves of a divergence


def test_floors_are_those_of_a_slow_loop(three_seeds):
    first, last, floors = three_seeds
    _, arrays = verdict.above_noise(captured_pairs(first, last), 0, floors)
    for layer, head in np.ndindex(2, 3):
        for name, floor in floors.items():
            for metric in ("kl", "entropy"):
                largest = 0.0
                for one, other in floor.pairs:
                    total = 0.0
                    for article in range(12):
                        total += float(one[f"attention/{metric}/summary"][article, layer, head])
                        if metric == "entropy":
                            total -= float(other["attention/entropy/summary"][article, layer, head])
                    largest = max(largest, abs(total / 12))
                assert arrays[f"noise_floor/heads/{metric}/{name}"][layer, head] == pytest.approx(largest, rel=1e-9)
        # p: the divergence against that of each floor, article by article; the largest of these
        tests = [
            randomisation_test(
                last["attention/kl/summary"][:, layer, head], one["attention/kl/summary"][:, layer, head]
            )
            for floor in floors.values()
            for one, _ in floor.pairs
        ]
        assert arrays["noise_floor/heads/kl/p"][layer, head] == pytest.approx(max(tests), abs=0.02)


def test_weights_are_held_against_the_distance_between_seeds():
    key = "weights_by_head/q/absolute"
    last, end = {key: np.array([[3.0, 3.0]])}, {key: np.array([[2.0, 4.0]])}
    floor = Floor("seeds", [({key: np.array([[2.5, 2.5]])}, end)], {}, [end])
    summary, arrays = verdict.weights_beyond_seeds(last, floor)
    assert summary["q"]["flag"].tolist() == [[False, True]] and summary["q"]["flagged"] == 1
    assert arrays["noise_floor/weights/q/seed"].tolist() == [[2.5, 2.5]] and "k" not in summary
    assert verdict.weights_beyond_seeds(last, Floor("seeds", [({}, end)], {}, [end])) == ({}, {})
