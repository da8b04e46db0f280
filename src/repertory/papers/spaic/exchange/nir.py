"""Networks to and from NIR, the intermediate representation of simulators and neuromorphic chips.

NIR's LIF is tau dv/dt = (v_leak - v) + R I. For constant input, its solution after a step dt is v a + (1 - a) R I with
a = exp(-dt / tau); our model adds I itself, hence R = 1 / (1 - a) and v_leak = 0. Other neurons are converted alike.
Time constants and dt are in ms; dt is in the graph's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from repertory.core.problem import Problem, require
from repertory.papers.spaic.describe.connections import Connection, Conv, ConvTranspose, Full, OneToOne
from repertory.papers.spaic.describe.network import Group, Input, Net, Node, Projection
from repertory.papers.spaic.describe.neurons import MODELS, Neuron
from repertory.papers.spaic.describe.synapses import AvgPool, Direct, Flatten, Op, Scale, SumPool
from repertory.papers.spaic.run.cell import Cell
from repertory.papers.spaic.run.compiled import Compiled, compile_net
from repertory.papers.spaic.run.wires import Wire

Array = NDArray[Any]


# -- export -----------------------------------------------------------------------------------------


def to_nir(network: Compiled | Net, path: str | Path | None = None) -> Any:
    """A network as a NIR graph.

    Args:
        network: compiled, with its weights; or a description, which is compiled with random weights.
        path: a `.nir` file (HDF5) to write.

    Returns:
        A `nir.NIRGraph` with dt in its metadata.

    Raises:
        Problem: a population or projection that NIR has no node for; names it.
    """
    nir = require("nir", extra="spiking")
    module = compile_net(network) if isinstance(network, Net) else network
    net, cells = module.net, module.cells()
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    for node in net.nodes:
        if isinstance(node, Input):
            nodes[node.name] = nir.Input(input_type={"input": np.array(node.shape)})
        elif isinstance(node, Group):
            nodes[node.name] = _export_neuron(cells[node])
        else:
            raise Problem("NIR has no node for a generator", node.name, "use an Input, and give it the spikes")
    for k, wire in enumerate(module.wires()):
        before = wire.projection.source.name
        for n, node in enumerate(_export_chain(wire)):
            name = f"{wire.projection.source.name}_{wire.projection.target.name}_{k}_{n}"
            nodes[name] = node
            edges.append((before, name))
            before = name
        edges.append((before, wire.projection.target.name))
    for n, (group, _) in enumerate(net.readouts):
        name = "output" if n == 0 else f"output{n}"
        nodes[name] = nir.Output(output_type={"output": np.array(group.shape)})
        edges.append((group.name, name))
    graph = nir.NIRGraph(nodes, edges, metadata={"dt": net.dt})
    if path is not None:
        nir.write(str(path), graph)
    return graph


def _export_neuron(cell: Cell) -> Any:
    nir = require("nir", extra="spiking")
    p, dt, shape = cell.values(), cell.dt, cell.group.shape

    def full(value: Any) -> Array:
        return np.broadcast_to(np.asarray(torch.as_tensor(value).detach(), np.float64), shape).copy()

    def retained(tau: Any) -> Array:
        return np.exp(-dt / full(tau))

    match cell.model.name:
        case "lif":
            return nir.LIF(full(p.tau_m), 1 / (1 - retained(p.tau_m)), full(0.0), full(p.v_th), full(p.v_reset))
        case "if" if not np.any(full(p.d)):
            return nir.IF(full(1 / dt), full(p.v_th), full(p.v_reset))
        case "li":
            return nir.LI(full(p.tau_m), 1 / (1 - retained(p.tau_m)), full(0.0))
        case "cubalif":
            gain = full(p.gain) / (1 - retained(p.tau_m))
            w_in = 1 / (1 - retained(p.tau_s))
            return nir.CubaLIF(
                full(p.tau_s), full(p.tau_m), gain, full(0.0), full(p.v_th), full(p.v_reset), w_in
            )  # fmt: skip
        case "threshold":
            return nir.Threshold(full(p.v_th))
    raise Problem(
        f"NIR has no node for the model {cell.model.name!r}",
        cell.group.name,
        "it has lif, if, li, cubalif and threshold",
    )


def _export_chain(wire: Wire) -> list[Any]:
    nir = require("nir", extra="spiking")
    nodes: list[Any] = []
    for op, inside in zip(wire.projection.ops, wire.projection.shapes, strict=False):
        if isinstance(op, Connection):
            nodes += _export_connection(wire, op, inside)
        elif isinstance(op, AvgPool | SumPool):
            kind = nir.AvgPool2d if isinstance(op, AvgPool) else nir.SumPool2d
            stride = op.kernel if op.stride is None else op.stride
            nodes.append(kind(np.array([op.kernel] * 2), np.array([stride] * 2), np.array([op.padding] * 2)))
        elif isinstance(op, Flatten):
            nodes.append(nir.Flatten({"input": np.array(inside)}, 0, -1))
        elif isinstance(op, Scale):
            nodes.append(nir.Scale(np.full(inside, op.factor)))
        elif not isinstance(op, Direct):
            raise Problem(f"NIR has no node for {type(op).__name__}", str(wire.projection), "remove it")
    return nodes


def _export_connection(wire: Wire, op: Connection, inside: tuple[int, ...]) -> list[Any]:
    nir = require("nir", extra="spiking")
    nodes: list[Any] = []
    if wire.delay is not None:
        delays = wire.delay.detach().unique()
        if len(delays) > 1 or op.train_delay:
            raise Problem("NIR delays neurons, not synapses", str(wire.projection), "give all synapses one fixed delay")
        nodes.append(nir.Delay(np.full(inside, float(delays))))
    weight = wire.current_weight().detach().cpu().numpy()
    bias = None if wire.bias is None else wire.bias.detach().cpu().flatten().numpy()
    if isinstance(op, Conv) and not isinstance(op, ConvTranspose):
        zeros = np.zeros(len(weight), weight.dtype)
        bias = zeros if bias is None else bias
        return [*nodes, nir.Conv2d(inside[1:], weight, op.stride, op.padding, op.dilation, op.groups, bias)]
    if isinstance(op, OneToOne) and bias is None:
        return [*nodes, nir.Scale(weight.reshape(inside))]
    if not op.matrix:
        raise Problem(f"NIR has no node for {type(op).__name__}", str(wire.projection), "use Full, Conv or OneToOne")
    if len(inside) > 1:
        nodes.append(nir.Flatten({"input": np.array(inside)}, 0, -1))
    return [*nodes, nir.Linear(weight) if bias is None else nir.Affine(weight, bias)]


# -- import -----------------------------------------------------------------------------------------


def from_nir(source: str | Path | Any, dt: float | None = None, read: str = "") -> Net:
    """The network of a NIR graph or file, with its weights; `compile_net` makes it run.

    Args:
        source: a `.nir` file, or a `nir.NIRGraph`.
        dt: length of a step, in the unit of the file's time constants; None: from its metadata.
        read: read-out of the outputs; default: spike_counts, or final_step_voltage for neurons that do not spike.

    Raises:
        Problem: an unreadable file, no dt, or a node without a counterpart here; names it.
    """
    nir = require("nir", extra="spiking")
    graph: Any = source
    if isinstance(source, str | Path):
        try:
            graph = nir.read(str(source))
        except (OSError, KeyError, ValueError, AssertionError) as error:
            raise Problem(f"not a NIR file: {error}", source, "give a file written by nir.write") from error
    where = source if isinstance(source, str | Path) else "NIR graph"
    if dt is None:
        if "dt" not in graph.metadata:
            raise Problem("the graph has no dt", where, "from_nir(..., dt=...) in the unit of its time constants")
        dt = float(graph.metadata["dt"])
    into: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        into[b].append(a)
    made: dict[str, Node] = {}
    gains: dict[str, Array] = {}
    with Net(dt) as net:
        for name, node in graph.nodes.items():
            if isinstance(node, nir.Input):
                made[name] = Input(_flat(node.input_type["input"]), "spikes", name=name)
            elif type(node).__name__ in _NEURONS:
                model, gains[name], shape = _NEURONS[type(node).__name__](node, dt)
                made[name] = Group(shape, model, name=name)
        for name, node in graph.nodes.items():
            if isinstance(node, nir.Output):
                bare = [before for before in into[name] if not isinstance(made.get(before), Group)]
                outputs = [before for before in into[name] if before not in bare]
                if bare:  # currents without neurons: an integrator sums them
                    shape = _flat(node.output_type["output"])
                    outputs.append(f"{name}_sum")
                    made[outputs[-1]] = Group(shape, MODELS["nonspikingifb"], name=outputs[-1])
                    gains[outputs[-1]], into[outputs[-1]] = np.ones(shape), bare
                for output in outputs:
                    group = cast(Group, made[output])
                    group.read(read or ("spike_counts" if group.model.spiking else "final_step_voltage"))
        for name, group in made.items():
            if isinstance(group, Group):
                for before in into[name]:
                    chain, first = _import_chain(graph, into, before, made, where)
                    ops = _with_gain(_with_delay(chain, made[first]), gains[name], name)
                    net.projections.append(Projection(made[first], tuple(ops) or (Direct(),), group))
    return net


def _flat(shape: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in np.atleast_1d(shape))


def _one(value: Array, what: str) -> float:
    if np.ptp(value) > 1e-9:
        raise Problem(f"{what} differs between neurons", "NIR graph", "give one value for all")
    return float(np.ravel(value)[0])


def _parameter(value: Array) -> float | Tensor:
    return float(np.ravel(value)[0]) if np.ptp(value) == 0 else torch.tensor(value, dtype=torch.get_default_dtype())


def _import_lif(node: Any, dt: float) -> tuple[Neuron, Array, tuple[int, ...]]:
    retained = np.exp(-dt / node.tau)
    leak = _one(node.v_leak, "v_leak")  # our potentials are relative to it
    reset = np.zeros_like(node.tau) if node.v_reset is None else node.v_reset
    start = {"v": -leak} if leak else {}
    model = MODELS["lif"](
        tau_m=_parameter(node.tau),
        v_th=_parameter(node.v_threshold - leak),
        v_reset=_parameter(reset - leak),
        start=start,
    )
    return model, (1 - retained) * node.r, _flat(node.tau.shape or (1,))


def _import_if(node: Any, dt: float) -> tuple[Neuron, Array, tuple[int, ...]]:
    reset = np.zeros_like(node.r) if node.v_reset is None else node.v_reset
    model = MODELS["if"](v_th=_parameter(node.v_threshold), v_reset=_parameter(reset))
    return model, dt * node.r, _flat(node.r.shape or (1,))


def _import_li(node: Any, dt: float) -> tuple[Neuron, Array, tuple[int, ...]]:
    if _one(node.v_leak, "v_leak"):
        raise Problem("a leaky integrator with v_leak", "NIR graph", "give v_leak = 0")
    return (
        MODELS["li"](tau_m=_parameter(node.tau)),
        (1 - np.exp(-dt / node.tau)) * node.r,
        _flat(node.tau.shape or (1,)),
    )


def _import_cuba(node: Any, dt: float) -> tuple[Neuron, Array, tuple[int, ...]]:
    if _one(node.v_leak, "v_leak"):
        raise Problem("a current-based neuron with v_leak", "NIR graph", "give v_leak = 0")
    retained = np.exp(-dt / node.tau_mem)
    reset = np.zeros_like(node.r) if node.v_reset is None else node.v_reset
    model = MODELS["cubalif"](
        tau_s=_parameter(node.tau_syn), tau_m=_parameter(node.tau_mem), gain=_parameter((1 - retained) * node.r),
        v_th=_parameter(node.v_threshold), v_reset=_parameter(reset),
    )  # fmt: skip
    gain = (1 - np.exp(-dt / node.tau_syn)) * np.broadcast_to(node.w_in, node.tau_syn.shape)
    return model, gain, _flat(node.tau_syn.shape or (1,))


def _import_threshold(node: Any, dt: float) -> tuple[Neuron, Array, tuple[int, ...]]:
    threshold = np.atleast_1d(node.threshold)
    return MODELS["threshold"](v_th=_parameter(threshold)), np.ones(threshold.shape), threshold.shape


_NEURONS: dict[str, Callable[[Any, float], tuple[Neuron, Array, tuple[int, ...]]]] = {
    "LIF": _import_lif, "IF": _import_if, "LI": _import_li, "CubaLIF": _import_cuba, "Threshold": _import_threshold,
}  # fmt: skip
"""NIR node -> function of (node, dt) that gives (model, gain of its input, shape)."""


def _import_chain(
    graph: Any, into: dict[str, list[str]], name: str, made: dict[str, Node], where: object
) -> tuple[list[Op | float], str]:
    """Operations (a number is a delay) up to the node `name`, and the name of the neurons or input they start from."""
    ops: list[Op | float] = []
    passed: set[str] = set()
    while name not in made:
        if name in passed:
            raise Problem(f"a loop without neurons through {name}", where, "put neurons into every loop")
        passed.add(name)
        ops.insert(0, _import_op(graph.nodes[name], name, where))
        if len(into[name]) != 1:
            raise Problem(f"{len(into[name])} edges into {name}", where, "only neurons sum several inputs")
        (name,) = into[name]
    return ops, name


def _with_delay(chain: list[Op | float], source: Node) -> list[Op]:
    """Move delays into the chain's connection, or into an added one of weight 1."""
    ops = [op for op in chain if isinstance(op, Op)]
    delay = sum(op for op in chain if not isinstance(op, Op))
    if not delay:
        return ops
    for n, op in enumerate(ops):
        if isinstance(op, Connection):
            return [*ops[:n], replace(op, delay=delay), *ops[n + 1 :]]
    return [OneToOne(weight=torch.ones(source.size), delay=delay, trainable=False), *ops]


def _with_gain(ops: list[Op], gain: Array, name: str) -> list[Op]:
    """Append the gain of a neuron's input: as a factor, or in the rows of the last weights."""
    if np.ptp(gain) < 1e-6 * np.abs(gain).max():
        factor = float(np.ravel(gain)[0])
        return ops if abs(factor - 1) < 1e-6 else [*ops, Scale(factor)]
    last = ops[-1] if ops else None
    if not isinstance(last, Full) or last.weight is None:
        raise Problem("the gain of the input differs between neurons", name, "put it into the weights of a Linear node")
    rows = torch.tensor(np.ravel(gain), dtype=last.weight.dtype)
    bias = last.bias * rows if isinstance(last.bias, Tensor) else last.bias
    return [*ops[:-1], replace(last, weight=last.weight * rows[:, None], bias=bias)]


def _import_op(node: Any, name: str, where: object) -> Op | float:
    nir = require("nir", extra="spiking")

    def tensor(value: Any) -> Tensor:
        return torch.tensor(np.asarray(value), dtype=torch.get_default_dtype())

    def number(value: Any) -> int:
        values = set(np.ravel(value).tolist())
        if len(values) != 1:
            raise Problem(f"{name}: sizes {sorted(values)} differ between the axes", where, "give square ones")
        return int(values.pop())

    if isinstance(node, nir.Linear):
        return Full(weight=tensor(node.weight))
    if isinstance(node, nir.Affine):
        return Full(weight=tensor(node.weight), bias=tensor(node.bias))
    if isinstance(node, nir.Conv2d):
        weight, stride, dilation = tensor(node.weight), number(node.stride), number(node.dilation)
        kernel = number(node.weight.shape[2:])
        if not isinstance(node.padding, str):
            padding = number(node.padding)
        elif node.padding == "valid":
            padding = 0
        elif node.padding == "same" and stride == 1:  # as torch pads: dilation (kernel - 1) in all, the rest behind
            padding, rest = divmod(dilation * (kernel - 1), 2)
            if rest and dilation == 1:  # unequal sides: a row and a column of zeros before the kernel
                weight, kernel, padding = F.pad(weight, (1, 0, 1, 0)), kernel + 1, padding + 1
            elif rest:
                remedy = "give an odd kernel, or pad the input"
                raise Problem(f"{name}: padding 'same' needs unequal sides at dilation {dilation}", where, remedy)
        else:
            stated = f" with stride {stride}" if node.padding == "same" else ""
            raise Problem(f"{name}: padding {node.padding!r}{stated}", where, "give numbers")
        bias = tensor(node.bias).view(-1, 1, 1) if np.any(node.bias) else False
        return Conv(kernel, stride, padding, dilation, int(node.groups), len(node.weight), weight=weight, bias=bias)
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kind = SumPool if isinstance(node, nir.SumPool2d) else AvgPool
        return kind(number(node.kernel_size), number(node.stride), number(node.padding))
    if isinstance(node, nir.Flatten):
        return Flatten()
    if isinstance(node, nir.Scale):
        return (
            OneToOne(weight=tensor(node.scale).flatten())
            if np.ptp(node.scale)
            else Scale(float(np.ravel(node.scale)[0]))
        )
    if isinstance(node, nir.Delay):
        return _one(node.delay, "a delay")
    raise Problem(
        f"no counterpart of {type(node).__name__}", f"{where}: {name}",
        "use LIF, IF, LI, CubaLIF, Threshold, Linear, Affine, Conv2d, SumPool2d, AvgPool2d, Flatten, Scale, Delay",
    )  # fmt: skip
