"""Plasticity: weights that rules change at every step, or at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.network import Group, Node
from repertory.papers.spaic.describe.rules import Record, Rule, Synapse, reward_of
from repertory.papers.spaic.run.call import Call
from repertory.papers.spaic.run.wires import Wire


class Memory(NamedTuple):
    """What one projection's rule carries from a step to the next."""

    traces: dict[str, Tensor]
    pre: Tensor
    post: Tensor
    change: Tensor


def check(call: Call) -> None:
    """Refuse a training run whose rules lack what they need.

    Raises:
        Problem: a batch without `batch_rule`, a rule without its reward, or without labels.
    """
    for wire in call.wires:
        rule = wire.rule
        if rule is None or not call.training:
            continue
        name, where = type(rule).__name__, str(wire.projection)
        if call.batch > 1 and not rule.batch_rule:
            raise Problem(
                f"{name} with a batch of {call.batch}", where,
                "choose what a batch changes: batch_rule='mean', 'sum' or 'own'",
            )  # fmt: skip
        rewarded = call.reward is not None or (call.labels is not None and call.net.rewarded is not None)
        if rule.rewarded and not rewarded:
            raise Problem(
                f"{name} without a reward", where, "forward(..., reward=...), or net.reward(group) and labels"
            )
        if not rule.online and call.labels is None:
            raise Problem(f"{name} without labels", where, "forward(..., labels=...)")


# -- at every step ------------------------------------------------------------------------------


def starting_weight(wire: Wire, batch: int) -> Tensor:
    """Weights before the first step; (B, *weight) where each sample has its own."""
    weight = wire.current_weight().detach()
    own = wire.rule is not None and wire.rule.batch_rule == "own"
    return weight.expand(batch, *weight.shape) if own else weight


def counted(call: Call, counts: Tensor | None, outputs: dict[Node, Tensor]) -> Tensor | None:
    """Spikes so far (B, N) of the population that the reward depends on; None: there is none."""
    if call.net.rewarded is None:
        return None
    spikes = outputs[call.net.rewarded[0]].detach().flatten(1)
    return spikes if counts is None else counts + spikes


def reward_at(call: Call, t: int, counts: Tensor | None) -> Tensor:
    """Reward (B,) of step t: the caller's, or that of `Net.reward`; 0 without either."""
    reward = call.reward
    if reward is None and call.net.rewarded is not None and counts is not None and call.labels is not None:
        reward = reward_of(call.net.rewarded[1], counts, call.labels)
    reward = reward(t, counts) if callable(reward) else reward
    found = torch.as_tensor(0.0 if reward is None else reward, dtype=call.like.dtype, device=call.like.device)
    return (found[t] if found.ndim == 2 else found).expand(call.batch)


_MERGES: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda change: change.sum(0), "sum": lambda change: change.sum(0), "mean": lambda change: change.mean(0),
    "own": lambda change: change,
}  # fmt: skip
"""`batch_rule` -> what the changes (B, *weight) of all samples become."""


@torch.no_grad()
def learn(
    call: Call, wire: Wire, weight: Tensor, memory: Memory | None, outputs: dict[Node, Tensor], reward: Tensor
) -> tuple[Tensor, Memory]:
    """Weights of a projection after one step, and its rule's memory."""
    rule = _rule(wire)
    pre, post = outputs[wire.source].detach(), outputs[wire.target].detach()
    lagged = call.compat and rule.lagged
    if not lagged:
        seen = pre, post
    elif memory is not None:
        seen = memory.pre, memory.post
    else:
        seen = torch.zeros_like(pre), torch.zeros_like(post)
    synapse = Synapse(
        weight,
        *seen,
        reward,
        outer=wire.outer_each if rule.batch_rule == "own" else _outer(wire, rule, call.batch),
        each=wire.outer_each,
        merge=_MERGES[rule.batch_rule],
        dt=call.net.dt,
        compat=call.compat,
    )
    traces, change = rule.step({} if memory is None else memory.traces, synapse)
    if not lagged:
        weight = weight + change
    elif memory is not None:
        weight = weight + memory.change
    weight = rule.settle(weight)
    if wire.mask is not None:
        weight = weight * wire.mask
    return weight, Memory(traces, pre, post, change)


@torch.no_grad()
def store(call: Call, wire: Wire, weight: Tensor) -> None:
    """Write the weights after the last step into the module, or into `call.own_weights`."""
    rule = _rule(wire)
    weight = rule.close(weight)
    if rule.batch_rule == "own":
        call.own_weights[str(wire.projection)] = weight
    else:
        wire.weight.copy_(weight)


def _rule(wire: Wire) -> Rule:
    assert wire.rule is not None
    return wire.rule


def _outer(wire: Wire, rule: Rule, batch: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(post, pre) -> outer products summed over the batch, or averaged under "mean"."""
    scale = 1 / batch if rule.batch_rule == "mean" else 1.0
    return lambda post, pre: scale * wire.outer(post, pre)


# -- at the end of a run ------------------------------------------------------------------------


@torch.no_grad()
def finish(call: Call) -> None:
    """Apply the rules that learn from a whole run."""
    for wire in call.wires:
        rule = wire.rule
        if rule is None or rule.online or call.labels is None:
            continue
        pre, post = call.outputs[wire.source].detach(), call.outputs[wire.target].detach()
        error = _error(wire.target, call)
        record = Record(wire.weight, pre, post, error, call.labels, _outer(wire, rule, call.batch), call.net.dt)
        weight = rule.settle(wire.weight + rule.finish(record))
        wire.weight.copy_(weight if wire.mask is None else weight * wire.mask)


def _error(group: Group, call: Call, path: tuple[Group, ...] = ()) -> Tensor:
    """Error (B, *shape) of a population, positive where it should fire more: see `BackpropRSTDP`.

    Args:
        path: populations that ask for this error, outermost first.
    """
    assert call.labels is not None
    spikes = call.outputs[group].detach()
    for g, readout in call.net.readouts:
        if g is group:
            scores = spikes.sum(0).flatten(1).unflatten(1, (-1, readout.pop_size)).mean(-1)
            target = nn.functional.one_hot(call.labels, scores.shape[1]).to(scores)
            return (target - scores.softmax(1)).repeat_interleave(readout.pop_size, 1).view(spikes.shape[1:])
    if group in path:
        names = " -> ".join(g.name for g in (*path[path.index(group) :], group))
        raise Problem(f"errors cannot be propagated around the loop {names}", group.name, "read out one of its groups")
    error = torch.zeros_like(spikes[0])
    for wire in call.wires:
        if wire.source is group and wire.target is not group:
            if wire.connection is None or not wire.connection.matrix:
                raise Problem(
                    "errors cannot be propagated back through it", str(wire.projection), "use a matrix connection"
                )
            onward = _error(wire.target, call, (*path, group)).flatten(1)
            error += (onward @ wire.current_weight()).view_as(error)
    return error * (spikes.sum(0) > 0)
