"""Driven by events: without gradients, a sparse loop of matrix projections touches only synapses of neurons that fired.

A delay is a place further ahead in the array of coming currents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from repertory.papers.spaic.describe.network import Group
from repertory.papers.spaic.run.call import Call
from repertory.papers.spaic.run.plan import Stage
from repertory.papers.spaic.run.wires import Wire

SPARSE = 0.25
"""Largest share of synapses that exist, of projections that are driven by events."""


class Outgoing(NamedTuple):
    """Synapses by presynaptic neuron, padded with weights of 0 to the largest number K that any neuron has."""

    places: Tensor
    """(pre, K): lag * batch * post + index of the postsynaptic neuron."""
    weights: Tensor
    """(pre, K)"""
    post: int
    """Number of postsynaptic neurons."""
    longest: int
    """Largest lag in steps."""


Cache = dict[Wire, tuple[Any, Outgoing]]
"""Synapses of each projection, with the versions of the tensors that they were made from."""


def applies(stage: Stage, call: Call) -> bool:
    """Whether a stage can be driven by events: no gradients, no carried state, and sparse, lagged matrices only."""
    if torch.is_grad_enabled() or call.keep or call.traffic:
        return False
    return bool(stage.wires) and all(
        wire.lagged
        and len(wire.links) == 1
        and wire.connection is not None
        and wire.connection.matrix
        and not wire.electrical
        and not wire.connection.train_delay
        and not (call.training and wire.connection.rule is not None)
        and wire.bias is None
        and float((wire.current_weight() != 0).float().mean()) <= SPARSE
        for wire in stage.wires
    )


def run(stage: Stage, call: Call, cache: Cache) -> None:
    """Compute a stage; outputs, traces and states go into `call`.

    Args:
        cache: synapses of earlier calls, reused while the weights are the same.
    """
    groups, cells = stage.groups, call.cells
    synapses = {wire: _cached(wire, call.batch, cache) for wire in stage.wires}
    longest = max(outgoing.longest for outgoing in synapses.values())
    coming = {}
    for group in groups:
        ahead = call.currents(group, stage.ahead[group])
        coming[group] = torch.cat([ahead, ahead.new_zeros(longest, *ahead.shape[1:])])
    flat = {group: current.view(-1) for group, current in coming.items()}
    steps = {group: current.unbind() for group, current in coming.items()}
    states = {group: cells[group].begin(coming[group][0]) for group in groups}
    values = {group: cells[group].values() for group in groups}
    outputs: dict[Group, list[Tensor]] = {group: [] for group in groups}
    kept: dict[tuple[Group, str], list[Tensor]] = {
        (group, name): [] for group in groups for name in call.wanted_states(group)
    }
    leaving = {group: [wire for wire in stage.wires if wire.source is group] for group in groups}
    for t in range(call.steps):
        for group in groups:
            states[group], output = cells[group].step(states[group], steps[group][t], values[group])
            outputs[group].append(output)
        for (group, name), values_kept in kept.items():
            values_kept.append(states[group][name])
        for group in groups:
            output = outputs[group][t].flatten(1)
            sample, fired = output.nonzero(as_tuple=True)
            if not len(fired):
                continue
            strength = None if group.model.spiking else output[sample, fired, None]
            for wire in leaving[group]:
                outgoing = synapses[wire]
                places, weights = outgoing.places[fired], outgoing.weights[fired]
                if call.batch > 1:
                    places = places + (sample * outgoing.post)[:, None]
                if strength is not None:
                    weights = weights * strength
                ahead = flat[wire.target][t * call.batch * outgoing.post :]
                ahead.index_add_(0, places.view(-1), weights.view(-1))
    for group in groups:
        call.outputs[group], call.states[group] = torch.stack(outputs[group]), states[group]
        call.traces[group, "current"] = coming[group][: call.steps]
    call.traces |= {key: torch.stack(steps) for key, steps in kept.items()}


def _cached(wire: Wire, batch: int, cache: Cache) -> Outgoing:
    parts = (wire.weight, wire.mask, wire.delay)
    key = (batch, *((part.data_ptr(), part._version) for part in parts if part is not None))
    if wire not in cache or cache[wire][0] != key:
        cache[wire] = key, _outgoing(wire, batch)
    return cache[wire][1]


@torch.no_grad()
def _outgoing(wire: Wire, batch: int) -> Outgoing:
    sent = wire.current_weight().mT
    pre, post = sent.shape
    source, target = sent.nonzero(as_tuple=True)  # ordered by source
    lag = torch.full_like(source, wire.latency)
    if wire.delay is not None:
        lag += wire.whole_delay().expand(post, pre).mT[source, target]
    counts = torch.bincount(source, minlength=pre)
    rank = torch.arange(len(source), device=source.device) - (counts.cumsum(0) - counts)[source]
    places, weights = sent.new_zeros(2, pre, max(1, int(counts.max()))).unbind()
    places = places.long()
    places[source, rank], weights[source, rank] = lag * batch * post + target, sent[source, target]
    return Outgoing(places, weights, post, int(lag.max()) if len(lag) else 1)
