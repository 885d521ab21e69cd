"""What a run will take, from the model's shape alone: parameters, tokens, memory, time and disk. No weight is loaded.

With P parameters, L layers, width D, N MLP hidden neurons, V vocabulary, and articles of T tokens, S of them targets:

operations  forward and backward, 6 a weight and token (Kaplan et al. 2020, section 2.1): 6 (P_blocks T + V D S),
            because the unembedding is applied to targets only; and causal attention, 6 L D T^2: half of the 12 L D T^2
            of Chowdhery et al. 2022 (PaLM), appendix B. Padding and recomputation are not counted.
memory      weights 4 P, gradients 4 P', AdamW's two moments 8 P', where P' parameters learn (--trainable, --lora), the
            base model for captures 4 P (8 P with adapters, which are captured in a merged copy), the 16-bit copies
            that autocast keeps 2 P, and what the backward pass needs of the forward pass, in bytes a token and layer:
            32 D + 8 N in float32 and 20 D + 4 N in 16 bits for a GPT-2 block, 40 D + 16 N and 34 D + 8 N for one with a
            gated MLP, and 2 D of dropout masks (counted from the tensors that PyTorch saves, with attention that keeps
            no maps). With gradient checkpointing 4 D, and one layer in full. Logits take 14 V a target position: in 16
            bits, in float32, their softmax, and its gradient. A batch is as long as the window.
disk        two checkpoints of 4 P + 8 P' (with adapters 12 P'), the final model 4 P, and the captures.
Operations are those of training all of it: where less learns, the time is an upper bound.
Controls and further seeds take the time again, each a model and captures, and while they train two more checkpoints.
"""

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from summlens.artifacts import is_whole
from summlens.core import processes
from summlens.core.config import Config
from summlens.data import tokens
from summlens.data import tokens as tokens_module
from summlens.data.articles import load_articles
from summlens.data.tokens import Encoder, encode
from summlens.model import loading, trainable
from summlens.model.architecture import architecture
from summlens.names import attention_forms
from summlens.study.prepare import Study

log = logging.getLogger(__name__)

# CNN/DailyMail 3.0.0: articles a split, and the means of GPT-2's tokenizer in a window of 1,024 tokens.
_KNOWN = {"abisee/cnn_dailymail": ({"train": 287_113, "validation": 13_368, "test": 11_490}, 848, 70)}
_WHOLE, _SLIM = 3.7, 1.9  # bytes a captured float, compressed: measured on captures of the demo
LOGIT_BYTES = 14  # bytes a logit (docstring: memory)
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a model; parameters in numbers, `dropout` whether it has any."""

    parameters: int
    learning: int
    in_blocks: int
    layers: int
    heads: int
    width: int
    neurons: int
    vocabulary: int
    gated: bool
    dropout: bool
    window: int


def shape_of(config: PreTrainedConfig, run: Config | None = None) -> Shape:
    """A model's shape from its configuration: the model is built without memory for its weights.

    All of it learns, or in tensors as large as `run` has it.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = architecture(model)
    dropout = any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        learning=trainable.with_gradients(run or Config(), model),
        in_blocks=sum(p.numel() for name, p in model.named_parameters() if found.layer_of(name) is not None),
        layers=found.layers,
        heads=found.heads,
        width=found.width,
        neurons=found.neurons,
        vocabulary=found.vocabulary,
        gated=any("gate" in name for name, _ in model.named_parameters()),
        dropout=dropout,
        window=loading.window(model),
    )


def operations(shape: Shape, lengths: Sequence[int], targets: float) -> float:
    """Floating-point operations of forward and backward over articles of these lengths, with mean `targets` each."""
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    unembedding = shape.vocabulary * shape.width * targets * len(lengths)
    return 6.0 * (shape.in_blocks * tokens + unembedding + shape.layers * shape.width * squares)


def activations(shape: Shape, tokens: int, checkpointing: bool, half: bool) -> float:
    """Bytes that the backward pass needs of a forward pass over `tokens` tokens, without the logits."""
    plain, gated = ((20, 4), (34, 8)) if half else ((32, 8), (40, 16))
    by_width, by_neuron = gated if shape.gated else plain
    layer = (by_width + 2 * shape.dropout) * shape.width + by_neuron * shape.neurons
    if checkpointing:
        return tokens * (shape.layers * 4 * shape.width + layer)
    return tokens * shape.layers * layer


def memory(shape: Shape, config: Config, targets: float, half: bool) -> dict[str, float]:
    """Bytes on one device while training, by what takes them."""
    tokens = config.batch_size * (config.window or shape.window)
    size = shape.parameters
    return {
        "weights": 4.0 * size,
        "gradients": 4.0 * shape.learning,
        "optimiser": 8.0 * shape.learning,
        "base model": 4.0 * size * (1 + config.lora),
        "16-bit copies": 2.0 * size * half,
        "activations": activations(shape, tokens, config.gradient_checkpointing, half),
        "logits": float(LOGIT_BYTES) * shape.vocabulary * targets * config.batch_size,
    }


def captured_numbers(shape: Shape, articles: int, whole: bool) -> int:
    """How many numbers a captured step holds (summlens.artifacts: step_NNNNNN.npz)."""
    heads, width = shape.layers * shape.heads, (shape.layers + 1) * shape.width
    by_positions = (len(attention_forms(True)) + 1) * heads + 2 * (4 * shape.layers + 1)
    by_article = 2 * by_positions + width if whole else by_positions
    return articles * (by_article + 1) + 4 * shape.layers * shape.neurons * whole + 8 * heads


def captures_bytes(shape: Shape, articles: int, every: int, last: int) -> float:
    """What the captures of a run take on the disk, compressed: one `every` so many steps, and at step 0 and `last`."""
    captures = [is_whole(step, every, last) for step in (*range(0, last, every), last)]
    by_kind = {True: _WHOLE * captured_numbers(shape, articles, True)}
    by_kind[False] = _SLIM * captured_numbers(shape, articles, False)
    return sum(by_kind[whole] for whole in captures)


@dataclass(frozen=True)
class Estimate:
    """What `of` found; memory and disk in bytes, time in seconds, `tokens` those of one epoch."""

    shape: Shape
    articles: int
    tokens: float
    steps: int
    operations: float
    memory: dict[str, float]
    seconds: float
    disk: dict[str, float]


def of(
    config: Config, shape: Shape, articles: dict[str, int], length: float, targets: float, speed: float, half: bool
) -> Estimate:
    """The estimate for splits of so many articles, of mean `length` and `targets` tokens; `speed` in operations/s.

    Time is that of training, validation and capture (a forward pass is a third of a training pass; a capture runs two
    models over the probe set); the test summaries come on top.
    """
    wanted = {"train": config.train_articles, "validation": config.validation_articles}
    train, validation = (min(wanted[split] or articles[split], articles[split]) for split in wanted)
    steps = optimiser_steps(config, train)
    one = operations(shape, [length], targets)
    trained = one * steps * config.effective_batch
    looked = (2 + steps // config.evaluation_steps) * validation * one / 3
    fine_tunes = 1 + len(config.companions)
    captures = 2 + steps // config.capture_steps
    alone = captures * config.probe_articles * 2 * one / 3
    checkpoint = 4.0 * (shape.learning if config.lora else shape.parameters) + 8.0 * shape.learning
    return Estimate(
        shape=shape,
        articles=train,
        tokens=train * length,
        steps=steps,
        operations=trained,
        memory=memory(shape, config, targets, half),
        seconds=fine_tunes * ((trained + looked) / processes.world() + alone) / speed,
        disk={
            "checkpoints": 2 * min(fine_tunes, 2) * checkpoint,
            "model": 4.0 * shape.parameters * fine_tunes,
            "captures": fine_tunes * captures_bytes(shape, config.probe_articles, config.capture_steps, steps),
        },
    )


def report(config: Config, speed: float | None) -> str:
    """The estimate of a configuration as text. `speed` in TFLOP/s a device; measured on this one where it is None.

    Raises UserError where the model's configuration or the data cannot be read.
    """
    name = config.resolve(config.model)
    model_config = loading.load_config(name)
    shape = shape_of(model_config, config)
    if config.dataset in _KNOWN:
        articles, length, targets = _KNOWN[config.dataset]
        length = min(length, config.window or shape.window)
    else:
        splits = load_articles(config)
        encoder = Encoder(loading.load_tokenizer(name), config.template, config.window or shape.window)
        examples = encode(splits["train"], encoder, "training")
        articles = {split: len(rows) for split, rows in splits.items()}
        length = float(tokens_module.lengths(examples).mean())
        targets = sum(len(one.queries) for one in examples) / len(examples)
    device = loading.device()
    given = speed is not None  # the speed of a GPU, which trains in 16 bits
    half = config.precision != "fp32" if given else loading.training_dtype(config.precision, device) != torch.float32
    speed = speed if given else measured_speed(model_config, config, round(length), round(targets)) / 1e12
    found = of(config, shape, articles, length, targets, speed * 1e12, half)
    source = "given" if given else "measured here on one block of random weights"
    gib = {part: f"{part} {size / GIB:.2f}" for part, size in (found.memory | found.disk).items()}
    lines = [
        f"model      {config.model}: {shape.parameters / 1e6:,.1f} million parameters, {shape.layers} layers of "
        f"{shape.heads} heads, width {shape.width:,}, window {config.window or shape.window:,} tokens",
        f"data       {found.articles:,} training articles, {found.tokens / 1e6:,.1f} million tokens an epoch "
        f"({length:,.0f} an article, {targets:.0f} of them summary)",
        f"training   {found.steps:,} steps of {config.effective_batch} articles, {found.operations:.2e} operations",
        f"memory     {sum(found.memory.values()) / GIB:.1f} GiB in {'16-bit' if half else '32-bit'} arithmetic at "
        f"--batch-size {config.batch_size} ({', '.join(gib[part] for part in found.memory)})",
        f"time       {duration(found.seconds)} at {speed:.3g} TFLOP/s ({source}), without the test summaries",
        f"disk       {sum(found.disk.values()) / GIB:.1f} GiB ({', '.join(gib[part] for part in found.disk)})",
    ]
    return "\n".join(lines)


def measured_speed(model_config: PreTrainedConfig, config: Config, length: int, targets: int) -> float:
    """Operations a second of training passes over one block of this model's shape with random weights, here."""
    one = copy.deepcopy(model_config)
    one.num_hidden_layers = 1
    if getattr(one, "layer_types", None):
        one.layer_types = one.layer_types[:1]
    device = loading.device()
    model = AutoModelForCausalLM.from_config(one).to(device).train()
    ids = torch.randint(model.get_input_embeddings().num_embeddings, (config.batch_size, length), device=device)
    queries = torch.arange(length - targets - 1, length - 1, device=device)
    seconds = [seconds_of_pass(model, ids, queries, config.precision) for _ in range(3)]  # the first warms up
    return operations(shape_of(one), [length] * config.batch_size, targets) / min(seconds)


def optimiser_steps(config: Config, articles: int) -> int:
    """How many optimiser steps a training run of the configuration makes."""
    return config.max_steps or int(np.ceil(np.ceil(articles / config.effective_batch) * config.epochs))


def announce_estimate(experiment: Study) -> None:
    """Time a forward and backward pass of this model on this machine and say how long the run should take."""
    if processes.rank() > 0:
        return
    config, world = experiment.config, processes.world()
    steps = optimiser_steps(config, len(experiment.train))
    if config.fsdp:  # no device holds what a measured step would take
        log.info("%d training articles, %d optimiser steps of %d", len(experiment.train), steps, config.effective_batch)
        return
    rate = _training_tokens_per_second(experiment)
    mean_length = tokens.lengths(experiment.train).mean()
    probe_tokens = sum(len(example.input_ids) for example in experiment.probe)
    captures = 2 + steps // config.capture_steps
    validations = 2 + steps // config.evaluation_steps
    validation_tokens = tokens.lengths(experiment.validation).sum()
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


def _training_tokens_per_second(experiment: Study) -> float:
    device = loading.device()
    model = experiment.base.to(device)
    typical = experiment.train[np.argsort(tokens.lengths(experiment.train))[len(experiment.train) // 2]]
    ids = torch.tensor([typical.input_ids] * experiment.config.batch_size, device=device)
    targets = torch.tensor(typical.queries, device=device)  # logits of every token would not fit where training does
    seconds_of_pass(model, ids[:1], targets, experiment.config.precision)  # warms up
    seconds = seconds_of_pass(model, ids, targets, experiment.config.precision)
    model.zero_grad(set_to_none=True)
    return ids.numel() / seconds


def seconds_of_pass(model, ids: torch.Tensor, queries: torch.Tensor, precision: str) -> float:
    """Seconds of one forward and backward pass over ids (B, T), with logits at the positions `queries` alone."""
    device = ids.device
    dtype = loading.training_dtype(precision, device)
    started = time.perf_counter()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids, logits_to_keep=queries, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, queries + 1].flatten())
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
