"""comparison.html: two runs side by side on one self-contained page."""

from pathlib import Path

from markupsafe import Markup

from summlens import __version__, figures
from summlens.artifacts import write_atomically
from summlens.figures import two_runs
from summlens.figures.kit.rundata import Missing, RunData
from summlens.report.page import HERE, facts, figure, templates

NAME = "comparison"


def write(a: RunData, b: RunData, folder: Path, formats: tuple[str, ...]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw both runs into `folder`. Returns the files written and what could not be compared, with its reason."""
    pictures, missing, files = [], [], []
    with figures.styled():
        for draw in two_runs.DRAWN:
            try:
                picture = draw(a, b)
            except Missing as reason:
                missing.append((draw.__name__, str(reason)))
                continue
            files += figures.save(picture, folder, formats)
            pictures.append(figure(picture))
    page = (
        templates(set())
        .get_template("side_by_side.html.j2")
        .render(
            css=Markup((HERE / "style.css").read_text()),
            runs=[("A", a.run.root.resolve().name, facts(a)), ("B", b.run.root.resolve().name, facts(b))],
            figures=pictures,
            missing=missing,
            problems=[f"{name}: {problem}" for name, data in (("A", a), ("B", b)) for problem in data.problems],
            version=__version__,
        )
    )
    return [*files, write_atomically(folder / f"{NAME}.html", page.encode())], missing
