"""Connections: weighted links between two populations, with initial weights, masks and delays.

A connection is a description; `repertory.papers.spaic.run.wires.Wire` holds its weights. A weight is (post, pre), or
has the shape of torch's convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.rules import Rule
from repertory.papers.spaic.describe.synapses import Op, Shape


@dataclass(frozen=True)
class Uniform:
    """One delay in ms per synapse, drawn uniformly from [low, high]."""

    low: float
    high: float


Init = str | float | tuple[str, float, float]
"""("normal", mean, std), ("uniform", low, high), "kaiming" (the default of torch's layers), or one number."""


@dataclass(frozen=True, eq=False)
class Connection(Op):
    """Base class of connections.

    Args:
        init: initial weights; None: the official code's default for the class.
        bias: whether a trained constant is added to the current; or its initial values.
        delay: ms; a number, `Uniform`, or a tensor (post, pre); None: only the network's latency. Synapses use
            floor(delay / dt) steps.
        train_delay: train the delays; a spike is shared linearly between the two nearest steps, so that gradients
            reach them.
        rule: learning rule that changes the weights in place of gradients.
        w_min, w_max: bounds that the weights are clamped to before each run.
        trainable: whether gradients change the weights.
        weight: initial weights as a tensor.
    """

    init: Init | None = field(default=None, kw_only=True)
    bias: bool | Tensor = field(default=False, kw_only=True, repr=False)
    delay: float | Uniform | Tensor | None = field(default=None, kw_only=True)
    train_delay: bool = field(default=False, kw_only=True)
    rule: Rule | None = field(default=None, kw_only=True)
    w_min: float | None = field(default=None, kw_only=True)
    w_max: float | None = field(default=None, kw_only=True)
    trainable: bool = field(default=True, kw_only=True)
    weight: Tensor | None = field(default=None, kw_only=True, repr=False)

    matrix: ClassVar[bool] = True
    """Whether the weight is (post, pre), so that each synapse can have its own delay."""
    start: ClassVar[Init] = ("normal", 0.005, 0.05)

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """Shape of the current: a matrix gives any `target`."""
        return target

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Not used: `Wire` computes connections."""
        raise NotImplementedError

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(post, pre) for matrices."""
        return math.prod(outside), math.prod(inside)

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """1 where there is a synapse, else 0, in the shape of the weight; None: synapses everywhere."""
        return None

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Initial weights.

        Args:
            inside, outside: shapes of the input and of the current.
            generator: draws random weights.
            places: positions (N, d) of the pre- and postsynaptic neurons.

        Raises:
            Problem: an unknown initialisation, or a `weight` of another shape.
        """
        shape = self.weight_shape(inside, outside)
        if self.weight is not None:
            given = torch.as_tensor(self.weight, dtype=torch.get_default_dtype())
            if tuple(given.shape) != shape:
                raise Problem(
                    f"weights of shape {tuple(given.shape)} for a connection of {shape}",
                    f"{type(self).__name__}(weight=...)", "give (post, pre)",
                )  # fmt: skip
            return given.clone()
        weight, init = torch.empty(shape), self.init if self.init is not None else self.start
        if isinstance(init, int | float):
            return weight.fill_(init)
        if init == "kaiming":
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
            return weight.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        kind, low, high = init if isinstance(init, tuple) else (init, 0.0, 0.0)
        if kind not in ("normal", "uniform"):
            raise Problem(
                f"unknown initialisation {init!r}",
                "init",
                "kaiming, a number, ('normal', mean, std), ('uniform', a, b)",
            )
        return (
            weight.normal_(low, high, generator=generator)
            if kind == "normal"
            else weight.uniform_(low, high, generator=generator)
        )

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted sums: (N, *inside) -> (N, post)."""
        return F.linear(x.flatten(1), weight)

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """Outer products of post (N, *outside) and pre (N, *inside), summed over N, in the `shape` of the weights."""
        return post.flatten(1).mT @ pre.flatten(1)


@dataclass(frozen=True, eq=False)
class Full(Connection):
    """Every neuron to every neuron."""


@dataclass(frozen=True, eq=False)
class OneToOne(Connection):
    """Each neuron to its counterpart; the weight is (N,)."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 0.05

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """The input's shape."""
        return inside

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(N,)"""
        return (math.prod(inside),)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Elementwise: (N, *inside) -> the same shape."""
        return x * weight.view(x.shape[1:])

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """The diagonal of the outer product."""
        return (post * pre).sum(0).flatten()


@dataclass(frozen=True, eq=False)
class Sparse(Connection):
    """Each synapse exists with probability `density`; weights are drawn from N(.005, .05)."""

    density: float = 0.1

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """Independent Bernoulli draws."""
        return torch.bernoulli(torch.full_like(weight, self.density), generator=generator)


@dataclass(frozen=True, eq=False)
class Random(Sparse):
    """`Sparse` under the official code's name."""


@dataclass(frozen=True, eq=False)
class Lateral(Connection):
    """Every neuron to all others of its population, not to itself; negative weights give lateral inhibition."""

    start: ClassVar[Init] = -1.0

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """All but the diagonal."""
        return 1 - torch.eye(*weight.shape)


@dataclass(frozen=True, eq=False)
class DistanceDependent(Connection):
    """Weights decay with the distance d of the positions: a exp(-d^2 / (2 b^2)), b in the positions' units."""

    a: float = 0.2
    b: float = 0.4

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """By the Euclidean distance, unless `weight` or `init` is given."""
        if self.weight is not None or self.init is not None:
            return super().initial(inside, outside, generator, places)
        distance = torch.cdist(places[1], places[0])
        return self.a * torch.exp(-(distance**2) / (2 * self.b**2))


@dataclass(frozen=True, eq=False)
class ContinuousLocal(Connection):
    """Connectivity of a continuous attractor: a Gaussian of the distance d on a ring (or torus) of circumference 1.

    w = strength / (sqrt(2 pi) width) exp(-d^2 / (2 width^2)), the density of a normal distribution times `strength`.
    """

    strength: float = 1.0
    width: float = 0.1

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """By the distance on the ring, unless `weight` or `init` is given."""
        if self.weight is not None or self.init is not None:
            return super().initial(inside, outside, generator, places)
        apart = (places[1][:, None] - places[0][None]).abs()
        squared = torch.minimum(apart, 1 - apart).square().sum(-1)
        height = self.strength / (math.sqrt(2 * math.pi) * self.width)
        return height * torch.exp(-squared / (2 * self.width**2))


@dataclass(frozen=True, eq=False)
class Conv(Connection):
    """Convolution of (C, H, W); weights are drawn from N(.05, .05).

    Args:
        kernel, stride, padding, dilation, groups: as of `torch.nn.Conv2d`.
        maps: output channels; None: those of the target group.
    """

    kernel: int = 3
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    maps: int | None = None
    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = ("normal", 0.05, 0.05)

    def _maps(self, outside: Shape) -> int:
        return self.maps or outside[0]

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """(C', H', W') as torch computes it.

        Raises:
            Problem: not (C, H, W), or sizes that do not fit the kernel.
        """
        if len(inside) != 3:
            raise Problem(f"a convolution of shape {inside}", type(self).__name__, "give (channels, height, width)")
        try:
            weight = torch.zeros(self.weight_shape(inside, target))
            return tuple(self.linear(torch.zeros(1, *inside), weight).shape[1:])
        except RuntimeError as error:
            raise Problem(
                f"{self} cannot take {inside}: {error}", type(self).__name__, "check kernel and groups"
            ) from error

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(out, in / groups, k, k)"""
        return self._maps(outside), inside[0] // self.groups, self.kernel, self.kernel

    def _options(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.conv2d(x, weight, **self._options())

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """Summed over all places that share a weight."""
        return conv2d_weight(pre, shape, post, **self._options())


@dataclass(frozen=True, eq=False)
class ConvTranspose(Conv):
    """Transposed convolution of (C, H, W), which upsamples."""

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(in, out / groups, k, k)"""
        return inside[0], self._maps(outside) // self.groups, self.kernel, self.kernel

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.conv_transpose2d(x, weight, **self._options())

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """As of `Conv`, with pre and post exchanged."""
        return conv2d_weight(post, shape, pre, **self._options())


@dataclass(frozen=True, eq=False)
class SpikesToRate(Connection):
    """Spikes to a mean field: each postsynaptic unit gets its weight times the mean of all presynaptic neurons."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 1.0

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(post,)"""
        return (math.prod(outside),)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, *inside) -> (N, post)."""
        return x.flatten(1).mean(1, keepdim=True) * weight

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """Post times the mean of pre, summed over N."""
        return (post.flatten(1) * pre.flatten(1).mean(1, keepdim=True)).sum(0)


@dataclass(frozen=True, eq=False)
class RateToSpikes(SpikesToRate):
    """A mean field's rate to spikes: each postsynaptic neuron draws spikes, times its weight, with p = mean rate."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, *inside) -> (N, post)."""
        rate = x.flatten(1).mean(1, keepdim=True).clamp(0, 1).expand(-1, len(weight))
        return torch.bernoulli(rate) * weight


@dataclass(frozen=True, eq=False)
class Null(Connection):
    """No synapses: an edge of the graph without current."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 0.0

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(0,)"""
        return (0,)

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """No weights, (0,)."""
        return torch.empty(0)

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """Any `target`."""
        return target

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Zeros, (N, 1)."""
        return x.new_zeros(len(x), 1)


@dataclass(frozen=True, eq=False)
class Electrical(Connection):
    """Gap junctions: I_post = sum w (V_pre - V_post) at the previous step, and the opposite current into pre."""

    start: ClassVar[Init] = 0.05
