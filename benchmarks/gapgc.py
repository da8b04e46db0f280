"""Training and adapting GAPGC's GIN beside the same network as PyTorch Geometric's users write it.

    python benchmarks/gapgc.py [--data bace.csv] [--molecules 512] [--rounds 7]

The peer is a `MessagePassing` layer with a message for every edge, batches by PyTorch Geometric's `DataLoader`, and
torch's own dropout. Both compute the same outputs, which is checked first. A ratio is measured in one run: ours and the
peer take turns, and the median of the paired ratios counts (above 1: ours is faster). Peak memory is that of a process
of its own, above what it held before. Without --data, molecules are generated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MessagePassing, global_mean_pool

from repertory.core.timing import high_water, race, ratio
from repertory.data.molecules import Molecules, read_molecules, write_sample
from repertory.papers.gapgc import Adaptation, AdaptiveClassifier, GAPGCConfig, GraphClassifier, collate
from repertory.papers.gapgc.study import masked_bce

SIZES = {"L=3 d=64": (3, 64), "L=5 d=300": (5, 300)}
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


# -- what is raced ------------------------------------------------------------------------------------


def swapped(classifier: GraphClassifier, layers: int, dim: int) -> GraphClassifier:
    """The classifier with the peer's encoder, and the same weights."""
    peer: Any = PeerGIN(layers, dim, 0.5)
    peer.load_state_dict(classifier.encoder.state_dict())
    classifier.encoder = peer
    return classifier


def epoch(molecules: Molecules, size: tuple[int, int], ours: bool) -> Callable[[], None]:
    """One epoch of source training, batches included."""
    torch.manual_seed(0)
    model = GraphClassifier(len(molecules.tasks), *size)
    model = model if ours else swapped(model, *size)
    optimizer = torch.optim.Adam(model.parameters())
    labels = torch.from_numpy(molecules.labels)

    def our_batches() -> Any:
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


def adaptation(molecules: Molecules, size: tuple[int, int], ours: bool) -> Callable[[], None]:
    """GAPGC's ascent, descent and prediction of a batch of 64, the game the same, the encoders exchanged."""
    torch.manual_seed(0)
    source = AdaptiveClassifier("gapgc", list(molecules.tasks), *size)
    if not ours:
        assert source.augmenter is not None
        for owner in (source.classifier, source.augmenter):
            swapped(owner, *size)  # pyright: ignore[reportArgumentType]
    graphs = collate(molecules, np.arange(min(64, molecules.size)))
    game = Adaptation(source, GAPGCConfig(), torch.Generator().manual_seed(0))

    def step() -> None:
        game.adapt(graphs)
        game.predict(graphs)

    return step


TASKS = {"epoch": epoch, "adaptation": adaptation}


def peak_memory(data: Path, count: int, words: list[str]) -> float:
    """MiB that a task takes, in a process of its own."""
    command = [sys.executable, __file__, "--data", str(data), "--molecules", str(count), "--one", *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def same_outputs(molecules: Molecules) -> float:
    """Largest difference of the two versions' logits."""
    model, graphs = GraphClassifier(1, 3, 64).eval(), collate(molecules, np.arange(64))
    with torch.no_grad():
        return float((model(graphs) - swapped(model, 3, 64).eval()(graphs)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--molecules", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = given.data or Path(folder) / "molecules.csv"
        if given.data is None:
            write_sample(table, np.random.default_rng(0), given.molecules)
        whole = read_molecules(table)
        molecules = first_of(whole, given.molecules)
        if given.one:
            task, size, who = given.one
            TASKS[task](first_of(whole, 8), SIZES["L=3 d=64"], who == "ours")()  # libraries are loaded by now
            before = high_water()
            TASKS[task](molecules, SIZES[size], who == "ours")()
            print(high_water() - before)
            return
        print(f"{molecules.size} molecules, {len(molecules.atoms) / molecules.size:.1f} atoms each, one thread")
        print(f"outputs differ by {same_outputs(molecules):.1e} at most")
        print(f"{'':24}{'ours':>9}{'PyG':>9}{'ratio':>7}{'ours':>11}{'PyG':>9}")
        for task, build in TASKS.items():
            for name, size in SIZES.items():
                runs = {who: build(molecules, size, who == "ours") for who in ("ours", "pyg")}
                times = race(runs, range(1 + given.rounds))
                peaks = [peak_memory(table, given.molecules, [task, name, who]) for who in runs]
                ours, pyg = (1000 * float(np.median(times[who])) for who in runs)
                print(
                    f"{task + ' ' + name:24}{ours:6.0f} ms{pyg:6.0f} ms{ratio(times, 'ours', 'pyg'):7.2f}"
                    f"{peaks[0]:7.0f} MiB{peaks[1]:5.0f} MiB"
                )


def first_of(molecules: Molecules, count: int) -> Molecules:
    """The first so many molecules."""
    atoms, bonds = (starts[: count + 1] for starts in (molecules.atom_starts, molecules.bond_starts))
    return Molecules(
        molecules.smiles[:count],
        molecules.atoms[: atoms[-1]],
        molecules.bonds[:, : bonds[-1]],
        molecules.bond_features[: bonds[-1]],
        atoms,
        bonds,
        molecules.labels[:count],
        molecules.tasks,
    )


if __name__ == "__main__":
    main()
