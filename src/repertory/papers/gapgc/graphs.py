"""Batches of graphs, and the weighted sum of messages: sparse products, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from repertory.data.molecules import Molecules
from repertory.nn.sparse import multiply


class GraphBatch(Protocol):
    """What models take: `Graphs`, or a batch of PyTorch Geometric with bonds as integers."""

    @property
    def x(self) -> Tensor: ...
    @property
    def edge_index(self) -> Tensor: ...
    @property
    def edge_attr(self) -> Tensor: ...
    @property
    def batch(self) -> Tensor: ...
    @property
    def num_graphs(self) -> int: ...


class Graphs(NamedTuple):
    """G graphs with N nodes and E directed edges in one."""

    x: Tensor
    """(N, 2) long."""
    edge_index: Tensor
    """(2, E) long: from, to; both directions of a bond one after the other."""
    edge_attr: Tensor
    """(E, 2) long."""
    batch: Tensor
    """(N,) long: each node's graph."""
    num_graphs: int


def collate(molecules: Molecules, rows: np.ndarray) -> Graphs:
    """The batch of these molecules, in this order."""
    atoms, atom_counts = _spans(molecules.atom_starts, rows)
    bonds, bond_counts = _spans(molecules.bond_starts, rows)
    first = np.cumsum(atom_counts) - atom_counts
    return Graphs(
        x=torch.from_numpy(molecules.atoms[atoms]),
        edge_index=torch.from_numpy(molecules.bonds[:, bonds] + np.repeat(first, bond_counts)),
        edge_attr=torch.from_numpy(molecules.bond_features[bonds]),
        batch=torch.from_numpy(np.repeat(np.arange(len(rows)), atom_counts)),
        num_graphs=len(rows),
    )


def _spans(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all items of these rows, row after row, and the number of items of each."""
    counts = starts[rows + 1] - starts[rows]
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts[rows] - before, counts), counts


def repeat(graphs: GraphBatch, times: int) -> Graphs:
    """The same graphs several times, one copy after the other."""
    copy = torch.arange(times, device=graphs.x.device)
    n, e = len(graphs.x), graphs.edge_index.shape[1]
    return Graphs(
        x=graphs.x.repeat(times, 1),
        edge_index=graphs.edge_index.repeat(1, times) + n * copy.repeat_interleave(e),
        edge_attr=graphs.edge_attr.repeat(times, 1),
        batch=graphs.batch.repeat(times) + graphs.num_graphs * copy.repeat_interleave(n),
        num_graphs=times * graphs.num_graphs,
    )


def mean_by_graph(values: Tensor, graph: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
    """Mean of values (n, …) over each graph's items, and each graph's number of items (G,)."""
    count = torch.bincount(graph, minlength=num_graphs)
    total = values.new_zeros(num_graphs, *values.shape[1:]).index_add(0, graph, values)
    return total / count.clamp(min=1).to(values.dtype).reshape(-1, *[1] * (values.ndim - 1)), count


class Wiring:
    """The edges of a batch, sorted for products: by target node, and by source node.

    Args:
        edge_index: (2, E) from, to.
        kinds: (E,) a number below `num_kinds` for each edge, which selects the row of B that its message adds.
        size: N.
    """

    def __init__(self, edge_index: Tensor, kinds: Tensor, num_kinds: int, size: int) -> None:
        source, target = edge_index
        self.source, self.target, self.kinds = source, target, kinds
        self.num_kinds, self.size = num_kinds, size
        nodes = torch.arange(size + 1, device=source.device)
        self.into = torch.argsort(target)
        self.into_starts = torch.searchsorted(target[self.into], nodes)
        self.into_source = source[self.into]
        self.out = torch.argsort(source)
        self.out_starts = torch.searchsorted(source[self.out], nodes)
        self.out_target = target[self.out]

    def messages(self, h: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        r"""Sum of weighted messages at each node.

        .. math:: m_v = \sum_{e = (u, v)} w_e (h_u + B_{k(e)})

        Args:
            h: (N, d).
            table: B (kinds, d).
            weights: w (E,).
        """
        return cast(Tensor, _Messages.apply(h, table, weights, self))


class _Messages(torch.autograd.Function):
    """Allocates no tensor with a row per edge, except for the gradient of the weights if needed."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, table: Tensor, weights: Tensor, wiring: Wiring) -> Tensor:
        sums = multiply(wiring.into_starts, wiring.into_source, weights[wiring.into], h)
        # (N, kinds): summed weight of each kind of bond at each node.
        heard = weights.new_zeros(wiring.size * wiring.num_kinds)
        heard = heard.index_add_(0, wiring.target * wiring.num_kinds + wiring.kinds, weights).view(wiring.size, -1)
        ctx.save_for_backward(h, table, weights, heard)
        ctx.wiring = wiring
        return sums.addmm_(heard, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, table, weights, heard = ctx.saved_tensors
        wiring, grad = ctx.wiring, grads[0].contiguous()
        of_h = of_table = of_weights = None
        if ctx.needs_input_grad[0]:
            of_h = multiply(wiring.out_starts, wiring.out_target, weights[wiring.out], grad)
        if ctx.needs_input_grad[1]:
            of_table = heard.T @ grad
        if ctx.needs_input_grad[2]:
            by_kind = (grad @ table.T).view(-1)[wiring.target * wiring.num_kinds + wiring.kinds]
            of_weights = (grad[wiring.target] * h[wiring.source]).sum(1) + by_kind
        return of_h, of_table, of_weights, None
