"""CCGC's hot spots beside straightforward versions and scikit-learn, and how the cost of graphs grows.

    python benchmarks/ccgc.py

- K-means: at the sizes of BAT and Cora, on random points with as many loose groups. Peers: Lloyd's algorithm over an
  n x K x d tensor of differences with the stopping rule of the paper's code, and scikit-learn, from the same centres.
- warm-up loss: with its gradient. Peer: mean squared error against an n x n identity.
- step: a training step of the warm-up: both views, loss, backward, Adam. Peer: the same with the n x n loss.
- growth: the graph filter (two steps, 16 features, mean degree 10), the warm-up loss, the readers of graphs. A npy
  triplet holds n x n numbers: its reading grows with n².
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.cluster import KMeans
from torch import Tensor

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.data.graphs import Graph, read_planetoid, read_tables, read_triplet, write_planetoid, write_triplet
from repertory.papers.ccgc import CCGC, kmeans, warmup_loss
from repertory.papers.ccgc.model import smooth
from repertory.papers.ccgc.settings import SETTINGS

HIDDEN = 500
REPEAT = {"bat": 20, "cora": 1}
Loss = Callable[[Tensor, Tensor], Tensor]


def straightforward_kmeans(points: Tensor, centres: Tensor) -> Tensor:
    while True:
        labels = (points[:, None] - centres[None]).square().sum(dim=2).argmin(dim=1)
        moved = torch.stack([points[labels == k].mean(dim=0) for k in range(len(centres))])
        if (moved - centres).norm(dim=1).sum() ** 2 < 1e-4:
            return labels
        centres = moved


def straightforward_warmup(z1: Tensor, z2: Tensor) -> Tensor:
    return F.mse_loss(z1 @ z2.T, torch.eye(len(z1)))


def points_of(n: int, clusters: int) -> Tensor:
    groups = torch.randn(clusters, HIDDEN)[torch.arange(n) % clusters]
    return F.normalize(groups + 1.5 * torch.randn(n, HIDDEN), dim=1)


def clustering(data: str) -> Race:
    known = SETTINGS[data]
    points = points_of(known.nodes, known.clusters)
    start = points[: known.clusters]
    array, first = points.double().numpy(), start.double().numpy()
    sklearn_kmeans: Any = KMeans  # its annotations admit neither an array as init nor a number as n_init
    peer = sklearn_kmeans(known.clusters, init=first, n_init=1, algorithm="lloyd", tol=1e-6)
    ours = partial(kmeans, points, len(start), centres=start)
    found = ours().labels
    same = {
        name: round(float((found == labels).float().mean()), 4)
        for name, labels in (
            ("straightforward", straightforward_kmeans(points, start)),
            ("scikit-learn", torch.from_numpy(peer.fit(array).labels_)),
        )
    }
    assert min(same.values()) > 0.99, same
    peers = {
        "straightforward": partial(straightforward_kmeans, points, start),
        "scikit-learn": partial(peer.fit, array),
    }
    facts = {"points": known.nodes, "same labels": same}
    return Race(ours, peers, repeat=REPEAT[data], memory=data == "cora", facts=facts)


def gradient(loss: Loss, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    loss(leaf, leaf.flip(0)).backward()
    assert leaf.grad is not None
    return leaf.grad


def warmup(data: str) -> Race:
    points = points_of(SETTINGS[data].nodes, SETTINGS[data].clusters)
    ours, peer = (partial(gradient, loss, points) for loss in (warmup_loss, straightforward_warmup))
    torch.testing.assert_close(ours(), peer(), rtol=1e-3, atol=1e-8)
    facts = {"nodes": len(points)}
    return Race(ours, {"straightforward": peer}, repeat=REPEAT[data], memory=data == "cora", facts=facts)


def step(data: str) -> Race:
    known = SETTINGS[data]
    x = torch.randn(known.nodes, known.features)

    def training(loss_of: Loss) -> Run:
        encoder = CCGC(known.features, HIDDEN)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=known.lr, fused=True)

        def work() -> None:
            loss = loss_of(*encoder(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return work

    peer = training(straightforward_warmup)
    return Race(training(warmup_loss), {"straightforward": peer}, repeat=REPEAT[data], memory=False)


# -- growth -------------------------------------------------------------------------------------------


def graph_of(edges: int) -> Graph:
    """A random graph of mean degree 10 with 16 features."""
    n = edges // 5
    rng = np.random.default_rng(0)
    ends = rng.integers(n, size=(2, edges))
    upper = sparse.csr_array((np.ones(edges), ends), (n, n))
    both = sparse.csr_array(upper + upper.T)
    both.data[:] = 1.0
    return Graph("random", both, rng.integers(1, 4, size=(n, 16)).astype(np.float64), rng.integers(4, size=n))


def smoothing(edges: int) -> Run:
    graph = graph_of(edges)
    return lambda: smooth(graph.adjacency, graph.features, steps=2)


def loss_of_nodes(nodes: int) -> Run:
    z = F.normalize(torch.randn(nodes, 64), dim=1)
    return lambda: gradient(warmup_loss, z)


def planetoid(edges: int) -> Run:
    folder = scratch()
    write_planetoid(folder, graph_of(edges), np.random.default_rng(0))
    return lambda: read_planetoid(folder, "random")


def tables(edges: int) -> Run:
    folder, graph = scratch(), graph_of(edges)
    src, dst = sparse.triu(graph.adjacency).coords
    pd.DataFrame({"src": src, "dst": dst}).to_csv(folder / "edges.csv", index=False)
    np.save(folder / "features.npy", graph.features)
    np.save(folder / "labels.npy", np.asarray(graph.labels))
    return lambda: read_tables(folder)


def triplet(nodes: int) -> Run:
    folder = scratch()
    write_triplet(folder, graph_of(5 * nodes))
    return lambda: read_triplet(folder, "random")


RACES: dict[str, Callable[[], Race | Growth]] = {
    f"{name}, {data}": partial(race, data)
    for data in REPEAT
    for name, race in (("K-means", clustering), ("warm-up loss", warmup), ("step", step))
}
DECADES = (1_000, 10_000, 100_000, 1_000_000)
RACES |= {
    "growth, graph filter": lambda: Growth(smoothing, DECADES, "edges"),
    "growth, warm-up loss": lambda: Growth(loss_of_nodes, (300, 3_000, 30_000, 300_000), "nodes"),
    "growth, planetoid reader": lambda: Growth(planetoid, DECADES, "edges"),
    "growth, tables reader": lambda: Growth(tables, DECADES, "edges"),
    "growth, npy triplet reader": lambda: Growth(triplet, (30, 300, 3_000, 16_000), "nodes", slope=2.0),
}

if __name__ == "__main__":
    bench(__doc__, RACES)
