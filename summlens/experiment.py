"""What surrounds training and evaluation: opening a run, its provenance, its estimate and its last words."""

import dataclasses
import functools
import importlib.metadata
import logging
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from summlens import data, models, processes, trainable
from summlens.artifacts import Run
from summlens.capture import architecture
from summlens.config import PROJECT, Config
from summlens.errors import UserError

log = logging.getLogger(__name__)

# What a --resume may change without changing a number of the run but by rounding. An optimiser step keeps its articles.
_FREE_TO_CHANGE = {"output_dir", "evaluation_batch_size", "capture_batch_size", "logging_steps", "checkpoint_steps"} | {
    "batch_size", "accumulation", "gradient_checkpointing", "control", "seeds",
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """Everything that training and evaluation need, made once from the configuration."""

    config: Config
    run: Run
    splits: dict
    tokenizer: object
    base: object  # the model before fine-tuning
    encoder: data.Encoder
    train: Sequence[data.Example]
    validation: Sequence[data.Example]
    probe: list[data.Example]

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the data hash to; made once, because it reads every article."""
        return data.fingerprint(self.splits)


def prepare(config: Config, run: Run) -> Experiment:
    """Load the data and the model, make the tokens, choose the probe set. Raises UserError for what cannot work."""
    with processes.rank_zero_first():
        return _prepare(config, run)


def _prepare(config: Config, run: Run) -> Experiment:
    splits = data.load_articles(config)
    name = config.resolve(config.model)
    tokenizer, base = models.load_tokenizer(name), models.load_model(name)
    models.check_pair(base, tokenizer, config.model)
    trainable.selection(config, base)  # refused before the data are encoded
    limit = models.positions(base)
    if limit and config.window > limit:
        raise UserError(f"--window {config.window} is longer than the {limit} positions of {config.model}")
    encoder = data.Encoder(tokenizer, config.template, config.window or models.window(base))
    train = data.encode(splits["train"], encoder, "training")
    if len(train) < 2 and "shuffled-pairs" in config.controls:
        raise UserError("--control shuffled-pairs needs two training articles or more: there is one")
    validation = data.encode(splits["validation"], encoder, "validation")
    chosen = np.random.default_rng(config.seed).permutation(len(validation))[: config.probe_articles]
    if len(chosen) < config.probe_articles:
        log.warning("only %d validation articles: the probe set has no more", len(chosen))
    probe = [validation[index] for index in sorted(chosen)]
    return Experiment(config, run, splits, tokenizer, base, encoder, train, validation, probe)


# ------------------------------------------------------------------------------------------- the run's folder


def open_run(config: Config, resume: bool) -> Run:
    """The run's folder: as it is with `resume`, otherwise empty; an earlier run there is moved aside, never deleted.

    Raises UserError for a resume with options that would change a number.
    """
    return processes.from_rank_zero(lambda: _open(config, resume))


def _open(config: Config, resume: bool) -> Run:
    run = Run(config.output_dir or PROJECT)
    if resume:
        if not run.has("run.json"):
            log.info("nothing to resume in %s: starting from the beginning", run.root)
            return run
        earlier = run.read_json("run.json")["config"]
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


def record(experiment: Experiment, state: str) -> None:
    """Write run.json: what was run, on what, with which versions, and how far it came (`state`)."""
    if processes.rank() > 0:
        return
    config, base = experiment.config, experiment.base
    shape = architecture(base)
    experiment.run.write_json(
        "run.json",
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
                "training_tokens": int(data.lengths(experiment.train).sum()),
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
    return processes.from_rank_zero(lambda: run.read_json("run.json")["state"] if run.has("run.json") else "new")


def _probe_text(experiment: Experiment, example: data.Example) -> dict:
    decode = experiment.tokenizer.decode
    return {
        "article": decode(example.input_ids[example.article_start : example.article_stop]),
        "summary": decode(example.input_ids[example.prompt_length : -1]).strip(),
    }


def environment() -> dict:
    """Versions, device and git commit: what somebody needs to make the same numbers again."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "rouge-score", "nltk", "numpy")
    device = models.device()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes.world(),
        "git_commit": git_commit(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name()})"
    return "Apple GPU (mps)" if device.type == "mps" else f"CPU ({torch.get_num_threads()} threads)"


def git_commit() -> str | None:
    """The project's commit, marked where the working tree differs from it; None outside a git checkout."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ----------------------------------------------------------------------------------------- first and last words


def announce(config: Config) -> None:
    device = models.device()
    dtype = str(models.training_dtype(config.precision, device)).removeprefix("torch.")
    log.info("preset %s: fine-tune %s on %s", config.preset, config.model, config.dataset)
    many = f"{processes.world()} processes, each on " if processes.world() > 1 else ""
    log.info("device %s%s, training in %s, seed %d", many, device_name(device), dtype, config.seed)
    log.info("configuration: %s", ", ".join(f"{k}={v!r}" for k, v in dataclasses.asdict(config).items()))


def optimiser_steps(config: Config, articles: int) -> int:
    """How many optimiser steps a training run of the configuration makes."""
    return config.max_steps or int(np.ceil(np.ceil(articles / config.effective_batch) * config.epochs))


def announce_estimate(experiment: Experiment) -> None:
    """Time a forward and backward pass of this model on this machine and say how long the run should take."""
    if processes.rank() > 0:
        return
    config, world = experiment.config, processes.world()
    steps = optimiser_steps(config, len(experiment.train))
    if config.fsdp:  # no device holds what a measured step would take
        log.info("%d training articles, %d optimiser steps of %d", len(experiment.train), steps, config.effective_batch)
        return
    rate = _training_tokens_per_second(experiment)
    mean_length = data.lengths(experiment.train).mean()
    probe_tokens = sum(len(example.input_ids) for example in experiment.probe)
    captures = 2 + steps // config.capture_steps
    validations = 2 + steps // config.evaluation_steps
    validation_tokens = data.lengths(experiment.validation).sum()
    test = len(experiment.splits["test"])
    training = steps * config.effective_batch * mean_length / rate / world
    # A forward pass is a third of a training pass. A capture runs two models and takes statistics of each; a token that
    # is generated costs a pass of its own, slower than in bulk. Factors from runs of the demo on two CPU cores.
    looking = (captures * probe_tokens * 2 + validations * validation_tokens / 3 / world) / rate
    generating = 2 * test * (mean_length / 3 + 2 * config.max_new_tokens * config.num_beams) / rate / world
    others = len(config.companions)
    training, looking = training * (1 + others), looking * (1 + others)
    generating *= (2 + others) / 2
    total = training + looking + generating + 60
    log.info(
        "%d training articles, %d optimiser steps of %d articles%s; about %s (training %s, capture and validation %s, "
        "test summaries %s, latent space and figures 1 min)",
        len(experiment.train), steps, config.effective_batch,
        f", {1 + others} times ({', '.join(['fine-tuned', *config.companions])})" if others else "",
        *map(duration, (total, training, looking, generating)),
    )  # fmt: skip


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _training_tokens_per_second(experiment: Experiment) -> float:
    device = models.device()
    model = experiment.base.to(device)
    typical = experiment.train[np.argsort(data.lengths(experiment.train))[len(experiment.train) // 2]]
    ids = torch.tensor([typical.input_ids] * experiment.config.batch_size, device=device)
    targets = torch.tensor(typical.queries, device=device)  # logits of every token would not fit where training does
    seconds_of_pass(model, ids[:1], targets, experiment.config.precision)  # warms up
    seconds = seconds_of_pass(model, ids, targets, experiment.config.precision)
    model.zero_grad(set_to_none=True)
    return ids.numel() / seconds


def seconds_of_pass(model, ids: torch.Tensor, queries: torch.Tensor, precision: str) -> float:
    """Seconds of one forward and backward pass over ids (B, T), with logits at the positions `queries` alone."""
    device = ids.device
    dtype = models.training_dtype(precision, device)
    started = time.perf_counter()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids, logits_to_keep=queries, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, queries + 1].flatten())
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def last_words(experiment: Experiment, evaluation: dict) -> None:
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
