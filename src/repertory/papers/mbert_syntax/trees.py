"""Maximum spanning arborescences (Chu & Liu 1965, Edmonds 1967) on dense scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spanning_tree(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Heads of the tree rooted at 0 with the largest sum of scores.

    Args:
        scores: (n, n), of head i and dependent j at [i, j]; the diagonal and column 0 do not count. -inf: no such arc.

    Returns:
        (n,) heads; that of the root is -1.

    Example:
        >>> spanning_tree(np.array([[0, 5, 1], [0, 0, 9], [0, 8, 0]])).tolist()
        [-1, 0, 1]
    """
    scores = np.array(scores, dtype=np.float64)
    np.fill_diagonal(scores, -np.inf)
    scores[:, 0] = -np.inf
    heads = scores.argmax(axis=0)
    heads[0] = -1
    cycle = np.array(_cycle(heads))
    if not len(cycle):
        return heads
    # The cycle becomes one node, the last; an arc into it gains what it adds to the arc that it replaces.
    rest = np.setdiff1d(np.arange(len(scores)), cycle)
    gains = scores[rest][:, cycle] - scores[heads[cycle], cycle]
    outward = scores[cycle][:, rest]
    entered, left = gains.argmax(axis=1), outward.argmax(axis=0)
    smaller = np.full((len(rest) + 1, len(rest) + 1), -np.inf)
    smaller[:-1, :-1] = scores[rest][:, rest]
    smaller[:-1, -1] = gains.max(axis=1)
    smaller[-1, :-1] = outward.max(axis=0)
    found = spanning_tree(smaller)
    from_cycle = found[:-1] == len(rest)
    heads[rest] = np.where(from_cycle, cycle[left], rest[np.minimum(found[:-1], len(rest) - 1)])
    heads[0] = -1
    entry = cycle[entered[found[-1]]]
    heads[entry] = rest[found[-1]]
    return heads


def single_root_tree(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """`spanning_tree` in which the root has exactly one dependent, as in Universal Dependencies."""
    scores = np.array(scores, dtype=np.float64)
    finite = scores[np.isfinite(scores)]
    scores[0] -= len(scores) * (np.ptp(finite) + 1)  # a second arc from the root costs more than all others can gain
    return spanning_tree(scores)


def _cycle(heads: NDArray[np.int64]) -> list[int]:
    """The nodes of a cycle, or none."""
    parents = heads.tolist()
    colour = [0] * len(parents)
    colour[0] = 1
    for start in range(1, len(parents)):
        node = start
        while not colour[node]:
            colour[node] = start + 1
            node = parents[node]
        if colour[node] == start + 1:
            cycle = [node]
            while parents[cycle[-1]] != node:
                cycle.append(parents[cycle[-1]])
            return cycle
    return []
