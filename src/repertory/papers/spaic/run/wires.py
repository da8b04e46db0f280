"""A projection at run time: weights, delays, and currents under way.

A projection is a sum of taps: `taps()` gives (steps, weight) pairs, one per distinct delay, so that a delay costs one
matrix product, however many synapses share it. Currents that have not arrived yet wait in a queue, which is all the
state that delays need; past spikes are not stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn.spiking import over_time
from repertory.papers.spaic.describe.connections import Connection, Electrical, RateToSpikes, Uniform
from repertory.papers.spaic.describe.network import Group, Node, Projection, positions
from repertory.papers.spaic.describe.rules import Rule
from repertory.papers.spaic.describe.synapses import Filter, Shape

Tap = tuple[int, Tensor]
Sums = dict[int, list[Tensor]]
"""Place in the chain -> state of the `Filter` there."""


@dataclass
class Traffic:
    """State of a projection between steps, and between runs."""

    pending: list[Tensor | None] = field(default_factory=list)
    """Currents (B, *post) that arrive in 0, 1, ... steps from now; None: no current."""
    sums: Sums = field(default_factory=dict)


class Wire(nn.Module):
    """One projection: `weight`, `bias`, `mask`, `delay`, and the modules `links` of its operations.

    Args:
        projection: the description.
        latency: steps besides the delay.
        dt: length of a step, ms.
        generator: draws weights, masks and delays; None: torch's global one.
    """

    mask: Tensor | None
    delay: Tensor | None

    def __init__(self, projection: Projection, latency: int, dt: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.projection, self.latency, self.dt = projection, latency, dt
        self.connection = connection = projection.connection
        self.place = len(projection.ops) if connection is None else projection.ops.index(connection)
        shapes, target = projection.shapes, projection.target.shape
        links = [
            nn.Identity() if isinstance(op, Connection) else op.module(inside, target, dt)
            for op, inside in zip(projection.ops, shapes, strict=False)
        ]
        self.links = nn.ModuleList(links)
        self.electrical = isinstance(connection, Electrical)
        self.random = any(isinstance(link, nn.Dropout) for link in links) or isinstance(connection, RateToSpikes)
        self.plain = not any(isinstance(link, Filter) for link in links)
        self.register_buffer("mask", None)
        self.register_buffer("delay", None)
        if connection is None:
            return
        self.inside, self.outside = shapes[self.place], shapes[self.place + 1]
        places = positions(projection.source), positions(projection.target)
        weight = connection.initial(self.inside, self.outside, generator, places)
        self.mask = connection.mask(weight, self.inside, self.outside, generator)
        learned = connection.trainable and connection.rule is None
        self.weight = nn.Parameter(weight if self.mask is None else weight * self.mask, requires_grad=learned)
        self.bias = None
        if isinstance(connection.bias, Tensor):
            self.bias = nn.Parameter(connection.bias.to(weight.dtype).reshape(self._bias_shape()).clone())
        elif connection.bias:
            self.bias = nn.Parameter(torch.zeros(self._bias_shape()))
        self._place_delay(connection, weight, generator)

    def _bias_shape(self) -> Shape:
        return (self.outside[0], *(1,) * (len(self.outside) - 1)) if len(self.outside) == 3 else self.outside

    def _place_delay(self, connection: Connection, weight: Tensor, generator: torch.Generator | None) -> None:
        delay = connection.delay
        if delay is None:
            return
        if isinstance(delay, Uniform):
            delay = torch.empty_like(weight).uniform_(delay.low, delay.high, generator=generator)
        delay = torch.as_tensor(delay, dtype=weight.dtype)
        if connection.train_delay:
            del self._buffers["delay"]
            shape = weight.shape if connection.matrix else ()
            self.delay = nn.Parameter(delay.expand(shape).clone())
        else:
            self.delay = delay.clone()

    @property
    def source(self) -> Node:
        """The node at the start."""
        return self.projection.source

    @property
    def target(self) -> Group:
        """The group at the end."""
        return self.projection.target

    @property
    def rule(self) -> Rule | None:
        """The rule that changes its weights in place of gradients."""
        return None if self.connection is None else self.connection.rule

    @property
    def plastic(self) -> bool:
        """Whether its weights change at every step of a training run."""
        return self.rule is not None and self.rule.online

    # -- weights ----------------------------------------------------------------------------------

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamp weights to the connection's bounds, and trained delays to at least dt."""
        connection = self.connection
        if connection is None:
            return
        if connection.w_min is not None or connection.w_max is not None:
            self.weight.clamp_(connection.w_min, connection.w_max)
        if connection.train_delay and self.delay is not None:
            self.delay.clamp_(min=self.dt)

    def current_weight(self) -> Tensor:
        """The weights, 0 where there is no synapse."""
        return self.weight if self.mask is None else self.weight * self.mask

    @property
    def lagged(self) -> bool:
        """Whether spikes arrive at a later step."""
        return self.latency > 0 or self.delay is not None

    def taps(self, weight: Tensor | None = None) -> list[Tap]:
        """The projection as (steps, weights) pairs, one per distinct delay.

        A trained delay is shared linearly between the two nearest steps.

        Args:
            weight: in place of `current_weight()`.

        Raises:
            Problem: a trained delay that is not finite.
        """
        weight = self.current_weight() if weight is None else weight
        if self.delay is None:
            return [(self.latency, weight)]
        if not isinstance(self.delay, nn.Parameter):
            whole = self.whole_delay()
            real = whole if self.mask is None or not whole.ndim else whole[self.mask > 0]
            used = torch.bincount(real.flatten()).nonzero()
            return [(self.latency + d, weight * (whole == d).to(weight.dtype)) for d in used.flatten().tolist()]
        steps = self.delay / self.dt
        if not steps.isfinite().all():
            raise Problem("a trained delay is not finite", str(self.projection), "lower the learning rate")
        low, high = math.floor(steps.min().item()), math.ceil(steps.max().item())
        shares = ((d, (1 - (steps - d).abs()).clamp(min=0)) for d in range(low, high + 1))
        return [(self.latency + d, weight * share.to(weight.dtype)) for d, share in shares]

    def whole_delay(self) -> Tensor:
        """The fixed delays in steps, rounded down."""
        assert self.delay is not None
        return (self.delay / self.dt + 1e-6).long()  # 3.0 / 0.1 is 29.999...

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """(N, *inside) -> (N, *outside), without bias; `weight` may be (N, *weight), one per sample."""
        assert self.connection is not None
        if weight.ndim > self.weight.ndim:
            y = torch.vmap(lambda one, w: self._linear(one[None], w)[0])(x, weight)
        else:
            y = self._linear(x, weight)
        return y.expand(x.shape[0], math.prod(self.outside)).unflatten(1, self.outside) if y.ndim == 2 else y

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        return cast(Connection, self.connection).linear(x, weight)

    # -- all steps at once --------------------------------------------------------------------------

    def block(self, x: Tensor, traffic: Traffic | None = None, keep: bool = False) -> tuple[Tensor, Traffic]:
        """All steps.

        Args:
            x: output of the source, (T, B, *pre).
            traffic: left by an earlier run.
            keep: whether the returned traffic is needed.

        Returns:
            currents (T, B, *post), and the traffic after the last step.
        """
        traffic, after = traffic or Traffic(), Traffic()
        constant = x.stride(0) == 0 and x.shape[0] > 1 and self.plain and not (self.random and self.training)
        if constant and not self.lagged and not traffic.pending and not isinstance(self.connection, RateToSpikes):
            current, _ = self.block(x[:1])
            return current.expand(x.shape[0], *current.shape[1:]), after
        steps = x.shape[0]
        y = self._run_links(range(self.place), x, traffic, after)
        parts = [(self.latency, y)]
        if self.connection is not None:
            parts = [(lag, over_time(lambda z, w=w: self.linear(z, w), y)) for lag, w in self.taps()]
        longest = max(lag for lag, _ in parts)
        if longest:
            # Shift each part by its lag; what passes the end is pending.
            shape = parts[0][1].shape[1:]
            total = sum(
                torch.cat([part.new_zeros(lag, *shape), part, part.new_zeros(longest - lag, *shape)])
                if keep
                else torch.cat([part.new_zeros(min(lag, steps), *shape), part[: max(steps - lag, 0)]])
                for lag, part in parts
            )
            y = cast(Tensor, total)
            for n, due in enumerate(traffic.pending):
                if due is not None and n < len(y):
                    y = y.index_add(0, torch.tensor([n], device=y.device), due[None])
            if keep:
                y, rest = y[:steps], y[steps:]
                after.pending = list(rest)
        else:
            y = parts[0][1]
        y = self._biased(y)
        return self._run_links(range(self.place + 1, len(self.links)), y, traffic, after), after

    def _run_links(self, places: range, x: Tensor, before: Traffic, after: Traffic) -> Tensor:
        for place in places:
            link = self.links[place]
            if isinstance(link, Filter):
                x, after.sums[place] = link.block(x, before.sums.get(place))
            else:
                x = over_time(link, x)
        return x

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.connection is None or self.bias is None else y + self.bias

    # -- step by step -------------------------------------------------------------------------------

    def arriving(self, traffic: Traffic, like: Tensor, now: Tensor | None, taps: list[Tap]) -> tuple[Tensor, Traffic]:
        """The current of this step (B, *post), and the traffic after it.

        Args:
            traffic: before this step.
            like: any tensor (B, ...) of the same dtype and device.
            now: output of the source at this step, (B, *pre); used without lag.
            taps: see `taps`.
        """
        after = Traffic(traffic.pending[1:], dict(traffic.sums))
        due = traffic.pending[0] if traffic.pending else None
        if not self.lagged:
            assert now is not None
            x = self._step_links(range(self.place), now, traffic, after)
            y = x if self.connection is None else self.linear(x, taps[0][1])
        else:
            y = due if due is not None else like.new_zeros(len(like), *self._queued_shape())
        y = self._biased(y)
        return self._step_links(range(self.place + 1, len(self.links)), y, traffic, after), after

    def _queued_shape(self) -> Shape:
        return self.projection.shapes[self.place + 1 if self.connection is not None else self.place]

    def sent(self, traffic: Traffic, spikes: Tensor, taps: list[Tap]) -> Traffic:
        """The traffic after the source's output (B, *pre) of this step has been added; only with lag."""
        after = Traffic(list(traffic.pending), dict(traffic.sums))
        x = self._step_links(range(self.place), spikes, traffic, after)
        parts = [(self.latency, x)]
        if self.connection is not None:
            parts = [(lag, self.linear(x, w)) for lag, w in taps]
        for lag, y in parts:
            after.pending += [None] * (lag - len(after.pending))
            there = after.pending[lag - 1]
            after.pending[lag - 1] = y if there is None else there + y
        return after

    def _step_links(self, places: range, x: Tensor, before: Traffic, after: Traffic) -> Tensor:
        for place in places:
            link = self.links[place]
            if isinstance(link, Filter):
                x, after.sums[place] = link.tick(x, before.sums.get(place))
            else:
                x = link(x)
        return x

    def across(self, pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
        """Currents of gap junctions into post (B, *post) and into pre (B, *pre), from the potentials of both."""
        w, v, u = self.current_weight(), pre.flatten(1), post.flatten(1)
        into_post = v @ w.mT - u * w.sum(1)
        into_pre = u @ w - v * w.sum(0)
        return into_post.view_as(post), into_pre.view_as(pre)

    # -- plasticity -----------------------------------------------------------------------------------

    def outer(self, post: Tensor, pre: Tensor) -> Tensor:
        """Outer products of post (B, *post) and pre (B, *pre), summed over B, in the shape of the weights."""
        assert self.connection is not None
        change = self.connection.outer(post, pre, tuple(self.weight.shape))
        return change.reshape(self.weight.shape)

    def outer_each(self, post: Tensor, pre: Tensor) -> Tensor:
        """The same per sample: (B, *weight)."""
        if cast(Connection, self.connection).matrix:
            return post.flatten(1)[:, :, None] * pre.flatten(1)[:, None]
        return torch.stack([self.outer(y[None], x[None]) for y, x in zip(post, pre, strict=True)])

    def extra_repr(self) -> str:
        """The description."""
        return str(self.projection)
