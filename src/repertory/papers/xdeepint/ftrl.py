"""The combined optimiser: group-lasso FTRL for embedding tables, FTRL-proximal for all other weights.

Both keep the dual state (n, z) of every entry and compute the weight from it in closed form, so that an entry, or a
whole row, is exactly zero as long as its accumulated gradient is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from repertory.core.problem import Problem


def lazy_zeros(like: Tensor) -> Tensor:
    """Zeros of the shape, type and device of a tensor; on a CPU, memory that nothing touches until it is written to."""
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
        return torch.zeros_like(like)
    return torch.from_numpy(np.zeros(like.shape, np.float32 if like.dtype == torch.float32 else np.float64))


class Proximal(Optimizer):
    """What both optimisers share: the dual update, dense or for the rows of a sparse gradient.

    With g the gradient, σ = (√(n + g²) - √n) / α, z ← z + g - σ ∘ w, n ← n + g²; then w from (z, n). An entry
    without a gradient keeps n and z: its weight stays as it is, except in the first step, where z = 0 makes it zero.

    A sparse gradient updates the rows that it holds. Its first step also zeroes all other rows of the table, as the
    dense update does; from then on the cost of a step depends on the rows touched, not on the table.

    Args:
        params: parameters or groups.
        defaults: of the groups; "alpha" and "zero_start" among them.
        start: initial value of n.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], start: float) -> None:
        for name, value in defaults.items():
            if value < 0 or (name == "alpha" and value == 0):
                raise Problem(f"{name} is {value}", type(self).__name__, f"{name} must not be negative, alpha not 0")
        self.start = start
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        first = not state
        if first:
            state["n"] = torch.full_like(weight, self.start) if self.start else lazy_zeros(weight)
            state["z"] = lazy_zeros(weight)
        n, z = state["n"], state["z"]
        if not grad.is_sparse:
            self._dual(weight, grad, n, z, group["alpha"])
            weight.copy_(self.primal(n, z, group))
            return
        grad = grad.coalesce()
        rows, g = grad.indices()[0], grad.values()
        w, n_rows, z_rows = weight[rows], n[rows], z[rows]
        self._dual(w, g, n_rows, z_rows, group["alpha"])
        n[rows], z[rows] = n_rows, z_rows
        if first and not group["zero_start"]:
            weight.zero_()
        weight[rows] = self.primal(n_rows, z_rows, group)

    def _dual(self, w: Tensor, g: Tensor, n: Tensor, z: Tensor, alpha: float) -> None:
        """Update n and z in place, from the weight and the n of before."""
        root = n.sqrt()
        n.addcmul_(g, g)
        sigma = (n.sqrt() - root).div_(alpha)
        z.add_(g).addcmul_(sigma, w, value=-1)

    def primal(self, n: Tensor, z: Tensor, group: dict[str, Any]) -> Tensor:
        """The weights of dual states, same shape."""
        raise NotImplementedError


class GroupFTRL(Proximal):
    r"""Group-lasso FTRL: the rows of an embedding table are zero as a whole, or not at all.

    For a row of d entries:  w = 0  where ‖z‖ ≤ λ₁√d,  else  w = z (λ₁√d / ‖z‖ - 1) / ((β + √n) / α + λ₂).

    The random start of a table acts in the first batch alone: a row without a gradient there is set to zero by the
    first step. With `zero_start` that step does not touch those rows, and so costs as little as the others; give it
    tables whose rows are zero but for those of the first batch (`Tables.start`).

    Args:
        params: tables (rows, d).
        alpha: α, learning rate.
        beta: β.
        l1: λ₁, for a loss that is summed over the batch.
        l2: λ₂.
        zero_start: rows without a gradient in the first batch are zero already.

    Source: xDeepInt's released code, `xdeepint/src/optimizer.py`, with reads before writes.

    Example:
        >>> table = torch.nn.Embedding(5, 2, sparse=True)
        >>> optimizer = GroupFTRL(table.parameters(), l1=0.1)
        >>> table(torch.tensor([3])).sum().backward()
        >>> optimizer.step()
        >>> (table.weight != 0).any(1)
        tensor([False, False, False,  True, False])
    """

    def __init__(
        self,
        params: Iterable[Any],
        alpha: float = 0.02,
        beta: float = 1.0,
        l1: float = 10.0,
        l2: float = 10.0,
        *,
        zero_start: bool = False,
    ) -> None:
        super().__init__(
            params, {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2, "zero_start": zero_start}, start=0.0
        )
        flat = next((p for group in self.param_groups for p in group["params"] if p.ndim != 2), None)
        if flat is not None:
            raise Problem(f"a parameter of shape {tuple(flat.shape)}", "GroupFTRL", "give tables (rows, d)")

    def primal(self, n: Tensor, z: Tensor, group: dict[str, Any]) -> Tensor:
        """(rows, d) -> (rows, d)."""
        threshold = group["l1"] * z.shape[1] ** 0.5
        norm = z.norm(dim=1, keepdim=True)
        shrink = (threshold / norm.clamp(min=torch.finfo(z.dtype).tiny) - 1).clamp(max=0)  # 0 up to the threshold
        return z * shrink / ((group["beta"] + n.sqrt()) / group["alpha"] + group["l2"])


class FTRL(Proximal):
    r"""FTRL-proximal, as TensorFlow's operator computes it: single entries are zero.

    w = 0  where |z| ≤ λ₁,  else  w = (sign(z) λ₁ - z) / (√n / α + 2 λ₂).

    Args:
        params: parameters of any shape.
        alpha: α, learning rate.
        l1: λ₁, for a loss that is summed over the batch.
        l2: λ₂.
        accumulator: initial value of n.
        zero_start: of tables with sparse gradients, see `GroupFTRL`.

    Source: McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013, algorithm 1; the factor 2 is
    TensorFlow's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        alpha: float = 0.02,
        l1: float = 0.1,
        l2: float = 0.1,
        accumulator: float = 0.1,
        *,
        zero_start: bool = False,
    ) -> None:
        if accumulator <= 0:
            raise Problem(f"accumulator is {accumulator}", "FTRL", "it must be above 0: w divides by its root")
        super().__init__(params, {"alpha": alpha, "l1": l1, "l2": l2, "zero_start": zero_start}, start=accumulator)

    def primal(self, n: Tensor, z: Tensor, group: dict[str, Any]) -> Tensor:
        """Any shape -> the same."""
        kept = z.sign() * group["l1"] - z
        return torch.where(z.abs() > group["l1"], kept, 0.0) / (n.sqrt() / group["alpha"] + 2 * group["l2"])
