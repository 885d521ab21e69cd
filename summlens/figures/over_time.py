"""Training seen from outside (losses, learning rate, gradients) and inside (layer means of the metrics) over steps."""

import numpy as np

from summlens.figures.kit.marks import ARTICLES_ONLY, BAND_RESAMPLES, chosen_layers, line
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData, interval
from summlens.figures.kit.style import ACCENT, BASE, CATEGORIES, MUTED, depth_colors
from summlens.names import HEAD, LOSS
from summlens.stats.columns import nanmean

TEMPORAL = ("kl", "normalized_entropy", "sparsity", "copy_score", "first_token_share", "head_output_norm")
LOGGED = {"loss": "training", "eval_loss": "validation"}


def training_curves(data: RunData) -> Picture:
    """Training and validation loss, and the learning rate, as logged; and the loss on the probe summaries."""
    logged = {name: data.logged(name) for name in (*LOGGED, "learning_rate")}
    probe = data.layers.get(LOSS)
    if probe is None and not any(len(logged[name][0]) for name in LOGGED):
        raise Missing("no loss was captured")
    rates = len(logged["learning_rate"][0]) > 0
    figure = new_figure(8.4, 2.9)
    left, *right = figure.subplots(1, 1 + rates, width_ratios=[1.7, 1][: 1 + rates], squeeze=False)[0]
    sentences = []
    if probe is not None:
        mean, low, high = interval(np.moveaxis(probe[:, :, 0], 1, 0), BAND_RESAMPLES)
        line(left, data.steps, mean, ACCENT, f"probe summaries (n = {probe.shape[1]})", (low, high))
        sentences.append(_from_to("the loss on the probe summaries", mean))
    for (name, label), color in zip(LOGGED.items(), (BASE, CATEGORIES[1]), strict=True):
        steps, values = logged[name]
        if len(steps):
            line(left, steps, values, color, label)
            sentences.append(_from_to(f"the {label} loss", values))
    left.set(title="Loss", xlabel="optimiser step", ylabel="nats per token")
    left.legend()
    for axes in right:
        line(axes, *logged["learning_rate"], BASE, "")
        axes.set(title="Learning rate", xlabel="optimiser step")
        axes.set_ylim(bottom=0)
    found = "; ".join(sentence for sentence in sentences if sentence)
    return Picture(
        "training_curves",
        "Losses and learning rate",
        f"{found[0].upper()}{found[1:]}." if found else "No loss is known at two steps.",
        "Training and validation losses as the run logged them; the probe loss is the reference summary's, article and "
        "summary given (teacher forcing), with its 95 % interval as a band.",
        ARTICLES_ONLY,
        figure=figure,
    )


def _from_to(what: str, values) -> str:
    known = np.asarray(values)[np.isfinite(values)]
    if len(known) < 2:
        return ""
    verb = "fell" if known[-1] < known[0] else "rose" if known[-1] > known[0] else "stayed"
    return f"{what} {verb} from {known[0]:.2f} to {known[-1]:.2f}" if verb != "stayed" else f"{what} stayed"


def temporal_metrics(data: RunData) -> Picture:
    """The layers' means of the attention metrics over the steps, with bands."""
    data.needs_training()
    metrics = [HEAD[key] for key in TEMPORAL if HEAD[key].array() in data.layers]
    if not metrics:
        raise Missing("no attention metric was captured")
    layers = data.layers[metrics[0].array()].shape[2]
    chosen = chosen_layers(layers)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = new_figure(9.2, 2.35 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    colors = depth_colors(layers)
    for axes, metric in zip(grid, metrics, strict=False):
        values = np.moveaxis(data.layers[metric.array()][:, :, chosen], 1, 0).astype(float)  # (A, S, chosen layers)
        values -= values[:, :1]  # paired: each article against itself at the first capture
        mean, low, high = interval(values, BAND_RESAMPLES)
        for index, layer in enumerate(chosen):
            band = (low[:, index], high[:, index])
            line(axes, data.steps, mean[:, index], colors[layer], f"layer {layer}", band)
        axes.set(title=metric.title, ylabel=f"change ({metric.unit})")
        axes.axhline(0, color=MUTED, linewidth=0.7)
    for axes in grid[len(metrics) :]:
        axes.set_axis_off()
    for axes in grid[max(len(metrics) - columns, 0) : len(metrics)]:
        axes.set_xlabel("optimiser step")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(chosen))
    shown = "every layer" if len(chosen) == layers else f"{len(chosen)} of {layers} layers, evenly spaced"
    return Picture(
        "temporal_metrics",
        "Attention over the steps",
        _temporal_finding(data, metrics),
        f"Change since step {data.steps[0]}. A line is a layer's mean over its heads and over the summary positions of "
        f"n = {data.articles} probe articles ({shown}; blue is early in the model, green late); bands are paired 95 % "
        "intervals.",
        ARTICLES_ONLY + " A layer's mean can stay still while its heads move in opposite directions.",
        figure=figure,
    )


def _temporal_finding(data: RunData, metrics) -> str:
    moved, still = [], []
    for metric in metrics:
        values = data.layers[metric.array()].astype(float)
        mean, low, high = interval((values[-1] - values[0]).mean(axis=1))
        if low > 0 or high < 0:
            moved.append(
                f"{metric.prose} {'rose' if low > 0 else 'fell'} by {abs(mean):.{metric.digits}f}{metric.suffix}"
            )
        else:
            still.append(metric.prose)
    parts = [", ".join(moved)] if moved else []
    parts += [f"no change beyond the 95 % interval in {', '.join(still)}"] if still else []
    return f"Averaged over all layers and heads: {'; '.join(parts)}."


def gradient_norms(data: RunData) -> Picture:
    """Gradient norms before clipping: the whole model, and every layer over the steps."""
    known = [
        (step, info["gradients"]) for step, info in zip(data.steps, data.infos, strict=True) if info.get("gradients")
    ]
    if not known:
        raise Missing("no gradient norm was captured")
    steps = [step for step, _ in known]
    total = np.array([_or_nan(gradients.get("total")) for _, gradients in known])
    layers = np.array([[_or_nan(v) for v in gradients["layers"]] for _, gradients in known])
    figure = new_figure(8.0, 2.9)
    left, right = figure.subplots(1, 2)
    line(left, steps, total, ACCENT, "")
    left.set(title="Whole model", xlabel="optimiser step", ylabel="L2 norm (model units)")
    left.set_ylim(bottom=0)
    colors = depth_colors(layers.shape[1])
    for layer in chosen_layers(layers.shape[1]):
        line(right, steps, layers[:, layer], colors[layer], f"layer {layer}")
    right.set(title="By layer", xlabel="optimiser step")
    right.set_ylim(bottom=0)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    means = nanmean(layers, 0)
    finding = "No gradient norm is finite."
    if np.isfinite(means).any():
        top = int(np.nanargmax(means))
        finding = (
            f"The gradient is strongest in layer {top} ({means[top]:.2f} on average); over the whole model it goes "
            f"from {total[0]:.2f} to {total[-1]:.2f}."
        )
    return Picture(
        "gradient_norms",
        "Gradient norms",
        finding,
        f"L2 norms of the gradient before clipping, read at {len(steps)} captured optimiser steps.",
        "A single step's gradient is noisy: it is that of one batch.",
        figure=figure,
    )


def _or_nan(value) -> float:
    return np.nan if value is None else float(value)
