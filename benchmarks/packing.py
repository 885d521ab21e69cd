"""Batches by length against packing: the padding that each leaves, and the time of a training pass over both.

Batches by length are those that training makes, each as long as its longest article. Packing puts articles one behind
the other into rows of 1 or 2 windows, the longest first, each into the first row with room for it; positions begin
anew with every article, from which transformers makes the mask (block-diagonal and causal, through SDPA) that keeps
attention within it. Both pass the same articles forward and backward through the same weights in one process; their
losses and gradients must agree.

    python benchmarks/packing.py [--batch-size 16] [--batches 8] [--data ../shared/data] [--threads 2]

Lengths are those of CNN/DailyMail's articles in --data, in GPT-2's window and the tokens of the tokenizer that lies
beside them (gpt2_tokenizer); of the bundled sample where they are absent. The timed model is two layers of GPT-2 with
random weights at a quarter of its width and window, over random tokens of a quarter of the lengths: attention keeps its
share of the operations.

The last line is JSON: `padding_share` {batch size: share of the positions in batches by length}, `packed_padding_share`
and `time_ratios` (packed over by length) {row in windows: …}, `time_ratio`, the lowest of these, and `data`, `device`.
"""

import argparse
import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from summlens.core.config import preset  # noqa: E402
from summlens.data import tokens  # noqa: E402
from summlens.data.articles import load_articles  # noqa: E402
from summlens.data.batches import ByLength, collate  # noqa: E402
from summlens.model import loading  # noqa: E402
from summlens.model.loading import device_name  # noqa: E402

BATCH_SIZES, ROWS = (2, 8, 16), (1, 2)
SMALLER, VOCABULARY = 4, 1_000


def article_lengths(folder: Path) -> tuple[str, int, np.ndarray]:
    """Which articles, the window, and each article's tokens with its summary."""
    files, tokenizer = sorted(folder.glob("cnn_dailymail_train*.jsonl.gz")), folder.parent / "gpt2_tokenizer"
    if files and tokenizer.is_dir():
        encoder = tokens.Encoder(GPT2Tokenizer.from_pretrained(tokenizer), preset("full").template, 1024)
        with gzip.open(files[0], "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        examples = [encoder.example(row["id"], row["article"], row["highlights"]) for row in rows]
        return "CNN/DailyMail", encoder.window, tokens.lengths(examples)
    config = preset("demo")
    encoder = tokens.Encoder(loading.load_tokenizer(str(ROOT / config.model)), config.template, 512)
    return "sample", encoder.window, tokens.lengths(tokens.encode(load_articles(config)["train"], encoder, "training"))


def by_length(lengths: np.ndarray, size: int) -> list[list[int]]:
    order = list(ByLength(lengths, size, seed=0))
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_rows(lengths: np.ndarray, chosen: list[int], room: int) -> list[list[int]]:
    """Articles in rows of at most `room` tokens."""
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(chosen, key=lambda index: -lengths[index]):
        row = next((row for row, space in enumerate(left) if lengths[index] <= space), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(room)
        rows[row].append(index)
        left[row] -= lengths[index]
    return rows


def padding_share(lengths: np.ndarray, batches: list[list[list[int]]]) -> float:
    """The share of all positions that are padding, of batches of rows of articles."""
    filled = [[sum(lengths[index] for index in row) for row in batch] for batch in batches]
    return 1 - sum(map(sum, filled)) / sum(max(batch) * len(batch) for batch in filled)


def packed(examples: dict[int, tokens.Example], rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels` and `position_ids` (R, T) of rows of articles; positions 0 keep padding to itself."""
    longest = max(sum(len(examples[index].input_ids) for index in row) for row in rows)
    ids, positions = torch.zeros(2, len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, tokens.IGNORED)
    for row, articles in enumerate(rows):
        start = 0
        for index in articles:
            own = collate([examples[index]])
            stop = start + own["input_ids"].shape[1]
            ids[row, start:stop], labels[row, start:stop] = own["input_ids"][0], own["labels"][0]
            positions[row, start:stop] = torch.arange(stop - start)
            start = stop
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def train_pass(model: GPT2LMHeadModel, batches: list[dict]) -> tuple[float, float, torch.Tensor]:
    """Seconds of the forward and backward passes, the summed loss, and the gradient of all parameters."""
    model.zero_grad(set_to_none=True)
    total, started = 0.0, time.perf_counter()
    for batch in batches:
        targets = batch["labels"][:, 1:]
        wanted = targets != tokens.IGNORED
        hidden = model.transformer(batch["input_ids"], position_ids=batch.get("position_ids"), use_cache=False)[0]
        logits = model.lm_head(hidden[:, :-1][wanted])
        loss = torch.nn.functional.cross_entropy(logits, targets[wanted], reduction="sum")
        loss.backward()
        total += loss.item()
    seconds = time.perf_counter() - started
    return seconds, total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16, help="articles of a batch that is timed")
    parser.add_argument("--batches", type=int, default=8, help="batches by length whose articles are timed")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="directory of CNN/DailyMail's articles"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    name, window, real = article_lengths(options.data)
    shares = {
        size: padding_share(real, [[[index] for index in batch] for batch in by_length(real, size)])
        for size in BATCH_SIZES
    }
    print(f"padding of {len(real):,} articles ({name}, {real.mean():.0f} of {window:,} tokens) in batches by length:")
    print(", ".join(f"{100 * share:.2f} % at {size}" for size, share in shares.items()))

    room = 1024 // SMALLER
    lengths = np.maximum(real * room // window, 2)
    batches = by_length(lengths, options.batch_size)[: options.batches]
    chosen = [index for batch in batches for index in batch]
    random = np.random.default_rng(0)
    examples = {
        index: tokens.Example("", tuple(random.integers(VOCABULARY, size=n).tolist()), n - max(1, n // 12), 0, 1)
        for index, n in zip(chosen, lengths[chosen].tolist(), strict=True)
    }
    sides = {0: [collate([examples[index] for index in batch]) for batch in batches]}  # 0: by length
    packed_shares = {}
    for windows in ROWS:
        rows = in_rows(lengths, chosen, windows * room)
        size = max(1, options.batch_size // windows)
        batched = [rows[start : start + size] for start in range(0, len(rows), size)]
        packed_shares[windows] = padding_share(lengths, batched)
        sides[windows] = [packed(examples, batch) for batch in batched]

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_positions=room, n_embd=768 // SMALLER, n_layer=2, n_head=12 // SMALLER,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        initializer_range=0.1,  # large enough for attention into another article to show
    ))  # fmt: skip
    loading.fuse_gelu(model)
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(3):  # the first warms up, and the faster of the others counts
        for side, made in sides.items():
            seconds, loss, gradient = train_pass(model, made)
            if side == 0:
                expected = loss, gradient
            apart = abs(loss / expected[0] - 1), float((gradient - expected[1]).norm() / expected[1].norm())
            if max(apart) > 1e-4:
                raise SystemExit(f"packed in rows of {side} windows, loss and gradient are off by {apart}")
            if turn:
                best[side] = min(best[side], seconds)
    print(f"{len(chosen)} articles in batches by length: {best[0]:.2f} s")
    for windows in ROWS:
        print(
            f"packed in rows of {windows} x window: {best[windows]:.2f} s ({best[windows] / best[0]:.2f} times), "
            f"{100 * packed_shares[windows]:.2f} % padding"
        )
    ratios = {windows: round(best[windows] / best[0], 2) for windows in ROWS}
    result = {
        "padding_share": {size: round(share, 4) for size, share in shares.items()},
        "packed_padding_share": {windows: round(share, 4) for windows, share in packed_shares.items()},
        "time_ratios": ratios,
        "time_ratio": min(ratios.values()),
        "data": name,
        "device": device_name(torch.device("cpu")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
