"""What the analyses work on: a run, two models of it or beside it, each loaded once, and the probe articles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from summlens import names
from summlens.artifacts import RECORD, Run
from summlens.core.config import Config
from summlens.core.errors import UserError
from summlens.data.tokens import Example
from summlens.model import loading

Load = Callable[[str], nn.Module]  # a model by name or directory, on the device to compute on


class Models:
    """Models by name or directory on this machine's device, each loaded once. Whoever takes one leaves it as it was."""

    def __init__(self):
        self._found: dict[str, nn.Module] = {}

    def __call__(self, name: str) -> nn.Module:
        if name not in self._found:
            self._found[name] = loading.on_device(name)
        return self._found[name]


@dataclass(frozen=True)
class Material:
    """What is analysed, and how.

    `base` and `fine_tuned` are the two models' names or directories; None where saved vectors alone are compared.
    `own`: they are those of the run, whose captures lead from one to the other. `tokens_of` names the model that the
    probe articles were encoded for.
    """

    run: Run
    examples: list[Example]
    base: str | None
    fine_tuned: str | None
    own: bool
    tokens_of: str
    standardized: bool = True
    causal: str = "auto"  # exact, fast, auto or off
    seed: int = 0
    models: Models = field(default_factory=Models)

    @classmethod
    def of(cls, run: Run, base: str | None, fine_tuned: str | None, no_models: bool = False, **options) -> "Material":
        """The run's own models, or those that are named in their place. Raises UserError where one is not there."""
        described = run.read_json(RECORD)
        examples = probe_examples(described)
        own, first = not (base or fine_tuned), Config().resolve(described["config"]["model"])
        if no_models:
            pair = (None, None)
        else:
            pair = Config().resolve(base or first), Config().resolve(fine_tuned) if fine_tuned else final_model(run)
        return cls(run, examples, *pair, own=own, tokens_of=first, **options)


def final_model(run: Run) -> str:
    """The directory of the run's fine-tuned model. Raises UserError where it is not there."""
    if not run.model_outputs.is_dir():
        raise UserError(f"{run.model_outputs} is not there: finish the training, or give --model or --no-models")
    return str(run.model_outputs)


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
    return captured[0].get(names.LOSS, np.empty(0)).shape == (len(examples),)
