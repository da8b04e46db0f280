"""Encoders of data, and generators that need no data: both give the network's input (T, B, *shape).

A result that is constant over time is an expanded view (stride 0), so that projections compute it once instead of T
times.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.draws import Draws, uniform


@dataclass(frozen=True)
class Encoder:
    """Values to spikes or currents."""

    timed: ClassVar[bool] = False
    """Whether the data have a time axis, which gives the number of steps."""

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """(B, *shape) -> (T, B, *shape).

        Args:
            x: data; timed encoders take a time axis as well.
            steps: T.
            dt: length of a step, ms.
            generator: draws random spikes.
        """
        raise NotImplementedError

    def steps(self, x: Tensor) -> int:
        """Number of steps of timed data."""
        return len(x)


def _positive(x: Tensor, encoder: Encoder) -> Tensor:
    if (x < 0).any():
        raise Problem(
            f"negative input ({x.min():g}) to {type(encoder).__name__}: a rate cannot be negative",
            "input", "scale the data to [0, 1], or encode them as a current",
        )  # fmt: skip
    return x


def _drawn(p: Tensor, generator: Draws) -> Tensor:
    return (uniform(p, generator) < p).to(p.dtype)


@dataclass(frozen=True)
class Spikes(Encoder):
    """Given spikes or currents, time first: (T, B, *shape)."""

    timed: ClassVar[bool] = True

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """The first `steps`."""
        return x[:steps]


@dataclass(frozen=True)
class Null(Encoder):
    """Given spikes or currents, batch first: (B, T, *shape), the official code's layout."""

    timed: ClassVar[bool] = True

    def steps(self, x: Tensor) -> int:
        """Size of the second axis."""
        return x.shape[1]

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """(B, T, *shape) -> (T, B, *shape)."""
        return x.transpose(0, 1)[:steps]


@dataclass(frozen=True)
class ConstantCurrent(Encoder):
    """The current amp x at every step."""

    amp: float = 1.0

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """A view that is constant over time."""
        return (self.amp * x).expand(steps, *x.shape)


@dataclass(frozen=True)
class Float(ConstantCurrent):
    """The values as currents at every step."""


@dataclass(frozen=True)
class Poisson(Encoder):
    """A spike with probability x unit dt at each step.

    Raises:
        Problem: negative values.
    """

    unit: float = 1.0

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """Independent draws for every step."""
        return _drawn((_positive(x, self) * (self.unit * dt)).expand(steps, *x.shape), generator)


@dataclass(frozen=True)
class Bernoulli(Encoder):
    """A spike with probability max_prob x at each step; x is divided by its maximum if that exceeds 1.

    Raises:
        Problem: negative values.
    """

    max_prob: float = 1.0

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """Independent draws for every step."""
        x = _positive(x, self)
        return _drawn((x / x.max().clamp(min=1) * self.max_prob).expand(steps, *x.shape), generator)


def _once(when: Tensor, fires: Tensor, steps: int) -> Tensor:
    """One spike per element at step `when`, if `fires`."""
    times = torch.arange(steps, device=when.device).view(-1, *(1,) * when.ndim)
    return ((times == when) & fires).to(torch.get_default_dtype())


@dataclass(frozen=True)
class Latency(Encoder):
    """One spike, earlier for larger x: at step floor(max_scale (T - 1) (1 - x)), x scaled to [0, 1] over the batch.

    With `cut_off`, values up to 0.05 of the maximum give no spike.
    """

    max_scale: float = 1.0
    cut_off: bool = False

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """At most one spike per element."""
        low, high = x.min(), x.max()
        scaled = (x - low) / (high - low).clamp(min=1e-12)
        fires = x > 0.05 * high if self.cut_off else torch.ones_like(x, dtype=torch.bool)
        return _once((self.max_scale * (steps - 1) * (1 - scaled)).floor(), fires, steps).to(x.dtype)


@dataclass(frozen=True)
class RelativeLatency(Encoder):
    """One spike at step floor((T - 1) exp(-amp x)), independent of the rest of the batch."""

    amp: float = 1.0

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """One spike per element."""
        when = ((steps - 1) * torch.exp(-self.amp * _positive(x, self))).floor()
        return _once(when, torch.ones_like(x, dtype=torch.bool), steps).to(x.dtype)


@dataclass(frozen=True)
class Periodic(Encoder):
    """Regular spikes at a rate of min(x + bias, 1) per step where x > 0 ("uniform" in the official code)."""

    bias: float = 0.05

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """A spike whenever the accumulated rate passes an integer."""
        rate = torch.where(_positive(x, self) > 0, (x + self.bias).clamp(max=1), torch.zeros_like(x))
        counts = (torch.arange(1, steps + 1, device=x.device).view(-1, *(1,) * x.ndim) * rate + 1e-6).floor()
        return torch.diff(counts, dim=0, prepend=torch.zeros_like(counts[:1]))


@dataclass(frozen=True)
class SpikeTime(Encoder):
    """Spike times in ms, (B, *shape), one per neuron; negative or infinite: no spike ("sstb" in the official code)."""

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """A spike at step floor(time / dt)."""
        return _once((x / dt).floor(), x >= 0, steps)


@dataclass(frozen=True)
class SpikeTimes(Encoder):
    """Spike times in ms, (B, *shape, K), K per neuron, padded with negative ones ("mstb" in the official code)."""

    def __call__(self, x: Tensor, steps: int, dt: float, generator: Draws) -> Tensor:
        """A spike at step floor(time / dt) of each time."""
        return _once((x / dt).floor(), x >= 0, steps).amax(-1)


ENCODERS: dict[str, type[Encoder]] = {
    "spikes": Spikes, "null": Null, "float": Float, "current": ConstantCurrent, "constant_current": ConstantCurrent,
    "poisson": Poisson, "bernoulli": Bernoulli, "latency": Latency, "relative_latency": RelativeLatency,
    "uniform": Periodic, "sstb": SpikeTime, "mstb": SpikeTimes,
}  # fmt: skip
"""Names for `Input(encode=...)`."""


def encoder(encode: str | Encoder) -> Encoder:
    """The encoder of that name; an encoder is returned as it is.

    Raises:
        Problem: unknown name; gives the list and the nearest.
    """
    if isinstance(encode, Encoder):
        return encode
    if encode not in ENCODERS:
        near = difflib.get_close_matches(encode, ENCODERS, 1, 0)[0]
        raise Problem(
            f"unknown encoder {encode!r}", "Input(encode=...)", f"did you mean {near!r}? Known: {', '.join(ENCODERS)}"
        )
    return ENCODERS[encode]()


# -- generators ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoissonNoise:
    """Spikes with probability rate unit dt at each step."""

    rate: float = 1.0
    unit: float = 0.1

    def __call__(self, shape: tuple[int, ...], steps: int, dt: float, like: Tensor, generator: Draws) -> Tensor:
        """(T, B, *shape)."""
        return _drawn(like.new_full((), self.rate * self.unit * dt).expand(steps, *shape), generator)


@dataclass(frozen=True)
class Constant:
    """A constant current."""

    value: float = 1.0

    def __call__(self, shape: tuple[int, ...], steps: int, dt: float, like: Tensor, generator: Draws) -> Tensor:
        """(T, B, *shape), a view that is constant over time."""
        return like.new_full(shape, self.value).expand(steps, *shape)


@dataclass(frozen=True)
class Sine:
    """amplitude sin(2 pi t / period) + offset; period in ms."""

    amplitude: float = 1.0
    period: float = 50.0
    offset: float = 0.0

    def __call__(self, shape: tuple[int, ...], steps: int, dt: float, like: Tensor, generator: Draws) -> Tensor:
        """(T, B, *shape)."""
        t = dt * torch.arange(steps, device=like.device, dtype=like.dtype).view(-1, *(1,) * len(shape))
        return (self.amplitude * torch.sin(2 * math.pi / self.period * t) + self.offset).expand(steps, *shape)


@dataclass(frozen=True)
class Ramp:
    """A current that rises linearly from `low` at the first step to `high` at the last."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, shape: tuple[int, ...], steps: int, dt: float, like: Tensor, generator: Draws) -> Tensor:
        """(T, B, *shape)."""
        values = torch.linspace(self.low, self.high, steps, device=like.device, dtype=like.dtype)
        return values.view(-1, *(1,) * len(shape)).expand(steps, *shape)


Generator = PoissonNoise | Constant | Sine | Ramp
GENERATORS: dict[str, type[Generator]] = {
    "poisson": PoissonNoise, "constant_current": Constant, "sine": Sine, "ramp": Ramp,
}  # fmt: skip
"""Names for `Source(generate=...)`."""


def generator(generate: str | Generator) -> Generator:
    """The generator of that name; a generator is returned as it is.

    Raises:
        Problem: unknown name; gives the list.
    """
    if not isinstance(generate, str):
        return generate
    if generate not in GENERATORS:
        raise Problem(f"unknown generator {generate!r}", "Source(generate=...)", f"known: {', '.join(GENERATORS)}")
    return GENERATORS[generate]()
