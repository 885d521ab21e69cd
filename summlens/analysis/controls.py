"""What of each change the task needed: a run's captures against those of its controls. controls.json and .npz out.

A control (docs/definitions.md) takes the run's optimiser steps from the same base model, but cannot learn the task.
For every number of a head or a layer, paired by probe article at the last captured step:

total   fine-tuned - base
format  control - base: what training of that length changes without the task
task    total - format = fine-tuned - control

Attention KL and JS are distances from base: total and format are those of fine-tuned and of the control, task is how
much further fine-tuned went. Two models may be equally far from base in different directions, which this cannot see.

controls.npz, with L layers and H heads, per control (shuffled-pairs or language-model):

<control>/<heads/metric|layers/site>/<total|format|task>    (3, L, H) or (3, L): mean over the articles, low, high
<control>/<heads/metric|layers/site>/<p|flag>               (L, H) or (L,), of task: paired sign randomisation over the
                                                            articles, and Benjamini-Hochberg at 5 % over the metric;
                                                            with another seed, larger in every seed than
                                                            the distance between seeds too
<control>/<heads/metric|layers/site>/seed                   (L, H) or (L,) the largest distance between the means of
                                                            two seeds of the run: two trainings differ without any task
<control>/weights/<q|k|v|o>/<total|format|task>             (L, H) ||W - W0||_F / ||W0||_F of a head's weights: one
                                                            number a model, without interval or test

controls.json has `controls` {control: {step, movement: {share, low, high}, heads|layers: {metric: {flagged, of}}}}.
`movement` is the control's KL over fine-tuned's, both summed over heads and articles, with its interval.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from summlens import names
from summlens.analysis.material import Material
from summlens.analysis.noise.floors import numbers, other_seeds
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.stats.intervals import RESAMPLES, bootstrap_interval, share
from summlens.stats.tests import discoveries, randomisation_test

SPLIT = ("total", "format", "task")
COMMAND = "python gpt2_summarization.py --resume --control"


def of_material(material: Material) -> tuple[dict, dict[str, np.ndarray]]:
    """`split` of the material's run."""
    return split(material.run, material.seed)


def split(run: Run, seed: int = 0, resamples: int = RESAMPLES) -> tuple[dict, dict[str, np.ndarray]]:
    """All of controls.json and controls.npz. Raises UserError where the run has no control to compare with."""
    found = [name for name in run.companions() if name in names.CONTROLS]
    if not found:
        raise UserError(f"there is no control fine-tune: {COMMAND} {next(iter(names.CONTROLS))} makes one")
    steps = run.steps()
    if len(steps) < 2 or steps[0] != 0:
        raise UserError(f"captured steps {steps}: step 0 and a later one are needed; train further")
    base, fine_tuned = run.read_step(0).arrays, run.read_step(steps[-1]).arrays
    info = {
        "definition": "total = fine-tuned - base, format = control - base, task = total - format",
        "test": "of task: sign randomisation paired by probe article, Benjamini-Hochberg at 5 % over each metric",
        "interval": {
            "kind": "percentile bootstrap over probe articles; it does not cover training seeds",
            "confidence": 0.95,
            "resamples": resamples,
        },
        "articles": len(base[names.LOSS]),
        "seed": seed,
        "controls": {},
        "left_out": {},
    }
    seeds = other_seeds(run).items()
    captures = {name: one.read_step(steps[-1]).arrays for name, one in seeds if one.steps()[-1:] == steps[-1:]}
    captures = {k: v for k, v in captures.items() if v[names.LOSS].shape == base[names.LOSS].shape}
    if captures:
        info["seeds"] = list(captures)
    else:
        info["left_out"]["seed"] = (
            "without another training seed, a part that is named may be that of any two trainings"
        )
    arrays = {}
    for name in found:
        control = run.companion(name)
        if control.steps()[-1:] != steps[-1:]:
            info["left_out"][f"control {name}"] = f"it has no capture of step {steps[-1]}, the run's last"
            continue
        captured = control.read_step(steps[-1]).arrays
        if captured[names.LOSS].shape != base[names.LOSS].shape:
            info["left_out"][f"control {name}"] = "its captures are not of this run's probe articles"
            continue
        summary, own = compare(base, fine_tuned, captured, list(captures.values()), seed, resamples)
        info["controls"][name] = {"step": steps[-1], **summary}
        arrays |= {f"{name}/{key}": values for key, values in own.items()}
    return info, arrays


def compare(
    base: Mapping,
    fine_tuned: Mapping,
    control: Mapping,
    seeds: Sequence[Mapping] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[dict, dict[str, np.ndarray]]:
    """One control's part of controls.json and of controls.npz (keys without its name), from captures' arrays.

    `seeds`: the run's fine-tunes of other seeds.
    """
    before, after, beside = numbers(base), numbers(fine_tuned), numbers(control)
    trainings = [after, *map(numbers, seeds)]
    summary, arrays = {"heads": {}, "layers": {}}, {}
    for name in after:
        if name == "neurons" or name not in before or name not in beside:
            continue
        total, format_ = after[name] - before[name], beside[name] - before[name]
        for part, values in zip(SPLIT, (total, format_, total - format_), strict=True):
            arrays[f"{name}/{part}"] = np.stack(bootstrap_interval(values, resamples, seed=seed))
        p_values = randomisation_test(total, format_, seed=seed)
        flag = discoveries(p_values)
        means = [np.nanmean(one[name], axis=0) for one in trainings if name in one]
        if len(means) > 1:
            distance = np.max([np.abs(one - other) for one, other in combinations(means, 2)], axis=0)
            # Every seed's part must exceed the largest distance between two seeds. Were the largest part compared, one
            # seed that happened to change would be enough: its distance from the others is that very change.
            flag &= np.min([np.abs(one - np.nanmean(beside[name], axis=0)) for one in means], axis=0) > distance
            arrays[f"{name}/seed"] = distance
        arrays |= {f"{name}/p": p_values, f"{name}/flag": flag}
        level, metric = name.split("/")
        summary[level][metric] = {"flagged": int(flag.sum()), "of": int(np.isfinite(p_values).sum())}
    if "heads/kl" in after and "heads/kl" in beside:
        ours, theirs = (np.nansum(one["heads/kl"], axis=(1, 2)) for one in (after, beside))
        value, low, high = share(theirs, ours, resamples, seed=seed)
        summary["movement"] = {"share": value, "low": low, "high": high}
    for part in names.PROJECTIONS:
        key = names.head_weights(part, "relative")
        if key in fine_tuned and key in control:
            moved = fine_tuned[key].astype(np.float64), control[key].astype(np.float64)
            for what, values in zip(SPLIT, (*moved, moved[0] - moved[1]), strict=True):
                arrays[f"weights/{part}/{what}"] = values
    return summary, arrays


def headlines(info: Mapping) -> list[str]:
    """The numbers to read first, a line each, from what `split` returned as info."""
    lines = []
    for name, found in info["controls"].items():
        if "movement" in found:
            moved, kl = found["movement"], found["heads"]["kl"]
            lines.append(
                f"control {name}: its heads moved {100 * moved['share']:.0f} % [{100 * moved['low']:.0f}, "
                f"{100 * moved['high']:.0f}] as far as fine-tuned's (KL); {kl['flagged']} of {kl['of']} differ "
                "beyond chance"
            )
    return lines
