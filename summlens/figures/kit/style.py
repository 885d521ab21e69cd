"""The one style of every figure: a matplotlib style sheet, a plotly template, and the palette both share.

The palette is safe for colour-blind readers (Okabe & Ito 2008; ColorBrewer's RdBu and YlGnBu). The inks below are
distinctive on purpose: the report replaces them in the SVG by its own colours, so that figures follow light and dark.
"""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, ListedColormap, Normalize, TwoSlopeNorm, to_hex

INK, MUTED, GRID, PAPER = "#1d2430", "#6a7282", "#e3e6eb", "#fefefe"
ACCENT, BASE, UNCERTAIN = "#0072b2", "#8a93a3", "#c9cdd4"
CATEGORIES = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a3f", BASE)
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans")
SEQUENTIAL, DIVERGING, DEPTH = "YlGnBu", "RdBu_r", "viridis"
DEPTH_RANGE = (0.25, 0.88)  # viridis without its darkest and palest ends
STYLE = {
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "patch.linewidth": 0.0,
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud, in the reader's own font
    "svg.hashsalt": "summlens",  # the same run gives the same bytes
    "pdf.fonttype": 42,
}


def diverging_limits(values: np.ndarray) -> tuple[float, float]:
    """Limits (-m, m) with m the largest absolute finite value (1 where there is none or all are zero)."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return (-largest, largest) if largest > 0 else (-1.0, 1.0)


def diverging_norm(values: np.ndarray) -> Normalize:
    """A colour scale that is symmetric about zero, so that no change is white and equal changes are equally strong."""
    low, high = diverging_limits(values)
    return TwoSlopeNorm(vcenter=0.0, vmin=low, vmax=high)


def sequential_norm(*arrays: np.ndarray) -> Normalize:
    """One colour scale for several panels that show the same quantity."""
    finite = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1.0)


def sequential_map() -> Colormap:
    """ColorBrewer YlGnBu without its palest tenth, which vanishes on white paper."""
    return ListedColormap(colormaps[SEQUENTIAL](np.linspace(0.06, 1.0, 256)), name="summlens_sequential")


def depth_colors(count: int) -> np.ndarray:
    """(count, 4) colours from the first layer (blue) to the last (green), readable on light and on dark paper."""
    return colormaps[DEPTH](np.linspace(*DEPTH_RANGE, max(count, 1)))


def depth_map() -> Colormap:
    """The colours of `depth_colors` as a continuous map, for steps."""
    return ListedColormap(depth_colors(256), name="summlens_depth")


def plotly_scale(colormap: Colormap, count: int = 16) -> list[list]:
    """A matplotlib colour map as plotly writes one."""
    places = np.linspace(0, 1, count)
    return [[float(place), to_hex(colormap(place))] for place in places]


def plotly_template():
    """The plotly template: the same inks, palette and fonts on a transparent ground."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": MUTED, "ticks": "outside", "tickcolor": MUTED}
    scene = {"backgroundcolor": "rgba(0,0,0,0)", "gridcolor": "#b9bfc9", "zerolinecolor": "#b9bfc9", "color": MUTED}
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, " + ", ".join(FONTS), "size": 13, "color": MUTED},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(CATEGORIES),
            "xaxis": axis,
            "yaxis": axis,
            "scene": {"xaxis": scene, "yaxis": scene, "zaxis": scene},
            "margin": {"l": 56, "r": 16, "t": 24, "b": 48},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ACCENT},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        }
    )
