"""Checks of node features and indices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.nn.graphs import check_edges, check_features, check_indices

EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]])


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 1), (5, 3), ()])
def test_features(shape: tuple[int, ...]) -> None:
    check_features((4, 3), 3, "Net", 4)
    check_features((0, 3), 3, "Net")
    check_features((4, 7), None, "Net", 4)
    with pytest.raises(Problem, match=r"(?s)features of shape.*Net.*give \(4, 3\)"):
        check_features(shape, 3, "Net", 4)
    with pytest.raises(Problem, match=r"give \(n, 9\)"):
        check_features((4, 3), 9, "Net")
    with pytest.raises(Problem, match=r"give \(9, d\)"):
        check_features((4, 3), None, "Net", 9)


@pytest.mark.parametrize("bad", [EDGES.T, EDGES[0], EDGES[None], EDGES.float(), EDGES > 0, EDGES - 1, EDGES + 1])
def test_edges(bad: Tensor) -> None:
    check_edges(EDGES, 3, "Net")
    check_edges(EDGES[:, :0], 3, "Net")
    with pytest.raises(Problem, match="edge_index"):
        check_edges(bad, 3, "Net")


def test_each_column_has_its_own_limit() -> None:
    values = torch.tensor([[5, 1], [0, 2]])
    check_indices(values, (6, 3), "bonds", "Net")
    with pytest.raises(Problem, match=r"(?s)2 in bonds, column 1.*from 0 to 1"):
        check_indices(values, (6, 2), "bonds", "Net")


def test_compiled_networks_check_shapes_only() -> None:
    def network(x: Tensor, edge_index: Tensor) -> Tensor:
        check_edges(edge_index, len(x), "Net")
        return x[edge_index[0]]

    x = torch.randn(3, 2)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(x, EDGES), network(x, EDGES))
