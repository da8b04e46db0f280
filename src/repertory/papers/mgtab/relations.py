"""The edges of several relations over the same nodes, sorted once, and the mean over them as one sparse product."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from repertory.nn.sparse import csr


class Relations:
    """Directed edges j → i of R relations over n nodes, sorted by relation, then by target.

    Args:
        edge_index: (2, E), row 0 the sources j, row 1 the targets i.
        edge_type: (E,), 0 to R − 1; None: all 0.
        count: R.
        size: n.

    Example:
        >>> graph = Relations(torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([1, 1, 0]), 2, 3)
        >>> graph
        Relations(nodes=3, relations=2, edges=3)
        >>> graph.mean(torch.tensor([[1.0], [3.0], [5.0]])).flatten(1).tolist()
        [[5.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    """

    def __init__(self, edge_index: Tensor, edge_type: Tensor | None, count: int, size: int) -> None:
        self.count, self.size = count, size
        kind = torch.zeros_like(edge_index[0]) if edge_type is None else edge_type
        cell = kind * size + edge_index[1]  # row of the stacked matrix (R n, n)
        order = torch.argsort(cell, stable=True)
        self.edge_index, self.edge_type, self._cell = edge_index[:, order], kind[order], cell[order]
        rows = torch.arange(count * size + 1, device=edge_index.device)
        self._starts = torch.searchsorted(self._cell, rows)
        self._share: Tensor | None = None
        self._transposed: tuple[Tensor, Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        return f"Relations(nodes={self.size}, relations={self.count}, edges={self.edge_index.shape[1]})"

    @classmethod
    def of(cls, edges: Tensor | Relations, edge_type: Tensor | None, count: int, size: int) -> Relations:
        """The edges themselves where they are sorted already, else sorted now."""
        return edges if isinstance(edges, Relations) else cls(edges, edge_type, count, size)

    def edges(self, relation: int) -> Tensor:
        """Edges (2, E_r) of one relation."""
        first, last = (int(self._starts[k * self.size]) for k in (relation, relation + 1))
        return self.edge_index[:, first:last]

    def degrees(self) -> Tensor:
        """Incoming edges of each node in each relation, (R, n)."""
        return self._starts.diff().view(self.count, self.size)

    def without(self, relation: int) -> Relations:
        """The same nodes without the edges of one relation."""
        kept = self.edge_type != relation
        return Relations(self.edge_index[:, kept], self.edge_type[kept], self.count, self.size)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the sources of each target, 0 where there is none: (n, d) -> (R, n, d)."""
        means = cast(Tensor, _Mean.apply(x, self))
        return means.view(self.count, self.size, -1)

    def _average(self, x: Tensor) -> Tensor:
        """(n, d) -> (R n, d)."""
        shape = (self.count * self.size, self.size)
        return csr(self._starts, self.edge_index[0], self._shares(x), shape) @ x

    def _spread(self, grad: Tensor) -> Tensor:
        """The transpose of `_average`: (R n, d) -> (n, d)."""
        if self._transposed is None:
            order = torch.argsort(self.edge_index[0], stable=True)
            rows = torch.arange(self.size + 1, device=order.device)
            starts = torch.searchsorted(self.edge_index[0][order], rows)
            self._transposed = starts, self._cell[order], self._shares(grad)[order]
        return csr(*self._transposed, (self.size, self.count * self.size)) @ grad

    def _shares(self, like: Tensor) -> Tensor:
        """1 / degree of the target of each edge, (E,)."""
        if self._share is None or self._share.dtype != like.dtype:
            self._share = self._starts.diff()[self._cell].to(like.dtype).reciprocal()
        return self._share


class _Mean(torch.autograd.Function):
    """`Relations.mean`, whose backward pass is a sparse product too: no message is stored along an edge."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Relations) -> Tensor:
        ctx.graph, ctx.dtype = graph, x.dtype
        with torch.autocast(x.device.type, enabled=False):
            return graph._average(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):
            return ctx.graph._spread(grads[0].contiguous()).to(ctx.dtype), None
