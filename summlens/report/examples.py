"""Test articles worth reading, with what a summary shares with its reference marked."""

import re
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from summlens.figures.kit.rundata import Missing, RunData
from summlens.figures.scores import label, main_score, title

WORD = re.compile(r"\w+(?:['’]\w+)?")
# Words that two texts share whatever they are about; sharing one of them alone is not marked.
# fmt: off
COMMON = frozenset((
    "a", "an", "the", "of", "to", "in", "on", "at", "by", "for", "from", "with", "as",
    "and", "or", "but", "that", "this", "it", "its", "is", "are", "was", "were", "be", "been",
    "has", "have", "had", "he", "she", "they", "his", "her", "their", "not", "will", "would", "who",
    "which",
))
# fmt: on


@dataclass(frozen=True)
class Summary:
    """One system's text with its overlaps marked, its main score, and the shares of its words that stand in the
    reference (`shared`) and in the article (`copied`)."""

    label: str
    text: Markup
    score: float | None
    shared: float | None
    copied: float | None


@dataclass(frozen=True)
class Example:
    """An article chosen for a reason: `summaries` are those of the two models, `baselines` the others."""

    reason: str
    id: str
    article: str
    marked_reference: Markup
    score_name: str
    summaries: list[Summary]
    baselines: list[Summary]


def mark_overlaps(text: str, reference: str = "", article: str = "") -> Markup:
    """`text` as safe HTML with its overlaps marked.

    Runs of two or more words that stand in the reference in the same order are <mark class="run">; single words, the
    commonest left out, are <mark class="word">. Runs that stand in the article in the same order have the class
    "copied", beside a mark or in a <span>. Case is ignored.
    """
    matches = list(WORD.finditer(text))
    words = [match[0].lower() for match in matches]
    kinds = [""] * len(text)  # a character: its mark, and whether it was copied
    copied = [False] * len(text)
    starts = [False] * len(text)
    known = set(_words(reference))
    for index, word in enumerate(words):
        if word in known and word not in COMMON:
            _fill(kinds, matches[index], matches[index], "word")
            starts[matches[index].start()] = True
    for first, last in _runs(words, reference):
        _fill(kinds, matches[first], matches[last], "run")
        starts[matches[first].start()] = True
        for index in range(first + 1, last + 1):
            starts[matches[index].start()] = False
    for first, last in _runs(words, article):
        _fill(copied, matches[first], matches[last], True)
    pieces, begin = [], 0
    for end in range(1, len(text) + 1):
        if end == len(text) or starts[end] or (kinds[end], copied[end]) != (kinds[begin], copied[begin]):
            pieces.append(_piece(text[begin:end], kinds[begin], copied[begin]))
            begin = end
    return Markup("").join(pieces)


def _fill(values: list, first: re.Match, last: re.Match, value) -> None:
    values[first.start() : last.end()] = [value] * (last.end() - first.start())


def _runs(words: list[str], other: str) -> list[tuple[int, int]]:
    """(first, last) of every longest run of two or more words whose neighbours are neighbours in `other` too."""
    theirs = _words(other)
    pairs = set(zip(theirs, theirs[1:], strict=False))
    runs, index = [], 0
    while index < len(words):
        last = index
        while last + 1 < len(words) and (words[last], words[last + 1]) in pairs:
            last += 1
        if last > index:
            runs.append((index, last))
        index = last + 1
    return runs


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _piece(text: str, kind: str, copied: bool) -> Markup:
    if kind:
        return Markup('<mark class="{}">{}</mark>').format(f"{kind} copied" if copied else kind, text)
    return Markup('<span class="copied">{}</span>').format(text) if copied else escape(text)


def share_of_words(text: str, other: str) -> float | None:
    """The share of the words of `text` that stand in `other` at all; None for a text without words."""
    words, known = _words(text), set(_words(other))
    return sum(word in known for word in words) / len(words) if words else None


def choose(data: RunData) -> list[Example]:
    """Best, worst, median and most changed test articles by the main score. Raises Missing without predictions."""
    if not data.predictions:
        raise Missing("there is no predictions.jsonl")
    score = main_score(data)
    ours = np.array([_score(row, "fine_tuned", score) for row in data.predictions])
    gain = ours - np.array([_score(row, "zero_shot", score) for row in data.predictions])
    if not np.isfinite(ours).any():
        raise Missing(f"predictions.jsonl holds no {score} of the fine-tuned model")
    order = [int(i) for i in np.argsort(np.where(np.isfinite(ours), ours, np.inf), kind="stable")]
    order = order[: int(np.isfinite(ours).sum())]
    picks = {"Best": order[-1], "Median": order[(len(order) - 1) // 2], "Worst": order[0]}
    if np.isfinite(gain).any():
        picks["Most changed by fine-tuning"] = int(np.nanargmax(np.abs(gain)))
    reasons: dict[int, list[str]] = {}
    for reason, index in picks.items():
        reasons.setdefault(index, []).append(reason)
    return [_example(data, data.predictions[index], " and ".join(names), score) for index, names in reasons.items()]


def _score(row: dict, system: str, score: str) -> float:
    value = row.get("scores", {}).get(system, {}).get(score)
    return np.nan if value is None else float(value)


def _example(data: RunData, row: dict, reason: str, score: str) -> Example:
    reference, article = row.get("reference", ""), row.get("article", "")
    models, baselines = [], []
    for system, text in row.get("summaries", {}).items():
        text, value = text or "", _score(row, system, score)
        summary = Summary(
            label(data, system),
            mark_overlaps(text, reference, article),
            value if np.isfinite(value) else None,
            share_of_words(text, reference),
            share_of_words(text, article),
        )
        (models if system in ("zero_shot", "fine_tuned") else baselines).append(summary)
    reason = reason[0] + reason[1:].replace("Most", "most").replace("Median", "median").replace("Worst", "worst")
    marked = mark_overlaps(reference, article=article)
    return Example(reason, str(row.get("id", "")), article, marked, title(score)[0], models, baselines)
