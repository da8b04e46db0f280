"""How a network with several exits is used: all exits on every image, or early exits within an average budget.

Budgeted batch: exit k lets a sample leave if its confidence reaches the threshold T_k. Thresholds are fitted so that
the share q_k of a held-out set leaves at exit k, for 39 choices of q; each gives a point of accuracy against cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repertory.papers.l2w_den.settings import INDICES
from repertory.papers.l2w_den.weighting import target_shares

NEVER, ALWAYS = 1e8, -1e8
"""Thresholds that no sample and every sample reaches."""

Floats = NDArray[np.float64]


def fit_thresholds(confidences: Tensor, shares: Tensor) -> Tensor:
    """Thresholds (K,) at which floor(N q_k) of the samples that reach exit k leave there; the last lets all leave.

    Args:
        confidences: of a held-out set (N, K).
        shares: q, (K,).

    Example:
        >>> fit_thresholds(torch.tensor([[0.9, 0.9], [0.6, 0.8], [0.4, 0.7]]), torch.tensor([0.7, 0.3]))[0]
        tensor(0.6000)
    """
    n, exits = confidences.shape
    thresholds = confidences.new_full((exits,), NEVER)
    left = torch.ones(n, dtype=torch.bool, device=confidences.device)
    for k, share in enumerate(shares[:-1].tolist()):
        ranked = confidences[left, k].sort(descending=True).values
        wanted = int(n * share)
        if 1 <= wanted <= len(ranked):
            thresholds[k] = ranked[wanted - 1]
        left &= confidences[:, k] < thresholds[k]  # equal confidences leave together
    thresholds[-1] = ALWAYS
    return thresholds


def all_thresholds(confidences: Tensor) -> Tensor:
    """The thresholds of the 39 target shares, (39, K)."""
    exits = confidences.shape[1]
    return torch.stack([fit_thresholds(confidences, target_shares(i, exits)) for i in range(1, INDICES + 1)])


def leaving(confidences: Tensor, thresholds: Tensor) -> Tensor:
    """The exit (N,) of each sample: the first whose threshold its confidence reaches.

    Example:
        >>> leaving(torch.tensor([[0.9, 0.2], [0.3, 0.1]]), torch.tensor([0.5, -1e8]))
        tensor([0, 1])
    """
    reached = confidences >= thresholds.to(confidences)
    return (~reached).cumprod(1).sum(1).clamp(max=confidences.shape[1] - 1)


@dataclass(frozen=True)
class Curve:
    """Accuracy in per cent against average cost."""

    budgets: Floats
    """Average cost of an image at each of the 39 target shares."""
    accuracies: Floats
    anytime: Floats
    """Accuracy of each exit on all images, (K,)."""
    costs: Floats
    """Of each exit, (K,)."""

    def area(self, low: float, high: float) -> float:
        """Mean accuracy over the budgets from `low` to `high`.

        Between two points their mixtures are reached by chance; the first exit for all and the last exit for all are
        points too, so every budget between their costs has an accuracy. A larger budget is never worse: the envelope.

        Example:
            >>> ends = np.array([60.0, 80.0]), np.array([1.0, 3.0])
            >>> Curve(np.array([2.0]), np.array([75.0]), *ends).area(1.0, 3.0)
            72.5
        """
        x = np.concatenate([self.budgets, self.costs[[0, -1]]])
        y = np.concatenate([self.accuracies, self.anytime[[0, -1]]])
        order = np.lexsort((y, x))
        x, y = x[order], np.maximum.accumulate(y[order])
        grid = np.unique(np.concatenate([[low, high], x[(x > low) & (x < high)]]))
        return float(np.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def budgeted_curve(confidences: Tensor, correct: Tensor, thresholds: Tensor, costs: Tensor) -> Curve:
    """The curve of a test set.

    Args:
        confidences: (N, K).
        correct: whether each exit is right, (N, K).
        thresholds: (39, K).
        costs: of each exit (K,).
    """
    costs = costs.double().cpu()
    points = []
    for row in thresholds:
        exits = leaving(confidences, row)[:, None]
        points.append((costs[exits[:, 0].cpu()].mean().item(), 100 * correct.gather(1, exits).double().mean().item()))
    budgets, accuracies = np.array(points).T
    return Curve(budgets, accuracies, 100 * correct.double().mean(0).cpu().numpy(), costs.numpy())


def nominal_budgets(costs: Tensor) -> tuple[float, float]:
    """Average costs that the first and the last of the 39 target shares ask for: the same for every arm."""
    first, last = (float((target_shares(i, len(costs)) * costs.double().cpu()).sum()) for i in (1, INDICES))
    return first, last
