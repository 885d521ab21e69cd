"""Training a part of a model: what learns, that nothing else does, bit for bit, and adapters against plain algebra."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from test_distributed import in_two_processes
from test_training import make_study
from tiny import BUILDERS, tiny_model

from summlens.capture import capture, weight_change
from summlens.core import config as configuration
from summlens.core.errors import UserError
from summlens.core.selection import parse
from summlens.model import trainable
from summlens.training import checkpoints, fine_tune

SHORT = {"max_steps": 5, "capture_steps": 5, "weight_decay": 0.3}


def with_model(study, kind):
    """The study with a tiny model of another architecture, whose vocabulary is smaller."""
    base = tiny_model(kind).eval()

    def shorter(one):
        return dataclasses.replace(one, input_ids=tuple(token % base.config.vocab_size for token in one.input_ids))

    parts = {name: [shorter(one) for one in getattr(study, name)] for name in ("train", "validation", "probe")}
    return dataclasses.replace(study, base=base, **parts)


def entries_of_head(kind, head, size):
    """Written by hand: {parameter of layer 1: index of what belongs to a head of so many dimensions}, of width 24."""
    own = slice(head * size, (head + 1) * size)
    if kind == "gpt2":
        fused = np.r_[tuple(slice(part * 24 + own.start, part * 24 + own.stop) for part in range(3))]
        block = "transformer.h.1.attn."
        return {
            f"{block}c_attn.weight": np.s_[:, fused],
            f"{block}c_attn.bias": fused,
            f"{block}c_proj.weight": own,
        }
    if kind == "gpt_neox":
        block, fused = "gpt_neox.layers.1.attention.", slice(3 * own.start, 3 * own.stop)
        names = {f"{block}query_key_value.{what}": fused for what in ("weight", "bias")}
        return {**names, f"{block}dense.weight": np.s_[:, own]}
    block = "model.layers.1.self_attn."
    return {f"{block}q_proj.weight": own, f"{block}o_proj.weight": np.s_[:, own]}


@pytest.mark.parametrize(("kind", "size"), [("gpt2", 8), ("gpt_neox", 8), ("llama", 4)])
def test_of_a_named_head_every_own_number_learns_and_no_other_bit_changes(tmp_path, kind, size):
    study = with_model(make_study(tmp_path, trainable="heads 1.2", **SHORT), kind)
    tuned = fine_tune.fine_tune(study)
    entries, changed = entries_of_head(kind, 2, size), 0
    for (name, before), after in zip(study.base.named_parameters(), tuned.parameters(), strict=True):
        own = np.zeros(before.shape, dtype=bool)
        if name in entries:
            own[entries[name]] = True
        moved = (before != after).numpy()
        # A key's bias shifts all scores of a row alike: its gradient is zero but for rounding.
        assert not (moved & ~own).any() and moved.sum() >= own.sum() - size, name
        changed += own.sum()
    assert changed == trainable.count(study.config, study.base) > 0
    by_head = study.run.read_step(5).arrays["weights_by_head/q/absolute"]
    assert np.argwhere(by_head).tolist() == [[1, 2]]
    assert all(parameter.requires_grad and not parameter._backward_hooks for parameter in tuned.parameters())


@pytest.mark.parametrize("named", ["layers 1", "random like layers 0"])
def test_of_named_layers_everything_learns_and_nothing_else(tmp_path, named):
    study = make_study(tmp_path, trainable=named, **SHORT)
    tuned = fine_tune.fine_tune(study)
    for (name, before), after in zip(study.base.named_parameters(), tuned.named_parameters(), strict=True):
        assert torch.equal(before, after[1]) != name.startswith("transformer.h.1."), name
    expected = sum(parameter.numel() for parameter in study.base.transformer.h[1].parameters())
    assert trainable.count(study.config, study.base) == expected
    gradients = study.run.read_step(5).info["gradients"]
    assert gradients["layers"][0] == gradients["embeddings"] == 0 < gradients["layers"][1]


def test_without_a_selection_all_of_the_model_learns(tmp_path):
    study = make_study(tmp_path)
    assert trainable.count(study.config, study.base) == sum(p.numel() for p in study.base.parameters())


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize(("named", "layers"), [("all", (0, 1)), ("layers 1", (1,))])
def test_adapters_sit_on_every_projection_of_the_layers_and_merge_as_defined(kind, named, layers):
    base = tiny_model(kind).eval()
    config = configuration.preset("demo", lora=True, lora_rank=3, trainable=named)
    expected = {}
    for name, module in base.named_modules():
        if hasattr(module, "weight") and module.weight.ndim == 2 and any(f".{layer}." in name for layer in layers):
            transposed = kind == "gpt2"
            inputs, outputs = module.weight.shape if transposed else reversed(module.weight.shape)
            expected[name] = (transposed, module.weight.detach().clone().double(), inputs, outputs)
    assert trainable.count(config, base) == sum(3 * (i + o) for _, _, i, o in expected.values())

    before = torch.random.get_rng_state()
    part = trainable.Part(base, config)
    assert torch.equal(before, torch.random.get_rng_state())
    adapters = {name: p for name, p in part.inside.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in adapters.values()) == sum(3 * (i + o) for _, _, i, o in expected.values())
    assert {name.split(".lora_")[0] for name in adapters} == set(expected)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    held = {name: p.clone() for name, p in part.model.named_parameters()}
    ids = torch.arange(12).unsqueeze(0)
    logits = part.model(input_ids=ids).logits

    plain = part.plain()
    for name, (transposed, weight, _, _) in expected.items():
        a, b = (adapters[f"{name}.lora_{which}.default.weight"].double() for which in "AB")
        delta = 2 * b @ a
        merged = plain.get_submodule(name).weight.double()
        torch.testing.assert_close(merged, weight + (delta.T if transposed else delta), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(plain(input_ids=ids).logits, logits, rtol=1e-4, atol=1e-4)
    for name, parameter in part.model.named_parameters():
        assert torch.equal(parameter, held[name]), name  # the model in training stays what it was
    released = part.release()
    assert released.state_dict().keys() == tiny_model(kind).state_dict().keys()
    assert type(released) is type(base) and not released.training


def test_captures_while_adapters_learn_are_those_of_the_merged_model(tmp_path):
    study = make_study(tmp_path, lora=True, trainable="layers 1", **SHORT)
    before = {name: p.clone() for name, p in study.base.named_parameters()}
    tuned = fine_tune.fine_tune(study)
    for name, parameter in study.base.named_parameters():
        assert torch.equal(parameter, before[name]), name
    adapted = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    for name, parameter in tuned.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in [f"transformer.h.1.{one}" for one in adapted]), name

    step = study.run.read_step(5)
    for key, values in capture(tuned, study.probe, base=study.base).items():
        np.testing.assert_allclose(step.arrays[key], values, rtol=1e-5, atol=1e-7, err_msg=key)
    matrices, by_head = weight_change(tuned, study.base)
    assert step.info["weights"] == matrices
    assert by_head["weights_by_head/q/absolute"][1].min() > 0 == by_head["weights_by_head/q/absolute"][0].max()
    gradients = step.info["gradients"]
    assert gradients["layers"][0] == gradients["embeddings"] == gradients["final_norm"] == 0
    assert gradients["layers"][1] == gradients["total"] > 0
    assert study.run.read_step(0).arrays["attention/kl/all"].max() == 0  # B is zero at first


@pytest.mark.parametrize("values", [{"lora": True}, {"trainable": "heads 0.1,1.0"}])
def test_an_interrupted_run_that_resumes_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, values):
    """By SIGTERM in the middle of a step, between two checkpoints; weights and captures equal bit for bit."""
    values = {**values, "max_steps": 8, "capture_steps": 7}
    study, stopped = (make_study(tmp_path / name, **values) for name in ("whole", "stopped"))
    whole = fine_tune.fine_tune(study)

    class Terminated(fine_tune.Progress):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(fine_tune, "Progress", Terminated)
        fine_tune.fine_tune(stopped)
    assert checkpoints.newest_checkpoint(stopped.run).name == "checkpoint-5"
    torch.manual_seed(99)
    resumed = fine_tune.fine_tune(stopped, resume=True)
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert stopped.run.steps() == study.run.steps()
    for step in study.run.steps():
        mine, other = study.run.read_step(step), stopped.run.read_step(step)
        assert mine.info == other.info
        for key, array in mine.arrays.items():
            np.testing.assert_array_equal(other.arrays[key], array, err_msg=f"{step} {key}")
    newest = study.run.checkpoints / "checkpoint-8"
    assert (newest / ("adapter_model.safetensors" if "lora" in values else "model.safetensors")).is_file()


@pytest.mark.parametrize("values", [{"lora": True}, {"trainable": "heads 0.1,1.0"}])
def test_two_processes_train_the_same_part(tmp_path, values):
    options = {"accumulation": 2, "gradient_checkpointing": True, "capture_steps": 3, "max_steps": 3, **values}
    one, two = (make_study(tmp_path / name, **options) for name in ("one", "two"))
    for study in (one, two):
        for module in study.base.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    def weights(study):
        return {name: value.numpy() for name, value in fine_tune.fine_tune(study).state_dict().items()}

    expected = weights(one)
    for got in in_two_processes(weights, two):
        for name, weight in expected.items():
            np.testing.assert_allclose(got[name], weight, rtol=0, atol=2e-5, err_msg=name)
    moved = [name for name, weight in expected.items() if (weight != one.base.state_dict()[name].numpy()).any()]
    assert moved
    assert two.run.steps() == [0, 3]


# --- what may be named


def test_random_places_are_others_drawn_by_seed():
    drawn = {str(parse("random like layers 2,3,5").within(12, 12, seed)) for seed in range(40)}
    assert len(drawn) > 20
    for text in drawn:
        assert len(parse(text).places) == 3 and not {2, 3, 5} & set(parse(text).places)
    heads = parse("random like heads 1.2,0.0").within(2, 3, 7)
    assert heads == parse("random like heads 0.0,1.2").within(2, 3, 7)
    assert len(heads.places) == 2 and not {(0, 0), (1, 2)} & set(heads.places)
    assert str(parse("random like heads 1.2,0.0")) == "random like heads 0.0,1.2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers 2", "there is no 2, the model has layers 0 to 1$"),
        ("heads 1.3", "there is no 1.3, the model has layers 0 to 1 of heads 0 to 2"),
        ("random like layers 0,1", "only 0 other layers: name at most 1"),
        ("random like heads 0.0,0.1,0.2,1.0", "only 2 other heads: name at most 3"),
    ],
)
def test_what_the_model_lacks_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse(text).within(2, 3, 0)


@pytest.mark.parametrize(
    "text", ["", "some", "layers", "layers 1.2", "layers 1,", "layers -1", "heads 3", "heads 1.2.3", "random like all"]
)
def test_what_names_nothing_is_refused(text):
    with pytest.raises(UserError, match="--trainable must be all, 'layers 2,3,5'"):
        configuration.parse_command_line(["--trainable", text])


def test_adapters_of_heads_or_without_peft_are_refused(monkeypatch):
    with pytest.raises(UserError, match="--lora adapts whole projections"):
        configuration.parse_command_line(["--lora", "--trainable", "heads 1.2"])
    with pytest.raises(UserError, match="--lora-rank must be above zero"):
        configuration.parse_command_line(["--lora", "--lora-rank", "0"])
    monkeypatch.setattr(configuration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--lora needs the package peft: install it with .*pip install peft"):
        configuration.parse_command_line(["--lora"])
