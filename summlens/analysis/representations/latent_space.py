"""What fine-tuning did to the representations: models or a run's saved vectors in, latent_space.json and .npz out.

A representation is the mean residual stream over an article's summary positions, (A, L + 1, D): layer index 0 is the
embeddings, index l the output of block l. With A articles, S whole captures and P projected points, the arrays are:

rsa/base_fine_tuned, cka/base_fine_tuned      (L + 1, L + 1) base's layers in rows, fine-tuned's in columns
rsa/same_layer, cka/same_layer                (3, L + 1) value, low, high of layer l against layer l
rsa/steps, cka/steps                          (S, L + 1) each of those steps against step 0; .../low and .../high alike
steps                                         (S,) the steps of the whole captures
layer_distance/base, .../fine_tuned           (A, L) 1 - cosine between a layer's vector and the next layer's
divergence/cosine                             (A, L + 1) 1 - cosine between base's and fine-tuned's vector
projection/<pca2|pca3|tsne2|umap2|umap3>      (P, 2 or 3) one fit for base, fine-tuned and all steps together
projection/step, .../layer, .../article       (P,) which article, at which layer of which step (0 = base) a point is
trajectory/<pca2|...>, .../step, .../layer    (Q, 2 or 3), (Q,) the mean over all articles, placed by the same fit
clusters/kmeans, clusters/hdbscan             (P,) labels; -1 for HDBSCAN's noise
logit_lens/<base|fine_tuned>/<loss|rank>      (A, L + 1) means over summary positions: nats; 1 = largest logit
noise_floor/<number>/<sampling|numerical|seed|p|flag>
                                              (L + 1,), (L,) for layer_distance: the change where nothing of interest
                                              changed, and whether this one is beyond it (`layer_noise`);
                                              <number> is rsa, cka (1 - similarity), divergence/cosine,
                                              layer_distance, logit_lens/loss or logit_lens/rank

The JSON's `noise_floor` has {floors: {sampling|numerical|seed: what it compares}, layers: {number: {flag, flagged, of,
median: {change, sampling, numerical, seed}}}}, for the numbers that could be tested.
What the data or the models do not allow is left out, with its reason under `left_out` in the JSON.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import adjusted_rand_score

from summlens import names
from summlens.analysis.material import Material
from summlens.analysis.noise.floors import Floor
from summlens.analysis.representations import layer_floors, layer_noise
from summlens.analysis.representations.layer_noise import FEWEST_FOR_SIMILARITY
from summlens.analysis.representations.represent import Representation, ends, represent_pair, saved_vectors
from summlens.core.config import ANOTHER_SEED
from summlens.core.errors import UserError
from summlens.core.words import quoted
from summlens.metrics import projection, representation
from summlens.stats import intervals
from summlens.stats.intervals import RESAMPLES, bootstrap_interval

log = logging.getLogger(__name__)
MOST_LAYERS, MOST_STEPS, MOST_ARTICLES = 5, 8, 24  # in the projection: t-SNE and UMAP then take seconds on one core
_SAME_MODEL = 0.05  # relative difference that half precision explains


def of_material(material: Material) -> tuple[dict, dict[str, np.ndarray]]:
    """`analyze` of the material's two models, or, without models, of the first and the last saved vectors."""
    # The captured steps lead from the run's base to its fine-tuned model: with other models they have no part.
    steps = saved_vectors(material.run, len(material.examples)) if material.own else {}
    run = material.run if steps else None
    if material.base is None:
        pair = ("step 0 (saved vectors)", "last step (saved vectors)")
        base, fine_tuned = ends(steps)
    else:
        pair = (material.base, material.fine_tuned)
        base, fine_tuned = represent_pair(
            *pair, material.examples, material.tokens_of, any_shape=material.causal == "off", load=material.models
        )
    floors = layer_floors.measure(base, fine_tuned, material.examples, material.base, run, material.models)
    info, arrays = analyze(base, fine_tuned, steps, material.standardized, material.seed, floors=floors)
    return {"base": pair[0], "fine_tuned": pair[1], **info}, arrays


def analyze(
    base: Representation,
    fine_tuned: Representation,
    steps: Mapping[int, np.ndarray],
    standardized: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
    floors: Mapping[str, Floor[Representation]] | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """All of latent_space.json and .npz (module docstring).

    Args:
        base, fine_tuned: the same A articles in the same order; depth may differ, width may not.
        steps: captured step -> vectors (A, L + 1, D), of the run that leads from base to fine-tuned; may be empty.
        standardized: features at mean 0 and standard deviation 1 before RSA, CKA, divergence and projection.
        seed: of the bootstrap, the halves, the projections and the clusters.
        floors: `numerical` and `seed`, as `layer_floors` measures them: of the same articles and shape.

    Raises:
        UserError: models of different width, or steps of another shape than the models.
    """
    if base.vectors.shape[-1] != fine_tuned.vectors.shape[-1]:
        raise UserError(
            f"base has width {base.vectors.shape[-1]}, fine-tuned {fine_tuned.vectors.shape[-1]}: "
            "only models of the same width share a space"
        )
    for step, vectors in steps.items():
        if vectors.shape != base.vectors.shape:
            raise UserError(
                f"step {step} holds vectors of shape {vectors.shape}, base of {base.vectors.shape}: "
                "they are not of one run"
            )
    analysis = _Analysis(base, fine_tuned, steps, standardized, seed, resamples)
    analysis.compare_layers()
    analysis.compare_steps()
    analysis.measure_distances()
    analysis.locate_divergence()
    analysis.project()
    analysis.read_lens()
    analysis.noise_floor(floors or {})
    return analysis.info, analysis.arrays


class _Analysis:
    """Collects `info` and `arrays`, a method for each part of the analysis."""

    def __init__(self, base, fine_tuned, steps, standardized, seed, resamples):
        self.base, self.fine_tuned, self.steps = base, fine_tuned, dict(sorted(steps.items()))
        self.standardized, self.seed, self.resamples = standardized, seed, resamples
        self.few = len(base.vectors) < FEWEST_FOR_SIMILARITY
        self.same_depth = base.vectors.shape == fine_tuned.vectors.shape
        self.arrays: dict[str, np.ndarray] = {}
        self.left_out: dict[str, str] = {}
        self.info = {
            "metrics": {
                number.key: {"name": number.title, "unit": number.unit, **({"of": number.of} if number.of else {})}
                for number in names.LAYER_NUMBERS
            },
            "vectors": "residual stream, mean over summary positions; layer 0 = embeddings, l = output of block l",
            "features": "standardised over the articles, layer by layer" if standardized else "raw",
            "interval": {
                "kind": "percentile bootstrap over probe articles; it does not cover training seeds",
                "confidence": 0.95,
                "resamples": resamples,
                "duplicates": "pairs (RSA) and quadruples (CKA) of an article with its own copy are left out",
            },
            "seed": seed,
            "articles": len(base.vectors),
            "layers": {"base": base.vectors.shape[1], "fine_tuned": fine_tuned.vectors.shape[1]},
            "width": base.vectors.shape[2],
            "steps": list(self.steps),
            "left_out": self.left_out,
        }

    def compare_layers(self) -> None:
        """RSA and CKA of base and fine-tuned: all pairs of layers, and the same layer with its interval."""
        if self.few:
            self._leave_out(("rsa", "cka"), self._too_few())
            return
        x, y = self._by_layer(self.base.vectors), self._by_layer(self.fine_tuned.vectors)
        self.arrays["rsa/base_fine_tuned"] = representation.rsa_matrix(x, y)
        self.arrays["cka/base_fine_tuned"] = representation.cka_matrix(x, y)
        if not self.same_depth:
            self._leave_out(("rsa/same_layer", "cka/same_layer"), "the models differ in depth")
            return
        for name, interval in (("rsa", representation.rsa_interval), ("cka", representation.cka_interval)):
            self.arrays[f"{name}/same_layer"] = np.stack(interval(x, y, self.resamples, seed=self.seed))
            self.info[name] = {"same_layer": _named(*self.arrays[f"{name}/same_layer"])}

    def compare_steps(self) -> None:
        """RSA and CKA of every captured step against step 0, layer by layer."""
        names = ("rsa/steps", "cka/steps")
        if 0 not in self.steps:
            self._leave_out(names, "no captured step 0 belongs to these models")
            return
        self.arrays["steps"] = np.array(list(self.steps))
        ends = {"base": (self.base, 0), "fine_tuned": (self.fine_tuned, max(self.steps))}
        self.info["difference_from_captured"] = {
            "definition": "relative L2 difference of a model's vectors from those captured at step 0 and the last step",
            **{name: _relative(side.vectors, self.steps[step]) for name, (side, step) in ends.items()},
        }
        if self.few:
            self._leave_out(names, self._too_few())
            return
        start = self._by_layer(self.steps[0])
        later = np.stack([self._by_layer(vectors) for vectors in self.steps.values()])
        for name, interval in zip(names, (representation.rsa_interval, representation.cka_interval), strict=True):
            value, low, high = interval(start, later, self.resamples, seed=self.seed)
            self.arrays |= {name: value, f"{name}/low": low, f"{name}/high": high}

    def measure_distances(self) -> None:
        """How far each block moves an article's vector, in the residual stream itself."""
        self.info["layer_distance"] = {}
        for name, vectors in (("base", self.base.vectors), ("fine_tuned", self.fine_tuned.vectors)):
            distance = _layer_distance(vectors)
            self.arrays[f"layer_distance/{name}"] = distance
            self.info["layer_distance"][name] = self._mean(distance)

    def locate_divergence(self) -> None:
        """Where in depth fine-tuned leaves base, article by article."""
        if not self.same_depth:
            self._leave_out(("divergence",), "the models differ in depth")
            return
        if self.few:
            self._leave_out(("divergence",), self._too_few())
            return
        articles = len(self.base.vectors)
        divergence = self._divergence(self.base, self.fine_tuned)
        self.arrays["divergence/cosine"] = divergence
        draws = intervals.bootstrap_counts(articles, self.resamples, self.seed) @ divergence / articles
        self.info["divergence"] = {
            **self._mean(divergence),
            "onset": {
                "definition": "first layer whose mean divergence is at least half of the largest",
                **_layer_interval(_onset, divergence.mean(axis=0), draws),
            },
            "peak": {
                "definition": "layer of the largest mean divergence",
                **_layer_interval(_peak, divergence.mean(axis=0), draws),
            },
        }

    def project(self) -> None:
        """One joint projection of base, fine-tuned and all steps (thinned evenly), and clusters of its points."""
        last = max(self.steps, default=0) or 1  # without steps, 0 and 1 stand for base and fine-tuned
        states = {**self.steps, 0: self.base.vectors, last: self.fine_tuned.vectors}
        labels = sorted(states)
        labels = [labels[i] for i in _evenly(len(labels), MOST_STEPS)]
        articles = _evenly(len(self.base.vectors), MOST_ARTICLES)
        points, origin = [], []
        for step in labels:
            for layer in _evenly(states[step].shape[1], MOST_LAYERS):
                vectors = states[step][:, layer]
                points += [*vectors[articles], vectors.mean(axis=0)]
                origin += [(step, layer, article) for article in (*articles, -1)]
        points, origin = np.array(points, dtype=np.float64), np.array(origin)
        if self.standardized:
            points = representation.standardize(points)
        single = origin[:, 2] >= 0
        if len(np.unique(points[single], axis=0)) < projection.FEWEST_POINTS or points.shape[1] < 3:
            few = f"fewer than {projection.FEWEST_POINTS} different points, or fewer than 3 dimensions"
            self._leave_out(("projection", "clusters"), few)
            return
        log.info("projecting %d points by PCA, t-SNE and UMAP", len(points))
        coordinates, settings = projection.project(points, self.seed)
        found, summary = projection.cluster(points[single], self.seed)
        for column, name in enumerate(("step", "layer", "article")):
            coordinates[name] = origin[:, column]
        for name, values in coordinates.items():
            self.arrays[f"projection/{name}"] = values[single]
            if name != "article":
                self.arrays[f"trajectory/{name}"] = values[~single]
        for name, members in found.items():
            self.arrays[f"clusters/{name}"] = members
            summary[name]["adjusted_rand_index"] = {
                label: float(adjusted_rand_score(origin[single, column], members))
                for column, label in enumerate(("step", "layer", "article"))
            }
        self.info["projection"] = {
            "points": int(single.sum()),
            "steps": labels,
            "base_step": 0,
            "fine_tuned_step": last,
            "features": "standardised over all points" if self.standardized else "raw",
            "warning": "illustration: distances between far points in t-SNE and UMAP have no meaning",
            **settings,
        }
        self.info["clusters"] = {"space": f"{settings['principal_components']} principal components", **summary}

    def read_lens(self) -> None:
        self.info["logit_lens"] = {}
        for name, side in (("base", self.base), ("fine_tuned", self.fine_tuned)):
            if side.loss is None:
                self._leave_out((f"logit_lens/{name}",), side.no_lens)
                continue
            self.arrays |= {f"logit_lens/{name}/loss": side.loss, f"logit_lens/{name}/rank": side.rank}
            self.info["logit_lens"][name] = {"loss": self._mean(side.loss), "rank": self._mean(side.rank)}

    def noise_floor(self, floors: Mapping[str, Floor[Representation]]) -> None:
        """Which layers changed more than where nothing of interest changed."""
        if not self.same_depth or self.few:
            self._leave_out(("noise_floor",), self._too_few() if self.few else "the models differ in depth")
            return
        before, after = self._numbers(self.base, self.base), self._numbers(self.fine_tuned, self.base)
        measured = {
            key: replace(
                floor,
                pairs=[(self._numbers(one, other), self._numbers(other, one)) for one, other in floor.pairs],
                start=self._numbers(floor.start, floor.start),
                ends=[self._numbers(end, floor.start) for end in floor.ends],
            )
            for key, floor in floors.items()
        }
        pairs = {name: (before[name], after[name]) for name in before if name in after}
        found, arrays = layer_noise.above_noise(pairs, measured, self.seed, self.resamples)
        self.info["noise_floor"] = found
        self.arrays |= arrays
        if len(self.base.vectors) < 2 * FEWEST_FOR_SIMILARITY:
            needed = 2 * FEWEST_FOR_SIMILARITY
            few = f"{len(self.base.vectors)} probe articles: at least {needed} are needed, for two halves"
            self._leave_out(("noise_floor/sampling of RSA and CKA",), few)
        if "numerical" not in floors:
            self._leave_out(("noise_floor/numerical",), "needs the models: the saved vectors are base's as it is")
        if "seed" not in floors:
            none = f"there is no fine-tune of another seed: {ANOTHER_SEED} makes one"
            self._leave_out(("noise_floor/seed",), none if self.steps else "no captured steps belong to these models")
        elif "logit_lens/loss" in pairs and "noise_floor/logit_lens/loss/seed" not in arrays:
            self._leave_out(("noise_floor/seed of the logit lens",), "another seed's model is not there")

    def _numbers(self, one: Representation, against: Representation) -> dict[str, np.ndarray]:
        """What is compared, of one model; the divergence is that from another."""
        numbers = {
            "vectors": self._by_layer(one.vectors),
            "divergence/cosine": self._divergence(against, one),
            "layer_distance": _layer_distance(one.vectors),
        }
        return numbers if one.loss is None else {**numbers, "logit_lens/loss": one.loss, "logit_lens/rank": one.rank}

    def _divergence(self, one: Representation, other: Representation) -> np.ndarray:
        """(A, L + 1) 1 - cosine, standardised together: a shift that all articles share must show."""
        articles = len(one.vectors)
        both = self._by_layer(np.concatenate([one.vectors, other.vectors]))
        return representation.cosine_distance(both[:, :articles], both[:, articles:]).T

    def _by_layer(self, vectors: np.ndarray) -> np.ndarray:
        """(A, L + 1, D) -> (L + 1, A, D), standardised where asked for."""
        vectors = np.asarray(vectors, dtype=np.float64).swapaxes(0, 1)
        return representation.standardize(vectors) if self.standardized else vectors

    def _mean(self, values: np.ndarray) -> dict:
        return _named(*bootstrap_interval(values, self.resamples, seed=self.seed), key="mean")

    def _leave_out(self, names: Sequence[str], reason: str) -> None:
        self.left_out |= dict.fromkeys(names, reason)

    def _too_few(self) -> str:
        return f"{len(self.base.vectors)} probe articles: at least {FEWEST_FOR_SIMILARITY} are needed"


def headlines(info: Mapping) -> list[str]:
    """The numbers to read first, a line each, from what `analyze` returned as info."""
    lines = []
    same = info.get("cka", {}).get("same_layer", {"value": [np.nan]})
    if np.isfinite(same["value"]).any():
        layer = int(np.nanargmin(same["value"]))
        interval = quoted(same["value"][layer], same["low"][layer], same["high"][layer])
        lines.append(f"least similar layer of base and fine-tuned: {layer}, debiased CKA {interval}")
    if "divergence" in info and info["divergence"]["onset"]["layer"] is not None:
        onset = info["divergence"]["onset"]
        span = f"layer {onset['layer']} [{onset['low']}, {onset['high']}] of {info['layers']['base'] - 1}"
        lines.append(f"divergence reaches half of its largest value at {span}")
    tested = {name: row for name, row in info.get("noise_floor", {}).get("layers", {}).items() if row["of"]}
    if tested:
        counts = ", ".join(f"{names.LAYER[name].title} {row['flagged']} of {row['of']}" for name, row in tested.items())
        lines.append(f"layers that changed beyond every noise floor: {counts}")
    for name, label in (("base", "base"), ("fine_tuned", "fine-tuned")):
        if name in info["logit_lens"]:
            loss = info["logit_lens"][name]["loss"]
            interval = quoted(loss["mean"][-1], loss["low"][-1], loss["high"][-1])
            lines.append(f"loss on the reference summary, {label}: {interval} nats a token")
    captured = info.get("difference_from_captured", {})
    if max(captured.get("base", 0), captured.get("fine_tuned", 0)) > _SAME_MODEL:
        lines.append("note: the models are not those of the captured steps (difference_from_captured in the JSON)")
    return lines


def _layer_distance(vectors: np.ndarray) -> np.ndarray:
    return representation.cosine_distance(vectors[:, :-1], vectors[:, 1:])


def _relative(new: np.ndarray, old: np.ndarray) -> float:
    return float(np.linalg.norm(np.subtract(new, old, dtype=np.float64)) / np.linalg.norm(old))


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0..count - 1, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _onset(means: np.ndarray) -> np.ndarray:
    return (means >= means.max(axis=-1, keepdims=True) / 2).argmax(axis=-1)


def _peak(means: np.ndarray) -> np.ndarray:
    return means.argmax(axis=-1)


def _layer_interval(choose, means: np.ndarray, draws: np.ndarray) -> dict:
    """The layer that `choose` picks from means (L + 1,), and the central 95 % of its picks from draws (B, L + 1)."""
    if not (means > 0).any():
        return {"layer": None, "low": None, "high": None}  # nothing diverges
    low, high = np.quantile(choose(draws), [0.025, 0.975], method="nearest")
    return {"layer": int(choose(means)), "low": int(low), "high": int(high)}


def _named(value, low, high, key="value") -> dict:
    return {key: value.tolist(), "low": low.tolist(), "high": high.tolist()}
