"""Two runs side by side: what is drawn, what is said, and what cannot be compared."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic_run

from summlens import figures
from summlens.figures import two_runs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    a = synthetic_run.write(folder / "one", layers=3, heads=4, steps=3, articles=5, tests=9)
    b = synthetic_run.write(folder / "two", layers=3, heads=4, steps=2, articles=7, tests=6, seed=4)
    return a, b


@pytest.fixture
def pair(runs):
    return tuple(figures.load(run) for run in runs)


@pytest.fixture(autouse=True)
def style():
    with figures.styled():
        yield


def test_scores_of_both_runs_and_their_paired_difference(pair):
    a, b = pair
    picture = two_runs.scores(a, b)
    axes = picture.figure.axes[0]
    drawn = sorted(line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()))
    systems = [s for s in synthetic_run.SYSTEMS if s != "reference"]
    saved = [data.evaluation["systems"][s]["scores"]["rouge1"]["mean"] for data in pair for s in systems]
    assert drawn == pytest.approx(sorted(saved))
    ours, theirs = ({row["id"]: row["scores"]["fine_tuned"]["rouge1"] for row in data.predictions} for data in pair)
    difference = sum(theirs[i] - ours[i] for i in theirs) / 6  # B has test articles 0 to 5, A 0 to 8
    assert f"B minus A is {difference:+.1f} [" in picture.finding and "n = 6 test articles" in picture.finding
    assert "n = 9 and 6" in picture.reading
    b.predictions = [{**row, "id": "other"} for row in b.predictions]
    assert "share no test article" in two_runs.scores(a, b).finding


def test_heads_stand_at_their_divergence_in_both_runs(pair):
    a, b = pair
    picture = two_runs.heads(a, b)
    points = picture.figure.axes[0].collections[-1].get_offsets()
    x, y = (data.last.arrays["attention/kl/summary"].mean(0).ravel() for data in pair)
    assert np.asarray(points) == pytest.approx(np.stack([x, y], 1), abs=1e-6)
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    assert f"Spearman correlation of {np.corrcoef(*ranks)[0, 1]:.2f}" in picture.finding
    assert picture.figure.axes[0].get_xlim() == picture.figure.axes[0].get_ylim()


def test_layers_hold_the_mean_over_heads_and_articles(pair):
    kl = two_runs.layers(*pair).figure.axes[0]
    for line, data in zip(kl.lines, pair, strict=True):
        expected = (data.last.arrays["attention/kl/summary"] - data.first.arrays["attention/kl/summary"]).mean((0, 2))
        assert line.get_ydata() == pytest.approx(expected, abs=1e-6)
    assert [axes.get_title(loc="left") for axes in two_runs.layers(*pair).figure.axes][-1] == two_runs.CKA


def test_command_writes_one_page_and_names_what_it_cannot_compare(runs, tmp_path):
    other = synthetic_run.write(tmp_path / "<b>deep", layers=2, heads=2, steps=2, articles=4)
    command = [sys.executable, "visualize_metrics.py", "--compare", runs[0].root, other.root, "--output-dir", tmp_path]
    done = subprocess.run([*map(str, command), "--format", "png"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "heads cannot be compared: A has 3 layers of 4 heads, B 2 layers of 2 heads" in done.stdout
    page = (tmp_path / "visualizations" / "comparison.html").read_text()
    assert "A: one" in page and "B: &lt;b&gt;deep" in page and "<b>deep" not in page
    assert page.count("<svg") == 2 and "A has 3 layers of 4 heads" in page
    assert not (tmp_path / "visualizations" / "compare_scores.svg").exists()
    command[3] = str(tmp_path / "nothing")
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.count("\n") == 1 and "run.json is not there" in done.stderr
