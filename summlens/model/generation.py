"""Summaries from a model: prompts in, token ids out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig

from summlens.core.errors import UserError
from summlens.model import loading


@dataclass(frozen=True)
class Generated:
    """What a model wrote after one prompt: token ids without the end-of-text, and whether it ended by itself."""

    ids: tuple[int, ...]
    finished: bool


class GenerationCache:
    """Finished generations in a JSONL file, appended one by one, so that an interrupted evaluation can go on.

    Args:
        path: the file. Each process of a distributed run appends to a file of its own beside it and reads all of them.
        fingerprint: names everything that decides the output (weights, prompts, generation settings). Lines with
            another fingerprint are left alone and not used.
    """

    def __init__(self, path: str | Path, fingerprint: str):
        rank, _ = _rank_and_world()
        path = Path(path)
        self._path = path.with_name(f"{path.name}.rank{rank}") if rank else path
        self._fingerprint = fingerprint
        self._found = {}
        for part in (path, *sorted(path.parent.glob(f"{path.name}.rank*"))):
            if part.is_file():
                self._read(part)

    def __len__(self):
        return len(self._found)

    def get(self, key: str) -> Generated | None:
        return self._found.get(key)

    def add(self, results: dict[str, Generated]) -> None:
        """Append `results` by article id. What is written survives a crash at any later moment."""
        lines = [
            json.dumps(
                {
                    "id": key,
                    "fingerprint": self._fingerprint,
                    "ids": [int(token) for token in result.ids],
                    "finished": result.finished,
                }
            )
            for key, result in results.items()
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # the last run died in the middle of a line
                    file.write(b"\n")
            file.write("".join(line + "\n" for line in lines).encode())
        self._found.update(results)

    def _read(self, path):
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
                if row["fingerprint"] == self._fingerprint:
                    self._found[row["id"]] = Generated(tuple(row["ids"]), bool(row["finished"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off: its article is generated again


def generate(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    eos_id: int,
    max_new_tokens: int,
    num_beams: int = 1,
    batch_size: int = 16,
    ids: Sequence[str] | None = None,
    cache: GenerationCache | None = None,
    progress: bool = True,
    alone: bool = False,
) -> list[Generated]:
    """Continue every prompt, greedily or by beam search, until the end-of-text or `max_new_tokens`.

    Batches hold prompts of similar length, padded on the left under an attention mask, from which transformers makes
    the position ids; so a summary does not depend on what it shares a batch with, but for the rounding of the model's
    dtype. What was generated is what stands behind the prompt's last position, whatever tokens the prompt holds.

    Under torch.distributed the prompts are shared out over the processes, and every process gets the whole answer;
    with `alone` this process does all the work, and the others need not ask.

    Args:
        model: a decoder-only transformers model, on the device and in the dtype to generate with.
        prompts: token ids, A lists of at least one token.
        ids, cache: the articles' ids, and where their results are kept and looked up. Both or neither.

    Returns:
        A results, in the order of the prompts.

    Raises:
        UserError: a prompt is empty, or does not leave `max_new_tokens` in the model's window.
    """
    if (ids is None) != (cache is None):
        raise ValueError("a cache needs the articles' ids, and ids are for a cache")
    _check_lengths(model, prompts, max_new_tokens)
    rank, world = (0, 1) if alone else _rank_and_world()
    # The longest first: if the memory does not suffice, it shows at once. The share of a process depends on the prompts
    # alone, never on what the cache holds, because the processes may see it at different moments.
    mine = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))[rank::world]
    results = {}
    if cache is not None:
        known = {index: cache.get(ids[index]) for index in mine}
        results = {index: result for index, result in known.items() if result is not None}
    todo = [index for index in mine if index not in results]
    settings = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        use_cache=True,
    )
    was_training, own_settings = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()  # else a model's own sampling settings fill what is not set above
    try:
        with tqdm(
            total=len(mine), initial=len(results), desc="Generating", unit="article", disable=not progress or rank > 0
        ) as bar:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                written = _generate_batch(model, [prompts[index] for index in batch], settings)
                results.update(zip(batch, written, strict=True))
                if cache is not None:
                    cache.add({ids[index]: results[index] for index in batch})
                bar.update(len(batch))
    finally:
        model.generation_config = own_settings
        model.train(was_training)
    if world > 1:
        parts = [None] * world
        torch.distributed.all_gather_object(parts, results)
        results = {index: result for part in parts for index, result in part.items()}
    return [results[index] for index in range(len(prompts))]


def generate_vllm(
    model_path: str | Path,
    prompts: Sequence[Sequence[int]],
    *,
    eos_id: int,
    max_new_tokens: int,
    seed: int = 0,
) -> list[Generated]:
    """`generate` (greedy) by the vLLM engine on the model saved in `model_path`. Untested here: it needs a GPU.

    Raises UserError where vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise UserError(
            "--generation-backend vllm needs the package vllm: install it with `pip install vllm`, "
            "or leave the option out"
        ) from None
    sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=[eos_id])
    outputs = LLM(model=str(model_path), seed=seed).generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts], sampling
    )
    return [_until_end(output.outputs[0].token_ids, eos_id) for output in outputs]


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _check_lengths(model, prompts, max_new_tokens):
    if any(len(prompt) == 0 for prompt in prompts):
        raise UserError("a prompt is empty: a template and an article without a single token cannot be continued")
    window = loading.positions(model)
    longest = max(map(len, prompts), default=0)
    if window is not None and longest + max_new_tokens > window:
        raise UserError(
            f"a prompt of {longest} tokens and {max_new_tokens} new tokens do not fit the model's window of {window}: "
            "cut the article or ask for a shorter summary"
        )


@torch.inference_mode()
def _generate_batch(model, prompts, settings):
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), settings.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, width - len(prompt) :] = 1  # by length: the pad id may be an id of the prompt, too
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=settings,
    )
    return [_until_end(row[width:].tolist(), settings.eos_token_id) for row in output.cpu()]


def _until_end(ids, eos_id):
    ids = tuple(ids)
    return Generated(ids[: ids.index(eos_id)], True) if eos_id in ids else Generated(ids, False)
