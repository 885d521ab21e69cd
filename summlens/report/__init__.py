"""interpretability_report.html: one self-contained page that tells a run's story, made from its figures and files."""

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup, escape

from summlens import __version__
from summlens.artifacts import write_atomically
from summlens.figures import SECTIONS, Entry, Picture
from summlens.figures.grid import Grid
from summlens.figures.heads import BY_KEY, most_changed
from summlens.figures.picture import PLOTLY_CONFIG, last_frame
from summlens.figures.rundata import Missing, RunData
from summlens.figures.scores import comparison, label, main_score, score_names, systems, title
from summlens.figures.style import ACCENT, GRID, INK, MUTED, PAPER
from summlens.report import answer, examples, explorer, head_table

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
    table = _part(lambda: _score_table(data), missing, "Score table", TRAIN, None)
    maps = _part(lambda: explorer.prepare(data), missing, "Head explorer and information flow", ANALYSE, None)
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
        head_columns=[BY_KEY[key] for key in head_table.COLUMNS if heads and key in heads[0].numbers],
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


def inline_svg(svg: str, name: str) -> Markup:
    """A matplotlib SVG as part of the page: ids unique to `name`, and inks that follow the page's light or dark."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="(?:figure|axes|patch|matplotlib\.axis|xtick|ytick|line2d|text|\w+)_\d+"', "<g", svg)
    seen: set[str] = set()  # two colour bars with one scale are one image, written twice under one id
    svg = re.sub(r' id="([^"]*)"', lambda m: "" if m[1] in seen else seen.add(m[1]) or f' id="{name}-{m[1]}"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for ink, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid"), (PAPER, "paper"), (ACCENT, "accent")):
        svg = svg.replace(f"fill: {ink}", f"fill: var(--{variable})").replace(
            f"stroke: {ink}", f"stroke: var(--{variable})"
        )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # the page's own font
    svg = _smaller(svg)
    # The width in points is kept as bounds, so that text has one size in all figures and narrow screens scroll.
    points = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    bounds = f"max-width: {1.45 * points:.0f}px; min-width: {points:.0f}px"
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return Markup(svg.replace("<svg", f'<svg aria-hidden="true" focusable="false" style="{bounds}"', 1))


def _smaller(svg: str) -> str:
    """The same drawing in fewer characters: a hundredth of a point is enough, and nobody reads the indentation."""
    svg = svg.replace("font-family: 'DejaVu Sans', sans-serif; ", "")  # the style sheet names the page's own
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = re.sub(r' (d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    while "<g></g>" in svg or "<g/>" in svg:
        svg = svg.replace("<g></g>", "").replace("<g/>", "")
    return svg


def prose(text: str, known: set[str]) -> Markup:
    """`text` with every "head 3.1" of the head table linked, true minus signs, and no line break before % or a head."""

    def link(match: re.Match) -> str:
        anchor = match[2].replace(".", "-")
        word = match[1].replace(" ", "\u00a0")
        return f'{word}<a href="#head-{anchor}">{match[2]}</a>' if match[2] in known else word + match[2]

    linked = re.sub(r"([Hh]ead )(\d+\.\d+)\b", link, str(escape(text)))
    return Markup(re.sub(r"(?<![\w-])-(?=\d+\.)", "−", linked).replace(" %", "\u00a0%"))


def _score_table(data: RunData) -> dict:
    table = systems(data)
    names = score_names(table)
    rows = [
        {"system": system, "label": label(data, system), "scores": [table[system].get(score) for score in names]}
        for system in table
    ]
    paired = []
    for other in table:
        found = [comparison(data, "fine_tuned", other, score) for score in names]  # None where nothing was compared
        if other != "fine_tuned" and any(found):
            paired.append((label(data, other), found))
    return {
        "columns": [title(score) for score in names],
        "rows": rows,
        "paired": paired,
        "articles": (data.evaluation or {}).get("articles", "?"),
        "recipe": _recipe((data.evaluation or {}).get("settings") or {}),
        "groups": [
            _group_table(data, column, values) for column, values in (data.evaluation.get("groups") or {}).items()
        ],
    }


RECIPE = {  # setting of the evaluation: how the caption names it
    "rouge_recipe": "ROUGE",
    "sentence_splitter": "sentences",
    "wordnet": "METEOR's synonyms",
    "max_new_tokens": "new tokens at most",
    "num_beams": "beams",
    "test": "p-values",
}


def _recipe(settings: dict) -> str:
    """How the scores were made, in one line; what was not saved is left out, what was not there is "none"."""
    named = [f"{name}: {settings[key] or 'none'}" for key, name in RECIPE.items() if key in settings]
    return "; ".join(named)


def _group_table(data: RunData, column: str, values: dict) -> dict:
    """The main score of every system, by the value that the articles have in `column`; the largest groups first."""
    score = main_score(data)
    names = [name for name, scores in systems(data).items() if score in scores]
    rows = [
        (value, group.get("articles"), [_saved_score(group, name, score) for name in names])
        for value, group in sorted(values.items(), key=lambda item: (-(item[1].get("articles") or 0), item[0]))
    ]
    return {"column": column, "score": title(score)[0], "systems": [label(data, name) for name in names], "rows": rows}


def _saved_score(group: dict, system: str, score: str) -> dict | None:
    return group.get("systems", {}).get(system, {}).get("scores", {}).get(score)


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
