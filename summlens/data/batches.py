"""Examples side by side: batches of like length, for training and for reading a model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from summlens.data.tokens import IGNORED, Example


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


@dataclass(frozen=True)
class Batch:
    """Examples padded to one length, as a model reads them: `ids` and `real` (B, T), the latter False at padding.

    `indices` says which of the caller's examples these are; an example's own tokens begin at its place in `starts`.
    """

    indices: list[int]
    examples: list[Example]
    ids: torch.Tensor
    real: torch.Tensor
    starts: list[int]

    def rows(self, positions: str = "summary") -> list[range]:
        """Each example's query positions in the padded batch: those that predict its summary, or `all` its own."""
        own = [one.queries if positions == "summary" else range(len(one.input_ids)) for one in self.examples]
        return [range(start + rows.start, start + rows.stop) for start, rows in zip(self.starts, own, strict=True)]

    @property
    def first(self) -> int:
        """The earliest position that predicts a summary token of any example."""
        return min(rows.start for rows in self.rows())


def batches(
    examples: Sequence[Example],
    indices: Iterable[int] | None = None,
    tokens: int | None = None,
    device: torch.device | str = "cpu",
    *,
    articles: int | None = None,
    pad_id: int = 0,
    side: str = "right",
) -> Iterator[Batch]:
    """The examples (of `indices`, or all) by length, the longest first: what will not fit in memory fails at once.

    A batch holds as many as fit into so many `tokens` (at least one), or so many `articles`; padding is on `side`.
    """
    order = sorted(range(len(examples)) if indices is None else indices, key=lambda i: -len(examples[i].input_ids))
    while order:
        longest = len(examples[order[0]].input_ids)
        count = articles or max(1, tokens // longest)
        own, order = order[:count], order[count:]
        chosen = [examples[index] for index in own]
        starts = [longest - len(one.input_ids) if side == "left" else 0 for one in chosen]
        ids = torch.full((len(own), longest), pad_id)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (one, start) in enumerate(zip(chosen, starts, strict=True)):
            place = slice(start, start + len(one.input_ids))
            ids[row, place], real[row, place] = torch.tensor(one.input_ids), True
        yield Batch(own, chosen, ids.to(device), real.to(device), starts)


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
