"""Test articles worth reading, with what a summary shares with its reference marked."""

import re
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from summlens.figures.rundata import Missing, RunData
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
    """One system's text with its overlaps marked, its main score, and the share of its words found in the reference."""

    label: str
    text: Markup
    score: float | None
    shared: float | None


@dataclass(frozen=True)
class Example:
    """An article chosen for a reason."""

    reason: str
    id: str
    article: str
    reference: str
    score_name: str
    summaries: list[Summary]


def mark_overlaps(text: str, reference: str) -> tuple[Markup, float | None]:
    """`text` as safe HTML with its overlaps with `reference` in <mark>, and the share of its words found there.

    Runs of two or more words that stand in the reference in the same order are <mark class="run">; single words, the
    commonest left out, are plain <mark>. Case is ignored. The share is None for a text without words.
    """
    matches = list(WORD.finditer(text))
    words = [match[0].lower() for match in matches]
    wanted = [word.lower() for word in WORD.findall(reference)]
    known, pairs = set(wanted), set(zip(wanted, wanted[1:], strict=False))
    in_run = [False] * len(words)
    for index, pair in enumerate(zip(words, words[1:], strict=False)):
        if pair in pairs:
            in_run[index] = in_run[index + 1] = True
    pieces, end, index = [], 0, 0
    while index < len(words):
        last = index
        if in_run[index]:
            # A run goes on while each pair of neighbours stands in the reference.
            while last + 1 < len(words) and (words[last], words[last + 1]) in pairs:
                last += 1
        elif words[index] not in known or words[index] in COMMON:
            index += 1
            continue
        start, stop = matches[index].start(), matches[last].end()
        pieces += [
            escape(text[end:start]),
            Markup('<mark class="{}">{}</mark>').format("run" if last > index else "word", text[start:stop]),
        ]
        end, index = stop, last + 1
    pieces.append(escape(text[end:]))
    return Markup("").join(pieces), sum(word in known for word in words) / len(words) if words else None


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
    reference = row.get("reference", "")
    summaries = []
    for system, text in row.get("summaries", {}).items():
        marked, shared = mark_overlaps(text or "", reference)
        value = _score(row, system, score)
        summaries.append(Summary(label(data, system), marked, value if np.isfinite(value) else None, shared))
    reason = reason[0] + reason[1:].replace("Most", "most").replace("Median", "median").replace("Worst", "worst")
    return Example(reason, str(row.get("id", "")), row.get("article", ""), reference, title(score)[0], summaries)
