"""Learning as spikes come: rules that change weights without gradients.

An online rule is asked at every step: `step(state, synapse) -> (state, change)`. A rule at the end of a run sees the
whole record: `finish(...)`. Both speak of one projection; `synapse.outer(post, pre)` is the sum of outer products over
the batch (their mean, or one for each sample, as `batch_rule` says), for matrices and for convolutions.

All time constants are in ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

BatchRule = Literal["", "mean", "sum", "own"]
"""What a batch does to weights: the mean or the sum of the samples' changes, or weights of its own for each sample."""


class Synapse(NamedTuple):
    """What an online rule sees at one step."""

    weight: Tensor
    """As the connection has it; with a first axis B under "own"."""
    pre: Tensor
    """(B, *inside) spikes of this step."""
    post: Tensor
    """(B, *outside) spikes of this step."""
    reward: Tensor
    """(B,) reward at this step."""
    outer: Callable[[Tensor, Tensor], Tensor]
    each: Callable[[Tensor, Tensor], Tensor]
    """As `outer`, but one for each sample: (B, *weight)."""
    merge: Callable[[Tensor], Tensor]
    """(B, *weight) -> the change, as `batch_rule` says."""
    dt: float
    compat: bool


class Record(NamedTuple):
    """What a rule at the end of a run sees."""

    weight: Tensor
    pre: Tensor
    """(T, B, *inside)"""
    post: Tensor
    """(T, B, *outside)"""
    error: Tensor
    """(B, *outside): what the group should do more (positive) or less of; see `Compiled`."""
    labels: Tensor
    """(B,)"""
    outer: Callable[[Tensor, Tensor], Tensor]
    dt: float


@dataclass(frozen=True)
class Rule:
    """What all rules can be told.

    Args:
        batch_rule: needed for batches of more than one sample.
        low, high: weights are clamped to this after each change; None: no bound.
    """

    batch_rule: BatchRule = ""
    low: float | None = 0.0
    high: float | None = 1.0
    online: ClassVar[bool] = True
    lagged: ClassVar[bool] = False
    """Whether the official code applies it a step late (under `compat`)."""
    rewarded: ClassVar[bool] = False
    """Whether it needs a reward."""

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """The traces after this step, and the change of the weights."""
        raise NotImplementedError

    def finish(self, r: Record) -> Tensor:
        """The change of the weights after a run."""
        raise NotImplementedError

    def settle(self, weight: Tensor) -> Tensor:
        """The weights as they may be: clamped."""
        return weight if self.low is None and self.high is None else weight.clamp(self.low, self.high)

    def close(self, weight: Tensor) -> Tensor:
        """The weights after the last step of a run: unchanged, unless a rule says otherwise."""
        return weight


def _trace(state: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    return state[name] if name in state else torch.zeros_like(like)


def normalised(weight: Tensor, total: float, own: bool) -> Tensor:
    """Rescale so that the sum of |w| onto each post neuron is `total`."""
    first = 2 if own else 1
    sums = weight.abs().flatten(first).sum(-1) if weight.ndim > first else weight.abs()
    return weight * (total / sums.clamp(min=1e-12)).view(*sums.shape, *(1,) * (weight.ndim - first))


@dataclass(frozen=True)
class NearestSTDP(Rule):
    """Spike-timing-dependent plasticity by the nearest spikes: a trace is 1 after a spike and fades.

        dW = a_post O_post x^T - a_pre y O_pre^T,   rows rescaled to sum |W| = w_norm (if given), then clamped

    Under `compat` the official order holds: both sides' spikes are those of the step before, and the weights get
    the change that was computed one step earlier.
    """

    a_post: float = 1e-2
    a_pre: float = 1e-4
    tau: float = 20.0
    w_norm: float | None = 78.4
    lagged: ClassVar[bool] = True

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """Traces first, then the change."""
        d = math.exp(-(1.0 if s.compat else s.dt) / self.tau)  # the official traces fade by step
        x, y = self.follow(_trace(state, "x", s.pre), s.pre, d), self.follow(_trace(state, "y", s.post), s.post, d)
        return {"x": x, "y": y}, self.a_post * s.outer(s.post, x) - self.a_pre * s.outer(y, s.pre)

    def follow(self, trace: Tensor, spikes: Tensor, d: float) -> Tensor:
        """A spike sets the trace to 1."""
        return d * trace * (1 - spikes) + spikes

    def settle(self, weight: Tensor) -> Tensor:
        """Rows rescaled, then clamped."""
        if self.w_norm is not None:
            weight = normalised(weight, self.w_norm, self.batch_rule == "own")
        return super().settle(weight)


@dataclass(frozen=True)
class FullSTDP(NearestSTDP):
    """STDP by all pairs of spikes: traces add up. Rows are rescaled once, when the run ends."""

    def follow(self, trace: Tensor, spikes: Tensor, d: float) -> Tensor:
        """A spike adds 1."""
        return d * trace + spikes

    def settle(self, weight: Tensor) -> Tensor:
        """Clamped; see `close` for the rest."""
        return Rule.settle(self, weight)

    def close(self, weight: Tensor) -> Tensor:
        """Rows rescaled at the last step."""
        return NearestSTDP.settle(self, weight)


@dataclass(frozen=True)
class ConvSTDP(NearestSTDP):
    """Nearest STDP of a kernel that all places share; the kernel's sum is not held."""

    w_norm: float | None = None


@dataclass(frozen=True)
class RSTDP(Rule):
    """STDP times reward, without memory of it.

    P+ <- e^(-dt/tau) P+ + a_plus O_pre,   P- <- e^(-dt/tau) P- + a_minus O_post
    dW = lr reward (O_post P+^T + P- O_pre^T)
    """

    lr: float = 0.1
    a_plus: float = 1.0
    a_minus: float = -1.0
    tau: float = 20.0
    rewarded: ClassVar[bool] = True

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """The reward of each sample goes with its own spikes."""
        state = self.traces(state, s)
        reward = s.reward.view(-1, *(1,) * (s.post.ndim - 1))
        change = s.outer(reward * s.post, state["plus"]) + s.outer(reward * state["minus"], s.pre)
        return state, self.lr * change

    def traces(self, state: dict[str, Tensor], s: Synapse) -> dict[str, Tensor]:
        """P+ and P-."""
        d = math.exp(-s.dt / self.tau)
        return {
            "plus": d * _trace(state, "plus", s.pre) + self.a_plus * s.pre,
            "minus": d * _trace(state, "minus", s.post) + self.a_minus * s.post,
        }


@dataclass(frozen=True)
class ConvRSTDP(RSTDP):
    """R-STDP of a kernel that all places share."""


@dataclass(frozen=True)
class RSTDPET(RSTDP):
    """R-STDP with an eligibility trace, so that a reward may come late.

    E <- e^(-dt/tau_e) E + (dt / tau_e) z,   dW = lr dt reward E,   z as in R-STDP
    """

    tau_e: float = 25.0

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """The eligibility is each sample's own."""
        eligible = state.get("eligible")
        traces = self.traces(state, s)
        z = s.each(s.post, traces["plus"]) + s.each(traces["minus"], s.pre)
        old = torch.zeros_like(z) if eligible is None else eligible
        eligible = math.exp(-s.dt / self.tau_e) * old + s.dt / self.tau_e * z
        reward = s.reward.view(-1, *(1,) * (z.ndim - 1))
        return {**traces, "eligible": eligible}, self.lr * s.dt * s.merge(reward * eligible)


@dataclass(frozen=True)
class RateModulation(Rule):
    """Homeostasis: synapses onto neurons that fire below the target grow, those above shrink, in proportion.

    dW = lr (target - rate) |W|, with rate the leaky mean of the post neuron's spikes per ms. The official code names
    such a rule; the formula is ours.
    """

    lr: float = 1e-3
    target: float = 0.02
    tau: float = 100.0

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """By the leaky mean rate."""
        share = s.dt / self.tau
        rate = (1 - share) * _trace(state, "rate", s.post) + share * s.post / s.dt
        gap = s.outer(self.target - rate, torch.ones_like(s.pre))
        return {"rate": rate}, self.lr * gap * s.weight.abs()


@dataclass(frozen=True)
class BackpropRSTDP(Rule):
    """R-STDP whose reward is each neuron's own: the read-out's errors, carried back through the weights.

    At the end of a run, dW = lr sum over t of outer(error, P+[t]) where the post neuron fired near: an output's error
    is (its class is the label) - softmax of the counts; a hidden neuron's is W^T error of those it feeds, 0 if it
    stayed silent. The official code names such a rule; the formula is ours.
    """

    lr: float = 1e-3
    low: float | None = None
    high: float | None = None
    tau: float = 20.0
    online: ClassVar[bool] = False

    def finish(self, r: Record) -> Tensor:
        """The error times how much the presynaptic trace was there."""
        d = math.exp(-r.dt / self.tau)
        trace, total = torch.zeros_like(r.pre[0]), torch.zeros_like(r.pre[0])
        for spikes in r.pre:
            trace = d * trace + spikes
            total = total + trace
        return self.lr * r.outer(r.error, total / len(r.pre))


@dataclass(frozen=True)
class Tempotron(Rule):
    """A neuron fires for its class or keeps silent, by its peak alone (Guetig and Sompolinsky, 2006).

    With K(t) = e^(-t/tau) - e^(-t/tau_s), V_o(t) = sum w K(t - t_spike) and the peak at t*: an output of the label with
    V(t*) below the threshold gets dW = +lr sum K(t* - t_spike), one of another class above it the negative; mean over
    the batch, clamped to [low, high].
    """

    lr: float = 0.01
    threshold: float = 10.0
    tau: float = 20.0
    tau_s: float = 5.0
    high: float | None = 2.0
    batch_rule: BatchRule = "mean"
    online: ClassVar[bool] = False

    def finish(self, r: Record) -> Tensor:
        """One change a sample that was wrong."""
        slow, fast = (math.exp(-r.dt / t) for t in (self.tau, self.tau_s))
        a = b = torch.zeros_like(r.pre[0].flatten(1))
        kernels = []
        for spikes in r.pre.flatten(2):
            a, b = slow * a + spikes, fast * b + spikes
            kernels.append(a - b)
        psp = torch.stack(kernels)  # (T, B, pre)
        peak, when = (psp @ r.weight.mT).max(0)  # (B, post)
        target = torch.nn.functional.one_hot(r.labels, peak.shape[1]).bool()
        sign = (target & (peak < self.threshold)).to(psp) - (~target & (peak >= self.threshold)).to(psp)
        at_peak = psp[when, torch.arange(len(when), device=when.device)[:, None]]  # (B, post, pre)
        return self.lr * (sign[..., None] * at_peak).mean(0)


RULES: dict[str, Callable[..., Rule]] = {
    "nearest_online_stdp": NearestSTDP,
    "full_online_stdp": FullSTDP,
    "conv_stdp": ConvSTDP,
    "rstdp": RSTDP,
    "rstdpet": RSTDPET,
    "conv_rstdp": ConvRSTDP,
    "rate_modulation": RateModulation,
    "backprop_rstdp": BackpropRSTDP,
    "tempotron": Tempotron,
}
"""Names of the official code -> rules."""


def reward_of(kind: str, scores: Tensor, labels: Tensor) -> Tensor:
    """Reward (B,) by whether the highest of the scores (B, C) is the label's.

    "global": +1 or -1; "da" (dopamine): 1 or 0; "xor": labels 0 and 1 of an XOR, +1 or -1 by whether the first output's
    firing agrees; "classify": the score of the label less the best other one.

    Raises:
        KeyError: unknown kind.
    """
    return REWARDS[kind](scores, labels)


def _classify(scores: Tensor, labels: Tensor) -> Tensor:
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others


def _hit(scores: Tensor, labels: Tensor) -> Tensor:
    # Nothing fired, nothing said.
    return ((scores.argmax(1) == labels) & (scores.amax(1) > 0)).to(scores.dtype)


REWARDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "global": lambda scores, labels: 2 * _hit(scores, labels) - 1,
    "da": _hit,
    "xor": lambda scores, labels: 2 * ((scores[:, 0] > 0).long() == labels).to(scores.dtype) - 1,
    "classify": _classify,
}
