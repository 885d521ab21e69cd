"""comparison.html: two runs side by side on one self-contained page."""

from pathlib import Path

from markupsafe import Markup

from summlens import __version__, figures, report
from summlens.artifacts import write_atomically
from summlens.figures import compare
from summlens.figures.rundata import Missing, RunData

NAME = "comparison"


def write(a: RunData, b: RunData, folder: Path, formats: tuple[str, ...]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Draw both runs into `folder`. Returns the files written and what could not be compared, with its reason."""
    pictures, missing, files = [], [], []
    with figures.styled():
        for draw in compare.DRAWN:
            try:
                picture = draw(a, b)
            except Missing as reason:
                missing.append((draw.__name__, str(reason)))
                continue
            files += figures.save(picture, folder, formats)
            pictures.append(report.figure(picture))
    page = (
        report.templates(set())
        .get_template("side_by_side.html.j2")
        .render(
            css=Markup((report.HERE / "style.css").read_text()),
            runs=[("A", a.run.root.resolve().name, report.facts(a)), ("B", b.run.root.resolve().name, report.facts(b))],
            figures=pictures,
            missing=missing,
            problems=[f"{name}: {problem}" for name, data in (("A", a), ("B", b)) for problem in data.problems],
            version=__version__,
        )
    )
    return [*files, write_atomically(folder / f"{NAME}.html", page.encode())], missing
