"""Synapses: what lies between a population's spikes and the current into the next one, in the order of the chain.

Each is a description (frozen, plain values) that makes a module for the shapes that it meets. Modules without memory
are those of torch; `Filter` and its kin walk along time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.neurons import decay

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One link of a chain `source >> op >> op >> group`."""

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """What comes out of `inside`; `target` is the shape of the group at the chain's end.

        Raises:
            Problem: this link cannot take such a shape.
        """
        with torch.no_grad():
            try:
                found = self.module(inside, target, 1.0).eval()(torch.zeros(1, *inside)).shape[1:]
            except (RuntimeError, IndexError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise Problem(
                    f"{self} cannot take shape {inside}: {reason}", "projection", "check the chain"
                ) from error
        return tuple(found)

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """The module that does it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Direct(Op):
    """Pass on what comes (`directpass`)."""

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Nothing."""
        return nn.Identity()


@dataclass(frozen=True)
class Flatten(Op):
    """All axes of one sample into one."""

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's."""
        return nn.Flatten()


@dataclass(frozen=True)
class Dropout(Op):
    """Zero with probability p while training; anew at every step."""

    p: float = 0.5

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's."""
        return nn.Dropout(self.p)


@dataclass(frozen=True)
class AvgPool(Op):
    """Means over windows of (C, H, W)."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's."""
        return nn.AvgPool2d(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class MaxPool(Op):
    """Maxima over windows of (C, H, W); the official pool-only connection averages here, by a slip."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's."""
        return nn.MaxPool2d(self.kernel, self.stride, self.padding)


class _SumPool(nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        """Windows' sums."""
        return super().forward(input) * cast(int, self.kernel_size) ** 2


@dataclass(frozen=True)
class SumPool(Op):
    """Sums over windows of (C, H, W), as neuromorphic chips (and NIR) have them."""

    kernel: int = 2
    stride: int | None = 2
    padding: int = 0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Means times the window's size."""
        return _SumPool(self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class Upsample(Op):
    """(C, H, W) -> (C, scale H, scale W), by the nearest neighbour."""

    scale: int = 2

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's."""
        return nn.Upsample(scale_factor=self.scale)


@dataclass(frozen=True)
class BatchNorm(Op):
    """Normalise the current per channel of (C, H, W), or per neuron of (N,), by running statistics.

    Layer by layer, training's statistics are over batch and time; step by step, over the batch.
    """

    momentum: float = 0.1
    eps: float = 1e-5

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """torch's, for one or for three axes."""
        if len(inside) not in (1, 3):
            raise ValueError(f"normalisation of {len(inside)} axes")
        kind = nn.BatchNorm1d if len(inside) == 1 else nn.BatchNorm2d
        return kind(inside[0], self.eps, self.momentum)


@dataclass(frozen=True)
class Scale(Op):
    """Multiply by a fixed factor."""

    factor: float = 1.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Times `factor`."""
        return _Times(self.factor)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Times the factor."""
        return x * self.factor


@dataclass(frozen=True)
class FirstOrder(Op):
    """R <- e^(-dt/tau) R + x, and I = R."""

    tau: float = 2.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """A leaky sum."""
        return Filter(decay(dt, self.tau))


@dataclass(frozen=True)
class SecondOrder(Op):
    """R <- e^(-dt/tau_r) R + x, D <- e^(-dt/tau_d) D + x, and I = R - D."""

    tau_r: float = 9.0
    tau_d: float = 2.0

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """The difference of two leaky sums."""
        return Filter(decay(dt, self.tau_r), decay(dt, self.tau_d))


class _LeakySum(torch.autograd.Function):
    """R[t] = a R[t-1] + x[t], forwards; the same backwards in time for the gradient."""

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
        """One more axis after time."""
        x, start, a = inputs
        x = (
            x.movedim(in_dims[0], 1)
            if in_dims[0] is not None
            else x.unsqueeze(1).expand(-1, info.batch_size, *x.shape[1:])
        )
        start = start.movedim(in_dims[1], 0) if in_dims[1] is not None else start.expand(x.shape[1:])
        return _LeakySum.apply(x, start, a), 1


class Filter(nn.Module):
    """The leaky sum of what comes, or the difference of two; in `Wire` its state is carried along time."""

    def __init__(self, *decays: float) -> None:
        super().__init__()
        self.decays = decays

    def forward(self, x: Tensor) -> Tensor:
        """Shapes stay."""
        return x

    def block(self, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """All steps: (T, B, ...) and the sums before -> the same shape, and the sums after."""
        before = state or [torch.zeros_like(x[0])] * len(self.decays)
        sums = [_LeakySum.apply(x, r, a) for a, r in zip(self.decays, before, strict=True)]
        return (sums[0] - sums[1] if len(sums) == 2 else sums[0]), [r[-1] for r in sums]

    def tick(self, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One step: (B, ...)."""
        before = state or [torch.zeros_like(x)] * len(self.decays)
        sums = [a * r + x for a, r in zip(self.decays, before, strict=True)]
        return (sums[0] - sums[1] if len(sums) == 2 else sums[0]), sums
