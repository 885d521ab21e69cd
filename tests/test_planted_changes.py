"""Changes planted in a small GPT-2: the right metric names the right place, and upstream nothing moves at all.

Three layers of four heads. "Nothing moves" is exact: the same bits as without the change.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from tiny import VOCABULARY, tiny_examples
from transformers import GPT2Config, GPT2LMHeadModel

from summlens.analysis.representations.latent_space import analyze
from summlens.analysis.representations.represent import represent
from summlens.capture import capture, weight_change
from summlens.data.tokens import Example
from summlens.metrics.representation import rdm
from summlens.model.architecture import architecture

L, H, D, LAYER, HEAD = 3, 4, 32, 1, 2
STEP = 2 * np.pi / 64  # of the position clock
EXAMPLES = tiny_examples()
MIXED = (slice(None), LAYER, [h for h in range(H) if h != HEAD])


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(3)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=L, n_head=H, n_embd=D, vocab_size=VOCABULARY, n_positions=64, bos_token_id=None, eos_token_id=None
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25)
    return model


@pytest.fixture(scope="module")
def before(base):
    return capture(base, EXAMPLES, base=base) | weight_change(base, base)[1]


def captured_with(base, plant):
    """Captured numbers and weight changes by head, then those by matrix, of a copy that plant(architecture) changed."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        plant(architecture(model))
    matrices, by_head = weight_change(model, base)
    return capture(model, EXAMPLES, base=base) | by_head, matrices


def assert_same_before(after, before, layer):
    """Below `layer`, and in the residual entering it, every number has the same bits."""
    for key, values in before.items():
        if key.startswith(("attention/", "activation/", "head_output_norm/", "latent/")):
            stop = layer + 1 if "residual" in key else layer
            np.testing.assert_array_equal(after[key][:, :stop], values[:, :stop], err_msg=key)
        elif key.startswith(("neuron/", "weights_by_head/")):
            np.testing.assert_array_equal(after[key][:layer], values[:layer], err_msg=key)


def assert_only_weights_changed(after, matrices, part, matrix):
    """The weight metrics name this matrix, and this head of it, and no other."""
    assert [name for name, row in matrices.items() if row["absolute"]] == [matrix]
    for key in (f"weights_by_head/{p}/{of}" for p in "qkvo" for of in ("absolute", "relative")):
        moved = [tuple(place) for place in np.argwhere(after[key])]
        assert moved == ([(LAYER, HEAD)] if f"/{part}/" in key else []), key


def test_sharper_queries_of_one_head(base, before):
    after, matrices = captured_with(base, lambda found: found.heads_of(LAYER)["q"][HEAD].mul_(4))
    assert_only_weights_changed(after, matrices, "q", f"transformer.h.{LAYER}.attn.c_attn.q.weight")
    assert after["weights_by_head/q/relative"][LAYER, HEAD] == pytest.approx(3, rel=1e-5)
    assert_same_before(after, before, LAYER)
    for where in ("summary", "all"):
        for form in ("", "_no_sink"):
            assert (after[f"attention/entropy{form}/{where}"] < before[f"attention/entropy{form}/{where}"])[
                :, LAYER, HEAD
            ].all()
            assert (after[f"attention/sparsity{form}/{where}"] > before[f"attention/sparsity{form}/{where}"])[
                :, LAYER, HEAD
            ].all()
            assert (after[f"attention/kl{form}/{where}"][:, LAYER, HEAD] > 0.05).all()
            assert not after[f"attention/kl{form}/{where}"][MIXED].any()  # its neighbours, exactly zero
        np.testing.assert_array_equal(
            after[f"head_output_norm/{where}"][MIXED], before[f"head_output_norm/{where}"][MIXED]
        )
    assert after["attention/kl/all"][:, LAYER + 1 :].any()  # downstream it is felt


def test_a_head_whose_output_is_zeroed(base, before):
    after, matrices = captured_with(base, lambda found: found.heads_of(LAYER)["o"][HEAD].zero_())
    assert_only_weights_changed(after, matrices, "o", f"transformer.h.{LAYER}.attn.c_proj.weight")
    assert_same_before(after, before, LAYER)
    for where in ("summary", "all"):
        norms = after[f"head_output_norm/{where}"]
        assert not norms[:, LAYER, HEAD].any() and before[f"head_output_norm/{where}"][:, LAYER, HEAD].all()
        np.testing.assert_array_equal(norms[MIXED], before[f"head_output_norm/{where}"][MIXED])
        assert not after[f"attention/kl/{where}"][:, : LAYER + 1].any()  # its pattern is as it was
        assert after[f"attention/kl/{where}"][:, LAYER + 1 :].all()
        changed = after[f"activation/attention_output/l2/{where}"] != before[f"activation/attention_output/l2/{where}"]
        assert changed[:, LAYER].all()


def test_a_rotated_residual(base, before):
    """Rotating what block 1 writes (its projections and their biases) keeps the sizes there and turns the vectors."""
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]

    def plant(found):
        block = found.blocks[LAYER]
        for linear in (block.output, block.down):
            linear.weight.copy_(linear.weight @ rotation)
            linear.bias.copy_(linear.bias @ rotation)

    after, matrices = captured_with(base, plant)
    assert {row["layer"] for row in matrices.values() if row["absolute"]} == {LAYER}
    assert_same_before(after, before, LAYER)
    for where in ("summary", "all"):
        key = f"activation/attention_output/l2/{where}"
        np.testing.assert_allclose(after[key][:, LAYER], before[key][:, LAYER], rtol=1e-5)
        key = f"head_output_norm/{where}"
        np.testing.assert_allclose(after[key][:, LAYER], before[key][:, LAYER], rtol=1e-5)
        assert not after[f"attention/kl/{where}"][:, : LAYER + 1].any()
    x, y = after["latent/residual"], before["latent/residual"]
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    np.testing.assert_allclose(cosine[:, : LAYER + 1], 1, rtol=1e-6)
    assert (cosine[:, LAYER + 1] < 0.95).all()


def test_noise_on_one_matrix(base, before):
    def plant(found):
        weight = found.blocks[LAYER].down.weight
        weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))

    after, matrices = captured_with(base, plant)
    name = f"transformer.h.{LAYER}.mlp.c_proj.weight"
    assert [key for key, row in matrices.items() if row["absolute"]] == [name]
    assert matrices[name]["relative"] == pytest.approx(0.1 / 0.25, rel=0.1)
    assert not any(after[key].any() for key in after if key.startswith("weights_by_head/"))
    assert_same_before(after, before, LAYER)
    for key in ("activation/attention_output/l2/all", "activation/mlp_hidden/l2/all", "head_output_norm/all"):
        np.testing.assert_array_equal(after[key][:, LAYER], before[key][:, LAYER], err_msg=key)
    np.testing.assert_array_equal(after["neuron/mean"][LAYER], before["neuron/mean"][LAYER])
    changed = after["activation/mlp_output/l2/all"] != before["activation/mlp_output/l2/all"]
    assert changed[:, LAYER].all() and not changed[:, :LAYER].any()


@pytest.fixture(scope="module")
def clocked(base):
    """A base whose residual carries, through all layers, a clock of positions in its first two dimensions, large beside
    the rest: what a head must read to attend to a place. Two more hold the negative, so that LayerNorm's centring
    leaves the clock alone."""
    model = copy.deepcopy(base)
    angle = torch.arange(64) * STEP
    with torch.no_grad():
        clock = 1000 * torch.stack([angle.cos(), angle.sin()], dim=1)
        model.transformer.wpe.weight[:, :4] = torch.cat([clock, -clock], dim=1)
    return model


@pytest.mark.parametrize("target", ["previous", "first"])
def test_a_head_made_to_attend_to_one_place(clocked, target):
    """One head compares clocks: the query of t points at t - 1, or at 0. Only its queries and keys are changed."""

    def plant(found):
        heads, bias = found.heads_of(LAYER), found.blocks[LAYER].attention.c_attn.bias
        own = slice(HEAD * found.head_dim, (HEAD + 1) * found.head_dim)
        for part, values in (("q", bias[:D]), ("k", bias[D : 2 * D])):
            heads[part][HEAD].zero_()
            values[own] = 0
        heads["k"][HEAD][0, 0] = heads["k"][HEAD][1, 1] = 30.0
        if target == "previous":
            turn = torch.tensor([[np.cos(STEP), np.sin(STEP)], [-np.sin(STEP), np.cos(STEP)]]).float()
            heads["q"][HEAD][:2, :2] = 30 * turn
        else:
            bias[own.start] = 300.0  # every query points at the clock of position 0

    before = capture(clocked, EXAMPLES, base=clocked) | weight_change(clocked, clocked)[1]
    after, matrices = captured_with(clocked, plant)
    layer = f"transformer.h.{LAYER}.attn.c_attn"
    assert [name for name, row in matrices.items() if row["absolute"]] == [f"{layer}.q.weight", f"{layer}.k.weight"]
    for part in "qk":
        assert np.argwhere(after[f"weights_by_head/{part}/absolute"]).tolist() == [[LAYER, HEAD]]
    assert_same_before(after, before, LAYER)
    share = {"previous": "previous_token_share", "first": "first_token_share"}[target]
    for where in ("summary", "all"):
        values = after[f"attention/{share}/{where}"][:, LAYER]
        assert (values[:, HEAD] > 0.8).all()
        assert (values[:, HEAD] > 0.3 + np.delete(values, HEAD, axis=1).max(axis=1)).all()
        assert (values[:, HEAD] > before[f"attention/{share}/{where}"][:, LAYER, HEAD]).all()
        for name in (share, "entropy", "distance"):  # its neighbours, exactly as they were
            key = f"attention/{name}/{where}"
            np.testing.assert_array_equal(after[key][MIXED], before[key][MIXED], err_msg=key)
        assert not after[f"attention/kl/{where}"][MIXED].any() and after[f"attention/kl/{where}"][:, LAYER, HEAD].all()
    if target == "previous":
        assert np.abs(after["attention/distance/summary"][:, LAYER, HEAD] - 1).max() < 0.3


# ---------------------------------------------------------------------------- representations, in a running model

RANDOM = np.random.default_rng(0)
ARTICLES = [
    Example(f"article-{n}", tuple(RANDOM.integers(1, VOCABULARY, 14 + n % 4).tolist()), 9, 0, 7) for n in range(12)
]


@pytest.fixture(scope="module")
def base_view(base):
    return represent(base, ARTICLES, "base")


def compared(base, base_view, model, *, standardized):
    """A step's captured numbers, and what the analysis makes of the captured vectors: base's (step 0) and these."""
    start, later = (capture(one, ARTICLES, base=base) for one in (base, model))
    steps = {0: start["latent/residual"], 1: later["latent/residual"]}
    view = represent(model, ARTICLES, "changed")
    np.testing.assert_allclose(view.vectors, steps[1], rtol=1e-4, atol=1e-5)
    info, arrays = analyze(base_view, view, steps, standardized, resamples=50)
    return (start, later), info, arrays


def euclidean_rsa(x, y):
    return spearmanr(pdist(x), pdist(y)).statistic


@pytest.fixture
def rotated(base):
    """Base with a hook that turns the residual stream after block LAYER, as an orthogonal matrix folded in would."""
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
    model = copy.deepcopy(base)
    model.transformer.h[LAYER].register_forward_hook(lambda block, args, output: output @ rotation)
    return model


def test_a_residual_rotated_while_the_model_runs(base, base_view, rotated, no_projection):
    turned = LAYER + 1  # the residual after block LAYER
    (before, after), info, arrays = compared(base, base_view, rotated, standardized=False)
    assert_same_before(after, before, LAYER)
    x, y = before["latent/residual"], after["latent/residual"]
    np.testing.assert_array_equal(x[:, :turned], y[:, :turned])
    # What a rotation preserves, at the very layer: sizes, Euclidean distances, inner products.
    np.testing.assert_allclose(
        after["activation/residual/l2/all"][:, turned], before["activation/residual/l2/all"][:, turned], rtol=1e-5
    )
    np.testing.assert_allclose(pdist(y[:, turned]), pdist(x[:, turned]), rtol=1e-4)
    assert euclidean_rsa(x[:, turned], y[:, turned]) > 0.999
    same = {name: arrays[f"{name}/same_layer"][0] for name in ("rsa", "cka")}
    np.testing.assert_allclose(same["cka"][: turned + 1], 1, atol=1e-4)
    # What it does not: correlation RDMs, single neurons and dimensions, directions.
    np.testing.assert_allclose(same["rsa"][:turned], 1, atol=1e-9)
    assert np.abs(rdm(y[:, turned]) - rdm(x[:, turned])).max() > 0.05 and same["rsa"][turned] < 0.995
    assert not np.allclose(
        after["activation/residual/mean_abs/all"][:, turned], before["activation/residual/mean_abs/all"][:, turned]
    )
    np.testing.assert_array_equal(after["neuron/mean"][: LAYER + 1], before["neuron/mean"][: LAYER + 1])
    assert np.abs(after["neuron/mean"][turned] - before["neuron/mean"][turned]).max() > 0.05
    # What follows reads other directions, and writes other things.
    assert not after["attention/kl/all"][:, :turned].any() and (after["attention/kl/all"][:, turned] > 0).all()
    assert same["cka"][turned + 1] < 0.99 and euclidean_rsa(x[:, -1], y[:, -1]) < 0.99
    np.testing.assert_allclose(arrays["cka/steps"][1], same["cka"], atol=1e-4)  # the captured step tells the same

    for name in ("divergence/cosine", "logit_lens/fine_tuned/loss"):
        ours = arrays[name] - (arrays["logit_lens/base/loss"] if "lens" in name else 0)
        assert np.abs(ours[:, :turned]).max() < 1e-9 and (np.abs(ours[:, turned:]) > 0.01).all(), name
    onset, peak = info["divergence"]["onset"], info["divergence"]["peak"]
    assert onset["layer"] == onset["low"] == onset["high"] == turned and peak["layer"] >= turned


def test_noise_on_one_matrix_parts_the_representations_from_there_on(base, base_view, no_projection):
    model = copy.deepcopy(base)
    with torch.no_grad():
        weight = architecture(model).blocks[LAYER].down.weight
        weight.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    (before, after), info, arrays = compared(base, base_view, model, standardized=True)
    assert_same_before(after, before, LAYER)
    for name in ("rsa", "cka"):
        for values in (arrays[f"{name}/same_layer"][0], arrays[f"{name}/steps"][1]):
            np.testing.assert_allclose(values[: LAYER + 1], 1, atol=1e-9, err_msg=name)
            assert (values[LAYER + 1 :] < 0.9).all(), name
    assert np.abs(arrays["divergence/cosine"][:, : LAYER + 1]).max() < 1e-9
    onset = info["divergence"]["onset"]
    assert onset["layer"] == onset["low"] == onset["high"] == LAYER + 1
