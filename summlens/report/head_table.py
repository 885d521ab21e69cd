"""The ten heads that moved most: every number there is about each, from captures, causal tests and controls."""

import numpy as np

from summlens.figures import causes, format_and_task
from summlens.figures.heads import HeadRow
from summlens.figures.kit.rundata import Missing, RunData
from summlens.names import CONTROLS, HEAD, HEAD_METRICS, INTERVENTIONS, PROJECTIONS

COLUMNS = ("kl", "js", "normalized_entropy", "sparsity", "copy_score", "first_token_share", "head_output_norm")


def head(data: RunData, row: HeadRow) -> dict:
    """A row of the table, and all that opens below it."""
    numbers = []
    for metric in HEAD_METRICS:
        for form in metric.forms:
            if form in row.numbers:
                name = metric.title if form == metric.key else f"{metric.title}, first token removed"
                numbers.append((name, metric.unit, metric.digits, _cell(row.numbers[form])))
    return {
        "name": row.name,
        "anchor": f"head-{row.layer}-{row.head}",
        "numbers": numbers,
        "cells": {key: _cell(row.numbers[key]) for key in COLUMNS if key in row.numbers},
        "weights": {PROJECTIONS[part]: value for part, value in row.weights.items()},
        "beside": [*_causes(data, (row.layer, row.head)), *_controls(data, (row.layer, row.head))],
    }


def _cell(values: tuple) -> dict:
    base, fine_tuned, change, low, high = values
    sure = np.isfinite(low) and (low > 0 or high < 0)
    return {"base": base, "fine_tuned": fine_tuned, "change": change, "low": low, "high": high, "sure": bool(sure)}


def _causes(data: RunData, place: tuple[int, int]) -> list[dict]:
    """What interventions on the head do; bold where the false-discovery control names it."""
    rows = []
    for one in INTERVENTIONS:
        try:
            table = causes.part(data, *one.path, "heads")
        except Missing:
            continue
        values = (one.scale * causes.numbers(table, key)[place] for key in (one.key, "low", "high"))
        rows.append(_row(one.title, one.unit, one.digits, values, table["flag"][place[0]][place[1]]))
    return rows


def _controls(data: RunData, place: tuple[int, int]) -> list[dict]:
    """Format and task of the head's change; task is bold where the false-discovery control names it."""
    rows = []
    for control in CONTROLS:
        for key in format_and_task.SHOWN:
            try:
                parts = format_and_task.split(data, control, key)
            except Missing:
                continue
            metric = HEAD[key]
            for part, text in (("format", f"moved in the {control} control"), ("task", "further than in that control")):
                value, low, high = (float(one[place]) for one in getattr(parts, part))
                sure = bool(parts.flag[place]) if part == "task" else low > 0 or high < 0
                rows.append(_row(f"{metric.title}, {text}", metric.unit, metric.digits, (value, low, high), sure))
    return rows


def _row(name: str, unit: str, digits: int, values, sure) -> dict:
    value, low, high = values
    return {"name": name, "unit": unit, "digits": digits, "value": value, "low": low, "high": high, "sure": bool(sure)}
