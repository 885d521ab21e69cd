"""Attention statistics against the straightforward way: time, peak memory, and how memory grows with length.

The straightforward way asks the model for its attention maps (eager attention, maps returned) and loops over layers
and heads in NumPy: each metric vectorised over a head's map, the Gini coefficient a row at a time. Both ways compute
every metric with its sink-free form over both sets of positions, for one article on GPT-2's full shape (12 layers of
12 heads of 64, random weights) on the CPU, of one model and of two (then also KL and JS), and must agree. Each run is
a process of its own, so that peaks do not mix. Memory is counted above what models and libraries take, forward passes
included, in a run whose C library gives freed memory back at once (it would count as used, and costs time). Time is
the clock's, with as many threads as --threads on both sides (NumPy's loops use one), the best of some runs that
alternate; this way's includes the product of queries and keys, which the straightforward way gets with its maps.

    python benchmarks/attention_statistics.py [--tokens 1024] [--lengths 1024 2048 4096 8192 16384] [--repeats 3]

The last line is JSON: time_ratio (of the statistics, one model) and memory_ratio, the straightforward way over this
one (goals: 10 and 8); cpu_time_ratio is of the processor's time, total_time_ratio of the clock's with the forward
passes; memory_growth is the exponent of tokens with which the peak grew from the second longest length to the longest
(1 = in a straight line; maps grow with 2).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from summlens.metrics.attention import Projected, Tokens, attention_statistics
from summlens.model.architecture import architecture
from summlens.model.observing import observed_attention
from summlens.names import attention_forms

LAYERS, HEADS, WIDTH = 12, 12, 64


def article(length: int) -> Tokens:
    """Random tokens; the last 80 are the summary, or a quarter of a short article."""
    ids = torch.randint(0, 5000, (length,), generator=torch.Generator().manual_seed(0))
    prompt = length - min(80, length // 4)
    return Tokens(ids, article_start=0, article_stop=prompt - 3, prompt_length=prompt)


def random_gpt2(length: int, attention: str, seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(n_positions=length, attn_implementation=attention)
    return GPT2LMHeadModel(config).eval()


class Peak:
    """The highest resident memory within the context above what was resident when it began, in bytes."""

    def __enter__(self):
        self.start, self.bytes, self._stop = resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, resident() - self.start)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident() - self.start)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def streaming(length: int, models: int) -> dict:
    """This project's way: the queries and keys of a forward pass, in blocks."""
    tokens, numbers, seconds, waiting = article(length), {}, np.zeros(2), {}
    model, base = (random_gpt2(length, "sdpa", seed) for seed in (0, 1))

    def keep(layer, *projected):
        waiting[layer] = Projected(*projected)

    def observe(layer, *projected):
        nonlocal seconds
        start = clocks()
        statistics = attention_statistics(Projected(*projected), [tokens], waiting.pop(layer, None))
        for name, values in statistics.items():
            numbers.setdefault(name, []).append(values[0].numpy())
        seconds += clocks() - start

    real = torch.ones(1, length, dtype=torch.bool)
    forward(model, tokens.ids[:32])  # what libraries set up once is not counted
    with Peak() as peak:
        start = clocks()
        if models == 2:
            with observed_attention(architecture(base), real, keep):
                forward(base, tokens.ids)
        with observed_attention(architecture(model), real, observe):
            forward(model, tokens.ids)
        total = clocks() - start
    return times(seconds, total) | {"bytes": peak.bytes, "numbers": means(numbers)}


def straightforward(length: int, models: int) -> dict:
    """Attention maps as the models return them, then NumPy, a layer and a head at a time."""
    tokens, numbers, base_maps = article(length), {}, [None] * LAYERS
    model, base = (random_gpt2(length, "eager", seed) for seed in (0, 1))
    forward(model, tokens.ids[:32])
    with Peak() as peak:
        start = clocks()
        maps = forward(model, tokens.ids, output_attentions=True).attentions
        if models == 2:
            base_maps = forward(base, tokens.ids, output_attentions=True).attentions
        begin = clocks()
        t = np.arange(length, dtype=np.float32)
        distance = np.maximum(t[:, None] - t[None, :], 0)
        for layer, base_layer in zip(maps, base_maps, strict=True):
            values = [
                head_statistics(
                    layer[0, head].numpy(),
                    tokens,
                    distance,
                    None if base_layer is None else base_layer[0, head].numpy(),
                )
                for head in range(HEADS)
            ]
            for name in values[0]:
                numbers.setdefault(name, []).append(np.array([one[name] for one in values]))
        end = clocks()
    return times(end - begin, end - start) | {"bytes": peak.bytes, "numbers": means(numbers)}


def clocks() -> np.ndarray:
    """Seconds of the clock on the wall, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def times(statistics: np.ndarray, total: np.ndarray) -> dict:
    return {"seconds": statistics[0], "cpu_seconds": statistics[1], "total": total[0]}


def forward(model: GPT2LMHeadModel, ids: torch.Tensor, **options):
    with torch.no_grad():
        return model.transformer(ids[None], use_cache=False, **options)


def head_statistics(
    p: np.ndarray, tokens: Tokens, distance: np.ndarray, base: np.ndarray | None = None
) -> dict[str, float]:
    """Every metric of one head's map (T, T), vectorised over the map as a notebook would; distance: (T, T)."""
    length, ids = len(p), tokens.ids.numpy()
    t = np.arange(length)
    rows = {"first_token_share": p[:, 0]}
    article_tokens = set(ids[tokens.article_start : tokens.article_stop].tolist())
    for form, first in (("", 0), ("_no_sink", 1)):
        q = without(p, first)
        with np.errstate(invalid="ignore", divide="ignore"):
            entries = t + 1 - first
            entropy = -np.where(q > 0, q * np.log2(q), 0).sum(-1)
            normalized = entropy / np.log2(entries)
            gini = np.empty(length)
            for i in range(length):
                row = np.sort(q[i, first : i + 1])
                n = len(row)
                gini[i] = 2 * (np.arange(1, n + 1) * row).sum() / (n * row.sum()) - (n + 1) / n if n else np.nan
        previous = np.zeros(length)
        previous[1:] = q[t[1:], t[:-1]]
        copy = np.full(length, np.nan)
        for i in range(tokens.prompt_length - 1, length - 1):
            if ids[i + 1] in article_tokens:
                copy[i] = q[i, : i + 1][ids[: i + 1] == ids[i + 1]].sum()
        values = {
            "entropy": entropy,
            "normalized_entropy": np.where(entries > 1, normalized, np.nan),
            "sparsity": gini,
            "previous_token_share": previous,
            "article_share": q[:, tokens.article_start : tokens.article_stop].sum(-1),
            "summary_share": q[:, tokens.prompt_length :].sum(-1),
            "distance": (q * distance).sum(-1),
            "copy_score": copy,
        }
        if base is not None:
            b = without(base, first)
            m = (q + b) / 2
            kl_base, kl, kl_mean = divergence(b, m), divergence(q, b), divergence(q, m)
            values |= {"kl": kl, "js": (kl_mean + kl_base) / 2}
        rows |= {name + form: np.where(entries > 0, row, np.nan) for name, row in values.items()}
    return {
        f"{name}/{where}": float(np.nanmean(row[tokens.queries(where)]))
        for name, row in rows.items()
        for where in ("summary", "all")
    }


def without(p: np.ndarray, first: int) -> np.ndarray:
    """The map without its first keys, the rest of each row renormalised."""
    if not first:
        return p
    q = p.copy()
    q[:, :first] = 0
    with np.errstate(invalid="ignore"):
        return q / q.sum(-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in bits of each row."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(p > 0, p * np.log2(p / q), 0).sum(-1)


def means(numbers: dict) -> dict[str, float]:
    """One number a metric, so that the two ways can be held against each other."""
    return {name: float(np.mean(values)) for name, values in numbers.items()}


def measure(way: str, length: int, models: int, threads: int, *, tight: bool) -> dict:
    """Run one way in a process of its own; tight: with memory given back at once, for its peak and not its time."""
    command = [sys.executable, __file__, "--way", way, "--tokens", length, "--models", models, "--threads", threads]
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": str(2**19)} if tight else {})
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace, models: int) -> dict:
    """Both ways in turn; prints a table and returns the ratios."""
    ways = {"straightforward": "straightforward", "this way": "streaming"}
    runs = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            runs[name].append(measure(way, options.tokens, models, options.threads, tight=False))
    theirs, ours = (
        {key: min(one[key] for one in several) for key in ("seconds", "cpu_seconds", "total")}
        for several in runs.values()
    )
    for one, way in zip((theirs, ours), ways.values(), strict=True):
        one["bytes"] = measure(way, options.tokens, models, options.threads, tight=True)["bytes"]
    expected, got = (several[0]["numbers"] for several in runs.values())
    assert set(expected) == set(got) == {f"{n}/{w}" for n in attention_forms(models == 2) for w in ("summary", "all")}
    worst = max(abs(got[name] - value) / max(abs(value), 1e-3) for name, value in expected.items())
    print(f"{options.tokens} tokens, {LAYERS} x {HEADS} heads, models: {models}")
    for name, one in zip(runs, (theirs, ours), strict=True):
        print(
            f"{name:>16}  statistics {one['seconds']:6.2f} s  with the forward passes {one['total']:6.2f} s"
            f"  peak {one['bytes'] / 2**20:7.1f} MiB",
            flush=True,
        )
    return {
        "time_ratio": round(theirs["seconds"] / ours["seconds"], 2),
        "cpu_time_ratio": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 2),
        "total_time_ratio": round(theirs["total"] / ours["total"], 2),
        "memory_ratio": round(theirs["bytes"] / ours["bytes"], 2),
        "largest_relative_difference": worst,
    }


def exponent(growth: dict[int, float]) -> float | None:
    """The power of the length with which memory grew between the two longest lengths."""
    if len(growth) < 2:
        return None
    (shorter, less), (longer, more) = sorted(growth.items())[-2:]
    return round(math.log(more / less) / math.log(longer / shorter), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024, help="length of the article that the ways are compared on")
    parser.add_argument(
        "--lengths", type=int, nargs="*", default=[1024, 2048, 4096, 8192, 16384], help="lengths for memory's growth"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way; the best counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads (NumPy's loops use one)")
    parser.add_argument("--way", choices=["streaming", "straightforward"], help=argparse.SUPPRESS)
    parser.add_argument("--models", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        print(json.dumps(globals()[options.way](options.tokens, options.models)))
        return

    one, two = (compare(options, models) for models in (1, 2))
    growth = {}
    for length in options.lengths:
        run = measure("streaming", length, 1, options.threads, tight=True)
        growth[length] = round(run["bytes"] / 2**20, 1)
        maps = LAYERS * HEADS * length**2 * 4 / 2**20
        print(
            f"{length:>7} tokens  {run['seconds']:7.2f} s  peak {growth[length]:7.1f} MiB (maps: {maps:,.0f} MiB)",
            flush=True,
        )
    print(
        json.dumps(
            {
                "benchmark": "attention_statistics",
                **one,
                "two_models": two,
                "tokens": options.tokens,
                "threads": options.threads,
                "mebibytes_by_tokens": growth,
                "memory_growth": exponent(growth),
            }
        )
    )


if __name__ == "__main__":
    main()
