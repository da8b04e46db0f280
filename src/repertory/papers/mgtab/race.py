"""The race of the benchmark: a full-batch epoch of R-GCN, ours beside PyG's own layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import RGCNConv

from repertory.core.timing import medians, race
from repertory.papers.mgtab.layers import RelationalConv
from repertory.papers.mgtab.relations import Relations


class TwoLayers(nn.Module):
    """PyG's example of R-GCN on given features: two layers, ReLU between them."""

    def __init__(self, layer: type[RGCNConv], features: int, hidden: int, classes: int, relations: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = layer(features, hidden, relations), layer(hidden, classes, relations)

    def forward(self, x: Tensor, edge_index: Tensor | Relations, edge_type: Tensor | None = None) -> Tensor:
        """(n, d) -> (n, C)."""
        return self.conv2(self.conv1(x, edge_index, edge_type).relu(), edge_index, edge_type)


def contestants(
    nodes: int, edges: int, relations: int = 2, features: int = 128, hidden: int = 128, classes: int = 3,
    device: torch.device | str = "cpu",
) -> dict[str, Callable[[], Tensor]]:  # fmt: skip
    """An epoch (forward, backward, step of Adam, evaluation) of each implementation, with the same weights.

    Args:
        nodes: n.
        edges: E, drawn at random.
        relations, features, hidden, classes: sizes.
        device: where it runs.

    Returns:
        "ours" and "pyg"; an epoch returns its loss.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(nodes, features, generator=draw).to(device)
    y = torch.randint(classes, (nodes,), generator=draw).to(device)
    edge_index = torch.randint(nodes, (2, edges), generator=draw).to(device)
    edge_type = torch.randint(relations, (edges,), generator=draw).to(device)
    graph = Relations(edge_index, edge_type, relations, nodes)
    torch.manual_seed(0)
    theirs = TwoLayers(RGCNConv, features, hidden, classes, relations).to(device)
    ours = TwoLayers(RelationalConv, features, hidden, classes, relations).to(device)
    ours.load_state_dict(theirs.state_dict())

    def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, *given: Tensor | Relations) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x, *given), y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model(x, *given).argmax(1)
        return loss.detach()

    adam = {name: torch.optim.Adam(m.parameters(), lr=0.01) for name, m in (("ours", ours), ("pyg", theirs))}
    return {
        "ours": lambda: epoch(ours, adam["ours"], graph),
        "pyg": lambda: epoch(theirs, adam["pyg"], edge_index, edge_type),
    }


def epoch_speeds(rounds: int, nodes: int = 2000, edges: int = 60_000) -> list[float]:
    """Speed of an epoch of ours relative to PyG's, as `core.timing.medians`."""
    return medians(race(contestants(nodes, edges), range(1 + rounds)), "ours", "pyg")
