"""Attention statistics against the straightforward way: time, peak memory, and how memory grows with length.

The straightforward way asks the model for its attention maps (eager attention, maps returned) and loops over layers
and heads in NumPy. Both compute every one-model metric with its sink-free form over both sets of positions, for one
article on GPT-2's full shape (12 layers of 12 heads of 64, random weights) on the CPU, and must agree. Each way runs
in a process of its own, so that peaks do not mix; memory is counted above what model and libraries take. Time is the
processor's, so that a busy machine does not distort the ratio.

    python benchmarks/attention_statistics.py [--tokens 1024] [--lengths 1024 2048 4096 8192 16384]

The last line is JSON: time_ratio and memory_ratio, the straightforward way over this one (goals: 10 and 8).
"""

import argparse
import json
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

from summlens.architecture import architecture, evaluating, observed_attention
from summlens.metrics.attention import Projected, Tokens, attention_statistics, metric_names

LAYERS, HEADS, WIDTH = 12, 12, 64


def article(length: int) -> Tokens:
    """Random tokens; the last 80 are the summary, or a quarter of a short article."""
    ids = torch.randint(0, 5000, (length,), generator=torch.Generator().manual_seed(0))
    prompt = length - min(80, length // 4)
    return Tokens(ids, article_start=0, article_stop=prompt - 3, prompt_length=prompt)


def random_gpt2(length: int, attention: str) -> GPT2LMHeadModel:
    torch.manual_seed(0)
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


def streaming(length: int) -> dict:
    """This project's way: the queries and keys of a forward pass, in blocks. Seconds are of the statistics alone."""
    model, tokens, numbers, seconds = random_gpt2(length, "sdpa"), article(length), {}, 0.0
    found = architecture(model)

    def observe(layer, *projected):
        nonlocal seconds
        start = time.process_time()
        for name, values in attention_statistics(Projected(*projected), [tokens]).items():
            numbers.setdefault(name, []).append(values[0].numpy())
        seconds += time.process_time() - start

    real = torch.ones(1, length, dtype=torch.bool)
    with torch.no_grad():
        model.transformer(tokens.ids[None, :32], use_cache=False)  # what libraries set up once is not counted
    with Peak() as peak, torch.no_grad(), evaluating(model), observed_attention(found, real, observe):
        model.transformer(tokens.ids[None], use_cache=False)
    return {"seconds": seconds, "bytes": peak.bytes, "numbers": means(numbers)}


def straightforward(length: int) -> dict:
    """Attention maps as the model returns them, then NumPy, a layer and a head at a time."""
    model, tokens, numbers = random_gpt2(length, "eager"), article(length), {}
    with torch.no_grad():
        model.transformer(tokens.ids[None, :32], use_cache=False)
    with Peak() as peak:
        with torch.no_grad():
            maps = model.transformer(tokens.ids[None], output_attentions=True, use_cache=False).attentions
        start = time.process_time()
        for layer in maps:
            values = [head_statistics(layer[0, head].numpy(), tokens) for head in range(HEADS)]
            for name in values[0]:
                numbers.setdefault(name, []).append(np.array([one[name] for one in values]))
        seconds = time.process_time() - start
    return {"seconds": seconds, "bytes": peak.bytes, "numbers": means(numbers)}


def head_statistics(p: np.ndarray, tokens: Tokens) -> dict[str, float]:
    """Every metric of one head's map (T, T), vectorised over the map as a notebook would."""
    length, ids = len(p), tokens.ids.numpy()
    t = np.arange(length)
    causal, earlier = t[None, :] <= t[:, None], t[:, None] - t[None, :]
    rows = {"first_token_share": p[:, 0]}
    article_tokens = set(ids[tokens.article_start : tokens.article_stop].tolist())
    for form, first in (("", 0), ("_no_sink", 1)):
        q = p.copy()
        q[:, :first] = 0
        with np.errstate(invalid="ignore", divide="ignore"):
            q /= q.sum(-1, keepdims=True)
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
            "distance": (q * earlier * causal).sum(-1),
            "copy_score": copy,
        }
        rows |= {name + form: np.where(entries > 0, row, np.nan) for name, row in values.items()}
    return {
        f"{name}/{where}": float(np.nanmean(row[tokens.queries(where)]))
        for name, row in rows.items()
        for where in ("summary", "all")
    }


def means(numbers: dict) -> dict[str, float]:
    """One number a metric, so that the two ways can be held against each other."""
    return {name: float(np.mean(values)) for name, values in numbers.items()}


def measure(way: str, length: int, threads: int) -> dict:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--tokens", str(length), "--threads", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024, help="length of the article that the ways are compared on")
    parser.add_argument(
        "--lengths", type=int, nargs="*", default=[1024, 2048, 4096], help="lengths for memory's growth"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor threads (NumPy uses one)")
    parser.add_argument("--way", choices=["streaming", "straightforward"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        print(json.dumps(globals()[options.way](options.tokens)))
        return

    ours, theirs = (measure(way, options.tokens, options.threads) for way in ("streaming", "straightforward"))
    assert set(ours["numbers"]) == {f"{n}/{w}" for n in metric_names(False) for w in ("summary", "all")}
    worst = max(abs(ours["numbers"][k] - v) / max(abs(v), 1e-3) for k, v in theirs["numbers"].items())
    print(f"{options.tokens} tokens, {LAYERS} x {HEADS} heads; largest relative difference of a mean {worst:.1e}")
    for name, one in (("straightforward", theirs), ("this", ours)):
        print(f"{name:>16}  {one['seconds']:8.2f} s  {one['bytes'] / 2**20:8.1f} MiB")
    growth = {}
    for length in options.lengths:
        growth[length] = measure("streaming", length, options.threads)
        maps = LAYERS * HEADS * length**2 * 4
        print(
            f"{length:>9} tokens  {growth[length]['seconds']:8.2f} s  {growth[length]['bytes'] / 2**20:8.1f} MiB"
            f"  (the maps alone: {maps / 2**20:,.0f} MiB)",
            flush=True,
        )
    print(
        json.dumps(
            {
                "benchmark": "attention_statistics",
                "time_ratio": round(theirs["seconds"] / ours["seconds"], 2),
                "memory_ratio": round(theirs["bytes"] / ours["bytes"], 2),
                "tokens": options.tokens,
                "mebibytes_by_tokens": {str(n): round(one["bytes"] / 2**20, 1) for n, one in growth.items()},
                "largest_relative_difference": worst,
            }
        )
    )


if __name__ == "__main__":
    main()
