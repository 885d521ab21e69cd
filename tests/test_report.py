"""The report: its words, its tables, what it escapes, and that a browser opens it from disk without a complaint."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic_run
from PIL import Image

from summlens import figures
from summlens.artifacts import Run
from summlens.figures import scores
from summlens.figures.kit.picture import new_figure, render
from summlens.report import answer, examples
from summlens.report import page as report_page
from summlens.report.page import Made, head_explorer, templates
from summlens.report.svg import inline_svg, prose

ROOT = Path(__file__).resolve().parent.parent


def visualize(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "visualize_metrics.py", "--output-dir", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A small run with its report."""
    run = synthetic_run.write(tmp_path_factory.mktemp("run"), layers=3, heads=4, steps=4, articles=5, tests=9)
    done = visualize(run.root)
    assert done.returncode == 0, done.stderr
    assert "interpretability_report.html" in done.stdout
    return run


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run.visualizations / "interpretability_report.html").read_text()


@pytest.fixture
def data(run):
    return figures.load(run)


class Text(HTMLParser):
    """What a reader sees, and the tags and addresses of the page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.ids, self.addresses, self.alternatives, self.words, self.hidden = [], [], [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[name] for name in ("src", "href", "srcset") if attributes.get(name)]
        if tag == "img" or attributes.get("role") == "img":
            self.alternatives.append(attributes.get("alt") or attributes.get("aria-label"))
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.words.append(data)


@pytest.fixture(scope="module")
def text(page) -> Text:
    return Text(page)


def test_page_stands_alone(page, text, run):
    assert len(page) < 15_000_000
    outside = [a for a in text.addresses if not a.startswith(("data:", "#"))]
    assert outside and all((run.visualizations / address).is_file() for address in outside)  # the list of files
    assert page.count("plotly.js v") == 1 or page.count("Plotly=") <= 2
    assert "default-src 'none'" in page
    assert len(text.ids) == len(set(text.ids))
    assert {a[1:] for a in text.addresses if a.startswith("#")} <= set(text.ids)


def test_every_figure_is_there_and_says_its_finding(page, text):
    assert {entry.name for entry in figures.CATALOGUE} <= set(text.ids)
    assert all(alternative and len(alternative) > 30 for alternative in text.alternatives)
    assert "n = 5 probe articles" in page and "does not cover another training seed" in page


def test_article_is_text(page, text):
    assert synthetic_run.HOSTILE not in page
    assert synthetic_run.HOSTILE in "".join(text.words)


def test_score_table_holds_every_system_with_its_interval(page, data):
    for system in data.evaluation["systems"].values():
        for score in system["scores"].values():
            cell = f"{score['mean']:.1f}<small>[{score['low']:.1f}, {score['high']:.1f}]</small>"
            assert cell in page
        assert system["label"] in page


def cells_of(page: str, name: str) -> dict[tuple[str, str], str]:
    """{(row heading, column heading): text} of the table in the region of that name."""
    region = page[page.index(f'aria-label="{name}"') :]
    region = region[: region.index("</table>")]
    columns = [
        html.unescape(re.sub("<small>.*?</small>", "", c)) for c in re.findall(r'scope="col">(.*?)</th>', region)
    ]
    cells = {}
    for row in re.findall(r'<tr[^>]*><th scope="row">.*?</tr>', region, re.S):
        heading = re.search(r'<th scope="row">(.*?)</th>', row, re.S)[1]
        values = re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)
        assert len(values) == len(columns) - 1, (
            f"{name}: {heading} has {len(values)} cells below {len(columns)} headings"
        )
        for column, value in zip(columns[1:], values, strict=True):
            cells[heading, column] = html.unescape(re.sub("<[^>]+>", " ", value)).replace("−", "-")
    return cells


def test_score_tables_hold_every_value_below_its_own_heading(data):
    """Also where a system lacks scores: the reference has a length only, and Lead-3 loses its first comparison here."""
    data.evaluation["comparisons"] = [
        c for c in data.evaluation["comparisons"] if (c["b"], c["score"]) != ("lead3", "rouge1")
    ]
    page = report_page.html(data, Made())
    means, differences = cells_of(page, "Scores of every system"), cells_of(page, "Paired differences")
    names = {score: scores.title(score)[0] for score in (*synthetic_run.SCORES, "length")}
    for system in data.evaluation["systems"].values():
        for score, name in names.items():
            saved = system["scores"].get(score)
            shown = means[system["label"], name]
            assert shown.startswith("–" if saved is None else f"{saved['mean']:.1f} ")
    saved = {(c["b"], c["score"]): c for c in data.evaluation["comparisons"]}
    for other in ("zero_shot", "lead3", "reference"):
        for score, name in names.items():
            shown, expected = differences[synthetic_run.SYSTEMS[other][0], name], saved.get((other, score))
            if expected is None:
                assert shown == "–"
            else:
                assert shown.split()[0] == f"{expected['difference']:+.1f}"
                assert shown.split("]")[1].strip() == ("p < 0.001" if other == "zero_shot" else "p = 0.040")
    assert (differences["Reference", "ROUGE-1"], differences["Lead-3", "ROUGE-1"]) == ("–", "–")


def test_groups_of_articles_and_the_recipe_of_the_scores(page, data):
    cells = cells_of(page, "ROUGE-1 by kind")
    for kind, group in data.evaluation["groups"]["kind"].items():
        assert cells[kind, "n"] == str(group["articles"])
        for system, (name, _) in synthetic_run.SYSTEMS.items():
            if system != "reference":
                assert cells[kind, name].startswith(f"{group['systems'][system]['scores']['rouge1']['mean']:.1f} ")
    assert "ROUGE: rouge_score; sentences: punkt; METEOR&#39;s synonyms: none; new tokens at most: 64" in page


def test_head_table_ranks_by_kl_and_opens_every_number(page, data):
    rows = figures.heads.most_changed(data)
    table = page[page.index('id="head-table"') :]
    anchors = re.findall(r'<th scope="row"><a href="#(head-\d+-\d+)">', table)
    assert anchors == [f"head-{row.layer}-{row.head}" for row in rows]
    details = table[table.index('<details id="head-2-0">') :]
    details = details[: details.index("</details>")]
    assert "Copy score, first token removed" in details and "Weight change, query" in details
    causes, control = data.causal["patching"]["noising"]["heads"], data.control_arrays["shuffled-pairs/heads/kl/task"]
    assert "in fine-tuned" in details and f"{100 * causes['share'][2][0]:+.1f}".replace("-", "−") in details
    assert "further than in that control" in details and f'class="sure">{control[0, 2, 0]:+.3f}</span>' in details
    base, tuned, change, low, high = rows[0].numbers["sparsity"]
    assert f"<td>{base:.3f}</td><td>{tuned:.3f}</td>" in details


def test_sentences_link_the_heads_they_name():
    assert prose("head 2.0 fell by -0.5 bits; head 1.1 <b>", {"2.0"}) == (
        'head\u00a0<a href="#head-2-0">2.0</a> fell by −0.5 bits; head\u00a01.1 &lt;b&gt;'
    )


def test_signs_are_left_away_where_nothing_is_left_of_the_number():
    signed = templates(set()).get_template("macros.html.j2").module.signed
    numbers = (0.0004, -0.0004, -0.0016, 12.0, float("nan"))
    assert [signed(number, 3) for number in numbers] == ["0.000", "0.000", "−0.002", "+12.000", "–"]


def test_drawings_get_smaller_and_stay_the_same():
    with figures.styled():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([0.123456, 0.654321], [1, 2])
        axes.set(title="0.123456  and\nmore", xticks=[0.123456])
        before = render(figure, "svg").decode()
    after = str(inline_svg(before, "name"))
    texts = lambda svg: [" ".join(text.split()) for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.S)]  # noqa: E731
    assert texts(after) == texts(before) and any("0.123456" in text for text in texts(after))
    assert len(after) < 0.8 * len(before)
    places = [
        [float(n) for path in re.findall(r' d="([^"]*)"', svg) for n in re.findall(r"-?[\d.]+", path)]
        for svg in (before[before.index("<svg") :], after)
    ]
    assert len(places[0]) == len(places[1]) > 20 and places[1] == pytest.approx(places[0], abs=0.01)


def test_paper_and_readers_who_want_no_motion_get_the_last_frame(page, run):
    figure = page[page.index('<figure id="heads_evolution">') :]
    still = re.search(r'class="still" src="data:image/png;base64,([^"]+)"', figure)[1]
    with Image.open(run.visualizations / "heads_evolution.gif") as animation:
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("RGB")).astype(int)
    with Image.open(io.BytesIO(base64.b64decode(still))) as image:
        assert np.abs(np.asarray(image.convert("RGB")) - last).mean() < 3


# --- the answer


def set_difference(data, other, difference, low, high):
    for saved in data.evaluation["comparisons"]:
        if saved["b"] == other and saved["score"] == "rouge1":
            saved.update(difference=difference, low=low, high=high)


def test_answer_quotes_numbers_and_intervals(data):
    better, changed, noise, cause = (text for _, text in answer.sentences(data))
    against = {saved["b"]: saved for saved in data.evaluation["comparisons"] if saved["score"] == "rouge1"}
    for other in ("zero_shot", "lead3"):
        saved = against[other]
        assert f"{saved['difference']:+.1f} [{saved['low']:+.1f}, {saved['high']:+.1f}] points" in better
    assert better.startswith("The fine-tuned model writes better summaries") and "than Lead-3" in better
    assert "head 2.0 (" in changed and "CKA with base" in changed
    assert "moved attention 60 % [50, 70] as far." in noise
    assert all(text.endswith(".") for text in (better, changed, noise, cause))
    assert any("shuffled-pairs control moved attention 60 % [50, 70] as far" in one for one in answer.details(data))


def test_answer_says_when_there_is_no_difference(data):
    data.causal = data.controls = None
    set_difference(data, "zero_shot", 0.3, -1.0, 1.6)
    set_difference(data, "lead3", -5.0, -7.0, -3.0)
    data.last.arrays.update({k: v for k, v in data.first.arrays.items() if k.startswith("attention/")})
    data.latent_arrays["cka/same_layer"] = np.ones((3, 4))
    better, changed, noise, cause = (text for _, text in answer.sentences(data))
    assert better.startswith("No difference between the fine-tuned model and the model before fine-tuning (zero-shot)")
    assert "the fine-tuned model's are worse than Lead-3 (-5.0 [-7.0, -3.0] points)." in better
    assert "No attention head differs from the base model" in changed and "stayed nearly the same" in changed
    assert "not tested" in noise and "not tested" in cause
    assert any(
        one.startswith("None of 12 heads spreads its attention wider or narrower") for one in answer.details(data)
    )


def test_answer_says_where_representations_changed_more_than_noise(data):
    def represented():
        return answer.sentences(data)[1][1].split("; ")[1]

    against = "beyond what the choice of articles, rounding and another training seed would do"
    assert represented() == (
        f"the representation of an article changed {against} at 2 of 4 layers, counting the embeddings, most at "
        "layer 3 of 3 (CKA with base 0.50 [0.45, 0.55])."
    )
    row = data.latent["noise_floor"]["layers"]["cka"]
    row["flag"] = [False, True, True, False]
    assert "most at layer 2 of 3 (CKA with base 0.67" in represented()
    row["flag"] = [False] * 4
    assert represented() == (
        f"no layer's representation of an article changed {against} (CKA with base nowhere below 0.50 [0.45, 0.55])."
    )
    row["of"] = 0  # nothing to compare with
    assert represented().startswith("the representation of an article changed most at layer 3 of 3 (CKA")
    row.update(flag=[True] * 4, of=4)
    data.latent_arrays["cka/same_layer"] = np.full((3, 4), 0.995)
    assert represented().startswith("the representations stayed nearly the same in every layer (CKA nowhere below 0.9")
    assert represented().endswith(f"though they changed {against} at 4 of 4 layers, counting the embeddings.")


def test_answer_names_the_floors_and_leaves_no_doubt_about_seeds(data):
    data.controls = None
    floor = data.causal["noise_floor"]
    floor["floors"] = {"sampling": "", "numerical": "", "seed": ""}
    noise = answer.sentences(data)[2][1]
    assert noise.startswith("Beyond what the choice of articles, rounding and another training seed would do")
    assert "was not tried" not in noise and "control that could learn" not in noise
    floor["floors"] = {"sampling": ""}
    noise = answer.sentences(data)[2][1]
    assert noise.startswith("Beyond what the choice of articles would do") and "was not tried" in noise


def test_answer_of_a_run_without_results():
    empty = figures.RunData(None, {})
    better, changed, noise, cause = (text for _, text in answer.sentences(empty))
    assert better == "Whether the summaries became better is unknown: this run has no evaluation."
    assert "unknown" in changed and "not tested" in noise and "not tested" in cause
    assert answer.details(empty) == []


# --- the examples


def test_overlaps_are_runs_and_single_words():
    reference = "the mayor saw a bridge in town"
    assert examples.mark_overlaps("The Mayor came <to> town; a bridge & the mayor", reference) == (
        '<mark class="run">The Mayor</mark> came &lt;to&gt; <mark class="word">town</mark>; '
        '<mark class="run">a bridge</mark> &amp; <mark class="run">the mayor</mark>'
    )
    assert examples.mark_overlaps("...", "word") == "..." and examples.mark_overlaps("", "word", "word") == ""
    # Both words of a pair must be neighbours in the reference too; "the" alone says nothing.
    assert examples.mark_overlaps("the bridge", "bridge over the river") == 'the <mark class="word">bridge</mark>'
    # Two runs that touch are two runs where the pair between them is not in the reference.
    assert examples.mark_overlaps("a b c d", "c d a b").count('class="run"') == 2


def test_overlaps_with_the_article_are_told_apart_from_those_with_the_reference():
    marked = examples.mark_overlaps("the old mayor <b> came", "an old mayor left", "<i> mayor <b> came. The old one")
    assert marked == (
        '<span class="copied">the </span><mark class="run copied">old</mark><mark class="run"> </mark>'
        '<mark class="run copied">mayor</mark><span class="copied"> &lt;b&gt; came</span>'
    )
    assert "<b>" not in marked


def test_shares_of_words():
    assert examples.share_of_words("The mayor came to town, the bridge", "the mayor in town") == pytest.approx(4 / 7)
    assert examples.share_of_words("...", "word") is None


def test_examples_are_chosen_by_rule(data):
    ours = [row["scores"]["fine_tuned"]["rouge1"] for row in data.predictions]
    gains = [row["scores"]["fine_tuned"]["rouge1"] - row["scores"]["zero_shot"]["rouge1"] for row in data.predictions]
    chosen = {reason: e.id for e in examples.choose(data) for reason in e.reason.lower().split(" and ")}
    order = np.argsort(ours)
    expected = {
        "best": order[-1],
        "median": order[4],
        "worst": order[0],
        "most changed by fine-tuning": np.argmax(gains),
    }
    assert chosen == {reason: f"test-{index}" for reason, index in expected.items()}


# --- the head explorer


def unpacked(packed: dict, shape) -> np.ndarray:
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), f"<u{packed['bytes']}")
    return values.reshape(shape)


def test_explorer_packs_what_was_saved(run, data):
    prepared = head_explorer.prepare(data)
    saved = run.read_arrays("attention_maps.npz")
    assert [name for name, _, _ in prepared.heads] == prepared.packed["heads"] == ["2.0", "0.0", "0.3"]
    for a, article in enumerate(prepared.packed["articles"]):
        for model in ("base", "fine_tuned"):
            rows = saved[f"rows/{a}/{model}"]
            assert (unpacked(article["rows"][model], rows.shape) == rows).all()
            for method in ("rollout", "value_weighted"):
                for part, packed in article["flow"][method][model].items():
                    expected = saved[f"flow/{a}/{model}/{method}/{part}"]
                    assert (unpacked(packed, expected.shape) == expected).all()
    # The sentence: the mean over articles of the share on the article, its very first token left out.
    shares = [(saved[f"rows/{a}/fine_tuned"][0] / 255.0) ** 2 for a in range(2)]
    expected = 100 * np.mean([one[:, 1 : (8, 5)[a]].sum(1).mean() for a, one in enumerate(shares)])
    assert f"{expected:.0f} % after" in prepared.heads_finding


def test_attention_maps_that_do_not_fit_are_named(data):
    data.map_arrays = {key: value for key, value in data.map_arrays.items() if key != "rows/1/base"}
    page = report_page.html(data, Made())
    assert "Head explorer and information flow: attention_maps.json and .npz do not fit together" in page
    assert 'id="explorer"' not in page
    data.maps = None
    assert "there is no attention_maps.json" in report_page.html(data, Made())


@pytest.mark.parametrize(("layers", "heads", "steps"), [(1, 1, 1), (48, 25, 2)])
def test_report_of_small_and_large_models(tmp_path, layers, heads, steps):
    run = synthetic_run.write(tmp_path, layers=layers, heads=heads, steps=steps, articles=3)
    page = report_page.html(figures.load(run), Made())
    chosen = page[page.index('aria-label="Head" data-part="heads"') :].split("</div>")[0]
    assert len(re.findall('role="radio"', chosen)) == min(3, layers * heads)
    assert ("only one captured step" in page) == (steps == 1)


# --- the command


def test_only_list_and_format(run, tmp_path):
    listed = visualize(run.root, "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed][:1] == ["scores"] and len(listed) == len(figures.CATALOGUE) + 1
    for name in ("run.json", "evaluation.json"):
        target = tmp_path / "interpretability_metrics" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(run.metrics / name, target)
    done = visualize(tmp_path, "--only", "scores", "--only", "heads_kl", "--format", "pdf")
    assert done.returncode == 0 and "heads_kl" not in done.stdout
    assert "not drawn: KL divergence from base, by head: no captured step (python gpt2_summarization.py" in done.stdout
    assert [file.name for file in (tmp_path / "visualizations").iterdir()] == ["scores.pdf"]


def test_mistakes_are_one_line(run, tmp_path):
    for options in (["--only", "nothing"], []):
        done = visualize(run.root if options else tmp_path, *options)
        assert done.returncode != 0 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_what_is_missing_is_named_with_its_command(tmp_path):
    run = synthetic_run.write(tmp_path, layers=2, heads=2, steps=0)
    (run.metrics / "latent_space.json").unlink()
    (run.metrics / "latent_space.npz").unlink()
    (run.metrics / "causal.json").unlink()
    data = figures.load(run)
    made = Made()
    for entry in figures.CATALOGUE:
        try:
            entry.draw(data)
        except figures.Missing as reason:
            made.missing.append((entry.title, str(reason), entry.command))
    page = report_page.html(data, made)
    missing = page[page.index('<section id="missing">') :]
    lines = [html.unescape(re.sub("<[^>]+>", "", line)) for line in re.findall("<li>(.*?)</li>", missing)]
    why = "there is no latent_space.npz that can be read. python analyze_latent_space.py makes them."
    assert any("; Logit lens by layer; " in line and line.endswith(why) for line in lines)
    assert sum(line.endswith("no captured step. python gpt2_summarization.py makes them.") for line in lines) == 1
    named = "; ".join(line.rsplit(": ", 1)[0] for line in lines).split("; ")
    assert {entry.title for entry in figures.CATALOGUE} <= set(named) | {"Scores of every system, with intervals"}
    assert "Plotly" not in Text(page).words and len(page) < 100_000


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    for flag in [*flags.split(), "disable-sync", "host-resolver-rules=MAP * ~NOTFOUND", "enable-unsafe-swiftshader"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    driver.set_script_timeout(90)
    yield driver
    driver.quit()


def opened(browser, run, width: int, scheme: str = "light", plots: str = ".plot"):
    """The report in the browser, with those interactive figures drawn (a 3D one takes seconds without a GPU)."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},  # a page that still scrolls cannot be clicked
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((run.visualizations / "interpretability_report.html").as_uri())
    # Figures are drawn when they come into view: bring each there and wait until it is drawn.
    browser.execute_async_script(
        "const [plots, done] = arguments; const boxes = plots ? [...document.querySelectorAll(plots)] : [];"
        "const wait = () => boxes.every((b) => b.querySelector('.main-svg') || b.classList.contains('empty'))"
        " && document.documentElement.dataset.explorer === 'ready' ? done() : setTimeout(wait, 100);"
        "boxes.forEach((box, i) => setTimeout(() => box.scrollIntoView({behavior: 'instant'}), 200 * i)); wait();",
        plots,
    )
    return browser


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_browser_opens_it_from_disk(browser, run, width, scheme):
    driver = opened(browser, run, width, scheme)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    sticking_out = driver.execute_script(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter((e) => !e.closest('.box svg, .plot, table') &&"
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 200))"
    )
    assert sticking_out == []
    assert driver.title.startswith("What changed inside")  # not what the hostile article asked for
    drawings = driver.execute_script(
        "return [...document.querySelectorAll('.drawing svg')].map((s) => s.getBoundingClientRect().height *"
        "s.querySelectorAll('path').length)"
    )
    assert len(drawings) > 15 and min(drawings) > 0
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(254, 254, 254)", "dark": "rgb(20, 23, 28)"}[scheme]


def test_browser_slider_moves(browser, run):
    driver = opened(browser, run, 1440, plots="#plot-heads_slider")
    shown = (
        "const box = document.getElementById('plot-heads_slider');"
        "return [box.layout.sliders[0].active, Math.max(...box.data[0].z.flat())]"
    )
    last, largest = driver.execute_script(shown)
    driver.execute_async_script(
        "const done = arguments[0]; const box = document.getElementById('plot-heads_slider');"
        "box.scrollIntoView({behavior: 'instant'});"
        "const rail = box.querySelector('.slider-rail-touch-rect').getBoundingClientRect();"
        "const at = {clientX: rail.left + 2, clientY: rail.top + rail.height / 2, bubbles: true, view: window};"
        "const grip = box.querySelector('.slider-rail-touch-rect');"
        "grip.dispatchEvent(new MouseEvent('mousedown', at)); box.dispatchEvent(new MouseEvent('mouseup', at));"
        "document.dispatchEvent(new MouseEvent('mouseup', at)); setTimeout(done, 1200);"
    )
    first, smallest = driver.execute_script(shown)
    assert (last, first) == (3, 0) and largest > 0.1 and smallest == 0


def test_browser_link_opens_the_head(browser, run):
    driver = opened(browser, run, 390, plots="")
    assert not driver.execute_script("return document.getElementById('head-2-0').open")
    driver.execute_script("document.querySelector('#answer a').click()")
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script("return document.getElementById('head-2-0').open")


def part(driver, figure: str, name: str):
    return driver.find_element("css selector", f"#{figure} [data-part={name}]")


def shares(run, model: str, head: int, query: int) -> np.ndarray:
    """What the explorer must show of the first article."""
    return (run.read_arrays("attention_maps.npz")[f"rows/0/{model}"][head, query] / 255.0) ** 2


def percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def test_browser_explorer_answers_clicks_and_keys(browser, run):
    from selenium.webdriver import ActionChains, Keys

    driver = opened(browser, run, 1440, plots="")
    tokens = part(driver, "explorer", "tokens")
    options = tokens.find_elements("css selector", "[role=option]")
    assert len(options) == 1 + 18 - 11 and options[0].get_attribute("aria-selected") == "true"
    options[3].click()  # writes the third summary token: query 2
    assert options[3].get_attribute("aria-selected") == "true"
    before, after = (shares(run, model, 0, 2) for model in ("base", "fine_tuned"))
    said = part(driver, "explorer", "reading").text
    assert said.startswith("Head 2.0, writing “token13”.")
    best = 1 + int(np.argmax(after[1:]))
    assert f"{percent(after[best])}" in said and f"{percent(before[0])} and {percent(after[0])}" in said
    spans = part(driver, "explorer", "fine_tuned").find_elements("css selector", ".token")
    alpha = [driver.execute_script("return arguments[0].style.background", span) for span in spans]
    alpha = np.array([float(re.search(r"([\d.]+)\)$", a)[1]) if "var" in a else 0.0 for a in alpha])
    scale = max(np.sort(one)[-4] for one in (before, after))
    assert alpha == pytest.approx(0.62 * np.sqrt(np.minimum(1, after[:-1] / scale)), abs=2e-3)
    assert "later" in spans[13].get_attribute("class") and "later" not in spans[12].get_attribute("class")
    # A token of the text that is pointed at tells its numbers.
    ActionChains(driver).move_to_element(spans[4]).perform()
    change = 100 * (after[4] - before[4])
    told = part(driver, "explorer", "pointed").text
    assert f"“token4”: base {percent(before[4])}, fine-tuned {percent(after[4])}" in told
    assert f"{abs(change):.1f} points" in told and ("+" in told) == (change > 0)
    # Keys: the arrows within the list of tokens, and within the heads.
    tokens.send_keys(Keys.ARROW_RIGHT)
    assert options[4].get_attribute("aria-selected") == "true"
    assert tokens.get_attribute("aria-activedescendant") == options[4].get_attribute("id")
    tokens.send_keys(Keys.HOME)
    assert "over the whole summary" in part(driver, "explorer", "reading").text
    chosen = part(driver, "explorer", "heads").find_element("css selector", "[aria-checked=true]")
    chosen.send_keys(Keys.ARROW_RIGHT)
    assert driver.switch_to.active_element.text.startswith("0.0")
    assert part(driver, "explorer", "reading").text.startswith("Head 0.0,")
    # The other article.
    part(driver, "explorer", "article").send_keys(Keys.ARROW_DOWN)
    driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert len(tokens.find_elements("css selector", "[role=option]")) == 1 + 13 - 8
    assert synthetic_run.HOSTILE in part(driver, "explorer", "base").text
    assert driver.title.startswith("What changed inside")


def click_heatmap(driver, layer: int, head: int) -> None:
    from selenium.webdriver import ActionChains

    plot = driver.find_element("id", "plot-heads_slider")
    driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", plot)
    x, y = driver.execute_script(
        "const b = arguments[0], f = b._fullLayout, r = b.getBoundingClientRect();"
        "return [f.xaxis._offset + f.xaxis.d2p(arguments[2]) - r.width / 2,"
        " f.yaxis._offset + f.yaxis.d2p(arguments[1]) - r.height / 2]",
        plot,
        layer,
        head,
    )
    ActionChains(driver).move_to_element_with_offset(plot, x, y).pause(0.3).click().perform()
    driver.execute_async_script("setTimeout(arguments[0], 400)")


def test_browser_click_in_the_heatmap_opens_the_head(browser, run):
    driver = opened(browser, run, 1440, plots="#plot-heads_slider")
    click_heatmap(driver, 0, 3)
    assert part(driver, "explorer", "reading").text.startswith("Head 0.3,")
    click_heatmap(driver, 1, 1)  # not among the saved heads
    assert "--explore 1.1" in part(driver, "explorer", "reading").text


def cell(driver, drawing: str, grid: dict, layer: int, head: int):
    """The pointer over a cell of a still heatmap: the drawing, and the cell's centre from the drawing's own centre."""
    element = driver.find_element("css selector", drawing)
    driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", element)
    left, top, width, height = grid["place"]
    x = left + width * (head + 0.5) / grid["heads"] - 0.5
    y = top + height * (layer + 0.5) / grid["layers"] - 0.5
    box = element.rect
    return element, x * box["width"], y * box["height"]


@pytest.mark.parametrize("panel", [0, 2])
def test_browser_still_heatmaps_name_their_cells_and_open_the_head(browser, run, data, panel):
    from selenium.webdriver import ActionChains

    driver = opened(browser, run, 1440, plots="")
    grids = json.loads(driver.execute_script("return document.getElementById('grids').textContent"))
    still = grids["heads_sparsity"][panel]
    before, after = (data.ends("attention/sparsity/summary")[i].mean(0) for i in range(2))
    shown = (before, after, after - before)[panel]
    for layer, head, says in ((0, 3, "Head 0.3,"), (1, 2, "--explore 1.2,")):
        element, x, y = cell(driver, "#heads_sparsity .drawing svg", still, layer, head)
        ActionChains(driver).move_to_element_with_offset(element, x, y).perform()
        name, value = driver.find_element("css selector", ".ring span").text.replace("−", "-").split(": ")
        assert name == f"head {layer}.{head}" and float(value) == pytest.approx(shown[layer, head], rel=6e-3)
        assert element.value_of_css_property("cursor") == "pointer"
        ActionChains(driver).click().perform()
        assert says in part(driver, "explorer", "reading").text
        assert (
            driver.execute_script("return Math.abs(document.querySelector('#explorer').getBoundingClientRect().top)")
            < 2
        )
        driver.back()
    # Beside the cells there is nothing to open.
    ActionChains(driver).move_to_element_with_offset(element, -element.rect["width"] / 2 + 2, 0).perform()
    assert element.value_of_css_property("cursor") != "pointer"
    assert not driver.find_element("css selector", ".ring").is_displayed()


def test_browser_animation_opens_the_head(browser, run):
    from selenium.webdriver import ActionChains

    driver = opened(browser, run, 390, plots="")
    grids = json.loads(driver.execute_script("return document.getElementById('grids').textContent"))
    element, x, y = cell(driver, "#heads_evolution .still", grids["heads_evolution"][1], 2, 0)
    ActionChains(driver).move_to_element_with_offset(element, x, y).perform()
    assert driver.find_element("css selector", ".ring span").text == "head 2.0"
    ActionChains(driver).click().perform()
    assert part(driver, "explorer", "reading").text.startswith("Head 2.0,")


def test_every_figure_with_head_cells_says_that_they_open(page):
    for name in (
        "heads_evolution",
        "heads_slider",
        "heads_kl",
        "causal_ablation",
        "causal_patching",
        "weight_change_heads",
    ):
        figure = page[page.index(f'<figure id="{name}">') :]
        assert "Click a cell to see where that head looks." in figure[: figure.index("</figure>")]
    figure = page[page.index('<figure id="representation_similarity">') :]
    assert "Click a cell" not in figure[: figure.index("</figure>")]


def test_browser_shows_one_text_at_a_time_on_a_phone(browser, run):
    driver = opened(browser, run, 390, plots="")
    texts = [part(driver, "explorer", view) for view in ("base", "fine_tuned", "difference")]
    assert [text.is_displayed() for text in texts] == [False, True, False]
    part(driver, "explorer", "views").find_elements("css selector", "button")[2].click()
    assert [text.is_displayed() for text in texts] == [False, False, True]


def test_browser_draws_the_flow_above_the_threshold(browser, run):
    from selenium.webdriver import Keys

    driver = opened(browser, run, 390, plots="")
    saved = run.read_arrays("attention_maps.npz")

    def lines(query: int, method: str, least: float) -> int:
        found = 0
        for model in ("base", "fine_tuned"):
            count = saved[f"flow/0/{model}/{method}/count"].astype(int)
            start, length = count[:query].sum(), count[query].sum()
            weight = (saved[f"flow/0/{model}/{method}/weight"][start : start + length] / 255.0) ** 2
            found += int((weight >= least).sum())
        return found

    def drawn() -> int:
        return driver.execute_script("return document.querySelectorAll('#flow .edge').length")

    tokens = part(driver, "flow", "tokens")
    tokens.find_elements("css selector", "[role=option]")[4].click()
    assert drawn() == lines(4, "rollout", 0.002 * 1.5**2)
    part(driver, "flow", "threshold").send_keys(Keys.END)
    assert drawn() == lines(4, "rollout", 0.002 * 1.5**10) < lines(4, "rollout", 0.002)
    part(driver, "flow", "methods").find_elements("css selector", "button")[1].click()
    driver.execute_async_script("setTimeout(arguments[0], 200)")
    assert drawn() == lines(4, "value_weighted", 0.002 * 1.5**10)
    assert "by value-weighted attention" in part(driver, "flow", "reading").text
    tokens.send_keys(Keys.ARROW_LEFT)
    assert "“token14”" in part(driver, "flow", "reading").text
    assert "article" in part(driver, "flow", "graph").get_attribute("aria-label")
