"""What training did to the model's parts: weights, activations, neurons."""

import re

import numpy as np

from summlens.figures.kit.grid import cells, draw_matrix, rows_of
from summlens.figures.kit.marks import ARTICLES_ONLY, BAND_RESAMPLES, chosen_layers, colour_bar, heatmap_height, line
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData, interval, neuron_change, neuron_changes
from summlens.figures.kit.style import (
    ACCENT,
    BASE,
    CATEGORIES,
    DIVERGING,
    MUTED,
    depth_colors,
    diverging_norm,
    sequential_map,
    sequential_norm,
)
from summlens.names import NEURON_STATISTICS, PROJECTIONS, SITES, head_weights
from summlens.names import neurons as neurons_key
from summlens.stats.columns import nanmean


def weight_table(data: RunData, index: int = -1) -> tuple[list[str], np.ndarray]:
    """Names of the matrix kinds K and their (K, L) relative change at one capture; NaN where a layer has no such one.

    A kind is a matrix's name without its layer's number: transformer.h.3.mlp.c_fc and transformer.h.4.mlp.c_fc are one.
    """
    weights = data.infos[index].get("weights") if data.infos else None
    rows = [(name, w) for name, w in (weights or {}).items() if w.get("layer") is not None]
    if not rows:
        raise Missing("no weight change was captured")
    kinds = list(dict.fromkeys(_kind(name, weight["layer"]) for name, weight in rows))
    table = np.full((len(kinds), 1 + max(weight["layer"] for _, weight in rows)), np.nan)
    for name, weight in rows:
        if weight.get("relative") is not None:
            table[kinds.index(_kind(name, weight["layer"])), weight["layer"]] = weight["relative"]
    return _short(kinds), table


def _kind(name: str, layer: int) -> str:
    return re.sub(rf"(^|\.){layer}(?=\.|$)", r"\1*", name, count=1)


def _short(kinds: list[str]) -> list[str]:
    """The kinds' names from their layer's number on, without a common `.weight`."""
    return [re.sub(r"\.weight\b", "", kind.rsplit("*.", 1)[-1]) for kind in kinds]


def weight_change(data: RunData) -> Picture:
    """Relative change of every weight matrix by kind and layer, and by kind over the steps."""
    data.needs_training()
    kinds, table = weight_table(data)
    over_steps = []
    for index in range(len(data.steps)):
        try:
            names, values = weight_table(data, index)
        except Missing:
            names, values = kinds, np.full(table.shape, np.nan)
        over_steps.append(nanmean(values, 1) if names == kinds else np.full(len(kinds), np.nan))
    figure = new_figure(9.2, max(2.7, 0.26 * len(kinds) + 1.1))
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    mesh = draw_matrix(left, 100 * table, cmap=sequential_map(), norm=sequential_norm(100 * table))
    left.set(title="At the last step", xlabel="layer")
    left.set_yticks(range(len(kinds)), kinds)
    colour_bar(figure, mesh, left, "% of the matrix's norm")
    for values, name, color in zip(100 * np.array(over_steps).T, kinds, CATEGORIES * len(kinds), strict=False):
        line(right, data.steps, values, color, name)
    right.set(title="Mean over layers", xlabel="optimiser step", ylabel="% of the matrix's norm")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    finding = "No weight change is finite."
    if np.isfinite(table).any():
        kind, layer = np.unravel_index(np.nanargmax(table), table.shape)
        finding = (
            f"{kinds[kind]} of layer {layer} moved most, by {100 * table[kind, layer]:.2f} % of its norm; the median "
            f"matrix moved {100 * np.nanmedian(table):.2f} %."
        )
    return Picture(
        "weight_change",
        "Weights, by matrix",
        finding,
        "‖W − W₀‖ as a share of ‖W₀‖ (Frobenius norms), against the weights before fine-tuning.",
        "One training run: there is no interval. A large change of weights need not be a large change of behaviour.",
        figure=figure,
    )


def weight_change_heads(data: RunData) -> Picture:
    """Relative change of each head's slice of Q, K, V and the output projection."""
    data.needs_training()
    present = [part for part in PROJECTIONS if head_weights(part, "relative") in data.last.arrays]
    if not present:
        raise Missing("no weight change by head was captured")
    tables = [100 * data.last.arrays[head_weights(matrix, "relative")].astype(float) for matrix in present]
    layers, _ = tables[0].shape
    figure = new_figure(9.2, heatmap_height(layers) + 0.2)
    panels = figure.subplots(1, len(present), squeeze=False)[0]
    norm = sequential_norm(*tables)
    for axes, matrix, table in zip(panels, present, tables, strict=True):
        mesh = cells(axes, table, cmap=sequential_map(), norm=norm)
        axes.set(title=PROJECTIONS[matrix].capitalize(), xlabel="head")
    rows_of(panels)
    colour_bar(figure, mesh, panels, "% of the slice's norm")
    stacked = np.stack(tables)
    finding = "No weight change by head is finite."
    if np.isfinite(stacked).any():
        matrix, layer, head = np.unravel_index(np.nanargmax(stacked), stacked.shape)
        finding = (
            f"The {PROJECTIONS[present[matrix]]} weights of head {layer}.{head} moved most: "
            f"{stacked[matrix, layer, head]:.2f} % of their norm."
        )
    return Picture(
        "weight_change_heads",
        "Weights, by head",
        finding,
        "Each head's own slice of the attention matrices, against the same slice before fine-tuning; one scale.",
        "One training run: there is no interval.",
        figure=figure,
    )


def activations(data: RunData) -> Picture:
    """Mean absolute activation by site and layer, base and fine-tuned, with the ratio of the two."""
    if data.last is None:
        raise Missing("no captured step")
    sites = [site for site in SITES if site.array("mean_abs") in data.last.arrays]
    if not sites:
        raise Missing("no activation magnitude was captured")
    figure = new_figure(9.2, 2.7)
    panels = figure.subplots(1, len(sites), squeeze=False)[0]
    ratios = []
    for axes, site in zip(panels, sites, strict=True):
        before, after = data.ends(site.array("mean_abs"))
        for values, color, label in ((before, BASE, "base"), (after, ACCENT, "fine-tuned")):
            mean, low, high = interval(values, BAND_RESAMPLES)
            line(axes, range(values.shape[1]), mean, color, label, (low, high))
        axes.set(title=site.title, xlabel="after block (0: embeddings)" if site.embeddings else "layer")
        axes.set_ylim(bottom=0)
        known = (before > 0) & np.isfinite(before) & np.isfinite(after)
        ratio, low, high = interval(np.divide(after, before, out=np.full(before.shape, np.nan), where=known))
        ratios.append((site, ratio, low, high))
    panels[0].set_ylabel("mean absolute value (model units)")
    panels[-1].legend()
    sure = [
        (abs(np.log(ratio[layer])), site, layer, ratio[layer], low[layer], high[layer])
        for site, ratio, low, high in ratios
        for layer in np.nonzero((low > 1) | (high < 1))[0]
    ]
    finding = "No site's activation differs from base beyond its 95 % interval."
    if sure:
        _, site, layer, ratio, low, high = max(sure)
        finding = (
            f"The largest change is in the {site.prose} of layer {layer}: {ratio:.2f} [{low:.2f}, {high:.2f}] times "
            "base."
        )
    return Picture(
        "activations",
        "Activation magnitudes",
        finding,
        f"Mean absolute value over the summary positions of n = {data.articles} probe articles; bands are 95 % "
        "intervals.",
        ARTICLES_ONLY + " A few very large dimensions can carry a site's mean.",
        figure=figure,
    )


def neurons(data: RunData) -> Picture:
    """MLP neurons: how the change spreads in every layer, and the most changed ones over the steps."""
    data.needs_training()
    if data.changed_neurons is None or neurons_key("std") not in data.last.arrays:
        raise Missing("no neuron activations were captured, or of different shapes")
    change = neuron_change(data)
    layers, width = change.shape
    figure = new_figure(9.2, 3.3)
    left, right = figure.subplots(1, 2)
    levels = np.nanquantile(np.abs(np.where(np.isfinite(change), change, np.nan)), [0.5, 0.9, 0.99, 1.0], axis=1)
    shades = depth_colors(4)[::-1]
    for level, name, color in zip(levels, ("median", "90th percentile", "99th", "largest"), shades, strict=True):
        line(left, range(layers), level, color, name)
    left.set(title=f"All {change.size:,} neurons", xlabel="layer", ylabel="|change| (base standard deviations)")
    left.set_ylim(0, 1.35 * left.get_ylim()[1])  # room for the legend
    left.legend(loc="upper right", ncols=2)
    shown = data.changed_neurons[:12]
    moved = (data.neurons - data.neurons[0])[:, : len(shown)].T
    edges = np.arange(len(data.neuron_steps) + 1) - 0.5
    mesh = right.pcolormesh(
        edges,
        np.arange(len(shown) + 1) - 0.5,
        np.ma.masked_invalid(moved),
        cmap=DIVERGING,
        norm=diverging_norm(moved),
        rasterized=moved.size > 400,
    )
    right.set(title=f"The {len(shown)} most changed, over the steps", xlabel="optimiser step")
    right.set_yticks(range(len(shown)), [f"{layer}·{neuron}" for layer, neuron in shown])
    right.set_ylabel("layer·neuron")
    right.set_ylim(len(shown) - 0.5, -0.5)
    places = chosen_layers(len(data.neuron_steps), 5)
    right.set_xticks(places, [f"{data.neuron_steps[place]:,}" for place in places])
    right.grid(False)
    right.spines[:].set_visible(False)
    right.tick_params(length=0, color=MUTED)
    colour_bar(figure, mesh, right, "change of mean activation")
    layer, neuron = shown[0]
    beyond = int((np.abs(change) > 1).sum())
    by_article = neuron_changes(data, layer, neuron)
    if not by_article:
        spread = "Saved as means over the probe set, so there is no interval over articles here."
    else:
        changes = [
            "{} {:+.3f} [{:+.3f}, {:+.3f}]".format(NEURON_STATISTICS[name], *interval(values))
            for name, values in by_article.items()
        ]
        spread = (
            f"Changes of that neuron over articles, in model units and share: {', '.join(changes)}, which do not allow "
            f"for its having been chosen as the largest. {ARTICLES_ONLY}"
        )
    return Picture(
        "neurons",
        "MLP neurons",
        f"{beyond:,} of {change.size:,} neurons moved by more than one standard deviation; neuron {neuron} of layer "
        f"{layer} moved most, by {change[layer, neuron]:+.2f} standard deviations.",
        "A neuron's mean activation over all summary positions of the probe set, last capture minus first. Left in "
        "units of the neuron's own standard deviation before fine-tuning; right in model units.",
        spread,
        figure=figure,
    )
