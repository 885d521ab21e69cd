"""Two runs side by side: their scores, how far each head moved in the one and in the other, and the layers."""

import numpy as np
from scipy.stats import spearmanr

from summlens.figures.kit.marks import BAND_RESAMPLES, line
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData, change, interval
from summlens.figures.kit.style import ACCENT, CATEGORIES, GRID, MUTED
from summlens.figures.scores import is_quality, label, main_score, score_names, systems, title
from summlens.names import HEAD, reading_order

COLORS = {"A": ACCENT, "B": CATEGORIES[1]}
LAYER_METRICS = ("kl", "normalized_entropy", "copy_score")
CKA = "CKA with base"


def scores(a: RunData, b: RunData) -> Picture:
    """Quality scores of every system in both runs, and the paired difference of the fine-tuned models' main score."""
    tables = {"A": systems(a), "B": systems(b)}
    names = [s for s in score_names(tables["A"]) if is_quality(s) and s in score_names(tables["B"])][:5]
    if not names:
        raise Missing("the two evaluations have no quality score in common")
    shown = [name for name in reading_order({**tables["A"], **tables["B"]}) if name != "reference"]
    figure = new_figure(9.2, 0.42 * len(shown) + 1.2)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, names, strict=True):
        for run, shift in (("A", -0.15), ("B", 0.15)):
            for place, system in enumerate(shown):
                value = tables[run].get(system, {}).get(score)
                if value is not None:
                    axes.hlines(place + shift, value.low, value.high, color=COLORS[run], linewidth=2, alpha=0.45)
                    axes.plot(value.mean, place + shift, "o", color=COLORS[run], markersize=4.5)
        name, unit = title(score)
        axes.set(title=name, xlabel=unit, ylim=(len(shown) - 0.5, -0.5))
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(shown)), [label(a if system in tables["A"] else b, system) for system in shown])
    _legend(figure)
    return Picture(
        "compare_scores",
        "Scores of both runs",
        _paired(a, b),
        f"Means and 95 % intervals over each run's own test articles (n = {_articles(a)} and {_articles(b)}).",
        "Intervals over articles do not cover another training seed.",
        figure=figure,
    )


def _articles(data: RunData) -> int | str:
    return (data.evaluation or {}).get("articles", "?")


def _paired(a: RunData, b: RunData) -> str:
    """B minus A of the fine-tuned models over the test articles that both runs have."""
    score = main_score(a)
    ours, theirs = (
        {row.get("id"): row.get("scores", {}).get("fine_tuned", {}).get(score) for row in data.predictions}
        for data in (a, b)
    )
    shared = [i for i in ours if ours[i] is not None and theirs.get(i) is not None]
    name, _ = title(score)
    if not shared:
        return f"The runs share no test article, so that no paired difference in {name} can be given."
    mean, low, high = interval(np.array([theirs[i] - ours[i] for i in shared], dtype=float))
    verdict = "B is better" if low > 0 else "A is better" if high < 0 else "no difference is shown"
    return (
        f"Fine-tuned, {name} of B minus A is {mean:+.1f} [{low:+.1f}, {high:+.1f}] points over the n = {len(shared)} "
        f"test articles that both have: {verdict}."
    )


def heads(a: RunData, b: RunData) -> Picture:
    """KL divergence from its own base, head by head, in A and in B."""
    changes = {}
    for name, data in (("A", a), ("B", b)):
        data.needs_training()
        changes[name] = change(data, HEAD["kl"].array())
    x, y = changes["A"], changes["B"]
    if x.change.shape != y.change.shape:
        raise Missing(f"A has {_shape(x)}, B {_shape(y)}: their heads are not the same heads")
    known = np.isfinite(x.change) & np.isfinite(y.change)
    figure = new_figure(5.6, 5.0)
    axes = figure.subplots()
    largest = 1.08 * max(np.max(x.high[known], initial=1e-9), np.max(y.high[known], initial=1e-9))
    axes.plot([0, largest], [0, largest], color=GRID, linewidth=1.2, zorder=1)
    if known.sum() <= 400:  # bars of more heads would hide the points
        bars = {"xerr": _bars(x, known), "yerr": _bars(y, known)}
        axes.errorbar(x.change[known], y.change[known], **bars, fmt="none", ecolor=MUTED, alpha=0.35, linewidth=1)
    axes.scatter(x.change[known], y.change[known], s=18, color=ACCENT, zorder=3)
    together = np.where(known, x.change + y.change, -1)
    for index in np.argsort(-together, axis=None, kind="stable")[: min(6, known.sum())]:
        place = np.unravel_index(index, together.shape)
        where = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(f"{place[0]}.{place[1]}", (x.change[place], y.change[place]), **where)
    axes.set(xlim=(0, largest), ylim=(0, largest), xlabel="A: KL divergence (bits)", ylabel="B: KL divergence (bits)")
    axes.set_aspect("equal")
    if known.sum() > 2 and np.ptp(x.change[known]) > 0 and np.ptp(y.change[known]) > 0:
        rank = float(spearmanr(x.change[known], y.change[known]).statistic)
        finding = f"The order of the {known.sum()} heads by how far they moved agrees with a Spearman correlation of "
        finding += f"{rank:.2f} between A and B."
    else:
        finding = "Too few heads moved in both runs for a rank correlation."
    return Picture(
        "compare_heads",
        "How far each head moved in both runs",
        finding,
        "One point a head, named layer.head where it moved most; bars are 95 % intervals over each run's probe "
        f"articles (n = {a.articles} and {b.articles}), the line is equality.",
        "Each run is compared with its own base model on its own probe articles.",
        figure=figure,
    )


def _shape(result) -> str:
    layers, count = result.change.shape
    return f"{layers} layers of {count} heads"


def _bars(result, known: np.ndarray) -> np.ndarray:
    return np.maximum(0, np.stack([result.change - result.low, result.high - result.change])[:, known])


def layers(a: RunData, b: RunData) -> Picture:
    """Attention metrics' change and similarity to base, by layer, with bands, in both runs."""
    for data in (a, b):
        data.needs_training()
    bands, units = {}, {}  # by the panel's title: {run: (mean, low, high)}
    for key in LAYER_METRICS:
        metric = HEAD[key]
        found = {}
        for name, data in (("A", a), ("B", b)):
            series = data.layers.get(metric.array())
            if series is not None:
                found[name] = interval(series[-1].astype(float) - series[0], BAND_RESAMPLES)
        if len(found) == 2:
            bands[metric.title] = found
            units[metric.title] = metric.unit if metric.divergence else f"change ({metric.unit})"
    same = {name: data.latent_arrays.get("cka/same_layer") for name, data in (("A", a), ("B", b))}
    if all(value is not None for value in same.values()):
        bands[CKA], units[CKA] = same, "about 0 to 1"
    if not bands:
        raise Missing("the two runs have no measure by layer in common")
    figure = new_figure(9.2, 2.9)
    panels = figure.subplots(1, len(bands), squeeze=False)[0]
    for axes, (name, found) in zip(panels, bands.items(), strict=True):
        for run, (mean, low, high) in found.items():
            line(axes, range(len(mean)), mean, COLORS[run], run, (low, high))
        axes.set_title(name, fontsize=8.5)
        axes.set(xlabel="layer (0: embeddings)" if name == CKA else "layer", ylabel=units[name])
    panels[0].legend()
    kl = bands.get(HEAD["kl"].title)
    finding = "No divergence from base was captured in both runs."
    if kl is not None:
        most = {name: int(np.nanargmax(np.nan_to_num(mean, nan=-1))) for name, (mean, _, _) in kl.items()}
        finding = (
            f"Attention moved most in layer {most['A']} of A ({kl['A'][0][most['A']]:.3f} bits) and in layer "
            f"{most['B']} of B ({kl['B'][0][most['B']]:.3f} bits)."
        )
    return Picture(
        "compare_layers",
        "Layers in both runs",
        finding,
        "Means over the heads of a layer and the probe articles, last capture against first; bands are 95 % intervals "
        "over articles.",
        "Bands do not cover another training seed.",
        figure=figure,
    )


def _legend(figure) -> None:
    handles = [figure.axes[0].plot([], [], "o-", color=color, markersize=4.5)[0] for color in COLORS.values()]
    figure.legend(handles, [f"run {name}" for name in COLORS], loc="outside upper right", ncols=2)


DRAWN = (scores, heads, layers)
