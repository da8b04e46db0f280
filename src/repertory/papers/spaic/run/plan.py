"""Planning: which populations are computed for all time steps at once, and which step by step.

1. The strongly connected components of the graph are found, in topological order.
2. A population outside every loop is computed "layerwise": each projection onto it is one product over all (T B) rows;
   only the element-wise update of its neurons is a loop over time.
3. A loop, and a population whose synapses change during a run, are computed "step" by step; currents from outside the
   loop are still computed for all steps at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from repertory.core.problem import Problem
from repertory.papers.spaic.describe.network import Group, Net
from repertory.papers.spaic.run.wires import Wire

Mode = Literal["auto", "layerwise", "step"]


@dataclass(frozen=True)
class Stage:
    """Populations that are computed together."""

    groups: list[Group]
    """Ordered so that a projection without lag is computed after its source."""
    stepwise: bool
    ticked: dict[Group, list[Wire]]
    """Projections onto each population that need its loop over time: they start in this stage, or they are plastic."""
    ahead: dict[Group, list[Wire]]
    """The others: computed for all steps before the stage starts."""

    @property
    def wires(self) -> list[Wire]:
        """All of `ticked`, in the order of the groups."""
        return [wire for group in self.groups for wire in self.ticked[group]]


def plan(net: Net, wires: Sequence[Wire], mode: Mode, training: bool) -> list[Stage]:
    """Stages in the order of computation.

    Args:
        net: the description.
        wires: its projections at run time, in its order.
        mode: see `compile_net`.
        training: whether plastic weights change.

    Raises:
        Problem: a loop without latency and delay, or `layerwise` for a population that needs steps.
    """
    groups, index = net.groups, {group: n for n, group in enumerate(net.groups)}
    graph = _graph(index, wires)
    order = [groups[n] for n in _topological(net, _graph(index, (w for w in wires if not (w.lagged or w.electrical))))]
    plastic = {wire for wire in wires if training and wire.plastic}
    if mode == "step" or (plastic and net.rewarded is not None):
        return [_stage(order, True, wires, plastic)]
    place = {index[group]: n for n, group in enumerate(order)}
    condensed = nx.condensation(graph)
    stages = []
    for component in nx.lexicographical_topological_sort(condensed):
        numbers = sorted(condensed.nodes[component]["members"], key=place.__getitem__)
        members = [groups[n] for n in numbers]
        loop = len(members) > 1 or graph.has_edge(numbers[0], numbers[0])
        stepwise = loop or any(wire.target in members for wire in plastic)
        if stepwise and mode == "layerwise":
            names, reason = ", ".join(g.name for g in members), "a loop" if loop else "weights that change in a run"
            raise Problem(
                f"{names}: {reason} cannot be computed layer by layer", "compile_net(mode=...)", "use auto or step"
            )
        stages.append(_stage(members, stepwise, wires, plastic))
    return stages


def _graph(index: dict[Group, int], wires: Iterable[Wire]) -> nx.DiGraph:
    """Populations by number; gap junctions point both ways."""
    graph = nx.DiGraph()
    graph.add_nodes_from(index.values())
    for wire in wires:
        if isinstance(wire.source, Group):
            graph.add_edge(index[wire.source], index[wire.target])
            if wire.electrical:
                graph.add_edge(index[wire.target], index[wire.source])
    return graph


def _topological(net: Net, direct: nx.DiGraph) -> list[int]:
    try:
        return list(nx.lexicographical_topological_sort(direct))
    except nx.NetworkXUnfeasible:
        loop = [edge[0] for edge in nx.find_cycle(direct)]
        names = " -> ".join(net.groups[n].name for n in [*loop, loop[0]])
        raise Problem(
            f"cycle {names} needs latency 1 or a delay", "compile_net(latency=0)", "set latency=1, or give delay=..."
        ) from None


def _stage(groups: list[Group], stepwise: bool, wires: Sequence[Wire], plastic: set[Wire]) -> Stage:
    ticked: dict[Group, list[Wire]] = {group: [] for group in groups}
    ahead: dict[Group, list[Wire]] = {group: [] for group in groups}
    for wire in wires:
        if wire.target in ticked:
            needs_steps = wire in plastic or wire.source in ticked
            (ticked if needs_steps else ahead)[wire.target].append(wire)
    return Stage(groups, stepwise, ticked, ahead)
