"""The metrics of Argoverse 2 motion forecasting, as its own API computes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repertory.core.problem import Problem

MISS = 2.0
"""Metres of final error above which a forecast is a miss."""


def scores(trajectories: ArrayLike, probabilities: ArrayLike, truth: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Errors of each scenario.

    ADE and FDE are the mean and the last Euclidean error of a mode. Of the K modes the one with the least FDE counts:
    minFDE is its FDE, minADE is *its* ADE (not the least one), brier-minFDE its FDE + (1 - p)², with p normalised over
    the modes. With suffix 1 the most probable mode counts.

    Args:
        trajectories: (S, K, T, 2) in metres.
        probabilities: (S, K).
        truth: (S, T, 2), in the same frame.

    Returns:
        min_ade, min_fde, miss (0 or 1), brier_min_fde, best (number of the mode), and min_ade_1, min_fde_1, miss_1;
        (S,) each.

    Raises:
        Problem: shapes that do not belong together.

    Example:
        >>> found = scores([[[[0.0, 0.0]], [[3.0, 0.0]]]], [[0.75, 0.25]], [[[3.0, 1.0]]])
        >>> found["min_fde"], found["brier_min_fde"]
        (array([1.]), array([1.5625]))
    """
    forecast, p, real = (np.asarray(a, dtype=np.float64) for a in (trajectories, probabilities, truth))
    if forecast.ndim != 4 or forecast.shape[:2] != p.shape or forecast.shape[:1] + forecast.shape[2:] != real.shape:
        raise Problem(
            f"trajectories {forecast.shape}, probabilities {p.shape}, truth {real.shape}",
            "metrics",
            "give (S, K, T, 2), (S, K) and (S, T, 2)",
        )
    error = np.linalg.norm(forecast - real[:, None], axis=-1)  # (S, K, T)
    ade, fde = error.mean(-1), error[..., -1]
    p = p / p.sum(1, keepdims=True)
    rows, best, likely = np.arange(len(p)), fde.argmin(1), p.argmax(1)
    return {
        "min_ade": ade[rows, best],
        "min_fde": fde[rows, best],
        "miss": (fde[rows, best] > MISS).astype(float),
        "brier_min_fde": fde[rows, best] + (1 - p[rows, best]) ** 2,
        "best": best,
        "min_ade_1": ade[rows, likely],
        "min_fde_1": fde[rows, likely],
        "miss_1": (fde[rows, likely] > MISS).astype(float),
    }
