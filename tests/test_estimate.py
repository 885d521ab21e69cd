"""The estimate's formulas against what PyTorch counts: operations, saved tensors, parameters; and the command."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_examples
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from summlens.artifacts import Run, is_whole
from summlens.capture import capture, weight_change
from summlens.core.config import parse_command_line, preset
from summlens.core.errors import UserError
from summlens.training import estimate

GPT2 = GPT2Config(
    n_layer=3, n_head=4, n_embd=64, n_positions=128, vocab_size=300, bos_token_id=0, eos_token_id=0,
    activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
LLAMA = LlamaConfig(
    num_hidden_layers=3, num_attention_heads=4, hidden_size=64, intermediate_size=160, vocab_size=300,
    pad_token_id=None, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
MODELS = [(GPT2LMHeadModel, GPT2), (LlamaForCausalLM, LLAMA)]
BATCH, LENGTH, TARGETS = 3, 100, 7


def forward(model, half=False):
    ids = torch.randint(300, (BATCH, LENGTH))
    kept = torch.arange(LENGTH - TARGETS, LENGTH)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        return model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits


@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_the_shape_is_that_of_the_model_and_its_weights_take_no_memory(kind, config):
    model, shape = kind(config), estimate.shape_of(config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    blocks = model.transformer.h if kind is GPT2LMHeadModel else model.model.layers
    assert shape.in_blocks == sum(parameter.numel() for parameter in blocks.parameters())
    assert (shape.layers, shape.heads, shape.width, shape.vocabulary) == (3, 4, 64, 300)
    assert shape.gated == (kind is LlamaForCausalLM)


def test_gpt2s_public_shape_has_its_public_size():
    assert estimate.shape_of(GPT2Config()).parameters == 124_439_808


@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_operations_are_those_that_pytorch_counts(kind, config):
    """The counter takes attention maps in full (twice the causal half) and no norms and biases."""
    model, shape = kind(copy.deepcopy(config)), estimate.shape_of(config)
    model.set_attn_implementation("eager")  # changes the configuration, too
    with FlopCounterMode(display=False) as counter:
        forward(model).sum().backward()
    expected = estimate.operations(shape, [LENGTH] * BATCH, TARGETS)
    causal = 6 * shape.layers * shape.width * LENGTH**2 * BATCH
    assert counter.get_total_flops() == pytest.approx(expected + causal, rel=0.02)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_activations_are_what_pytorch_saves_for_the_backward_pass(kind, config, half):
    """Two blocks: what three save more than one does. The statistics of norms and attention are not in the formula."""

    def saved(layers):
        own = copy.deepcopy(config)
        own.num_hidden_layers = layers
        model, found = kind(own), {}
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def keep(tensor):
            if tensor.untyped_storage()._cdata not in weights:
                found[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kept_alive = forward(model, half)
        del kept_alive
        copies = 2 * sum(p.numel() for p in model.parameters() if p.ndim > 1) * half  # autocast's: counted apart
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values()) - copies

    two = dataclasses.replace(estimate.shape_of(config), layers=2)
    expected = estimate.activations(two, BATCH * LENGTH, checkpointing=False, half=half)
    assert saved(3) - saved(1) == pytest.approx(expected, rel=0.06)


def test_checkpointing_takes_less_and_dropout_more():
    shape = estimate.shape_of(GPT2)
    plain = estimate.activations(shape, 100, checkpointing=False, half=False)
    assert estimate.activations(shape, 100, checkpointing=True, half=False) < plain / 2
    assert estimate.activations(dataclasses.replace(shape, dropout=True), 100, False, False) > plain


def test_captures_take_what_the_estimate_says_and_those_of_the_full_preset_under_300_kb_a_step(tmp_path):
    """The names and shapes of a capture of a small model, whose sizes all differ, with GPT-2's sizes in their place."""
    small = GPT2Config(**{**GPT2.to_dict(), "n_layer": 4, "n_head": 6, "n_embd": 96})
    model, base = GPT2LMHeadModel(small), GPT2LMHeadModel(small)
    matrices, by_head = weight_change(model, base)
    arrays = capture(model, tiny_examples(), base=base) | by_head
    full, shape, last = preset("full"), estimate.shape_of(GPT2Config()), 53_835
    sizes = {3: full.probe_articles, 4: 12, 5: 13, 6: 12, 96: 768, 384: 3072}
    random = np.random.default_rng(0)
    large = {  # spread over decades as a capture of the demo is, no two alike
        key: 10 ** random.normal(-1, 0.5, [sizes[size] for size in array.shape]).astype(np.float32)
        for key, array in arrays.items()
    }
    info = {"weights": {f"{turn}.{name}": row for turn in range(3) for name, row in matrices.items()}}
    run, npz, everything = Run(tmp_path), {}, {}
    for step, whole in enumerate([False, True]):
        run.write_step(step, {**info, "whole": whole}, large)
        count = sum(array.size for array in run.read_step(step).arrays.values())
        assert estimate.captured_numbers(shape, full.probe_articles, whole) == count
        files = [run.metrics / f"step_{step:06d}{suffix}" for suffix in (".npz", ".json")]
        npz[whole], everything[whole] = files[0].stat().st_size, sum(file.stat().st_size for file in files)

    captured = [*range(0, last, full.capture_steps), last]
    whole = sum(is_whole(step, full.capture_steps, last) for step in captured)
    of_run = [size[True] * whole + size[False] * (len(captured) - whole) for size in (everything, npz)]
    assert of_run[0] / len(captured) < 300e3 and everything[False] < 230e3
    expected = estimate.captures_bytes(shape, full.probe_articles, full.capture_steps, last)
    assert expected == pytest.approx(of_run[1], rel=0.05)


def test_the_full_preset_is_that_of_the_documentation():
    """287,113 articles, three epochs: 53,835 steps; within 16 GB; at 400 TFLOP/s well under an hour."""
    sizes = {"train": 287_113, "validation": 13_368, "test": 11_490}
    found = estimate.of(preset("full"), estimate.shape_of(GPT2Config()), sizes, 848, 70, 400e12, half=True)
    assert found.steps == 53_835
    assert found.tokens * 3 == pytest.approx(730e6, rel=0.01)
    assert sum(found.memory.values()) < 16e9
    assert found.operations / 400e12 < found.seconds < 3600
    assert found.operations < 5.4e17  # six a parameter and token: the unembedding too, everywhere


def test_gradients_moments_and_checkpoints_are_of_what_learns():
    """By hand: two blocks of three; the two matrices and the bias that heads lie in; LoRA on four projections."""
    sizes = {"train": 1000, "validation": 100, "test": 100}
    block, attention = 12 * 64**2 + 13 * 64, 64 * 192 + 192 + 64 * 64
    adapters = 8 * (64 + 192 + 64 + 64 + 64 + 256 + 256 + 64)
    whole = estimate.shape_of(GPT2).parameters
    for values, learning, checkpoint in (
        ({"trainable": "layers 0,2"}, 2 * block, 4 * whole + 8 * 2 * block),
        ({"trainable": "heads 1.3,1.2"}, attention, 4 * whole + 8 * attention),
        ({"lora": True, "trainable": "layers 1"}, adapters, 12 * adapters),
    ):
        config = preset("full", **values)
        found = estimate.of(config, estimate.shape_of(GPT2, config), sizes, 100, 10, 1e12, half=True)
        assert (found.memory["gradients"], found.memory["optimiser"]) == (4 * learning, 8 * learning)
        assert found.disk["checkpoints"] == 2 * checkpoint
        assert found.memory["base model"] == 4 * whole * (1 + config.lora)


def test_twice_the_speed_is_half_the_time_and_checkpointing_less_memory():
    sizes = {"train": 1000, "validation": 100, "test": 100}
    shape = estimate.shape_of(GPT2)
    one = estimate.of(preset("full"), shape, sizes, 100, 10, 1e12, half=True)
    two = estimate.of(preset("full", gradient_checkpointing=True), shape, sizes, 100, 10, 2e12, half=True)
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert sum(two.memory.values()) < sum(one.memory.values())


def test_controls_and_seeds_each_cost_a_training_more():
    sizes = {"train": 1000, "validation": 100, "test": 100}
    shape = estimate.shape_of(GPT2)
    alone = estimate.of(preset("full"), shape, sizes, 100, 10, 1e12, half=True)
    three = estimate.of(preset("full", control="shuffled-pairs", seeds=2), shape, sizes, 100, 10, 1e12, half=True)
    assert three.seconds == pytest.approx(3 * alone.seconds)
    times = {name: three.disk[name] / size for name, size in alone.disk.items()}
    assert times == pytest.approx({"checkpoints": 2, "model": 3, "captures": 3})


def test_the_command_counts_what_is_not_known_and_loads_no_weights(monkeypatch):
    monkeypatch.setattr("summlens.model.loading.load_model", None)
    config, options = parse_command_line(
        ["--estimate", "--speed", "2", "--train-articles", "30", "--validation-articles", "5", "--test-articles", "5"]
    )
    assert options.estimate
    text = estimate.report(config, options.speed)
    assert "30 training articles" in text and "2 steps of 16 articles" in text
    assert "2 TFLOP/s (given)" in text
    measured = estimate.measured_speed(GPT2, config, 64, 8)
    assert np.isfinite(measured) and measured > 0


def test_a_speed_without_an_estimate_is_refused():
    with pytest.raises(UserError, match="--speed is for --estimate"):
        parse_command_line(["--speed", "3"])
