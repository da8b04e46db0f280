"""Learning rules: changes of weights by spikes, without gradients.

An online rule is applied at every step: `step(state, synapse) -> (state, change)`; the others once after a run, to its
whole record: `finish(record)`. A rule sees one projection. `outer(post, pre)` sums outer products over the batch, or
averages them, or returns one per sample (`batch_rule`), for matrices and for convolutions.

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
"""How a batch changes weights: by the mean or the sum over its samples, or separate weights for each sample."""


class Synapse(NamedTuple):
    """Input of an online rule at one step."""

    weight: Tensor
    """In the shape of the connection; (B, *weight) under "own"."""
    pre: Tensor
    """(B, *inside) spikes of this step."""
    post: Tensor
    """(B, *outside) spikes of this step."""
    reward: Tensor
    """(B,) reward at this step."""
    outer: Callable[[Tensor, Tensor], Tensor]
    """(B, *outside), (B, *inside) -> outer products, combined over the batch by `batch_rule`."""
    each: Callable[[Tensor, Tensor], Tensor]
    """The same, one per sample: (B, *weight)."""
    merge: Callable[[Tensor], Tensor]
    """Changes of the samples (B, *weight) -> one change, by `batch_rule`."""
    dt: float
    compat: bool


class Record(NamedTuple):
    """Input of a rule after a run."""

    weight: Tensor
    pre: Tensor
    """(T, B, *inside)"""
    post: Tensor
    """(T, B, *outside)"""
    error: Tensor
    """(B, *outside), positive where a neuron should fire more; see `BackpropRSTDP`."""
    labels: Tensor
    """(B,)"""
    outer: Callable[[Tensor, Tensor], Tensor]
    dt: float


@dataclass(frozen=True)
class Rule:
    """Base class of learning rules.

    Args:
        batch_rule: how a batch changes weights; required for batches of more than one sample.
        low, high: bounds that weights are clamped to after each change; None: no bound.
    """

    batch_rule: BatchRule = ""
    low: float | None = 0.0
    high: float | None = 1.0
    online: ClassVar[bool] = True
    lagged: ClassVar[bool] = False
    """Whether the official code applies it one step late (`compat`)."""
    rewarded: ClassVar[bool] = False
    """Whether it needs a reward."""

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """Traces after this step, and the change of the weights."""
        raise NotImplementedError

    def finish(self, r: Record) -> Tensor:
        """Change of the weights after a run."""
        raise NotImplementedError

    def settle(self, weight: Tensor) -> Tensor:
        """Weights after a change, clamped to the bounds."""
        return weight if self.low is None and self.high is None else weight.clamp(self.low, self.high)

    def close(self, weight: Tensor) -> Tensor:
        """Weights after the last step of a run; unchanged by default."""
        return weight


def _trace(state: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    return state[name] if name in state else torch.zeros_like(like)


def normalised(weight: Tensor, total: float, own: bool) -> Tensor:
    """Weights rescaled so that sum |w| onto each postsynaptic neuron is `total`; `own`: the first axis is the batch."""
    first = 2 if own else 1
    sums = weight.abs().flatten(first).sum(-1) if weight.ndim > first else weight.abs()
    return weight * (total / sums.clamp(min=1e-12)).view(*sums.shape, *(1,) * (weight.ndim - first))


@dataclass(frozen=True)
class NearestSTDP(Rule):
    """Spike-timing-dependent plasticity by nearest spikes: a trace is set to 1 by a spike and decays.

        x, y <- 1 at a spike, else e^(-dt/tau) x, e^(-dt/tau) y     (traces of pre and post)
        dW = a_post O_post x^T - a_pre y O_pre^T,   rows rescaled to sum |W| = w_norm (if given), then clamped

    Under `compat` spikes are those of the previous step, and the weights get the change computed one step earlier, as
    in the official code.
    """

    a_post: float = 1e-2
    a_pre: float = 1e-4
    tau: float = 20.0
    w_norm: float | None = 78.4
    lagged: ClassVar[bool] = True

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """Traces are updated before the change is computed."""
        d = math.exp(-(1.0 if s.compat else s.dt) / self.tau)  # the official traces decay per step
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
    """STDP by all pairs of spikes: a spike adds 1 to its trace. Rows are rescaled once, at the end of a run."""

    def follow(self, trace: Tensor, spikes: Tensor, d: float) -> Tensor:
        """A spike adds 1."""
        return d * trace + spikes

    def settle(self, weight: Tensor) -> Tensor:
        """Clamped; rows are rescaled by `close`."""
        return Rule.settle(self, weight)

    def close(self, weight: Tensor) -> Tensor:
        """Rows rescaled, then clamped."""
        return NearestSTDP.settle(self, weight)


@dataclass(frozen=True)
class ConvSTDP(NearestSTDP):
    """Nearest-spike STDP of a convolution's kernel, without rescaling."""

    w_norm: float | None = None


@dataclass(frozen=True)
class RSTDP(Rule):
    """Reward-modulated STDP: the reward multiplies the change of the same step.

    P+ <- e^(-dt/tau) P+ + a_plus O_pre,   P- <- e^(-dt/tau) P- + a_minus O_post
    dW = lr reward (O_post P+^T + P- O_pre^T)
    """

    lr: float = 0.1
    a_plus: float = 1.0
    a_minus: float = -1.0
    tau: float = 20.0
    rewarded: ClassVar[bool] = True

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """Each sample's reward multiplies its own spikes."""
        state = self.traces(state, s)
        reward = s.reward.view(-1, *(1,) * (s.post.ndim - 1))
        change = s.outer(reward * s.post, state["plus"]) + s.outer(reward * state["minus"], s.pre)
        return state, self.lr * change

    def traces(self, state: dict[str, Tensor], s: Synapse) -> dict[str, Tensor]:
        """P+ and P- after this step."""
        d = math.exp(-s.dt / self.tau)
        return {
            "plus": d * _trace(state, "plus", s.pre) + self.a_plus * s.pre,
            "minus": d * _trace(state, "minus", s.post) + self.a_minus * s.post,
        }


@dataclass(frozen=True)
class ConvRSTDP(RSTDP):
    """R-STDP of a convolution's kernel."""


@dataclass(frozen=True)
class RSTDPET(RSTDP):
    """R-STDP with an eligibility trace, for delayed rewards.

    E <- e^(-dt/tau_e) E + (dt / tau_e) z,   dW = lr dt reward E,   z as in R-STDP
    """

    tau_e: float = 25.0

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """Each sample has its own eligibility trace."""
        eligible = state.get("eligible")
        traces = self.traces(state, s)
        z = s.each(s.post, traces["plus"]) + s.each(traces["minus"], s.pre)
        old = torch.zeros_like(z) if eligible is None else eligible
        eligible = math.exp(-s.dt / self.tau_e) * old + s.dt / self.tau_e * z
        reward = s.reward.view(-1, *(1,) * (z.ndim - 1))
        return {**traces, "eligible": eligible}, self.lr * s.dt * s.merge(reward * eligible)


@dataclass(frozen=True)
class RateModulation(Rule):
    """Homeostasis: weights onto neurons that fire below the target rate grow, above it they shrink.

    dW = lr (target - rate) |W|, rate: leaky mean of the postsynaptic neuron's spikes per ms. The official code names
    such a rule; the formula is ours.
    """

    lr: float = 1e-3
    target: float = 0.02
    tau: float = 100.0

    def step(self, state: dict[str, Tensor], s: Synapse) -> tuple[dict[str, Tensor], Tensor]:
        """The leaky mean rate is updated before the change is computed."""
        share = s.dt / self.tau
        rate = (1 - share) * _trace(state, "rate", s.post) + share * s.post / s.dt
        gap = s.outer(self.target - rate, torch.ones_like(s.pre))
        return {"rate": rate}, self.lr * gap * s.weight.abs()


@dataclass(frozen=True)
class BackpropRSTDP(Rule):
    """R-STDP with one reward per neuron: the read-out's error, propagated back through the weights.

    After a run, dW = lr outer(error, mean over t of x[t]), x the presynaptic trace. An output's error is
    1[its class is the label] - softmax(spike counts); a hidden neuron's is W^T error of its targets, 0 if it did not
    fire. The official code names such a rule; the formula is ours.
    """

    lr: float = 1e-3
    low: float | None = None
    high: float | None = None
    tau: float = 20.0
    online: ClassVar[bool] = False

    def finish(self, r: Record) -> Tensor:
        """Outer product of the error and the mean presynaptic trace."""
        d = math.exp(-r.dt / self.tau)
        trace, total = torch.zeros_like(r.pre[0]), torch.zeros_like(r.pre[0])
        for spikes in r.pre:
            trace = d * trace + spikes
            total = total + trace
        return self.lr * r.outer(r.error, total / len(r.pre))


@dataclass(frozen=True)
class Tempotron(Rule):
    """The tempotron: a neuron learns to fire for its class and to stay silent otherwise (Guetig and Sompolinsky, 2006).

    K(t) = e^(-t/tau) - e^(-t/tau_s), V(t) = sum w K(t - t_spike), with its peak at t*. The label's output gets
    dW = +lr sum K(t* - t_spike) if V(t*) is below the threshold, every other output the negative if it is not; mean
    over the batch, clamped to [low, high].
    """

    lr: float = 0.01
    threshold: float = 10.0
    tau: float = 20.0
    tau_s: float = 5.0
    high: float | None = 2.0
    batch_rule: BatchRule = "mean"
    online: ClassVar[bool] = False

    def finish(self, r: Record) -> Tensor:
        """Only wrong samples change the weights."""
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
"""The official code's name -> rule."""


def reward_of(kind: str, scores: Tensor, labels: Tensor) -> Tensor:
    """Reward (B,) for scores (B, C) and labels (B,).

    "global": +1 if the highest score is the label's, else -1; "da" (dopamine): 1 or 0; "xor": for labels 0 and 1, +1 if
    the first output fires exactly for label 1, else -1; "classify": the label's score minus the best other.

    Raises:
        KeyError: unknown kind.
    """
    return REWARDS[kind](scores, labels)


def _classify(scores: Tensor, labels: Tensor) -> Tensor:
    own = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others


def _hit(scores: Tensor, labels: Tensor) -> Tensor:
    # Without a spike there is no answer.
    return ((scores.argmax(1) == labels) & (scores.amax(1) > 0)).to(scores.dtype)


REWARDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "global": lambda scores, labels: 2 * _hit(scores, labels) - 1,
    "da": _hit,
    "xor": lambda scores, labels: 2 * ((scores[:, 0] > 0).long() == labels).to(scores.dtype) - 1,
    "classify": _classify,
}
