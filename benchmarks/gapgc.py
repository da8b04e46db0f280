"""Training and adapting GAPGC's GIN beside the same network as PyTorch Geometric's users write it.

    python benchmarks/gapgc.py

The peer is a `MessagePassing` layer with a message for every edge, batches by PyTorch Geometric's `DataLoader`, and
torch's own dropout. Both compute the same outputs, which is checked first. Molecules are generated.

- epoch: source training on 256 molecules, batches of 32, batching included; 3 layers of width 64, and the published 5
  of width 300.
- adaptation: GAPGC's ascent, descent and prediction of a batch of 64 molecules; only the encoders are exchanged.
- growth: a training step by bonds, and the reader of tables of molecules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MessagePassing, global_mean_pool

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.data.molecules import Molecules, read_molecules, write_sample
from repertory.papers.gapgc import Adaptation, AdaptiveClassifier, GAPGCConfig, GraphClassifier, collate
from repertory.papers.gapgc.study import masked_bce

SIZES = {"3 layers of 64": (3, 64), "5 layers of 300": (5, 300)}
BATCH = 32


# -- the peer -----------------------------------------------------------------------------------------


class PeerLayer(MessagePassing):
    """GIN with bond embeddings, message by message."""

    def __init__(self, dim: int) -> None:
        super().__init__(aggr="add")
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.bond, self.direction = nn.Embedding(6, dim), nn.Embedding(3, dim)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, weights: Tensor) -> Tensor:
        edges = self.bond(edge_attr[:, 0]) + self.direction(edge_attr[:, 1])
        return self.mlp(self.propagate(edge_index, x=x, edges=edges, weights=weights))

    def message(self, x_j: Tensor, edges: Tensor, weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return weights[:, None] * (x_j + edges)


class PeerGIN(nn.Module):
    """The encoder with the interface of ours; parameters have the same names."""

    def __init__(self, layers: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.width, self.p = dim, dropout
        self.element, self.chirality = nn.Embedding(120, dim), nn.Embedding(3, dim)
        self.layers = nn.ModuleList(PeerLayer(dim) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(layers))

    def forward(self, graphs: Any, weights: Tensor | None = None) -> Tensor:
        size, loops = len(graphs.x), torch.arange(len(graphs.x))
        edge_index = torch.cat([graphs.edge_index, torch.stack([loops, loops])], dim=1)
        edge_attr = torch.cat([graphs.edge_attr, torch.tensor([[4, 0]]).expand(size, 2)])
        kept = torch.ones(graphs.edge_index.shape[1]) if weights is None else weights
        weights = torch.cat([kept, torch.ones(size)])
        h = self.element(graphs.x[:, 0]) + self.chirality(graphs.x[:, 1])
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), start=1):
            h = norm(layer(h, edge_index, edge_attr, weights))
            h = F.dropout(h if number == len(self.layers) else h.relu(), self.p, self.training)
        return h

    def embed(self, graphs: Any, weights: Tensor | None = None) -> Tensor:
        return global_mean_pool(self(graphs, weights), graphs.batch, graphs.num_graphs)


# -- races --------------------------------------------------------------------------------------------


def swapped(classifier: GraphClassifier, layers: int, dim: int) -> GraphClassifier:
    """The classifier with the peer's encoder, and the same weights."""
    peer: Any = PeerGIN(layers, dim, 0.5)
    peer.load_state_dict(classifier.encoder.state_dict())
    classifier.encoder = peer
    return classifier


def table(count: int) -> Path:
    """A file of generated molecules."""
    path = scratch() / "molecules.csv"
    write_sample(path, np.random.default_rng(0), count)
    return path


def check(molecules: Molecules, size: tuple[int, int]) -> None:
    """Both versions give the same logits."""
    model, graphs = GraphClassifier(1, *size).eval(), collate(molecules, np.arange(64))
    with torch.inference_mode():
        torch.testing.assert_close(model(graphs), swapped(model, *size).eval()(graphs), rtol=1e-4, atol=1e-4)


def epoch(title: str) -> Race:
    molecules, size = read_molecules(table(256)), SIZES[title]
    check(molecules, size)
    ours, peer = (training(molecules, size, who) for who in (True, False))
    return Race(ours, {"PyG": peer}, memory=size[0] == 5, facts={"molecules": molecules.size})


def training(molecules: Molecules, size: tuple[int, int], ours: bool) -> Run:
    """One epoch of source training, batches included."""
    torch.manual_seed(0)
    model = GraphClassifier(len(molecules.tasks), *size)
    model = model if ours else swapped(model, *size)
    optimizer = torch.optim.Adam(model.parameters())
    labels = torch.from_numpy(molecules.labels)

    def our_batches() -> Iterator[Any]:
        order = torch.randperm(molecules.size)
        for rows in order.split(BATCH):
            yield collate(molecules, rows.numpy()), labels[rows]

    loader = None if ours else DataLoader(as_data(molecules), BATCH, shuffle=True)  # pyright: ignore[reportArgumentType]

    def step() -> None:
        model.train()
        for graphs, known in our_batches() if loader is None else ((batch, batch.y) for batch in loader):
            optimizer.zero_grad()
            masked_bce(model, (graphs, known)).backward()
            optimizer.step()

    return step


def as_data(molecules: Molecules) -> list[Data]:
    parts = [collate(molecules, np.array([row])) for row in range(molecules.size)]
    labels = torch.from_numpy(molecules.labels)
    return [
        Data(x=g.x, edge_index=g.edge_index, edge_attr=g.edge_attr, y=labels[row : row + 1])
        for row, g in enumerate(parts)
    ]


def adaptation(title: str) -> Race:
    molecules, size = read_molecules(table(256)), SIZES[title]
    check(molecules, size)
    ours, peer = (adapting(molecules, size, who) for who in (True, False))
    return Race(ours, {"PyG": peer}, memory=False, facts={"molecules": 64})


def adapting(molecules: Molecules, size: tuple[int, int], ours: bool) -> Run:
    torch.manual_seed(0)
    source = AdaptiveClassifier("gapgc", list(molecules.tasks), *size)
    if not ours:
        assert source.augmenter is not None
        for owner in (source.classifier, source.augmenter):
            swapped(owner, *size)  # pyright: ignore[reportArgumentType]
    graphs = collate(molecules, np.arange(64))
    game = Adaptation(source, GAPGCConfig(), torch.Generator().manual_seed(0))

    def step() -> None:
        game.adapt(graphs)
        game.predict(graphs)

    return step


# -- growth -------------------------------------------------------------------------------------------


def stepping(bonds: int) -> Run:
    """A training step on a batch with so many bonds; sample molecules are repeated until they are enough."""
    molecules = read_molecules(table(64))
    graphs = collate(molecules, np.arange(max(2, round(64 * bonds / (molecules.bonds.shape[1] / 2)))) % 64)
    model = GraphClassifier(1, 3, 64)
    labels = torch.ones(graphs.num_graphs, 1)
    return lambda: masked_bce(model, (graphs, labels)).backward()


def reading(count: int) -> Run:
    path = table(count)

    def read() -> None:
        path.touch()  # what was read is kept as long as the file is the same
        read_molecules(path)

    return read


RACES: dict[str, Callable[[], Race | Growth]] = {
    f"{name}, {size}": partial(race, size)
    for name, race in (("epoch", epoch), ("adaptation", adaptation))
    for size in SIZES
}
RACES["growth, training step"] = lambda: Growth(stepping, (300, 3_000, 30_000, 300_000), "bonds")
RACES["growth, molecules reader"] = lambda: Growth(reading, (10, 100, 1_000, 10_000), "molecules")

if __name__ == "__main__":
    bench(__doc__, RACES)
