"""The answer in four sentences whose words change with the numbers, and what there is to say beside it."""

import numpy as np

from summlens.core.words import listed, percent
from summlens.figures import causes, format_and_task
from summlens.figures.kit.rundata import Missing, RunData, change, floors_in_words, layers_above_noise
from summlens.figures.scores import comparison, label, main_score, verdict
from summlens.names import CHOOSERS, HEAD, MOVED

NEGLIGIBLE_BITS = 1e-6  # float32 rounding in a divergence of identical rows


def sentences(data: RunData) -> list[tuple[str, str]]:
    """The four questions, each with its answer in one sentence."""
    return [
        ("Are the summaries better?", _better(data)),
        ("What changed inside?", _changed(data)),
        ("Is it more than noise?", _noise(data)),
        ("Does it cause the better summaries?", _cause(data)),
    ]


def details(data: RunData) -> list[str]:
    """What the four sentences leave out, a sentence each."""
    return [text for text in (_format_alone(data), _width(data), _split(data), _ablated(data), _circuit(data)) if text]


def _better(data: RunData) -> str:
    try:
        score = main_score(data)
        text = verdict(data, "zero_shot", score)
    except Missing:
        return "Whether the summaries became better is unknown: this run has no evaluation."
    if not text:
        return "The evaluation holds no pair of fine-tuned and zero-shot summaries to compare."
    lead = comparison(data, "fine_tuned", "lead3", score)
    if lead is None:
        return text
    shown = "better" if lead["low"] > 0 else "worse" if lead["high"] < 0 else "not shown to be better or worse"
    points = f"{lead['difference']:+.1f} [{lead['low']:+.1f}, {lead['high']:+.1f}] points"
    return f"{text[:-1]}; the fine-tuned model's are {shown} than {label(data, 'lead3')} ({points})."


def _changed(data: RunData) -> str:
    try:
        data.needs_training()
        kl = change(data, HEAD["kl"].array())
    except Missing:
        return "What changed is unknown: there are not two captures with attention to compare."
    values = np.where(np.isfinite(kl.change), kl.change, -np.inf)
    if values.max() < NEGLIGIBLE_BITS:
        text = "No attention head differs from the base model: every KL divergence is zero"
    else:
        order = np.argsort(-values, axis=None, kind="stable")[: min(3, int(np.isfinite(values).sum()))]
        places = [np.unravel_index(index, kl.change.shape) for index in order]
        named = [f"head {a}.{b} ({_bits(kl, a, b)})" for a, b in places]
        text = f"Attention moved furthest from base in {listed(named)}, in bits of KL divergence"
        if kl.above_noise is not None and not any(kl.above_noise[place] for place in places):
            text += ", in none of them beyond noise"
    represented = _represented(data)
    return f"{text}; {represented}." if represented else f"{text}."


def _represented(data: RunData) -> str:
    """Where the representations changed, if anywhere, by the similarity (CKA) of base and fine-tuned at each layer."""
    same = data.latent_arrays.get("cka/same_layer")
    if same is None or not np.isfinite(same[0]).any():
        return ""
    mean, low, high = same.astype(float)
    quoted = [f"{value:.2f} [{lower:.2f}, {upper:.2f}]" for value, lower, upper in zip(mean, low, high, strict=True)]
    layer, beyond = int(np.nanargmin(mean)), ""
    tested = layers_above_noise(data, "cka")
    if tested is not None:
        above, floors = tested
        against = f"beyond what {floors_in_words(floors)} would do"
        if not above.any():
            lowest = f"CKA with base nowhere below {quoted[layer]}"
            return f"no layer's representation of an article changed {against} ({lowest})"
        beyond = f"{against} at {above.sum()} of {above.size} layers, counting the embeddings"
    if high[layer] >= 0.99:
        same = f"the representations stayed nearly the same in every layer (CKA nowhere below {quoted[layer]})"
        return f"{same}, though they changed {beyond}" if beyond else same
    if beyond:
        layer = int(np.nanargmin(np.where(above, mean, np.inf)))
    place = "the embeddings" if layer == 0 else f"layer {layer} of {len(mean) - 1}"
    text = f"the representation of an article changed {f'{beyond}, ' if beyond else ''}most at {place}"
    return f"{text} (CKA with base {quoted[layer]})"


def _bits(kl, layer: int, head: int) -> str:
    return f"{kl.change[layer, head]:.3f} [{kl.low[layer, head]:.3f}, {kl.high[layer, head]:.3f}]"


def _noise(data: RunData) -> str:
    floor = (data.causal or {}).get("noise_floor")
    if not floor:
        return "Whether the change is more than noise is not tested in this run."
    heads, neurons = floor["heads"], floor["neurons"]
    against = floors_in_words(floor["floors"])
    named = [
        f"{heads[metric]['flagged']} of {heads[metric]['of']} heads in {name}"
        for metric, name in (("kl", "attention KL"), ("normalized_entropy", "normalized entropy"))
        if heads.get(metric, {}).get("of")
    ]
    if not any(row["flagged"] for row in heads.values()) and not neurons["flagged"]:
        what = "head and no neuron" if heads else "neuron"
        return (
            f"It is no more than noise: no {what} changed beyond what {against} would do, with false-discovery control."
        )
    main = sum(heads.get(metric, {}).get("flagged", 0) for metric in ("kl", "normalized_entropy"))
    others = [metric for metric, row in heads.items() if row["flagged"]]
    if others and not main:
        most = max(others, key=lambda metric: heads[metric]["flagged"])
        title = HEAD[most].title.lower() if most in HEAD else most.replace("_", " ")
        named.append(f"{heads[most]['flagged']} of {heads[most]['of']} heads in {title}")
    named.append(f"{neurons['flagged']:,} of {neurons['of']:,} neurons in mean activation")
    text = f"Beyond what {against} would do, with false-discovery control, there is change in {listed(named)}"
    if "movement" in (data.controls or {}).get("controls", {}).get("shuffled-pairs", {}):
        moved = format_and_task.movement(data, "shuffled-pairs")
        text += f"; a control that could learn the format alone moved attention {moved} as far"
    return f"{text}." if "seed" in floor["floors"] else f"{text}; another training seed was not tried."


def _cause(data: RunData) -> str:
    if data.causal is None:
        return "This is not tested in this run: a head that moved is not yet a head that matters."
    try:
        gain = data.causal["loss"]["gain"]
        if not gain["low"] > 0:
            did = "rose" if gain["high"] < 0 else "did not fall beyond its interval"
            return (
                f"There is no effect to find causes of: the loss on the probe articles' reference summaries {did} "
                f"(fall: {gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] nats a token)."
            )
        if not data.causal["exact"]:
            return _no_better(data) + _estimated(data)
        ranked = _ranked(data)
        return _no_better(data) + (
            f"{_important(data)}; {ranked[0].lower()}{ranked[1:]}" if ranked else f"{_important(data)}."
        )
    except (KeyError, TypeError, Missing):
        return "The causal tests of this run cannot be read: run analyze_latent_space.py again."


def _no_better(data: RunData) -> str:
    """What the causal tests then explain, where the scores show no better summaries; else nothing."""
    try:
        found = comparison(data, "fine_tuned", "zero_shot", main_score(data))
    except Missing:
        return ""
    if found is None or found["low"] > 0:
        return ""
    how = "worse" if found["high"] < 0 else "not shown to be better"
    return f"The summaries are {how}, and what is explained here is the loss on the reference summaries, which fell. "


def _estimated(data: RunData) -> str:
    table = causes.part(data, "attribution_patching", "noising", "heads")
    layer, head = causes.strongest(table, "share")
    return (
        f"By a gradient estimate of patching, base's output of head {layer}.{head} costs fine-tuned most, "
        f"{causes.cell(table, 'share', (layer, head), 100, 1)} % of its gain; no cause was tested by intervention."
    )


def _important(data: RunData) -> str:
    patched = causes.part(data, "patching", "noising", "heads")
    total, named = causes.numbers(patched, "share").size, int(np.sum(patched["flag"]))
    if not named:
        return f"None of the {total} heads alone carries any of the gain beyond chance when base's output is put back"
    place = causes.strongest(patched, "share")
    if causes.numbers(patched, "share")[place] <= 0:
        return (
            f"None of the {total} heads alone carries any of the gain beyond chance when base's output is put back, "
            f"and {named} {'holds' if named == 1 else 'hold'} it back"
        )
    return (
        f"Of what fine-tuning gained in loss on the reference summaries, head {place[0]}.{place[1]} alone carries more "
        f"than any other: with base's output in its place {causes.cell(patched, 'share', place, 100, 1)} % is lost "
        f"({named} of {total} heads change it beyond chance)"
    )


def _ranked(data: RunData) -> str:
    if "moved_and_matters" not in data.causal:
        return ""
    moved = next((name for name in MOVED if name in data.causal["moved_and_matters"]["moved"]), None)
    return causes.verdict(causes.correlation(data, moved, "noising"), MOVED[moved].title) if moved else ""


def _format_alone(data: RunData) -> str:
    try:
        return verdict(data, "shuffled-pairs", main_score(data))
    except Missing:
        return ""


def _width(data: RunData) -> str:
    """How many heads look wider and narrower than before."""
    try:
        data.needs_training()
        entropy = change(data, HEAD["normalized_entropy"].array())
    except Missing:
        return ""
    total = int(np.isfinite(entropy.change).sum())
    told = ~entropy.uncertain & np.isfinite(entropy.change)
    by = "noise floor" if entropy.above_noise is not None else "95 % interval"
    wider, narrower = int((told & (entropy.change > 0)).sum()), int((told & (entropy.change < 0)).sum())
    if not wider + narrower:
        return f"None of {total} heads spreads its attention wider or narrower beyond its {by} (normalized entropy)."
    return (
        f"Of {total} heads {wider} spread their attention wider and {narrower} narrower, beyond their {by} (normalized "
        "entropy)."
    )


def _split(data: RunData) -> str:
    control = format_and_task.named(data)
    try:
        return format_and_task.finding(data, control) if control else ""
    except (KeyError, Missing):
        return ""


def _ablated(data: RunData) -> str:
    try:
        ablated = causes.part(data, "ablation", "mean", "fine_tuned", "heads")
    except Missing:
        return ""
    if not np.any(ablated["flag"]):
        return "No single head of the fine-tuned model matters beyond chance when it is ablated."
    place = causes.strongest(ablated, "mean")
    return (
        f"The fine-tuned model depends most on head {place[0]}.{place[1]}: without it the loss on the reference "
        f"summary rises by {causes.cell(ablated, 'mean', place)} nats a token."
    )


def _circuit(data: RunData) -> str:
    """What the smallest set recovers, and whether cheaper metrics would have chosen one as good."""
    found = (data.causal or {}).get("circuit")
    if not found:
        return ""
    everything = percent(found["all_heads"])
    if "random" not in found:
        return f"All {found['of']} heads are needed to recover {everything} of the gain: no smaller set does."
    text = f"{found['size']} of {found['of']} heads recover {percent(found['greedy'])} of the gain"
    if found["target_of"] == "gain":
        text += " on held-out articles"
    else:
        text = f"All {found['of']} heads together recover only {everything} of the gain on held-out articles; {text}"
    median = 100 * np.median(found["random"]["shares"])
    if found["random"]["p_value"] > 0.05:
        return f"{text}, no more than random sets of that size do by chance ({median:.0f} % at the median)."
    chosen = []
    for name in (name for name in MOVED if name in found["by_metric"]):
        row = found["by_metric"][name]
        doubt = " (no better than random)" if row["p_value"] > 0.05 else ""
        chosen.append(f"{100 * row['share']:.0f} % chosen by {CHOOSERS[name]}{doubt}")
    return f"{text}; as many heads recover {listed([f'{median:.0f} % chosen at random', *chosen])}."
