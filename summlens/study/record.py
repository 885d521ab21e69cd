"""A run's folder and its record: opening it, run.json, provenance, first and last words."""

import dataclasses
import importlib.metadata
import logging
import platform
import subprocess
import time

import numpy as np
import torch

from summlens.artifacts import RECORD, Run
from summlens.core import processes
from summlens.core.config import PROJECT, Config
from summlens.core.errors import UserError
from summlens.data import tokens
from summlens.model import loading, trainable
from summlens.model.architecture import architecture
from summlens.model.loading import device_name
from summlens.study.prepare import Study

log = logging.getLogger(__name__)

# What a --resume may change without changing a number of the run but by rounding. An optimiser step keeps its articles.
_FREE_TO_CHANGE = {"output_dir", "evaluation_batch_size", "capture_batch_size", "logging_steps", "checkpoint_steps"} | {
    "batch_size", "accumulation", "gradient_checkpointing", "control", "seeds",
}  # fmt: skip


def open_run(config: Config, resume: bool) -> Run:
    """The run's folder: as it is with `resume`, otherwise empty; an earlier run there is moved aside, never deleted.

    Raises UserError for a resume with options that would change a number.
    """
    return processes.from_rank_zero(lambda: _open(config, resume))


def _open(config: Config, resume: bool) -> Run:
    run = Run(config.output_dir or PROJECT)
    if resume:
        if not run.has(RECORD):
            log.info("nothing to resume in %s: starting from the beginning", run.root)
            return run
        earlier = run.read_json(RECORD)["config"]
        now = dataclasses.asdict(config)
        before = earlier["batch_size"] * earlier["accumulation"]
        if before != config.effective_batch:
            raise UserError(
                f"--resume with {config.effective_batch} articles a step (the run began with {before}): keep "
                "--batch-size times --accumulation as it was"
            )
        changed = [key for key in now if key not in _FREE_TO_CHANGE and now[key] != earlier.get(key)]
        if changed:
            key = changed[0]
            raise UserError(
                f"--resume with another {key} ({now[key]!r}; the run began with {earlier.get(key)!r}): "
                "give the same options, or start a new run without --resume"
            )
        for name in _companions_of(earlier):
            if name not in (*config.companions, *run.companions()):
                log.warning("%s, which this run was to be compared with, is not trained without its option", name)
        return run
    if run.metrics.exists() or run.checkpoints.exists():
        aside = run.root / "previous_runs" / time.strftime("%Y-%m-%d_%H%M%S")
        aside.mkdir(parents=True)
        for folder in (run.metrics, run.visualizations, run.logs, run.checkpoints, run.model_outputs):
            if folder.exists():
                folder.rename(aside / folder.name)
        log.info("the earlier run in %s was moved to %s (--resume would have continued it)", run.root, aside)
    return run


def _companions_of(recorded: dict) -> list[str]:
    """The companions of a recorded configuration, also one of a time before there were any."""
    known = {field.name for field in dataclasses.fields(Config)}
    return Config(**{name: value for name, value in recorded.items() if name in known}).companions


def record(experiment: Study, state: str) -> None:
    """Write run.json: what was run, on what, with which versions, and how far it came (`state`)."""
    if processes.rank() > 0:
        return
    config, base = experiment.config, experiment.base
    shape = architecture(base)
    experiment.run.write_json(
        RECORD,
        {
            "state": state,
            "finished": state == "finished",
            "config": dataclasses.asdict(config),
            "model": {
                "name": config.model,
                "class": type(base).__name__,
                "layers": shape.layers,
                "heads": shape.heads,
                "width": shape.width,
                "neurons": shape.neurons,
                "parameters": sum(parameter.numel() for parameter in base.parameters()),
                "window": experiment.encoder.window,
                "trainable": trainable.count(config, base),
                "trained": str(trainable.selection(config, base)),
            },
            "data": {
                "fingerprint": experiment.fingerprint,
                "articles": {split: len(rows) for split, rows in experiment.splits.items()},
                "training_tokens": int(tokens.lengths(experiment.train).sum()),
            },
            "probe": {
                "ids": [example.id for example in experiment.probe],
                "examples": [dataclasses.asdict(example) for example in experiment.probe],
                "texts": [_probe_text(experiment, example) for example in experiment.probe],
            },
            "seed": config.seed,
            "environment": environment(),
            "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def state_of(run: Run) -> str:
    """How far the run came: new, training, trained or finished."""
    return processes.from_rank_zero(lambda: run.read_json(RECORD)["state"] if run.has(RECORD) else "new")


def _probe_text(experiment: Study, example: tokens.Example) -> dict:
    decode = experiment.tokenizer.decode
    return {
        "article": decode(example.input_ids[example.article_start : example.article_stop]),
        "summary": decode(example.input_ids[example.prompt_length : -1]).strip(),
    }


def environment() -> dict:
    """Versions, device and git commit: what somebody needs to make the same numbers again."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "rouge-score", "nltk", "numpy")
    device = loading.device()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes.world(),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The project's commit, marked where the working tree differs from it; None outside a git checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def announce(config: Config) -> None:
    device = loading.device()
    dtype = str(loading.training_dtype(config.precision, device)).removeprefix("torch.")
    log.info("preset %s: fine-tune %s on %s", config.preset, config.model, config.dataset)
    many = f"{processes.world()} processes, each on " if processes.world() > 1 else ""
    log.info("device %s%s, training in %s, seed %d", many, device_name(device), dtype, config.seed)
    log.info("configuration: %s", ", ".join(f"{k}={v!r}" for k, v in dataclasses.asdict(config).items()))


def last_words(experiment: Study, evaluation: dict) -> None:
    """The scores, the heads that changed most, and where to look next."""
    if processes.rank() > 0:
        return
    run = experiment.run
    for name in ("zero_shot", "fine_tuned", *run.companions(), "lead3"):
        scores = evaluation["systems"][name]["scores"]
        line = "  ".join(
            f"{score} {scores[score]['mean']:5.2f} [{scores[score]['low']:.2f}, {scores[score]['high']:.2f}]"
            for score in ("rouge1", "rouge2", "rougeLsum")
        )
        log.info("%-14s %s", name, line)
    last = run.steps()[-1]
    divergence = run.read_step(last).arrays["attention/kl/summary"].mean(axis=0)
    top = np.dstack(np.unravel_index(np.argsort(-divergence, axis=None)[:3], divergence.shape))[0]
    heads = ", ".join(f"{layer}.{head} ({divergence[layer, head]:.2f} bits)" for layer, head in top)
    log.info("heads whose attention changed most (layer.head, KL against step 0): %s", heads)
    log.info("captured steps %s; files in %s; watch: tensorboard --logdir=%s", run.steps(), run.metrics, run.logs)
