"""Entry point 3: every figure and the HTML report of a run, from its saved files only. No model, no GPU, no network."""

import argparse
import time
from pathlib import Path

from summlens.artifacts import Run
from summlens.core.errors import UserError, one_line_errors

PROJECT = Path(__file__).resolve().parent
FORMATS = ("png", "svg", "pdf")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=PROJECT, help="the run: where its six folders are")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="make only this figure (repeat for more); names: --list"
    )
    parser.add_argument("--list", action="store_true", help="print the names of all figures and stop")
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="file format of the still figures (repeat for more); without it PNG and SVG",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("RUN_A", "RUN_B"),
        help="only put two runs side by side: comparison.html",
    )
    parser.add_argument(
        "--readme", action="store_true", help="only make the README's pictures of a finished run: images/"
    )
    return parser.parse_args(arguments)


def print_names(names: dict[str, str]) -> None:
    for name, title in names.items():
        print(f"{name:28} {title}")


def chosen_names(only: list[str] | None, names: dict[str, str]) -> set[str]:
    """The figures asked for: all of them, or those named by --only."""
    unknown = [name for name in only or [] if name not in names]
    if unknown:
        raise UserError(f"there is no figure named {unknown[0]!r}: --list prints the names")
    return set(only or names)


def draw_figures(data, catalogue, wanted: set[str], formats: tuple[str, ...], made) -> None:
    """Draw and save the wanted figures; what this run has no data for is noted with the command that makes them."""
    from tqdm import tqdm

    from summlens import figures

    with figures.styled():
        for entry in tqdm([entry for entry in catalogue if entry.name in wanted], desc="figures", unit="figure"):
            try:
                picture = entry.draw(data)
            except figures.Missing as reason:
                made.missing.append((entry.title, str(reason), reason.command or entry.command))
                continue
            made.pictures.append((entry, picture))
            made.files += figures.save(picture, data.run.visualizations, formats)


def load_run(folder: Path):
    """A run's saved files, with a progress bar over its captures."""
    from tqdm import tqdm

    from summlens import figures

    return figures.load(Run(folder), progress=lambda steps: tqdm(steps, desc="captures", unit="step"))


def say_what_was_written(made, problems: list[str], folder: Path, seconds: float) -> None:
    for problem in problems:
        print(f"note: {problem}")
    for (reason, command), titles in made.by_reason().items():
        print(f"not drawn: {'; '.join(titles)}: {reason} ({command} makes {'it' if len(titles) == 1 else 'them'})")
    print(f"{len(made.files)} files in {folder} ({seconds:.0f} s):")
    for file in made.files:
        print(f"  {file.name:40} {file.stat().st_size / 1000:8,.0f} kB")


if __name__ == "__main__":
    with one_line_errors():
        started = time.monotonic()
        options = parse()

        # Drawing is loaded only now, so that --help answers at once.
        from summlens import figures
        from summlens.report import page, pictures, side_by_side

        names = {entry.name: entry.title for entry in figures.CATALOGUE} | {page.NAME: "The report (HTML)"}
        formats = tuple(options.format or ("png", "svg"))
        if options.list:
            print_names(names)
        elif options.compare:
            runs, made = [load_run(folder) for folder in options.compare], page.Made()
            folder = Run(options.output_dir).visualizations
            made.files, missing = side_by_side.write(*runs, folder, formats)
            problems = [f"{name} cannot be compared: {reason}" for name, reason in missing]
            say_what_was_written(made, problems, folder, time.monotonic() - started)
        elif options.readme:
            data, made = load_run(options.output_dir), page.Made()
            try:
                made.files, problems = pictures.write(data)
            except figures.Missing as reason:
                raise UserError(f"{options.output_dir} has no finished run to picture: {reason}") from None
            say_what_was_written(made, problems, data.run.images, time.monotonic() - started)
        else:
            wanted = chosen_names(options.only, names)
            run = Run(options.output_dir)
            data = load_run(run.root)
            made = page.Made()
            # The report shows every figure, whichever files were asked for.
            drawn = set(names) if page.NAME in wanted else wanted
            draw_figures(data, figures.CATALOGUE, drawn, formats, made)
            if page.NAME in wanted:
                with figures.styled():
                    made.files.append(page.write(data, made))
            say_what_was_written(made, data.problems, run.visualizations, time.monotonic() - started)
