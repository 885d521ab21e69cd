"""The ten heads that moved most: every number there is about each, from captures, causal tests and controls."""

import numpy as np

from summlens.figures import causes, format_and_task
from summlens.figures.heads import BY_KEY, METRICS, HeadRow
from summlens.figures.kit.rundata import Missing, RunData

COLUMNS = ("kl", "js", "normalized_entropy", "sparsity", "copy_score", "first_token_share", "head_output_norm")
CAUSES = (  # path in causal.json, name, unit, key, factor, digits
    (("ablation", "mean", "base"), "Ablation in base: rise of the loss", "nats a token", "mean", 1, 3),
    (("ablation", "mean", "fine_tuned"), "Ablation in fine-tuned: rise of the loss", "nats a token", "mean", 1, 3),
    (("patching", "noising"), "Lost with base's output in fine-tuned", "% of the gain", "share", 100, 1),
    (("patching", "denoising"), "Recovered with fine-tuned's output in base", "% of the gain", "share", 100, 1),
    (("weight_patching",), "Lost with base's weights in fine-tuned", "% of the gain", "share", 100, 1),
)


def head(data: RunData, row: HeadRow) -> dict:
    """A row of the table, and all that opens below it."""
    numbers = []
    for metric in METRICS:
        for key, name in (
            (metric.key, metric.title),
            (f"{metric.key}_no_sink", f"{metric.title}, first token removed"),
        ):
            if key in row.numbers:
                numbers.append((name, metric.unit, metric.digits, _cell(row.numbers[key])))
    return {
        "name": row.name,
        "anchor": f"head-{row.layer}-{row.head}",
        "numbers": numbers,
        "cells": {key: _cell(row.numbers[key]) for key in COLUMNS if key in row.numbers},
        "weights": row.weights,
        "beside": [*_causes(data, (row.layer, row.head)), *_controls(data, (row.layer, row.head))],
    }


def _cell(values: tuple) -> dict:
    base, fine_tuned, change, low, high = values
    sure = np.isfinite(low) and (low > 0 or high < 0)
    return {"base": base, "fine_tuned": fine_tuned, "change": change, "low": low, "high": high, "sure": bool(sure)}


def _causes(data: RunData, place: tuple[int, int]) -> list[dict]:
    """What interventions on the head do; bold where the false-discovery control names it."""
    rows = []
    for path, name, unit, key, factor, digits in CAUSES:
        try:
            table = causes.part(data, *path, "heads")
        except Missing:
            continue
        values = (factor * causes.numbers(table, one)[place] for one in (key, "low", "high"))
        rows.append(_row(name, unit, digits, values, table["flag"][place[0]][place[1]]))
    return rows


def _controls(data: RunData, place: tuple[int, int]) -> list[dict]:
    """Format and task of the head's change; task is bold where the false-discovery control names it."""
    rows = []
    for control in format_and_task.CONTROLS:
        for key in format_and_task.SHOWN:
            try:
                parts = format_and_task.split(data, control, key)
            except Missing:
                continue
            metric = BY_KEY[key]
            for part, text in (("format", f"moved in the {control} control"), ("task", "further than in that control")):
                value, low, high = (float(one[place]) for one in getattr(parts, part))
                sure = bool(parts.flag[place]) if part == "task" else low > 0 or high < 0
                rows.append(_row(f"{metric.title}, {text}", metric.unit, metric.digits, (value, low, high), sure))
    return rows


def _row(name: str, unit: str, digits: int, values, sure) -> dict:
    value, low, high = values
    return {"name": name, "unit": unit, "digits": digits, "value": value, "low": low, "high": high, "sure": bool(sure)}
