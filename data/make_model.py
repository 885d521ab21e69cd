"""Make the bundled model: a tokenizer and a small GPT-2, pre-trained on generated articles alone.

The model is a plain language model. It reads a stream of fresh articles (never a row of the shipped splits,
never highlights, never ``TL;DR:``), so that memorising does not pay and looking back to copy does; everything
it later knows of summarising comes from fine-tuning.

Its starting weights are random but for two pairs of heads that can copy (`lay_out_copying_heads`): a model of this
size finds such heads only after far more text than a laptop can read in half an hour.

    python data/make_model.py                       # data/model/, see data/README.md for the time it takes
    python data/make_model.py --steps 20 --output /tmp/model
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads are several times slower on busy cores

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

try:
    from data.make_sample import pretraining_text
except ImportError:  # run as a script: data/ itself is on the path
    from make_sample import pretraining_text

SEED = 2026
END = "<|endoftext|>"
WINDOW = 512


def train_tokenizer(seed: int, vocabulary: int, texts: int) -> PreTrainedTokenizerFast:
    """Train GPT-2's kind of tokenizer (byte-level BPE, exact decoding) on generated articles."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((pretraining_text(seed, -1 - i) for i in range(texts)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, tokens: int) -> Iterator[torch.Tensor]:
    """Yield batches of about ``tokens`` tokens for ever; documents of like length meet, so that few are cut.

    The documents of a batch are cut to the shortest one: no padding to pay for, and none to mask.
    """
    rng = random.Random(seed)
    number = 0
    while True:
        texts = [END + pretraining_text(seed, number + i) + END for i in range(2048)]
        number += len(texts)
        pool = sorted((ids[:WINDOW] for ids in tokenizer(texts)["input_ids"]), key=len)
        ready = []
        while pool:
            rows = max(1, tokens // len(pool[-1]))
            group, pool = pool[-rows:], pool[:-rows]
            ready.append(torch.tensor([ids[: len(group[0])] for ids in group]))
        rng.shuffle(ready)
        yield from ready


def make_optimizer(model: GPT2LMHeadModel, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices only, as GPT-2 was trained."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def rate_at(step: int, warmup: int, decay_from: int, decay_to: int) -> float:
    """The share of the peak learning rate at a step: linear warm-up, flat, linear decay to a tenth."""
    decayed = 1 - max(0, step - decay_from) / (decay_to - decay_from)
    return min(1.0, (step + 1) / warmup) * max(0.1, decayed)


@torch.no_grad()
def lay_out_copying_heads(model: GPT2LMHeadModel, pairs: int = 2, places: int = 64) -> None:
    """Give the first heads of layers 0 and 1 the starting weights of an induction circuit, in place.

    The circuit is that of Elhage et al. 2021 ("A Mathematical Framework for Transformer Circuits", induction heads):
    a head of layer 0 attends to the previous token and writes what it saw into the residual stream; a head of layer 1
    looks for a place whose previous token is the present one, and copies the token there. With D the width and d the
    head's size, the first ``places`` dimensions hold the positions as sinusoids (Vaswani et al. 2017, section 3.5), in
    which "one place back" is a rotation; the other D - places hold the token, which heads read and write through
    random orthonormal (D - places, d) frames. Everything is trained from there on like any other weight.
    """
    width, heads = model.config.n_embd, model.config.n_head
    size, waves = width // heads, places // 2
    generator = torch.Generator().manual_seed(1)
    tokens, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    tokens.normal_(0, 0.05, generator=generator)
    tokens[:, :places] = 0
    frequency = math.pi * float(positions.shape[0]) ** (-torch.arange(waves) / (waves - 1))
    angle = torch.arange(positions.shape[0])[:, None] * frequency
    positions.zero_()
    positions[:, :waves] = 0.1 * angle.sin()
    positions[:, waves:places] = 0.1 * angle.cos()

    def frame() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(width - places, size, generator=generator))[0]

    (into_0, out_0), (into_1, out_1) = (
        (block.attn.c_attn.weight, block.attn.c_proj.weight) for block in model.transformer.h[:2]
    )
    wave = torch.arange(size // 2)
    sine, cosine = frequency[wave].sin(), frequency[wave].cos()
    for head in range(pairs):
        query, key, value = (slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3))
        for into, out in ((into_0, out_0), (into_1, out_1)):
            into[:, query] = into[:, key] = into[:, value] = 0
            out[query] = 0
        # Layer 0: the query is the position turned back by one, the key the position itself.
        even, odd = head * size + 2 * wave, head * size + 2 * wave + 1
        into_0[wave, even], into_0[waves + wave, even] = 1.2 * cosine, -1.2 * sine
        into_0[waves + wave, odd], into_0[wave, odd] = 1.2 * cosine, 1.2 * sine
        into_0[wave, width + even] = into_0[waves + wave, width + odd] = 1
        read, write, copy = frame(), frame(), frame()
        into_0[places:, value], out_0[query, places:] = read, 0.1 * write.T
        # Layer 1: the query is the present token, the key what layer 0 wrote of the previous one.
        into_1[places:, query], into_1[places:, key] = 2 * read, write
        into_1[places:, value], out_1[query, places:] = copy, 0.15 * copy.T


@torch.no_grad()
def copying_attention(model: GPT2LMHeadModel) -> tuple[float, float]:
    """Attention of head 0.0 one token back, and of head 1.0 behind the earlier copy, on random tokens given twice."""
    once = torch.randint(1, model.config.vocab_size, (1, 100))
    model.set_attn_implementation("eager")
    maps = model(input_ids=torch.cat([once, once], dim=1), output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    query, second = torch.arange(1, 200), torch.arange(100, 199)
    return maps[0][0, 0][query, query - 1].mean().item(), maps[1][0, 0][second, second - 99].mean().item()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a float16 copy (half the size on disk; load it with dtype=float32) and the tokenizer."""
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pretrain(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Train the model on the stream and print a progress line now and then."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=WINDOW,
        n_embd=192,
        n_layer=4,
        n_head=6,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    lay_out_copying_heads(model)
    back, copied = copying_attention(model)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer):,}", flush=True)
    print(
        f"at the start {back:.2f} of head 0.0 on the previous token, {copied:.2f} of head 1.0 on the copy", flush=True
    )
    optimizer = make_optimizer(model, args.learning_rate)
    stream = batches(tokenizer, args.seed, args.batch_tokens)
    began, seen, recent = time.time(), 0, []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * rate_at(step, args.warmup, *args.decay)
        batch = next(stream)
        # A random start lets every position learn, though most documents are short.
        start = torch.randint(0, WINDOW - batch.shape[1] + 1, ()).item() if step % 2 else 0
        positions = torch.arange(start, start + batch.shape[1] - 1)[None]
        logits = model(input_ids=batch[:, :-1], position_ids=positions, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += batch.numel()
        recent = [*recent[-49:], loss.item()]
        if (step + 1) % 25 == 0 or step + 1 == args.steps:
            elapsed = time.time() - began
            print(
                f"step {step + 1}/{args.steps}  loss {sum(recent) / len(recent):.3f}  "
                f"{seen / 1e6:.2f}M tokens  {elapsed:.0f} s  {seen / elapsed:,.0f} tokens/s",
                flush=True,
            )
        if args.save_every and (step + 1) % args.save_every == 0:
            save(model, tokenizer, args.output)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model", help="folder to write")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the articles and their order")
    parser.add_argument("--vocabulary", type=int, default=2560, help="tokens in the vocabulary")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens a step, about")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=100, help="steps of linear warm-up")
    parser.add_argument(
        "--decay", type=int, nargs=2, default=(1440, 2400), help="steps where the decay begins and reaches a tenth"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--save-every", type=int, default=0, help="also save every so many steps (0: only at the end)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(args.seed, args.vocabulary, texts=8000)
    save(pretrain(args, tokenizer), tokenizer, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
