"""Articles a second in sorted, left-padded batches against one at a time: the same model, the same summaries.

    python benchmarks/generation.py [--model data/model] [--articles 64] [--batch-size 16] [--threads 2]

Greedy decoding in float32 of the bundled sample's test articles. Stops with an error where a summary differs. The last
line is JSON: `speedup` (goal: 3 on two CPU cores).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from datasets import load_dataset  # noqa: E402

from summlens.data import tokens  # noqa: E402
from summlens.model import loading  # noqa: E402
from summlens.model.generation import generate  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "data" / "model"))
    parser.add_argument("--data", default=str(ROOT / "data" / "sample" / "test.parquet"), help="a Parquet file")
    parser.add_argument("--articles", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=80)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    device = loading.device()
    tokenizer, model = loading.load_tokenizer(options.model), loading.load_model(options.model).to(device)
    encoder = tokens.Encoder(tokenizer, "{article}\nTL;DR:", loading.window(model))
    rows = load_dataset("parquet", data_files=options.data, split="train")
    rows = rows.select(range(min(options.articles, len(rows))))
    prompts = [encoder.prompt(row["article"], options.max_new_tokens)[0] for row in rows]

    def timed(batch_size):
        started = time.perf_counter()
        results = generate(
            model,
            prompts,
            pad_id=tokenizer.eos_token_id,
            eos_id=tokenizer.eos_token_id,
            max_new_tokens=options.max_new_tokens,
            batch_size=batch_size,
        )
        return len(prompts) / (time.perf_counter() - started), results

    generate(
        model, prompts[:1], pad_id=0, eos_id=tokenizer.eos_token_id, max_new_tokens=4, progress=False
    )  # what is slow the first time only
    alone, one_at_a_time = timed(1)
    together, batched = timed(options.batch_size)
    different = sum(a != b for a, b in zip(one_at_a_time, batched, strict=True))
    if different:
        sys.exit(f"{different} of {len(prompts)} summaries differ between batches and one at a time")
    print(
        json.dumps(
            {
                "device": str(device),
                "threads": options.threads,
                "articles": len(prompts),
                "batch_size": options.batch_size,
                "articles_per_second": round(together, 2),
                "articles_per_second_one_at_a_time": round(alone, 2),
                "speedup": round(together / alone, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
