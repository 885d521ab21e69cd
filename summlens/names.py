"""What every number, control, system and place is called: one record each. A key of a file is spelled here, or in
`summlens.artifacts`, and everybody else asks for it.

Whoever adds a metric, a control or a score adds its record here and the function that makes it; files, noise floors,
figures and the report find it by its record. Definitions and sources: docs/definitions.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

POSITIONS = ("summary", "all")  # query positions that predict summary tokens; every real position
MODELS = ("base", "fine_tuned")
_NO_SINK = "_no_sink"  # the form of an attention metric without the first token

# ------------------------------------------------------------------------------------------------ numbers of heads


@dataclass(frozen=True)
class HeadMetric:
    """A number of each attention head, measured by article.

    A `divergence` compares two models, is never negative, and 0 for a model with itself: the record alone says that it
    is tested against the floors' divergences and not against zero. `no_sink`: the metric exists a second time without
    the first token. `folded`: in the report behind a click. `of_attention`: made by `summlens.metrics.attention`.
    """

    key: str
    title: str
    unit: str
    meaning: str
    digits: int = 3
    divergence: bool = False
    no_sink: bool = True
    folded: bool = False
    of_attention: bool = True

    def array(self, positions: str = "summary", no_sink: bool = False) -> str:
        """Its key in a step's arrays, (A, L, H)."""
        form = self.key + _NO_SINK * no_sink
        return f"attention/{form}/{positions}" if self.of_attention else f"{form}/{positions}"

    @property
    def forms(self) -> tuple[str, ...]:
        """The key as defined, and that of the form without the first token where there is one."""
        return (self.key, self.key + _NO_SINK) if self.no_sink else (self.key,)

    def arrays(self, positions: str = "summary") -> dict[str, str]:
        """{form: its key in a step's arrays}."""
        return {form: self.array(positions, form != self.key) for form in self.forms}

    @property
    def suffix(self) -> str:
        """The unit behind a number in a sentence; shares and scales from 0 to 1 have none."""
        unit = self.unit.split(",")[0]
        return "" if unit in ("0 to 1", "share") else f" {unit}"

    @property
    def prose(self) -> str:
        """The title within a sentence."""
        return self.title if self.title[1].isupper() or "–" in self.title else self.title[0].lower() + self.title[1:]


HEAD_METRICS = (
    HeadMetric(
        "kl", "KL divergence from base", "bits", "how far attention moved from the base model's", divergence=True
    ),
    HeadMetric(
        "js",
        "Jensen–Shannon divergence from base",
        "bits, 0 to 1",
        "how far attention moved, by a measure that is symmetric and bounded",
        divergence=True,
    ),
    HeadMetric("entropy", "Attention entropy", "bits", "how widely a query spreads its attention", digits=2),
    HeadMetric(
        "normalized_entropy", "Normalized attention entropy", "0 to 1", "entropy over its largest possible value"
    ),
    HeadMetric("sparsity", "Attention sparsity (Gini)", "0 to 1", "how few tokens receive most of the attention"),
    HeadMetric(
        "copy_score", "Copy score", "share", "attention on earlier occurrences of the token about to be written"
    ),
    HeadMetric(
        "head_output_norm",
        "Head output norm",
        "model units",
        "how much a head adds to the residual stream",
        digits=2,
        no_sink=False,
        of_attention=False,
    ),
    HeadMetric(
        "first_token_share",
        "Attention on the first token",
        "share",
        "the sink, which says little",
        no_sink=False,
        folded=True,
    ),
    HeadMetric("previous_token_share", "Attention on the previous token", "share", "local attention", folded=True),
    HeadMetric("article_share", "Attention on the article", "share", "reading the source", folded=True),
    HeadMetric(
        "summary_share", "Attention on the summary so far", "share", "reading what has been written", folded=True
    ),
    HeadMetric(
        "distance", "Attention distance", "tokens", "mean distance between query and key", digits=1, folded=True
    ),
)
HEAD = {metric.key: metric for metric in HEAD_METRICS}
_OF_FORM = {form: metric for metric in HEAD_METRICS for form in metric.forms}


def attention_forms(divergences: bool) -> list[str]:
    """The forms of every attention metric; divergences only where there are two models to compare."""
    chosen = (metric for metric in HEAD_METRICS if metric.of_attention and (divergences or not metric.divergence))
    return [form for metric in chosen for form in metric.forms]


# ----------------------------------------------------------------------------------------------- numbers of layers


@dataclass(frozen=True)
class Site:
    """A place in a block where activations are read. `embeddings`: index 0 is what enters the first block."""

    key: str
    title: str
    embeddings: bool = False

    def array(self, size: str, positions: str = "summary") -> str:
        """Its key in a step's arrays, (A, L) or (A, L + 1); `size` is one of SIZES."""
        return f"activation/{self.key}/{size}/{positions}"

    @property
    def prose(self) -> str:
        return self.title[0].lower() + self.title[1:] if self.title[1].islower() else self.title


SITES = (
    Site("residual", "Residual stream", embeddings=True),
    Site("attention_output", "Attention output"),
    Site("mlp_output", "MLP output"),
    Site("mlp_hidden", "MLP hidden"),
)
SIZES = {"mean_abs": "", "l2": "_l2"}  # mean absolute value, mean L2 norm: and how a noise floor's name ends


@dataclass(frozen=True)
class LayerNumber:
    """A number of each layer's representation in latent_space.json and .npz."""

    key: str
    title: str
    unit: str
    of: str = ""
    divergence: bool = False


LAYER_NUMBERS = (
    LayerNumber("rsa", "RSA", "Spearman correlation, -1..1", "RDMs: 1 - Pearson between article vectors"),
    LayerNumber("cka", "debiased linear CKA", "about 0..1", "Gram matrices of the article vectors"),
    LayerNumber("layer_distance", "distance between consecutive layers", "1 - cosine, 0..2", "raw vectors"),
    LayerNumber("divergence/cosine", "divergence of fine-tuned from base", "1 - cosine, 0..2", divergence=True),
    LayerNumber("logit_lens/loss", "logit lens loss", "nats a token"),
    LayerNumber("logit_lens/rank", "logit lens rank of the target", "rank, 1 = largest logit"),
)
LAYER = {number.key: number for number in LAYER_NUMBERS}

# ------------------------------------------------------------------------- numbers of neurons, weights and articles

LOSS = "loss/summary"  # (A,) nats a token of the reference summary
LATENT = "latent/residual"  # (A, L + 1, D)
NEURON_STATISTICS = {
    "mean": "mean",
    "max": "maximum",
    "std": "standard deviation",
    "positive_share": "share above zero",
}
PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}  # of a head


def neurons(statistic: str) -> str:
    """The key of a statistic of NEURON_STATISTICS in a step's arrays, (L, N)."""
    return f"neuron/{statistic}"


def neurons_by_article(model: str, statistic: str = "mean") -> str:
    """The key of the same in causal.npz, (A, L, N), of base or fine_tuned."""
    return f"neurons/{model}" if statistic == "mean" else f"neurons/{model}/{statistic}"


def head_weights(projection: str, of: str) -> str:
    """The key in a step's arrays of how far a head's weights moved, (L, H); `of` is absolute or relative."""
    return f"weights_by_head/{projection}/{of}"


def series() -> Iterator[str]:
    """The keys of a step's arrays that are drawn over the steps."""
    for metric in HEAD_METRICS:
        yield from metric.arrays().values()
    yield from (site.array(size) for site in SITES for size in SIZES)
    yield LOSS


# ---------------------------------------------------------------------------------------- what noise floors compare


def compared() -> dict[str, str]:
    """{name in a noise floor: key in a step's arrays} of every number by article: heads/<form>, layers/<site>."""
    heads = {f"heads/{form}": key for metric in HEAD_METRICS for form, key in metric.arrays().items()}
    layers = {f"layers/{site.key}{end}": site.array(size) for site in SITES for size, end in SIZES.items()}
    return heads | layers


def is_divergence(name: str) -> bool:
    """Whether what a noise floor calls `name` (heads/<form>, layers/<site>, a layer's number) is a divergence."""
    if name in LAYER:
        return LAYER[name].divergence
    level, _, form = name.partition("/")
    return level == "heads" and _OF_FORM[form].divergence


def relative_to_base() -> set[str]:
    """The keys of a step's arrays that compare a model with base: they mean another thing against another model."""
    divergences = {key for metric in HEAD_METRICS if metric.divergence for where in POSITIONS
                   for key in metric.arrays(where).values()}  # fmt: skip
    return divergences | {head_weights(part, of) for part in PROJECTIONS for of in ("absolute", "relative")}


@dataclass(frozen=True)
class Floor:
    """What a change must exceed to be more than noise: `words` as they stand in a sentence, `label` in a legend."""

    key: str
    words: str
    label: str


FLOORS = {
    floor.key: floor
    for floor in (
        Floor("sampling", "the choice of articles", "other articles (halves)"),
        Floor("numerical", "rounding", "other arithmetic"),
        Floor("seed", "another training seed", "another seed"),
    )
}

# ---------------------------------------------------------------------- fine-tunes beside the run's own, and systems


@dataclass(frozen=True)
class Control:
    """A fine-tune that learns less than the run's: `what` it is trained on, in a line; as a `rival` in a sentence about
    scores; and how a caption describes it. Its examples are made in `summlens.training.companions`."""

    key: str
    title: str
    what: str
    rival: str
    caption: str

    @property
    def picture(self) -> str:
        """The stem of its figure's files."""
        return "controls" if self.key == next(iter(CONTROLS)) else f"controls_{self.key.replace('-', '_')}"


CONTROLS = {
    control.key: control
    for control in (
        Control(
            "shuffled-pairs",
            "Shuffled-pairs control",
            "the same articles with other articles' summaries: the format without the task",
            "the shuffled-pairs control, which could learn the format alone",
            "a control fine-tuned for as many steps on the same articles with other articles' summaries",
        ),
        Control(
            "language-model",
            "Language-model control",
            "the same articles alone, loss over the articles' tokens: neither format nor task",
            "the language-model control, which could learn neither format nor task",
            "a control fine-tuned for as many steps on the text of the same articles alone",
        ),
    )
}
_SEED = "seed-"


def seed_name(seed: int) -> str:
    """What the fine-tune of another training seed is called."""
    return f"{_SEED}{seed}"


def seed_of(companion: str) -> int | None:
    """The seed of a companion so called; None for a control."""
    number = companion.removeprefix(_SEED)
    return int(number) if number != companion and number.isdecimal() else None


def companion_title(name: str) -> str:
    """How tables and figures call a fine-tune beside the run's own. Raises KeyError for one that nobody knows."""
    seed = seed_of(name)
    return CONTROLS[name].title if seed is None else f"Fine-tuned, seed {seed}"


def companion_what(name: str) -> str:
    """What a fine-tune beside the run's own is, in a line."""
    seed = seed_of(name)
    return CONTROLS[name].what if seed is None else f"the same training with seed {seed}: other order, other dropout"


@dataclass(frozen=True)
class System:
    """Whatever writes summaries. `kind`: model, baseline or reference."""

    key: str
    title: str
    kind: str


SYSTEMS = {
    system.key: system
    for system in (
        System("zero_shot", "Zero-shot", "model"),
        System("fine_tuned", "Fine-tuned", "model"),
        System("lead3", "Lead-3", "baseline"),
        System("random3", "Random-3", "baseline"),
        System("oracle", "Extractive oracle", "baseline"),
        System("reference", "Reference", "reference"),
    )
}


def system_title(name: str) -> str:
    """How tables call a system: a model, a baseline, or a companion of the run."""
    if name in SYSTEMS:
        return SYSTEMS[name].title
    return companion_title(name) if name in CONTROLS or seed_of(name) is not None else name


def reading_order(names) -> list[str]:
    """Base and fine-tuned, the fine-tunes they are compared with, the baselines, the references."""
    names = list(names)
    first = [key for key, system in SYSTEMS.items() if system.kind == "model" and key in names]
    last = [key for key, system in SYSTEMS.items() if system.kind != "model" and key in names]
    return [*first, *(name for name in names if name not in (*first, *last)), *last]


@dataclass(frozen=True)
class Score:
    """A score of a summary. `quality`: the larger, the better the summary is held to be."""

    key: str
    title: str
    unit: str
    quality: bool = False


SCORES = {
    score.key: score
    for score in (
        Score("rouge1", "ROUGE-1", "F1 × 100", quality=True),
        Score("rouge2", "ROUGE-2", "F1 × 100", quality=True),
        Score("rougeL", "ROUGE-L", "F1 × 100", quality=True),
        Score("rougeLsum", "ROUGE-Lsum", "F1 × 100", quality=True),
        Score("meteor", "METEOR", "× 100", quality=True),
        Score("meteor_no_synonyms", "METEOR, no synonyms", "× 100", quality=True),
        Score("length", "Length", "words"),
        Score("compression", "Compression", "article / summary"),
        Score("novel_unigrams", "Novel words", "%"),
        Score("novel_bigrams", "Novel bigrams", "%"),
        Score("novel_trigrams", "Novel trigrams", "%"),
        Score("repetition", "Repetition", "%"),
        Score("finished", "Finished", "%"),
        Score("unsupported", "Unsupported", "%"),
    )
}
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# ----------------------------------------------------------------------------------------------- interventions


@dataclass(frozen=True)
class Moved:
    """A way in which a head is said to have moved: what the causal tests rank it by."""

    key: str
    title: str
    unit: str
    chooser: str  # how a set chosen by it is called


MOVED = {
    moved.key: moved
    for moved in (
        Moved("kl", "Attention KL from base", "bits", "attention KL"),
        Moved("entropy_change", "|Change of normalized entropy|", "0 to 1", "|entropy change|"),
        Moved("weight_change", "Weight change, Q K V O", "model units", "weight change"),
    )
}
CHOOSERS = {key: moved.chooser for key, moved in MOVED.items()} | {
    "ablation": "ablation of fine-tuned",
    "attribution_patching": "attribution patching",
}
DIRECTIONS = {"noising": "base's part in fine-tuned", "denoising": "fine-tuned's part in base"}
WHOLE_SITES = {"residual": "residual stream", "attention": "attention", "mlp": "MLP"}  # by layer; "heads" is by head


@dataclass(frozen=True)
class Intervention:
    """A table of causal.json by head: its path there, how a head's own table calls it, and how its number is read."""

    path: tuple[str, ...]
    title: str
    unit: str
    key: str
    scale: float = 1.0
    digits: int = 3


INTERVENTIONS = (
    Intervention(("ablation", "mean", "base"), "Ablation in base: rise of the loss", "nats a token", "mean"),
    Intervention(
        ("ablation", "mean", "fine_tuned"), "Ablation in fine-tuned: rise of the loss", "nats a token", "mean"
    ),
    Intervention(("patching", "noising"), "Lost with base's output in fine-tuned", "% of the gain", "share", 100, 1),
    Intervention(
        ("patching", "denoising"), "Recovered with fine-tuned's output in base", "% of the gain", "share", 100, 1
    ),
    Intervention(("weight_patching",), "Lost with base's weights in fine-tuned", "% of the gain", "share", 100, 1),
)
