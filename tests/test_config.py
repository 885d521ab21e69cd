"""The command line: presets, overrides, refusals, and a --help that needs nothing heavy."""

import dataclasses
import subprocess
import sys

import pytest

from summlens.core.config import PRESETS, PROJECT, Config, parse_command_line, preset
from summlens.core.errors import UserError


def test_the_full_preset_is_what_the_documentation_says():
    full = preset("full")
    assert (full.model, full.dataset, full.dataset_config) == ("openai-community/gpt2", "abisee/cnn_dailymail", "3.0.0")
    assert (full.batch_size, full.accumulation, full.effective_batch) == (16, 1, 16)
    assert (full.epochs, full.learning_rate) == (3.0, 5e-5)
    assert (full.train_articles, full.validation_articles, full.test_articles) == (0, 0, 0)


@pytest.mark.parametrize(("name", "train", "held"), [("small", 500, 50), ("medium", 5_000, 500)])
def test_the_smaller_presets_have_their_numbers_of_articles(name, train, held):
    small = preset(name)
    assert (small.train_articles, small.validation_articles, small.test_articles) == (train, held, held)


def test_single_values_override_a_preset_and_only_those():
    config, options = parse_command_line(
        ["--preset", "full", "--learning-rate", "1e-4", "--max-steps", "7", "--resume"]
    )
    assert config == dataclasses.replace(preset("full"), learning_rate=1e-4, max_steps=7)
    assert options.resume


@pytest.mark.parametrize(
    ("arguments", "processes", "split"),
    [
        (["--preset", "full"], 1, (16, 1)),
        (["--preset", "full"], 8, (2, 8)),
        (["--preset", "full"], 16, (1, 16)),
        (["--preset", "small"], 4, (2, 8)),  # four passes of 2 articles in each already
        (["--preset", "small"], 16, None),
        (["--preset", "full"], 3, None),
        (["--preset", "full", "--accumulation", "2"], 4, None),
        (["--preset", "full", "--batch-size", "4", "--accumulation", "4"], 4, (4, 4)),
        (["--preset", "full", "--batch-size", "16"], 2, None),
    ],
)
def test_processes_share_the_articles_of_a_step(arguments, processes, split):
    if split is None:
        with pytest.raises(UserError, match=f"{processes} processes cannot share --accumulation"):
            parse_command_line(arguments, processes=processes)
    else:
        config, _ = parse_command_line(arguments, processes=processes)
        assert (config.batch_size, config.accumulation) == split


def test_every_field_has_an_option_with_help():
    for field in dataclasses.fields(Config):
        assert field.metadata["help"], field.name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes_its_own_check(name):
    parse_command_line(["--preset", name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be above zero"),
        (["--learning-rate", "-1"], "--learning-rate must be above zero"),
        (["--learning-rate", "nan"], "--learning-rate must be above zero"),
        (["--seed", "-3"], "--seed must be zero or more"),
        (["--generation-backend", "vllm", "--num-beams", "4"], "vllm is greedy here"),
        (["--prompt", "no place"], "--prompt must contain {article} exactly once"),
        (["--prompt", "{article}{article}"], "--prompt must contain {article} exactly once"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(arguments, message):
    with pytest.raises(UserError, match=message):
        parse_command_line(arguments)


def test_the_template_resolves_its_line_break():
    assert parse_command_line([])[0].template == "{article}\nTL;DR:"
    assert (
        parse_command_line(["--prompt", "Text: {article}\\n\\nSummary:"])[0].template == "Text: {article}\n\nSummary:"
    )


def test_bundled_paths_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert preset("demo").resolve("data/model") == str(PROJECT / "data/model")
    (tmp_path / "data" / "model").mkdir(parents=True)
    assert preset("demo").resolve("data/model") == "data/model"  # the user's own comes first
    assert preset("demo").resolve("openai-community/gpt2") == "openai-community/gpt2"


@pytest.mark.parametrize("script", ["gpt2_summarization.py", "analyze_latent_space.py", "visualize_metrics.py"])
def test_help_imports_no_torch(script):
    code = f"""
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({str(PROJECT / script)!r}, run_name="__main__")
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
heavy = {{"torch", "transformers", "datasets", "matplotlib", "plotly", "sklearn", "umap"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert "--output-dir" in done.stdout
