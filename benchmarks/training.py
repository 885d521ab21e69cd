"""Articles a second in training, and its peak memory: this project's trainer against the straightforward script.

The straightforward script is Trainer with its defaults: every article padded to the window, the loss on every token,
eager attention, 2 articles at a time, 8 times a step. This project's way: batches by length, the loss and the logits
on summary tokens only, SDPA, the fused activation. Both take optimiser steps of the same 16 articles from the same
weights, each in a process of its own, so that peaks do not mix; the first step warms up and is not timed.

    python benchmarks/training.py [--model small middle gpt2] [--steps N] [--batch-size 2] [--threads 2]

`small` is the bundled model, `middle` a GPT-2 of 25 million parameters with the full vocabulary, `gpt2` GPT-2's full
shape (the default on a GPU); the last two with random weights. Articles: the bundled sample; for `gpt2`, random tokens
of CNN/DailyMail's length (848 of 1,024 tokens on average, 70 of them summary). Memory on the CPU is the resident memory
above what model and libraries take; on a GPU what PyTorch allocated. The share of peak counts the operations that the
numbers need (summlens.estimate) against the card's dense bf16 peak, given with --peak or known by name.

The last line is JSON: `speedup`, `memory_ratio` (straightforward over this; of the last model), `device`, on a GPU
`peak_share`, and `models` with each model's own.
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

from summlens import config as configuration  # noqa: E402
from summlens import console, data, estimate, models, training  # noqa: E402
from summlens.artifacts import Run  # noqa: E402
from summlens.experiment import device_name  # noqa: E402

EFFECTIVE = 16
DENSE_BF16 = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L4": 121.0, "4090": 165.0}  # TFLOP/s, makers' data sheets
STEPS = {"small": 3, "middle": 1, "gpt2": 10}


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


def make_examples(name: str, window: int, count: int) -> list[data.Example]:
    if name != "gpt2":
        from datasets import load_dataset

        encoder = data.Encoder(models.load_tokenizer(str(ROOT / "data" / "model")), "{article}\nTL;DR:", window)
        rows = load_dataset("parquet", data_files=str(ROOT / "data" / "sample" / "train.parquet"), split="train")
        return list(data.encode(rows.select(range(count)), encoder, "benchmark"))
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(np.log(820), 0.45, count).astype(int) + 70, window)
    return [
        data.Example(str(n), tuple(map(int, random.integers(50_000, size=length))), int(length) - 70, 0, 1)
        for n, length in enumerate(lengths)
    ]


class Watch(TrainerCallback):
    """Wall-clock seconds after the first step, and the highest memory above what was taken when training began."""

    def on_train_begin(self, args, state, control, **_):
        self.start, self.bytes, self.done = resident(), 0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args, state, control, **_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == 1:
            self.warm = time.perf_counter()
        self.end = time.perf_counter()

    def on_train_end(self, args, state, control, **_):
        self.done.set()
        if torch.cuda.is_available():
            self.bytes = torch.cuda.max_memory_allocated()

    def _watch(self):
        while not self.done.wait(0.005):
            self.bytes = max(self.bytes, resident() - self.start)


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
        arguments = training.training_arguments(config, Run(folder), first_step=1)  # no validation at the start
        arguments.eval_strategy = arguments.save_strategy = "no"
        training.SummaryTrainer(
            model=model, args=arguments, train_dataset=examples, eval_dataset=examples[:1],
            data_collator=data.collate, callbacks=[watch],
        ).train()  # fmt: skip


WAYS = {"straightforward": (load_straightforwardly, straightforward), "this": (models.load_model, this_project)}


def measure(way: str, name: str, steps: int, batch: int) -> dict:
    load, train = WAYS[way]
    model = make_model(name, load)
    window = models.window(model)
    examples = make_examples(name, window, EFFECTIVE * (steps + 1))
    watch = Watch()
    train(model, examples, window, steps + 1, watch, batch)
    operations = estimate.operations(estimate.shape_of(model.config), [len(one.input_ids) for one in examples], 70)
    return {
        "articles_per_second": EFFECTIVE * steps / (watch.end - watch.warm),
        "memory": watch.bytes,
        "operations_per_article": operations / len(examples),
    }


def main():
    console.start_logging()
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", choices=STEPS, default=["gpt2"] if gpu else ["small", "middle"])
    parser.add_argument("--steps", type=int, default=0, help="timed optimiser steps; 0 = as many as each model needs")
    parser.add_argument("--batch-size", type=int, default=16 if gpu else 2, help="this project's articles at a time")
    parser.add_argument("--peak", type=float, default=0.0, help="the GPU's dense bf16 peak in TFLOP/s")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        (name,) = options.model
        print(json.dumps(measure(options.way, name, options.steps or STEPS[name], options.batch_size)))
        return

    device = device_name(models.device())
    results = {}
    for name in options.model:
        sides = {}
        for way in WAYS:
            own = ["--way", way, "--model", name, "--steps", str(options.steps), "--threads", str(options.threads)]
            command = [sys.executable, __file__, *own, "--batch-size", str(options.batch_size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sides[way] = side = json.loads(done.stdout.splitlines()[-1])
            print(f"{name:7} {way:16} {side['articles_per_second']:8.2f} articles/s {side['memory'] / 2**20:8.0f} MiB")
        mine, other = sides["this"], sides["straightforward"]
        results[name] = {
            "speedup": round(mine["articles_per_second"] / other["articles_per_second"], 2),
            "memory_ratio": round(other["memory"] / mine["memory"], 2),
        }
        peak = options.peak or next((tflops for card, tflops in DENSE_BF16.items() if card in device), 0.0)
        if gpu and peak:
            used = mine["articles_per_second"] * mine["operations_per_article"] / 1e12
            results[name]["peak_share"] = round(used / peak, 3)
            print(f"{name:7} {used:.0f} TFLOP/s, {100 * used / peak:.0f} % of {peak:.0f}")
    print(json.dumps({**results[options.model[-1]], "device": device, "models": results}))


if __name__ == "__main__":
    main()
