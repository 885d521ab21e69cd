"""Format and task: each head's change beside that of a control fine-tune, which cannot learn the task."""

from dataclasses import dataclass

import numpy as np

from summlens.core.words import percent
from summlens.figures.kit.grid import cells, cells_over, rows_of
from summlens.figures.kit.marks import ARTICLES_ONLY, heatmap_height
from summlens.figures.kit.picture import Picture, new_figure
from summlens.figures.kit.rundata import Missing, RunData, change
from summlens.figures.kit.style import ACCENT, CATEGORIES, DIVERGING, MUTED, diverging_norm
from summlens.names import CONTROLS, HEAD

SHOWN = ("kl", "normalized_entropy")
PANELS = {"total": "Total: fine-tuned − base", "format": "Format: control − base", "task": "Task: the difference"}


@dataclass(frozen=True)
class Split:
    """One metric's total, format and task, each (3, L, H): mean, low, high; `flag` (L, H) where task is named."""

    total: np.ndarray
    format: np.ndarray
    task: np.ndarray
    flag: np.ndarray


def split(data: RunData, control: str, metric: str) -> Split:
    """Raises Missing where the run was not compared with that control."""
    if control not in (data.controls or {}).get("controls", {}):
        raise Missing(f"this run was not compared with the control {control}")
    prefix = f"{control}/heads/{metric}"
    if f"{prefix}/flag" not in data.control_arrays:
        raise Missing(f"controls.npz holds no {prefix}")
    return Split(*(data.control_arrays[f"{prefix}/{part}"] for part in (*PANELS, "flag")))


def named(data: RunData) -> str | None:
    """The control to speak of first: shuffled pairs, or else the other; None where there is none."""
    return next((name for name in CONTROLS if name in (data.controls or {}).get("controls", {})), None)


def format_and_task(data: RunData, control: str) -> Picture:
    """Total, format and task by head for KL and normalized entropy, and the heads that moved most."""
    found = {metric: split(data, control, metric) for metric in SHOWN}
    layers, heads = found["kl"].flag.shape
    tall = heatmap_height(layers)
    shown = min(10, layers * heads)
    figure = new_figure(9.2, 2 * tall + 0.26 * shown + 1.6)
    places = figure.add_gridspec(3, 6, height_ratios=[tall, tall, 0.26 * shown + 1.0])
    for row, (metric, parts) in enumerate(found.items()):
        panels = [figure.add_subplot(places[row, 2 * column : 2 * column + 2]) for column in range(len(PANELS))]
        norm = diverging_norm(np.stack([getattr(parts, name)[0] for name in PANELS]))
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            mesh = cells(axes, getattr(parts, name)[0], cmap=DIVERGING, norm=norm)
            grey = _below(data, metric, name, parts)
            if grey.any():
                cells_over(axes, np.where(grey, 1.0, np.nan))
            axes.set(title=title if row == 0 else name.capitalize(), xlabel="head" if row else "")
        rows_of(panels)
        label = HEAD[metric].title.replace(" from", "\nfrom").replace("Normalized ", "Normalized\n")
        bar = figure.colorbar(mesh, ax=panels, label=f"{label} ({HEAD[metric].unit})", aspect=24, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=2)
    _most(figure.add_subplot(places[2, :3]), found["kl"], shown)
    _against(figure.add_subplot(places[2, 3:]), found["kl"])
    return Picture(
        CONTROLS[control].picture,
        f"Format and task: beside the {control} control",
        finding(data, control),
        f"Base, fine-tuned and {CONTROLS[control].caption}, on the summary positions of the same n = "
        f"{data.controls['articles']} probe articles. One cell a head, one scale a row. Grey: below the noise floor or "
        "within its 95 % interval (total, format), or not named at a false-discovery rate of 5 % (task). Below: the "
        "heads that moved furthest, with 95 % intervals, and all heads; on the dashed line the control moved as far.",
        f"{ARTICLES_ONLY} A head that is not named may still hold some of the task, and KL tells how far, not where "
        "to: a control may move a head as far in another direction. Nothing here says that a head causes anything.",
        figure=figure,
    )


def finding(data: RunData, control: str) -> str:
    """How far the control alone moved the heads, and how many keep a part that it does not have."""
    kl = split(data, control, "kl")
    further = int((kl.flag & (kl.task[0] > 0)).sum())
    nearer = int((kl.flag & (kl.task[0] < 0)).sum())
    none = "no part is shown to be the task's own"
    share = movement(data, control)
    text = f"The {control} control moved attention {share} as far as the real fine-tune (KL over all heads)"
    if not further + nearer:
        return f"{text}; no head's movement differs from the control's beyond chance: {none}."
    also = f", and {nearer} less far" if nearer else ""
    beyond = "the format and another seed explain" if data.controls.get("seeds") else "the format explains"
    doubt = "" if data.controls.get("seeds") else " (another training seed was not tried)"
    return f"{text}; {further} of {kl.flag.size} heads moved further than {beyond}{also}{doubt}."


def movement(data: RunData, control: str) -> str:
    """The control's movement in % of fine-tuned's, with its interval, as it stands in a sentence."""
    return percent(data.controls["controls"][control]["movement"])


def _below(data: RunData, metric: str, part: str, parts: Split) -> np.ndarray:
    value, low, high = getattr(parts, part)
    if part == "task":
        return ~parts.flag & np.isfinite(value)
    none = ~((low > 0) | (high < 0))
    if part == "total":
        flags = change(data, HEAD[metric].array()).above_noise
        none = none | (False if flags is None else ~flags)
    return none & np.isfinite(value)


def _most(axes, kl: Split, count: int) -> None:
    """Total, format and task of the heads that moved furthest, as points with their intervals."""
    order = np.argsort(-np.nan_to_num(kl.total[0], nan=-1.0), axis=None, kind="stable")[:count]
    for name, offset, color in zip(PANELS, (-0.22, 0, 0.22), CATEGORIES, strict=False):
        value, low, high = (one.ravel()[order] for one in getattr(kl, name))
        y = np.arange(count) + offset
        axes.hlines(y, low, high, color=color, linewidth=2, alpha=0.45)
        axes.plot(value, y, "o", color=color, markersize=4, label=name)
    axes.axvline(0, color=MUTED, linewidth=0.7)
    axes.set(ylim=(count - 0.4, -0.6), xlabel="KL divergence from base (bits)", ylabel="head (layer.head)")
    axes.set_yticks(range(count), ["{}.{}".format(*divmod(int(index), kl.flag.shape[1])) for index in order])
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")


def _against(axes, kl: Split) -> None:
    """Every head: how far the control moved it against how far fine-tuning did."""
    for flag, color, label in ((False, MUTED, "task not named"), (True, ACCENT, "task named")):
        chosen = kl.flag == flag
        if chosen.any():
            axes.scatter(kl.total[0][chosen], kl.format[0][chosen], s=18, color=color, linewidths=0, label=label)
    end = float(np.nanmax([kl.total[0], kl.format[0], np.full(kl.flag.shape, 1e-9)]))
    axes.plot([0, end], [0, end], color=MUTED, linewidth=0.8, linestyle="--")
    axes.set(xlabel="total (bits)", ylabel="format (bits)")
    axes.legend(loc="best")
