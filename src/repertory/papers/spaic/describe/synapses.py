"""Synapses: the operations between a population's spikes and the current into the next, in the order of the chain.

Each is a description (frozen, plain values) that makes a module for the shapes it meets: torch's, or a `Filter`, which
has a state over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem, reason
from repertory.papers.spaic.describe.neurons import decay

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One link of a chain `source >> op >> op >> group`."""

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """Output shape for the input shape `inside`; `target` is the shape of the group that ends the chain.

        Raises:
            Problem: it does not take such a shape.
        """
        with torch.no_grad():
            try:
                found = self.module(inside, target, 1.0).eval()(torch.zeros(1, *inside)).shape[1:]
            except (RuntimeError, IndexError, ValueError) as error:
                raise Problem(
                    f"{self} cannot take shape {inside}: {reason(error)}", "projection", "check the chain"
                ) from error
        return tuple(found)

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """The module that computes it, (N, *inside) -> (N, *outside); `dt` in ms."""
        raise NotImplementedError


@dataclass(frozen=True)
class Direct(Op):
    """Identity: spikes are the current (`directpass`)."""

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.Identity`."""
        return nn.Identity()


@dataclass(frozen=True)
class Flatten(Op):
    """(*shape) -> (N,)."""

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.Flatten`."""
        return nn.Flatten()


@dataclass(frozen=True)
class Dropout(Op):
    """Dropout with probability p in training, drawn anew at every step."""

    p: float = 0.5

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.Dropout`."""
        return nn.Dropout(self.p)


@dataclass(frozen=True)
class AvgPool(Op):
    """Average pooling of (C, H, W)."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.AvgPool2d`."""
        return nn.AvgPool2d(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class MaxPool(Op):
    """Max pooling of (C, H, W); the official pool-only connection averages instead, by mistake."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.MaxPool2d`."""
        return nn.MaxPool2d(self.kernel, self.stride, self.padding)


class _SumPool(nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> sums over windows."""
        return super().forward(input) * cast(int, self.kernel_size) ** 2


@dataclass(frozen=True)
class SumPool(Op):
    """Sum pooling of (C, H, W), as on neuromorphic chips and in NIR."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Average pooling times the number of elements in a window."""
        return _SumPool(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class Upsample(Op):
    """(C, H, W) -> (C, scale H, scale W), nearest neighbour."""

    scale: int = 2

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.Upsample`."""
        return nn.Upsample(scale_factor=self.scale)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Batch normalisation of the current, per channel of (C, H, W) or per neuron of (N,).

    Training statistics are over batch and time for layerwise computation, over the batch in stepwise computation.
    """

    momentum: float = 0.1
    eps: float = 1e-5

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """`nn.BatchNorm1d` or `nn.BatchNorm2d`."""
        if len(inside) not in (1, 3):
            raise ValueError(f"normalisation of {len(inside)} axes")
        kind = nn.BatchNorm1d if len(inside) == 1 else nn.BatchNorm2d
        return kind(inside[0], self.eps, self.momentum)


@dataclass(frozen=True)
class Scale(Op):
    """Multiplication by a constant."""

    factor: float = 1.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """The module of the product."""
        return _Times(self.factor)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The product, same shape."""
        return x * self.factor


@dataclass(frozen=True)
class FirstOrder(Op):
    """First-order synapse: R <- e^(-dt/tau) R + x, I = R; tau in ms."""

    tau: float = 2.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """A `Filter` with one decay."""
        return Filter(decay(dt, self.tau))


@dataclass(frozen=True)
class SecondOrder(Op):
    """Second-order synapse: R <- e^(-dt/tau_r) R + x, D <- e^(-dt/tau_d) D + x, I = R - D; times in ms."""

    tau_r: float = 9.0
    tau_d: float = 2.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """A `Filter` with two decays."""
        return Filter(decay(dt, self.tau_r), decay(dt, self.tau_d))


class _LeakySum(torch.autograd.Function):
    """R[t] = a R[t-1] + x[t]; the gradient is the same recursion backwards in time."""

    @staticmethod
    def forward(x: Tensor, start: Tensor, a: float) -> Tensor:
        r = torch.empty_like(x, memory_format=torch.contiguous_format)
        before = start
        for x_t, r_t in zip(x.unbind(), r.unbind(), strict=True):
            torch.add(x_t, before, alpha=a, out=r_t)
            before = r_t
        return r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.a = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad,) = grad_outputs
        back = _LeakySum.apply(grad.flip(0), torch.zeros_like(grad[0]), ctx.a).flip(0)
        return back, ctx.a * back[0], None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        """The mapped axis becomes the axis after time."""
        x, start, a = inputs
        x = (
            x.movedim(in_dims[0], 1)
            if in_dims[0] is not None
            else x.unsqueeze(1).expand(-1, info.batch_size, *x.shape[1:])
        )
        start = start.movedim(in_dims[1], 0) if in_dims[1] is not None else start.expand(x.shape[1:])
        return _LeakySum.apply(x, start, a), 1


class Filter(nn.Module):
    """The leaky sum of its input, or the difference of two leaky sums.

    `Wire` calls `block` or `tick` and keeps the state; `forward` only serves to infer shapes.

    Args:
        decays: one or two factors a of R[t] = a R[t-1] + x[t].
    """

    def __init__(self, *decays: float) -> None:
        super().__init__()
        self.decays = decays

    def forward(self, x: Tensor) -> Tensor:
        """Identity: shapes do not change."""
        return x

    def block(self, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """All steps: input (T, B, ...) and the sums before -> output (T, B, ...) and the sums after."""
        before = state or [torch.zeros_like(x[0])] * len(self.decays)
        sums = [_LeakySum.apply(x, r, a) for a, r in zip(self.decays, before, strict=True)]
        return (sums[0] - sums[1] if len(sums) == 2 else sums[0]), [r[-1] for r in sums]

    def tick(self, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One step: input (B, ...) and the sums before -> output (B, ...) and the sums after."""
        before = state or [torch.zeros_like(x)] * len(self.decays)
        sums = [a * r + x for a, r in zip(self.decays, before, strict=True)]
        return (sums[0] - sums[1] if len(sums) == 2 else sums[0]), sums
