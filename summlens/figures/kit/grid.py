"""Grids of cells: one cell a value, and, where a cell is a head, where on the figure it lies."""

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from summlens.figures.kit.style import MUTED, UNCERTAIN

RASTER_CELLS = 400  # larger grids are an image inside the SVG: thousands of paths would make the report heavy
HEADS = "_heads"  # the label of a mesh whose cells are heads; the underscore keeps it out of legends


@dataclass(frozen=True)
class Grid:
    """Where the cells of all heads lie on a figure, in shares of its width and height from its top left corner, and
    the (L, H) values that they show: NaN where there is none, None where they change (an animation)."""

    left: float
    top: float
    width: float
    height: float
    layers: int
    heads: int
    values: np.ndarray | None


def grids(figure: Figure, still: bool = True) -> list[Grid]:
    """Every grid of heads on a figure whose layout is settled; without the values unless it stands `still`."""
    found = []
    for axes in figure.axes:
        for mesh in axes.collections:
            if mesh.get_label() == HEADS:
                box, values = axes.get_position(), np.ma.filled(mesh.get_array().astype(float), np.nan)
                values = values.reshape(mesh.get_coordinates().shape[0] - 1, -1)
                found.append(Grid(box.x0, 1 - box.y1, box.width, box.height, *values.shape, values if still else None))
    return found


def cells(axes, values: np.ndarray, **options):
    """Draw (L, H) values of heads as one cell a head, layer 0 on top, with a cross where a value is missing. The
    report opens a head whose cell is clicked (`grids`)."""
    mesh = draw_matrix(axes, values, **options)
    mesh.set_label(HEADS)
    return mesh


def draw_matrix(axes, values: np.ndarray, **options):
    """Draw (rows, columns) values as one cell each, row 0 on top, with a cross where a value is missing."""
    rows, columns = values.shape
    mesh = _mesh(axes, values, **options)
    y, x = np.nonzero(~np.isfinite(values))
    if y.size:
        axes.scatter(x, y, marker="x", s=14, linewidths=0.8, color=MUTED)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.set_xticks(_ticks(columns))
    axes.set_yticks(_ticks(rows))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return mesh


def _ticks(count: int) -> range:
    return range(0, count, 1 if count <= 8 else 2 if count <= 16 else 4 if count <= 32 else 8)


def rows_of(panels) -> None:
    """Name and number the layers once, beside the first of `panels` that stand side by side."""
    panels[0].set_ylabel("layer")
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)


def cells_over(axes, mask: np.ndarray) -> None:
    """Grey the cells where `mask` is 1 (NaN elsewhere)."""
    _mesh(axes, mask, cmap=ListedColormap([UNCERTAIN]))


def _mesh(axes, values: np.ndarray, **options):
    rows, columns = values.shape
    return axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        rasterized=values.size > RASTER_CELLS,
        clip_on=False,  # the cells end where the axes do, and each would name its clip path in the SVG
        **options,
    )
