"""Marks that several figures draw alike: lines with bands, colour bars, heights."""

import numpy as np
from matplotlib.ticker import MaxNLocator

ARTICLES_ONLY = "The interval is over probe articles; it does not cover another training seed."
BAND_RESAMPLES = 300  # bands are drawn a pixel or two wide: more resamples would not be seen
MOST_LINES = 6


def heatmap_height(layers: int, rows: int = 1) -> float:
    """Inches for so many rows of layer x head heatmaps."""
    return rows * float(np.clip(0.2 * layers + 1.0, 1.9, 4.6))


def colour_bar(figure, mesh, axes, label: str) -> None:
    """The colour scale of `mesh` beside the axes."""
    bar = figure.colorbar(mesh, ax=axes, label=label, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)


def line(axes, steps, values, color, label, band=None) -> None:
    """A line over the steps that have a value, with dots while they are few, and its band."""
    steps, values = np.asarray(steps), np.asarray(values, float)
    known = np.isfinite(values)
    marker = "o" if known.sum() <= 20 else None
    axes.plot(steps[known], values[known], color=color, label=label, marker=marker, markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if known.sum() == 1:  # one step or one layer: its number, not fractions of it
        axes.set_xlim(steps[known][0] - 0.5, steps[known][0] + 0.5)
    if band is not None:
        low, high = band
        axes.fill_between(steps[known], low[known], high[known], color=color, alpha=0.18, linewidth=0)


def chosen_layers(count: int, most: int = MOST_LINES) -> list[int]:
    """At most `most` layers spread evenly, the first and the last among them."""
    return sorted({round(layer) for layer in np.linspace(0, count - 1, min(count, most))})
