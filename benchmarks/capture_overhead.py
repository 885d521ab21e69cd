"""What capturing adds to a training run: the time of one capture against that of the optimiser steps between two.

In the proportions of the full preset: 287,113 articles, 3 epochs, 16 articles a step, a capture every 200 steps (and
at step 0 and the end; eight of them whole, the others slim) of 32 probe articles with the base model beside the trained
one, a window of 1,024 tokens. A step computes what training computes: no logits but those of the summary.
Lengths are drawn like CNN/DailyMail's: log-normal, a median of 850 tokens with the summary, cut at the window. Weights
are random in GPT-2's shape (or --model's): times do not depend on them.

    python benchmarks/capture_overhead.py [--model NAME] [--device cuda] [--step-articles 16] [--probe-articles 32]

On the CPU fewer articles are run (3 and 3 unless told otherwise, from all over the order by length), the best of two
times, scaled by tokens; AdamW's own time and the comparison of weights, which do not depend on articles, are measured
whole. The last line is JSON: `overhead`, the
share that capturing adds to the time of training (goal: below 0.05).
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

sys.path.insert(0, str(Path(__file__).parents[1]))

from summlens.artifacts import MOST_WHOLE  # noqa: E402
from summlens.capture import capture, weight_change  # noqa: E402
from summlens.data.tokens import Example  # noqa: E402
from summlens.names import POSITIONS  # noqa: E402

ARTICLES, EPOCHS, BATCH, CAPTURE_STEPS, PROBE, WINDOW, CAPTURE_BATCH = 287_113, 3, 16, 200, 32, 1024, 4
SUMMARY = 70  # tokens


def examples(count: int, vocabulary: int, seed: int) -> list[Example]:
    random = np.random.default_rng(seed)
    lengths = np.clip(850 * np.exp(0.5 * random.standard_normal(count)), 150, WINDOW).astype(int)
    return [
        Example(str(i), tuple(random.integers(0, vocabulary, n).tolist()), int(n) - SUMMARY, 0, int(n) - SUMMARY - 4)
        for i, n in enumerate(lengths)
    ]


def tokens_of(chosen: list[Example]) -> int:
    return sum(len(example.input_ids) for example in chosen)


def spread(chosen: list[Example], count: int) -> list[Example]:
    """`count` examples evenly from the order by length: what is run stands for the whole, also what grows with T²."""
    ordered = sorted(chosen, key=lambda example: len(example.input_ids))
    count = min(count, len(ordered))
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


def timed(function, device: torch.device) -> float:
    """Seconds, the better of two times."""
    seconds = []
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub name or directory whose shape to use; default: GPT-2's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--step-articles", type=int, help="articles of a step that are run, one at a time")
    parser.add_argument("--probe-articles", type=int, help="probe articles that are run")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    on_cpu = device.type == "cpu"

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(options.model) if options.model else GPT2Config()
    base = AutoModelForCausalLM.from_config(config).to(device).eval()
    model = copy.deepcopy(base).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    batch, probe = (examples(n, config.vocab_size, seed) for n, seed in ((BATCH, 0), (PROBE, 1)))
    some_batch = spread(batch, options.step_articles or (3 if on_cpu else BATCH))
    some_probe = spread(probe, options.probe_articles or (3 if on_cpu else PROBE))

    def pass_over(articles):
        for example in articles:
            with torch.autocast(device.type, torch.bfloat16, enabled=not on_cpu):
                ids = torch.tensor([example.input_ids], device=device)
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=SUMMARY + 1).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, -SUMMARY:]) / BATCH
            loss.backward()

    def update():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def look(positions):
        capture(model, some_probe, base=base, batch_size=CAPTURE_BATCH, positions=positions)

    pass_over(examples(1, config.vocab_size, 2))  # what is set up once is not counted
    update()
    optimizer.zero_grad(set_to_none=True)
    capture(model, examples(1, config.vocab_size, 3), base=base)

    passing = timed(lambda: pass_over(some_batch), device) * tokens_of(batch) / tokens_of(some_batch)
    step = passing + timed(update, device)
    weights = timed(lambda: weight_change(model, base), device)
    scale = tokens_of(probe) / tokens_of(some_probe)
    slim, whole = (timed(lambda p=p: look(p), device) * scale + weights for p in (("summary",), POSITIONS))

    steps = EPOCHS * ARTICLES // BATCH
    captures = 2 + steps // CAPTURE_STEPS
    overhead = (MOST_WHOLE * whole + (captures - MOST_WHOLE) * slim) / (steps * step)
    print(f"tokens a step {tokens_of(batch):,} (run: {tokens_of(some_batch):,})  step {step:8.2f} s")
    run = tokens_of(some_probe)
    print(f"tokens a capture {tokens_of(probe):,} (run: {run:,})  slim {slim:8.2f} s  whole {whole:8.2f} s")
    print(f"{steps:,} steps, {captures} captures: capturing adds {100 * overhead:.2f} %")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(
        json.dumps(
            {
                "benchmark": "capture_overhead",
                "overhead": round(overhead, 4),
                "seconds_a_step": round(step, 3),
                "seconds_a_slim_capture": round(slim, 3),
                "seconds_a_whole_capture": round(whole, 3),
                "device": name,
            }
        )
    )


if __name__ == "__main__":
    main()
