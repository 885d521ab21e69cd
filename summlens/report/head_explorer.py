"""The head explorer and the information flow of the report: what attention_maps.json and .npz hold, packed for a page.

The formats are those of `analysis.attention_maps`, which makes the files; explorer.js unpacks them in the page.
"""

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from summlens.figures.kit.rundata import Missing, RunData

MODELS = ("base", "fine_tuned")
METHODS = {"rollout": "Attention rollout", "value_weighted": "Value-weighted attention"}
PARTS = ("sources", "count", "edges", "weight")


@dataclass(frozen=True)
class Explorer:
    """`heads` [(name, KL in bits, why it is here unless for having moved most)], `articles` their ids, `packed` what
    the page's script reads, and a sentence on what the first head does and on what the flow says."""

    heads: list[tuple[str, float, str]]
    articles: list[str]
    packed: dict
    heads_finding: str
    flow_finding: str
    threshold: float
    most: int


def prepare(data: RunData) -> Explorer:
    """Everything about the explorer. Raises Missing where the run has no attention maps, or half of them."""
    if data.maps is None:
        raise Missing("there is no attention_maps.json")
    info, arrays = data.maps, data.map_arrays
    try:
        articles = [_article(info, arrays, a) for a in range(len(info["articles"]))]
        heads = [(f"{head['layer']}.{head['head']}", head["kl"], _why(head["reasons"])) for head in info["heads"]]
        if not articles or not heads:
            raise Missing("attention_maps.json holds no head or no article")
        return Explorer(
            heads=heads,
            articles=[article["id"] for article in info["articles"]],
            packed={"heads": [name for name, _, _ in heads], "articles": articles},
            heads_finding=_heads_finding(info, arrays, heads[0][0]),
            flow_finding=_flow_finding(info, arrays),
            threshold=info["flow"]["threshold"],
            most=info["flow"]["most"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Missing(f"attention_maps.json and .npz do not fit together ({error})") from None


def _why(reasons: list[str]) -> str:
    """Why a head is here, but for the usual reason."""
    return ", ".join(reason for reason in reasons if reason != "moved most")


def _article(info: dict, arrays: dict, a: int) -> dict:
    saved = info["articles"][a]
    length, first = len(saved["tokens"]), saved["prompt_length"]
    queries = length - first
    for model in MODELS:
        if arrays[f"rows/{a}/{model}"].shape != (len(info["heads"]), queries, length):
            raise ValueError(f"rows/{a}/{model}")
    return {
        "tokens": saved["tokens"],
        "prompt": first,
        "article": [saved["article_start"], saved["article_stop"]],
        "rows": {model: pack(arrays[f"rows/{a}/{model}"]) for model in MODELS},
        "flow": {
            method: {
                model: {part: pack(arrays[f"flow/{a}/{model}/{method}/{part}"]) for part in PARTS} for model in MODELS
            }
            for method in METHODS
        },
        "layers": int(arrays[f"flow/{a}/base/rollout/count"].shape[1]),
    }


def pack(values: np.ndarray) -> dict:
    """Unsigned integers for the page: little-endian, deflated, base64."""
    small = values.astype("<u1" if values.dtype.itemsize == 1 else "<u2")
    text = base64.b64encode(zlib.compress(small.tobytes(), 9)).decode()
    return {"bytes": small.dtype.itemsize, "data": text}


def _shares(quantised: np.ndarray) -> np.ndarray:
    return (quantised / 255.0) ** 2


def _of_article(info: dict, a: int, shares: np.ndarray) -> float:
    """The mean over the queries of the share on the article's tokens, the first token of all left out."""
    saved = info["articles"][a]
    return float(shares[..., max(saved["article_start"], 1) : saved["article_stop"]].sum(-1).mean())


def _heads_finding(info: dict, arrays: dict, name: str) -> str:
    count = range(len(info["articles"]))
    rows = {model: [_shares(arrays[f"rows/{a}/{model}"][0]) for a in count] for model in MODELS}
    article = [100 * np.mean([_of_article(info, a, rows[model][a]) for a in count]) for model in MODELS]
    first = [100 * np.mean([rows[model][a][:, 0].mean() for a in count]) for model in MODELS]
    return (
        f"While writing these summaries head {name}, which moved most, gave the article {article[0]:.0f} % of its "
        f"attention before fine-tuning and {article[1]:.0f} % after; the very first token had {first[0]:.0f} % and "
        f"then {first[1]:.0f} %."
    )


def _flow_finding(info: dict, arrays: dict) -> str:
    def share(model: str, method: str) -> float:
        sources = [_shares(arrays[f"flow/{a}/{model}/{method}/sources"]) for a in range(len(info["articles"]))]
        return 100 * float(np.mean([_of_article(info, a, one) for a, one in enumerate(sources)]))

    rollout, weighted = ([share(model, method) for model in MODELS] for method in METHODS)
    return (
        f"By attention rollout {rollout[0]:.0f} % of what reaches a summary token came from the article before "
        f"fine-tuning and {rollout[1]:.0f} % after; with attention weighed by what it moves, {weighted[0]:.0f} % and "
        f"{weighted[1]:.0f} % (the very first token not counted)."
    )
