"""Where single heads look, and how information flows, on a few probe articles: what the report's explorer shows.

Writes attention_maps.json and attention_maps.npz. With K heads, and for each article a (0, 1, ...) its T tokens, its m
summary queries (query t writes token t + 1), L layers, `<model>` base or fine_tuned, and `<method>` rollout or
value_weighted (definitions: summlens.metrics.flow):

attention_maps.json  `models` {base, fine_tuned}: their names;
                     `heads` [{layer, head, reasons, kl, copy_score}]: the numbers are the last capture's means;
                     `articles` [{id, tokens: [T] texts, article_start, article_stop, prompt_length}];
                     `quantisation`, `flow` {threshold, most}: how the arrays were made, in words and numbers.
attention_maps.npz   rows/<a>/<model>                       (K, m, T) uint8: the attention of each head and query
                     flow/<a>/<model>/<method>/sources      (m, T) uint8: share of each query's final state that comes
                                                            from each input token
                     flow/<a>/<model>/<method>/count        (m, L) uint16: how many edges a query has in each layer
                     flow/<a>/<model>/<method>/edges        (E, 2) uint16: from (token below the block), to (token
                                                            above it), in the order of `count`, strongest first
                     flow/<a>/<model>/<method>/weight       (E,) uint8: share of the query's flow on the edge

Every uint8 q stands for the share (q / 255)^2: the square root keeps small shares apart, and a share p is off by at
most sqrt(p) / 255 + 4e-6.
"""

import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from summlens.analysis.material import Material
from summlens.core.errors import UserError
from summlens.data.tokens import Example
from summlens.metrics import flow
from summlens.model import loading
from summlens.model.architecture import architecture
from summlens.model.observing import evaluating, observed_attention
from summlens.names import HEAD, MODELS
from summlens.stats.columns import nanmean

log = logging.getLogger(__name__)
MOVED, COPYING, ARTICLES = 8, 3, 3
THRESHOLD, MOST_EDGES = 0.002, 24
METHODS = ("rollout", "value_weighted")
QUANTISATION = "uint8 q stands for the share (q / 255)^2; a share p is off by at most sqrt(p) / 255 + 4e-6"


def quantise(shares: np.ndarray) -> np.ndarray:
    """Shares 0..1 as uint8, on a square-root scale (see `QUANTISATION`)."""
    return np.rint(255 * np.sqrt(np.clip(shares, 0, 1))).astype(np.uint8)


def restore(quantised: np.ndarray) -> np.ndarray:
    """The shares that `quantise` stored."""
    return (quantised / 255.0) ** 2


def parse_head(text: str) -> tuple[int, int]:
    """(layer, head) of "LAYER.HEAD". Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+)\.(\d+)", text.strip())
    if not match:
        raise UserError(f"{text!r} is no head: write it as LAYER.HEAD, such as 3.4, both counted from 0")
    return int(match[1]), int(match[2])


def choose_heads(capture: Mapping[str, np.ndarray], asked: Sequence[tuple[int, int]] = ()) -> list[dict]:
    """The heads to show: those that moved most, those that copy most, and those asked for, each once.

    capture: the arrays of the last captured step. Raises UserError where it has no attention against base, or where a
    head is asked for that the model does not have.
    """
    keys = [HEAD[name].array() for name in ("kl", "copy_score")]
    missing = [key for key in keys if key not in capture]
    if missing:
        raise UserError(f"the last captured step holds no {missing[0]}: make the run again")
    kl, copying = (np.nan_to_num(nanmean(capture[key], 0), nan=-1.0) for key in keys)
    layers, heads = kl.shape
    for layer, head in asked:
        if layer >= layers or head >= heads:
            raise UserError(
                f"there is no head {layer}.{head}: the model has layers 0 to {layers - 1}, heads 0 to {heads - 1}"
            )
    reasons: dict[tuple[int, int], list[str]] = {}
    for reason, places in (
        ("moved most", _largest(kl, MOVED)),
        ("copies most", _largest(copying, COPYING)),
        ("asked for", asked),
    ):
        for place in places:
            reasons.setdefault(place, []).append(reason)
    return [
        {
            "layer": layer,
            "head": head,
            "reasons": why,
            "kl": float(kl[layer, head]),
            "copy_score": float(copying[layer, head]),
        }
        for (layer, head), why in reasons.items()
    ]


def _largest(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    order = np.argsort(-values, axis=None, kind="stable")[:count]
    return [tuple(int(i) for i in np.unravel_index(index, values.shape)) for index in order]


def choose_articles(examples: Sequence[Example], count: int = ARTICLES) -> list[Example]:
    """The shortest probe articles, which fit a screen and the report, in the probe set's order."""
    shortest = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))[:count]
    return [examples[index] for index in sorted(shortest)]


def token_texts(tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token, with the space it begins with, which some tokenizers show only behind another token."""
    texts = []
    for before, token in zip([None, *ids[:-1]], ids, strict=True):
        alone = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if before is not None:
            first = tokenizer.decode([before], clean_up_tokenization_spaces=False)
            both = tokenizer.decode([before, token], clean_up_tokenization_spaces=False)
            alone = both[len(first) :] if both.startswith(first) and both != first else alone
        texts.append(alone)
    return texts


@torch.no_grad()
def read(
    model: nn.Module, example: Example, heads: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, dict[str, list[Tensor]]]:
    """Attention rows (K, m, T) of `heads` at the example's summary queries, and by method the L flow matrices (T, T)
    with the residual stream in them; all float32. The model runs in eval mode and is left as it was."""
    found = architecture(model)
    ids = torch.tensor([example.input_ids], device=model.get_input_embeddings().weight.device)
    rows = np.zeros((len(heads), len(example.queries), len(example.input_ids)), dtype=np.float32)
    queries = slice(example.queries.start, example.queries.stop)
    matrices: dict[str, list[Tensor]] = {method: [] for method in METHODS}
    current: list[Tensor] = []

    def attend(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        current[:] = [flow.attention_rows(query[0], key[0], scaling)]
        for k, (where, head) in enumerate(heads):
            if where == layer:
                rows[k] = current[0][head, queries].cpu().numpy()

    def carry(layer: int, value: Tensor) -> None:
        weighted = flow.value_weighted(current[0], value[0], found.heads_of(layer)["o"])
        for method, weights in (("rollout", current[0].mean(0)), ("value_weighted", weighted)):
            matrices[method].append(flow.with_residual(weights))

    with evaluating(model), observed_attention(found, torch.ones_like(ids, dtype=torch.bool), attend, carry):
        model(input_ids=ids, use_cache=False)
    return rows, matrices


def maps(model: nn.Module, name: str, examples: Sequence[Example], heads: Sequence[tuple[int, int]]) -> dict:
    """The arrays of attention_maps.npz for one model, called `name` (base or fine_tuned) in their keys."""
    arrays = {}
    for a, example in enumerate(examples):
        rows, matrices = read(model, example, heads)
        arrays[f"rows/{a}/{name}"] = quantise(rows)
        for method, layers in matrices.items():
            sources, edges = flow.flow(layers, example.queries, THRESHOLD, MOST_EDGES)
            kept = [edge for of_query in edges for edge in of_query]
            pairs = torch.cat([torch.stack([below, above], 1) for below, above, _ in kept])
            key = f"flow/{a}/{name}/{method}"
            arrays[f"{key}/sources"] = quantise(sources.numpy())
            counts = np.array([[len(edge[2]) for edge in of_query] for of_query in edges], dtype=np.uint16)
            arrays[f"{key}/count"] = counts
            arrays[f"{key}/edges"] = pairs.numpy().astype(np.uint16)
            arrays[f"{key}/weight"] = quantise(torch.cat([weight for _, _, weight in kept]).numpy())
    return arrays


def of_material(material: Material, asked: Sequence[tuple[int, int]] = ()) -> tuple[dict, dict[str, np.ndarray]]:
    """The maps of the material's two models: of the heads that moved and copy most, and of those `asked` for.

    Raises UserError for a run without captures and for a head that is not there.
    """
    run, names = material.run, (material.base, material.fine_tuned)
    if not run.steps():
        raise UserError("no step was captured: which heads moved is not known; train with --capture-steps above 0")
    heads = choose_heads(run.read_step(run.steps()[-1]).arrays, asked)
    chosen = choose_articles(material.examples)
    places = [(head["layer"], head["head"]) for head in heads]
    log.info("attention maps of %d heads on %d probe articles", len(heads), len(chosen))
    arrays = {}
    for key, name in zip(MODELS, names, strict=True):
        arrays |= maps(material.models(name), key, chosen, places)
    tokenizer = loading.load_tokenizer(names[0])
    articles = [
        {
            "id": example.id,
            "tokens": token_texts(tokenizer, example.input_ids),
            "article_start": example.article_start,
            "article_stop": example.article_stop,
            "prompt_length": example.prompt_length,
        }
        for example in chosen
    ]
    info = {
        "models": dict(zip(MODELS, map(str, names), strict=True)),
        "heads": heads,
        "articles": articles,
        "quantisation": QUANTISATION,
        "flow": {"threshold": THRESHOLD, "most": MOST_EDGES},
    }
    return info, arrays
