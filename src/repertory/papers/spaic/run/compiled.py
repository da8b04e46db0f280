"""From a description to one nn.Module: `compile_net` plans the computation, `Compiled` runs it.

Layers are computed for all time steps at once, loops and plastic synapses step by step, sparse loops without gradients
by events: see the modules `plan`, `stepwise` and `events`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn.spiking import Atan, Surrogate
from repertory.papers.spaic.describe.decoders import Readout
from repertory.papers.spaic.describe.draws import Draws, branch
from repertory.papers.spaic.describe.network import Group, Input, Net, Node, Source
from repertory.papers.spaic.run import events, plasticity, stepwise
from repertory.papers.spaic.run.call import Call, Carried
from repertory.papers.spaic.run.cell import Cell
from repertory.papers.spaic.run.plan import Mode, plan
from repertory.papers.spaic.run.wires import Wire

Feed = Tensor | Mapping[Input, Tensor] | None


def compile_net(
    net: Net,
    mode: Mode = "auto",
    surrogate: Surrogate = Atan(),  # noqa: B008  frozen
    latency: Literal[0, 1] = 0,
    *,
    compat: Literal["", "spaic"] = "",
    jit: bool = False,
    generator: torch.Generator | None = None,
) -> Compiled:
    """Make an nn.Module that runs a network.

    Args:
        net: the description.
        mode: "layerwise" computes all steps of a population at once, "step" all populations step by step; "auto" takes
            steps only for loops and for weights that change during a run.
        surrogate: derivative of a spike.
        latency: steps that every projection takes besides its delay: 0, the convention of deep learning, or 1, SPAIC's.
        compat: "spaic" gives the official code's numbers where those deviate (izh, hh, the lag of STDP).
        jit: compile the step with torch.compile.
        generator: draws weights, masks and delays; default: torch's global one.

    Raises:
        Problem: an unknown option, neither a read-out nor a record, a loop without latency and delay, or "layerwise"
            for a network with a loop.

    Example:
        >>> from repertory.papers.spaic import Full, Group, Input
        >>> with Net() as net:
        ...     x = Input(4, "poisson")
        ...     o = Group(2, "lif")
        ...     _ = x >> Full() >> o
        ...     _ = o.read("spike_counts")
        >>> compile_net(net)(torch.rand(3, 4), steps=10).shape
        torch.Size([3, 2])
    """
    if mode not in ("auto", "layerwise", "step") or latency not in (0, 1) or compat not in ("", "spaic"):
        raise Problem(
            f"mode={mode!r}, latency={latency!r}, compat={compat!r}", "compile_net",
            "mode: auto, layerwise, step; latency: 0, 1; compat: empty or spaic",
        )  # fmt: skip
    if not net.readouts and not net.records:
        raise Problem(
            "no read-out and no record: the network has no result", "compile_net",
            "group.read('spike_counts'), or net.record(...)",
        )  # fmt: skip
    return Compiled(net, mode, surrogate, latency, compat == "spaic", jit, generator)


class Compiled(nn.Module):
    """A network that runs: what `compile_net` returns.

    Its state dict: `projections.<i>.weight` (post, pre), `.bias`, `.mask`, `.delay`; `groups.<i>.<parameter>`; in the
    order of the description.
    """

    def __init__(
        self,
        net: Net,
        mode: Mode,
        surrogate: Surrogate,
        latency: int,
        compat: bool,
        jit: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.net, self.mode, self.surrogate, self.latency, self.compat = net, mode, surrogate, latency, compat
        self.groups = nn.ModuleList(Cell(group, surrogate, net.dt, compat) for group in net.groups)
        self.projections = nn.ModuleList(Wire(p, latency, net.dt, generator) for p in net.projections)
        self.plans = {training: plan(net, self.wires(), mode, training) for training in (False, True)}
        """Stages in evaluation (False) and in training (True)."""
        self.trace: dict[str, Tensor] = {}
        """"node.variable" -> (T, B, *shape), of the last call; "source >> ... .weight" of recorded connections."""
        self.own_weights: dict[str, Tensor] = {}
        """Projection in words -> (B, *weight) after the last training run, where each sample has weights of its own."""
        self._jit_step: stepwise.Step | None = torch.compile(stepwise.one_step, dynamic=False) if jit else None
        self._carried: Carried | None = None
        self._events: events.Cache = {}

    def cells(self) -> dict[Group, Cell]:
        """Populations at run time."""
        return {cell.group: cell for cell in cast(list[Cell], list(self.groups))}

    def wires(self) -> list[Wire]:
        """Projections at run time, in the order of the description."""
        return cast(list[Wire], list(self.projections))

    def forward(
        self,
        x: Feed = None,
        steps: int | None = None,
        *,
        labels: Tensor | None = None,
        reward: Any = None,
        carry: bool = False,
        batch: int = 1,
        generator: Draws = None,
    ) -> Any:
        """Run the network.

        Args:
            x: data of the only input, or input -> data; (B, *shape), or with a time axis where the encoder takes one.
            steps: number T of steps; None: as many as the data have.
            labels: (B,) class numbers for rules that need them.
            reward: for rules that need one: a number, (B,), (T, B), or a function of (step, spike counts or None).
            carry: continue from the state that the last call with `carry` left, and keep the final state.
            batch: number of samples, for networks without data.
            generator: draws for encoders, generators and actions: see `Draws`.

        Returns:
            What the read-out gives, (B, C); a tuple, if there are several; None without. `trace` has the records.

        Raises:
            Problem: data missing or of another shape, no number of steps, or plasticity that lacks a batch rule, a
                reward or labels.
        """
        call = self._call(x, steps, batch, generator, carry)
        call.labels, call.reward, call.keep = labels, reward, carry
        for wire in call.wires:
            wire.clamp()
        plasticity.check(call)
        for stage in self.plans[self.training]:
            if not stage.stepwise:
                self._layer(stage.groups[0], stage.ahead[stage.groups[0]], call)
            elif events.applies(stage, call):
                events.run(stage, call, self._events)
            else:
                stepwise.run(stage, call, self._step)
        if self.training:
            plasticity.finish(call)
            for group, state in call.states.items():
                call.cells[group].keep(state)
        self.own_weights |= call.own_weights
        self._carried = call.carried() if carry else None
        self.trace = _records(call)
        draws = [branch(generator, len(self.net.nodes) + n) for n in range(len(self.net.readouts))]
        answers = [_answer(*readout, call, own) for readout, own in zip(self.net.readouts, draws, strict=True)]
        return None if not answers else answers[0] if len(answers) == 1 else tuple(answers)

    def reset(self) -> None:
        """Drop the state that the last call with `carry` left."""
        self._carried = None

    def _call(self, x: Feed, steps: int | None, batch: int, generator: Draws, carry: bool) -> Call:
        """Encode the data, and start from the carried state."""
        data = self._data(x)
        timed = [node.encoder.steps(value) for node, value in data.items() if node.encoder.timed]
        steps = steps if steps is not None else min(timed, default=None)
        if steps is None or steps < 1 or any(n < steps for n in timed):
            raise Problem(
                f"{steps} steps, with data of {timed or 'no'} steps",
                "forward(steps=...)",
                "give a number of steps >= 1",
            )
        like = next(iter(self.parameters()), torch.zeros(())).new_zeros(())
        like = like if like.is_floating_point() else like.float()
        draws = {node: branch(generator, n) for n, node in enumerate(self.net.nodes)}
        outputs: dict[Node, Tensor] = {}
        for node, value in data.items():
            outputs[node] = node.encoder(value.to(like.device, like.dtype), steps, self.net.dt, draws[node])
            if tuple(outputs[node].shape[2:]) != node.shape:
                raise Problem(
                    f"data of shape {tuple(value.shape)} for the input {node.name} of {node.shape}",
                    "forward", f"{type(node.encoder).__name__} takes (B, *shape), with a time axis if it is timed",
                )  # fmt: skip
        batches = [value.shape[1] for value in outputs.values()]  # a set would hash the symbols of torch.export
        if any(size != batches[0] for size in batches):
            raise Problem(f"batches of {sorted(batches)}", "forward", "give all inputs the same number of samples")
        batch = batches[0] if batches else batch
        for node in self.net.nodes:
            if isinstance(node, Source):
                outputs[node] = node.generator((batch, *node.shape), steps, self.net.dt, like, draws[node])
        call = Call(
            self.net, self.cells(), self.wires(), self.training, self.compat, steps, batch, like, outputs=outputs
        )
        if carry and self._carried is not None:
            if self._carried.batch != batch:
                raise Problem(f"a batch of {batch} after one of {self._carried.batch}", "carry", "call reset() first")
            call.states, call.traffic = dict(self._carried.states), dict(self._carried.traffic)
        return call

    def _data(self, x: Feed) -> dict[Input, Tensor]:
        """Input -> data, in the order of the description."""
        inputs = self.net.inputs
        data = dict(x) if isinstance(x, Mapping) else {}
        if isinstance(x, Tensor):
            if len(inputs) != 1:
                raise Problem(f"one tensor for {len(inputs)} inputs", "forward", "give {input: tensor}")
            data = {inputs[0]: x}
        missing = [node.name for node in inputs if node not in data]
        if missing:
            raise Problem(f"no data for the input {missing[0]}", "forward", "give {input: tensor}")
        return {node: data[node] for node in inputs}

    def _layer(self, group: Group, wires: list[Wire], call: Call) -> None:
        """Compute one population for all steps."""
        current = call.currents(group, wires)
        output, traces, state = call.cells[group].scan(current, call.states.get(group), call.wanted_states(group))
        call.outputs[group], call.states[group] = output, state
        call.traces |= {(group, name): value for name, value in traces.items()}
        call.traces[group, "current"] = current

    def _step(self, *args: Any) -> Any:
        """`stepwise.one_step`, by torch.compile if asked for; where that fails, by Python, with a warning."""
        if self._jit_step is not None:
            try:
                return self._jit_step(*args)
            except Exception as error:  # dynamo and its back ends raise many types
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"torch.compile failed, Python runs the step: {reason}", stacklevel=5)
                self._jit_step = None
        return stepwise.one_step(*args)

    def __getstate__(self) -> dict[str, Any]:
        """Without the results of the last call: tensors of a graph cannot be copied."""
        state = cast(dict[str, Any], super().__getstate__())
        return {**state, "trace": {}, "_carried": None, "_events": {}}


def _look(node: Node, variable: str, call: Call) -> Tensor:
    return call.outputs[node] if variable == "spike" else call.traces[node, variable]


def _records(call: Call) -> dict[str, Tensor]:
    trace: dict[str, Tensor] = {}
    for what, names in call.net.records:
        if isinstance(what, Node):
            trace |= {f"{what.name}.{name}": _look(what, name, call) for name in names}
        else:
            for wire in call.wires:
                if wire.connection is what:
                    steps = call.weights.get(wire) or [wire.current_weight().detach()] * call.steps
                    trace[f"{wire.projection}.weight"] = torch.stack(steps)
    return trace


def _answer(group: Group, readout: Readout, call: Call, generator: Draws) -> Tensor:
    return readout(_look(group, readout.decoder.variable, call), generator)
