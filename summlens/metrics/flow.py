"""Information flow: how much of a position's final state comes from which earlier token, layer by layer.

Attention rollout (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3) multiplies the
layers' attention matrices, each averaged over its heads and mixed half and half with the identity for the residual
stream. Value-weighted attention (Kobayashi et al. 2020, "Attention is Not Only a Weight", section 3) weighs a token
not by its attention alone but by the length of the vector that is moved, || sum_h a^h_ij f^h(x_j) || with
f^h(x) = (x W_V^h + b_V^h) W_O^h; here its rows are scaled to sum to 1 and rolled out in the same way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rows(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """The causal attention of one sequence as the model computes it: (H, T, T) float32 rows that sum to 1.

    query: (H, T, d); key: (Hkv, T, d), with every key head read by H / Hkv query heads in order.
    """
    key = key.float().repeat_interleave(len(query) // len(key), dim=0)
    scores = scaling * query.float() @ key.transpose(-1, -2)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf).log_softmax(-1).exp()


def value_weighted(attention: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """(T, T) lengths of the vectors that attention moves, all heads together, with rows scaled to sum to 1.

    attention: (H, T, T); value: (Hkv, T, d), biases included; output: (H, d, D), each head's slice of the output
    projection. Computed from the heads' Gram matrices of each token, so that no (T, T, D) array is made.
    """
    value = value.float().repeat_interleave(len(attention) // len(value), dim=0)
    moved = (value @ output.float()).transpose(0, 1)  # (T, H, D): what each head would add for each token
    gram = moved @ moved.transpose(1, 2)  # (T, H, H)
    by_key = attention.permute(2, 1, 0)  # (keys, queries, H)
    lengths = ((by_key @ gram) * by_key).sum(-1).clamp_min(0).sqrt().T
    total = lengths.sum(-1, keepdim=True)
    return torch.where(total > 0, lengths / total.clamp_min(torch.finfo(total.dtype).tiny), attention.mean(0))


def with_residual(weights: Tensor) -> Tensor:
    """(T, T) weights mixed half and half with the identity: what a position keeps of itself in the residual stream."""
    return 0.5 * weights + 0.5 * torch.eye(len(weights), dtype=weights.dtype, device=weights.device)


def flow(
    layers: Sequence[Tensor], queries: Sequence[int], threshold: float, most: int
) -> tuple[Tensor, list[list[tuple[Tensor, Tensor, Tensor]]]]:
    """Follow each query's final state down through the layers.

    layers: L matrices (T, T) whose rows sum to 1, `with_residual` included, first layer first.

    Returns (sources, edges). sources (m, T): the share of each query's final state that comes from each input token,
    rows summing to 1. edges[q][l] = (from, to, weight): the edges of layer l on which at least `threshold` of the flow
    of query q travels, at most the `most` strongest, strongest first; an edge leads from a token below block l to a
    token above it, and all edges of a layer together carry 1.
    """
    here = torch.zeros(len(queries), len(layers[0]), device=layers[0].device, dtype=layers[0].dtype)
    here[torch.arange(len(queries)), torch.as_tensor(queries)] = 1
    edges = [[None] * len(layers) for _ in queries]
    for layer in reversed(range(len(layers))):
        for q, share in enumerate(here):
            above = (share >= threshold).nonzero()[:, 0]  # a row's weights are at most 1: no other row can hold one
            carried = share[above, None] * layers[layer][above]
            row, below = (carried >= threshold).nonzero(as_tuple=True)
            weight, order = carried[row, below].sort(descending=True, stable=True)
            order = order[:most]
            edges[q][layer] = (below[order].cpu(), above[row[order]].cpu(), weight[:most].cpu())
        here = here @ layers[layer]
    return here.cpu(), edges
