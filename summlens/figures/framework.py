"""The framework diagram of the README: how the three scripts, the models and the saved files hang together."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from summlens.figures.kit.picture import new_figure
from summlens.figures.kit.style import ACCENT, CATEGORIES, INK, MUTED, PAPER

GREEN, ORANGE = CATEGORIES[2], CATEGORIES[1]
BOXES = {  # key: (x and y of the middle, width, title, lines, colour)
    "data": (
        1.15,
        3.85,
        1.9,
        "News articles",
        "with reference summaries:\nCNN/DailyMail, your own,\nor the bundled sample",
        MUTED,
    ),
    "model": (1.15, 1.75, 1.9, "Language model", "GPT-2 or any decoder-only\nHugging Face model", MUTED),
    "train": (
        3.9,
        2.8,
        2.25,
        "1  gpt2_summarization.py",
        "fine-tune on the summary’s loss,\nmeasure the model at every\ncaptured step, compare it with\n"
        "zero-shot and baselines",
        ACCENT,
    ),
    "files": (
        6.75,
        2.8,
        2.1,
        "interpretability_metrics/",
        "per article, head and layer:\nattention, activations, weights,\ngradients, scores, vectors",
        INK,
    ),
    "analyse": (
        6.75,
        4.75,
        3.1,
        "2  analyze_latent_space.py",
        "RSA, CKA, logit lens, UMAP; head explorer;\ncausal tests: ablation, patching",
        GREEN,
    ),
    "outputs": (
        3.9,
        0.75,
        2.25,
        "model_outputs/",
        "the fine-tuned model, measured\non the same tokens as its base",
        ACCENT,
    ),
    "draw": (
        9.6,
        2.8,
        2.2,
        "3  visualize_metrics.py",
        "every figure from saved files:\nno model, no GPU, no network",
        ORANGE,
    ),
    "report": (
        9.6,
        0.75,
        2.2,
        "The report",
        "is the change more than noise, and\ndoes it make the better summaries?",
        ORANGE,
    ),
}
ARROWS = (  # from, to, the sides that the arrow leaves and enters, its heads
    ("data", "train", "right", "left", "-|>"),
    ("model", "train", "right", "left", "-|>"),
    ("train", "files", "right", "left", "-|>"),
    ("train", "outputs", "bottom", "top", "-|>"),
    ("files", "analyse", "top", "bottom", "<|-|>"),
    ("files", "draw", "right", "left", "-|>"),
    ("draw", "report", "bottom", "top", "-|>"),
)


def framework() -> Figure:
    """The diagram, 11 by 5.5 inches. Call it inside `styled()`."""
    figure = new_figure(11, 5.5)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 11), ylim=(0, 5.5))
    axes.axis("off")
    sides = {key: _box(axes, *box) for key, box in BOXES.items()}
    for start, end, leaves, enters, heads in ARROWS:
        ends = sides[start][leaves], sides[end][enters]
        axes.add_patch(FancyArrowPatch(*ends, arrowstyle=heads, mutation_scale=13, color=MUTED, linewidth=1.3))
    return figure


def _box(axes, x, y, width, title, lines, color) -> dict[str, tuple[float, float]]:
    """Draw a box and return the middles of its sides."""
    height = 0.56 + 0.215 * (lines.count("\n") + 1)
    left, bottom = x - width / 2, y - height / 2
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=PAPER,
            edgecolor=color,
            linewidth=1.6,
        )
    )
    axes.text(x, y + height / 2 - 0.22, title, ha="center", va="center", fontsize=9.5, fontweight="bold", color=color)
    axes.text(x, bottom + (height - 0.34) / 2, lines, ha="center", va="center", fontsize=8, color=INK, linespacing=1.35)
    return {
        "left": (left, y),
        "right": (left + width, y),
        "top": (x, bottom + height),
        "bottom": (x, bottom),
    }
