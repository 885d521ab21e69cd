"""Every figure of a run, made from saved files only. `CATALOGUE` is the list; `rundata.load` reads the run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from summlens import names
from summlens.figures import causes, format_and_task, heads, latent, over_time, parts, scores
from summlens.figures.kit.picture import Picture, save, styled
from summlens.figures.kit.rundata import Missing, RunData, load

__all__ = ["CATALOGUE", "SECTIONS", "Entry", "Missing", "Picture", "RunData", "load", "save", "styled"]
TRAIN, ANALYSE = "python gpt2_summarization.py", "python analyze_latent_space.py"
SECTIONS = {  # key: (title, what the section is about)
    "summaries": ("Summaries", "Are the summaries better, and than what?"),
    "heads": ("Attention heads", "Which heads look elsewhere after fine-tuning, and by how much?"),
    "causes": ("Causes", "Which parts carry the better summaries, and are they the ones that moved?"),
    "representations": ("Representations", "Where in the model does the picture of an article change?"),
    "parts": ("Activations, neurons, weights", "What moved inside, and where?"),
    "training": ("Training", "Did training go as it should?"),
}


@dataclass(frozen=True)
class Entry:
    """A figure that can be made: its file stem, its section, what makes its data, and the function that draws it."""

    name: str
    title: str
    section: str
    command: str
    draw: Callable[[RunData], Picture]
    folded: bool = False  # in the report behind a click: one of many of its kind


CATALOGUE = (
    Entry("scores", "Scores of every system, with intervals", "summaries", TRAIN, scores.scores),
    Entry("heads_ranking", "The ten heads that moved most", "heads", TRAIN, heads.ranking),
    Entry("heads_evolution", "Heads over the steps (GIF)", "heads", TRAIN, heads.evolution),
    Entry("heads_slider", "Heads over the steps, with a slider (HTML)", "heads", TRAIN, heads.slider),
    *(
        Entry(
            f"heads_{metric.key}",
            f"{metric.title}, by head",
            "heads",
            TRAIN,
            partial(heads.heatmap, key=metric.key),
            folded=metric.folded,
        )
        for metric in names.HEAD_METRICS
    ),
    Entry("temporal_metrics", "Attention metrics by layer over the steps", "heads", TRAIN, over_time.temporal_metrics),
    Entry("causal_moved_and_matters", "What moved against what matters", "causes", ANALYSE, causes.moved_and_matters),
    Entry("causal_ablation", "Ablation by head", "causes", ANALYSE, causes.ablation),
    Entry("causal_patching", "Cross-model patching by head and layer", "causes", ANALYSE, causes.patching),
    Entry("causal_circuit", "The smallest set of heads that matters", "causes", ANALYSE, causes.circuit),
    Entry("causal_noise_floor", "What rises above noise", "causes", ANALYSE, causes.noise_floor),
    *(
        Entry(
            control.picture,
            f"Format and task, by the {control.key} control",
            "causes",
            f"{TRAIN} --resume --control {control.key} && {ANALYSE}",
            partial(format_and_task.format_and_task, control=control.key),
            folded=number > 0,
        )
        for number, control in enumerate(names.CONTROLS.values())
    ),
    Entry(
        "representation_similarity",
        "RSA and CKA, base against fine-tuned",
        "representations",
        ANALYSE,
        latent.similarity,
    ),
    Entry(
        "representation_over_steps",
        "RSA and CKA over the steps",
        "representations",
        ANALYSE,
        latent.similarity_over_steps,
    ),
    Entry("logit_lens", "Logit lens by layer", "representations", ANALYSE, latent.logit_lens),
    Entry("latent_umap", "Joint 3D UMAP (HTML and GIF)", "representations", ANALYSE, latent.umap),
    Entry("activations", "Activation magnitudes by site and layer", "parts", TRAIN, parts.activations),
    Entry("neurons", "MLP neurons: the most changed and all", "parts", TRAIN, parts.neurons),
    Entry("weight_change", "Weight change by matrix", "parts", TRAIN, parts.weight_change),
    Entry("weight_change_heads", "Weight change by head", "parts", TRAIN, parts.weight_change_heads),
    Entry("training_curves", "Losses and learning rate", "training", TRAIN, over_time.training_curves),
    Entry("gradient_norms", "Gradient norms by layer over the steps", "training", TRAIN, over_time.gradient_norms),
)
