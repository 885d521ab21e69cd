"""Does what changed cause the better summaries? Two models and a run's captures in, causal.json and causal.npz out.

causal.npz holds every effect by probe article (names and shapes: `summlens.analysis.causal.effects`), and
noise_floor/<heads|layers>/<metric>/<sampling|numerical|seed|p|flag>, noise_floor/neurons/<the same>,
noise_floor/weights/<q|k|v|o>/<seed|flag>: see `summlens.analysis.noise.verdict`.

causal.json holds, with lists nested as layers and heads, each number with its interval over the probe articles
(`low`, `high`) and, where a test stands behind it, its Benjamini-Hochberg `flag`:

loss                 {base, fine_tuned, gain}, nats a token of the reference summary; gain = base - fine-tuned
ablation             {mean|zero: {base|fine_tuned|difference: {heads|attention|mlp: {mean, low, high, flag}}}}
patching             {noising|denoising: {heads|attention|mlp|residual: {share, low, high, flag}}}: of the gain
weight_patching      {heads|layers|outside: {share, low, high, flag}}
attribution_patching {noising|denoising: {heads|attention|mlp: {share, low, high}, agreement: {value, low, high}}}
circuit              see `summlens.analysis.causal.circuit`
moved_and_matters    {moved: {kl, entropy_change, weight_change: [L][H]}, correlations: [{moved, matters, value,
                     low, high, p_value}]}
noise_floor          {floors: {sampling|numerical|seed: what it compares}, heads|layers: {metric: {flag, flagged, of,
                     median: {change, sampling, numerical, seed}}}, neurons: {flagged, of, median, by_layer}, and with
                     another seed weights: {q|k|v|o: {flag, flagged, of}}}

What the data or the models do not allow is left out, with its reason under `left_out`.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from summlens import names
from summlens.analysis.causal.circuit import find
from summlens.analysis.causal.effects import WHOLE, interventions, measure
from summlens.analysis.material import Load, Material, captured_ends, of_these
from summlens.analysis.noise import verdict
from summlens.analysis.noise.floors import Floor, captured_pairs, numerical, seeds
from summlens.artifacts import Run
from summlens.core.config import ANOTHER_SEED
from summlens.core.errors import UserError
from summlens.core.words import quoted
from summlens.data.tokens import Example
from summlens.model import loading
from summlens.model.architecture import architecture, check_one_shape
from summlens.stats.intervals import RESAMPLES, bootstrap_interval, rank_correlation, share
from summlens.stats.tests import FEWEST_ARTICLES, discoveries, randomisation_test, rank_p_value

log = logging.getLogger(__name__)
MOST_SECONDS = 600.0  # seconds that exact tests may take before the choice falls on the gradient approximation
_RATE = {"cpu": 3e10, "cuda": 2e13, "mps": 2e12}  # floating point operations a second that such a device does reach


def of_material(material: Material) -> tuple[dict, dict[str, np.ndarray]]:
    """`test_pair` of the material's models, and of its run where they are its own."""
    run = material.run if material.own else None
    return test_pair(
        material.base, material.fine_tuned, material.examples, run, material.causal, material.seed, material.models
    )


def test_pair(
    base: str,
    fine_tuned: str,
    examples: Sequence[Example],
    run: Run | None = None,
    how: str = "auto",
    seed: int = 0,
    load: Load = loading.on_device,
) -> tuple[dict, dict[str, np.ndarray]]:
    """`analyze` of two models by name or directory, with the captures and the other seeds of the `run` that leads from
    one to the other. `how`: `exact`, `fast` (gradient approximation alone), or `auto`: exact where that takes less
    than MOST_SECONDS. Raises UserError where a model cannot be loaded or they differ in shape.
    """
    pair = load_pair(base, fine_tuned, load)
    exact = how == "exact" or how == "auto" and seconds(pair[0], examples) < MOST_SECONDS
    captured = captured_ends(run) if run is not None else None
    floors = {}
    if captured is not None and of_these(captured, examples):
        floors = noise_floors(run, *pair, examples, captured, load)
    info, arrays = analyze(*pair, examples, captured, exact, seed, floors=floors)
    return {"base": base, "fine_tuned": fine_tuned, **info}, arrays


def load_pair(base: str, fine_tuned: str, load: Load = loading.on_device) -> tuple[nn.Module, nn.Module]:
    """Both models on this machine's device. Raises UserError where one cannot be loaded or they differ in shape."""
    pair = load(base), load(fine_tuned)
    check_one_shape(*(architecture(model) for model in pair), (base, fine_tuned))
    return pair


def seconds(model: nn.Module, examples: Sequence[Example]) -> float:
    """About how long the exact tests take on the model's device."""
    found = architecture(model)
    tokens = sum(len(example.input_ids) for example in examples)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    passes = interventions(found.layers, found.heads)
    return passes * tokens * parameters / _RATE[next(model.parameters()).device.type]


def noise_floors(
    run: Run,
    base: nn.Module,
    fine_tuned: nn.Module,
    examples: Sequence[Example],
    captured: tuple[Mapping, Mapping],
    load: Load = loading.on_device,
) -> dict[str, Floor]:
    """The noise floors that need a model to run: numerical, and seed where the run has fine-tunes of other seeds."""
    found = {
        "numerical": numerical(base, examples, captured[0]),
        "seed": seeds(run, fine_tuned, examples, *captured, load),
    }
    return {name: floor for name, floor in found.items() if floor is not None}


def analyze(
    base: nn.Module,
    fine_tuned: nn.Module,
    examples: Sequence[Example],
    captured: tuple[Mapping, Mapping] | None = None,
    exact: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
    floors: Mapping[str, Floor] | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """All of causal.json and causal.npz (module docstring).

    Args:
        base, fine_tuned: of one shape (`load_pair` sees to it).
        captured: the arrays of the run's first and last step, for the same probe articles: what moved.
        exact: every intervention; without it the gradient approximation alone, of which one pass does for all heads.
        floors: what `noise_floors` measured.

    Raises:
        UserError: no probe articles, or losses that are not finite.
    """
    if not examples:
        raise UserError("the probe set is empty: there is nothing to test causes on")
    log.info("causal tests on %d probe articles (%s)", len(examples), "exact" if exact else "gradient approximation")
    analysis = _Analysis(measure(base, fine_tuned, examples, exact), exact, seed, resamples)
    if captured is not None and not of_these(captured, examples):
        analysis.left_out["captures"] = "the captured steps are not of these probe articles"
        captured = None
    analysis.moved(captured)
    analysis.losses()
    if exact:
        analysis.ablation()
    analysis.shares()
    if exact:
        analysis.agreement()
        analysis.correlations()
        analysis.circuit(base, fine_tuned, examples)
    analysis.noise_floor(captured, floors or {})
    return analysis.info, analysis.arrays


class _Analysis:
    """Collects `info` and `arrays`, a method for each part of the analysis."""

    def __init__(self, arrays: dict[str, np.ndarray], exact: bool, seed: int, resamples: int):
        self.arrays, self.seed, self.resamples = arrays, seed, resamples
        self.gain = arrays["loss/base"] - arrays["loss/fine_tuned"]
        if not np.isfinite(self.gain).all():
            raise UserError("a model's loss on the probe articles is not finite: it cannot be tested")
        self.left_out: dict[str, str] = {}
        self.what_moved: dict[str, np.ndarray] = {}
        self.info = {
            "unit": "nats a token of the reference summary, teacher forcing, every position intervened on",
            "share": "ratio of means over the articles: mean effect over mean gain (loss of base - loss of fine-tuned)",
            "interval": {
                "kind": "percentile bootstrap over probe articles; it does not cover training seeds",
                "confidence": 0.95,
                "resamples": resamples,
            },
            "flag": "Benjamini-Hochberg at 5 % over the table's p-values: paired sign randomisation over articles",
            "exact": exact,
            "articles": len(self.gain),
            "seed": seed,
            "left_out": self.left_out,
        }
        if not exact:
            reason = "exact interventions would take too long for this model on this device (--causal exact does them)"
            self.left_out |= dict.fromkeys(("ablation", "patching", "weight_patching", "circuit"), reason)

    def moved(self, captured: tuple[Mapping, Mapping] | None) -> None:
        """What the captures say each head moved by: {name: (A, L, H) or (L, H)}, larger = more."""
        if captured is None:
            self.left_out["moved_and_matters"] = "no captured steps belong to these models"
            return
        first, last = captured
        if (name := names.HEAD["kl"].array()) in last:
            self.what_moved["kl"] = np.asarray(last[name], dtype=np.float64)
        name = names.HEAD["normalized_entropy"].array()
        if name in first and name in last:
            change = np.asarray(last[name], dtype=np.float64) - first[name]
            # |mean change|, still by article: each head's articles count in the direction of its mean.
            self.what_moved["entropy_change"] = change * np.sign(np.nanmean(change, axis=0))
        parts = [last.get(names.head_weights(part, "absolute")) for part in names.PROJECTIONS]
        if all(part is not None for part in parts):
            self.what_moved["weight_change"] = np.sqrt(sum(np.square(part, dtype=np.float64) for part in parts))

    def losses(self) -> None:
        self.info["loss"] = {
            "base": self._mean(self.arrays["loss/base"]),
            "fine_tuned": self._mean(self.arrays["loss/fine_tuned"]),
            "gain": self._mean(self.gain),
        }

    def ablation(self) -> None:
        self.info["ablation"] = {}
        for kind, sites in (("mean", ("heads", *WHOLE)), ("zero", ("heads",))):
            of = {
                model: {site: self.arrays[f"ablation/{kind}/{model}/{site}"] for site in sites}
                for model in names.MODELS
            }
            of["difference"] = {site: of["fine_tuned"][site] - of["base"][site] for site in sites}
            self.info["ablation"][kind] = {
                model: {site: {**self._mean(rise), "flag": self._flag(rise)} for site, rise in rises.items()}
                for model, rises in of.items()
            }

    def shares(self) -> None:
        """What part of the gain each patch loses or recovers."""
        if not self.info["loss"]["gain"]["low"] > 0:
            reason = "fine-tuning did not lower the loss beyond its interval: there is no gain to share out"
            self.left_out |= dict.fromkeys(("patching", "weight_patching", "attribution_patching"), reason)
            return
        for name, effects in self.arrays.items():
            test, *path = name.split("/")
            if test in ("patching", "weight_patching", "attribution_patching"):
                value, low, high = share(effects, self.gain, self.resamples, seed=self.seed)
                place = self.info.setdefault(test, {})
                for key in path[:-1]:
                    place = place.setdefault(key, {})
                place[path[-1]] = {"share": value, "low": low, "high": high, "flag": self._flag(effects)}

    def agreement(self) -> None:
        """Whether the gradient approximation ranks the heads as the exact patches do."""
        if "attribution_patching" not in self.info:
            return
        for direction in names.DIRECTIONS:
            pair = (self._flat(f"{test}/{direction}/heads") for test in ("attribution_patching", "patching"))
            self.info["attribution_patching"][direction]["agreement"] = {
                "definition": "Spearman correlation over heads with exact patching; interval over articles",
                **_named(rank_correlation(*pair, self.resamples, seed=self.seed)),
            }

    def correlations(self) -> None:
        """Do the heads that moved most matter most?"""
        if not self.what_moved:
            return
        matters = {
            "ablation": self._flat("ablation/mean/fine_tuned/heads"),
            **{direction: self._flat(f"patching/{direction}/heads") for direction in names.DIRECTIONS},
            "weight_patching": self._flat("weight_patching/heads"),
        }
        self.info["moved_and_matters"] = {
            "definition": "Spearman correlation over heads; the interval resamples the articles and takes the heads as "
            "given, the p-value asks what so many heads do by chance",
            "moved": {
                name: values if values.ndim == 2 else np.nanmean(values, axis=0)
                for name, values in self.what_moved.items()
            },
            "correlations": [
                {
                    "moved": name,
                    "matters": effect,
                    **_named(rank_correlation(_flat(values), effects, self.resamples, seed=self.seed)),
                    "p_value": rank_p_value(_flat(values), effects),
                }
                for name, values in self.what_moved.items()
                for effect, effects in matters.items()
            ],
        }

    def circuit(self, base: nn.Module, fine_tuned: nn.Module, examples: Sequence[Example]) -> None:
        if len(examples) < FEWEST_ARTICLES:
            self.left_out["circuit"] = f"{len(examples)} probe articles: at least {FEWEST_ARTICLES} are needed"
            return
        if "patching" not in self.info:
            self.left_out["circuit"] = self.left_out["patching"]
            return
        # Rankings may see the searched half alone, as the search does.
        searched = slice(0, None, 2)
        rankings = {
            name: values if values.ndim == 2 else np.nanmean(values[searched], axis=0)
            for name, values in {
                **self.what_moved,
                "ablation": self.arrays["ablation/mean/fine_tuned/heads"],
                "attribution_patching": self.arrays["attribution_patching/denoising/heads"],
            }.items()
        }
        single = self.arrays["patching/denoising/heads"]
        found = find(base, fine_tuned, examples, self.gain, single, rankings, self.seed, self.resamples)
        if isinstance(found, str):
            self.left_out["circuit"] = found
        else:
            self.info["circuit"] = found

    def noise_floor(self, captured: tuple[Mapping, Mapping] | None, floors: Mapping[str, Floor]) -> None:
        if len(self.gain) < FEWEST_ARTICLES:
            self.left_out["noise_floor"] = f"{len(self.gain)} probe articles: at least {FEWEST_ARTICLES} are needed"
            return
        pairs = captured_pairs(*captured) if captured is not None else {}
        pairs["neurons"] = tuple(self.arrays[names.neurons_by_article(model)] for model in names.MODELS)
        self.info["noise_floor"], arrays = verdict.above_noise(pairs, self.seed, floors)
        self.arrays |= arrays
        if captured is None:
            reason = "no captured steps belong to these models"
            self.left_out |= dict.fromkeys(("noise_floor/heads", "noise_floor/layers"), reason)
        elif "seed" in floors:
            weights, arrays = verdict.weights_beyond_seeds(captured[1], floors["seed"])
            if weights:
                self.info["noise_floor"]["weights"] = weights
                self.arrays |= arrays
            else:
                self.left_out["noise_floor/seed of divergences and weights"] = "another seed's model is not there"
        else:
            self.left_out["noise_floor/seed"] = f"there is no fine-tune of another seed: {ANOTHER_SEED} makes one"

    def _flag(self, effects: np.ndarray) -> np.ndarray:
        return discoveries(randomisation_test(effects, np.zeros_like(effects), seed=self.seed))

    def _mean(self, values: np.ndarray) -> dict:
        mean, low, high = bootstrap_interval(values, self.resamples, seed=self.seed)
        return {"mean": mean, "low": low, "high": high}

    def _flat(self, name: str) -> np.ndarray:
        return _flat(self.arrays[name])


def _flat(values: np.ndarray) -> np.ndarray:
    """(A, L, H) -> (A, L * H), (L, H) -> (L * H,)."""
    return values.reshape(*values.shape[:-2], -1)


def _quoted(value: float, interval: Mapping) -> str:
    return quoted(value, interval["low"], interval["high"])


def _named(triple) -> dict:
    return dict(zip(("value", "low", "high"), map(float, triple), strict=True))


def headlines(info: Mapping) -> list[str]:
    """The numbers to read first, a line each, from what `analyze` returned as info."""
    gain = info["loss"]["gain"]
    lines = [f"loss on the reference summary fell by {_quoted(gain['mean'], gain)} nats a token"]
    for test, key, text in (
        ("ablation", "mean", "head whose ablation hurts fine-tuned most: {place}, {value} nats a token"),
        ("patching", "share", "head whose base output costs most of the gain: {place}, share {value}"),
    ):
        if test in info:
            table = info[test]["mean"]["fine_tuned"] if test == "ablation" else info[test]["noising"]
            values = np.asarray(table["heads"][key])
            place = np.unravel_index(np.argmax(values), values.shape)
            interval = {end: table["heads"][end][place] for end in ("low", "high")}
            lines.append(text.format(place="{}.{}".format(*place), value=_quoted(values[place], interval)))
    for found in info.get("moved_and_matters", {}).get("correlations", []):
        if (found["moved"], found["matters"]) == ("kl", "noising"):
            lines.append(f"rank correlation of KL with the gain lost by patching: {_quoted(found['value'], found)}")
    if "circuit" in info:
        circuit = info["circuit"]
        recovered, most = (_quoted(circuit[which]["share"], circuit[which]) for which in ("greedy", "all_heads"))
        lines.append(f"{circuit['size']} of {circuit['of']} heads recover {recovered} of the gain, all heads {most}")
    return lines
