"""Weight change and gradient norms against NumPy in float64."""

import math

import numpy as np
import pytest
import torch

from summlens.metrics.weights import change, gradient_norm


def test_change_of_a_matrix():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5, 7, generator=generator)
    weight = base + 1e-4 * torch.randn(5, 7, generator=generator)
    absolute, relative = change(weight, base)
    moved = weight.double().numpy() - base.double().numpy()
    assert float(absolute) == pytest.approx(np.linalg.norm(moved), rel=1e-6)
    assert float(relative) == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(base.double()), rel=1e-6)
    assert change(weight.T, base.T)[0] == pytest.approx(float(absolute))  # GPT-2 stores transposes: not contiguous


def test_change_by_head():
    base = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1))
    weight = base.clone()
    weight[1] *= 3
    absolute, relative = change(weight, base, keep=1)
    size = np.linalg.norm(base[1].double())
    np.testing.assert_allclose(absolute, [0, 2 * size, 0], rtol=1e-6)
    np.testing.assert_allclose(relative, [0, 2, 0], rtol=1e-6)


def test_the_ratio_of_nothing_to_nothing_is_zero():
    zero = torch.zeros(2, 2)
    assert change(zero, zero) == (0, 0)
    assert float(change(zero + 1, zero)[1]) == math.inf


def test_small_changes_of_a_large_matrix_keep_their_digits():
    """A million steps of 2^-20: a float32 sum of squares in sequence would lose them."""
    base = torch.ones(1000, 1000)
    absolute, relative = change(base + 2**-20, base)
    assert float(absolute) == pytest.approx(1000 * 2**-20, rel=1e-9)
    assert float(relative) == pytest.approx(2**-20, rel=1e-9)


def test_gradient_norm_of_several():
    gradients = [torch.tensor([3.0, 0.0]), None, torch.tensor([[0.0], [4.0]])]
    assert gradient_norm(gradients) == pytest.approx(5)
    assert gradient_norm([None]) == 0
    huge = torch.full((4,), 60000.0, dtype=torch.float16)  # its square does not fit float16
    assert gradient_norm([huge]) == pytest.approx(2 * float(huge[0]))
