"""Articles a second in training, and its peak memory: this project's trainer against the straightforward script.

The straightforward script is Trainer with its defaults: every article padded to the window, the loss on every token,
eager attention, 2 articles at a time, 8 times a step. This project's way: batches by length, the loss and the logits
on summary tokens only, SDPA, the fused activation. Both take optimiser steps of the same 16 articles from the same
weights, each in a process of its own, so that peaks do not mix, and on one GPU. They meet their articles twice: the
first epoch warms up, the second is timed, from its first batch on.

    python benchmarks/training.py [--model small middle gpt2] [--steps N] [--batch-size 2] [--threads 2] [--peak N]

`small` is the bundled model, `middle` a GPT-2 of 25 million parameters with the full vocabulary, `gpt2` GPT-2's full
shape (the default on a GPU); the last two with random weights. Articles: the bundled sample; for `gpt2`, random tokens
of CNN/DailyMail's length (834 of 1,024 tokens on average, 70 of them summary). Memory on the CPU is the resident memory
above what model and libraries take; on a GPU all that PyTorch allocated, and this project takes 16 articles at a time
there: compare memory with --batch-size 2. The share of peak counts the operations that the numbers need
(summlens.training.estimate) against the card's dense bf16 peak, given with --peak or known by name.

The last line is JSON: `speedup`, `memory_ratio` (straightforward over this; of the last model), `device`, on a GPU
`peak_share` where the peak is known, and `models` with each model's own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from summlens.artifacts import Run  # noqa: E402
from summlens.core import config as configuration  # noqa: E402
from summlens.core import console  # noqa: E402
from summlens.data import batches, tokens  # noqa: E402
from summlens.model import loading  # noqa: E402
from summlens.model.loading import device_name  # noqa: E402
from summlens.training import estimate, trainer  # noqa: E402

EFFECTIVE = 16
# TFLOP/s without sparsity, from the maker's data sheets, by the names that PyTorch gives the cards: the variants of one
# card differ, and a name that only begins like one here (L40, a MIG slice) must not get its peak.
DENSE_BF16 = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA GeForce RTX 4090": 165.0,
}
STEPS = {"small": 3, "middle": 1, "gpt2": 30}


def make_model(name: str, load):
    """The model of either way, with the same weights in float32, through `load(directory)`."""
    if name == "small":
        return load(str(ROOT / "data" / "model"))
    shape = {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 512} if name == "middle" else {}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).save_pretrained(folder)
        return load(folder)


def load_straightforwardly(folder: str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def make_examples(name: str, window: int, count: int) -> list[tokens.Example]:
    if name != "gpt2":
        from datasets import load_dataset

        encoder = tokens.Encoder(loading.load_tokenizer(str(ROOT / "data" / "model")), "{article}\nTL;DR:", window)
        rows = load_dataset("parquet", data_files=str(ROOT / "data" / "sample" / "train.parquet"), split="train")
        return list(tokens.encode(rows.select(range(count)), encoder, "benchmark"))
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(np.log(820), 0.45, count).astype(int) + 70, window)
    return [
        tokens.Example(str(n), tuple(map(int, random.integers(50_000, size=length))), int(length) - 70, 0, 1)
        for n, length in enumerate(lengths)
    ]


class Watch(TrainerCallback):
    """Wall-clock seconds of the second half of the steps, and the highest memory above what was taken when training
    began; on a GPU all that was allocated."""

    def on_train_begin(self, args, state, control, **_):
        self.bytes, self.done = 0, threading.Event()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            threading.Thread(target=self._watch, args=(resident(),), daemon=True).start()

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == state.max_steps // 2:
            self.began = now()

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps:
            self.seconds = now() - self.began

    def on_train_end(self, args, state, control, **_):
        self.done.set()
        if torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()

    def _watch(self, before: int):
        while not self.done.wait(0.005):
            self.bytes = max(self.bytes, resident() - before)


def now() -> float:
    """The clock once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def straightforward(model, examples, window: int, steps: int, watch: Watch, _batch: int) -> None:
    rows = []
    for example in examples:
        padded = [*example.input_ids, *[0] * (window - len(example.input_ids))]
        mask = [1] * len(example.input_ids) + [0] * (window - len(example.input_ids))
        rows.append({"input_ids": padded, "attention_mask": mask, "labels": padded})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=2, gradient_accumulation_steps=EFFECTIVE // 2, max_steps=steps,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows, data_collator=default_data_collator, callbacks=[watch]).train()


def this_project(model, examples, _window: int, steps: int, watch: Watch, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration.preset(
            "demo", batch_size=batch, accumulation=EFFECTIVE // batch, max_steps=steps, output_dir=folder
        )
        arguments = trainer.training_arguments(config, Run(folder), first_step=1)  # no validation at the start
        arguments.eval_strategy = arguments.save_strategy = "no"
        arguments.max_grad_norm = config.max_grad_norm  # in a run the Observer clips, which is not here
        trainer.SummaryTrainer(
            model=model, args=arguments, train_dataset=examples, eval_dataset=examples[:1],
            data_collator=batches.collate, callbacks=[watch],
        ).train()  # fmt: skip


WAYS = {"straightforward": (load_straightforwardly, straightforward), "this": (loading.load_model, this_project)}


def measure(way: str, name: str, steps: int, batch: int) -> dict:
    load, train = WAYS[way]
    model = make_model(name, load)
    window = loading.window(model)
    examples = make_examples(name, window, EFFECTIVE * steps)
    watch = Watch()
    train(model, examples, window, 2 * steps, watch, batch)
    targets = sum(len(one.queries) for one in examples) / len(examples)
    operations = estimate.operations(estimate.shape_of(model.config), tokens.lengths(examples).tolist(), targets)
    return {
        "articles_per_second": EFFECTIVE * steps / watch.seconds,
        "memory": watch.bytes,
        "operations_per_article": operations / len(examples),
    }


def main():
    console.start_logging()
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", choices=STEPS, default=["gpt2"] if gpu else ["small", "middle"])
    parser.add_argument("--steps", type=int, default=0, help="timed optimiser steps; 0 = as many as each model needs")
    parser.add_argument(
        "--batch-size",
        type=int,
        choices=(1, 2, 4, 8, 16),
        default=16 if gpu else 2,
        help="this project's articles at a time",
    )
    parser.add_argument("--peak", type=float, default=0.0, help="the GPU's dense bf16 peak in TFLOP/s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        (name,) = options.model
        print(json.dumps(measure(options.way, name, options.steps or STEPS[name], options.batch_size)))
        return

    device = device_name(loading.device())
    peak = options.peak or (gpu and DENSE_BF16.get(torch.cuda.get_device_name(), 0.0))
    if gpu and not peak:
        print(f"the peak of {device} is not known here, and no share of it printed: give --peak")
    # with several the straightforward script would train on all of them
    one_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    results = {}
    for name in options.model:
        sides = {}
        for way in WAYS:
            own = ["--way", way, "--model", name, "--steps", str(options.steps), "--threads", str(options.threads)]
            command = [sys.executable, __file__, *own, "--batch-size", str(options.batch_size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=one_gpu)
            sides[way] = side = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:7} {way:16} {side['articles_per_second']:8.2f} articles/s {side['memory'] / 2**20:8.0f} MiB")
        mine, other = sides["this"], sides["straightforward"]
        results[name] = {
            "speedup": round(mine["articles_per_second"] / other["articles_per_second"], 2),
            "memory_ratio": round(other["memory"] / mine["memory"], 2),
        }
        if gpu and peak:
            used = mine["articles_per_second"] * mine["operations_per_article"] / 1e12
            results[name]["peak_share"] = round(used / peak, 3)
            print(f"{name:7} {used:.0f} TFLOP/s, {100 * used / peak:.0f} % of {peak:.0f}")
    print(json.dumps({**results[options.model[-1]], "device": device, "models": results}))


if __name__ == "__main__":
    main()
