"""The answer in a few sentences whose words change with the numbers."""

import numpy as np

from summlens.figures.heads import BY_KEY
from summlens.figures.rundata import Missing, RunData, change
from summlens.figures.scores import main_score, verdict

NEGLIGIBLE_BITS = 1e-6  # float32 rounding in a divergence of identical rows


def sentences(data: RunData) -> list[str]:
    """About four sentences: are the summaries better, than what, what moved inside, and is that a cause."""
    written = [*_scores(data), _heads(data), _representations(data), _cause(data)]
    return [sentence for sentence in written if sentence]


def _scores(data: RunData) -> list[str]:
    try:
        score = main_score(data)
        found = [verdict(data, other, score) for other in ("zero_shot", "lead3")]
    except Missing:
        return ["Whether the summaries became better is unknown: this run has no evaluation."]
    return found if any(found) else ["The evaluation holds no pair of fine-tuned and zero-shot summaries to compare."]


def _heads(data: RunData) -> str:
    try:
        data.needs_training()
        kl = change(data, BY_KEY["kl"].arrays)
    except Missing:
        return "What changed inside is unknown: there are not two captures with attention to compare."
    values = np.where(np.isfinite(kl.change), kl.change, -np.inf)
    if values.max() < NEGLIGIBLE_BITS:
        return "Inside, no attention head differs from the base model: every KL divergence is zero."
    order = np.argsort(-values, axis=None, kind="stable")[: min(3, int(np.isfinite(values).sum()))]
    places = [np.unravel_index(index, kl.change.shape) for index in order]
    named = ", ".join(f"head {a}.{b} ({_bits(kl, a, b)})" for a, b in places)
    text = f"Inside, the heads whose attention moved furthest from base are {named} bits of KL divergence"
    try:
        entropy = change(data, BY_KEY["normalized_entropy"].arrays)
    except Missing:
        return f"{text}."
    total = int(np.isfinite(entropy.change).sum())
    moved = int((entropy.verdict != 0).sum())
    chance = f"about {0.05 * total:.0f} would by chance alone"
    if moved <= 0.05 * total:
        return f"{text}; {moved} of {total} heads changed in normalized entropy, no more than chance allows ({chance})."
    rose = int((entropy.verdict > 0).sum())
    return (
        f"{text}; {moved} of {total} heads changed in normalized entropy beyond their 95 % interval ({chance}), "
        f"{rose} spreading their attention wider and {moved - rose} narrower."
    )


def _bits(kl, layer: int, head: int) -> str:
    return f"{kl.change[layer, head]:.3f} [{kl.low[layer, head]:.3f}, {kl.high[layer, head]:.3f}]"


def _representations(data: RunData) -> str:
    same = data.latent_arrays.get("cka/same_layer")
    if same is None or not np.isfinite(same[0]).any():
        return ""
    mean, low, high = same.astype(float)
    layer = int(np.nanargmin(mean))
    interval = f"{mean[layer]:.2f} [{low[layer]:.2f}, {high[layer]:.2f}]"
    place = "the embeddings" if layer == 0 else f"layer {layer} of {len(mean) - 1}"
    if high[layer] >= 0.99:
        return f"The representations stayed nearly the same in every layer: CKA is nowhere below {interval}."
    return f"The representation of an article changed most at {place}, where the CKA with base is {interval}."


def _cause(data: RunData) -> str:
    if data.causal is None:
        return (
            "Whether these heads cause the better summaries is not tested in this run: a head that moved is not yet a "
            "head that matters."
        )
    return "Causal tests of this run are saved in causal.json; read them before calling any moved head important."
