"""Networks as plain objects: populations, projections, inputs and read-outs.

    with Net(dt=1.0) as net:
        x = Input((784,), encode="poisson")
        h = Group(256, model=LIF(tau=8.0))
        o = Group(10, model="lif")
        x >> Full(init="kaiming") >> h >> Full() >> o      # `>>` builds projections and checks their shapes
        h >> Sparse(0.1, delay=Uniform(1, 5)) >> h         # recurrence; delays in ms
        o.read("spike_counts")
        net.record(h, "v", "spike")
    module = compile_net(net)                              # an nn.Module

A net is a static graph; nothing is global. Names are optional: when the `with` block ends, nodes without a name get
that of the variable that holds them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, cast

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.spaic.describe import encoders
from repertory.papers.spaic.describe.connections import Connection, Electrical, Uniform
from repertory.papers.spaic.describe.decoders import Readout
from repertory.papers.spaic.describe.encoders import Encoder
from repertory.papers.spaic.describe.neurons import Neuron, neuron
from repertory.papers.spaic.describe.rules import REWARDS
from repertory.papers.spaic.describe.synapses import Direct, Op, Shape

_building: ContextVar[Net | None] = ContextVar("net", default=None)


def _shape(size: int | Sequence[int]) -> Shape:
    shape = tuple(size) if isinstance(size, Sequence) else (size,)
    if not shape or not all(isinstance(n, Integral) and n >= 1 for n in shape):
        raise Problem(f"a population cannot have shape {shape}", "size", "give positive integers")
    return shape


class Node:
    """A start of projections: an input, a source or a group.

    Args:
        size: number of neurons, or their shape.
        name: default: the variable that holds the node when its network is complete.

    Raises:
        Problem: outside a `with Net()` block, or a size below 1.
    """

    def __init__(self, size: int | Sequence[int], name: str = "") -> None:
        net = _building.get()
        if net is None:
            raise Problem(f"{type(self).__name__} outside a network", "with Net() as net:", "create it in the block")
        self.shape: Shape = _shape(size)
        self.net: Net = net
        self.named = bool(name)
        self.name = name or f"{type(self).__name__.lower()}{len(net.nodes)}"
        net.nodes.append(self)

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """`node >> op` starts a chain; `node >> group` is a projection of weight 1 to a group of the same shape."""
        return Path([self]) >> link

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.shape})"


class Input(Node):
    """Where data enter the network.

    Args:
        size: shape of one sample.
        encode: a name in `ENCODERS`, or an encoder.
        name: see `Node`.
    """

    def __init__(self, size: int | Sequence[int], encode: str | Encoder = "spikes", name: str = "") -> None:
        self.encoder = encoders.encoder(encode)
        super().__init__(size, name)


class Source(Node):
    """Spikes or currents that need no data.

    Args:
        size: see `Node`.
        generate: a name in `GENERATORS`, or a generator.
        name: see `Node`.
    """

    def __init__(
        self, size: int | Sequence[int], generate: str | encoders.Generator = "poisson", name: str = ""
    ) -> None:
        self.generator = encoders.generator(generate)
        super().__init__(size, name)


class Group(Node):
    """A population of one neuron model.

    Args:
        size: number of neurons, or their shape.
        model: a name in `MODELS`, a model with its parameters, equations (`from_text`) or a function (`custom`).
        labels: tags for `Assembly.select`.
        positions: (N, d) coordinates for connections that depend on distance; default: a grid on the unit cube.
        name: see `Node`.

    Raises:
        Problem: unknown model, positions of another number, or dt too large for the model.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        model: str | Neuron = "lif",
        *,
        labels: Iterable[str] = (),
        positions: Tensor | None = None,
        name: str = "",
    ) -> None:
        self.model = neuron(model)
        self.labels = frozenset(labels)
        super().__init__(size, name)
        self.given_positions = positions
        if positions is not None and len(positions) != self.size:
            raise Problem(f"{len(positions)} positions for {self.size} neurons", self.name, "give (N, d)")
        self.model.check(self.net.dt, self.name)

    def read(self, kind: str, *, pop_size: int = 1, bias: float = 0.0, scale: float = 1.0) -> Readout:
        """Make this population an output of the network.

        Args:
            kind: a name in `DECODERS`.
            pop_size, bias, scale: see `Readout`.

        Raises:
            Problem: unknown kind, a variable that the model lacks, or a size that pop_size does not divide.
        """
        return self._read(Readout(kind, pop_size, bias, scale))

    def act(self, kind: str, *, pop_size: int = 1) -> Readout:
        """Make the action that this population chooses an output of the network; `kind`: a name in `ACTIONS`."""
        return self._read(Readout(kind, pop_size, action=True))

    def _read(self, readout: Readout) -> Readout:
        if self.size % readout.pop_size:
            raise Problem(f"{self.size} neurons in groups of {readout.pop_size}", self.name, "choose a divisor")
        _check_variable(self, readout.decoder.variable)
        self.net.readouts.append((self, readout))
        return readout


def positions(node: Node) -> Tensor:
    """Coordinates (N, d): those given, or the cell centres of a grid on the unit cube."""
    given = node.given_positions if isinstance(node, Group) else None
    if given is not None:
        return torch.as_tensor(given, dtype=torch.get_default_dtype())
    axes = [(torch.arange(n) + 0.5) / n for n in node.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


class Assembly:
    """Several populations that are connected together; `select` chooses members by their labels.

    Example:
        >>> from repertory.papers.spaic import Full
        >>> with Net() as net:
        ...     excitatory, inhibitory = Group(8, labels=["exc"]), Group(2, labels=["inh"])
        ...     area = Assembly(excitatory, inhibitory)
        ...     _ = area.select(include=["exc"]) >> Full() >> area
        >>> len(net.projections)
        2
    """

    def __init__(self, *members: Group) -> None:
        self.members = list(members)

    def select(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Assembly:
        """Members with at least one label of `include` (all members, if empty) and none of `exclude`.

        Raises:
            Problem: no such member.
        """
        include, exclude = set(include), set(exclude)
        chosen = [g for g in self.members if (not include or g.labels & include) and not g.labels & exclude]
        if not chosen:
            raise Problem("no member has such labels", "Assembly.select", "set them by Group(labels=...)")
        return Assembly(*chosen)

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """As `Node.__rshift__`, for every member."""
        return Path(list(self.members)) >> link


class Path:
    """An unfinished chain: sources and operations, without a target."""

    def __init__(self, sources: Sequence[Node], ops: tuple[Op, ...] = ()) -> None:
        self.sources, self.ops = sources, ops

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """`path >> op` extends the chain; `path >> group` creates the projection and returns the group."""
        if isinstance(link, Op):
            return Path(self.sources, (*self.ops, link))
        if not isinstance(link, Group | Assembly):
            raise Problem(f"a projection cannot end in {link!r}", ">>", "end it in a Group")
        for source in self.sources:
            for target in link.members if isinstance(link, Assembly) else [link]:
                target.net.projections.append(Projection(source, self.ops or (Direct(),), target))
        return link


@dataclass(eq=False)
class Projection:
    """All synapses from one node to one group: operations in the order of the chain.

    Raises:
        Problem: shapes that do not match, two connections in one chain, or a delay below dt.
    """

    source: Node
    ops: tuple[Op, ...]
    target: Group
    shapes: list[Shape] = field(default_factory=list)
    """The source's shape, then the output shape of each op."""

    def __post_init__(self) -> None:
        if self.source.net is not self.target.net:
            raise Problem("source and target belong to different networks", str(self), "create both in one `with`")
        self.shapes.append(self.source.shape)
        for op in self.ops:
            self.shapes.append(op.shape(self.shapes[-1], self.target.shape))
        if self.shapes[-1] != self.target.shape:
            raise Problem(
                f"shapes do not match: {self.shapes[-1]} arrives, {self.target.name} is {self.target.shape}",
                str(self), "insert a connection, or change the group's shape",
            )  # fmt: skip
        found = [op for op in self.ops if isinstance(op, Connection)]
        if len(found) > 1:
            raise Problem(f"{len(found)} connections in one chain", str(self), "insert a group between them")
        self.connection: Connection | None = found[0] if found else None
        if self.connection is not None:
            self._check_delay(self.connection)
        if isinstance(self.connection, Electrical):
            ends = [node for node in (self.source, self.target) if not isinstance(node, Group)]
            if ends or len(self.ops) > 1:
                raise Problem(
                    "a gap junction connects two groups, without other operations", str(self),
                    "use group >> Electrical() >> group",
                )  # fmt: skip
            for node in (self.source, self.target):
                _check_variable(cast(Group, node), "v")

    def _check_delay(self, connection: Connection) -> None:
        delay, dt = connection.delay, self.source.net.dt
        if delay is None:
            if connection.train_delay:
                raise Problem("train_delay without a delay", str(self), "set delay, for example Uniform(1, 5)")
            return
        least = delay.low if isinstance(delay, Uniform) else float(torch.as_tensor(delay).min())
        if least < dt:
            raise Problem(f"a delay of {least:g} ms is below dt = {dt:g} ms", str(self), "increase it, or decrease dt")
        if isinstance(delay, Uniform) and delay.high < delay.low:
            raise Problem(f"delays from {delay.low:g} to {delay.high:g} ms", str(self), "give low <= high")
        if not connection.matrix and not isinstance(delay, int | float):
            raise Problem(f"{type(connection).__name__} has one delay for all synapses", str(self), "give a number")
        if isinstance(delay, Tensor):
            wanted = math.prod(self.target.shape), math.prod(self.source.shape)
            if tuple(delay.shape) != wanted:
                raise Problem(f"delays of shape {tuple(delay.shape)}", str(self), f"give (post, pre) = {wanted}")

    def __str__(self) -> str:
        links = " >> ".join(type(op).__name__ for op in self.ops)
        return f"{self.source.name} >> {links} >> {self.target.name}"


class Net:
    """A network's description; nodes are created in its `with` block. `compile_net` makes a module of it.

    Args:
        dt: length of a time step, ms.

    Raises:
        Problem: dt is not positive and finite.
    """

    def __init__(self, dt: float = 1.0) -> None:
        if not (isinstance(dt, Real) and 0 < dt < math.inf):
            raise Problem(f"dt = {dt} ms", "Net(dt=...)", "give a positive number")
        self.dt = dt
        self.nodes: list[Node] = []
        self.projections: list[Projection] = []
        self.readouts: list[tuple[Group, Readout]] = []
        self.records: list[tuple[Node | Connection, tuple[str, ...]]] = []
        self.rewarded: tuple[Group, str] | None = None
        self.sample_shape: Shape = ()
        """Shape of one sample of the data, for functions `build(net)` (see `SpaicStudy`)."""
        self.classes = 0
        """Number of classes of the data, likewise."""
        self._token: Token[Net | None] | None = None

    def __enter__(self) -> Net:
        self._token = _building.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _building.reset(self._token)
            self._token = None  # tokens cannot be copied
        frame = inspect.currentframe()
        variables = frame.f_back.f_locals if frame and frame.f_back else {}
        self._name({name: value for name, value in variables.items() if isinstance(value, Node)})

    def _name(self, names: Mapping[str, Node]) -> None:
        """Give unnamed nodes the names of their variables."""
        taken = {node.name for node in self.nodes if node.named}
        for name, node in names.items():
            if node.net is self and not node.named and name not in taken and not name.startswith("_"):
                node.name, node.named = name, True
                taken.add(name)

    @property
    def groups(self) -> list[Group]:
        """Populations, in order of creation."""
        return [node for node in self.nodes if isinstance(node, Group)]

    @property
    def inputs(self) -> list[Input]:
        """Inputs, in order of creation."""
        return [node for node in self.nodes if isinstance(node, Input)]

    def record(self, what: Node | Connection, *variables: str) -> None:
        """Record variables at every step, in `Compiled.trace`.

        Args:
            what: a node or a connection.
            variables: "spike", "current" or state variables of a node; "weight" of a connection.

        Raises:
            Problem: it has no such variable.
        """
        if isinstance(what, Connection):
            if variables != ("weight",):
                raise Problem(f"a connection has no {', '.join(variables)}", "record", "it has weight")
        else:
            for variable in variables:
                _check_variable(what, variable)
        self.records.append((what, variables))

    def reward(self, group: Group, kind: Literal["global", "da", "xor", "classify"] = "global") -> None:
        """Compute the reward of every step from this population's spike counts so far and the labels, by `reward_of`.

        Raises:
            Problem: unknown kind.
        """
        if kind not in REWARDS:
            raise Problem(f"unknown reward {kind!r}", "reward", f"known: {', '.join(REWARDS)}")
        self.rewarded = group, kind

    def summary(self) -> str:
        """Table of nodes with their shapes, and of projections with their numbers of weights.

        Example:
            >>> from repertory.papers.spaic import Full
            >>> with Net() as net:
            ...     x = Input(4, "poisson")
            ...     o = Group(2, "lif")
            ...     _ = x >> Full() >> o
            >>> print(net.summary())
            dt 1 ms, 2 nodes, 1 projection, 8 weights
            x      (4,)  Poisson
            o      (2,)  lif
            x >> Full >> o      8
        """
        counts = [p.connection and math.prod(_weight_shape(p)) for p in self.projections]
        many = "" if len(counts) == 1 else "s"
        total = sum(count or 0 for count in counts)
        lines = [f"dt {self.dt:g} ms, {len(self.nodes)} nodes, {len(counts)} projection{many}, {total} weights"]
        lines += [f"{node.name:6} {node.shape}  {_kind(node)}" for node in self.nodes]
        lines += [f"{p!s:20} {n or 0}" for p, n in zip(self.projections, counts, strict=True)]
        return "\n".join(lines)


def _check_variable(node: Node, variable: str) -> None:
    known = ("spike", "current", *node.model.start) if isinstance(node, Group) else ("spike",)
    if variable not in known:
        raise Problem(f"{node.name} has no variable {variable!r}", "record, read", f"it has {', '.join(known)}")


def _kind(node: Node) -> str:
    if isinstance(node, Group):
        return node.model.name
    return type(node.encoder if isinstance(node, Input) else cast(Source, node).generator).__name__


def _weight_shape(projection: Projection) -> Shape:
    connection = projection.connection
    assert connection is not None
    place = projection.ops.index(connection)
    return connection.weight_shape(projection.shapes[place], projection.shapes[place + 1])
