"""The noise floor of the representations: floors and p-values against slow loops, planted changes, who is a seed."""

import itertools

import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr
from tiny import changed, tiny_examples, tiny_model

from summlens.analysis.noise import floors as floors_module
from summlens.analysis.noise.floors import Floor
from summlens.analysis.noise.verdict import by_article, over_all_metrics
from summlens.analysis.representations import layer_floors, layer_noise
from summlens.analysis.representations.latent_space import analyze, headlines
from summlens.analysis.representations.represent import Representation, represent
from summlens.artifacts import Run
from summlens.stats import intervals
from summlens.stats.tests import discoveries, halvings

ARTICLES, LAYERS, WIDTH = 24, 5, 12
ALL = ("rsa", "cka", "divergence/cosine")


def noise(seed, articles=ARTICLES, layers=LAYERS, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(articles, layers, width))


def floors_of(base, fine_tuned, *seeds, rounding=1e-3):
    """The floors of Representations: base with a little noise, and the other seeds' models."""
    start, rounded = Representation(base), Representation(base + rounding * noise(90, *base.shape))
    floors = {"numerical": Floor("bfloat16", [(rounded, start)], start)}
    if seeds:
        ends = [Representation(one) for one in seeds]
        floors["seed"] = Floor("seeds", [*itertools.combinations([Representation(fine_tuned), *ends], 2)], start, ends)
    return floors


def flags(base, fine_tuned, *seeds, resamples=200, **options):
    floors = floors_of(base, fine_tuned, *seeds, **options)
    info, arrays = analyze(Representation(base), Representation(fine_tuned), {}, resamples=resamples, floors=floors)
    return info, {name: arrays[f"noise_floor/{name}/flag"].tolist() for name in (*ALL, "layer_distance")}


def only(*layers):
    return [layer in layers for layer in range(LAYERS)]


def test_a_planted_layer_is_flagged_and_no_other(no_projection):
    base, rotation = noise(0), ortho_group.rvs(WIDTH, random_state=1)
    rounded, spread = 1e-3 * noise(2), 0.2 * noise(3)

    def trained(own):
        model = base + 1e-3 * noise(own)
        model[:, 2] = base[:, 2] ** 2 @ rotation + spread[:, 2] + 0.1 * noise(own + 50)[:, 2]
        return model

    fine_tuned = trained(4)
    for seeds in ([], [trained(5)], [trained(5), trained(6)]):
        info, found = flags(base, fine_tuned, *seeds, rounding=2e-3)
        assert all(found[name] == only(2) for name in ALL), (len(seeds), found)
        assert list(info["noise_floor"]["floors"]) == ["sampling", "numerical", *(["seed"] if seeds else [])]
        assert info["noise_floor"]["layers"]["rsa"]["flagged"] == 1 and info["noise_floor"]["layers"]["cka"]["of"] == 5
    assert "beyond every noise floor: RSA 1 of 5, debiased linear CKA 1 of 5, divergence" in "".join(headlines(info))
    untouched = base + rounded  # the other seed left the layer alone: the distance between seeds is the change itself
    assert not any(np.any(found) for found in flags(base, fine_tuned, fine_tuned, untouched)[1].values())


def test_no_more_than_rounding_or_seeds_do_is_not_flagged(no_projection):
    base, size = noise(0), np.linspace(0.8, 1.2, LAYERS)[:, None]
    found = flags(base, base + 1e-3 * noise(7))[1]
    assert not any(np.any(found[name]) for name in ALL), found
    far = [base + size * noise(seed) for seed in (8, 9, 10)]  # each as far from base as from the others, or nearer
    found = flags(base, *far)[1]
    assert not any(np.any(flag) for flag in found.values()), found
    assert all(np.all(flags(base, far[0])[1][name]) for name in ALL)  # without another seed they are beyond rounding


def test_a_layer_that_did_not_change_has_p_1(no_projection):
    base = noise(0)
    fine_tuned = base.copy()
    fine_tuned[:, 3] = noise(1)[:, 3]
    _, arrays = analyze(
        Representation(base), Representation(fine_tuned), {}, resamples=200, floors=floors_of(base, base, rounding=0)
    )
    for name in ("rsa", "cka"):
        assert arrays[f"noise_floor/{name}/p"].tolist() == [1, 1, 1, pytest.approx(1 / 201), 1]
        assert arrays[f"noise_floor/{name}/flag"].tolist() == only(3)


def loop_rsa(one, other, chosen):
    """Spearman over the pairs of different articles, each as often as its articles were drawn."""
    pairs = [(a, b) for a, b in itertools.combinations(chosen, 2) if a != b]
    sides = [[1 - np.corrcoef(side[a], side[b])[0, 1] for a, b in pairs] for side in (one, other)]
    return spearmanr(*sides).statistic


def loop_cka(one, other, chosen):
    """The mean of K_ij (L_ij - 2 L_iq + L_qr) over quadruples of different articles, and its normalisation."""
    weight = np.bincount(chosen, minlength=len(one)).astype(float)
    index = np.arange(len(one))
    i, j, q, r = np.ix_(index, index, index, index)
    different = (i != j) & (i != q) & (i != r) & (j != q) & (j != r) & (q != r)
    mass = different * weight[i] * weight[j] * weight[q] * weight[r]

    def hsic(k, l):  # noqa: E741
        return (mass * k[i, j] * (l[i, j] - 2 * l[i, q] + l[q, r])).sum() / mass.sum()

    k, l = one @ one.T, other @ other.T  # noqa: E741
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


@pytest.mark.parametrize(("name", "similarity"), [("rsa", loop_rsa), ("cka", loop_cka)])
def test_floors_and_p_values_are_those_of_slow_loops(name, similarity):
    articles, layers, resamples = 11, 2, 30
    base, small, large = (noise(seed, layers, articles, 7) for seed in range(3))
    fine_tuned, end = base + 0.5 * small, base + 0.45 * large
    rounded = base + 0.3 * noise(5, layers, articles, 7)

    def measured(vectors):
        return {"vectors": vectors}

    floors = {
        "numerical": Floor("", [(measured(rounded), measured(base))], measured(base)),
        "seed": Floor("", [(measured(fine_tuned), measured(end))], measured(base), [measured(end)]),
    }
    summary, arrays = layer_noise.above_noise({"vectors": (base, fine_tuned)}, floors, 3, resamples)
    draws = [np.repeat(np.arange(articles), c) for c in intervals.bootstrap_counts(articles, resamples, 3).astype(int)]
    sides = halvings(articles, 200, 3)
    found = {key: arrays[f"noise_floor/{name}/{key}"] for key in ("sampling", "numerical", "seed", "p", "flag")}
    expected = []
    for layer in range(layers):
        pair = base[layer], fine_tuned[layer]
        beside = {"numerical": (rounded[layer], base[layer]), "seed": (fine_tuned[layer], end[layer])}
        apart = [
            abs(similarity(*pair, np.flatnonzero(row > 0)) - similarity(*pair, np.flatnonzero(row < 0)))
            for row in sides
        ]
        apart = sorted(np.inf if np.isnan(one) else one for one in apart)
        assert found["sampling"][layer] == pytest.approx(apart[190], abs=1e-9)  # 189.05 in 0..199, the next above
        p_values = []
        for key, (one, other) in beside.items():
            assert found[key][layer] == pytest.approx(1 - similarity(one, other, np.arange(articles)), abs=1e-9)
            kept = sum(similarity(*pair, chosen) >= similarity(one, other, chosen) for chosen in draws)
            p_values.append((1 + kept) / (1 + resamples))
        assert found["p"][layer] == pytest.approx(max(p_values))
        moved = [1 - similarity(base[layer], model[layer], np.arange(articles)) for model in (fine_tuned, end)]
        beyond = min(moved) > max(found["numerical"][layer], found["seed"][layer]) and moved[0] > apart[190]
        expected.append(beyond)
    assert 1 / 31 < found["p"].max() < 1  # neither test is trivial
    together = discoveries([arrays[f"noise_floor/{one}/p"] for one in (name, *({"rsa", "cka"} - {name}))])[0]
    np.testing.assert_array_equal(found["flag"], np.array(expected) & discoveries(found["p"]) & together)
    assert summary["layers"][name]["median"]["seed"] == pytest.approx(np.median(found["seed"]))


def test_a_number_among_many_is_named_only_where_all_of_them_together_allow_it():
    def found(p_values):
        return {"flag": None, "flagged": 1}, {"p": np.array(p_values), "flag": np.array(p_values) < 0.02}

    alone, many = found([0.01, 0.5]), [found([0.5] * 5) for _ in range(2)]
    over_all_metrics([alone])
    assert alone[1]["flag"].tolist() == [True, False] and alone[0]["flagged"] == 1
    over_all_metrics([*many, alone])  # 0.01 * 12 tests > 0.05
    assert not alone[1]["flag"].any() and alone[0]["flagged"] == 0
    strong = found([0.001, 0.5])
    over_all_metrics([strong, *many])
    assert strong[0]["flag"].tolist() == [True, False]


def test_halves_are_disjoint_equal_and_random():
    sides = halvings(7, 300, 1)
    assert ((sides > 0).sum(axis=1) == 3).all() and ((sides < 0).sum(axis=1) == 3).all()
    assert np.abs(sides.mean(axis=0)).max() < 0.2 and len(np.unique(sides, axis=0)) > 100


def test_numbers_of_each_article_have_the_treatment_of_the_captures(no_projection):
    base, fine_tuned = noise(0), noise(1)
    loss, lens = np.abs(noise(2)[:, :, 0]), np.abs(noise(3)[:, :, 0]) + 2
    one, two = Representation(base, loss, 9 * loss), Representation(fine_tuned, lens, 9 * lens)
    end = Representation(noise(4), lens + 0.2, 9 * lens)
    floors = {"seed": Floor("seeds", [(two, end)], one, [end])}
    _, arrays = analyze(one, two, {}, resamples=20, floors=floors)
    numbers = [{"logit_lens/loss": side.loss} for side in (one, two, end)]
    of_lens = {"seed": Floor("", [(numbers[1], numbers[2])], numbers[0], [numbers[2]])}
    _, expected = by_article("logit_lens/loss", loss, lens, of_lens, 0)
    for key, values in expected.items():
        np.testing.assert_array_equal(arrays[f"noise_floor/logit_lens/loss/{key}"], values)
    np.testing.assert_allclose(arrays["noise_floor/logit_lens/loss/seed"], 0.2)
    assert arrays["noise_floor/logit_lens/loss/flag"].all() and arrays["noise_floor/layer_distance/p"].shape == (4,)
    between = analyze(two, end, {}, resamples=5)[1]["divergence/cosine"].mean(axis=0)
    np.testing.assert_allclose(arrays["noise_floor/divergence/cosine/seed"], between)
    assert "noise_floor/divergence/cosine/sampling" not in arrays


def test_what_has_no_floor_is_named(no_projection):
    base = Representation(noise(0))
    info, arrays = analyze(base, Representation(noise(1)), {}, resamples=5)
    assert info["left_out"]["noise_floor/seed"] == "no captured steps belong to these models"
    assert "models" in info["left_out"]["noise_floor/numerical"]
    assert "noise_floor/rsa/sampling" in arrays and "noise_floor/rsa/flag" not in arrays
    assert info["noise_floor"]["layers"].keys() == {"layer_distance"}
    steps = {0: base.vectors, 9: noise(1)}
    info, _ = analyze(base, Representation(noise(1)), steps, resamples=5)
    assert "--seeds 2 makes one" in info["left_out"]["noise_floor/seed"]

    few = noise(0, articles=9)
    info, arrays = analyze(
        Representation(few), Representation(few**2), {}, resamples=5, floors=floors_of(few, few, few)
    )
    assert info["left_out"]["noise_floor/sampling of RSA and CKA"].startswith("9 probe articles: at least 10")
    assert np.isnan(arrays["noise_floor/rsa/sampling"]).all() and info["noise_floor"]["layers"]["rsa"]["of"] == 0
    assert "RSA" not in "".join(headlines(info))
    constant = Representation(np.ones((12, 3, 4)))
    info, _ = analyze(constant, constant, {}, resamples=5, floors={"seed": Floor("", [(constant, constant)], constant)})
    assert info["noise_floor"]["layers"]["rsa"]["of"] == 0 and "divergence/cosine" not in info["noise_floor"]["layers"]


def captured(run, model):
    run.write_json("run.json", {"state": "trained"})
    vectors = represent(model, tiny_examples(), "it").vectors.astype(np.float32)
    run.write_step(9, {}, {"latent/residual": vectors})
    run.write_step(12, {"whole": False}, {})


def test_seeds_are_models_where_there_are_models_and_captures_elsewhere(tmp_path):
    examples, base = tiny_examples(), tiny_model("gpt2")
    ours, theirs = changed(base, seed=1), changed(base, seed=2)
    one, two = represent(base, examples, "base"), represent(ours, examples, "ours")
    run = Run(tmp_path)
    captured(run.companion("shuffled-pairs"), theirs)
    assert layer_floors.measure(one, two, examples, None, run) == {}  # a control is no seed
    captured(run.companion("seed-43"), theirs)
    other = run.companion("seed-44")
    other.write_json("run.json", {"state": "trained"})
    other.write_step(9, {}, {"latent/residual": np.zeros((2, 3, 24))})  # of other articles
    floors = layer_floors.measure(one, two, examples, None, run)
    assert list(floors) == ["seed"] and "seed 43:" in floors["seed"].what
    ((first, second),) = floors["seed"].pairs
    assert first is two and floors["seed"].start is one and floors["seed"].ends == [second] and second.loss is None
    expected = represent(theirs, examples, "theirs")
    np.testing.assert_allclose(second.vectors, expected.vectors, rtol=1e-5, atol=1e-6)

    theirs.save_pretrained(run.companion("seed-43").model_outputs)
    base.save_pretrained(tmp_path / "base")
    floors = layer_floors.measure(one, two, examples, str(tmp_path / "base"), run)
    np.testing.assert_allclose(floors["seed"].ends[0].loss, expected.loss, rtol=1e-5)
    assert list(layer_floors.measure(one, two, examples, str(tmp_path / "base"), None)) == ["numerical"]
    ((rounded, plain),) = floors["numerical"].pairs
    assert plain is one
    np.testing.assert_array_equal(rounded.vectors, represent(floors_module.rounded(base), examples, "rounded").vectors)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma", "gpt_neox"])
def test_rounded_models_have_a_logit_lens_near_that_of_the_model(kind):
    base = tiny_model(kind)
    plain = represent(base, tiny_examples(), "base")
    rounded = represent(floors_module.rounded(base), tiny_examples(), "rounded")
    far = represent(changed(base), tiny_examples(), "changed")
    for one, two, three in ((plain.vectors, rounded.vectors, far.vectors), (plain.loss, rounded.loss, far.loss)):
        assert 0 < np.abs(two - one).mean() < 0.3 * np.abs(three - one).mean()
