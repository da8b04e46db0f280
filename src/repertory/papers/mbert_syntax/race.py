"""The peers that the speed is measured against: transport pair by pair, and Edmonds by networkx."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repertory.papers.mbert_syntax.transport import Cloud, _outer_diameter, sinkhorn, squared_distances


def distance_matrix_by_pairs(clouds: Sequence[Cloud]) -> Tensor:
    """`distance_matrix` as the authors' code goes about it: one problem after another.

    Every pair of languages solves all pairs of classes again, those inside a language included.
    """
    found = torch.zeros(len(clouds), len(clouds))
    for k, a in enumerate(clouds):
        for other, b in enumerate(clouds[:k]):
            found[k, other] = found[other, k] = _pair(b, a)
    return found


def _pair(a: Cloud, b: Cloud) -> float:
    mean = torch.cat([a.points, b.points]).mean(0)
    sets = [c.points[c.labels == k] - mean for c in (a, b) for k in range(len(c.classes))]
    W = torch.zeros(len(sets), len(sets))
    for i, x in enumerate(sets):
        for j, y in enumerate(sets[:i]):
            both = torch.cat([x, y])
            diameter = (both.amax(0) - both.amin(0)).norm()[None]
            W[i, j] = W[j, i] = sinkhorn(squared_distances(x, y)[None], diameter)[0]
    x, y = (c.points[c.outer] - mean for c in (a, b))
    labels = a.labels[a.outer], b.labels[b.outer] + len(a.classes)
    xy, xx, yy = (
        (squared_distances(p, q) + W[m][:, n])[None] / 2
        for p, q, m, n in ((x, y, *labels), (x, x, labels[0], labels[0]), (y, y, labels[1], labels[1]))
    )
    return float(sinkhorn(xy, _outer_diameter(a, b), own=(xx, yy))[0])


def spanning_tree_by_networkx(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """`spanning_tree` by the library."""
    graph = nx.DiGraph()
    size = len(scores)
    graph.add_weighted_edges_from((i, j, scores[i, j]) for i in range(size) for j in range(1, size) if i != j)
    heads = np.full(size, -1)
    for i, j in nx.maximum_spanning_arborescence(graph).edges:
        heads[j] = i
    return heads


def race_clouds(
    languages: int = 8, vectors: int = 400, dim: int = 96, classes: int = 13
) -> list[tuple[Tensor, Tensor]]:
    """Vectors and relations of languages whose relations are about as frequent as in treebanks (Zipf)."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=rng)
    weights = 1 / torch.arange(1, classes + 1)
    found = []
    for _ in range(languages):
        labels = torch.multinomial(weights, vectors, replacement=True, generator=rng)
        moved = centres + 0.3 * torch.randn(classes, dim, generator=rng)
        points = moved[labels] + 0.5 * torch.randn(vectors, dim, generator=rng)
        found.append((points / points.norm(dim=1).mean(), labels))
    return found
