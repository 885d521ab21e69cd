"""Causes: what the loss of the reference summary does when a part is taken out, or taken from the other model."""

import numpy as np

from summlens.core.words import percent, quoted
from summlens.figures.kit.grid import cells, cells_over, rows_of
from summlens.figures.kit.marks import ARTICLES_ONLY, colour_bar, heatmap_height, line
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData
from summlens.figures.kit.style import ACCENT, BASE, CATEGORIES, DIVERGING, INK, MUTED, diverging_norm
from summlens.names import CHOOSERS, DIRECTIONS, FLOORS, HEAD, MOVED, WHOLE_SITES

MARKERS = {"sampling": "o", "numerical": "s", "seed": "D"}  # of the noise floors


def part(data: RunData, *path: str) -> dict:
    """A part of causal.json. Raises Missing with the reason that the file itself gives, where it gives one."""
    if data.causal is None:
        raise Missing("there is no causal.json that can be read")
    found = data.causal
    for key in path:
        if key not in found:
            exact = None if data.causal.get("exact", True) else "python analyze_latent_space.py --causal exact"
            left_out = data.causal.get("left_out") or {}
            raise Missing(left_out.get(path[0], f"causal.json holds no {'/'.join(path)}"), exact)
        found = found[key]
    return found


def numbers(table: dict, key: str) -> np.ndarray:
    """One of a table's lists as an array; null is NaN."""
    return np.array(table[key], dtype=float)


def strongest(table: dict, key: str) -> tuple[int, ...]:
    """The place of the largest value among those that the false-discovery control names, or of all if it names none."""
    values, flag = numbers(table, key), np.array(table["flag"], dtype=bool)
    values = np.where(np.isfinite(values), values, -np.inf)
    return tuple(
        int(i) for i in np.unravel_index(np.argmax(np.where(flag | ~flag.any(), values, -np.inf)), values.shape)
    )


def cell(table: dict, key: str, place: tuple[int, ...], scale: float = 1.0, digits: int = 3) -> str:
    """A table's value with its interval, as it stands in a sentence."""
    return quoted(*(scale * numbers(table, name)[place] for name in (key, "low", "high")), digits)


def ablation(data: RunData) -> Picture:
    """Rise of the loss without each head, base and fine-tuned, and the difference of the two."""
    tables = part(data, "ablation", "mean")
    zero = part(data, "ablation", "zero", "fine_tuned", "heads")
    panels = {"base": "Base", "fine_tuned": "Fine-tuned", "difference": "Fine-tuned minus base"}
    values = {name: numbers(tables[name]["heads"], "mean") for name in panels}
    layers, heads = values["base"].shape
    figure = new_figure(9.2, heatmap_height(layers) + 0.5)
    axes = figure.subplots(1, 3)
    both = diverging_norm(np.stack([values["base"], values["fine_tuned"]]))
    for panel, (name, title) in zip(axes, panels.items(), strict=True):
        norm = diverging_norm(values[name]) if name == "difference" else both
        mesh = _flagged_cells(panel, values[name], tables[name]["heads"]["flag"], norm)
        panel.set(title=title, xlabel="head")
        if name != "base":
            colour_bar(figure, mesh, panel if name == "difference" else axes[:2], "rise of the loss (nats a token)")
    rows_of(axes)
    ours = tables["fine_tuned"]["heads"]
    place = strongest(ours, "mean")
    count = int(np.sum(ours["flag"]))
    changed = int(np.sum(tables["difference"]["heads"]["flag"]))
    finding = (
        f"Fine-tuned suffers most without head {place[0]}.{place[1]}: {cell(ours, 'mean', place)} nats a token; "
        f"{count} of {layers * heads} heads matter beyond chance, and {changed} matter more or less than in base."
        if count
        else f"No single head of the fine-tuned model matters beyond chance ({layers * heads} heads)."
    )
    rest = strongest(zero, "mean")
    return Picture(
        "causal_ablation",
        "Ablation: the loss without one head",
        finding,
        "One cell a head: rise of the loss on the reference summary when the head adds its mean over the probe set in "
        f"place of its own output, at every position; n = {data.causal['articles']} articles. Grey: not named at a "
        f"false-discovery rate of 5 %. With zero in place of the mean, head {rest[0]}.{rest[1]} leads "
        f"({cell(zero, 'mean', rest)}).",
        ARTICLES_ONLY + " Other heads may stand in for one that is taken out: a small rise is no proof of idleness.",
        figure=figure,
    )


def patching(data: RunData) -> Picture:
    """Share of the gain lost and recovered when one part's output comes from the other model."""
    tables = {direction: part(data, "patching", direction) for direction in DIRECTIONS}
    titles = {"noising": "Lost: base's output in fine-tuned", "denoising": "Recovered: fine-tuned's output in base"}
    layers, heads = numbers(tables["noising"]["heads"], "share").shape
    figure = new_figure(9.2, heatmap_height(layers) + 3.1)
    grid = figure.subplots(2, 2, height_ratios=[heatmap_height(layers), 2.4])
    for column, (direction, table) in enumerate(tables.items()):
        top, bottom = grid[:, column]
        shares = 100 * numbers(table["heads"], "share")
        mesh = _flagged_cells(top, shares, table["heads"]["flag"], diverging_norm(shares))
        top.set(title=titles[direction], xlabel="head", ylabel="" if column else "layer")
        colour_bar(figure, mesh, top, "% of the gain")
        for (site, name), color in zip(WHOLE_SITES.items(), CATEGORIES, strict=False):
            share, low, high = (100 * numbers(table[site], key) for key in ("share", "low", "high"))
            line(bottom, range(len(share)), share, color, name, (low, high))
        bottom.axhline(0, color=MUTED, linewidth=0.7)
        bottom.set(xlabel="layer (residual stream: the one that enters it)", ylabel="" if column else "% of the gain")
        bottom.set_xticks(range(0, layers + 1, 1 if layers <= 12 else 2 if layers <= 24 else 4))
    grid[1, 0].legend(loc="upper left")
    noising, denoising = (tables[direction]["heads"] for direction in tables)
    lost, recovered = strongest(noising, "share"), strongest(denoising, "share")
    named = [int(np.sum(table["flag"])) for table in (noising, denoising)]
    finding = (
        f"With base's head {lost[0]}.{lost[1]} fine-tuned loses {cell(noising, 'share', lost, 100, 1)} % of its "
        f"gain; fine-tuned's head {recovered[0]}.{recovered[1]} gives base "
        f"{cell(denoising, 'share', recovered, 100, 1)} % of it. "
        f"{named[0]} and {named[1]} of {layers * heads} heads do so beyond chance."
        if any(named)
        else f"No single head loses or recovers any of the gain beyond chance ({layers * heads} heads)."
    )
    agreement = data.causal.get("attribution_patching", {}).get("noising", {}).get("agreement")
    cheap = f" Its order of the heads and that of the gradient approximation: {_rho(agreement)}." if agreement else ""
    gain = data.causal["loss"]["gain"]
    return Picture(
        "causal_patching",
        "Patching: which parts carry the gain",
        finding,
        f"The gain is the fall of the loss on the reference summary, {gain['mean']:.3f} [{gain['low']:.3f}, "
        f"{gain['high']:.3f}] nats a token over n = {data.causal['articles']} articles. Both models read the same "
        "tokens; one part's output is replaced at every position. Grey: not named at a false-discovery rate of 5 %. "
        f"Shares are ratios of means; bands are 95 % intervals.{cheap}",
        ARTICLES_ONLY + " Noising and denoising are different tests, and shares of single heads need not add up.",
        figure=figure,
    )


def moved_and_matters(data: RunData) -> Picture:
    """Every head: how far it moved against what it costs to put base's back."""
    found = part(data, "moved_and_matters")
    shares = 100 * numbers(part(data, "patching", "noising", "heads"), "share")
    known = [name for name in MOVED if name in found["moved"]]
    figure = new_figure(9.2, 3.1)
    axes = figure.subplots(1, len(known), squeeze=False, sharey=True)[0]
    for panel, name in zip(axes, known, strict=True):
        moved = numbers(found["moved"], name)
        panel.scatter(moved, shares, s=18, color=ACCENT, alpha=0.7, linewidths=0)
        panel.axhline(0, color=MUTED, linewidth=0.7)
        title, unit = MOVED[name].title, MOVED[name].unit
        panel.set(title=f"{title}\n{_rho(correlation(data, name, 'noising'))}", xlabel=f"{title.lower()} ({unit})")
        panel.set_xlabel(unit)
        _name_extremes(panel, moved, shares)
    axes[0].set_ylabel("gain lost with base's head (%)")
    sentence = verdict(correlation(data, known[0], "noising"), MOVED[known[0]].title)
    return Picture(
        "causal_moved_and_matters",
        "Do the heads that moved most matter most?",
        sentence,
        "One point a head: how far it moved from base, and the share of the gain that is lost with base's output in "
        f"its place. ρ: Spearman rank correlation over {shares.size} heads with its 95 % interval over "
        f"n = {data.causal['articles']} articles; called noise where that contains zero, or where so few heads would "
        "agree as closely by chance (p > 0.05).",
        "The interval holds the heads fixed: it says nothing about other models or training seeds.",
        figure=figure,
    )


def correlation(data: RunData, moved: str, matters: str) -> dict | None:
    """The rank correlation of one way to move with one way to matter; None where it was not measured."""
    rows = part(data, "moved_and_matters", "correlations")
    return next((row for row in rows if (row["moved"], row["matters"]) == (moved, matters)), None)


def verdict(found: dict | None, name: str) -> str:
    """What a rank correlation between moving and mattering says, in words that follow its interval."""
    if found is None or found["value"] is None:
        return f"{name} and the effect of the heads could not be ranked against each other."
    rho = _rho(found)
    low, high = (np.nan if found[end] is None else found[end] for end in ("low", "high"))
    subject = name if name[0] == "|" or name[1].isupper() else name[0].lower() + name[1:]
    by_chance = found.get("p_value")
    few = by_chance is not None and by_chance > 0.05
    if few or not (low > 0 or high < 0):
        chance = f"; p = {by_chance:.2f} over the heads" if few else ""
        return (
            f"Moving is not shown to be a sign of mattering: how far the heads moved by {subject} and what they carry "
            f"agree no more than by chance ({rho}{chance})."
        )
    if high < 0:
        return f"The heads that moved most by {subject} matter less than the others ({rho})."
    strength = "closely" if low > 0.5 else "only loosely" if found["value"] < 0.5 else "roughly"
    return f"The heads that moved most by {subject} are {strength} those that matter most ({rho})."


def circuit(data: RunData) -> Picture:
    """What the greedy set recovers on held-out articles, beside all heads, random sets and those of cheaper metrics."""
    found = part(data, "circuit")
    rows = [("all heads", found["all_heads"], MUTED), ("found greedily", found["greedy"], INK)]
    rows += [
        (f"by {CHOOSERS[name]}", found["by_metric"][name], ACCENT) for name in CHOOSERS if name in found["by_metric"]
    ]
    figure = new_figure(6.8, 0.3 * (len(rows) + 1) + 0.9)
    axes = figure.subplots()
    for y, (_, row, color) in enumerate(rows):
        axes.hlines(y, 100 * row["low"], 100 * row["high"], color=color, linewidth=2, alpha=0.45)
        axes.plot(100 * row["share"], y, "o", color=color, markersize=5)
    labels = [label for label, _, _ in rows]
    if "random" in found:
        shares = 100 * np.array(found["random"]["shares"], dtype=float)
        axes.plot(shares, np.full(len(shares), len(rows)), "|", color=BASE, markersize=9)
        labels.append(f"{len(shares)} random sets")
    of_gain = found["target_of"] == "gain"
    goal = 100 * found["target"] * (1 if of_gain else found["all_heads"]["share"])
    axes.axvline(goal, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="% of the gain, held-out articles")
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(axis="y", visible=False)
    names = ", ".join(f"{layer}.{head}" for layer, head in found["heads"][:8])
    more = "" if found["size"] <= 8 else " and others"
    beside = f"; {len(shares)} random sets of that size recover {np.median(shares):.0f} % at the median" * (
        "random" in found
    )
    aim = f"{100 * found['target']:.0f} % of " + (
        "the gain" if of_gain else "what all heads recover, which is less than that share of the gain,"
    )
    return Picture(
        "causal_circuit",
        "The smallest set of heads that carries most of it",
        f"{found['size']} of {found['of']} heads ({names}{more}) recover {percent(found['greedy'])} of the gain, all "
        f"heads {percent(found['all_heads'])}{beside}.",
        f"Heads of fine-tuned restored in base until {aim} (dashed) is reached, searched on "
        f"{found['articles']['search']} articles and measured on the other {found['articles']['held_out']}. "
        "Below: sets of the same size chosen otherwise.",
        "The search is greedy: a smaller set may exist. What heads do not recover, MLPs, embeddings and norms carry. "
        + ARTICLES_ONLY,
        figure=figure,
    )


def noise_floor(data: RunData) -> Picture:
    """How many heads and neurons changed beyond the noise floors, and how high those are beside the change."""
    found = part(data, "noise_floor")
    metrics = {HEAD[key].title: row for key, row in found["heads"].items() if key in HEAD}
    if not metrics:
        raise Missing(data.causal["left_out"].get("noise_floor/heads", "no captured metric was compared"))
    figure = new_figure(9.2, 0.28 * len(metrics) + 1.5)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    order = sorted(metrics, key=lambda title: -metrics[title]["flagged"])
    shares = [100 * metrics[title]["flagged"] / max(metrics[title]["of"], 1) for title in order]
    left.barh(range(len(order)), shares, color=ACCENT, height=0.6)
    left.set_yticks(range(len(order)), order)
    left.set(ylim=(len(order) - 0.5, -0.5), xlim=(0, 100), xlabel="% of heads beyond the noise floors")
    left.grid(axis="y", visible=False)
    _floors(middle, [metrics[title].get("median", {}) for title in order])
    neurons = found["neurons"]
    by_layer = np.array(neurons["by_layer"], dtype=float)
    right.bar(range(len(by_layer)), by_layer, color=ACCENT, width=0.6)
    right.set(xlabel="layer", ylabel="neurons beyond")
    right.set_xticks(range(0, len(by_layer), 1 if len(by_layer) <= 12 else 2 if len(by_layer) <= 24 else 4))
    right.grid(axis="x", visible=False)
    top, total = metrics[order[0]], metrics[order[0]]["of"]
    finding = (
        f"{order[0]} changed beyond the noise floor in {top['flagged']} of {total} heads, "
        f"{order[-1][0].lower() + order[-1][1:]} in {metrics[order[-1]]['flagged']}; so did the mean activation of "
        f"{neurons['flagged']:,} of {neurons['of']:,} neurons."
        if top["flagged"]
        else f"No head changed beyond the noise floor in any metric; {neurons['flagged']:,} of {neurons['of']:,} "
        "neurons did."
    )
    floors = found.get("floors") or {"sampling": "disjoint halves of the probe articles in base alone"}
    used = "; ".join(f"{FLOORS[name].label}: {what}" for name, what in floors.items())
    missing = (data.causal.get("left_out") or {}).get("noise_floor/seed")
    caveat = "One or two other seeds are a small sample of seeds." if "seed" in floors else ARTICLES_ONLY
    return Picture(
        "causal_noise_floor",
        "What rises above noise",
        finding,
        "Counted is what the paired tests over the probe articles name at a false-discovery rate of 5 % and whose "
        "change is beyond every floor, the same number where nothing of interest changed. Middle: the floor of the "
        f"median head beside the change of the median head. {used[0].upper() + used[1:]}. Divergences have no floor of "
        "other articles: base's from itself is zero in each of them.",
        f"Another seed is no floor here: {missing}." if missing else caveat,
        figure=figure,
    )


def _floors(axes, medians: list[dict]) -> None:
    """Each floor in % of the change, a row a metric: medians over the heads. Nothing changed, or no floor: no mark."""
    for (name, floor), color in zip(FLOORS.items(), CATEGORIES, strict=False):
        rows = [y for y, median in enumerate(medians) if median.get(name) and median.get("change")]
        if rows:
            shares = [100 * medians[y][name] / medians[y]["change"] for y in rows]
            axes.plot(shares, rows, MARKERS[name], color=color, markersize=4.5, label=floor.label)
    axes.axvline(100, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set(xscale="log", ylim=(len(medians) - 0.5, -0.5), xlabel="floor (% of the change)")
    axes.set_yticks(range(len(medians)), [])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1, borderpad=0)


def _flagged_cells(axes, values: np.ndarray, flag: list, norm):
    """Cells of (L, H) values, grey where the false-discovery control does not name them."""
    mesh = cells(axes, values, cmap=DIVERGING, norm=norm)
    uncertain = np.where(~np.array(flag, dtype=bool) & np.isfinite(values), 1.0, np.nan)
    if np.isfinite(uncertain).any():
        cells_over(axes, uncertain)
    return mesh


def _rho(found: dict | None) -> str:
    if found is None or found["value"] is None:
        return "ρ not defined"
    if found["low"] is None:
        return f"ρ = {found['value']:.2f}"
    return f"ρ = {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _name_extremes(axes, x: np.ndarray, y: np.ndarray, count: int = 3) -> None:
    """Write layer.head beside the heads that are furthest out on either axis."""
    chosen = {int(i) for values in (x, y) for i in np.argsort(-np.nan_to_num(values), axis=None)[:count]}
    for index in chosen:
        layer, head = np.unravel_index(index, x.shape)
        axes.annotate(
            f"{layer}.{head}",
            (x[layer, head], y[layer, head]),
            (3, 3),
            textcoords="offset points",
            fontsize=7,
            color=MUTED,
        )
