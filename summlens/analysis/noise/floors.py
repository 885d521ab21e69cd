"""Captures of models between which nothing of interest changed: what a change is compared with in `noise.verdict`.

numerical   base again, with its weights and all that its modules pass on rounded to bfloat16, against base as it is.
seed        the run's fine-tuned model against that of another training seed, and those of other seeds against another.

bfloat16 is rounded to and not computed in: sums stay in float32, as they do inside a matrix unit, and a CPU without
such a unit needs no more time than for float32.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from summlens import names
from summlens.analysis.material import Load
from summlens.artifacts import Run
from summlens.capture import capture, weight_change
from summlens.data.tokens import Example
from summlens.model import loading

log = logging.getLogger(__name__)
NUMERICAL = "base against base with weights and activations rounded to bfloat16"
SEEDS = "fine-tuned against that of seed {}: the largest distance between two"
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Floor(Generic[Measured]):
    """`pairs` are what was measured of two models each, between which nothing of interest changed.

    Here that is the arrays of their captures. The first of a pair also holds attention kl and js of its model against
    that of the second, and how far the weights of the two lie apart (weights_by_head/...), where they were compared.
    `start` is base (step 0), `ends` are the fine-tuned models of the other seeds: what the same training did there.
    """

    what: str
    pairs: list[tuple[Measured, Measured]]
    start: Measured
    ends: list[Measured] = field(default_factory=list)


def numerical(base: nn.Module, examples: Sequence[Example], first: Mapping) -> Floor[Mapping]:
    """`first`: the arrays of the run's step 0."""
    log.info("noise floor: base with bfloat16 rounding on %d probe articles", len(examples))
    arrays = capture(rounded(base), examples, base=base, positions=("summary",))
    return Floor(NUMERICAL, [(arrays, first)], first)


def rounded(model: nn.Module) -> nn.Module:
    """A copy whose weights and whose modules' outputs are rounded to bfloat16, held as float32."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(_round(parameter))
    for module in model.modules():
        module.register_forward_hook(_rounded_output)
    return model


def _rounded_output(module: nn.Module, args: tuple, output):
    if torch.is_tensor(output):
        return _round(output)
    return tuple(_round(one) if torch.is_tensor(one) else one for one in output) if type(output) is tuple else None


def _round(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).to(values.dtype) if values.is_floating_point() else values


def seeds(
    run: Run,
    fine_tuned: nn.Module,
    examples: Sequence[Example],
    first: Mapping,
    last: Mapping,
    load: Load = loading.on_device,
) -> Floor[Mapping] | None:
    """None where the run has no fine-tune of another seed on the same probe articles.

    `first`, `last`: the arrays of the run's step 0 and of its last captured step. A seed whose model is gone is
    compared by its captures alone.
    """
    known = [(fine_tuned, last)]
    compared = []
    for seed, other in other_seeds(run).items():
        if not other.steps():
            continue
        arrays = other.read_step(other.steps()[-1]).arrays
        if arrays[names.LOSS].shape != (len(examples),):
            continue
        compared.append(seed)
        known.append((final_model(other, load), arrays))
    if not compared:
        return None
    log.info("noise floor: fine-tuned against that of seed %s", ", ".join(compared))
    pairs = [(_compared(*one, model, examples), arrays) for one, (model, arrays) in combinations(known, 2)]
    return Floor(SEEDS.format(", ".join(compared)), pairs, first, [arrays for _, arrays in known[1:]])


def other_seeds(run: Run) -> dict[str, Run]:
    """{seed: its files} of the run's finished fine-tunes of other seeds."""
    return {str(seed): run.companion(name) for name in run.companions() if (seed := names.seed_of(name)) is not None}


def final_model(run: Run, load: Load) -> nn.Module | None:
    """The fine-tuned model that a run saved; None where it is gone."""
    return load(str(run.model_outputs)) if run.has_model() else None


def _compared(
    model: nn.Module | None, arrays: Mapping, other: nn.Module | None, examples: Sequence[Example]
) -> Mapping:
    """A capture's arrays with what is relative to base made relative to `other`."""
    relative = names.relative_to_base()
    kept = {name: values for name, values in arrays.items() if name not in relative}
    if model is None or other is None:
        return kept
    between = capture(model, examples, base=other, positions=("summary",)) | weight_change(model, other)[1]
    return kept | {name: values for name, values in between.items() if name in relative}


Pair = tuple[np.ndarray, np.ndarray]


def captured_pairs(first: Mapping, last: Mapping) -> dict[str, Pair]:
    """{heads/<metric> or layers/<site>: (base, fine-tuned)}, (A, L, H) or (A, L), of two captures' arrays."""
    before, after = numbers(first), numbers(last)
    return {name: (before[name], after[name]) for name in before if name in after and name != "neurons"}


def numbers(arrays: Mapping) -> dict[str, np.ndarray]:
    """What is compared, of a capture's arrays, by its name in a noise floor: heads/<metric> (A, L, H), layers/<site>
    (mean absolute value) and layers/<site>_l2 (mean norm) (A, L), and neurons (1, L, N): their mean activations."""
    found = {name: np.asarray(arrays[key], np.float64) for name, key in names.compared().items() if key in arrays}
    if (means := names.neurons("mean")) in arrays:
        found["neurons"] = np.asarray(arrays[means], np.float64)[None]
    return found
