"""Sparse matrices in CSR format, and products with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


def csr(starts: Tensor, columns: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A sparse matrix (a, b). The arguments are not checked for consistency.

    Args:
        starts: row pointers (a + 1,).
        columns: column indices of the entries, row by row, (nnz,).
        values: of the entries, (nnz,).
        shape: (a, b).
    """
    return torch.sparse_csr_tensor(starts, columns, values, tuple(shape), check_invariants=False)


def multiply(starts: Tensor, columns: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Product of a square sparse matrix (n, n) and x (n, d), in the precision of `values` even under autocast.

    Args:
        starts, columns, values: see `csr`.
        x: (n, d).

    Example: the matrix [[0, 2], [1, 0]],

        >>> starts, columns, values = torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.tensor([2.0, 1.0])
        >>> multiply(starts, columns, values, torch.tensor([[1.0], [3.0]])).tolist()
        [[6.0], [1.0]]
    """
    with torch.autocast(x.device.type, enabled=False):
        return csr(starts, columns, values, (len(x), len(x))) @ x.to(values.dtype)
