"""Scores of the summaries, every system beside its baselines."""

from dataclasses import dataclass

import numpy as np

from summlens import names
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData
from summlens.figures.kit.style import ACCENT, BASE, CATEGORIES, MUTED


@dataclass(frozen=True)
class Score:
    """A score of one system: mean over the test articles and 95 % interval (NaN where it was not saved)."""

    mean: float
    low: float
    high: float


def systems(data: RunData) -> dict[str, dict[str, Score]]:
    """{system: {score: Score}}, systems in reading order. Raises Missing without an evaluation."""
    found = (data.evaluation or {}).get("systems") or {}
    if not found:
        raise Missing("there is no evaluation.json")
    return {
        name: {
            score: Score(*(_number(value.get(part)) for part in ("mean", "low", "high")))
            for score, value in found[name].get("scores", {}).items()
            if value is not None
        }
        for name in names.reading_order(found)
    }


def _number(value) -> float:
    return np.nan if value is None else float(value)


def label(data: RunData, system: str) -> str:
    """How the report calls a system."""
    return (data.evaluation or {}).get("systems", {}).get(system, {}).get("label") or system


def score_names(table: dict[str, dict[str, Score]]) -> list[str]:
    """The scores there are, the known ones first and in reading order."""
    present = list(dict.fromkeys(score for scores in table.values() for score in scores))
    return [score for score in names.SCORES if score in present] + [s for s in present if s not in names.SCORES]


def title(score: str) -> tuple[str, str]:
    """(name, unit) of a score."""
    known = names.SCORES.get(score)
    return (known.title, known.unit) if known else (score.replace("_", " "), "")


def is_quality(score: str) -> bool:
    """Whether a summary is held to be better, the larger the score is."""
    return score in names.SCORES and names.SCORES[score].quality


def comparison(data: RunData, a: str, b: str, score: str) -> dict | None:
    """The paired comparison a - b on one score ({difference, low, high, ...}), or None. The saved sign is respected."""
    for saved in (data.evaluation or {}).get("comparisons") or []:
        if saved.get("score") != score or None in (saved.get("difference"), saved.get("low"), saved.get("high")):
            continue
        if (saved.get("a"), saved.get("b")) == (a, b):
            return saved
        if (saved.get("a"), saved.get("b")) == (b, a):
            turned = {"difference": -saved["difference"], "low": -saved["high"], "high": -saved["low"]}
            return {**saved, "a": a, "b": b, **turned}
    return None


def main_score(data: RunData) -> str:
    """The score that the report argues with: ROUGE-1, or the first quality score there is."""
    present = score_names(systems(data))
    return next(filter(is_quality, present), present[0] if present else "rouge1")


def verdict(data: RunData, other: str, score: str) -> str:
    """One sentence: fine-tuned against `other`, from the paired interval where there is one."""
    table = systems(data)
    name, _ = title(score)
    if "fine_tuned" not in table or other not in table:
        return ""
    ours, theirs = table["fine_tuned"].get(score), table[other].get(score)
    if ours is None or theirs is None:
        return ""
    paired = comparison(data, "fine_tuned", other, score)
    values = f"{name} {ours.mean:.1f} against {theirs.mean:.1f}"
    rival = _rival(data, other)
    if paired is None:
        apart = ours.low > theirs.high or theirs.low > ours.high
        return (
            f"Against {rival} the fine-tuned model has {values}; the intervals {'do not touch' if apart else 'overlap'}"
            ", and no paired comparison was saved."
        )
    points = f"{paired['difference']:+.1f} [{paired['low']:+.1f}, {paired['high']:+.1f}] points"
    if paired["low"] <= 0 <= paired["high"]:
        return f"No difference between the fine-tuned model and {rival} is shown: {values}, a difference of {points}."
    better = "better" if paired["difference"] > 0 else "worse"
    return f"The fine-tuned model writes {better} summaries than {rival}: {values}, a difference of {points}."


def _rival(data: RunData, other: str) -> str:
    """Another system as it stands in a sentence about scores."""
    if other == "zero_shot":
        return "the model before fine-tuning (zero-shot)"
    return names.CONTROLS[other].rival if other in names.CONTROLS else label(data, other)


def scores(data: RunData) -> Picture:
    """Every system's quality scores with their intervals."""
    table = systems(data)
    shown_scores = list(filter(is_quality, score_names(table)))[:5]
    if not shown_scores:
        raise Missing("evaluation.json holds no quality score")
    shown = [name for name in table if name != "reference"]
    figure = new_figure(9.2, 0.3 * len(shown) + 1.1)
    panels = figure.subplots(1, len(shown_scores), sharey=True, squeeze=False)[0]
    y = np.arange(len(shown))
    for axes, score in zip(panels, shown_scores, strict=True):
        for place, system in enumerate(shown):
            value = table[system].get(score)
            if value is None:
                continue
            color, marker = _color(system), "D" if _is_baseline(system) else "o"
            axes.hlines(place, value.low, value.high, color=color, linewidth=2, alpha=0.5)
            axes.plot(value.mean, place, marker, color=color, markersize=5)
        name, unit = title(score)
        axes.set(title=name, xlabel=unit, ylim=(len(shown) - 0.5, -0.5))
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(y, [label(data, system) for system in shown])
    articles = (data.evaluation or {}).get("articles", "an unknown number of")
    score = main_score(data)
    verdicts = [verdict(data, other, score) for other in ("zero_shot", *names.CONTROLS)]
    return Picture(
        "scores",
        "Scores",
        " ".join(filter(None, verdicts)) or f"{title(score)[0]} of {len(shown)} systems.",
        f"Means over n = {articles} test articles, bars are 95 % intervals. Circles are models, diamonds baselines; "
        "the extractive oracle is the best that copying whole sentences could reach.",
        f"The interval is over test articles; {_seed_spread(table, score)}",
        figure=figure,
    )


def _is_baseline(system: str) -> bool:
    return system in names.SYSTEMS and names.SYSTEMS[system].kind != "model"


def _is_run(system: str) -> bool:
    """Whether it is the run's fine-tune, or that of another seed."""
    return system == "fine_tuned" or names.seed_of(system) is not None


def _color(system: str) -> str:
    if _is_run(system):
        return ACCENT
    return MUTED if system == "zero_shot" else CATEGORIES[1] if system in names.CONTROLS else BASE


def _seed_spread(table: dict[str, dict[str, Score]], score: str) -> str:
    found = [table[name][score].mean for name in table if _is_run(name) and score in table[name]]
    if len(found) < 2:
        return "it does not cover another training seed."
    return f"over the {len(found)} training seeds {title(score)[0]} runs from {min(found):.1f} to {max(found):.1f}."
