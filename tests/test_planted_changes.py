"""Changes planted in a small GPT-2: the right metric names the right place, and upstream nothing moves at all.

Three layers of four heads. "Nothing moves" is exact: the same bits as without the change.
"""

import copy

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_examples
from transformers import GPT2Config, GPT2LMHeadModel

from summlens.architecture import architecture
from summlens.capture import capture, weight_change

L, H, D, LAYER, HEAD = 3, 4, 32, 1, 2
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


@pytest.mark.parametrize("target", ["previous", "first"])
def test_a_head_made_to_attend_to_one_place(base, before, target):
    """Positions are written into the head's own key and query weights through a position code of the embeddings."""

    def plant(found):
        # Layer 0 sees wte + wpe through its LayerNorm. Give positions a clock in two dimensions of their own, large
        # beside the rest, and let head HEAD compare clocks: query t turned to point at t - 1, or at 0.
        model = found.model.transformer
        angle = torch.arange(64) * (2 * np.pi / 64)
        model.wte.weight.mul_(0.05)
        model.wpe.weight.mul_(0.05)
        model.wpe.weight[:, 0], model.wpe.weight[:, 1] = angle.cos(), angle.sin()
        heads, block = found.heads_of(0), found.blocks[0].attention.c_attn
        size = found.head_dim
        for index, part in enumerate("qk"):
            heads[part][HEAD].zero_()
            block.bias[index * D + HEAD * size : index * D + (HEAD + 1) * size] = 0
        heads["k"][HEAD][0, 0] = heads["k"][HEAD][1, 1] = 30.0
        if target == "previous":
            step = 2 * np.pi / 64
            turn = torch.tensor([[np.cos(step), np.sin(step)], [-np.sin(step), np.cos(step)]]).float()
            heads["q"][HEAD][:2, :2] = 30 * turn
        else:
            block.bias[HEAD * size] = 30.0  # every query points at the clock of position 0

    after, _ = captured_with(base, plant)
    share = {"previous": "previous_token_share", "first": "first_token_share"}[target]
    for where in ("summary", "all"):
        values = after[f"attention/{share}/{where}"][:, 0]
        assert (values[:, HEAD] > 0.8).all()
        assert (values[:, HEAD] > 0.3 + np.delete(values, HEAD, axis=1).max(axis=1)).all()
        assert (values[:, HEAD] > before[f"attention/{share}/{where}"][:, 0, HEAD]).all()
    if target == "previous":
        assert np.abs(after["attention/distance/summary"][:, 0, HEAD] - 1).max() < 0.3
