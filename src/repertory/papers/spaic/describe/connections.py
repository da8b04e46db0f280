"""Connections: the weighted links between two populations, their weights, masks and delays.

A connection is a description; `repertory.papers.spaic.run.wires.Wire` holds its weights. Weights are (post, pre) where
shapes are flat, and those of torch's convolutions elsewhere.
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
    """Delays in ms, one a synapse, drawn uniformly from [low, high]."""

    low: float
    high: float


Init = str | float | tuple[str, float, float]
"""("normal", mean, std), ("uniform", low, high), "kaiming" (torch's default of a layer), or a number for all."""


@dataclass(frozen=True, eq=False)
class Connection(Op):
    """What all connections can be told.

    Args:
        init: how weights start; None: as the official code has it for this kind.
        bias: whether a learned constant joins the current; or its starting values.
        delay: ms; a number, `Uniform`, or a tensor (post, pre); None: none but the network's latency. Synapses use
            floor(delay / dt) steps.
        train_delay: learn the delays; spikes are shared between the two nearest steps, for the gradient to reach them.
        rule: what changes the weights as spikes come, in place of gradients.
        w_min, w_max: weights are clamped to this before each run.
        trainable: whether gradients may change the weights.
        weight: starting values themselves.
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
    """Whether the weight is (post, pre), so that a synapse can have a delay of its own."""
    start: ClassVar[Init] = ("normal", 0.005, 0.05)

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """A matrix reaches any shape."""
        return target

    def module(self, inside: Shape, target: Shape, dt: float) -> nn.Module:
        """Connections hold weights: see `Wire`."""
        raise NotImplementedError

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(post, pre) unless the kind says otherwise."""
        return math.prod(outside), math.prod(inside)

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """1 where there is a synapse; None: everywhere."""
        return None

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Weights to start with; `places` are the positions (N, d) of pre and post.

        Raises:
            Problem: unknown initialisation, or given weights of another shape.
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
                f"no initialisation {init!r}", "init", "kaiming, a number, ('normal', mean, std), ('uniform', a, b)"
            )
        return (
            weight.normal_(low, high, generator=generator)
            if kind == "normal"
            else weight.uniform_(low, high, generator=generator)
        )

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """The weighted sums (N, post) of (N, *inside)."""
        return F.linear(x.flatten(1), weight)

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """Sum over the first axis of post x pre, in the weights' shape: what plasticity adds up."""
        return post.flatten(1).mT @ pre.flatten(1)


@dataclass(frozen=True, eq=False)
class Full(Connection):
    """Every neuron to every neuron."""


@dataclass(frozen=True, eq=False)
class OneToOne(Connection):
    """Each neuron to its counterpart; the weight is the diagonal (N,)."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 0.05

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """Shapes are equal."""
        return inside

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """One a neuron."""
        return (math.prod(inside),)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Element by element."""
        return x * weight.view(x.shape[1:])

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """The diagonal of the outer product."""
        return (post * pre).sum(0).flatten()


@dataclass(frozen=True, eq=False)
class Sparse(Connection):
    """Each synapse exists with probability `density`; N(.005, .05) weights."""

    density: float = 0.1

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """Bernoulli."""
        return torch.bernoulli(torch.full_like(weight, self.density), generator=generator)


@dataclass(frozen=True, eq=False)
class Random(Sparse):
    """As `Sparse`, whose density is the probability of a synapse."""


@dataclass(frozen=True, eq=False)
class Lateral(Connection):
    """Every neuron to every other one of the same population, not to itself: inhibition, when negative."""

    start: ClassVar[Init] = -1.0

    def mask(self, weight: Tensor, inside: Shape, outside: Shape, generator: torch.Generator | None) -> Tensor | None:
        """All but the diagonal."""
        return 1 - torch.eye(*weight.shape)


@dataclass(frozen=True, eq=False)
class DistanceDependent(Connection):
    """Weights fall with the distance of positions: a exp(-d^2 / (2 b^2)); the width b is in units of the field."""

    a: float = 0.2
    b: float = 0.4

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """By Euclidean distance."""
        if self.weight is not None or self.init is not None:
            return super().initial(inside, outside, generator, places)
        distance = torch.cdist(places[1], places[0])
        return self.a * torch.exp(-(distance**2) / (2 * self.b**2))


@dataclass(frozen=True, eq=False)
class ContinuousLocal(Connection):
    """The connectivity of a continuous attractor: a Gaussian of the distance on a ring (or torus) of circumference 1.

    w = strength / (sqrt(2 pi) width) exp(-d^2 / (2 width^2)), the density of a normal distribution times `strength`.
    """

    strength: float = 1.0
    width: float = 0.1

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """By distance around the ring."""
        if self.weight is not None or self.init is not None:
            return super().initial(inside, outside, generator, places)
        apart = (places[1][:, None] - places[0][None]).abs()
        squared = torch.minimum(apart, 1 - apart).square().sum(-1)
        height = self.strength / (math.sqrt(2 * math.pi) * self.width)
        return height * torch.exp(-squared / (2 * self.width**2))


@dataclass(frozen=True, eq=False)
class Conv(Connection):
    """A convolution of (C, H, W); N(.05, .05) weights, as many maps as the group at the end has."""

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
        """By torch's rule."""
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
        """(out, in / groups, k, k)."""
        return self._maps(outside), inside[0] // self.groups, self.kernel, self.kernel

    def _how(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.conv2d(x, weight, **self._how())

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """Summed over all places that share the weights."""
        return conv2d_weight(pre, shape, post, **self._how())


@dataclass(frozen=True, eq=False)
class ConvTranspose(Conv):
    """A transposed convolution: it makes maps larger."""

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """(in, out / groups, k, k), as torch has it."""
        return inside[0], self._maps(outside) // self.groups, self.kernel, self.kernel

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return F.conv_transpose2d(x, weight, **self._how())

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """The roles of the two sides change."""
        return conv2d_weight(post, shape, pre, **self._how())


@dataclass(frozen=True, eq=False)
class SpikesToRate(Connection):
    """A population's spikes to a mean field: each post neuron gets weight times the mean of all pre neurons per ms."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 1.0

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """One a post neuron."""
        return (math.prod(outside),)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, *inside) -> (N, post)."""
        return x.flatten(1).mean(1, keepdim=True) * weight

    def outer(self, post: Tensor, pre: Tensor, shape: Shape) -> Tensor:
        """With the mean of pre."""
        return (post.flatten(1) * pre.flatten(1).mean(1, keepdim=True)).sum(0)


@dataclass(frozen=True, eq=False)
class RateToSpikes(SpikesToRate):
    """A mean field's rate to spikes: every post neuron draws spikes with p = mean rate, worth its weight each."""

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, *inside) -> (N, post)."""
        rate = x.flatten(1).mean(1, keepdim=True).clamp(0, 1).expand(-1, len(weight))
        return torch.bernoulli(rate) * weight


@dataclass(frozen=True, eq=False)
class Null(Connection):
    """No synapses: it only makes the two populations neighbours in the graph."""

    matrix: ClassVar[bool] = False
    start: ClassVar[Init] = 0.0

    def weight_shape(self, inside: Shape, outside: Shape) -> Shape:
        """None at all."""
        return (0,)

    def initial(
        self, inside: Shape, outside: Shape, generator: torch.Generator | None, places: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Empty."""
        return torch.empty(0)

    def shape(self, inside: Shape, target: Shape) -> Shape:
        """Whatever is wanted."""
        return target

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Nothing."""
        return x.new_zeros(len(x), 1)


@dataclass(frozen=True, eq=False)
class Electrical(Connection):
    """Gap junctions: I_post = sum w (V_pre - V_post) of the step before, and the opposite current into pre."""

    start: ClassVar[Init] = 0.05
