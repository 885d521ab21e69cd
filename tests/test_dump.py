"""Dumped tensors read back: against eager attention and the test's own hooks, and what is refused."""

import dataclasses
import json
import runpy
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_examples, tiny_model

from summlens.analysis.dump import dump_tensors, planned_bytes
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.model.architecture import architecture


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_what_is_read_back_is_what_the_model_computes(kind, tmp_path):
    model, examples = tiny_model(kind), tiny_examples()
    index = json.loads(dump_tensors(model, examples, tmp_path, name="base").read_text())
    assert model.training and index["layers"] == [0, 1] and index["name"] == "base"
    eager, found = tiny_model(kind, attention="eager").eval(), architecture(model)
    written = 0
    for example, article in zip(examples, index["articles"], strict=True):
        assert (article["id"], article["input_ids"]) == (example.id, list(example.input_ids))
        with torch.no_grad():
            out = eager(torch.tensor([example.input_ids]), output_attentions=True, output_hidden_states=True)
        for layer in (0, 1):
            tensors = load_file(tmp_path / "base" / article["files"][str(layer)])
            length = len(example.input_ids)
            assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
                "attention": (found.heads, length, length),
                "query": (found.heads, length, found.head_dim),
                "key": (found.key_heads, length, found.head_dim),
                "residual": (length, found.width),
                "attention_output": (length, found.width),
                "mlp_output": (length, found.width),
                "mlp_hidden": (length, found.neurons),
            }
            torch.testing.assert_close(tensors["attention"], out.attentions[layer][0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(tensors["attention"].sum(-1), torch.ones(found.heads, length))
            written += sum(tensor.nbytes for tensor in tensors.values())
        # transformers' own hidden_states: index 1 is the output of block 0 (the last one is after the final norm)
        first = load_file(tmp_path / "base" / article["files"]["0"])
        torch.testing.assert_close(first["residual"], out.hidden_states[1][0], atol=1e-5, rtol=1e-4)
        if kind != "gpt_neox":  # whose parallel residual adds both to the block's input too, but in another order
            added = first["residual"] - out.hidden_states[0][0]
            torch.testing.assert_close(first["attention_output"] + first["mlp_output"], added, atol=1e-4, rtol=1e-3)
    assert written == planned_bytes(found, examples)


def test_only_the_chosen_layers_are_written(tmp_path):
    model, examples = tiny_model("gpt2"), tiny_examples()[:1]
    index = json.loads(dump_tensors(model, examples, tmp_path, [1, 1]).read_text())
    assert index["layers"] == [1]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "article_000_layer_001.safetensors",
        "index.json",
    ]
    assert 2 * planned_bytes(architecture(model), examples, [1]) == planned_bytes(architecture(model), examples)


@pytest.mark.parametrize("layer", [2, -1])
def test_a_layer_that_does_not_exist(layer, tmp_path):
    with pytest.raises(UserError, match=rf"^layer {layer} does not exist: the model has layers 0 to 1$"):
        dump_tensors(tiny_model("gpt2"), tiny_examples(), tmp_path, [0, layer])
    assert not list(tmp_path.iterdir())


def test_no_articles_and_no_room(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no probe articles"):
        dump_tensors(tiny_model("gpt2"), [], tmp_path)
    size = planned_bytes(architecture(tiny_model("gpt2")), tiny_examples())
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(size - 1))
    with pytest.raises(UserError, match="MiB free: choose fewer"):
        dump_tensors(tiny_model("gpt2"), tiny_examples(), tmp_path / "new")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(size))
    assert dump_tensors(tiny_model("gpt2"), tiny_examples(), tmp_path / "new").is_file()


SCRIPT = Path(__file__).parents[1] / "analyze_latent_space.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a base model, a fine-tuned one and one checkpoint."""
    run = Run(tmp_path_factory.mktemp("run"))
    for seed, folder in enumerate((run.root / "base", run.checkpoints / "checkpoint-4", run.model_outputs)):
        tiny_model("gpt2", seed).save_pretrained(folder)
    probe = {"examples": [dataclasses.asdict(example) for example in tiny_examples()]}
    run.write_json("run.json", {"config": {"model": str(run.root / "base")}, "probe": probe})
    return run


def script(monkeypatch, *arguments):
    """What the script exits with: None where it ends well."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stopped:
        return stopped.code


def test_script_states_the_size_of_everything_first_and_refuses_what_does_not_fit(run, monkeypatch, tmp_path, caplog):
    """Three models of the first two articles: refused whole, also where the disk has room for two of the three."""
    one = planned_bytes(architecture(tiny_model("gpt2")), tiny_examples()[:2])
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(3 * one - 1))
    options = ("--dump-tensors", tmp_path, "--dump-steps", "base,4,fine_tuned")
    with caplog.at_level("INFO", "summlens"):
        assert "MiB free: choose fewer" in script(monkeypatch, "--output-dir", run.root, *options)
    assert f"2 articles of 3 models: {3 * one / 2**20:.1f} MiB below {tmp_path}" in caplog.messages
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(3 * one))
    assert script(monkeypatch, "--output-dir", run.root, *options) is None
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) >= 3 * one


def test_script_dumps_each_step_from_its_own_model(run, monkeypatch):
    options = ("--dump-tensors", "--dump-layers", "1", "--dump-articles", 2, "--dump-steps", "base,4,fine_tuned")
    assert script(monkeypatch, "--output-dir", run.root, *options) is None
    for seed, name in enumerate(("base", "4", "fine_tuned")):
        index = json.loads((run.root / "tensors" / name / "index.json").read_text())
        assert [article["id"] for article in index["articles"]] == ["a", "b"] and index["layers"] == [1]
        with torch.no_grad():
            ids = torch.tensor([index["articles"][1]["input_ids"]])
            maps = tiny_model("gpt2", seed, attention="eager").eval()(ids, output_attentions=True).attentions
        tensors = load_file(run.root / "tensors" / name / index["articles"][1]["files"]["1"])
        torch.testing.assert_close(tensors["attention"], maps[1][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dump-layers", "5"), "layer 5 does not exist"),
        (("--dump-layers", "one"), "'one' is no list of layers"),
        (("--dump-steps", "7"), "checkpoint-7 is not there; checkpoints of this run: [4]"),
        (("--dump-steps", "last"), "'last' is no step"),
        (("--dump-articles", "4"), "the run has 3 probe articles"),
    ],
)
def test_script_refuses_in_one_line(run, monkeypatch, tmp_path, options, said):
    code = script(monkeypatch, "--output-dir", run.root, "--dump-tensors", tmp_path, *options)
    assert said in code and "\n" not in code
    assert not list(tmp_path.iterdir())
