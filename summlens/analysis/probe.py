"""What the analyses read: the probe articles, and the two ends of a run's captures."""

from collections.abc import Mapping, Sequence

import numpy as np

from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.data.tokens import Example


def probe_examples(described: Mapping) -> list[Example]:
    """The probe articles as tokens, from what run.json holds. Raises UserError where it holds none."""
    try:
        rows = described["probe"]["examples"]
        examples = [Example(**{**row, "input_ids": tuple(row["input_ids"])}) for row in rows]
    except (KeyError, TypeError):
        raise UserError("run.json holds no probe articles as tokens: make the run again") from None
    if not examples:
        raise UserError("run.json has an empty probe set: make the run again with --probe-articles above 0")
    return examples


def captured_ends(run: Run) -> tuple[dict, dict] | None:
    """The arrays of step 0 and of the last captured step; None where a run has no two such captures."""
    steps = run.steps()
    if len(steps) < 2 or steps[0] != 0:
        return None
    return run.read_step(0).arrays, run.read_step(steps[-1]).arrays


def of_these(captured: tuple[Mapping, Mapping], examples: Sequence[Example]) -> bool:
    """Whether captures are of these probe articles."""
    return captured[0].get("loss/summary", np.empty(0)).shape == (len(examples),)
