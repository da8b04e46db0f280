"""One call of a compiled network: its data, and what has been computed so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from repertory.papers.spaic.describe.network import Group, Net, Node
from repertory.papers.spaic.describe.neurons import State
from repertory.papers.spaic.run.cell import Cell
from repertory.papers.spaic.run.wires import Traffic, Wire


@dataclass(frozen=True)
class Carried:
    """What the next call needs to continue this one."""

    batch: int
    states: dict[Group, State]
    traffic: dict[Wire, Traffic]


@dataclass
class Call:
    """The network, the arguments of the call, and its results by node and by projection."""

    net: Net
    cells: Mapping[Group, Cell]
    wires: Sequence[Wire]
    training: bool
    compat: bool
    steps: int
    batch: int
    like: Tensor
    """A scalar of the dtype and on the device of the computation."""
    labels: Tensor | None = None
    """(B,)"""
    reward: Any = None
    """See `Compiled.forward`."""
    keep: bool = False
    """Whether currents under way after the last step are wanted."""
    outputs: dict[Node, Tensor] = field(default_factory=dict)
    """Node -> (T, B, *shape)."""
    traces: dict[tuple[Node, str], Tensor] = field(default_factory=dict)
    """(node, variable) -> (T, B, *shape)."""
    states: dict[Group, State] = field(default_factory=dict)
    traffic: dict[Wire, Traffic] = field(default_factory=dict)
    weights: dict[Wire, list[Tensor]] = field(default_factory=dict)
    """Weights after each step, of plastic projections that are recorded."""
    own_weights: dict[str, Tensor] = field(default_factory=dict)
    """Projection -> (B, *weight), where each sample has weights of its own."""

    def currents(self, group: Group, wires: Sequence[Wire]) -> Tensor:
        """Sum over `wires` for all steps, (T, B, *shape); their sources have been computed."""
        total: Tensor | None = None
        for wire in wires:
            current, self.traffic[wire] = wire.block(self.outputs[wire.source], self.traffic.get(wire), self.keep)
            total = current if total is None else total + current
        if total is None:
            return self.like.expand(self.steps, self.batch, *group.shape)
        return total

    def wanted(self, group: Group) -> set[str]:
        """Variables of a population that a record or a read-out uses."""
        names = {name for what, names in self.net.records if what is group for name in names}
        return names | {readout.decoder.variable for g, readout in self.net.readouts if g is group}

    def wanted_states(self, group: Group) -> set[str]:
        """`wanted`, state variables alone."""
        return self.wanted(group) - {"spike", "current"}

    def carried(self) -> Carried:
        """States and currents under way, without their graph."""

        def detached(traffic: Traffic) -> Traffic:
            pending = [None if due is None else due.detach() for due in traffic.pending]
            return Traffic(pending, {place: [r.detach() for r in sums] for place, sums in traffic.sums.items()})

        return Carried(
            self.batch,
            {group: {name: value.detach() for name, value in s.items()} for group, s in self.states.items()},
            {wire: detached(traffic) for wire, traffic in self.traffic.items()},
        )
