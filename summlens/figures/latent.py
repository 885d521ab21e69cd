"""Representations: RSA and CKA, the logit lens, and the joint UMAP projection."""

import numpy as np
from matplotlib.colors import Normalize

from summlens.core.words import listed
from summlens.figures.kit.grid import draw_matrix
from summlens.figures.kit.marks import ARTICLES_ONLY, BAND_RESAMPLES, chosen_layers, line
from summlens.figures.kit.picture import Picture, gif, new_figure
from summlens.figures.kit.rundata import Missing, RunData, floors_in_words, interval, layers_above_noise
from summlens.figures.kit.style import (
    ACCENT,
    BASE,
    MUTED,
    depth_colors,
    depth_map,
    plotly_scale,
    plotly_template,
    sequential_map,
)
from summlens.names import LAYER

MEASURES = {key: LAYER[key].title for key in ("rsa", "cka")}
SYMBOLS = ("circle", "square", "diamond", "circle-open", "square-open", "diamond-open")
MOST_POINTS = 8000  # in the interactive figure: more make the page heavy and the cloud no clearer
MOST_LAYERS = 13  # in its legend: GPT-2's twelve and the embeddings
ILLUSTRATION = (
    "UMAP is an illustration: distances in it are not to scale. The claims quote numbers from the full space."
)
RINGS = (
    " Dashed: the noise floor, where the number would be if it changed as far as where nothing of interest changed. A "
    "ring marks a layer beyond it in the paired tests too (false-discovery rate 5 % over the layers)."
)


def _array(data: RunData, key: str) -> np.ndarray:
    if not data.latent_arrays:
        raise Missing("there is no latent_space.npz that can be read")
    if key not in data.latent_arrays:
        raise Missing(f"{key} is not in latent_space.npz")
    return data.latent_arrays[key]


def _floor(data: RunData, number: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(the highest noise floor of a number, whether it is beyond every floor) at each layer; None if not tested."""
    tested = layers_above_noise(data, number)
    if tested is None:
        return None
    above, floors = tested
    return np.max([_array(data, f"noise_floor/{number}/{floor}") for floor in floors], axis=0), above


def _ring(axes, values: np.ndarray, above: np.ndarray, color: str) -> None:
    """Rings round the layers whose number is beyond its noise floors."""
    rings = np.flatnonzero(above)
    axes.plot(rings, values[rings], "o", markersize=8, markerfacecolor="none", markeredgecolor=color)


def _beyond(data: RunData, numbers: dict[str, str]) -> str:
    """How many layers are beyond the noise floors in each of {number: its name}, in a sentence; empty if not tested."""
    tested = {name: layers_above_noise(data, number) for number, name in numbers.items()}
    tested = {name: found for name, found in tested.items() if found is not None}
    if not tested:
        return ""
    against = floors_in_words({floor for _, floors in tested.values() for floor in floors})
    if not any(above.any() for above, _ in tested.values()):
        return f" No layer changed more than {against} would do, in {listed(list(tested))}."
    counts = listed([f"{name} at {above.sum()} of {above.size} layers" for name, (above, _) in tested.items()])
    return f" Beyond what {against} would do: {counts}."


def similarity(data: RunData) -> Picture:
    """RSA and CKA between every layer of base and of fine-tuned, and layer by layer with intervals."""
    present = [measure for measure in MEASURES if f"{measure}/base_fine_tuned" in data.latent_arrays]
    if not present:
        _array(data, "rsa/base_fine_tuned")  # says why
    figure = new_figure(9.2, 3.1)
    panels = figure.subplots(1, len(present) + 1, width_ratios=[1] * len(present) + [1.15])
    for axes, measure in zip(panels, present, strict=False):
        values = _array(data, f"{measure}/base_fine_tuned").astype(float)
        norm = Normalize(min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0, 1.0)
        mesh = draw_matrix(axes, values, cmap=sequential_map(), norm=norm)
        axes.set(title=MEASURES[measure][0].upper() + MEASURES[measure][1:], xlabel="fine-tuned layer")
        axes.set_aspect("equal")
        bar = figure.colorbar(mesh, ax=axes, aspect=20, pad=0.03, shrink=0.8)
        bar.outline.set_visible(False)
    panels[0].set_ylabel("base layer")
    sentences = []
    for measure, color in zip(present, (ACCENT, "#d55e00"), strict=False):
        if f"{measure}/same_layer" not in data.latent_arrays:
            continue
        mean, low, high = _array(data, f"{measure}/same_layer").astype(float)
        line(panels[-1], range(len(mean)), mean, color, MEASURES[measure], (low, high))
        tested = _floor(data, measure)
        if tested is not None:
            floor, above = tested
            panels[-1].plot(
                1 - floor, color=color, linewidth=1, linestyle="--", label=f"noise floor of {measure.upper()}"
            )
            _ring(panels[-1], mean, above, color)
        if np.isfinite(mean).any():
            least = int(np.nanargmin(mean))
            sentences.append(
                f"{MEASURES[measure]} is lowest at layer {least}: {mean[least]:.2f} [{low[least]:.2f}, "
                f"{high[least]:.2f}]"
            )
    panels[-1].set(title="Same layer, base against fine-tuned", xlabel="layer (0: embeddings)")
    panels[-1].set(ylabel="similarity", ylim=(None, 1.02))
    panels[-1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="small")
    found, beyond = "; ".join(sentences), _beyond(data, MEASURES)
    return Picture(
        "representation_similarity",
        "Representations, base against fine-tuned",
        (f"Between the same layers of base and fine-tuned, {found}." if found else "No similarity has an interval.")
        + beyond,
        "1 is the same geometry of the probe articles, 0 is unrelated. RSA correlates (Spearman) the two sets of "
        f"distances between articles; CKA compares the features themselves. n = {_articles(data)} probe articles, "
        f"mean over summary positions.{RINGS if beyond else ''}",
        ARTICLES_ONLY,
        figure=figure,
    )


def _articles(data: RunData) -> int | str:
    probe = data.info.get("probe") or {}
    return data.articles or len(probe.get("ids") or []) or "unknown"


def similarity_over_steps(data: RunData) -> Picture:
    """RSA and CKA of every captured step against step 0, a line a layer."""
    present = [measure for measure in MEASURES if f"{measure}/steps" in data.latent_arrays]
    if not present:
        _array(data, "rsa/steps")  # says why
    steps = _array(data, "steps")
    if not len(steps):
        raise Missing("latent_space.npz knows no step")
    figure = new_figure(8.0, 2.9)
    panels = figure.subplots(1, len(present), squeeze=False, sharey=True)[0]
    sentences, floored = [], False
    for axes, measure in zip(panels, present, strict=True):
        values = _array(data, f"{measure}/steps").astype(float)
        colors = depth_colors(values.shape[1])
        low, high = (data.latent_arrays.get(f"{measure}/steps/{end}") for end in ("low", "high"))
        banded = low is not None and high is not None
        tested = _floor(data, measure)
        floored = floored or tested is not None
        for layer in chosen_layers(values.shape[1]):
            band = (low[:, layer], high[:, layer]) if banded else None
            line(axes, steps, values[:, layer], colors[layer], f"layer {layer}", band)
            if tested is not None:
                axes.axhline(1 - tested[0][layer], color=colors[layer], linewidth=0.9, linestyle=":")
        axes.set(title=f"{MEASURES[measure][0].upper()}{MEASURES[measure][1:]} with step 0", xlabel="optimiser step")
        if np.isfinite(values[-1]).any():
            least = int(np.nanargmin(values[-1]))
            half = np.nanmax(1 - values[:, least]) / 2
            reached = steps[int(np.argmax(1 - values[:, least] >= half))]
            sentences.append(
                f"{MEASURES[measure]} of layer {least} ends at {values[-1, least]:.2f} and had fallen half-way by "
                f"step {reached}"
            )
    panels[0].set_ylabel("similarity (1 is unchanged)")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    found = "; ".join(sentences)
    return Picture(
        "representation_over_steps",
        "Representations over the steps",
        f"{found[0].upper()}{found[1:]}." if found else "No similarity is finite.",
        f"Each step captured whole against step 0, n = {_articles(data)} probe articles. Layer 0 is the embeddings."
        f"{' Dotted: the noise floor of the last step.' if floored else ''}",
        f"Bands are 95 % intervals. {ARTICLES_ONLY}"
        if banded
        else "No interval is saved for the steps; the figure above carries it for the last one.",
        figure=figure,
    )


def logit_lens(data: RunData) -> Picture:
    """Loss and rank of the target when each layer is read out through the final norm and the unembedding."""
    figure = new_figure(8.0, 2.9)
    panels = figure.subplots(1, 2)
    values, names = {}, {}
    for axes, kind, unit in zip(panels, ("loss", "rank"), ("nats per token", "mean rank (1 is best)"), strict=True):
        for model, color, label in (("base", BASE, "base"), ("fine_tuned", ACCENT, "fine-tuned")):
            values[model, kind] = _array(data, f"logit_lens/{model}/{kind}").astype(float)
            mean, low, high = interval(values[model, kind], BAND_RESAMPLES)
            line(axes, range(len(mean)), mean, color, label, (low, high))
        names[f"logit_lens/{kind}"] = f"the {kind} of the target"
        tested = _floor(data, f"logit_lens/{kind}")
        if tested is not None:
            floor, above = tested
            base = values["base", kind].mean(axis=0)
            for edge, label in ((base + floor, "base ± noise floor"), (base - floor, None)):
                axes.plot(edge, color=BASE, linewidth=1, linestyle="--", label=label)
            _ring(axes, mean, above, ACCENT)
        axes.set(title=f"{kind.capitalize()} of the target", xlabel="layer (0: embeddings)", ylabel=unit)
    panels[1].set_yscale("log")
    panels[0].legend()
    mean, low, high = interval(values["fine_tuned", "loss"] - values["base", "loss"])
    apart = np.nonzero((low > 0) | (high < 0))[0]
    finding = "At no layer does the fine-tuned model's read-out differ from base beyond its 95 % interval."
    if apart.size:
        most = apart[np.argmax(np.abs(mean[apart]))]
        finding = (
            f"The models differ first at layer {apart[0]} and most at layer {most}, by {mean[most]:+.2f} "
            f"[{low[most]:.2f}, {high[most]:.2f}] nats a target token."
        )
    beyond = _beyond(data, names)
    return Picture(
        "logit_lens",
        "Logit lens",
        finding + beyond,
        "Each layer's residual stream through the final norm and the unembedding: how well it already predicts the "
        f"reference summary's next token. n = {len(values['base', 'loss'])} probe articles; bands are 95 % intervals."
        f"{RINGS if beyond else ''}",
        ARTICLES_ONLY + " Early layers are not trained to be read this way.",
        figure=figure,
    )


def _projection(data: RunData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    points = _array(data, "projection/umap3").astype(float)
    step, layer, article = (_array(data, f"projection/{name}") for name in ("step", "layer", "article"))
    known = np.isfinite(points).all(axis=1)
    if not known.any():
        raise Missing("projection/umap3 holds no finite point")
    return points[known], step[known], layer[known], article[known]


def umap(data: RunData) -> Picture:
    """The joint 3D UMAP: interactive (plotly) and as a rotating GIF (matplotlib)."""
    points, step, layer, article = _projection(data)
    steps = np.unique(step)
    shown = _thinned(step, MOST_POINTS)
    layers = np.unique(layer)
    listed = layers[chosen_layers(len(layers), MOST_LAYERS)]
    left_out = [
        f"{drawn} of the {of} {name}"
        for drawn, of, name in (
            (len(np.unique(step[shown])), len(steps), "steps"),
            (len(listed), len(layers), "layers"),
        )
        if drawn < of
    ]
    thinned = f" Points are drawn for {' and '.join(left_out)}." if left_out else ""
    return Picture(
        "latent_umap",
        "Latent space in three dimensions",
        _moved(data) or f"{len(points):,} article vectors at {len(steps)} steps in one joint projection.",
        f"A point is one probe article at one layer and step (n = {len(np.unique(article))} articles), coloured by "
        "step; a line follows the mean of a layer's articles from the first step to the last. Click a layer in the "
        f"legend to hide it.{thinned}",
        ILLUSTRATION,
        plot=_umap_plot(points, step, layer, article, shown, listed),
        animation=_umap_gif(points, step, layer),
    )


def _moved(data: RunData) -> str:
    """What the full space says about the movement that the projection illustrates."""
    if "divergence/cosine" not in data.latent_arrays:
        return ""
    mean, low, high = interval(data.latent_arrays["divergence/cosine"])
    if not np.isfinite(mean).any():
        return ""
    layer = int(np.nanargmax(mean))
    return (
        f"In the full space an article's vector moved most at layer {layer}: cosine distance {mean[layer]:.3f} "
        f"[{low[layer]:.3f}, {high[layer]:.3f}] between base and fine-tuned."
        + _beyond(data, {"divergence/cosine": "this distance"})
    )


def _paths(points: np.ndarray, step: np.ndarray, layer: np.ndarray, one: int) -> np.ndarray:
    """(steps, 3) the mean of that layer's points at each step."""
    inside = layer == one
    _, place = np.unique(step[inside], return_inverse=True)
    count = np.bincount(place)
    return np.stack([np.bincount(place, weights=axis) / count for axis in points[inside].T], axis=1)


def _thinned(step: np.ndarray, most: int) -> np.ndarray:
    """Indices of the points at evenly spaced steps, the first and the last among them, so that at most `most` are left
    (never fewer than two steps)."""
    steps, counts = np.unique(step, return_counts=True)
    kept = steps[chosen_layers(len(steps), max(2, most // int(counts.max())))]
    return np.nonzero(np.isin(step, kept))[0]


def _umap_plot(points, step, layer, article, drawn, layers):
    import plotly.graph_objects as go

    shown = set(layers[chosen_layers(len(layers), 4)].tolist())
    plot = go.Figure()
    top = int(step.max()) or 1
    for index, one in enumerate(layers.tolist()):
        inside = drawn[layer[drawn] == one]
        visible = True if one in shown else "legendonly"
        name = "embeddings" if one == 0 else f"layer {one}"
        plot.add_scatter3d(
            x=np.round(points[inside, 0], 3).tolist(),
            y=np.round(points[inside, 1], 3).tolist(),
            z=np.round(points[inside, 2], 3).tolist(),
            mode="markers",
            name=name,
            legendgroup=name,
            visible=visible,
            marker={
                "size": 3,
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "color": step[inside].tolist(),
                "colorscale": plotly_scale(depth_map()),
                "cmin": 0,
                "cmax": top,
                "showscale": index == 0,
                "colorbar": {"title": {"text": "step"}, "thickness": 12, "x": 1.0, "len": 0.6},
            },
            customdata=np.stack([step[inside], article[inside]], axis=1).tolist(),
            hovertemplate=f"{name}<br>step %{{customdata[0]}}<br>probe article %{{customdata[1]}}<extra></extra>",
        )
        path = _paths(points, step, layer, one)
        plot.add_scatter3d(
            x=path[:, 0].tolist(),
            y=path[:, 1].tolist(),
            z=path[:, 2].tolist(),
            mode="lines",
            legendgroup=name,
            showlegend=False,
            visible=visible,
            hoverinfo="skip",
            line={"color": MUTED, "width": 4},
        )
    titles = {f"{axis}axis": {"title": {"text": f"UMAP {n}"}} for n, axis in enumerate("xyz", start=1)}
    plot.update_layout(
        template=plotly_template(),
        height=560,
        margin={"l": 0, "r": 0, "t": 8, "b": 8},
        scene=titles,
        legend={"orientation": "h", "y": 0.0, "yanchor": "top"},
    )
    return plot


def _umap_gif(points, step, layer, frames: int = 30) -> bytes:
    """A full turn. At most 1,500 points: more would be a cloud, and slow to draw."""
    keep = np.random.default_rng(0).permutation(len(points))[:1500]
    figure = new_figure(4.8, 4.4)
    axes = figure.add_subplot(projection="3d")
    axes.set_box_aspect(None, zoom=0.95)
    axes.scatter(*points[keep].T, c=step[keep], cmap=depth_map(), vmin=0, s=8, linewidths=0, depthshade=False)
    layers = np.unique(layer)
    for one in layers[chosen_layers(len(layers), 6)]:
        path = _paths(points, step, layer, one)
        axes.plot(*path.T, color=MUTED, linewidth=1)
        axes.text(*path[-1], f"{one}", fontsize=8)
    for axis, n in ((axes.xaxis, 1), (axes.yaxis, 2), (axes.zaxis, 3)):
        axis.set_ticklabels([])
        axis.set_label_text(f"UMAP {n}", fontsize=8)
        axis.set_pane_color((1, 1, 1, 0))
    figure.suptitle("Colour: step (blue is base). Numbers: layers.", fontsize=8, color=MUTED)
    figure.set_layout_engine("none")
    axes.set_position([0, 0, 1, 1])
    images = []
    for index in range(frames):
        axes.view_init(elev=18, azim=360 * index / frames)
        figure.canvas.draw()
        images.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    return gif(images, 100, [depth_map()])
