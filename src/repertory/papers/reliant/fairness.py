"""Group fairness: the two differences that are reported, and smooth versions for a loss.

A difference compares the two groups of a binary sensitive attribute s; statistical parity (SP) over all nodes, equal
opportunity (EO) over those with label 1. Smooth: the decision, a step at probability 1/2, is expanded in Legendre
polynomials of degree up to 9 (the authors' code; "exact" has the coefficients of the true expansion).
"""

from __future__ import annotations

import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.legendre import leg2poly
from torch import Tensor

from repertory.core.arguments import check_choice
from repertory.core.problem import Problem
from repertory.papers.reliant.settings import Expansion

EXPANSIONS: dict[str, tuple[float, ...]] = {
    "released": (1 / 2, 1 / 2, 0, -1 / 8, 0, 1 / 16, 0, -5 / 128, 0, 7 / 256),
    "exact": (1 / 2, 3 / 4, 0, -7 / 16, 0, 11 / 32, 0, -75 / 256, 0, 133 / 512),
}
"""Coefficients of the Legendre polynomials P_0 … P_9 of 2 p - 1."""

POWERS = {name: Polynomial(leg2poly(series)).coef.tolist() for name, series in EXPANSIONS.items()}
"""Coefficients of the powers of 2 p - 1, for Horner's rule."""


def smooth_step(p: Tensor, expansion: Expansion = "released") -> Tensor:
    """φ: probabilities of any shape -> nearly 0 below 1/2 and nearly 1 above, differentiable.

    Example:
        >>> smooth_step(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0.0742..., 0.5, 0.9257...]
    """
    check_choice("smooth_step", POWERS, expansion=expansion)
    x = 2 * p - 1
    *lower, leading = POWERS[expansion]
    value = torch.full_like(x, leading)
    for coefficient in reversed(lower):
        value = value * x + coefficient
    return value


def smooth_difference(p: Tensor, in_groups: tuple[Tensor, Tensor], expansion: Expansion = "released") -> Tensor:
    r"""F: squared difference of the groups' mean smooth decisions, summed over the classes.

    .. math:: F = \sum_c \Big( \underset{i: s_i = 0}{\mathrm{mean}}\, \phi(p_{ic})
              - \underset{i: s_i = 1}{\mathrm{mean}}\, \phi(p_{ic}) \Big)^2

    Args:
        p: probabilities (n, C).
        in_groups: ids of the nodes of each group; see `counted`.
        expansion: coefficients of the step.
    """
    zero, one = (smooth_step(p[ids], expansion).mean(0) for ids in in_groups)
    return (zero - one).square().sum()


def counted(sensitive: Tensor, counts: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ids of the nodes of group 0 and of group 1 among those that count.

    Args:
        sensitive: (n,) 0 or 1.
        counts: (n,) bool.
        labels: (n,); if given, only nodes with label 1 count (equal opportunity).

    Raises:
        Problem: a group has no such node.
    """
    if labels is not None:
        counts = counts & (labels == 1)
    groups = [(counts & (sensitive == s)).nonzero().flatten() for s in (0, 1)]
    for s, ids in enumerate(groups):
        if not len(ids):
            among = "" if labels is None else " with label 1"
            raise Problem(f"group {s} has no node{among} to compare", "sensitive attribute", "choose another split")
    return groups[0], groups[1]


def parity_difference(decisions: Tensor, sensitive: Tensor) -> float:
    """ΔSP: |share of decision 1 in group 0 - share in group 1|, from 0 to 1.

    Example:
        >>> parity_difference(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
        0.5
    """
    zero, one = (decisions[sensitive == s].double().mean() for s in (0, 1))
    return float((zero - one).abs())


def opportunity_difference(decisions: Tensor, sensitive: Tensor, labels: Tensor) -> float:
    """ΔEO: ΔSP among those with label 1."""
    deserving = labels == 1
    return parity_difference(decisions[deserving], sensitive[deserving])
