"""The logit lens: what every layer's residual stream would predict (nostalgebraist 2020; Belrose et al. 2023)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 1 << 23  # logits held at a time (32 MiB as float32)


@torch.no_grad()
def logit_lens(
    residuals: Tensor, targets: Tensor, norm: Callable[[Tensor], Tensor], unembedding: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Loss and rank of the target when a residual stream goes straight through the final norm and the unembedding.

    Args:
        residuals: (..., m, D) residual stream *before* the final norm, at m positions; leading axes are layers.
        targets: (m,) ids of the tokens that follow those positions.
        norm: the model's final norm, (n, D) -> (n, D).
        unembedding: the model's output embedding, (n, D) -> (n, V).

    Returns:
        loss (..., m), nats: -log softmax(logits)[target];
        rank (..., m), 1 = the target has the largest logit: one more than the number of tokens with a larger one.
        Both float32 on the residuals' device. At most about 32 MiB of logits are held at a time.
    """
    rows = residuals.reshape(-1, residuals.shape[-1])
    wanted = targets.expand(residuals.shape[:-1]).reshape(-1, 1)
    losses, ranks = [], []
    start, size = 0, 1  # the first chunk is one row: it tells the size of the vocabulary
    while start < len(rows):
        chunk = slice(start, start + size)
        logits = unembedding(norm(rows[chunk])).float()
        target = logits.gather(-1, wanted[chunk])
        losses.append(functional.cross_entropy(logits, wanted[chunk, 0], reduction="none"))
        ranks.append((logits > target).sum(dim=-1) + 1)
        start, size = start + size, max(1, _CHUNK // logits.shape[-1])
    shape = residuals.shape[:-1]
    return torch.cat(losses).reshape(shape), torch.cat(ranks).float().reshape(shape)
