"""How far weights moved, and how large gradients are."""

from collections.abc import Iterable

import torch
from torch import Tensor


def change(weight: Tensor, base: Tensor, *, keep: int = 0) -> tuple[Tensor, Tensor]:
    """||W - W0||_F and ||W - W0||_F / ||W0||_F, as float64, over all but the first `keep` axes.

    A matrix: `keep=0`, two numbers. Per head, (H, d, D): `keep=1`, two (H,). The ratio of a weight that is zero and
    did not move is 0; of one that moved away from zero, infinity.
    """
    base = base.detach().to(weight.device).float()
    absolute = _norm(weight.detach().float() - base, keep)
    ratio = absolute / _norm(base, keep)
    return absolute, ratio.masked_fill(absolute == 0, 0)


def gradient_norm(gradients: Iterable[Tensor | None]) -> float:
    """L2 norm of several gradients taken as one vector; an absent gradient is zero. Summed in float64."""
    return sum(float(_norm(g.detach(), 0)) ** 2 for g in gradients if g is not None) ** 0.5


def _norm(values: Tensor, keep: int) -> Tensor:
    """Accumulated in float64, whatever the type of the values, without a float64 copy of them."""
    return torch.linalg.vector_norm(values.flatten(keep), dim=-1, dtype=torch.float64)
