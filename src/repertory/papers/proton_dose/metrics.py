"""Errors of a predicted depth-dose profile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repertory.papers.proton_dose.simulator import Array


def r80(dose: Array) -> Array:
    """Range R80: the most distal depth in mm at which the dose is 80 % of its maximum.

    Linear interpolation between samples at 0.5, 1.5, ... mm. If the dose does not fall below 80 % within the profile,
    the range is the last sample.

    Args:
        dose: (..., L) on a grid of 1 mm.

    Example:
        >>> r80(np.array([[0.5, 0.5, 1.0, 0.6, 0.0]]))
        array([3.])
    """
    level = 0.8 * dose.max(axis=-1, keepdims=True)
    length = dose.shape[-1]
    last = length - 1 - np.argmax((dose >= level)[..., ::-1], axis=-1)[..., None]
    following = np.minimum(last + 1, length - 1)
    above, below = (np.take_along_axis(dose, i, axis=-1) for i in (last, following))
    fall = above - below
    beyond = np.divide(above - level, fall, out=np.zeros_like(fall), where=fall > 0)
    return (last + 0.5 + beyond)[..., 0]


def bragg_peak(dose: Array) -> Array:
    """Depth of the maximum dose in mm: (..., L) -> (...)."""
    return dose.argmax(axis=-1) + 0.5


def compare(predicted: Array, true: Array, within: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Range and dose errors over all beams.

    Args:
        predicted, true: (B, L), relative to the maximum.
        within: (B, L) boolean, depths at which dose errors are computed; default: all.

    Returns:
        range: mean absolute error of R80 in mm; range_sd: its standard deviation over the beams;
        range_bias and range_signed_sd: mean and standard deviation of the signed error (predicted - true).
        mae: mean absolute error of the dose in % of the maximum.
        mre, mre50: mean relative error in %, where the true dose is above 5 % or 50 % of the maximum; beyond the range
        the relative error is not meaningful.
    """
    shift = r80(predicted) - r80(true)
    error = np.abs(predicted - true)
    mask = np.ones(true.shape, dtype=bool) if within is None else within

    def relative(threshold: float) -> float:
        high = mask & (true > threshold * true.max(axis=-1, keepdims=True))
        return 100 * float(np.mean(error[high] / true[high]))

    return {
        "range": float(np.abs(shift).mean()),
        "range_sd": float(np.abs(shift).std()),
        "range_bias": float(shift.mean()),
        "range_signed_sd": float(shift.std()),
        "mae": 100 * float(error[mask].mean()),
        "mre": relative(0.05),
        "mre50": relative(0.50),
    }
