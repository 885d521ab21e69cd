"""A figure with the words that belong to it, and how both become files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from summlens.artifacts import write_atomically
from summlens.figures.kit.grid import Grid, grids
from summlens.figures.kit.style import ACCENT, INK, MUTED, PAPER, STYLE

GIF_FRAMES, GIF_BYTES = 60, 3_000_000
PNG_DPI = 150


@dataclass
class Picture:
    """What a figure shows. One of `figure` (matplotlib), `plot` (plotly) and `animation` (GIF) is there, or several."""

    name: str  # the stem of its files: never changes
    title: str
    finding: str  # one sentence with numbers: what it shows; also the alternative text
    reading: str  # how to read it, with units and n
    caveat: str
    figure: Figure | None = None
    plot: object | None = None  # plotly.graph_objects.Figure
    animation: bytes | None = None
    grids: list[Grid] = field(default_factory=list)  # where heads are drawn; `save` finds those of `figure`
    svg: bytes | None = None  # the figure as `save` rendered it, for the report


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, outside pyplot's global state. Call it inside `styled()`."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def styled():
    """The context in which figures are made and saved."""
    return matplotlib.rc_context(STYLE)


def settle(figure: Figure) -> None:
    """Solve the figure's layout once and for all: not again for every format and frame."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def save(picture: Picture, folder: Path, formats: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write the picture's files below `folder` and return their paths."""
    written = []
    if picture.figure is not None:
        settle(picture.figure)
        picture.grids = grids(picture.figure)
        picture.svg = render(picture.figure, "svg")
        for suffix in formats:
            content = picture.svg if suffix == "svg" else render(picture.figure, suffix)
            written.append(write_atomically(folder / f"{picture.name}.{suffix}", content))
    if picture.animation is not None:
        written.append(write_atomically(folder / f"{picture.name}.gif", picture.animation))
    if picture.plot is not None:
        html = picture.plot.to_html(include_plotlyjs=True, full_html=True, config=PLOTLY_CONFIG)
        written.append(write_atomically(folder / f"{picture.name}.html", html.encode()))
    return written


PLOTLY_CONFIG = {"displaylogo": False, "responsive": True}


def render(figure: Figure, suffix: str) -> bytes:
    """The bytes of `figure` in that format, without a date, so that the same run gives the same file.

    Calls the backends' own writers: `savefig` would draw everything once more beforehand, to solve a layout that is
    solved already.
    """
    buffer = io.BytesIO()
    canvas = {"png": FigureCanvasAgg, "svg": FigureCanvasSVG, "pdf": FigureCanvasPdf}[suffix](figure)
    if suffix == "png":
        figure.dpi, screen = PNG_DPI, figure.dpi
        canvas.print_png(buffer)
        figure.dpi = screen
    elif suffix == "svg":
        canvas.print_svg(buffer, metadata={"Date": None})
    else:
        canvas.print_pdf(buffer, metadata={"CreationDate": None})
    return buffer.getvalue()


def chosen_frames(count: int, most: int = GIF_FRAMES) -> list[int]:
    """At most `most` indices spread evenly over range(count), the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index) for index in np.linspace(0, count - 1, most)})


def gif(frames: list[np.ndarray], milliseconds: int, colormaps: Sequence[Colormap] = ()) -> bytes:
    """A looping GIF of (height, width, 3) uint8 frames that rests on its last frame.

    All frames share one palette, so that a colour means the same number throughout: shades of ink on paper and even
    samples of `colormaps`. Where the file would be larger than GIF_BYTES, every second frame is left out until it is
    not.
    """
    inks = [LinearSegmentedColormap.from_list("ink", [ink, PAPER]) for ink in (INK, MUTED, ACCENT)]
    share = (256 - 16 * len(inks)) // max(len(colormaps), 1)
    samples = [m(np.linspace(0, 1, n)) for m, n in [*((m, 16) for m in inks), *((m, share) for m in colormaps)]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.concatenate(samples)[:, :3]).astype(np.uint8).tobytes())
    while True:
        paletted = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        durations = [milliseconds] * (len(frames) - 1) + [max(1500, milliseconds)]
        rgb = [np.asarray(image.convert("RGB")) for image in paletted]
        content = iio.imwrite("<bytes>", rgb, extension=".gif", plugin="pillow", duration=durations, loop=0)
        if len(content) <= GIF_BYTES or len(frames) <= 2:
            return content
        frames = frames[:-1:2] + frames[-1:]


def last_frame(animation: bytes) -> bytes:
    """The last frame of a GIF as a PNG, for paper and for readers who want nothing to move."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(animation)) as frames:
        frames.seek(frames.n_frames - 1)
        frames.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
