"""Pieces that intervals and tests share: means and divisions with gaps, paired differences, work in portions."""

import numpy as np

AT_ONCE = 1 << 22  # numbers held at a time for the resampled articles (32 MiB as float64)


def paired_differences(a, b, axis):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have the same shape, not {a.shape} and {b.shape}")
    return np.moveaxis(a - b, axis, 0)


def chunks(resamples, width):
    """Sizes that add up to `resamples`, each with at most about _CHUNK numbers of `width` a resample."""
    size = max(1, AT_ONCE // max(width, 1))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def divide(numerator, denominator):
    """numerator / denominator, NaN where the denominator is not above 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, dtype=np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean along `axis` over what is finite; NaN where nothing is."""
    present = np.isfinite(values)
    return divide(np.where(present, values, 0.0).sum(axis=axis), present.sum(axis=axis))
