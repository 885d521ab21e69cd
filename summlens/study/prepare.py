"""A study: a prepared experiment, with its configuration resolved, its data encoded and its probe set chosen."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from summlens.artifacts import Run
from summlens.core import processes
from summlens.core.config import Config
from summlens.core.errors import UserError
from summlens.data import articles, tokens
from summlens.model import loading, trainable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """Everything that training and evaluation need, made once from the configuration."""

    config: Config
    run: Run
    splits: dict
    tokenizer: object
    base: object  # the model before fine-tuning
    encoder: tokens.Encoder
    train: Sequence[tokens.Example]
    validation: Sequence[tokens.Example]
    probe: list[tokens.Example]

    @functools.cached_property
    def fingerprint(self) -> str:
        """What the data hash to; made once, because it reads every article."""
        return articles.fingerprint(self.splits)


def prepare(config: Config, run: Run) -> Study:
    """Load the data and the model, make the tokens, choose the probe set. Raises UserError for what cannot work."""
    with processes.rank_zero_first():
        return _prepare(config, run)


def _prepare(config: Config, run: Run) -> Study:
    splits = articles.load_articles(config)
    name = config.resolve(config.model)
    tokenizer, base = loading.load_tokenizer(name), loading.load_model(name)
    loading.check_pair(base, tokenizer, config.model)
    trainable.selection(config, base)  # refused before the data are encoded
    limit = loading.positions(base)
    if limit and config.window > limit:
        raise UserError(f"--window {config.window} is longer than the {limit} positions of {config.model}")
    encoder = tokens.Encoder(tokenizer, config.template, config.window or loading.window(base))
    train = tokens.encode(splits["train"], encoder, "training")
    if len(train) < 2 and "shuffled-pairs" in config.controls:
        raise UserError("--control shuffled-pairs needs two training articles or more: there is one")
    validation = tokens.encode(splits["validation"], encoder, "validation")
    chosen = np.random.default_rng(config.seed).permutation(len(validation))[: config.probe_articles]
    if len(chosen) < config.probe_articles:
        log.warning("only %d validation articles: the probe set has no more", len(chosen))
    probe = [validation[index] for index in sorted(chosen)]
    return Study(config, run, splits, tokenizer, base, encoder, train, validation, probe)
