"""Checks of what graph networks are given: node features, and indices of nodes and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repertory.core.problem import Problem


def check_features(shape: Sequence[int], width: int | None, network: str, nodes: int | None = None) -> None:
    """Require node features (n, width).

    Args:
        shape: of the features.
        width: that the network takes; None: any.
        network: for errors.
        nodes: n of the graph; None: any.

    Raises:
        Problem: another number of dimensions, columns or rows.

    Example:
        >>> check_features(torch.zeros(5, 3).shape, 3, "Net", nodes=5)
    """
    wanted = (nodes, width)
    if len(shape) != 2 or any(given != size for given, size in zip(shape, wanted, strict=True) if size is not None):
        rows, columns = ("n" if nodes is None else nodes), ("d" if width is None else width)
        raise Problem(f"features of shape {tuple(shape)}", network, f"give ({rows}, {columns}): one row a node")


def check_indices(indices: Tensor, below: Sequence[int], name: str, where: str) -> None:
    """Require whole numbers (n, k); those of column i from 0 to below `below[i]`.

    While torch.compile or torch.export traces, the range is not checked.

    Args:
        indices: the numbers.
        below: limit of each of the k columns.
        name: of the indices, for errors.
        where: for errors.

    Raises:
        Problem: another shape or type, or a number out of range.

    Example:
        >>> check_indices(torch.tensor([[0, 2], [1, 0]]), (2, 3), "edge_attr", "Net")
    """
    k = len(below)
    if indices.ndim != 2 or indices.shape[1] != k or indices.is_floating_point() or indices.dtype == torch.bool:
        what = f"{name} of shape {tuple(indices.shape)}, {indices.dtype}"
        raise Problem(what, where, f"give whole numbers, {k} a row")
    if torch.compiler.is_compiling():
        return
    outside = (indices < 0) | (indices >= torch.tensor(below, device=indices.device))
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        what = f"{indices[row, column].item()} in {name}, column {column}"
        raise Problem(what, where, f"give numbers from 0 to {below[column] - 1}")


def check_edges(edge_index: Tensor, nodes: int, where: str) -> None:
    """Require edges (2, E) between nodes from 0 to `nodes` - 1; see `check_indices`.

    Raises:
        Problem: another shape or type, or a node that does not exist.

    Example:
        >>> check_edges(torch.tensor([[0, 1], [1, 0]]), 2, "Net")
    """
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise Problem(f"edge_index of shape {tuple(edge_index.shape)}", where, "give (2, E): from, to")
    check_indices(edge_index.T, (nodes, nodes), "edge_index.T", where)
