"""interpretability_report.html: one self-contained page that tells a run's story, made from its figures and files."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from summlens import __version__
from summlens.artifacts import write_atomically
from summlens.figures import SECTIONS, Entry
from summlens.figures.heads import most_changed
from summlens.figures.kit.grid import Grid
from summlens.figures.kit.picture import PLOTLY_CONFIG, Picture, last_frame
from summlens.figures.kit.rundata import Missing, RunData
from summlens.names import HEAD
from summlens.report import answer, examples, head_explorer, head_table
from summlens.report.score_table import score_table
from summlens.report.svg import inline_svg, prose

NAME = "interpretability_report"
HERE = Path(__file__).parent
SCRIPTS = ("report.js", "explorer.js")
TRAIN, ANALYSE = "python gpt2_summarization.py", "python analyze_latent_space.py"


@dataclass
class Made:
    """What a call of visualize_metrics.py made: the pictures, in the catalogue's order, and what could not be drawn."""

    pictures: list[tuple[Entry, Picture]] = field(default_factory=list)
    missing: list[tuple[str, str, str]] = field(default_factory=list)  # title, reason, command
    files: list[Path] = field(default_factory=list)

    def by_reason(self) -> dict[tuple[str, str], list[str]]:
        """The titles of what could not be drawn, by reason and command: often one reason holds for many."""
        found = {}
        for name, reason, command in self.missing:
            found.setdefault((reason, command), []).append(name)
        return found


def write(data: RunData, made: Made) -> Path:
    """Write the report of `made` into the run's visualizations/ and return its path."""
    path = data.run.visualizations / f"{NAME}.html"
    return write_atomically(path, html(data, made).encode())


def html(data: RunData, made: Made) -> str:
    """The page. Everything from the run is text: Jinja2 escapes it, and the page's own policy forbids any request."""
    made = Made(made.pictures, list(made.missing), made.files)  # what the page itself lacks is the page's to name
    missing = made.missing
    heads = _part(lambda: most_changed(data), missing, "Table of the ten heads", TRAIN, [])
    chosen = _part(lambda: examples.choose(data), missing, "Examples", TRAIN, [])
    table = _part(lambda: score_table(data), missing, "Score table", TRAIN, None)
    maps = _part(lambda: head_explorer.prepare(data), missing, "Head explorer and information flow", ANALYSE, None)
    environment = templates({row.name for row in heads})
    plots = [picture for _, picture in made.pictures if picture.plot is not None]
    return environment.get_template("template.html.j2").render(
        css=Markup((HERE / "style.css").read_text()),
        script=Markup("\n".join((HERE / name).read_text() for name in SCRIPTS)),
        plotly=_plotly() if plots else "",
        model=_model_name(data),
        answer=answer.sentences(data),
        details=answer.details(data),
        facts=facts(data),
        configuration=_flatten(data.info),
        table=table,
        sections=_sections(made),
        heads=[head_table.head(data, row) for row in heads],
        head_columns=[HEAD[key] for key in head_table.COLUMNS if heads and key in heads[0].numbers],
        grids=_json({picture.name: [_grid(one) for one in picture.grids] for _, picture in made.pictures}),
        explorer=maps and {**vars(maps), "json": _json(maps.packed), "names": maps.packed["heads"]},
        examples=chosen,
        missing=made.by_reason(),
        problems=data.problems,
        files=_by_figure(made.files),
        version=__version__,
        articles=data.articles,
    )


def templates(known: set[str]) -> jinja2.Environment:
    """The templates of this folder, escaping everything; heads in `known` are linked wherever a sentence names them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = lambda text: prose(text, known)
    return environment


def _part(make, missing: list, name: str, command: str, otherwise):
    try:
        return make()
    except Missing as reason:
        missing.append((name, str(reason), reason.command or command))
        return otherwise


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _sections(made: Made) -> list[dict]:
    return [
        {
            "id": key,
            "title": name,
            "question": question,
            "figures": [
                figure(picture) | {"folded": entry.folded} for entry, picture in made.pictures if entry.section == key
            ],
        }
        for key, (name, question) in SECTIONS.items()
    ]


def _by_figure(files: list[Path]) -> dict[str, list[tuple[str, str, int]]]:
    """By the stem that a figure's files share: (suffix, name, size in bytes) of each that is there."""
    found = {}
    for file in files:
        if file.is_file():
            found.setdefault(file.stem, []).append((file.suffix[1:], file.name, file.stat().st_size))
    return found


def figure(picture: Picture) -> dict:
    """What the template's `draw` shows of a picture that was saved."""
    shown = {"picture": picture, "svg": None, "gif": None, "plot": None, "heads": bool(picture.grids), "folded": False}
    if picture.svg is not None:
        shown["svg"] = inline_svg(picture.svg.decode(), picture.name)
    if picture.animation is not None:
        shown["gif"] = _image("gif", picture.animation)
        shown["still"] = _image("png", last_frame(picture.animation))
    if picture.plot is not None:
        plot = json.loads(picture.plot.to_json())
        shown["plot"] = _json({**plot, "config": PLOTLY_CONFIG})
        shown["height"] = picture.plot.layout.height or 450
        shown["heads"] = (picture.plot.layout.meta or {}).get("cells") == "heads"
    return shown


def _grid(grid: Grid) -> dict:
    """What the page needs to know which head is under the pointer, and the value that is drawn there."""
    place = [round(share, 5) for share in (grid.left, grid.top, grid.width, grid.height)]
    values = None if grid.values is None else [[_short(value) for value in row] for row in grid.values]
    return {"place": place, "layers": grid.layers, "heads": grid.heads, "values": values}


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _image(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _json(value) -> Markup:
    """JSON that cannot end the <script> element it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _model_name(data: RunData) -> str:
    """The last part of the model's name or path, unless it only says "model"."""
    name = str((data.info.get("model") or {}).get("name") or "").rstrip("/").rsplit("/", 1)[-1]
    return "the model" if name in ("", "model") else name


def facts(data: RunData) -> list[tuple[str, str]]:
    """What a reader wants to know first about the run; the rest stands in the folded table."""
    configuration, model = data.info.get("config") or {}, data.info.get("model") or {}
    environment = data.info.get("environment") or {}
    rows = [("Preset", configuration.get("preset")), ("Model", model.get("name"))]
    if model:
        shape = f"{model.get('layers', '?')} layers × {model.get('heads', '?')} heads, width {model.get('width', '?')}"
        if isinstance(model.get("parameters"), int):
            shape += f", {model['parameters']:,} parameters"
        rows.append(("Shape", shape))
    rows += [("Data", configuration.get("dataset")), ("Epochs", configuration.get("epochs"))]
    if data.steps:
        rows.append(("Captures", f"{len(data.steps)}, from step {data.steps[0]:,} to step {data.steps[-1]:,}"))
    if data.articles:
        rows.append(("Probe articles", f"{data.articles}, the same tokens for every model and step"))
    if data.evaluation:
        rows.append(("Test articles", data.evaluation.get("articles")))
    rows += [("Device", environment.get("device")), ("Seed", data.info.get("seed"))]
    rows.append(("Commit", environment.get("git_commit")))
    if data.info.get("finished") is False:
        rows.append(("State", "unfinished: this run was stopped before its end"))
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _flatten(value: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Every setting as ("a.b", "text"); the probe articles stay in run.json."""
    rows = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            rows += _flatten(item, f"{name}.")
        elif not name.startswith("probe."):
            text = ", ".join(map(str, item)) if isinstance(item, list) else "none" if item is None else str(item)
            rows.append((name, text if len(text) <= 300 else f"{text[:300]} …"))
    return rows


__all__ = ["NAME", "Made", "html", "inline_svg", "prose", "write"]
