"""Sizes of activations, head outputs and neurons, over each example's own positions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def mean_absolute(values: Tensor, rows: Sequence[slice]) -> Tensor:
    """Mean |x| over each example's positions and all features. values: (B, T, D); rows: B slices of T -> (B,)."""
    return torch.stack([values[b, own].float().abs().mean() for b, own in enumerate(rows)])


def mean_l2(values: Tensor, rows: Sequence[slice]) -> Tensor:
    """Mean over each example's positions of the L2 norm over features. values: (B, T, D); rows: B slices -> (B,)."""
    return torch.stack([values[b, own].float().norm(dim=-1).mean() for b, own in enumerate(rows)])


def mean_vector(values: Tensor, rows: Sequence[slice]) -> Tensor:
    """Mean over each example's positions. values: (B, T, D); rows: B slices of T -> (B, D)."""
    return torch.stack([values[b, own].float().mean(0) for b, own in enumerate(rows)])


def head_output_norms(heads: Tensor, projection: Tensor) -> Tensor:
    """L2 norm of what each head adds to the residual stream at each position, without the projection's bias.

    Where a block scales or normalises its attention output once more (Granite; Gemma 2 and 3), it is the norm before.

    heads: (B, T, H * d), the input of the output projection; projection: (H, d, D), each head's slice of it.
    Returns (B, T, H) float32. Memory: one head's (B, T, D) at a time.
    """
    heads = heads.float().unflatten(-1, projection.shape[:2])
    return torch.stack([(heads[:, :, h] @ w.float()).norm(dim=-1) for h, w in enumerate(projection)], dim=-1)


class NeuronStatistics:
    """Mean, maximum, standard deviation and share above zero of N neurons, over positions that come in batches.

    Batches are merged in float64 by the pairwise update of Chan, Golub & LeVeque (1983), which keeps its digits where
    a neuron's mean is large beside its deviation.
    """

    def __init__(self, neurons: int):
        self.count = 0
        self._mean, self._squares, self._positive = np.zeros((3, neurons))
        self._max = np.full(neurons, -np.inf)

    def update(self, values: Tensor) -> None:
        """Add positions. values: (n, N), n >= 1."""
        values = values.detach().float()
        count = len(values)
        mean = values.mean(0)
        squares = (values - mean).square_().sum(0).double().cpu().numpy()
        mean = mean.double().cpu().numpy()
        total = self.count + count
        difference = mean - self._mean
        self._mean += difference * (count / total)
        self._squares += squares + difference**2 * (self.count * count / total)
        self._positive += (values > 0).sum(0).cpu().numpy()
        self._max = np.maximum(self._max, values.amax(0).cpu().numpy())
        self.count = total

    def result(self) -> dict[str, np.ndarray]:
        """{mean, max, std, positive_share}: (N,) float64; std is the population's (divided by n)."""
        return {
            "mean": self._mean,
            "max": self._max,
            "std": np.sqrt(self._squares / self.count),
            "positive_share": self._positive / self.count,
        }
