"""The README's pictures, made from a finished run: the framework diagram, the KL heatmap, the cover, the report."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from summlens import figures
from summlens.artifacts import write_atomically
from summlens.figures import heads
from summlens.figures.framework import framework
from summlens.figures.kit.picture import render, settle
from summlens.figures.kit.rundata import RunData

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREEN = "1200,1500"


def write(data: RunData) -> tuple[list[Path], list[str]]:
    """Write framework.png, heads_kl.png, cover.gif and, where there is a Chromium and a report, report.png into the
    run's images/. Returns the files and why others could not be made. Raises Missing for a run without captures."""
    folder, notes = data.run.images, []
    with figures.styled():
        kl = heads.heatmap(data, "kl").figure
        settle(kl)
        contents = {
            "framework.png": render(framework(), "png"),
            "heads_kl.png": render(kl, "png"),
            "cover.gif": heads.evolution(data).animation,
        }
    page = data.run.visualizations / "interpretability_report.html"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not page.is_file():
        notes.append(f"report.png: {page} is not there; run visualize_metrics.py without --readme first")
    elif browser is None:
        notes.append("report.png: there is no chromium on this machine")
    else:
        contents["report.png"] = _photograph(browser, page)
    return [write_atomically(folder / name, content) for name, content in contents.items()], notes


def _photograph(browser: str, page: Path) -> bytes:
    """The first screen of the page as a PNG."""
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "report.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={SCREEN}"]
        options += [f"--user-data-dir={scratch}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command = [browser, *options, f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return shot.read_bytes()
