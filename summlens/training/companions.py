"""The fine-tunes that a run is compared with: controls, which learn less than it, and other training seeds.

Each begins at the run's base model and takes the run's optimiser steps with its hyperparameters; it is captured at the
same steps on the same probe articles, in files of the same format (`Run.companion`). What is different:

shuffled-pairs  every training article has another article's summary: the format can be learnt, the task cannot.
language-model  the articles alone, with the language-modelling loss over their tokens: neither format nor task.
seed-N          the training seed: the order of the articles, and dropout.

In a control every optimiser step holds the articles that the run's own step held.
"""

import dataclasses
import functools
import gc
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from summlens import names
from summlens.artifacts import RECORD, Run
from summlens.core import processes
from summlens.core.config import Config
from summlens.data import tokens
from summlens.model import trainable
from summlens.study.prepare import Study
from summlens.study.record import state_of
from summlens.training import checkpoints, fine_tune
from summlens.training.estimate import GIB, LOGIT_BYTES

log = logging.getLogger(__name__)
LOGITS_AT_ONCE = 2 * GIB  # bytes of logits in one forward pass of the language-modelling control


def train(study: Study) -> None:
    """Train the companions that the configuration asks for, capture them on the way, and save their models.

    What is trained is not trained again; what was interrupted goes on from its newest checkpoint. A companion keeps no
    checkpoint once its model is saved. Every process of a run calls this.
    """
    for name in study.config.companions:
        run = study.run.companion(name)
        if state_of(run) == "trained":
            continue
        log.info("fine-tuning %s: %s", name, names.companion_what(name))
        gc.collect()  # the last Trainer's cycles of references hold its optimiser's state
        companion = companion_of(study, name)
        _record(companion, name, "training")
        checkpoints.save_model(fine_tune.fine_tune(companion, resume=True), study.tokenizer, run)
        _record(companion, name, "trained")
        if processes.rank() == 0:
            shutil.rmtree(run.checkpoints, ignore_errors=True)


def trained(run: Run) -> dict[str, Path]:
    """The directories of the models of all trained companions of the run, by name; controls first."""
    found = processes.from_rank_zero(run.companions)
    return {name: run.companion(name).model_outputs for name in sorted(found, key=[*names.CONTROLS, *found].index)}


def companion_of(study: Study, name: str) -> Study:
    """The study that `name` is: the run's own with other training examples or another training seed."""
    seed = names.seed_of(name)
    if seed is None:
        config, examples = BUILDERS[name](study)
    else:
        part = str(trainable.selection(study.config, study.base))  # the run's own, also where its seed has drawn it
        config, examples = dataclasses.replace(study.config, seed=seed, trainable=part), study.train
    return dataclasses.replace(study, config=config, run=study.run.companion(name), train=examples)


def _record(companion: Study, name: str, state: str) -> None:
    if processes.rank() == 0:
        config = dataclasses.asdict(companion.config)
        companion.run.write_json(
            RECORD, {"state": state, "name": name, "what": names.companion_what(name), "config": config}
        )


class InBatchesOf(Sequence):
    """The examples make(0) .. make(n - 1), which the Trainer puts into batches by `lengths` (n,), those of others.

    Batches are made by length: with the run's own lengths, a control's step holds the articles of the run's step.
    """

    def __init__(self, lengths: np.ndarray, make: Callable[[int], tokens.Example]):
        self.lengths, self._make = lengths, make

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tokens.Example:
        return self._make(index)


def shuffled_pairs(study: Study) -> tuple[Config, InBatchesOf]:
    """Every training article of the run with another one's summary, each summary used once."""
    with processes.rank_zero_first():
        rows = study.splits["train"]
        if len(study.train) < len(rows):  # some summaries do not fit the window: neither they nor their articles count
            fits = study.encoder.fits
            rows = rows.filter(lambda row: fits(row["highlights"]), desc="checking training")
        summaries = rows["highlights"][:]
        order = derangement(summaries, study.config.seed)
        shuffled = rows.remove_columns("highlights").add_column("highlights", [summaries[other] for other in order])
        examples = tokens.encode(shuffled, study.encoder, "shuffled pairs")
    return study.config, InBatchesOf(tokens.lengths(study.train), examples.__getitem__)


def derangement(texts: Sequence[str], seed: int) -> np.ndarray:
    """A random permutation (n,) of two or more texts in which none stays in its place.

    Nor does any place get a text equal to its own, unless more than half of the texts are equal. The texts are put in
    random order, equal ones together, and moved on by the size of the largest group of equals.
    """
    order = np.random.default_rng(seed).permutation(len(texts))
    groups: dict[str, int] = {}
    members = np.array([groups.setdefault(texts[index], len(groups)) for index in order])
    order = order[np.argsort(members, kind="stable")]
    shift = min(np.bincount(members).max(), len(texts) - 1)
    result = np.empty_like(order)
    result[order] = np.roll(order, -shift)
    return result


def language_model(study: Study) -> tuple[Config, InBatchesOf]:
    """The training articles alone, in forward passes that have room for a logit of nearly every token."""
    vocabulary = study.base.get_input_embeddings().num_embeddings
    config = smaller_passes(study.config, tokens.lengths(study.train).max(), vocabulary)
    return config, articles_alone(study.train)


def articles_alone(examples: Sequence[tokens.Example]) -> InBatchesOf:
    """Every example up to the end of its article, with the article's tokens as targets.

    The first token of a sequence, which nothing precedes, can be no target.
    """
    return InBatchesOf(tokens.lengths(examples), functools.partial(_article_alone, examples))


def _article_alone(examples: Sequence[tokens.Example], index: int) -> tokens.Example:
    one = examples[index]
    ids = one.input_ids[: one.article_stop]
    return dataclasses.replace(one, input_ids=ids, prompt_length=max(one.article_start, 1))


def smaller_passes(config: Config, longest: int, vocabulary: int) -> Config:
    """The configuration with the same optimiser steps in forward passes whose logits fit LOGITS_AT_ONCE.

    Summaries are short; here nearly every token is a target, and each has a logit for every word of the vocabulary.
    """
    article = LOGIT_BYTES * longest * vocabulary
    parts = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0]
    pieces = next((n for n in parts if article * config.batch_size / n <= LOGITS_AT_ONCE), config.batch_size)
    return dataclasses.replace(
        config, batch_size=config.batch_size // pieces, accumulation=config.accumulation * pieces
    )


# What each control of summlens.names is trained with: its configuration and its examples.
BUILDERS: dict[str, Callable[[Study], tuple[Config, Sequence[tokens.Example]]]] = {
    "shuffled-pairs": shuffled_pairs,
    "language-model": language_model,
}
