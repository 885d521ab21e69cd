"""What capture returns, against eager attention maps and plain forward passes, one example at a time."""

import copy
import gc
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from attention_oracle import statistics
from tiny import BUILDERS, changed, tiny_examples, tiny_model
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    GlmConfig,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    StableLmConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from summlens.capture import capture, gradient_norms, weight_change
from summlens.core.errors import UserError
from summlens.data.tokens import Example
from summlens.model.architecture import architecture
from summlens.model.observing import evaluating, observed_sites
from summlens.names import HEAD_METRICS, attention_forms

EXAMPLES = tiny_examples()


def eager_outputs(model, example):
    """Attention maps (L, H, T, T) float64, residuals (L + 1, T, D) and logits of one unpadded example."""
    eager = copy.deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(torch.tensor([example.input_ids]), output_attentions=True, output_hidden_states=True)
    return torch.stack(out.attentions)[:, 0].double().numpy(), out.hidden_states, out.logits[0]


@pytest.mark.parametrize(
    ("kind", "attention"), [*((kind, "sdpa") for kind in BUILDERS), ("gpt2", "eager"), ("llama", "eager")]
)
def test_attention_metrics_are_those_of_the_eager_maps(kind, attention):
    base = tiny_model(kind, attention=attention)
    model = changed(base)
    captured = capture(model, EXAMPLES, base=base, batch_size=2)
    for a, example in enumerate(EXAMPLES):
        maps, base_maps = eager_outputs(model, example)[0], eager_outputs(base, example)[0]
        assert np.abs(maps - base_maps).max() > 0.01  # the two models do differ
        for where, queries in (("summary", example.queries), ("all", range(len(example.input_ids)))):
            for layer, head in np.ndindex(maps.shape[:2]):
                expected = statistics(
                    maps[layer, head].tolist(), example, queries, base_maps=base_maps[layer, head].tolist()
                )
                for name in attention_forms(divergences=True):
                    got = captured[f"attention/{name}/{where}"][a, layer, head]
                    assert got == pytest.approx(expected[name], rel=2e-4, abs=2e-5), (name, where, layer, head)


@pytest.mark.parametrize("kind", BUILDERS)
def test_padding_and_batches_change_no_number(kind):
    base = tiny_model(kind)
    model = changed(base)
    alone = capture(model, EXAMPLES, base=base, batch_size=1)
    for options in ({"padding_side": "left"}, {"padding_side": "right", "pad_id": 7}):
        padded = capture(model, EXAMPLES, base=base, batch_size=3, **options)
        assert padded.keys() == alone.keys()
        for key in alone:
            np.testing.assert_allclose(padded[key], alone[key], rtol=2e-4, atol=2e-5, err_msg=key)
    backwards = capture(model, EXAMPLES[::-1], base=base, batch_size=2)
    for key, values in alone.items():
        if len(values) == len(EXAMPLES) and not key.startswith("neuron/"):
            np.testing.assert_allclose(backwards[key][::-1], values, rtol=2e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_model_is_undisturbed(kind):
    """The logits during capture are bit for bit those without it, and nothing is left behind."""
    model = tiny_model(kind)
    model.get_input_embeddings().eval()  # a mode of its own, that must come back
    modes = [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    config, table = copy.deepcopy(model.config.to_dict()), dict(AttentionInterface._global_mapping)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()

    seen = []
    handle = model.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    one = EXAMPLES[1]
    first = capture(model, [one])
    handle.remove()
    with evaluating(model), torch.no_grad():
        ids = torch.tensor([one.input_ids])
        plain = model(ids, attention_mask=torch.ones_like(ids), logits_to_keep=seen[0].shape[1]).logits
    assert torch.equal(seen[0], plain)

    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert model.config.to_dict() == config and AttentionInterface._global_mapping == table
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    second = capture(model, [one])
    assert all(np.array_equal(first[key], second[key], equal_nan=True) for key in first)


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("failing", [None, "statistics", "block"])
def test_nothing_is_left_behind_also_not_after_a_failure(failing, monkeypatch):
    """Modes, hooks, configuration, the attention table, random state, weights and tensors of both models."""
    base = tiny_model("gpt2")
    model = changed(base)
    model.get_input_embeddings().eval()
    modules = [*model.modules(), *base.modules()]

    def state():
        hooks = [
            (list(m._forward_hooks), list(m._forward_pre_hooks), m.training, "forward" in vars(m)) for m in modules
        ]
        return hooks, model.config.to_dict(), dict(AttentionInterface._global_mapping), tensors_alive()

    def fail(*_, **__):
        torch.rand(3)  # what fails may have drawn
        raise RuntimeError("stop")

    capture(model, EXAMPLES[:1], base=base)  # what libraries make at first use
    weights, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    before = state()
    with monkeypatch.context() as patch:
        if failing == "statistics":
            patch.setattr("summlens.capture.attention_statistics", fail)
        elif failing == "block":  # in the middle of the forward pass, when some layers are captured
            patch.setattr(architecture(model).blocks[1].down, "forward", fail)
        with nullcontext() if failing is None else pytest.raises(RuntimeError, match="stop"):
            capture(model, EXAMPLES, base=base, batch_size=2)
    assert state() == before
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(model.parameters(), weights, strict=True))
    assert failing or torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("kind", BUILDERS)
def test_activations_loss_and_latents(kind):
    """Against the library's own hidden states and logits, and hooks that differ from capture's."""
    model = tiny_model(kind).eval()
    captured = capture(model, EXAMPLES, batch_size=2)
    found = architecture(model)
    hidden_of_layers = [[] for _ in range(found.layers)]
    for a, example in enumerate(EXAMPLES):
        _, states, logits = eager_outputs(model, example)
        sites, residuals = {}, []

        def keep(site, layer, module, args, out, sites=sites):
            sites[site, layer] = (args[0], out)

        def keep_residual(module, args, out, residuals=residuals):
            residuals.append((out if torch.is_tensor(out) else out[0])[0].detach())

        handles = []
        for layer, block in enumerate(found.blocks):
            handles.append(block.output.register_forward_hook(partial(keep, "attention", layer)))
            handles.append(block.down.register_forward_hook(partial(keep, "mlp", layer)))
            handles.append(block.module.register_forward_hook(keep_residual))
        with torch.no_grad():
            model(torch.tensor([example.input_ids]))
        for handle in handles:
            handle.remove()
        residuals.insert(0, states[0][0])
        rows = {"summary": list(example.queries), "all": list(range(len(example.input_ids)))}
        targets = torch.tensor(example.input_ids)[[t + 1 for t in rows["summary"]]]
        loss = -logits[rows["summary"]].double().log_softmax(-1)[range(len(targets)), targets].mean()
        assert captured["loss/summary"][a] == pytest.approx(float(loss), rel=1e-5)
        for where, queries in rows.items():
            for layer, values in enumerate(residuals):
                values = values[queries].double().numpy()
                check(captured[f"activation/residual/mean_abs/{where}"][a, layer], np.abs(values).mean())
                check(captured[f"activation/residual/l2/{where}"][a, layer], np.sqrt((values**2).sum(-1)).mean())
                if where == "summary":
                    check(captured["latent/residual"][a, layer], values.mean(0))
            for layer in range(found.layers):
                # (1, T, ...), or (T, ...) as OPT's MLP has it
                heads, attention, hidden, mlp = (
                    x.flatten(0, -2)[queries].double().numpy() for x in sites["attention", layer] + sites["mlp", layer]
                )
                for site, values in (("attention_output", attention), ("mlp_output", mlp), ("mlp_hidden", hidden)):
                    check(captured[f"activation/{site}/mean_abs/{where}"][a, layer], np.abs(values).mean())
                    check(captured[f"activation/{site}/l2/{where}"][a, layer], np.sqrt((values**2).sum(-1)).mean())
                if where == "summary":
                    hidden_of_layers[layer].append(hidden)
                output = found.blocks[layer].output
                bias = 0 if output.bias is None else output.bias.detach()
                for head in range(found.heads):  # the module itself on one head's slice, the rest zero
                    only = np.zeros_like(heads)
                    own = slice(head * found.head_dim, (head + 1) * found.head_dim)
                    only[:, own] = heads[:, own]
                    with torch.no_grad():
                        added = output(torch.tensor(only, dtype=torch.float32)) - bias
                    check(captured[f"head_output_norm/{where}"][a, layer, head], added.double().norm(dim=-1).mean())
    for layer, parts in enumerate(hidden_of_layers):
        values = np.concatenate(parts)
        for name, expected in (
            ("mean", values.mean(0)),
            ("max", values.max(0)),
            ("std", values.std(0)),
            ("positive_share", (values > 0).mean(0)),
        ):
            check(captured[f"neuron/{name}"][layer], expected)


def check(got, expected):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", [torch.Tensor, tuple])
def test_residuals_are_read_whether_a_block_returns_a_tensor_or_a_tuple(kind):
    """Which of the two is up to a model's class and the version of its library: here a block is made to."""
    model = tiny_model("gpt2").eval()
    found, returned, read = architecture(model), [], {}
    ids = torch.tensor([EXAMPLES[0].input_ids])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    if kind is tuple:
        for block in found.blocks:
            forward = block.module.forward
            block.module.forward = lambda *args, forward=forward, **kwargs: (forward(*args, **kwargs), None)
    with torch.no_grad(), observed_sites(found, lambda site, layer, values: read.setdefault((site, layer), values)):
        for block in found.blocks:
            block.module.register_forward_hook(lambda module, args, output: returned.append(type(output)))
            if kind is tuple:  # what comes after the block takes its first element, as such a model does
                block.module.register_forward_hook(lambda module, args, output: output[0])
        model(ids)
    assert set(returned) == {kind}
    for layer in (0, 1):
        assert torch.equal(read["residual", layer], states[layer])
    last = read["residual", 2]
    assert torch.equal(model.transformer.ln_f(last), states[2]) and not torch.equal(last, states[1])


@pytest.mark.parametrize("kind", BUILDERS)
def test_projections_split_by_head_compute_the_attention(kind):
    """The keys and values that the split weights give, per head, are those that the model's attention is handed."""
    model = tiny_model(kind).eval()
    found = architecture(model)
    block, handed = found.blocks[1], {}
    function = AttentionInterface._global_mapping["sdpa"]

    def spy(module, query, key, value, *args, **kwargs):
        if module is block.attention:
            handed.update(query=query, key=key, value=value)
        return function(module, query, key, value, *args, **kwargs)

    inputs = []
    hook = block.attention.register_forward_pre_hook(
        lambda m, args, kwargs: inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():  # biases are vectors, left to the model: drop them here
        for name, parameter in block.attention.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    AttentionInterface.register("sdpa", spy)
    try:
        with torch.no_grad():
            model(torch.tensor([EXAMPLES[0].input_ids]))
    finally:
        AttentionInterface.register("sdpa", function)
        hook.remove()
    split = found.heads_of(1)
    assert split["q"].shape == split["o"].shape == (found.heads, found.head_dim, found.width)
    values = torch.einsum("btm,hdm->bhtd", inputs[0], split["v"])
    torch.testing.assert_close(values, handed["value"], rtol=1e-4, atol=1e-5)
    for part, name in (("q", "query"), ("k", "key")):  # a rotation keeps norms; these two normalise before it
        if kind not in ("qwen3", "gemma3"):
            projected = torch.einsum("btm,hdm->bhtd", inputs[0], split[part])
            if (kind, part) == ("opt", "q"):
                projected *= found.head_dim**-0.5  # it scales the queries itself
            torch.testing.assert_close(projected.norm(dim=-1), handed[name].norm(dim=-1), rtol=1e-4, atol=1e-5)


def test_names_and_shapes():
    model = tiny_model("qwen3")
    base = copy.deepcopy(model)
    arrays = capture(model, EXAMPLES, base=base)
    by_head = weight_change(model, base)[1]
    found = architecture(model)
    A, L, H = len(EXAMPLES), found.layers, found.heads
    assert (L, H, found.key_heads, found.head_dim, found.width, found.neurons) == (2, 6, 2, 12, 24, 40)
    shapes = {"loss/summary": (A,), "latent/residual": (A, L + 1, 24)}
    shapes |= {f"neuron/{name}": (L, 40) for name in ("mean", "max", "std", "positive_share")}
    for where in ("summary", "all"):
        shapes |= {f"attention/{name}/{where}": (A, L, H) for name in attention_forms(divergences=True)}
        shapes |= {f"head_output_norm/{where}": (A, L, H)}
        for size in ("mean_abs", "l2"):
            shapes |= {f"activation/residual/{size}/{where}": (A, L + 1)}
            shapes |= {
                f"activation/{s}/{size}/{where}": (A, L) for s in ("attention_output", "mlp_output", "mlp_hidden")
            }
    assert {key: value.shape for key, value in arrays.items()} == shapes
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in arrays.values())
    for key, value in (arrays | by_head).items():  # nothing moved: exactly zero, not nearly
        if key.startswith(("attention/kl", "attention/js", "weights_by_head")):
            assert not value.any(), key
    assert {key: value.shape for key, value in by_head.items()} == {
        f"weights_by_head/{part}/{of}": (L, H) for part in "qkvo" for of in ("absolute", "relative")
    }
    alone = capture(model, EXAMPLES)
    assert set(shapes) - set(alone) == {k for k in shapes if k.startswith(("attention/kl", "attention/js"))}
    assert {metric.key for metric in HEAD_METRICS if metric.divergence} == {"kl", "js"}


def test_weight_change_by_matrix_and_head():
    base = tiny_model("gpt_neox")
    model = copy.deepcopy(base)
    with torch.no_grad():  # the value rows of head 2 in layer 1: GPT-NeoX interleaves q, k, v head by head
        model.gpt_neox.layers[1].attention.query_key_value.weight[2 * 24 + 16 : 3 * 24] += 0.5
    matrices, by_head = weight_change(model, base)
    moved = {name: row for name, row in matrices.items() if row["absolute"] > 0}
    assert list(moved) == ["gpt_neox.layers.1.attention.query_key_value.v.weight"]
    (row,) = moved.values()
    assert row["layer"] == 1 and row["absolute"] == pytest.approx(0.5 * (8 * 24) ** 0.5, rel=1e-5)
    expected = np.zeros((2, 3))
    expected[1, 2] = row["absolute"]
    np.testing.assert_allclose(by_head["weights_by_head/v/absolute"], expected, rtol=1e-5)
    before = base.gpt_neox.layers[1].attention.query_key_value.weight[2 * 24 + 16 : 3 * 24].detach().numpy()
    relative = by_head["weights_by_head/v/relative"]
    assert relative[1, 2] == pytest.approx(row["absolute"] / np.linalg.norm(before), rel=1e-5)
    assert all(not values.any() for key, values in by_head.items() if "/v/" not in key)
    assert matrices["gpt_neox.embed_in.weight"]["layer"] is None


def test_query_heads_have_the_weight_change_of_the_key_head_they_read():
    base = tiny_model("llama")  # query heads 0, 1, 2 read key head 0, the others key head 1
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[4:8] *= 3  # key head 1, 4 wide
        model.model.layers[0].self_attn.q_proj.weight[4 * 4 : 5 * 4] *= 2  # query head 4
    by_head = weight_change(model, base)[1]
    for part, layer, expected in (("k", 1, [0, 0, 0, 2, 2, 2]), ("q", 0, [0, 0, 0, 0, 1, 0])):
        relative = np.zeros((2, 6))
        relative[layer] = expected
        np.testing.assert_allclose(by_head[f"weights_by_head/{part}/relative"], relative, rtol=1e-5)
    size = base.model.layers[1].self_attn.k_proj.weight[4:8].detach().double().norm()
    np.testing.assert_allclose(by_head["weights_by_head/k/absolute"][1, 3:], 2 * float(size), rtol=1e-5)
    assert not by_head["weights_by_head/v/absolute"].any() and not by_head["weights_by_head/o/absolute"].any()


@pytest.mark.parametrize("kind", BUILDERS)
def test_bfloat16_models_have_the_numbers_of_the_same_weights_in_float32(kind):
    rough = tiny_model(kind).to(torch.bfloat16)
    exact, got = capture(copy.deepcopy(rough).float(), EXAMPLES), capture(rough, EXAMPLES, batch_size=3)
    for key, values in exact.items():
        assert got[key].dtype == np.float32 and np.isfinite(got[key]).all(), key
        if not key.startswith("neuron/"):  # single neurons near zero are rounding
            assert np.abs(got[key] - values).mean() < 0.03 * np.abs(values).mean() + 0.01, key


def test_gradient_norms_of_accumulated_steps():
    model = tiny_model("gpt2").eval()
    batches = [torch.tensor([example.input_ids]) for example in EXAMPLES]
    for ids in batches:
        (model(ids, labels=ids).loss / len(batches)).backward()
    whole = copy.deepcopy(model)
    whole.zero_grad()
    sum(whole(ids, labels=ids).loss / len(batches) for ids in batches).backward()

    def norm(*parts):
        named = [(n, p.grad.double()) for n, p in whole.named_parameters() if n.startswith(parts)]
        return float(torch.cat([gradient.flatten() for _, gradient in named]).norm())

    norms = gradient_norms(model)
    assert norms["layers"] == pytest.approx([norm("transformer.h.0."), norm("transformer.h.1.")], rel=1e-5)
    assert norms["embeddings"] == pytest.approx(norm("transformer.wte", "transformer.wpe"), rel=1e-5)
    assert norms["final_norm"] == pytest.approx(norm("transformer.ln_f"), rel=1e-5)
    assert norms["total"] == pytest.approx(norm(""), rel=1e-5)


def mistral(window):
    config = MistralConfig(
        num_hidden_layers=2, hidden_size=24, intermediate_size=40, vocab_size=24, num_attention_heads=6,
        num_key_value_heads=2, sliding_window=window, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return MistralForCausalLM(config)


def gemma2(cap):
    config = Gemma2Config(
        num_hidden_layers=2, hidden_size=24, intermediate_size=40, vocab_size=24, num_attention_heads=6,
        num_key_value_heads=2, head_dim=12, sliding_window=64, attn_logit_softcapping=cap, pad_token_id=0,
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def gemma3(window):
    """Its second layer slides."""
    config = tiny_model("gemma3").config
    config.sliding_window, config.layer_types = window, ["full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(config)


def test_a_window_that_spans_the_articles_is_captured_and_a_shorter_one_is_refused():
    assert np.isfinite(capture(mistral(20), EXAMPLES)["attention/entropy/all"]).all()
    with pytest.raises(UserError, match="layers.0.*sliding window"):
        capture(mistral(8), EXAMPLES)
    assert np.isfinite(capture(gemma3(20), EXAMPLES)["attention/entropy/all"]).all()
    with pytest.raises(UserError, match="layers.1.*sliding window"):
        capture(gemma3(19), EXAMPLES)


def test_what_cannot_be_read_rightly_is_refused_by_name():
    with pytest.raises(UserError, match="soft-capped"):
        capture(gemma2(30.0), EXAMPLES)
    assert np.isfinite(capture(gemma2(None), EXAMPLES)["attention/entropy/all"]).all()
    with pytest.raises(UserError, match="not a decoder-only"):
        capture(T5ForConditionalGeneration(T5Config(num_layers=1, num_heads=2, d_model=16, d_ff=8, d_kv=8)), EXAMPLES)
    mixture = MixtralConfig(
        num_hidden_layers=1, hidden_size=24, intermediate_size=8, vocab_size=24, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with pytest.raises(UserError, match="mixture of experts"):
        capture(MixtralForCausalLM(mixture), EXAMPLES)
    prefix = tiny_model("llama")
    for block in prefix.model.layers:
        block.self_attn.is_causal = False
    with pytest.raises(UserError, match="does not attend to all earlier"):
        capture(prefix, EXAMPLES[:1])
    upcast = tiny_model("gpt2", attention="eager")
    for block in upcast.transformer.h:
        block.attn.reorder_and_upcast_attn = True  # a path of GPT-2's own, beside the attention interface
    with pytest.raises(UserError, match="does not go through"):
        capture(upcast, EXAMPLES)


HIDDEN = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 24}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (BloomConfig(n_layer=2, n_head=6, hidden_size=24, vocab_size=24), "BloomAttention.* does not go through"),
        (MptConfig(n_layers=2, n_heads=6, d_model=24, vocab_size=24), "MptAttention"),
        (FalconConfig(**HIDDEN, multi_query=True), "FalconForCausalLM: the projections"),
        (FalconConfig(**HIDDEN, multi_query=False, alibi=True), "FalconAttention.* does not go through"),
        (
            GPTNeoConfig(num_layers=2, num_heads=6, hidden_size=24, vocab_size=24, attention_types=[[["local"], 2]]),
            "GPTNeo|attn",
        ),
        (
            GptOssConfig(**HIDDEN, num_key_value_heads=2, head_dim=4, intermediate_size=8, num_local_experts=2),
            "GptOssDecoderLayer.* not supported",
        ),
        (MambaConfig(num_hidden_layers=2, hidden_size=24, vocab_size=24), "MambaForCausalLM has no attention heads"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_attention_that_is_no_plain_softmax_or_goes_by_another_way_is_refused_by_name(config, said):
    """ALiBi, local attention, attention sinks, attention of a model's own: never a number that is silently wrong."""
    with pytest.raises(UserError, match=said):
        capture(AutoModelForCausalLM.from_config(config), EXAMPLES)


def test_a_mask_of_its_own_in_a_layer_is_found_also_where_it_takes_the_place_of_one_that_passed():
    """Each layer is handed a mask made for it alone: memory, and so identity, of the last one's is free again."""
    model = tiny_model("llama").eval()
    causal, first = torch.ones(1, 1, 20, 20, dtype=torch.bool).tril(), []

    def whole(module, args, kwargs):
        mask = causal.clone()
        first.append(id(mask))
        return args, {**kwargs, "attention_mask": mask}

    def short(module, args, kwargs):
        masks = [causal.triu(-3)]
        while len(masks) < 1000 and id(masks[-1]) != first[0]:
            masks.append(causal.triu(-3))
        return args, {**kwargs, "attention_mask": masks[-1]}

    for block, hook in zip(model.model.layers, (whole, short), strict=True):
        block.self_attn.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(UserError, match="layers.1 does not attend to all earlier"):
        capture(model, [EXAMPLES[1]])


def test_masks_that_cannot_be_read_are_named():
    model = tiny_model("llama").eval()
    BlockMask = type("BlockMask", (), {})  # what flex_attention is handed, which takes seconds to make
    for block in model.model.layers:
        block.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": BlockMask()}), with_kwargs=True
        )
    with pytest.raises(UserError, match="BlockMask.*attn_implementation='sdpa'"):
        capture(model, EXAMPLES)


OTHERS = {
    "cohere": (CohereConfig, {"use_qk_norm": True}),
    "glm": (GlmConfig, {"head_dim": 4}),
    "granite": (GraniteConfig, {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 3.0}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "olmo2": (Olmo2Config, {}),
    "phi": (PhiConfig, {"num_key_value_heads": 6}),
    "phi3": (Phi3Config, {}),
    "stablelm": (StableLmConfig, {"use_parallel_residual": True}),
    "gpt2 with inverse layer scaling": (GPT2Config, {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 without scaling": (GPT2Config, {"scale_attn_weights": False}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_are_captured_as_their_eager_attention_and_on_either_side_of_padding(kind):
    build, own = OTHERS[kind]
    shape = {
        "num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": 24, "num_attention_heads": 6,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": 0,
    }  # fmt: skip
    if build is GPT2Config:
        shape = {"n_layer": 2, "n_embd": 24, "n_head": 6, "vocab_size": 24}
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(build(**{**shape, **own}))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.25 if parameter.ndim > 1 else 0.1) + (parameter == 1))
    model = changed(base)
    alone = capture(model, EXAMPLES, base=base, batch_size=1)
    for side in ("left", "right"):
        padded = capture(model, EXAMPLES, base=base, batch_size=3, padding_side=side, pad_id=7)
        for key in alone:
            np.testing.assert_allclose(padded[key], alone[key], rtol=2e-4, atol=2e-5, err_msg=key)
    example = EXAMPLES[1]
    maps, base_maps = eager_outputs(model, example)[0], eager_outputs(base, example)[0]
    for layer, head in np.ndindex(maps.shape[:2]):
        expected = statistics(maps[layer, head].tolist(), example, example.queries, base_maps[layer, head].tolist())
        for name in attention_forms(divergences=True):
            got = alone[f"attention/{name}/summary"][1, layer, head]
            assert got == pytest.approx(expected[name], rel=2e-4, abs=2e-5), (name, layer, head)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.transformer.h[1].mlp.c_fc.weight[0].fill_(torch.nan), r"h\.1\.mlp\.c_fc\.weight holds NaN"),
        (lambda m: m.transformer.ln_f.bias[0].fill_(torch.inf), r"ln_f\.bias holds NaN or infinite"),
    ],
)
def test_weights_that_are_not_finite_are_named(spoil, message):
    model = tiny_model("gpt2")
    with torch.no_grad():
        spoil(model)
    with pytest.raises(UserError, match=message):
        capture(model, EXAMPLES)


def test_bad_probe_sets_and_pairs_of_models_are_named():
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="empty"):
        capture(model, [])
    with pytest.raises(UserError, match="article-7 leaves no summary position"):
        capture(model, [*EXAMPLES, Example("article-7", (1, 2, 3), 3, 0, 2)])
    with pytest.raises(UserError, match="long has 70 tokens; the model reads at most 64"):
        capture(model, [Example("long", (1,) * 70, 60, 0, 50)])
    deeper = copy.deepcopy(model.config)
    deeper.n_layer = 3
    with pytest.raises(UserError, match="layers is 2 in the model and 3 in base"):
        capture(model, EXAMPLES, base=type(model)(deeper))
    finer = copy.deepcopy(model.config)
    finer.n_head = 4
    with pytest.raises(UserError, match="heads is 3 in the model and 4 in base"):
        weight_change(model, type(model)(finer))
