"""GHSC's operator and networks beside dense code in the style of the releases, PyTorch Geometric and DHG.

    python benchmarks/ghsc.py

An epoch is a training step and an evaluation of all vertices, at the size of co-citation Cora (2,708 vertices, 1,579
hyperedges of 3).

- H-GCN, 2 layers. Peers: the release's style (T by dense matrices, then a sparse product with dense features), PyTorch
  Geometric's HypergraphConv, DHG's HGNNConv (pip install --no-deps dhg); the last two are other convolutions.
- H-GCNII, 32 layers. Peer: PyTorch Geometric's GCN2Conv over the same T, given as edges.
- operator: building T. Peer: the release's style; the same matrix.
- neighbours: EDVW incidence of 2,012 objects with 512 features, as many as NTU2012 has. Peer: the release's style, all
  distances and a loop over the objects; the same matrix. 5x is wanted.
- growth: building T and an epoch by incidences, in hyperedges of 5 and of the root of the incidences; the readers of
  HyperGCN's format and of tables.
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
from torch import Tensor, nn

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.core.problem import require
from repertory.data.hypergraphs import make_hypergraph, read_hypergcn, read_tables, write_hypergcn
from repertory.papers.ghsc import HGCN, HGCNII, Sparse, UnifiedHypergraph, knn_incidence

VERTICES, HYPEREDGES, SIZE = 2708, 1579, 3
FEATURES, WORDS, CLASSES = 1433, 18, 7
"""Features of co-citation Cora, how many of a vertex's are 1, classes."""
HIDDEN, DEEP, LAYERS = 128, 64, 32


# -- data ---------------------------------------------------------------------------------------------


def random_incidence(n: int, m: int, size: int) -> sparse.csr_array:
    """(n, m), 0/1: every hyperedge draws `size` vertices."""
    rng = np.random.default_rng(0)
    Q = sparse.csr_array((np.ones(m * size), (rng.integers(n, size=m * size), np.repeat(np.arange(m), size))), (n, m))
    Q.data[:] = 1.0
    return Q


def random_words(n: int, f: int, words: int) -> sparse.csr_array:
    """(n, f) bags of words."""
    return random_incidence(n, f, max(1, words * n // f))


# -- what the others do ---------------------------------------------------------------------------------


def dense_operator(Q: sparse.csr_array) -> Tensor:
    """As the releases build T: over dense matrices; at the end a sparse tensor."""
    H = Q.toarray()
    degree = H.sum(axis=0)
    K = H @ np.diag(1 / np.maximum(degree, 1)) @ H.T + np.eye(len(H))
    root = np.diag(K.sum(axis=0) ** -0.5)
    return torch.from_numpy(root @ K @ root).float().to_sparse().coalesce()


def looped_knn(features: np.ndarray, k: int = 6, gamma: float = 0.5) -> np.ndarray:
    """As the releases build the incidence of objects: all distances, then a loop over the objects."""
    squares = (features**2).sum(axis=1)
    dist = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * features @ features.T, 0))
    Q = np.zeros_like(dist)
    for c in range(len(dist)):
        near = np.argsort(dist[c])[:k]
        mean = dist[c].mean()
        for v in near:
            Q[v, c] = np.exp(-(dist[c, v] ** 2) / (gamma * mean**2))
    return Q


class PlainGCN(nn.Module):
    """Two layers over dense features, COO products and PyTorch's dropout."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(f, hidden), nn.Linear(hidden, classes)

    def forward(self, x: Tensor, T: Tensor) -> Tensor:
        h = F.dropout(F.relu(torch.sparse.mm(T, self.first(x))), 0.5, self.training)
        return torch.sparse.mm(T, self.second(h))


class PygNet(nn.Module):
    """Two layers of HypergraphConv over dense features."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        conv: Any = require("torch_geometric.nn", "graphs").HypergraphConv
        self.first, self.second = conv(f, hidden), conv(hidden, classes)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.second(F.dropout(F.relu(self.first(x, index)), 0.5, self.training), index)


class PygGCNII(nn.Module):
    """GCN2Conv over the same T, given as edges."""

    def __init__(self, f: int, hidden: int, classes: int, layers: int) -> None:
        super().__init__()
        conv: Any = require("torch_geometric.nn", "graphs").GCN2Conv
        self.first, self.last = nn.Linear(f, hidden), nn.Linear(hidden, classes)
        self.convs = nn.ModuleList(
            conv(hidden, alpha=0.1, theta=0.5, layer=k + 1, normalize=False, add_self_loops=False)
            for k in range(layers)
        )

    def forward(self, x: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
        h = h0 = F.relu(self.first(F.dropout(x, 0.5, self.training)))
        for conv in self.convs:
            h = F.relu(conv(F.dropout(h, 0.5, self.training), h0, *edges))
        return self.last(F.dropout(h, 0.5, self.training))


class DhgNet(nn.Module):
    """Two layers of DHG's HGNNConv."""

    def __init__(self, f: int, hidden: int, classes: int) -> None:
        super().__init__()
        conv: Any = require("dhg.nn", "peers").HGNNConv
        self.first, self.second = conv(f, hidden, drop_rate=0.5), conv(hidden, classes, is_last=True)

    def forward(self, x: Tensor, hypergraph: Any) -> Tensor:
        return self.second(self.first(x, hypergraph), hypergraph)


# -- the races ------------------------------------------------------------------------------------------


def epoch(network: nn.Module, x: Any, T: Any) -> Run:
    """A training step on 5 % of the vertices, then an evaluation of all."""
    n = x.shape[0]
    train, labels = torch.arange(0, n, 20), torch.arange(n) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network.train()(x, T)[train], labels[train]).backward()
        optimizer.step()
        with torch.no_grad():
            network.eval()(x, T)

    return work


def cora() -> tuple[Any, Any, Tensor]:
    """Incidence, and the features sparse and dense."""
    words = random_words(VERTICES, FEATURES, WORDS)
    return random_incidence(VERTICES, HYPEREDGES, SIZE), words, torch.from_numpy(words.toarray()).float()


def hgcn() -> Race:
    Q, words, x = cora()
    ours, plain = HGCN(FEATURES, CLASSES, HIDDEN), PlainGCN(FEATURES, HIDDEN, CLASSES)
    T, dense = UnifiedHypergraph(Q).operator(), dense_operator(Q)
    index = torch.from_numpy(np.stack(Q.tocoo().coords).astype(np.int64))
    return Race(
        epoch(ours, Sparse(words), T),
        {
            "release style": epoch(plain, x, dense),
            "PyG HypergraphConv": epoch(PygNet(FEATURES, HIDDEN, CLASSES), x, index),
        },
    )


def beside_dhg() -> Race:
    hypergraph = require("dhg", "peers").Hypergraph
    Q, words, x = cora()
    members = [ids.tolist() for ids in np.split(Q.tocsc().indices, Q.tocsc().indptr[1:-1])]
    ours = epoch(HGCN(FEATURES, CLASSES, HIDDEN), Sparse(words), UnifiedHypergraph(Q).operator())
    theirs = epoch(DhgNet(FEATURES, HIDDEN, CLASSES), x, hypergraph(VERTICES, members))
    return Race(ours, {"DHG HGNNConv": theirs}, memory=False)


def hgcnii() -> Race:
    Q, words, x = cora()
    unified = UnifiedHypergraph(Q)
    ours = epoch(HGCNII(FEATURES, CLASSES, DEEP, LAYERS), Sparse(words), unified.operator())
    peer = epoch(PygGCNII(FEATURES, DEEP, CLASSES, LAYERS), x, unified.edges())
    return Race(ours, {"PyG GCN2Conv": peer})


def operator() -> Race:
    Q, *_ = cora()
    ours = UnifiedHypergraph(Q).operator
    x = torch.rand(VERTICES, 4)
    torch.testing.assert_close(ours() @ x, dense_operator(Q) @ x, rtol=1e-4, atol=1e-5)
    return Race(ours, {"release style": partial(dense_operator, Q)}, memory=False)


def neighbours() -> Race:
    features = np.random.default_rng(0).normal(size=(2012, 512))
    ours, loop = partial(knn_incidence, features), partial(looped_knn, features)
    np.testing.assert_allclose(ours().toarray(), loop(), atol=1e-9)
    return Race(ours, {"release style": loop}, goal=5.0)


# -- growth ---------------------------------------------------------------------------------------------


def hyperedges_of(incidences: int, size: int) -> Any:
    """Half as many vertices as incidences."""
    return random_incidence(incidences // 2, incidences // size, size)


def building(size_of: Callable[[int], int], incidences: int) -> Run:
    Q = hyperedges_of(incidences, size_of(incidences))
    return lambda: UnifiedHypergraph(Q).operator()


def training(size_of: Callable[[int], int], incidences: int) -> Run:
    Q = hyperedges_of(incidences, size_of(incidences))
    return epoch(HGCN(16, 4, 16), torch.randn(Q.shape[0], 16), UnifiedHypergraph(Q).operator())


def hypergcn(incidences: int) -> Run:
    folder, Q = scratch() / "kind" / "name", hyperedges_of(incidences, 5)
    n = Q.shape[0]
    words = random_words(n, 500, 10).astype(np.float32)
    write_hypergcn(folder, make_hypergraph("random", {"words": words}, Q, np.arange(n) % 4))
    return partial(read_hypergcn, folder)


def tables(incidences: int) -> Run:
    folder, Q = scratch(), hyperedges_of(incidences, 5).tocoo()
    pd.DataFrame(np.random.default_rng(0).random((Q.shape[0], 4)).round(3)).add_prefix("f").to_csv(
        folder / "features.csv", index=False
    )
    pd.DataFrame({"vertex": Q.coords[0], "hyperedge": Q.coords[1]}).to_csv(folder / "incidence.csv", index=False)
    return partial(read_tables, folder)


def neighbouring(objects: int) -> Run:
    return partial(knn_incidence, np.random.default_rng(0).normal(size=(objects, 16)))


DECADES = (1_000, 10_000, 100_000, 1_000_000)
KINDS: dict[str, Callable[[int], int]] = {"small": lambda _: 5, "large": lambda incidences: int(incidences**0.5)}
BENCHMARKS: dict[str, Callable[[], Race | Growth]] = {
    "H-GCN": hgcn,
    "H-GCN, DHG": beside_dhg,
    "H-GCNII": hgcnii,
    "operator": operator,
    "neighbours": neighbours,
    **{
        f"growth, operator, {k} hyperedges": partial(Growth, partial(building, size), DECADES, "incidences")
        for k, size in KINDS.items()
    },
    **{
        f"growth, epoch, {k} hyperedges": partial(Growth, partial(training, size), DECADES, "incidences")
        for k, size in KINDS.items()
    },
    "growth, neighbours": lambda: Growth(neighbouring, (10, 100, 1_000, 10_000), "objects", slope=2.0),
    "growth, HyperGCN reader": lambda: Growth(hypergcn, DECADES, "incidences"),
    "growth, tables reader": lambda: Growth(tables, DECADES, "incidences"),
}

if __name__ == "__main__":
    bench(__doc__, BENCHMARKS)
