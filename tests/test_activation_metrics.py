"""Activation sizes, head output norms and neuron statistics against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from summlens.metrics.activations import NeuronStatistics, head_output_norms, mean_absolute, mean_l2, mean_vector

ROWS = [slice(0, 5), slice(3, 4), slice(2, 7)]


def test_sizes_over_each_examples_own_positions():
    values = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    padded = values.clone()
    for b, rows in enumerate(ROWS):
        outside = torch.ones(7, dtype=torch.bool)
        outside[rows] = False
        padded[b, outside] = torch.nan  # what stands elsewhere is never read
    own = [values[b, rows].double().numpy() for b, rows in enumerate(ROWS)]
    np.testing.assert_allclose(mean_absolute(padded, ROWS), [np.abs(x).mean() for x in own], rtol=1e-6)
    np.testing.assert_allclose(mean_l2(padded, ROWS), [np.mean([np.linalg.norm(r) for r in x]) for x in own], rtol=1e-6)
    np.testing.assert_allclose(mean_vector(padded, ROWS), [x.mean(0) for x in own], rtol=1e-5, atol=1e-7)


def test_half_precision_is_accumulated_in_float32():
    """1 + 1/128 repeated 4,096 times: a bfloat16 sum would stop growing at 256."""
    values = torch.full((1, 4096, 3), 1.0078125, dtype=torch.bfloat16)
    assert mean_absolute(values, [slice(0, 4096)]).item() == pytest.approx(1.0078125, rel=1e-6)
    assert mean_l2(values, [slice(0, 4096)]).item() == pytest.approx(1.0078125 * 3**0.5, rel=1e-6)


def test_head_output_norms():
    """3 heads of width 2 into 5: each head alone through its slice of the projection."""
    generator = torch.Generator().manual_seed(1)
    heads, projection = torch.randn(2, 4, 6, generator=generator), torch.randn(3, 2, 5, generator=generator)
    norms = head_output_norms(heads, projection)
    assert norms.shape == (2, 4, 3)
    for b, t, h in np.ndindex(2, 4, 3):
        added = heads[b, t, 2 * h : 2 * h + 2].double().numpy() @ projection[h].double().numpy()
        assert norms[b, t, h].item() == pytest.approx(np.linalg.norm(added), rel=1e-5)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    centre=st.sampled_from([0.0, -3.0, 1e4]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=30, deadline=None)
def test_neuron_statistics_in_any_batches(sizes, centre, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [centre + torch.randn(n, 4, generator=generator) for n in sizes]
    statistics = NeuronStatistics(4)
    for batch in batches:
        statistics.update(batch)
    values = torch.cat(batches).double().numpy()
    result = statistics.result()
    assert statistics.count == len(values)
    np.testing.assert_allclose(result["mean"], values.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result["std"], values.std(0), rtol=1e-3, atol=1e-3 if centre == 1e4 else 1e-6)
    np.testing.assert_array_equal(result["max"], values.max(0))
    np.testing.assert_allclose(result["positive_share"], (values > 0).mean(0))
