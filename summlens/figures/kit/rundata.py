"""A run's saved files, read once and reduced to what figures need: series over steps and the two ends of the run."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from summlens import names
from summlens.artifacts import (
    ATTENTION_MAPS,
    CAUSAL,
    CONTROL_SPLIT,
    EVALUATION,
    LATENT_SPACE,
    PREDICTIONS,
    RECORD,
    Run,
    Step,
)
from summlens.core.errors import UserError
from summlens.core.words import listed
from summlens.stats.columns import nanmean
from summlens.stats.intervals import RESAMPLES, bootstrap_interval

SEED = 0
_SERIES = frozenset(names.series())
_COMPARED = {key: name for name, key in names.compared().items()}  # by key, what a noise floor calls it


class Missing(Exception):
    """A figure's data are not in this run; the text says which, `command`, where not the usual one, what makes them."""

    def __init__(self, reason: str, command: str | None = None):
        super().__init__(reason)
        self.command = command


@dataclass
class RunData:
    """One run in memory. S captured steps, A probe articles, L layers, H heads, N neurons.

    `first` and `last` are the first and last readable captures (None without any). `layers[key]` is
    (S, A, L or L + 1): a per-head metric averaged over its heads, or a per-layer one as it is. `heads[key]` is
    (S, L, H): the mean over the articles. A capture that lacks a key is NaN there. `problems` are lines about files
    that could not be read, for the reader of the report.
    """

    run: Run
    info: dict
    steps: list[int] = field(default_factory=list)
    infos: list[dict] = field(default_factory=list)
    first: Step | None = None
    last: Step | None = None
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    heads: dict[str, np.ndarray] = field(default_factory=dict)
    changed_neurons: np.ndarray | None = None  # (K, 2): layer, neuron
    neurons: np.ndarray | None = None  # (W, K): their mean activation at each of the W whole captures
    neuron_steps: list[int] = field(default_factory=list)  # the steps of those
    evaluation: dict | None = None
    latent: dict | None = None
    latent_arrays: dict[str, np.ndarray] = field(default_factory=dict)
    causal: dict | None = None
    controls: dict | None = None  # controls.json and its arrays
    control_arrays: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict | None = None  # attention_maps.json and its arrays
    map_arrays: dict[str, np.ndarray] = field(default_factory=dict)
    predictions: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def articles(self) -> int:
        """A, the number of probe articles."""
        return next((value.shape[1] for value in self.layers.values()), 0)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, H) as the captures have them."""
        heads = next(iter(self.heads.values()), None)
        return heads.shape[1:] if heads is not None else (0, 0)

    def ends(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`key` in the first and the last capture. Raises Missing where either lacks it or nothing was captured."""
        if self.first is None or self.last is None:
            raise Missing("no captured step")
        for end in (self.first, self.last):
            if key not in end.arrays:
                slim = "" if end.info.get("whole", True) else " (a slim capture: only whole ones hold it)"
                raise Missing(f"{key} was not captured at step {end.step}{slim}")
        before, after = self.first.arrays[key], self.last.arrays[key]
        if before.shape != after.shape:
            raise Missing(f"{key} has the shape {before.shape} at the first step and {after.shape} at the last")
        return before, after

    def needs_training(self) -> None:
        """Raises Missing unless there are two captures to compare."""
        if not self.steps:
            raise Missing("no captured step")
        if len(self.steps) == 1:
            raise Missing("only one captured step, and a change needs two")

    def logged(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of a number that the training loop logged between captures; empty where there is none."""
        found = {
            entry["step"]: _number(entry.get(name))
            for info in self.infos
            for entry in info.get("log") or []
            if np.isfinite(_number(entry.get(name)))
        }
        return sorted(found), [found[step] for step in sorted(found)]


def _number(value) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan


def load(run: Run, progress=lambda steps: steps, changed_neurons: int = 24) -> RunData:
    """Read everything that figures use. `progress` wraps the list of steps (a progress bar).

    A file that is damaged is left out and named in `problems`; a run without run.json, or with a run.json of another
    schema version, raises UserError.
    """
    data = RunData(run, run.read_json(RECORD))
    data.evaluation = _json(data, EVALUATION)
    data.latent, data.latent_arrays = _analysis(data, LATENT_SPACE)
    data.causal = _json(data, f"{CAUSAL}.json")
    data.controls, data.control_arrays = _analysis(data, CONTROL_SPLIT)
    data.maps, data.map_arrays = _analysis(data, ATTENTION_MAPS)
    data.predictions = _optional(data, lambda: list(run.read_predictions()), run.has(PREDICTIONS)) or []
    _load_steps(data, progress, changed_neurons)
    data.problems += _other_pairs(data)
    return data


def _json(data: RunData, name: str) -> dict | None:
    return _optional(data, lambda: data.run.read_json(name), data.run.has(name))


def _arrays(data: RunData, stem: str) -> dict[str, np.ndarray]:
    name = f"{stem}.npz"
    return _optional(data, lambda: data.run.read_arrays(name), data.run.has(name)) or {}


def _analysis(data: RunData, stem: str) -> tuple[dict | None, dict[str, np.ndarray]]:
    return _json(data, f"{stem}.json"), _arrays(data, stem)


def _other_pairs(data: RunData) -> list[str]:
    """A line where the analyses of one report are of different pairs of models."""
    pairs = {
        file: (found.get("base"), found.get("fine_tuned"))
        for file, found in ((f"{LATENT_SPACE}.json", data.latent), (f"{CAUSAL}.json", data.causal))
        if found and "(saved vectors)" not in str(found.get("fine_tuned"))
    }
    if len(set(pairs.values())) < 2:
        return []
    named = " and ".join(f"{file} compares {base} with {tuned}" for file, (base, tuned) in pairs.items())
    return [f"{named}: run analyze_latent_space.py again for one pair of models"]


def _optional(data: RunData, read, present: bool):
    if not present:
        return None
    try:
        return read()
    except UserError as error:
        data.problems.append(str(error))
        return None


def _load_steps(data: RunData, progress, changed_neurons: int) -> None:
    rows, neuron_means, found = [], [], data.run.steps()
    for step in progress(found):
        capture = _optional(data, lambda step=step: data.run.read_step(step), True)
        if capture is None:
            continue
        if not rows:
            data.first = capture
        data.last = capture
        data.steps.append(step)
        data.infos.append(capture.info)
        rows.append({key: np.asarray(v, np.float32) for key, v in capture.arrays.items() if key in _SERIES})
        neuron_means.append(capture.arrays.get(names.neurons("mean")))
    data.problems += gaps(found)
    if data.steps and data.steps[0] > 0:
        data.problems.append(f"step 0 could not be read: base means step {data.steps[0]} here")
    if not rows:
        return
    for key in {key: None for row in rows for key in row}:
        shape = next(row[key].shape for row in reversed(rows) if key in row)
        if any(key in row and row[key].shape != shape for row in rows):
            data.problems.append(f"{key} has different shapes at different steps: left out")
            continue
        values = [row.get(key, np.full(shape, np.nan, np.float32)) for row in rows]
        if len(shape) == 3:
            data.heads[key] = np.stack([nanmean(value, 0) for value in values])
            data.layers[key] = np.stack([nanmean(value, 2) for value in values])
        else:
            data.layers[key] = np.stack(values).reshape(len(values), shape[0], -1)
    _load_neurons(data, neuron_means, changed_neurons)


def _load_neurons(data: RunData, means: list, count: int) -> None:
    """The `count` neurons whose mean activation moved most, measured in the first capture's standard deviations."""
    known = {step: mean for step, mean in zip(data.steps, means, strict=True) if mean is not None}
    if len({mean.shape for mean in known.values()}) != 1:
        return
    try:
        change = neuron_change(data)
    except Missing:
        return
    order = np.argsort(-np.nan_to_num(np.abs(change)), axis=None, kind="stable")[:count]
    data.changed_neurons = np.stack(np.unravel_index(order, change.shape), axis=1)
    data.neurons = np.stack([mean.reshape(-1)[order] for mean in known.values()])
    data.neuron_steps = list(known)


def neuron_change(data: RunData) -> np.ndarray:
    """(L, N) change of each neuron's mean activation, in standard deviations of that neuron in the first capture."""
    before, after = data.ends(names.neurons("mean"))
    deviation, _ = data.ends(names.neurons("std"))
    return (after - before) / np.maximum(deviation, 1e-3 * max(float(np.nanmean(deviation)), 1e-12))


def neuron_changes(data: RunData, layer: int, neuron: int) -> dict[str, np.ndarray]:
    """{mean|max|std|positive_share: (A,)} change of that number of a neuron in each probe article, as the causal tests
    of the run's own models measured it; empty where there are none."""
    if "neurons" not in ((data.causal or {}).get("noise_floor") or {}):
        return {}
    arrays, changes = _arrays(data, CAUSAL), {}
    for statistic in names.NEURON_STATISTICS:
        ends = [arrays.get(names.neurons_by_article(model, statistic)) for model in names.MODELS]
        if all(end is not None and end.shape[1:] == data.last.arrays[names.neurons("mean")].shape for end in ends):
            changes[statistic] = ends[1][:, layer, neuron] - ends[0][:, layer, neuron]
    return changes


def gaps(steps: list[int]) -> list[str]:
    """A line for every place where captures are missing, judged by the run's own commonest spacing."""
    spacings = np.diff(steps)
    if len(spacings) < 3:
        return []
    usual = Counter(spacings.tolist()).most_common(1)[0][0]
    return [
        f"no capture between step {before} and step {after}, elsewhere there is one every {usual} steps"
        for before, after in zip(steps[:-1], steps[1:], strict=True)
        if after - before > usual
    ]


def interval(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) over the articles on axis 0: the 95 % bootstrap interval. Infinities count as not measured."""
    values = np.where(np.isfinite(values), values, np.nan)
    return bootstrap_interval(values, resamples=resamples, confidence=0.95, seed=SEED, axis=0)


@dataclass(frozen=True)
class Change:
    """A per-head metric at both ends, its mean over the articles, and the change's paired 95 % interval; all (L, H).

    `above_noise` says which heads the noise floor's test names, where the causal tests were run.
    """

    base: np.ndarray
    fine_tuned: np.ndarray
    change: np.ndarray
    low: np.ndarray
    high: np.ndarray
    above_noise: np.ndarray | None = None

    @property
    def uncertain(self) -> np.ndarray:
        """Heads whose change may be none: the interval contains zero, or the noise floor's test does not name them."""
        below = False if self.above_noise is None else ~self.above_noise
        return ((self.verdict == 0) | below) & np.isfinite(self.change)

    @property
    def verdict(self) -> np.ndarray:
        """-1 or 1 where the interval lies wholly below or above zero, 0 where it contains zero or nothing is known."""
        return np.where(self.low > 0, 1, np.where(self.high < 0, -1, 0))


def change(data: RunData, key: str) -> Change:
    """How the per-head metric `key` (A, L, H) changed from the first capture to the last."""
    before, after = data.ends(key)
    mean, low, high = interval(after.astype(np.float64) - before)
    return Change(nanmean(before, 0), nanmean(after, 0), mean, low, high, _above_noise(data, key, mean.shape))


def floors_in_words(floors: Collection[str]) -> str:
    """What a change was held against, from the names of the noise floors."""
    return listed([floor.words for key, floor in names.FLOORS.items() if key in floors])


def layers_above_noise(data: RunData, number: str) -> tuple[np.ndarray, list[str]] | None:
    """Where a number of latent_space.json is beyond its noise floors, (L + 1,) or (L,) bool, and the names of those
    floors; None where it was not tested.
    """
    row = ((data.latent or {}).get("noise_floor") or {}).get("layers", {}).get(number)
    if not row or not row["of"]:
        return None
    return np.array(row["flag"], dtype=bool), [name for name in names.FLOORS if name in row["median"]]


def _above_noise(data: RunData, key: str, shape: tuple) -> np.ndarray | None:
    heads = ((data.causal or {}).get("noise_floor") or {}).get("heads") or {}
    level, _, form = _COMPARED.get(key, "").partition("/")
    flags = np.array(heads.get(form, {}).get("flag", []) if level == "heads" else [], dtype=bool)
    return flags if flags.shape == shape else None
