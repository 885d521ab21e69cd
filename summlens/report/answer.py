"""The answer in a few sentences whose words change with the numbers."""

import numpy as np

from summlens.figures import causal, controls
from summlens.figures.heads import BY_KEY
from summlens.figures.rundata import Missing, RunData, change
from summlens.figures.scores import main_score, verdict

NEGLIGIBLE_BITS = 1e-6  # float32 rounding in a divergence of identical rows


def sentences(data: RunData) -> list[str]:
    """A few sentences: are the summaries better, than what, what moved inside, is it noise, and is it a cause."""
    written = [*_scores(data), _heads(data), _noise(data), _control(data), _representations(data), *_cause(data)]
    return [sentence for sentence in written if sentence]


def _scores(data: RunData) -> list[str]:
    try:
        score = main_score(data)
        found = [verdict(data, other, score) for other in ("zero_shot", "shuffled-pairs", "lead3")]
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


def _noise(data: RunData) -> str:
    floor = (data.causal or {}).get("noise_floor")
    if not floor:
        return ""
    neurons = floor["neurons"]
    entropy = floor["heads"].get("normalized_entropy")
    any_head = sum(row["flagged"] for row in floor["heads"].values())
    if not any_head and not neurons["flagged"]:
        what = "head and no neuron" if floor["heads"] else "neuron"
        return f"With false-discovery control and the noise floor, the change is no more than noise: no {what} passes."
    heads = f"{entropy['flagged']} of {entropy['of']} heads in normalized entropy and " if entropy else ""
    return (
        f"Against the noise floor, with false-discovery control, there remain {heads}{neurons['flagged']:,} of "
        f"{neurons['of']:,} neurons in mean activation."
    )


def _control(data: RunData) -> str:
    control = controls.named(data)
    try:
        return controls.finding(data, control) if control else ""
    except (KeyError, Missing):
        return ""


def _cause(data: RunData) -> list[str]:
    if data.causal is None:
        return [
            "Whether these heads cause the better summaries is not tested in this run: a head that moved is not yet a "
            "head that matters."
        ]
    try:
        gain = data.causal["loss"]["gain"]
        if not gain["low"] > 0:
            return [
                "There is no effect to find causes of: the loss on the probe articles' reference summaries did not "
                f"fall beyond its interval ({gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] nats a token)."
            ]
        if not data.causal["exact"]:
            return [_estimated(data)]
        return [sentence for sentence in (_important(data), _ranked(data), _circuit(data)) if sentence]
    except (KeyError, TypeError, Missing):
        return ["The causal tests of this run cannot be read: run analyze_latent_space.py again."]


def _estimated(data: RunData) -> str:
    table = causal.part(data, "attribution_patching", "noising", "heads")
    layer, head = causal.strongest(table, "share")
    return (
        f"By a gradient estimate of patching, base's output of head {layer}.{head} costs fine-tuned most, "
        f"{causal.quoted(table, 'share', (layer, head), 100, 1)} % of its gain; no cause was tested by intervention."
    )


def _important(data: RunData) -> str:
    ablated = causal.part(data, "ablation", "mean", "fine_tuned", "heads")
    patched = causal.part(data, "patching", "noising", "heads")
    total, named = causal.numbers(patched, "share").size, int(np.sum(patched["flag"]))
    text = "No single head of the fine-tuned model matters beyond chance when it is ablated"
    if np.any(ablated["flag"]):
        place = causal.strongest(ablated, "mean")
        text = (
            f"The fine-tuned model depends most on head {place[0]}.{place[1]}: without it the loss on the reference "
            f"summary rises by {causal.quoted(ablated, 'mean', place)} nats a token"
        )
    if not named:
        return f"{text}; no single head carries any of the gain beyond chance when base's output is put back."
    place = causal.strongest(patched, "share")
    return (
        f"{text}; of what fine-tuning gained, head {place[0]}.{place[1]} carries most: with base's output in its "
        f"place {causal.quoted(patched, 'share', place, 100, 1)} % is lost ({named} of {total} heads change it beyond "
        "chance)."
    )


def _ranked(data: RunData) -> str:
    if "moved_and_matters" not in data.causal:
        return ""
    moved = next((name for name in causal.MOVED if name in data.causal["moved_and_matters"]["moved"]), None)
    return causal.verdict(causal.correlation(data, moved, "noising"), causal.MOVED[moved][0]) if moved else ""


def _circuit(data: RunData) -> str:
    found = data.causal.get("circuit")
    if not found:
        return ""
    greedy = found["greedy"]
    interval = f"{100 * greedy['share']:.0f} % [{100 * greedy['low']:.0f}, {100 * greedy['high']:.0f}]"
    if "random" not in found:
        return f"All {found['of']} heads are needed to recover what heads recover: no smaller set carries the gain."
    text = f"{found['size']} of {found['of']} heads recover {interval} of what all heads recover on held-out articles"
    if found["random"]["p_value"] > 0.05:
        return f"{text}, no more than random sets of that size do by chance."
    kl = found["by_metric"].get("kl")
    return f"{text}; as many heads chosen by attention KL recover {100 * kl['share']:.0f} %." if kl else f"{text}."
