"""Attention heads: layer x head heatmaps at both ends of the run, and how they got there."""

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Normalize

from summlens.figures.kit.grid import cells, cells_over, grids, rows_of
from summlens.figures.kit.marks import ARTICLES_ONLY, colour_bar, heatmap_height
from summlens.figures.kit.picture import Picture, chosen_frames, gif, new_figure, settle
from summlens.figures.kit.rundata import Change, Missing, RunData, change, interval
from summlens.figures.kit.style import (
    ACCENT,
    DIVERGING,
    INK,
    diverging_norm,
    plotly_scale,
    plotly_template,
    sequential_map,
    sequential_norm,
)
from summlens.names import HEAD, HEAD_METRICS, PROJECTIONS, HeadMetric, head_weights

NOTHING_MOVED = "At the last step no head's attention is known to differ from the base model's."


def heatmap(data: RunData, key: str) -> Picture:
    """Base, fine-tuned and change of one metric over layers and heads, with the variant without the sink beside it
    where a verdict differs in some head (for a divergence: always)."""
    metric = HEAD[key]
    data.needs_training()
    plain = change(data, metric.array())
    bare = _optional_change(data, metric.array(no_sink=True) if metric.no_sink else None)
    differs = np.zeros(plain.change.shape, bool) if bare is None else plain.verdict != bare.verdict
    rows = [("as defined", plain)]
    if bare is not None and (metric.divergence or differs.any()):
        rows.append(("first token removed", bare))
    figure = _draw_divergence(metric, rows) if metric.divergence else _draw_change(metric, rows, differs)
    return Picture(
        f"heads_{metric.key}",
        metric.title,
        _finding(metric, plain, data),
        _reading(metric, plain, len(rows) > 1, differs, data),
        f"{ARTICLES_ONLY} {_multiplicity(metric, plain)}".strip(),
        figure=figure,
    )


def _optional_change(data: RunData, key: str | None) -> Change | None:
    try:
        return change(data, key) if key else None
    except Missing:
        return None


def _finding(metric: HeadMetric, result: Change, data: RunData) -> str:
    if not np.isfinite(result.change).any():
        return f"{metric.title} could not be measured in any head."
    known = np.isfinite(result.change).sum()
    # The head to name is the one that changed most among those whose change is more than its interval.
    size = np.abs(result.change)
    sure = size if metric.divergence or not result.verdict.any() else np.where(result.verdict != 0, size, np.nan)
    layer, head = np.unravel_index(np.nanargmax(sure), sure.shape)
    value = (
        f"{result.change[layer, head]:{'' if metric.divergence else '+'}.{metric.digits}f} "
        f"[{result.low[layer, head]:.{metric.digits}f}, {result.high[layer, head]:.{metric.digits}f}]{metric.suffix}"
    )
    if metric.divergence:
        if np.nanmax(np.abs(result.change)) < 1e-6:
            return f"No head's attention differs from the base model's: every {metric.title} is zero."
        median = np.nanmedian(result.change)
        return (
            f"Head {layer}.{head} moved most: {value}; the median head moved {median:.{metric.digits}f}{metric.suffix}."
        )
    rose, fell = (result.verdict > 0).sum(), (result.verdict < 0).sum()
    if not rose + fell:
        return (
            f"No head's {metric.prose} changed beyond its 95 % interval ({known} {'head' if known == 1 else 'heads'})."
        )
    return (
        f"{metric.title} rose in {rose} and fell in {fell} of {known} heads beyond the 95 % interval; "
        f"head {layer}.{head} changed most, by {value}."
    )


def _reading(metric: HeadMetric, result: Change, two_rows: bool, differs: np.ndarray, data: RunData) -> str:
    text = (
        f"One cell a head: {metric.meaning} ({metric.unit}), mean over the summary positions of n = {data.articles} "
        f"probe articles at step {data.steps[0]} (base) and step {data.steps[-1]} (fine-tuned). "
    )
    if metric.divergence:
        text += (
            "Both panels share one scale; on the right the first token's share is removed and the rest renormalised."
        )
        if result.above_noise is not None:
            text += (
                " Grey: not above the noise floor, the divergence between models that differ in nothing of interest."
            )
    else:
        text += "Grey in the change: not beyond its paired 95 % interval"
        if result.above_noise is not None:
            text += ", or not above the noise floor"
        text += "."
        if two_rows:
            ringed = int(differs.sum())
            text += " Second row: the same without the first token; the "
            text += f"{ringed} ringed heads get" if ringed > 1 else "ringed head gets"
            text += " another verdict there."
    if not np.isfinite(result.change).all():
        text += " A cross marks a head without a value."
    return text


def _multiplicity(metric: HeadMetric, result: Change) -> str:
    if metric.divergence:
        return "A divergence is never negative, so any training at all raises it: read it beside a control."
    expected = 0.05 * np.isfinite(result.change).sum()
    return f"About {expected:.0f} of these heads would leave their interval by chance."


def _draw_divergence(metric: HeadMetric, rows: list) -> object:
    values = [result.fine_tuned for _, result in rows]
    figure = new_figure(8.0 if len(rows) > 1 else 4.6, heatmap_height(len(values[0]), 1) + 0.5)
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    norm = Normalize(0, max(sequential_norm(*values).vmax, 1e-9))
    for axes, (label, result) in zip(panels, rows, strict=True):
        mesh = cells(axes, result.fine_tuned, cmap=sequential_map(), norm=norm)
        axes.set(title=label[0].upper() + label[1:], xlabel="head")
        if result.above_noise is not None and not result.above_noise.all():
            cells_over(axes, np.where(result.above_noise, np.nan, 1.0))
    rows_of(panels)
    colour_bar(figure, mesh, panels, f"{metric.key.upper()} ({metric.unit})")
    return figure


def _draw_change(metric: HeadMetric, rows: list, differs: np.ndarray) -> object:
    layers, _ = rows[0][1].change.shape
    figure = new_figure(9.2, heatmap_height(layers, len(rows)) + 0.4)
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for panels, (label, result) in zip(grid, rows, strict=True):
        norm = sequential_norm(result.base, result.fine_tuned)
        for axes, values, title in zip(panels, (result.base, result.fine_tuned), ("Base", "Fine-tuned"), strict=False):
            mesh = cells(axes, values, cmap=sequential_map(), norm=norm)
            axes.set_title(title if len(rows) == 1 else f"{title}, {label}")
        colour_bar(figure, mesh, panels[:2], metric.unit)
        mesh = cells(panels[2], result.change, cmap=DIVERGING, norm=diverging_norm(result.change))
        panels[2].set_title("Change")
        uncertain = np.where(result.uncertain, 1.0, np.nan)
        if np.isfinite(uncertain).any():
            cells_over(panels[2], uncertain)
        colour_bar(figure, mesh, panels[2], f"change ({metric.unit})")
        if len(rows) > 1:
            y, x = np.nonzero(differs)
            panels[2].scatter(x, y, s=16, facecolors="none", edgecolors=INK, linewidths=0.9)
        rows_of(panels)
    for axes in grid[-1]:
        axes.set_xlabel("head")
    return figure


def _evolution(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """(S, L, H) KL from base, and change of normalized entropy since the first capture."""
    data.needs_training()
    kl, entropy = (data.heads.get(HEAD[key].array()) for key in ("kl", "normalized_entropy"))
    if kl is None or entropy is None:
        raise Missing("attention KL or normalized entropy was not captured")
    return kl, entropy - entropy[0]


def evolution(data: RunData) -> Picture:
    """The two heatmaps as a GIF over the steps, colour scales fixed for the whole run."""
    kl, entropy = _evolution(data)
    layers, heads = data.shape
    chosen = chosen_frames(len(data.steps))
    figure = new_figure(7.6, heatmap_height(layers, 1) + 0.9)
    left, right = figure.subplots(1, 2)
    mesh_kl = cells(left, kl[-1], cmap=sequential_map(), norm=Normalize(0, max(sequential_norm(kl).vmax, 1e-9)))
    mesh_entropy = cells(right, entropy[-1], cmap=DIVERGING, norm=diverging_norm(entropy))
    rows_of([left, right])
    left.set(title="KL divergence from base", xlabel="head")
    right.set(title="Change in normalized entropy", xlabel="head")
    colour_bar(figure, mesh_kl, left, "bits")
    colour_bar(figure, mesh_entropy, right, "change (0 to 1)")
    counter = figure.suptitle(f"step {data.steps[-1]:>6}", x=0.02, ha="left", fontsize=10, color=ACCENT)
    frames = _frames(figure, [mesh_kl, mesh_entropy], [kl, entropy], counter, data.steps, chosen)
    skipped = "" if len(chosen) == len(data.steps) else f" ({len(chosen)} of {len(data.steps)} captures)"
    layer, head = _most(kl[-1])
    half = _half_way(kl[:, layer, head], data.steps)
    moved = np.nan_to_num(kl[-1, layer, head]) > 0
    return Picture(
        "heads_evolution",
        "How the heads changed while training",
        f"Head {layer}.{head}, which ends furthest from base, had covered half of its way by step {half}."
        if moved
        else NOTHING_MOVED,
        f"Each frame is a capture{skipped}; colour scales are fixed, so that frames compare. Mean over the summary "
        f"positions of n = {data.articles} probe articles.",
        "Means without intervals: the heatmaps below carry them.",
        animation=gif(frames, max(80, min(500, 8000 // len(chosen))), [mesh_kl.cmap, mesh_entropy.cmap]),
        grids=grids(figure, still=False),
    )


def _most(values: np.ndarray) -> tuple[int, int]:
    filled = np.where(np.isfinite(values), values, -np.inf)
    layer, head = np.unravel_index(np.argmax(filled), values.shape)
    return int(layer), int(head)


def _half_way(values: np.ndarray, steps: list[int]) -> int:
    return steps[int(np.argmax(np.nan_to_num(values) >= 0.5 * np.nan_to_num(values[-1])))]


def _frames(figure, meshes, series, counter, steps, chosen) -> list[np.ndarray]:
    """RGB frames. Axes, labels and colour bars are drawn once; each frame repaints only the cells and the counter."""
    changing = [*meshes, counter]
    for artist in changing:
        artist.set_animated(True)
    settle(figure)
    canvas = figure.canvas
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    frames = []
    for index in chosen:
        canvas.restore_region(background)
        for mesh, values in zip(meshes, series, strict=True):
            mesh.set_array(np.ma.masked_invalid(values[index]))
        counter.set_text(f"step {steps[index]:,} of {steps[-1]:,}")
        for artist in changing:
            (artist.axes or figure).draw_artist(artist)
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return frames


def slider(data: RunData) -> Picture:
    """The KL heatmap with a slider over the steps (plotly)."""
    import plotly.graph_objects as go

    kl, _ = _evolution(data)
    chosen = chosen_frames(len(data.steps))
    layers, heads = data.shape
    common = {
        "x": list(range(heads)),
        "y": list(range(layers)),
        "colorscale": plotly_scale(sequential_map()),
        "zmin": 0.0,
        "zmax": max(float(sequential_norm(kl).vmax), 1e-9),
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "head %{y}.%{x}<br>KL %{z:.4f} bits<extra></extra>",
        "colorbar": {"title": {"text": "bits"}, "thickness": 12, "outlinewidth": 0},
    }
    rounded = np.round(kl.astype(float), 5)
    names = [str(data.steps[index]) for index in chosen]
    traces = [go.Heatmap(z=_json(rounded[index]), **common) for index in chosen]
    plot = go.Figure(traces[-1], frames=[go.Frame(data=[t], name=n) for t, n in zip(traces, names, strict=True)])
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    plot.update_layout(
        template=plotly_template(),
        height=int(np.clip(30 * layers + 230, 350, 900)),
        meta={"cells": "heads"},
        xaxis={"title": "head", "dtick": 1 if heads <= 16 else 4, "showgrid": False, "zeroline": False},
        yaxis={"title": "layer", "autorange": "reversed", "dtick": 1 if layers <= 16 else 4, "showgrid": False},
        sliders=[
            {
                "active": len(names) - 1,
                "currentvalue": {"prefix": "step "},
                "pad": {"t": 56},
                "steps": [{"label": n, "method": "animate", "args": [[n], still]} for n in names],
            }
        ],
    )
    layer, head = _most(kl[-1])
    return Picture(
        "heads_slider",
        "The same, step by step",
        f"At the last step head {layer}.{head} is furthest from base: {kl[-1, layer, head]:.3f} bits."
        if np.nan_to_num(kl[-1, layer, head]) > 0
        else NOTHING_MOVED,
        f"Move the slider to a step; point at a cell for its number. KL divergence from base in bits, mean over the "
        f"summary positions of n = {data.articles} probe articles; one colour scale for all steps.",
        "Means without intervals.",
        plot=plot,
    )


def _json(values: np.ndarray) -> list:
    """Nested lists with None for NaN, as plotly draws a gap."""
    return [[None if not np.isfinite(value) else float(value) for value in row] for row in values]


@dataclass(frozen=True)
class HeadRow:
    """Everything about one head. `numbers[key]` = (base, fine-tuned, change, low, high) of each metric there is."""

    layer: int
    head: int
    numbers: dict[str, tuple[float, float, float, float, float]]
    weights: dict[str, float]  # relative change of the head's slice of q, k, v, o

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.head}"


def most_changed(data: RunData, count: int = 10) -> list[HeadRow]:
    """The heads whose attention moved most, by KL over the summary positions, with every number about them."""
    data.needs_training()
    kl = change(data, HEAD["kl"].array()).change
    order = np.argsort(-np.nan_to_num(kl, nan=-1.0), axis=None, kind="stable")[:count]
    places = [tuple(int(i) for i in np.unravel_index(index, kl.shape)) for index in order]
    numbers = {place: {} for place in places}
    for metric in HEAD_METRICS:
        for form, stored in metric.arrays().items():
            result = _optional_change(data, stored)
            if result is None or result.change.shape != kl.shape:
                continue
            table = np.stack([result.base, result.fine_tuned, result.change, result.low, result.high], -1)
            for place in places:
                numbers[place][form] = tuple(float(number) for number in table[place])
    weights = {
        matrix: data.last.arrays[head_weights(matrix, "relative")]
        for matrix in PROJECTIONS
        if head_weights(matrix, "relative") in data.last.arrays
    }
    return [
        HeadRow(*place, numbers[place], {matrix: float(values[place]) for matrix, values in weights.items()})
        for place in places
    ]


def ranking(data: RunData) -> Picture:
    """The ten heads that moved most, with their intervals."""
    data.needs_training()
    before, after = data.ends(HEAD["kl"].array())
    mean, low, high = (values.ravel() for values in interval(after.astype(np.float64) - before))
    order = np.argsort(-np.nan_to_num(mean, nan=-1.0), kind="stable")[:10]
    heads = after.shape[2]
    names = [f"{index // heads}.{index % heads}" for index in order]
    figure = new_figure(6.4, 0.28 * len(order) + 0.8)
    axes = figure.subplots()
    y = np.arange(len(order))
    axes.hlines(y, low[order], high[order], color=ACCENT, linewidth=2, alpha=0.45)
    axes.plot(mean[order], y, "o", color=ACCENT, markersize=5)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel="KL divergence from base (bits)", ylabel="head (layer.head)")
    axes.set_xlim(left=0)
    axes.set_yticks(y, names)
    axes.grid(axis="y", visible=False)
    share = np.nansum(mean[order]) / max(np.nansum(mean), 1e-12)
    return Picture(
        "heads_ranking",
        "The heads that moved most",
        f"These {len(order)} of {mean.size} heads hold {100 * share:.0f} % of all movement; head {names[0]} leads with "
        f"{mean[order[0]]:.3f} [{low[order[0]]:.3f}, {high[order[0]]:.3f}] bits.",
        f"Points are means over the summary positions of n = {data.articles} probe articles, bars 95 % intervals.",
        ARTICLES_ONLY,
        figure=figure,
    )
