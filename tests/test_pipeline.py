"""The scripts as people run them: end to end on a tiny run, interrupted and resumed, and refusing bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import synthetic_run
from safetensors.numpy import load_file

from summlens import figures, names
from summlens.artifacts import Run
from summlens.core.config import PROJECT
from summlens.report import page

TINY = [
    *("--train-articles", "64", "--validation-articles", "8", "--test-articles", "6", "--probe-articles", "5"),
    *("--epochs", "2", "--batch-size", "8", "--capture-steps", "5", "--evaluation-steps", "8"),
    *("--checkpoint-steps", "3", "--max-new-tokens", "24", "--resamples", "200"),
]


def command(script, *arguments):
    return [sys.executable, str(PROJECT / script), *map(str, arguments)]


# One thread each: what a thread adds up in another order would not be equal bit for bit.
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(script, *arguments, **options):
    return subprocess.run(
        command(script, *arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=300, **options
    )


def until(path, process):
    """Wait until `process` has written `path`."""
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run from another working directory: training and evaluation, analysis, figures and report."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("gpt2_summarization.py", "--output-dir", folder / "run", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Run(folder / "run"), done


def test_a_run_writes_what_it_promises(finished):
    artifacts, done = finished
    assert artifacts.steps() == [0, 5, 10, 15, 16]
    record = artifacts.read_json("run.json")
    assert record["state"] == "finished"
    assert record["model"]["class"] == "GPT2LMHeadModel"
    assert len(record["probe"]["examples"]) == 5
    assert (artifacts.model_outputs / "model.safetensors").is_file()
    assert list(artifacts.logs.glob("events.*"))
    rows = list(artifacts.read_predictions())
    evaluation = artifacts.read_json("evaluation.json")
    assert len(rows) == evaluation["articles"] == 6
    for system in ("zero_shot", "fine_tuned", "lead3"):
        mean = np.mean([row["scores"][system]["rouge1"] for row in rows])
        assert evaluation["systems"][system]["scores"]["rouge1"]["mean"] == pytest.approx(mean)
    assert "heads whose attention changed most" in done.stderr
    assert "Traceback" not in done.stderr
    assert "FutureWarning" not in done.stderr


def test_tensorboard_has_every_line_under_one_name(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0].logs), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"training/loss", "training/learning_rate", "training/gradient_norm", "validation/loss"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("attention_kl/layer_00")] == [0, 5, 10, 15, 16]
    assert "attention_entropy/heads" in tags["images"]
    assert any("summaries" in tag for tag in tags["tensors"])


def test_analysis_and_report_follow_from_the_files(finished):
    artifacts, _ = finished
    done = run("analyze_latent_space.py", "--output-dir", artifacts.root)
    assert done.returncode == 0, done.stderr
    done = run("visualize_metrics.py", "--output-dir", artifacts.root)
    assert done.returncode == 0, done.stderr
    report = (artifacts.visualizations / "interpretability_report.html").read_text(encoding="utf-8")
    assert "ROUGE" in report and "data:image/png;base64" in report
    assert (artifacts.visualizations / "heads_evolution.gif").read_bytes()[:3] == b"GIF"
    assert (artifacts.visualizations / "latent_umap.html").is_file()


@pytest.fixture(scope="module")
def analysed(finished):
    """The finished run with its analysis, whichever tests were chosen."""
    artifacts, _ = finished
    if not artifacts.has("causal.json"):
        done = run("analyze_latent_space.py", "--output-dir", artifacts.root)
        assert done.returncode == 0, done.stderr
    return artifacts


def test_the_report_of_a_real_run_misses_nothing(analysed):
    """A key that a writer spells otherwise than its reader would lose a figure without a word."""
    data, made = figures.load(analysed), page.Made()
    for entry in figures.CATALOGUE:
        try:
            entry.draw(data)
        except figures.Missing as reason:
            made.missing.append((entry.name, str(reason), ""))
    assert not data.problems
    asked_for = {control.picture for control in names.CONTROLS.values()}  # this run has no control
    assert {name for name, _, _ in made.missing} == asked_for
    html = page.html(data, page.Made())
    section = html[html.index('<section id="missing">') : html.index('<section id="files">')]
    assert "Nothing: every figure of this report was drawn." in section


def test_the_synthetic_run_has_only_what_a_real_run_writes(analysed, tmp_path):
    """The figures' tests draw invented numbers: their keys are a real run's."""
    synthetic, real = synthetic_run.write(tmp_path), analysed
    stems = ("latent_space", "causal", "attention_maps")
    files = ["run.json", "evaluation.json", *(f"{stem}.json" for stem in stems)]
    pairs = [(synthetic.read_json(name), real.read_json(name), name) for name in files]
    pairs += [(synthetic.read_step(20).info, real.read_step(16).info, "step")]
    pairs += [(next(synthetic.read_predictions()), next(real.read_predictions()), "predictions")]
    for invented, written, name in pairs:
        unknown = key_paths(invented) - key_paths(written)
        assert not {key for key in unknown if not synthetic_run.NOT_IN_EVERY_RUN & set(key.split("."))}, name
    for stem in ("latent_space", "attention_maps"):
        invented, written = (one.read_arrays(f"{stem}.npz").keys() for one in (synthetic, real))
        unknown = {key for key in invented - written if not synthetic_run.NOT_IN_EVERY_RUN & set(key.split("/"))}
        assert not unknown, stem
    assert synthetic.read_step(20).arrays.keys() <= real.read_step(16).arrays.keys()


def key_paths(value, path=()) -> set[str]:
    """The keys of nested objects, joined by dots; those that are names of matrices, kinds or layers as *."""
    if isinstance(value, dict):
        free = path[-1:] in (("weights",), ("kind",), ("labels",))
        return {".".join((*path, "*" if free else key)) for key in value}.union(
            *(key_paths(item, (*path, "*" if free else key)) for key, item in value.items())
        )
    if isinstance(value, list):
        return set().union(*(key_paths(item, path) for item in value))
    return set()


def test_a_killed_run_that_resumes_ends_in_the_same_state(finished, tmp_path):
    whole, _ = finished
    arguments = command("gpt2_summarization.py", "--output-dir", tmp_path, *TINY)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    until(tmp_path / "checkpoints" / "checkpoint-6" / "complete.json", process)
    process.kill()
    process.wait()
    done = run("gpt2_summarization.py", "--output-dir", tmp_path, *TINY, "--resume")
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stderr

    resumed = Run(tmp_path)
    assert resumed.steps() == whole.steps()
    weights, expected = (load_file(one.model_outputs / "model.safetensors") for one in (resumed, whole))
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight, err_msg=name)
    for name in ("predictions.jsonl", "step_000016.json", "evaluation.json"):
        assert (resumed.metrics / name).read_bytes() == (whole.metrics / name).read_bytes(), name


def test_a_finished_run_gets_a_control_and_killed_meanwhile_resumes_without_training_again(finished, tmp_path):
    whole, _ = finished
    shutil.copytree(whole.root, tmp_path, dirs_exist_ok=True)
    more = Run(tmp_path)
    own = [
        *more.metrics.glob("step_*"),
        *more.logs.glob("*"),
        *more.model_outputs.glob("*"),
        *more.checkpoints.glob("*/*"),
    ]
    before = {path: path.read_bytes() for path in own}
    options = ("--output-dir", tmp_path, *TINY, "--resume", "--control", "shuffled-pairs")
    process = subprocess.Popen(command("gpt2_summarization.py", *options), stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    until(more.companion("shuffled-pairs").checkpoints / "checkpoint-3" / "complete.json", process)
    process.kill()
    process.wait()
    assert more.read_json("run.json")["state"] == "trained"
    assert more.companions() == []

    done = run("gpt2_summarization.py", *options)
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stderr
    assert {path: path.read_bytes() for path in own} == before
    record = more.read_json("run.json")
    assert (record["state"], record["config"]["control"]) == ("finished", "shuffled-pairs")
    assert more.companion("shuffled-pairs").steps() == more.steps()
    evaluation, earlier = more.read_json("evaluation.json"), whole.read_json("evaluation.json")
    assert evaluation["systems"].pop("shuffled-pairs")["label"] == "Shuffled-pairs control"
    assert evaluation["systems"] == earlier["systems"]
    assert [one for one in evaluation["comparisons"] if one["b"] != "shuffled-pairs"] == earlier["comparisons"]
    assert any((one["a"], one["b"]) == ("fine_tuned", "shuffled-pairs") for one in evaluation["comparisons"])


def test_ctrl_c_is_one_line_and_leaves_whole_files(tmp_path):
    arguments = command("gpt2_summarization.py", "--output-dir", tmp_path, *TINY)
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    )  # fmt: skip
    until(tmp_path / "interpretability_metrics" / "step_000000.json", process)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert 0 in Run(tmp_path).steps()
    Run(tmp_path).read_step(0)


def test_a_second_run_moves_the_first_aside(tmp_path):
    first = Run(tmp_path)
    first.write_json("run.json", {"state": "finished", "note": "precious"})
    done = run("gpt2_summarization.py", "--output-dir", tmp_path, "--window", "9999", *TINY)  # stops after opening
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --window 9999 is longer than the 512 positions")
    (kept,) = (tmp_path / "previous_runs").glob("*/interpretability_metrics/run.json")
    assert json.loads(kept.read_text())["note"] == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "absent.jsonl"], "absent.jsonl is not there"),
        (["--article-column", "body"], "has no column 'body'"),
        (["--model", "nobody/nothing"], "could not be loaded"),
        (["--batch-size", "0"], "--batch-size must be above zero"),
        (["--summarize", "absent.txt"], "absent.txt cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_a_non_zero_exit(tmp_path, arguments, message):
    done = run("gpt2_summarization.py", "--output-dir", tmp_path, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_resume_with_another_learning_rate_is_refused(finished):
    done = run("gpt2_summarization.py", "--output-dir", finished[0].root, *TINY, "--resume", "--learning-rate", "0.5")
    assert done.returncode == 1
    assert "--resume with another learning_rate" in done.stderr.splitlines()[-1]


def test_one_text_is_summarised_from_standard_input(finished):
    text = "The president announced a new policy on climate change. TL;DR: It was welcomed. " * 40
    done = run("gpt2_summarization.py", "--output-dir", finished[0].root, "--summarize", "-", input=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "only the first" in done.stderr
