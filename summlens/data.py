"""Articles in, tokens out: loading, cleaning, prompts and batches (DESIGN.md, "Text in, tokens out")."""

import contextlib
import dataclasses
import glob
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler

from summlens.config import Config, option
from summlens.errors import UserError

log = logging.getLogger(__name__)

IGNORED = -100  # the label of a position that the loss leaves out, as PyTorch and transformers have it
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLITS = {
    "train": r"train(ing)?",
    "validation": r"val(id|idation)?|dev",
    "test": r"test(ing)?",
}


# ---------------------------------------------------------------------------------------------------- cleaning

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff\ufffd"))  # soft hyphen, zero-width space, BOM …
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # '<|endoftext|>' in an article is text, never a token
_DATELINE = re.compile(r"^([^.!?]|\b(St|ST|Mt|MT|Ft|FT|U|S|N|D|C)\.){0,60}?\(CNN[^)]{0,30}\)\s*(--?|[–—:])?\s*")
_BYLINE = re.compile(r"^By\s*\.\s+[^.]{2,80}?\s*\.\s+((and|Follow)\b[^.]{2,60}?\s*\.\s+)*")
_TIMESTAMP = re.compile(
    r"(PUBLISHED|UPDATED|Last updated at)\s*:?\s*\.?\s*\d{1,2}[:.]\d{2}\s*(AM|PM|EST|GMT|BST|EDT)?,?\s*(on\s)?"
    r"(\d{1,2}(st|nd|rd|th)?\s\w+\s\d{4})\s*\.?\s*(\|\s*\.?\s*)?"
)


def clean_text(text: str) -> str:
    """Unicode in composed form, without control characters, invisible characters and special-token strings.

    Line breaks stay; other white space is folded. Composed form (NFC), not compatibility form: the latter would
    turn 5½ into 51⁄2.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).translate(_INVISIBLE)
    text = _SPECIAL_TOKEN.sub(" ", text)
    text = _CONTROL.sub(" ", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines()).strip()


def clean_article(text: str) -> str:
    """An article on one line, without CNN/DailyMail's own bylines, time stamps, datelines and ' .' line ends."""
    text = " ".join(clean_text(text).split())
    text = _BYLINE.sub("", text)
    text = _TIMESTAMP.sub("", text)
    text = _DATELINE.sub("", text)
    return re.sub(r"\s+\.(?=\s|$)", ".", text).strip()


def clean_summary(text: str) -> str:
    """A summary with one sentence a line, as its source breaks it; CNN/DailyMail's ' .' line ends become '.'."""
    lines = (re.sub(r"\s+\.$", ".", line) for line in clean_text(text).split("\n"))
    return "\n".join(line for line in lines if line)


# ----------------------------------------------------------------------------------------------------- loading


def load_articles(config: Config) -> dict:
    """The train, validation and test split as `datasets.Dataset`s with columns id, article, highlights (both cleaned).

    Further text columns named outlet or kind are kept. Rows without an article or a summary are left out and
    counted in the log. Raises UserError for a missing file, column or split and for an empty split.
    """
    import datasets

    splits = {}
    for split, rows in _load_splits(config).items():
        if len(rows) > 20_000:  # below, a bar would be gone before it is read
            datasets.enable_progress_bars()
        for name, column in (("article_column", config.article_column), ("summary_column", config.summary_column)):
            if column not in rows.column_names:
                raise UserError(
                    f"the {split} split of {config.dataset} has no column {column!r} (it has "
                    f"{', '.join(rows.column_names)}): name the right one with {option(name)}"
                )
        limit = getattr(config, f"{split}_articles")
        if limit and limit < len(rows):
            rows = rows.select(np.sort(np.random.default_rng(config.seed).permutation(len(rows))[:limit]))
        splits[split] = _clean_rows(rows, config, split)
    _report_leaks(splits)
    return splits


def _clean_rows(rows, config: Config, split: str):
    def clean(row, index):
        identity = row.get(config.id_column)
        return {
            "id": str(index if identity is None else identity),
            "article": clean_article(row[config.article_column] or ""),
            "highlights": clean_summary(row[config.summary_column] or ""),
        }

    for column in (config.article_column, config.summary_column):
        if len(rows) and not isinstance(rows[0][column], str | None):
            raise UserError(f"column {column!r} of {config.dataset} holds {type(rows[0][column]).__name__}, not text")
    kept = [column for column in ("outlet", "kind") if column in rows.column_names]
    cleaned = rows.map(
        clean,
        with_indices=True,
        num_proc=_workers(len(rows)),
        remove_columns=[column for column in rows.column_names if column not in kept],
        desc=f"cleaning {split}",
    )
    whole = cleaned.filter(lambda row: bool(row["article"] and row["highlights"]), desc=f"checking {split}")
    if len(whole) < len(cleaned):
        log.warning("%s: %d rows without article or summary left out", split, len(cleaned) - len(whole))
    if len(whole) == 0:
        raise UserError(f"the {split} split of {config.dataset} is empty (no row with an article and a summary)")
    return whole


def _report_leaks(splits: dict) -> None:
    """Say it when an article is in two splits: the scores would then be memory, not summarising."""
    seen = {hash(article) for article in splits["train"]["article"]}
    for split in ("validation", "test"):
        shared = sum(hash(article) in seen for article in splits[split]["article"])
        if shared:
            log.warning("%d of the %d %s articles are also in the training split", shared, len(splits[split]), split)


def _load_splits(config: Config) -> dict:
    files = _local_files(config.resolve(config.dataset))
    found = _load_local(files, config) if files else _load_from_hub(config)
    if set(found) == set(_SPLITS):
        return found
    if len(found) == 1:  # one file, no split named: 80/10/10 by seed
        rows = next(iter(found.values())).shuffle(seed=config.seed)
        if len(rows) < 3:
            raise UserError(f"{config.dataset} has {len(rows)} rows: at least three are needed to split them")
        held = max(1, len(rows) // 10)
        ranges = {"test": (0, held), "validation": (held, 2 * held), "train": (2 * held, len(rows))}
        log.info("%s names no splits: %d rows split 80/10/10 by seed %d", config.dataset, len(rows), config.seed)
        return {split: rows.select(range(*ranges[split])) for split in _SPLITS}
    missing = ", ".join(sorted(set(_SPLITS) - set(found)))
    raise UserError(f"{config.dataset} has no split named {missing}: name its files train, validation and test")


def _local_files(name: str) -> list[str]:
    """The data files behind a file name, a glob or a directory; empty where `name` can only be a hub name."""
    path = Path(name)
    if path.is_dir():
        files = [str(file) for file in sorted(path.iterdir()) if _builder(file)]
        if not files:
            raise UserError(f"directory {name} holds no .parquet, .jsonl, .json or .csv file")
        return files
    if files := sorted(glob.glob(name)):
        if unknown := [file for file in files if not _builder(Path(file))]:
            raise UserError(f"{unknown[0]} is not a .parquet, .jsonl, .json or .csv file (plain or .gz)")
        return files
    if path.suffix or name.startswith((".", "/", "~")):
        raise UserError(f"the data file {name} is not there: check {option('dataset')}")
    return []


def _builder(path: Path) -> str | None:
    return _BUILDERS.get(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)


def _load_local(files: list[str], config: Config) -> dict:
    import datasets

    named: dict[str, list[str]] = {}
    for file in files:
        stem = Path(file).name.lower()
        splits = [split for split, names in _SPLITS.items() if re.search(rf"(^|[^a-z])({names})([^a-z]|$)", stem)]
        named.setdefault(splits[0] if len(splits) == 1 else "rows", []).append(file)
    builders = {_builder(Path(file)) for file in files}
    if len(builders) > 1:
        raise UserError(f"{config.dataset} mixes file types ({', '.join(sorted(builders))}): keep one of them")
    try:
        return dict(datasets.load_dataset(builders.pop(), data_files=named))
    except Exception as error:  # the readers raise a dozen unrelated types; every one means: this file cannot be read
        reason = _first_line(error.__cause__ or error)
        raise UserError(f"{config.dataset} cannot be read as {Path(files[0]).suffix}: {reason}") from error


def _load_from_hub(config: Config) -> dict:
    import datasets

    try:
        return dict(datasets.load_dataset(config.dataset, config.dataset_config or None))
    except Exception as error:  # likewise: no network, no such name, a gated data set …
        raise UserError(
            f"data set {config.dataset!r} could not be loaded ({_first_line(error)}): check the name and the network, "
            f"or give a local file with {option('dataset')}; without a network, preset demo runs on bundled data"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def fingerprint(splits: dict) -> str:
    """A hash of what the experiment reads: ids, articles and summaries, split by split, in order."""
    digest = hashlib.sha256()
    for split in _SPLITS:
        for row in splits[split]:
            digest.update("\x1f".join((split, row["id"], row["article"], row["highlights"], "\x1e")).encode())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Example:
    """One article and its summary as the model reads them: prompt, then summary, then end-of-text.

    `input_ids` holds n prompt tokens and m target tokens (summary and end-of-text), T = n + m in all.
    """

    id: str
    input_ids: tuple[int, ...]
    prompt_length: int  # n: the first summary token stands at index n
    article_start: int  # the article's tokens are input_ids[article_start:article_stop]
    article_stop: int

    @property
    def queries(self) -> range:
        """The query positions that predict summary tokens: n - 1 .. T - 2; query t predicts input_ids[t + 1]."""
        return range(self.prompt_length - 1, len(self.input_ids) - 1)


@dataclass(frozen=True)
class Encoder:
    """Turns articles and summaries into token ids of at most `window` tokens.

    Prompt and target are tokenised apart, so that what a model was trained on is what it is prompted with, whatever
    the tokenizer would merge across the border.
    """

    tokenizer: object
    template: str
    window: int

    def prompt(self, article: str, room: int) -> tuple[list[int], int, int]:
        """The prompt's token ids with `room` tokens of the window left free, and where the article starts and stops.

        The article is cut at its end to what is left. Raises UserError where not one article token fits.
        """
        before, after = self.template.split("{article}")
        head = self._bos() + self._tokens(before)
        tail = self._tokens(after)
        left = self.window - room - len(head) - len(tail)
        if left < 1:
            raise UserError(
                f"a window of {self.window} tokens leaves none to the article beside {room} of summary and "
                f"{len(head) + len(tail)} of prompt: lengthen {option('window')} or lower {option('max_new_tokens')}"
            )
        body = self._tokens(article)[:left]
        return head + body + tail, len(head), len(head) + len(body)

    def example(self, identity: str, article: str, summary: str) -> Example:
        """Prompt, summary and end-of-text; the article alone is cut. Raises UserError where the summary cannot fit."""
        target = self._tokens(" " + summary) + [self.tokenizer.eos_token_id]
        prompt, start, stop = self.prompt(article, room=len(target))
        return Example(identity, tuple(prompt + target), len(prompt), start, stop)

    def fits(self, summary: str) -> bool:
        """Whether a summary leaves a token of the window to its article."""
        try:
            self.prompt("", room=len(self._tokens(" " + summary)) + 1)
        except UserError:
            return False
        return True

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated token ids (those after the prompt), without special tokens."""
        return clean_summary(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _tokens(self, text: str) -> list[int]:
        # Special tokens written out in an article are text: cleaning removed those of the form <|…|>, and the
        # tokenizer must not read any other one as a command.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] if text else []

    def _bos(self) -> list[int]:
        """What the tokenizer itself puts before a text (Llama's <s>; nothing for GPT-2)."""
        ids = self.tokenizer("", add_special_tokens=True)["input_ids"]
        return ids[:1] if ids and ids[0] == self.tokenizer.bos_token_id else []


class Examples(Sequence):
    """A split's examples, kept as token arrays on disk: the whole of CNN/DailyMail would not fit in memory as lists."""

    def __init__(self, rows):
        self._rows = rows  # a datasets.Dataset with the fields of `Example` and `length`

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[int(index)]
        del row["length"]
        return Example(**{**row, "input_ids": tuple(row["input_ids"])})

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self._rows["length"])


def lengths(examples: Sequence[Example]) -> np.ndarray:
    """Tokens an example, prompt and target together; read as one column where the examples are on the disk."""
    known = getattr(examples, "lengths", None)
    return np.array([len(example.input_ids) for example in examples]) if known is None else known


def encode(rows, encoder: Encoder, description: str) -> Examples:
    """Every row of a split as an `Example`; rows whose summary does not fit the window are left out and counted.

    `datasets` keeps the tokens on disk and finds them again when the same text meets the same tokenizer.
    """

    def encode_batch(batch: dict) -> dict:
        examples = []
        for row in zip(batch["id"], batch["article"], batch["highlights"], strict=True):
            with contextlib.suppress(UserError):  # the summary does not fit
                examples.append(encoder.example(*row))
        columns = {field.name: [getattr(e, field.name) for e in examples] for field in dataclasses.fields(Example)}
        return {**columns, "length": [len(example.input_ids) for example in examples]}

    encoded = rows.map(
        encode_batch,
        batched=True,
        remove_columns=rows.column_names,
        num_proc=_workers(len(rows)),
        desc=f"tokenising {description}",
    )
    if len(encoded) < len(rows):
        log.warning("%s: %d summaries do not fit the window and were left out", description, len(rows) - len(encoded))
    if len(encoded) == 0:
        raise UserError(f"no {description} article fits a window of {encoder.window} tokens: use a longer window")
    return Examples(encoded)


def _workers(rows: int) -> int | None:
    """Processes for a pass over the rows: one for each 5,000, as far as there are cores; None = in this process."""
    workers = min(os.cpu_count() or 1, rows // 5_000)
    return workers if workers > 1 else None


# ----------------------------------------------------------------------------------------------------- batches


def collate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """A training batch: `input_ids` (B, T) padded on the right and `labels` (B, T), IGNORED but for summary and end.

    Labels come from lengths, never from ids: end-of-text is a target even where padding shares its id. There is no
    attention mask: under causal attention no real token can see the padding to its right.
    """
    longest = max(len(example.input_ids) for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.input_ids)
        input_ids[row, : len(ids)] = ids
        labels[row, example.prompt_length : len(ids)] = ids[example.prompt_length :]
    return {"input_ids": input_ids, "labels": labels}


class ByLength(Sampler[int]):
    """Indices in batches of like length, newly shuffled each epoch: little padding, and still random.

    A permutation is cut into pools of 50 batches, each pool is sorted by length and cut into batches, and the batches
    are shuffled. The order depends on seed and epoch alone, so a resumed run meets the same batches.
    """

    POOL = 50

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = np.asarray(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        pool = self.batch * self.POOL
        batches, rest = [], []
        for start in range(0, len(order), pool):
            indices = order[start : start + pool]
            indices = indices[np.argsort(self.lengths[indices], kind="stable")]
            pieces = [indices[at : at + self.batch] for at in range(0, len(indices), self.batch)]
            batches += [piece for piece in pieces if len(piece) == self.batch]
            rest += [piece for piece in pieces if len(piece) < self.batch]  # at most one: the last, short batch
        shuffled = [batches[index] for index in random.permutation(len(batches))]
        yield from (int(index) for piece in shuffled + rest for index in piece)
