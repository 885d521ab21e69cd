"""Tokens out: an article and its summary as the model reads them (docs/definitions.md, rules 1, 3 and 4)."""

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from summlens.core.config import option
from summlens.core.errors import UserError
from summlens.core.processes import workers
from summlens.data.cleaning import clean_summary

log = logging.getLogger(__name__)

IGNORED = -100  # the label of a position that the loss leaves out, as PyTorch and transformers have it


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
        num_proc=workers(len(rows)),
        desc=f"tokenising {description}",
    )
    if len(encoded) < len(rows):
        log.warning("%s: %d summaries do not fit the window and were left out", description, len(rows) - len(encoded))
    if len(encoded) == 0:
        raise UserError(f"no {description} article fits a window of {encoder.window} tokens: use a longer window")
    return Examples(encoded)
