"""A graph with differentiable sparse products that copy no features along edges."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from repertory.core.arguments import check_whole
from repertory.core.problem import Problem
from repertory.nn.dropout import dropout
from repertory.nn.graphs import check_edges, check_features
from repertory.nn.sparse import csr, multiply


class Graph:
    """A symmetric graph of n nodes with a self loop at each.

    Args:
        edges: (2, E) both directions of every edge, sorted by first and second node, without duplicates.
        size: n.
        device: where the tensors live.

    Raises:
        Problem: edges of another shape, unsorted, twice, in one direction only or between nodes that do not exist, or
            a node without self loop; in the products, another number of rows.

    Example:
        >>> graph = Graph(np.array([[0, 0, 1, 1], [0, 1, 0, 1]]), 2)
        >>> graph.convolve(torch.tensor([[1.0], [3.0]])).tolist()
        [[2.0], [2.0]]
    """

    def __init__(self, edges: np.ndarray, size: int, device: torch.device | str = "cpu") -> None:
        check_whole("Graph", size=size)
        index = torch.tensor(np.ascontiguousarray(edges), device=device)
        check_edges(index, size, "Graph")
        self.source, self.target = index
        self.size = size
        # CSR by source: a row sums over a node's neighbours. The matrix is symmetric, so columns equal rows.
        self.starts = torch.searchsorted(self.source, torch.arange(size + 1, device=device))
        order, reversed_order = self.source * size + self.target, self.target * size + self.source
        self.reverse = torch.argsort(reversed_order)  # index of each edge's reverse
        self.degree = self.starts.diff().to(torch.float32)
        scale = self.degree.rsqrt()
        self._normalised = scale[self.source] * scale[self.target]
        self._ones = torch.ones_like(self._normalised)
        symmetric = bool((order.diff() > 0).all()) and torch.equal(reversed_order[self.reverse], order)
        if not symmetric or int((self.source == self.target).sum()) < size:
            what = "edges that are not symmetric, sorted and unique, with a self loop at each node"
            raise Problem(what, "Graph", "give both directions of every edge once, sorted by first and second node")

    def convolve(self, x: Tensor) -> Tensor:
        """S x with S = D^-1/2 A D^-1/2: (n, d) -> (n, d)."""
        return self.product(self._normalised, x)

    def average_with_self(self, x: Tensor) -> Tensor:
        """(A x + x) / (degree + 1): (n, d) -> (n, d)."""
        return (self.product(self._ones, x) + x) / (self.degree + 1)[:, None]

    def neighbour_softmax(self, scores: Tensor, p: float = 0.0) -> Tensor:
        """Softmax of the neighbours' scores at each node, then dropout of a share p: (n, k) -> (E, k)."""
        check_features(scores.shape, None, "Graph", self.size)
        return dropout(cast(Tensor, _NeighbourSoftmax.apply(scores, self)), p)

    def sum_out(self, values: Tensor) -> Tensor:
        """Sum over the edges from each node: (E, k) -> (n, k)."""
        return self._gather(torch.arange(len(self.source), device=values.device), values)

    def sum_in(self, values: Tensor) -> Tensor:
        """Sum over the edges to each node: (E, k) -> (n, k)."""
        return self._gather(self.reverse, values)

    def _gather(self, columns: Tensor, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return csr(self.starts, columns, self._ones.to(values.dtype), (self.size, len(columns))) @ values

    def product(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sum over the neighbours v of each node u, weighted by edge: (E,), (n, d) -> (n, d)."""
        check_features(x.shape, None, "Graph", self.size)
        return cast(Tensor, _Product.apply(weights, x, self))

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product of a at the source and b at the target of each edge: (n, d), (n, d) -> (E,)."""
        check_features(a.shape, None, "Graph", self.size)
        check_features(b.shape, a.shape[1], "Graph", self.size)
        return cast(Tensor, _Similarity.apply(a, b, self))


class _NeighbourSoftmax(torch.autograd.Function):
    """Softmax along the rows of the adjacency; sums over edges are sparse products, and the weights alone are kept."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, graph: Graph) -> Tensor:
        weights = scores.index_select(0, graph.target)  # (E, k)
        highest = torch.segment_reduce(weights, "max", offsets=graph.starts, axis=0)
        weights.sub_(highest.index_select(0, graph.source)).exp_()
        weights.div_(graph.sum_out(weights).index_select(0, graph.source))
        ctx.save_for_backward(weights)
        ctx.graph = graph
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights,), graph = ctx.saved_tensors, ctx.graph
        flow = weights * grads[0]
        flow = flow - weights * graph.sum_out(flow).index_select(0, graph.source)
        return graph.sum_in(flow), None


class _Product(torch.autograd.Function):
    """Sparse product whose backward pass is a sparse product; torch's own transposes the matrix every time."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.graph = graph
        return _multiply(graph, weights, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, x = ctx.saved_tensors
        graph, grad = ctx.graph, grads[0].contiguous()
        of_weights = _inner(graph, grad, x) if ctx.needs_input_grad[0] else None
        of_x = _multiply(graph, weights[graph.reverse], grad) if ctx.needs_input_grad[1] else None
        return of_weights, of_x, None


class _Similarity(torch.autograd.Function):
    """Inner products along edges; the backward pass uses sparse products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.graph = graph
        return _inner(graph, a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), graph, grad = ctx.saved_tensors, ctx.graph, grads[0]
        of_a = _multiply(graph, grad, b) if ctx.needs_input_grad[0] else None
        of_b = _multiply(graph, grad[graph.reverse], a) if ctx.needs_input_grad[1] else None
        return of_a, of_b, None


def _inner(graph: Graph, a: Tensor, b: Tensor) -> Tensor:
    return (a[graph.source] * b[graph.target]).sum(1)


def _multiply(graph: Graph, weights: Tensor, x: Tensor) -> Tensor:
    return multiply(graph.starts, graph.target, weights.float(), x)
