"""The latent-space analysis: planted changes show where they were planted, and what cannot be computed is named."""

import dataclasses
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from tiny import VOCABULARY, changed, tiny_examples, tiny_model
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from summlens.analysis.representations import latent_space
from summlens.analysis.representations.latent_space import analyze
from summlens.analysis.representations.represent import Representation, ends, represent, saved_vectors
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.data.tokens import Example

SCRIPT = Path(__file__).parent.parent / "analyze_latent_space.py"
ARTICLES, LAYERS, WIDTH = 6, 3, 10


def vectors(seed=0, articles=ARTICLES, layers=LAYERS, width=WIDTH):
    return np.random.default_rng(seed).normal(size=(articles, layers + 1, width)) + np.arange(layers + 1)[:, None]


def moved_from(layer, by=0.5):
    """Base, and the same with noise from `layer` on."""
    base = vectors()
    noise = vectors(1) * by
    noise[:, :layer] = 0
    return base, base + noise


def test_a_change_from_a_layer_on_shows_there_and_nowhere_before(no_projection):
    base, fine_tuned = moved_from(2)
    info, arrays = analyze(Representation(base), Representation(fine_tuned), {}, resamples=50)
    assert not arrays["divergence/cosine"][:, :2].any() and (arrays["divergence/cosine"][:, 2:] > 0).all()
    assert info["divergence"]["onset"] == {**info["divergence"]["onset"], "layer": 2, "low": 2, "high": 2}
    for name in ("rsa", "cka"):
        np.testing.assert_allclose(arrays[f"{name}/same_layer"][:, :2], 1, atol=1e-9)
        assert (arrays[f"{name}/same_layer"][0, 2:] < 0.99).all()
        np.testing.assert_allclose(np.diag(arrays[f"{name}/base_fine_tuned"]), arrays[f"{name}/same_layer"][0])
        assert (arrays[f"{name}/same_layer"][1] <= arrays[f"{name}/same_layer"][2]).all()


def test_matrices_have_base_in_rows(no_projection):
    base = vectors()
    fine_tuned = base[:, [1, 1, 2, 3]]  # fine-tuned's first layer is base's second
    _, arrays = analyze(Representation(base), Representation(fine_tuned), {}, resamples=5)
    for name in ("rsa", "cka"):
        assert arrays[f"{name}/base_fine_tuned"][1, 0] == pytest.approx(1)
        assert arrays[f"{name}/base_fine_tuned"][0, 1] < 0.9


def test_a_rotation_shows_in_rsa_and_not_in_cka(no_projection):
    base = vectors() + 1
    fine_tuned = base.copy()
    fine_tuned[:, 1] = fine_tuned[:, 1] @ ortho_group.rvs(WIDTH, random_state=0)
    sides = Representation(base), Representation(fine_tuned)
    _, arrays = analyze(*sides, {}, standardized=False, resamples=5)
    np.testing.assert_allclose(arrays["cka/same_layer"][0], 1)
    np.testing.assert_allclose(arrays["rsa/same_layer"][0, [0, 2, 3]], 1)
    assert arrays["rsa/same_layer"][0, 1] < 0.95


def test_standardised_features_silence_a_rogue_dimension(no_projection):
    base, fine_tuned = vectors(), vectors(1)  # unrelated, but for one dimension a hundred times larger
    base[:, :, 0] = fine_tuned[:, :, 0] = 100 * vectors(2)[:, :, 0]
    sides = Representation(base), Representation(fine_tuned)
    _, raw = analyze(*sides, {}, standardized=False, resamples=5)
    info, scaled = analyze(*sides, {}, resamples=5)
    assert (raw["cka/same_layer"][0] > 0.99).all() and (scaled["cka/same_layer"][0] < 0.9).all()
    assert (raw["divergence/cosine"].mean(axis=0) < scaled["divergence/cosine"].mean(axis=0)).all()
    np.testing.assert_array_equal(raw["layer_distance/base"], scaled["layer_distance/base"])
    assert info["features"].startswith("standardised")


def test_divergence_is_one_minus_cosine_of_jointly_standardised_vectors(no_projection):
    base, fine_tuned = moved_from(1)
    _, arrays = analyze(Representation(base), Representation(fine_tuned), {}, resamples=5)
    for layer in range(LAYERS + 1):
        both = np.concatenate([base[:, layer], fine_tuned[:, layer]])
        both = (both - both.mean(axis=0)) / both.std(axis=0)
        for article in range(ARTICLES):
            a, b = both[article], both[article + ARTICLES]
            expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert arrays["divergence/cosine"][article, layer] == pytest.approx(expected, abs=1e-12)
    a, b = fine_tuned[2, 1], fine_tuned[2, 2]
    expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert arrays["layer_distance/fine_tuned"].shape == (ARTICLES, LAYERS)
    assert arrays["layer_distance/fine_tuned"][2, 1] == pytest.approx(expected)


def test_steps_are_compared_with_step_zero(no_projection):
    steps = {0: vectors(), 10: moved_from(2, 0.3)[1], 25: moved_from(1, 2.0)[1]}
    info, arrays = analyze(*ends(steps), steps, resamples=20)
    assert arrays["steps"].tolist() == [0, 10, 25]
    for name in ("rsa", "cka"):
        np.testing.assert_allclose(arrays[f"{name}/steps"][0], 1)
        np.testing.assert_allclose(arrays[f"{name}/steps"][1, :2], 1)
        assert arrays[f"{name}/steps"][2, 2] < arrays[f"{name}/steps"][1, 2] < 0.999
        np.testing.assert_allclose(arrays[f"{name}/steps"][2], arrays[f"{name}/same_layer"][0])
        np.testing.assert_allclose(arrays[f"{name}/steps/low"][2], arrays[f"{name}/same_layer"][1])
    assert info["difference_from_captured"]["fine_tuned"] == 0
    floors = {"noise_floor/numerical", "noise_floor/seed", "noise_floor/sampling of RSA and CKA"}
    assert info["left_out"].keys() == {"logit_lens/base", "logit_lens/fine_tuned", *floors}


def test_a_model_that_is_not_the_last_step_is_noted(no_projection):
    steps = {0: vectors(), 10: moved_from(1)[1]}
    info, _ = analyze(Representation(steps[0]), Representation(vectors(5)), steps, resamples=5)
    assert "not those of the captured steps" in latent_space.headlines(info)[-1]


def test_one_joint_projection_of_all_states():
    steps = {0: vectors(), 10: moved_from(1)[1], 20: vectors(3)}
    info, arrays = analyze(*ends(steps), steps, resamples=5, seed=4)
    step, layer, article = (arrays[f"projection/{name}"] for name in ("step", "layer", "article"))
    count = 3 * (LAYERS + 1) * ARTICLES
    assert len(step) == len(layer) == len(article) == info["projection"]["points"] == count
    assert len({*zip(step, layer, article, strict=True)}) == count
    assert info["projection"]["fine_tuned_step"] == 20
    for name, size in (("pca2", 2), ("pca3", 3), ("tsne2", 2), ("umap2", 2), ("umap3", 3)):
        assert arrays[f"projection/{name}"].shape == (count, size)

    def at(*where):
        return arrays["projection/pca2"][(step == where[0]) & (layer == where[1]) & (article == where[2])][0]

    np.testing.assert_allclose(at(0, 0, 2), at(10, 0, 2), atol=1e-5)  # unchanged: the same place
    assert np.linalg.norm(at(0, 3, 2) - at(20, 3, 2)) > 0.1
    where = zip(arrays["trajectory/step"].tolist(), arrays["trajectory/layer"].tolist(), strict=True)
    for mean, (at_step, at_layer) in zip(arrays["trajectory/pca2"], where, strict=True):
        expected = np.mean([at(at_step, at_layer, one) for one in range(ARTICLES)], axis=0)
        np.testing.assert_allclose(mean, expected, atol=1e-4)
    assert arrays["trajectory/umap3"].shape == (3 * (LAYERS + 1), 3) and "trajectory/article" not in arrays
    assert len(arrays["clusters/kmeans"]) == len(arrays["clusters/hdbscan"]) == count
    assert info["clusters"]["kmeans"]["adjusted_rand_index"].keys() == {"step", "layer", "article"}

    _, again = analyze(*ends(steps), steps, resamples=5, seed=4)
    assert arrays.keys() == again.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)


def test_projection_keeps_first_and_last_when_it_must_thin(no_projection):
    steps = {step: vectors(step, articles=40, layers=9) for step in range(0, 120, 10)}
    info, arrays = analyze(*ends(steps), steps, resamples=2)
    assert len(info["projection"]["steps"]) == 8 and {0, 110} < set(info["projection"]["steps"])
    layers, articles = set(arrays["projection/layer"].tolist()), set(arrays["projection/article"].tolist())
    assert len(layers) == 5 and {0, 9} < layers
    assert len(articles) == 24 and {0, 39} < articles


@pytest.mark.parametrize("articles", [1, 2, 3, 4])
def test_few_articles_leave_out_by_name(no_projection, articles):
    steps = {0: vectors(articles=articles), 5: vectors(1, articles=articles)}
    info, arrays = analyze(*ends(steps), steps, resamples=5)
    assert {"rsa", "cka", "rsa/steps", "cka/steps", "divergence"} <= info["left_out"].keys()
    assert f"{articles} probe articles" in info["left_out"]["rsa"]
    assert "rsa/base_fine_tuned" not in arrays
    assert arrays["layer_distance/base"].shape == (articles, LAYERS)
    assert latent_space.headlines(info) == []


def test_too_few_different_points_leave_out_the_projection():
    info, arrays = analyze(Representation(np.ones((5, 2, 4))), Representation(np.ones((5, 2, 4))), {}, resamples=5)
    assert {"projection", "clusters"} <= info["left_out"].keys() and "projection/pca2" not in arrays
    assert np.isnan(arrays["rsa/same_layer"]).all() and "CKA" not in "".join(latent_space.headlines(info))
    assert info["divergence"]["onset"]["layer"] is None


def test_identical_models_do_not_diverge(no_projection):
    base = Representation(vectors())
    info, arrays = analyze(base, base, {}, resamples=5)
    assert not arrays["divergence/cosine"].any() and info["divergence"]["onset"]["layer"] is None
    np.testing.assert_allclose(arrays["rsa/same_layer"], 1)


def test_other_depth_gives_the_matrix_and_names_the_rest(no_projection):
    base, deeper = Representation(vectors()), Representation(vectors(1, layers=5))
    info, arrays = analyze(base, deeper, {}, resamples=5)
    assert arrays["cka/base_fine_tuned"].shape == (LAYERS + 1, 6)
    assert {"rsa/same_layer", "cka/same_layer", "divergence"} <= info["left_out"].keys()
    assert "rsa/same_layer" not in arrays and "divergence/cosine" not in arrays
    assert set(arrays["projection/layer"][arrays["projection/step"] == 0].tolist()) == {0, 1, 2, 3}
    latent_space.headlines(info)


def test_other_width_or_other_steps_are_refused():
    with pytest.raises(UserError, match="base has width 10, fine-tuned 8"):
        analyze(Representation(vectors()), Representation(vectors(width=8)), {})
    with pytest.raises(UserError, match="step 7.*not of one run"):
        analyze(Representation(vectors()), Representation(vectors()), {7: vectors(layers=2)})
    with pytest.raises(UserError, match="step 0 and a later one"):
        ends({10: vectors(), 20: vectors()})


def test_saved_vectors_name_the_file_that_does_not_fit(tmp_path):
    run = Run(tmp_path)
    run.write_step(0, {}, {"latent/residual": vectors()})
    run.write_step(5, {}, {"latent/residual": vectors(1)})
    run.write_step(3, {"whole": False}, {"latent/residual": np.zeros((ARTICLES, 3, 8), np.float32)})
    assert saved_vectors(run, ARTICLES).keys() == {0, 5}
    with pytest.raises(UserError, match="step_000000.npz holds vectors"):
        saved_vectors(run, ARTICLES + 1)
    run.write_step(5, {}, {"latent/residual": vectors(layers=2)})
    with pytest.raises(UserError, match="step_000005.npz holds vectors"):
        saved_vectors(run, ARTICLES)
    damaged = vectors()
    damaged[3, 2, 1] = np.nan
    run.write_step(5, {}, {"latent/residual": damaged})
    with pytest.raises(UserError, match="step_000005.npz .*not finite at layer 2, probe article 3"):
        saved_vectors(run, ARTICLES)
    run.write_step(5, {}, {"other": damaged})
    with pytest.raises(UserError, match="no latent/residual"):
        saved_vectors(run, ARTICLES)


def test_represent_leaves_the_model_as_it_was():
    model = tiny_model("gpt2").train()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    state = torch.random.get_rng_state()
    first = represent(model, tiny_examples(), "it")
    assert model.training and torch.equal(torch.random.get_rng_state(), state)
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    np.testing.assert_array_equal(first.vectors, represent(model, tiny_examples(), "it").vectors)  # no dropout
    backwards = represent(model, tiny_examples()[::-1], "it")
    np.testing.assert_array_equal(first.loss[::-1], backwards.loss)


def test_a_head_that_does_more_has_no_lens():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": VOCABULARY}
    model = GraniteForCausalLM(GraniteConfig(**shape, num_attention_heads=3, num_key_value_heads=3, logits_scaling=0.1))
    made = represent(model, tiny_examples(), "granite")
    assert made.loss is None and made.rank is None and "head of granite" in made.no_lens
    assert np.isfinite(made.vectors).all()


def test_represent_refuses_what_it_cannot_measure():
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="probe set is empty"):
        represent(model, [], "it")
    with pytest.raises(UserError, match="article x leaves no summary position"):
        represent(model, [Example("x", (1, 2, 3), 3, 0, 2)], "it")
    with pytest.raises(UserError, match="article y has tokens beyond the 24 of it"):
        represent(model, [Example("y", (1, 2, VOCABULARY), 1, 0, 1)], "it")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[0] = torch.inf
    with pytest.raises(UserError, match="it gives values that are not finite at layer 2"):
        represent(model, tiny_examples(), "it")


# ------------------------------------------------------------------------------------------------- the script


def save_tokenizer(folder, words):
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=words[0], unk_token=words[0]).save_pretrained(folder)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run of a tiny GPT-2: two captured steps, base and fine-tuned with the same tokenizer."""
    root = tmp_path_factory.mktemp("run")
    run = Run(root)
    base = tiny_model("gpt2")
    base.config.bos_token_id = base.config.eos_token_id = 0
    fine_tuned = changed(base, scale=0.1)
    examples = [dataclasses.replace(e, id=f"{e.id}{i}") for i in range(2) for e in tiny_examples()]
    examples[3:] = [dataclasses.replace(e, input_ids=(5, *e.input_ids[1:])) for e in examples[3:]]
    words = [f"w{i}" for i in range(VOCABULARY)]
    for folder, model in ((root / "base", base), (run.model_outputs, fine_tuned)):
        model.save_pretrained(folder)
        save_tokenizer(folder, words)
    for step, model in ((0, base), (8, fine_tuned)):
        run.write_step(step, {}, {"latent/residual": represent(model, examples, "it").vectors.astype(np.float32)})
    probe = {"examples": [dataclasses.asdict(example) for example in examples]}
    run.write_json("run.json", {"config": {"model": str(root / "base")}, "probe": probe})
    return run


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def with_another_seed(finished_run):
    """The finished run with a fine-tune of another seed beside it; afterwards as it was."""
    other = finished_run.companion("seed-1")
    step = finished_run.read_step(8)
    other.write_json("run.json", {"state": "trained"})
    other.write_step(8, {}, {"latent/residual": step.arrays["latent/residual"] + np.float32(0.1)})
    changed(tiny_model("gpt2"), seed=4).save_pretrained(other.model_outputs)
    yield finished_run
    shutil.rmtree(other.metrics)
    shutil.rmtree(other.model_outputs)


def test_script_with_another_seed(with_another_seed, monkeypatch, no_projection):
    script(monkeypatch, "--output-dir", with_another_seed.root, "--causal", "off", "--no-explorer")
    info, arrays = with_another_seed.read_json("latent_space.json"), with_another_seed.read_arrays("latent_space.npz")
    assert list(info["noise_floor"]["floors"]) == ["sampling", "numerical", "seed"]
    for name, row in info["noise_floor"]["layers"].items():
        assert (
            row["flag"] == arrays[f"noise_floor/{name}/flag"].tolist()
            and (arrays[f"noise_floor/{name}/seed"] >= 0).all()
        )
    assert info["noise_floor"]["layers"].keys() == info["metrics"].keys()
    script(monkeypatch, "--output-dir", with_another_seed.root, "--no-models")
    info = with_another_seed.read_json("latent_space.json")
    assert list(info["noise_floor"]["floors"]) == ["sampling", "seed"]
    assert info["noise_floor"]["layers"].keys() == {"rsa", "cka", "divergence/cosine", "layer_distance"}
    script(
        monkeypatch,
        "--output-dir",
        with_another_seed.root,
        "--causal",
        "off",
        "--model",
        with_another_seed.root / "base",
    )
    assert list(with_another_seed.read_json("latent_space.json")["noise_floor"]["floors"]) == ["sampling", "numerical"]


def test_script_with_and_without_models(finished_run, monkeypatch, capsys, no_projection):
    script(monkeypatch, "--output-dir", finished_run.root)
    said = capsys.readouterr().out
    info, arrays = finished_run.read_json("latent_space.json"), finished_run.read_arrays("latent_space.npz")
    assert info["fine_tuned"] == str(finished_run.model_outputs)
    assert info["left_out"].keys() == {"noise_floor/seed", "noise_floor/sampling of RSA and CKA"}
    assert "debiased CKA" in said and "fine-tuned" in said and "latent_space.npz" in said
    assert arrays["logit_lens/fine_tuned/loss"].shape == arrays["logit_lens/base/rank"].shape == (6, 3)
    assert info["difference_from_captured"]["base"] < 1e-5
    assert info["logit_lens"]["base"]["loss"]["mean"] == pytest.approx(arrays["logit_lens/base/loss"].mean(axis=0))

    script(monkeypatch, "--output-dir", finished_run.root, "--no-models")
    info, saved = finished_run.read_json("latent_space.json"), finished_run.read_arrays("latent_space.npz")
    assert {"logit_lens/base", "logit_lens/fine_tuned", "noise_floor/numerical"} <= info["left_out"].keys()
    assert not any(name.startswith("logit_lens") for name in saved)
    assert {name for name in arrays if not name.startswith(("logit_lens", "noise_floor"))} <= saved.keys()
    np.testing.assert_allclose(saved["cka/same_layer"], arrays["cka/same_layer"], atol=1e-4)
    np.testing.assert_allclose(saved["divergence/cosine"], arrays["divergence/cosine"], atol=1e-4)


def test_script_with_two_models_of_the_users_choice(finished_run, monkeypatch, no_projection):
    base = finished_run.root / "base"
    script(
        monkeypatch, "--output-dir", finished_run.root, "--base", finished_run.model_outputs, "--model", base, "--raw"
    )
    info, arrays = finished_run.read_json("latent_space.json"), finished_run.read_arrays("latent_space.npz")
    assert (info["base"], info["fine_tuned"]) == (str(finished_run.model_outputs), str(base))
    assert info["features"] == "raw" and "rsa/steps" in info["left_out"] and "rsa/steps" not in arrays


def refusal(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as stopped:
        script(monkeypatch, *arguments)
    assert "\n" not in str(stopped.value.code)
    return stopped.value.code


def test_script_refuses_in_one_line(finished_run, monkeypatch, tmp_path):
    assert "run.json is not there" in refusal(monkeypatch, "--output-dir", tmp_path)
    other = tmp_path / "other"
    shape = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(shape).save_pretrained(other)
    save_tokenizer(other, [f"w{i}" for i in reversed(range(VOCABULARY))])
    assert "tokenizer of" in refusal(monkeypatch, "--output-dir", finished_run.root, "--model", other)
    save_tokenizer(other, [f"w{i}" for i in range(VOCABULARY)])
    arguments = ("--output-dir", finished_run.root, "--model", other, "--causal", "off")
    assert "width 24" in refusal(monkeypatch, *arguments)
    assert refusal(monkeypatch, "--no-models", "--base", other) == 2

    empty = Run(tmp_path)
    described = json.loads((finished_run.metrics / "run.json").read_text())
    empty.write_json("run.json", described)
    assert "model_outputs is not there" in refusal(monkeypatch, "--output-dir", tmp_path)
    assert "step 0 and a later one" in refusal(monkeypatch, "--output-dir", tmp_path, "--no-models")
    empty.write_json("run.json", {**described, "probe": {"examples": []}})
    assert "empty probe set" in refusal(monkeypatch, "--output-dir", tmp_path)
    empty.write_json("run.json", {"config": described["config"]})
    assert "no probe articles" in refusal(monkeypatch, "--output-dir", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda m: m.transformer.h[1].attn.c_proj.weight[0].fill_(torch.nan),
            "infinite weights in transformer.h.1.attn",
        ),
        (lambda m: m.transformer.wpe.weight[3].fill_(torch.inf), "infinite weights in transformer.wpe.weight"),
    ],
)
def test_script_refuses_weights_that_are_not_finite(finished_run, monkeypatch, tmp_path, spoil, said):
    model = tiny_model("gpt2")
    with torch.no_grad():
        spoil(model)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, [f"w{i}" for i in range(VOCABULARY)])
    assert said in refusal(monkeypatch, "--output-dir", finished_run.root, "--model", tmp_path)


@pytest.mark.parametrize(("change", "said"), [({"n_layer": 3}, "2 layers"), ({"n_head": 4}, "3 heads a layer")])
def test_script_refuses_models_of_another_depth_or_number_of_heads(
    finished_run, monkeypatch, tmp_path, no_projection, change, said
):
    """In one line that names it, with nothing written; where no head is compared, their representations are."""
    base = tiny_model("gpt2").config.to_dict()
    GPT2LMHeadModel(GPT2Config(**{**base, **change, "bos_token_id": 0, "eos_token_id": 0})).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, [f"w{i}" for i in range(VOCABULARY)])
    script(monkeypatch, "--output-dir", finished_run.root, "--no-models")
    before = (finished_run.metrics / "latent_space.json").read_bytes()
    line = refusal(monkeypatch, "--output-dir", finished_run.root, "--model", tmp_path)
    assert f"base has {said}, {tmp_path} has {next(iter(change.values()))}: " in line and "--causal off" in line
    assert (finished_run.metrics / "latent_space.json").read_bytes() == before
    script(monkeypatch, "--output-dir", finished_run.root, "--model", tmp_path, "--causal", "off")
    depth = change.get("n_layer", 2)
    assert finished_run.read_arrays("latent_space.npz")["cka/base_fine_tuned"].shape == (3, depth + 1)


def test_script_refuses_articles_that_do_not_fit_the_model_or_have_no_summary(finished_run, monkeypatch, tmp_path):
    shape = {**tiny_model("gpt2").config.to_dict(), "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(tmp_path / "short")
    save_tokenizer(tmp_path / "short", [f"w{i}" for i in range(VOCABULARY)])
    said = refusal(monkeypatch, "--output-dir", finished_run.root, "--model", tmp_path / "short")
    assert "probe article b0 has 20 tokens; " in said and said.endswith("short reads 16")

    described = json.loads((finished_run.metrics / "run.json").read_text())
    example = described["probe"]["examples"][1]
    example["prompt_length"] = len(example["input_ids"])
    Run(tmp_path).write_json("run.json", described)
    said = refusal(monkeypatch, "--output-dir", tmp_path, "--model", finished_run.model_outputs)
    assert "probe article b0 leaves no summary position" in said


def test_script_refuses_a_head_that_does_not_exist(finished_run, monkeypatch):
    kl = {f"attention/{name}/summary": np.zeros((6, 2, 3)) for name in ("kl", "copy_score")}
    finished_run.write_step(8, {}, finished_run.read_step(8).arrays | kl)
    for head, said in (("5.0", "no head 5.0: the model has layers 0 to 1, heads 0 to 2"), ("x", "'x' is no head")):
        assert said in refusal(monkeypatch, "--output-dir", finished_run.root, "--explore", head)


def test_help_loads_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['analyze_latent_space.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit(','.join({'torch', 'transformers', 'sklearn', 'umap'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    assert "--no-models" in done.stdout
