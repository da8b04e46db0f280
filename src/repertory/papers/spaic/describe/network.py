"""The front end: populations, projections, inputs and read-outs, described as plain objects.

    with Net(dt=1.0) as net:
        x = Input((784,), encode="poisson")
        h = Group(256, model=LIF(tau=8.0))
        o = Group(10, model="lif")
        x >> Full(init="kaiming") >> h >> Full() >> o      # `>>` builds projections and checks their shapes
        h >> Sparse(0.1, delay=Uniform(1, 5)) >> h         # recurrence; delays in ms
        o.read("spike_counts")
        net.record(h, "v", "spike")
    module = net.compile()                                 # an nn.Module

A net is a static graph; nothing is global, and no name need be given: on leaving the `with`, nodes are called as the
variables that hold them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.nn.spiking import Atan, Surrogate
from repertory.papers.spaic.describe import connections, encoders, rules, synapses
from repertory.papers.spaic.describe.connections import Connection, Electrical, Uniform
from repertory.papers.spaic.describe.decoders import Readout
from repertory.papers.spaic.describe.encoders import Encoder
from repertory.papers.spaic.describe.equations import from_text
from repertory.papers.spaic.describe.neurons import MODELS, SILENT, Neuron, neuron
from repertory.papers.spaic.describe.synapses import Direct, Op, Shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repertory.papers.spaic.run.compiled import Compiled

_building: ContextVar[Net | None] = ContextVar("net", default=None)


def _shape(size: int | Sequence[int]) -> Shape:
    shape = (size,) if isinstance(size, int) else tuple(size)
    if not shape or min(shape) < 1:
        raise Problem(f"no population of shape {shape}", "size", "give whole numbers above 0")
    return shape


class Node:
    """What spikes come from: an input, a source or a group."""

    def __init__(self, size: int | Sequence[int], name: str = "") -> None:
        net = _building.get()
        if net is None:
            raise Problem(f"{type(self).__name__} outside a network", "with Net() as net:", "make it inside the block")
        self.shape: Shape = _shape(size)
        self.net: Net = net
        self.named = bool(name)
        self.name = name or f"{type(self).__name__.lower()}{len(net.nodes)}"
        net.nodes.append(self)

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """`node >> op` begins a chain; `node >> group` passes spikes on as they are."""
        return Path([self]) >> link

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.shape})"


class Input(Node):
    """Where data enter.

    Args:
        size: shape of one sample.
        encode: a name in `ENCODERS`, or an encoder.
    """

    def __init__(self, size: int | Sequence[int], encode: str | Encoder = "spikes", name: str = "") -> None:
        self.encoder = encoders.encoder(encode)
        super().__init__(size, name)


class Source(Node):
    """What needs no data: noise, a constant, a sine, a ramp (a name in `GENERATORS`, or a generator)."""

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
        labels: words by which an `Assembly` chooses its members.
        positions: (N, d) coordinates for connections that depend on distance; default: a grid on the unit cube.
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
        """Make this population an output of the network: a name in `DECODERS`."""
        return self._read(Readout(kind, pop_size, bias, scale))

    def act(self, kind: str, *, pop_size: int = 1) -> Readout:
        """Choose an action by this population: a name in `ACTIONS`."""
        return self._read(Readout(kind, pop_size, action=True))

    def _read(self, readout: Readout) -> Readout:
        if self.size % readout.pop_size:
            raise Problem(f"{self.size} neurons in groups of {readout.pop_size}", self.name, "choose a divisor")
        _has(self, readout.decoder.variable)
        self.net.readouts.append((self, readout))
        return readout


def positions(node: Node) -> Tensor:
    """(N, d) coordinates: those given, or cell centres of a grid on the unit cube."""
    given = node.given_positions if isinstance(node, Group) else None
    if given is not None:
        return torch.as_tensor(given, dtype=torch.get_default_dtype())
    axes = [(torch.arange(n) + 0.5) / n for n in node.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


class Assembly:
    """Several populations that are connected as one; `select` chooses members by their labels.

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
        """Members with one of the labels `include` (all, if empty) and none of `exclude`."""
        include, exclude = set(include), set(exclude)
        chosen = [g for g in self.members if (not include or g.labels & include) and not g.labels & exclude]
        if not chosen:
            raise Problem("no member has such labels", "Assembly.select", "labels are given to Group(labels=...)")
        return Assembly(*chosen)

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """As of a node, from every member."""
        return Path(list(self.members)) >> link


class Path:
    """A chain that has not reached its group yet."""

    def __init__(self, sources: Sequence[Node], ops: tuple[Op, ...] = ()) -> None:
        self.sources, self.ops = sources, ops

    def __rshift__(self, link: Op | Group | Assembly) -> Any:
        """Add a link, or arrive: `path >> group` makes the projection and gives the group."""
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
    """All synapses from one node to one group, in the order of the chain.

    Raises:
        Problem: shapes do not meet (both are named), two connections in one chain, or a delay below dt.
    """

    source: Node
    ops: tuple[Op, ...]
    target: Group
    shapes: list[Shape] = field(default_factory=list)
    """What comes out of each op; the first is the source's."""

    def __post_init__(self) -> None:
        if self.source.net is not self.target.net:
            raise Problem("source and target are of two networks", str(self), "make both in one `with`")
        self.shapes.append(self.source.shape)
        for op in self.ops:
            self.shapes.append(op.shape(self.shapes[-1], self.target.shape))
        if self.shapes[-1] != self.target.shape:
            raise Problem(
                f"shapes do not meet: {self.shapes[-1]} arrives, {self.target.name} is {self.target.shape}",
                str(self), "put a connection in between, or make the group of that shape",
            )  # fmt: skip
        found = [op for op in self.ops if isinstance(op, Connection)]
        if len(found) > 1:
            raise Problem(f"{len(found)} connections in one chain", str(self), "put a group between them")
        self.connection: Connection | None = found[0] if found else None
        if self.connection is not None:
            self._check_delay(self.connection)
        if isinstance(self.connection, Electrical):
            ends = [node for node in (self.source, self.target) if not isinstance(node, Group)]
            if ends or len(self.ops) > 1:
                raise Problem("a gap junction joins two groups, alone", str(self), "give it a projection of its own")
            for node in (self.source, self.target):
                _has(cast(Group, node), "v")

    def _check_delay(self, connection: Connection) -> None:
        delay, dt = connection.delay, self.source.net.dt
        if delay is None:
            if connection.train_delay:
                raise Problem("no delays to train", str(self), "give delay=Uniform(1, 5), say")
            return
        least = delay.low if isinstance(delay, Uniform) else float(torch.as_tensor(delay).min())
        if least < dt:
            raise Problem(
                f"a delay of {least:g} ms is below dt = {dt:g} ms", str(self), "make it longer, or dt smaller"
            )
        if isinstance(delay, Uniform) and delay.high < delay.low:
            raise Problem(f"delays from {delay.low:g} to {delay.high:g} ms", str(self), "give the smaller one first")
        if not connection.matrix and not isinstance(delay, int | float):
            raise Problem(f"{type(connection).__name__} has one delay for all", str(self), "give a number")
        if isinstance(delay, Tensor):
            wanted = math.prod(self.target.shape), math.prod(self.source.shape)
            if tuple(delay.shape) != wanted:
                raise Problem(f"delays of shape {tuple(delay.shape)}", str(self), f"give (post, pre) = {wanted}")

    def __str__(self) -> str:
        links = " >> ".join(type(op).__name__ for op in self.ops)
        return f"{self.source.name} >> {links} >> {self.target.name}"


class Net:
    """A network's description. `compile` makes a module of it.

    Args:
        dt: length of a step in ms.
    """

    def __init__(self, dt: float = 1.0) -> None:
        if dt <= 0:
            raise Problem(f"dt = {dt:g} ms", "Net(dt=...)", "give a step above 0")
        self.dt = dt
        self.nodes: list[Node] = []
        self.projections: list[Projection] = []
        self.readouts: list[tuple[Group, Readout]] = []
        self.records: list[tuple[Node | Connection, tuple[str, ...]]] = []
        self.rewarded: tuple[Group, str] | None = None
        self.sample_shape: Shape = ()
        """Shape of one sample, and number of classes, where a study asks for a network: see `build(net)` there."""
        self.classes = 0
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
        self.call({name: value for name, value in variables.items() if isinstance(value, Node)})

    def call(self, names: Mapping[str, Node]) -> None:
        """Name nodes that were given no name."""
        taken = {node.name for node in self.nodes if node.named}
        for name, node in names.items():
            if node.net is self and not node.named and name not in taken and not name.startswith("_"):
                node.name, node.named = name, True
                taken.add(name)

    @property
    def groups(self) -> list[Group]:
        """Populations, in the order they were made."""
        return [node for node in self.nodes if isinstance(node, Group)]

    @property
    def inputs(self) -> list[Input]:
        """Where data enter, in the order they were made."""
        return [node for node in self.nodes if isinstance(node, Input)]

    @property
    def connections(self) -> list[Connection]:
        """Those of the projections that have one."""
        return [p.connection for p in self.projections if p.connection is not None]

    def record(self, what: Node | Connection, *variables: str) -> None:
        """Keep variables of a node at every step: "spike", "current", any state variable; "weight" of a connection.

        Raises:
            Problem: it has no such variable.
        """
        if isinstance(what, Connection):
            if variables != ("weight",):
                raise Problem(f"a connection has no {', '.join(variables)}", "record", "it has weight")
        else:
            for variable in variables:
                _has(what, variable)
        self.records.append((what, variables))

    def reward(self, group: Group, kind: Literal["global", "da", "xor", "classify"] = "global") -> None:
        """Let this population's spikes so far and the labels say the reward of every step (see `reward_of`)."""
        if kind not in rules.REWARDS:
            raise Problem(f"no reward {kind!r}", "reward", f"known: {', '.join(rules.REWARDS)}")
        self.rewarded = group, kind

    def compile(
        self,
        mode: Literal["auto", "layerwise", "step"] = "auto",
        surrogate: Surrogate = Atan(),  # noqa: B008  frozen
        latency: Literal[0, 1] = 0,
        *,
        compat: Literal["", "spaic"] = "",
        jit: bool = False,
        generator: torch.Generator | None = None,
    ) -> Compiled:
        """Make an nn.Module that runs the network.

        Args:
            mode: "layerwise" computes all steps of a population at once, "step" all populations step by step; "auto"
                takes steps only for loops and for weights that change while it runs.
            surrogate: the derivative of a spike.
            latency: steps that every projection takes besides its delay: 0, as deep learning has it, or 1, as SPAIC.
            compat: "spaic" asks for the official numbers where those deviate (izh, hh, the lags of STDP).
            jit: let torch.compile translate the step.
            generator: where weights and delays are drawn from; default: torch's global one.

        Raises:
            Problem: no read-out and no record, or a loop without latency and delay.
        """
        from repertory.papers.spaic.run.compiled import Compiled

        return Compiled(self, mode, surrogate, latency, compat=compat, jit=jit, generator=generator)

    # -- looking ----------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table of nodes and projections with shapes and numbers of weights.

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

    def plot(self) -> Figure:
        """The graph of populations and projections."""
        from repertory.papers.spaic.pictures import graph_picture

        return graph_picture(self)

    # -- in and out -------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """All but the weights, as JSON values; `Net.of` makes the network again.

        Raises:
            Problem: a model that is a Python function: text can be stored, functions cannot.
        """
        return {
            "dt": self.dt,
            "nodes": [_node_out(node) for node in self.nodes],
            "projections": [
                {"source": p.source.name, "ops": [_out(op) for op in p.ops], "target": p.target.name}
                for p in self.projections
            ],
            "readouts": [{"group": group.name, **dataclasses.asdict(readout)} for group, readout in self.readouts],
            "records": [
                {"node": what.name, "variables": list(names)} for what, names in self.records if isinstance(what, Node)
            ],
            "reward": None if self.rewarded is None else [self.rewarded[0].name, self.rewarded[1]],
        }

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Net:
        """The network that `describe` told.

        Raises:
            Problem: no such description.
        """
        try:
            with cls(description["dt"]) as net:
                nodes = {words["name"]: _node_in(words) for words in description["nodes"]}
                for words in description["projections"]:
                    ops = tuple(_op_in(op) for op in words["ops"])
                    net.projections.append(Projection(nodes[words["source"]], ops, cast(Group, nodes[words["target"]])))
                for words in description["readouts"]:
                    words = dict(words)
                    net.readouts.append((cast(Group, nodes[words.pop("group")]), Readout(**words)))
                for words in description["records"]:
                    net.record(nodes[words["node"]], *words["variables"])
                if description.get("reward"):
                    name, kind = description["reward"]
                    net.reward(cast(Group, nodes[name]), kind)
        except (KeyError, TypeError, AttributeError) as error:
            raise Problem(
                f"not the description of a network: {error!r}", "description", "give Net.describe()'s"
            ) from error
        return net


def _has(node: Node, variable: str) -> None:
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


def silent(group: Group) -> bool:
    """Whether its output is a potential or a rate, not spikes."""
    return group.model.name in SILENT


# -- JSON ---------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": value.tolist()}
    if dataclasses.is_dataclass(value):
        return _out(value)
    return list(value) if isinstance(value, tuple) else value


def _thing(value: Any) -> Any:
    if isinstance(value, dict) and "tensor" in value:
        return torch.tensor(value["tensor"])
    if isinstance(value, dict):
        return _op_in(value)
    return tuple(value) if isinstance(value, list) else value


def _out(thing: Any) -> dict[str, Any]:
    """A dataclass as its class's name and its fields, but for given weights: those are state."""
    fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.name != "weight"}
    words = {"type": type(thing).__name__, **{name: _plain(value) for name, value in fields.items()}}
    return {**words, "bias": thing.bias is not False} if "bias" in words and isinstance(thing, Connection) else words


def _op_in(words: Mapping[str, Any]) -> Any:
    fields = {name: _thing(value) for name, value in words.items() if name != "type"}
    return _KINDS[words["type"]](**fields)


_KINDS: dict[str, type[Any]] = {
    name: kind
    for module in (synapses, connections, rules, encoders)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
}
"""What a description may name, and nothing else."""


def _node_out(node: Node) -> dict[str, Any]:
    words: dict[str, Any] = {"kind": type(node).__name__, "name": node.name, "shape": list(node.shape)}
    if isinstance(node, Input):
        return {**words, "encoder": _out(node.encoder)}
    if isinstance(node, Source):
        return {**words, "generator": _out(node.generator)}
    assert isinstance(node, Group)
    model = node.model
    if model.name not in MODELS and model.text is None:
        raise Problem(
            f"the model of {node.name} is a Python function, which a description cannot hold",
            node.name, "write it as equations: from_text(...)",
        )  # fmt: skip
    return {
        **words,
        "labels": sorted(node.labels),
        "positions": None if node.given_positions is None else positions(node).tolist(),
        "model": {
            "name": model.name,
            "text": None if model.text is None else dict(model.text),
            "params": {name: _plain(value) for name, value in model.params.items()},
            "start": dict(model.start),
            "trained": list(model.trained),
        },
    }


def _node_in(words: Mapping[str, Any]) -> Node:
    name, shape = words["name"], words["shape"]
    if words["kind"] == "Input":
        return Input(shape, _op_in(words["encoder"]), name)
    if words["kind"] == "Source":
        return Source(shape, _op_in(words["generator"]), name)
    told = words["model"]
    model = neuron(told["name"]) if told["text"] is None else from_text(**told["text"])
    model = dataclasses.replace(
        model,
        params={name: _thing(value) for name, value in told["params"].items()},
        start=told["start"],
        trained=tuple(told["trained"]),
    )
    places = None if words["positions"] is None else torch.tensor(words["positions"])
    return Group(shape, model, labels=words["labels"], positions=places, name=name)
