"""Step by step: loops, and populations whose synapses change during a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from repertory.papers.spaic.describe.network import Group, Node
from repertory.papers.spaic.describe.neurons import State
from repertory.papers.spaic.run import plasticity
from repertory.papers.spaic.run.call import Call
from repertory.papers.spaic.run.cell import Cell
from repertory.papers.spaic.run.plan import Stage
from repertory.papers.spaic.run.wires import Tap, Traffic, Wire

States = dict[Group, State]
Outputs = dict[Node, Tensor]
Step = Callable[..., tuple[States, dict[Wire, Traffic], Outputs, dict[Group, Tensor]]]


def run(stage: Stage, call: Call, step: Step) -> None:
    """Compute a stage; outputs, traces, states, traffic and learned weights go into `call`.

    Args:
        step: `one_step`, or its compiled form.
    """
    groups, cells, wires = stage.groups, call.cells, stage.wires
    ahead = {group: call.currents(group, stage.ahead[group]) for group in groups}
    states = {group: call.states.get(group) or cells[group].begin(ahead[group][0]) for group in groups}
    traffic = {wire: call.traffic.get(wire) or Traffic() for wire in wires}
    taps = {wire: [] if wire.electrical or wire.connection is None else wire.taps() for wire in wires}
    values = {group: cells[group].values() for group in groups}
    ahead_steps = {group: current.unbind() for group, current in ahead.items()}
    feeds = {wire.source: call.outputs[wire.source].unbind() for wire in wires if wire.source not in stage.ticked}
    kept: dict[tuple[Group, str], list[Tensor]] = {
        (group, name): [] for group in groups for name in {"spike"} | call.wanted(group)
    }

    plastic = [wire for wire in wires if call.training and wire.plastic]
    weights = {wire: plasticity.starting_weight(wire, call.batch) for wire in plastic}
    memory: dict[Wire, plasticity.Memory | None] = dict.fromkeys(plastic)
    recorded = {what for what, _ in call.net.records}
    counts: Tensor | None = None

    for t in range(call.steps):
        for wire in plastic:
            taps[wire] = wire.taps(weights[wire])
        fed = {node: steps[t] for node, steps in feeds.items()}
        now = {group: steps[t] for group, steps in ahead_steps.items()}
        states, traffic, outputs, currents = step(stage, cells, states, traffic, taps, now, fed, values)
        for (group, name), steps in kept.items():
            steps.append(
                outputs[group] if name == "spike" else currents[group] if name == "current" else states[group][name]
            )
        if plastic:
            counts = plasticity.counted(call, counts, outputs)
            reward = plasticity.reward_at(call, t, counts)
            for wire in plastic:
                weights[wire], memory[wire] = plasticity.learn(call, wire, weights[wire], memory[wire], outputs, reward)
                if wire.connection in recorded:
                    call.weights.setdefault(wire, []).append(weights[wire])

    for (group, name), steps in kept.items():
        call.traces[group, name] = torch.stack(steps)
    call.outputs |= {group: call.traces[group, "spike"] for group in groups}
    call.states |= states
    call.traffic |= traffic
    for wire in plastic:
        plasticity.store(call, wire, weights[wire])


def one_step(
    stage: Stage,
    cells: Mapping[Group, Cell],
    states: States,
    traffic: dict[Wire, Traffic],
    taps: dict[Wire, list[Tap]],
    ahead: dict[Group, Tensor],
    fed: Outputs,
    values: dict[Group, Any],
) -> tuple[States, dict[Wire, Traffic], Outputs, dict[Group, Tensor]]:
    """One step of all populations of a stage.

    Args:
        stage: the populations and their projections.
        cells: populations at run time.
        states: before the step.
        traffic: before the step.
        taps: of each projection, `Wire.taps`.
        ahead: currents (B, *shape) from projections computed before.
        fed: outputs (B, *shape) of sources outside the stage.
        values: parameters of each population, `Cell.values`.

    Returns:
        states and traffic after the step; outputs of all sources, and currents of all populations, (B, *shape).
    """
    states, traffic, outputs, currents = dict(states), dict(traffic), dict(fed), {}
    junctions: dict[Group, Tensor] = {}
    for wire in stage.wires:
        if wire.electrical:
            pre, post = cast(Group, wire.source), wire.target
            for group, current in zip((post, pre), wire.across(states[pre]["v"], states[post]["v"]), strict=True):
                junctions[group] = junctions[group] + current if group in junctions else current
    for group in stage.groups:
        current = ahead[group] + junctions[group] if group in junctions else ahead[group]
        for wire in stage.ticked[group]:
            if not wire.electrical:
                arrived, traffic[wire] = wire.arriving(traffic[wire], current, outputs.get(wire.source), taps[wire])
                current = current + arrived
        states[group], outputs[group] = cells[group].step(states[group], current, values[group])
        currents[group] = current
    for wire in stage.wires:
        if wire.lagged and not wire.electrical:
            traffic[wire] = wire.sent(traffic[wire], outputs[wire.source], taps[wire])
    return states, traffic, outputs, currents
