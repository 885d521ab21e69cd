"""Articles in: files, directories and hub names as three splits of cleaned rows."""

import glob
import hashlib
import logging
import re
from pathlib import Path

import numpy as np

from summlens.core.config import Config, option
from summlens.core.errors import UserError
from summlens.core.processes import workers
from summlens.data.cleaning import clean_article, clean_summary

log = logging.getLogger(__name__)
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLITS = {
    "train": r"train(ing)?",
    "validation": r"val(id|idation)?|dev",
    "test": r"test(ing)?",
}


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
        num_proc=workers(len(rows)),
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
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{config.dataset} cannot be read as {Path(files[0]).suffix}: {reason}") from error


def _load_from_hub(config: Config) -> dict:
    import datasets

    try:
        return dict(datasets.load_dataset(config.dataset, config.dataset_config or None))
    except Exception as error:  # likewise: no network, no such name, a gated data set …
        raise UserError(
            f"data set {config.dataset!r} could not be loaded ({first_line(error)}): check the name and the network, "
            f"or give a local file with {option('dataset')}; without a network, preset demo runs on bundled data"
        ) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def fingerprint(splits: dict) -> str:
    """A hash of what the experiment reads: ids, articles and summaries, split by split, in order."""
    digest = hashlib.sha256()
    for split in _SPLITS:
        for row in splits[split]:
            digest.update("\x1f".join((split, row["id"], row["article"], row["highlights"], "\x1e")).encode())
    return digest.hexdigest()[:16]
