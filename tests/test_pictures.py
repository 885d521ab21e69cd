"""The README's pictures: the diagram keeps its words in its boxes, and the command writes what it says."""

import io
import shutil

import numpy as np
import pytest
import synthetic_run
from PIL import Image

from summlens import figures
from summlens.figures.framework import ARROWS, BOXES, framework
from summlens.report import pictures


def test_diagram_keeps_every_word_inside_a_box_and_every_box_inside_the_figure():
    with figures.styled():
        figure = framework()
        figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches[: len(BOXES)]]
    assert len(axes.patches) == len(BOXES) + len(ARROWS) and len(axes.texts) == 2 * len(BOXES)
    for text in axes.texts:
        extent = text.get_window_extent()
        assert any(b.x0 < extent.x0 and extent.x1 < b.x1 and b.y0 < extent.y0 and extent.y1 < b.y1 for b in boxes), text
    for title, lines in zip(axes.texts[::2], axes.texts[1::2], strict=True):
        assert lines.get_window_extent().y1 < title.get_window_extent().y0
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_pictures_of_a_run(tmp_path, monkeypatch):
    run = synthetic_run.write(tmp_path, layers=2, heads=3, steps=3, articles=4)
    data = figures.load(run)
    files, notes = pictures.write(data)
    assert [file.name for file in files] == ["framework.png", "heads_kl.png", "cover.gif"]
    assert all(file.parent == run.images for file in files) and "interpretability_report.html is not there" in notes[0]
    with Image.open(io.BytesIO((run.images / "cover.gif").read_bytes())) as cover:
        assert cover.n_frames == 3
    page = run.visualizations / "interpretability_report.html"
    page.parent.mkdir()
    page.write_text("<body style='background: #ff0000'>")
    monkeypatch.setattr(pictures, "BROWSERS", ())
    assert pictures.write(data)[1] == ["report.png: there is no chromium on this machine"]
    monkeypatch.undo()
    if not any(map(shutil.which, pictures.BROWSERS)):
        pytest.skip("no chromium on this machine")
    files, notes = pictures.write(data)
    assert files[-1].name == "report.png" and notes == []
    assert np.asarray(Image.open(files[-1]).convert("RGB"))[10, 10].tolist() == [255, 0, 0]


def test_a_run_without_captures_has_no_pictures(tmp_path):
    with pytest.raises(figures.Missing):
        pictures.write(figures.load(synthetic_run.write(tmp_path, layers=1, heads=2, steps=0)))
