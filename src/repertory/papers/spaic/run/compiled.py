"""From a description to one nn.Module: which populations can be computed all steps at once, and which go step by step.

1. The strongly connected components of the graph are found, in topological order.
2. A population in no loop is computed "layerwise": each projection onto it is one product over all (T B) rows, and only
   the element-wise work of its neurons walks along time.
3. A loop, and a population whose synapses change while the network runs, go "step" by step; what comes from outside
   the loop is still computed for all steps at once.
4. Without gradients, a loop of matrix projections is driven by events: only the synapses of neurons that fired are
   touched, and a delay is a place further ahead in the array of coming currents.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, cast

import networkx as nx
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn.spiking import Surrogate, lif, spike
from repertory.papers.spaic.describe.network import Group, Input, Net, Node, Source, silent
from repertory.papers.spaic.describe.neurons import MODELS, State, decay
from repertory.papers.spaic.describe.rules import RSTDP, FullSTDP, Record, Synapse, reward_of
from repertory.papers.spaic.run.wires import Tap, Traffic, Wire

SPARSE = 0.25
"""A loop's projections are driven by events up to this share of synapses."""


class Cell(nn.Module):
    """One population at run time: the model's parameters and its walk along time."""

    def __init__(self, group: Group, surrogate: Surrogate, dt: float, compat: bool) -> None:
        super().__init__()
        self.group, self.model, self.surrogate, self.dt, self.compat = group, group.model, surrogate, dt, compat
        self.constants: dict[str, float] = {}
        for told, value in self.model.params.items():
            name, transform = self.model.stored.get(told, (told, None))
            tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
            if tensor.ndim and tensor.numel() not in (1, group.size):
                raise Problem(f"{told} of shape {tuple(tensor.shape)}", group.name, f"give a number, or {group.shape}")
            tensor = tensor.reshape(group.shape) if tensor.numel() == group.size and tensor.ndim else tensor
            tensor = tensor if transform is None else transform(tensor)
            if told in self.model.trained:
                self.register_parameter(name, nn.Parameter(tensor.clone()))
            elif tensor.ndim or transform is not None:
                self.register_buffer(name, tensor.clone())
            else:
                self.constants[name] = float(value)
        self.names = [self.model.stored.get(told, (told, None))[0] for told in self.model.params]
        for name in self.model.kept:
            self.register_buffer(f"kept_{name}", torch.full(group.shape, self._start(name)))

    def _start(self, variable: str) -> float:
        value = self.model.start[variable]
        return float(self.model.params[value] if isinstance(value, str) else value)

    def fire(self, x: Tensor) -> Tensor:
        """1 where x > 0, with the surrogate's gradient."""
        if torch.is_grad_enabled():
            return spike(x, self.surrogate)
        return (x >= 0 if self.surrogate.inclusive else x > 0).to(x.dtype)

    def values(self) -> SimpleNamespace:
        """What the model calls `p`."""
        own = {name: getattr(self, name) for name in self.names if name not in self.constants}
        return SimpleNamespace(**self.constants, **own, fire=self.fire, compat=self.compat)

    def begin(self, like: Tensor) -> State:
        """State (B, *shape) before the first step; `like` has that shape."""
        return {
            name: getattr(self, f"kept_{name}").to(like.dtype).expand_as(like)
            if name in self.model.kept
            else torch.full_like(like, self._start(name), memory_format=torch.contiguous_format)
            for name in self.model.start
        }

    def step(self, state: State, current: Tensor, p: Any) -> tuple[State, Tensor]:
        """One step of the model."""
        return self.model.step(state, current, p, self.dt)

    def scan(
        self, current: Tensor, state: State | None, wanted: Iterable[str]
    ) -> tuple[Tensor, dict[str, Tensor], State]:
        """All steps: currents (T, B, *shape) -> output, the wanted state variables (T, ...), the last state."""
        fast = self._linear_reset()
        if fast is not None:
            retained, shift, threshold, v_reset = fast
            v0 = None if state is None else state["v"]
            if v0 is None and self._start("v"):
                v0 = current.new_full((), self._start("v"))
            spikes, v = lif(
                current - shift if shift else current, retained, threshold, self.surrogate, v_reset=v_reset, v0=v0
            )
            return spikes, {"v": v}, {"v": v[-1]}
        state, p, names = state or self.begin(current[0]), self.values(), list(wanted)
        outputs, kept = [], {name: [] for name in names}
        for now in current.unbind():
            state, output = self.step(state, now, p)
            outputs.append(output)
            for name in names:
                kept[name].append(state[name])
        return torch.stack(outputs), {name: torch.stack(values) for name, values in kept.items()}, state

    def _linear_reset(self) -> tuple[Tensor | float, float, float, float] | None:
        """(decay, shift, threshold, v_reset) of models that the hand-written scan knows."""
        own = self.model.step
        if own not in (MODELS["lif"].step, MODELS["if"].step) or not {"v_th", "v_reset"} <= set(self.constants):
            return None
        threshold, v_reset = self.constants["v_th"], self.constants["v_reset"]
        if own is MODELS["lif"].step:
            return decay(self.dt, self.values().tau_m), 0.0, threshold, v_reset
        shift = self.constants.get("d")
        return None if shift is None else (1.0, shift, threshold, v_reset)

    @torch.no_grad()
    def keep(self, state: State) -> None:
        """Remember what outlives a run: the mean over the batch."""
        for name in self.model.kept:
            getattr(self, f"kept_{name}").copy_(state[name].mean(0))

    def extra_repr(self) -> str:
        """Name, shape and model."""
        return f"{self.group.name}, {self.group.shape}, {self.model.name}"


@dataclass
class Stage:
    """Populations that are computed together."""

    groups: list[int]
    """In an order in which what does not lag is computed before it is used."""
    stepwise: bool


@dataclass
class Run:
    """What one call works on."""

    steps: int
    batch: int
    like: Tensor
    outputs: dict[Node, Tensor] = field(default_factory=dict)
    traces: dict[tuple[Node, str], Tensor] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)
    traffic: dict[int, Traffic] = field(default_factory=dict)
    labels: Tensor | None = None
    reward: Any = None
    weights: dict[int, list[Tensor]] = field(default_factory=dict)
    keep: bool = False


Feed = Tensor | Mapping[Input, Tensor] | None


class Compiled(nn.Module):
    """A network that runs. See `Net.compile`.

    Its state dict: `projections.<i>.weight` (post, pre), `.bias`, `.mask`, `.delay`; `groups.<i>.<parameter>`.

    Raises:
        Problem: nothing to read and nothing recorded; a loop without latency and delay; `layerwise` with a loop.
    """

    def __init__(
        self,
        net: Net,
        mode: Literal["auto", "layerwise", "step"],
        surrogate: Surrogate,
        latency: int,
        *,
        compat: str = "",
        jit: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("auto", "layerwise", "step") or latency not in (0, 1) or compat not in ("", "spaic"):
            raise Problem(
                f"mode={mode!r}, latency={latency!r}, compat={compat!r}", "compile",
                "mode: auto, layerwise, step; latency: 0, 1; compat: empty or spaic",
            )  # fmt: skip
        if not net.readouts and not net.records:
            raise Problem(
                "no read-out: nothing would come out", "compile", "group.read('spike_counts'), or net.record(...)"
            )
        self.net, self.mode, self.surrogate, self.latency = net, mode, surrogate, latency
        self.compat = compat == "spaic"
        self.groups = nn.ModuleList(Cell(group, surrogate, net.dt, self.compat) for group in net.groups)
        self.projections = nn.ModuleList(Wire(p, latency, net.dt, generator) for p in net.projections)
        self._index = {group: i for i, group in enumerate(net.groups)}
        self._onto: list[list[int]] = [[] for _ in net.groups]
        for k, p in enumerate(net.projections):
            self._onto[self._index[p.target]].append(k)
        self._plans = {training: self._plan(training) for training in (False, True)}
        self._tick: Callable[..., Any] = self._one_step
        self._jit = jit
        if jit:
            self._tick = torch.compile(self._one_step, dynamic=False)
        self.trace: dict[str, Tensor] = {}
        """"node.variable" -> (T, B, *shape), of the last call; "source >> ... .weight" of recorded connections."""
        self._carried: Run | None = None
        self._own: dict[str, Tensor] = {}
        self._lists: dict[int, tuple[Any, Outgoing]] = {}

    # -- planning ---------------------------------------------------------------------------------

    def cells(self) -> list[Cell]:
        """Populations at run time, in the order of the description."""
        return cast(list[Cell], list(self.groups))

    def wires(self) -> list[Wire]:
        """Projections at run time, in the order of the description."""
        return cast(list[Wire], list(self.projections))

    def _graph(self, zero_lag: bool = False) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(self.groups)))
        for wire in self.wires():
            if isinstance(wire.projection.source, Group) and not (zero_lag and (wire.lagged or wire.electrical)):
                ends = self._index[wire.projection.source], self._index[wire.projection.target]
                graph.add_edge(*ends)
                if wire.electrical:
                    graph.add_edge(*ends[::-1])
        return graph

    def _plastic(self, k: int) -> bool:
        """Whether the weights of this projection change while the network runs."""
        rule = None if (connection := self.wires()[k].connection) is None else connection.rule
        return rule is not None and rule.online

    def _plan(self, training: bool) -> list[Stage]:
        graph, direct = self._graph(), self._graph(zero_lag=True)
        try:
            order = list(nx.lexicographical_topological_sort(direct))
        except nx.NetworkXUnfeasible:
            loop = [edge[0] for edge in nx.find_cycle(direct)]
            names = " -> ".join(self.net.groups[i].name for i in [*loop, loop[0]])
            raise Problem(
                f"cycle {names} needs latency 1 or a delay",
                "compile(latency=0)",
                "compile(latency=1), or give delay=...",
            ) from None
        plastic = training and any(self._plastic(k) for k in range(len(self.projections)))
        if self.mode == "step" or (plastic and self.net.rewarded is not None):
            return [Stage(order, True)]
        place = {i: n for n, i in enumerate(order)}
        condensed = nx.condensation(graph)
        stages = []
        for component in nx.lexicographical_topological_sort(condensed):
            members = sorted(condensed.nodes[component]["members"], key=place.__getitem__)
            loop = len(members) > 1 or graph.has_edge(members[0], members[0])
            changing = training and any(self._plastic(k) for i in members for k in self._onto[i])
            if (loop or changing) and self.mode == "layerwise":
                names = ", ".join(self.net.groups[i].name for i in members)
                why = "a loop" if loop else "weights that change as it runs"
                raise Problem(
                    f"{names}: {why} cannot be computed layer by layer", "compile(mode=...)", "use auto or step"
                )
            stages.append(Stage(members, loop or changing))
        return stages

    # -- running ----------------------------------------------------------------------------------

    def forward(
        self,
        x: Feed = None,
        steps: int | None = None,
        *,
        labels: Tensor | None = None,
        reward: Any = None,
        carry: bool = False,
        batch: int = 1,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Run the network.

        Args:
            x: data of the one input, or input -> data; (B, *shape), or with time as the encoder says.
            steps: how many; None: as many as the data have.
            labels: (B,) class numbers for rules that need them.
            reward: for rules that need one: a number, (B,), (T, B), or a function of (step, scores so far or None).
            carry: go on where the last call ended, and keep where this one ends.
            batch: samples, for networks without data.
            generator: where encoders and actions draw from; default: torch's global one.

        Returns:
            What the read-out says, (B, C); a tuple, where there are several; None without. `trace` has the records.

        Raises:
            Problem: data missing or of another shape, no number of steps, plasticity of a batch without a rule for it.
        """
        run = self._begin(x, steps, batch, generator, carry)
        run.labels, run.reward, run.keep = labels, reward, carry
        for wire in self.wires():
            wire.clamp()
        self._check_plasticity(run)
        for stage in self._plans[self.training]:
            if not stage.stepwise:
                self._layer(stage.groups[0], run)
            elif self._by_events(stage, run):
                self._events(stage, run)
            else:
                self._loop(stage, run)
        if self.training:
            self._finish(run)
            for cell, state in ((self.cells()[i], s) for i, s in run.states.items()):
                cell.keep(state)
        self._carried = self._detached(run) if carry else None
        self._record(run)
        answers = [self._answer(group, readout, run, generator) for group, readout in self.net.readouts]
        return None if not answers else answers[0] if len(answers) == 1 else tuple(answers)

    def reset(self) -> None:
        """Forget where the last call with `carry` ended."""
        self._carried = None

    def _begin(self, x: Feed, steps: int | None, batch: int, generator: torch.Generator | None, carry: bool) -> Run:
        inputs = self.net.inputs
        data: dict[Input, Tensor] = dict(x) if isinstance(x, Mapping) else {}
        if isinstance(x, Tensor):
            if len(inputs) != 1:
                raise Problem(f"one tensor for {len(inputs)} inputs", "forward", "give {input: tensor}")
            data = {inputs[0]: x}
        missing = [node.name for node in inputs if node not in data]
        if missing:
            raise Problem(f"no data for the input {missing[0]}", "forward", "give {input: tensor}")
        timed = [node.encoder.steps(data[node]) for node in inputs if node.encoder.timed]
        steps = steps if steps is not None else min(timed, default=None)
        if steps is None or steps < 1 or any(n < steps for n in timed):
            raise Problem(
                f"{steps} steps, with data of {timed or 'no'} steps", "forward(steps=...)", "say how many, 1 or more"
            )
        parameter = next(iter(self.parameters()), torch.zeros(()))
        like = parameter.new_zeros(())
        if not like.is_floating_point():
            like = like.float()
        encoded: dict[Node, Tensor] = {}
        for node in inputs:
            value = data[node].to(like.device, like.dtype)
            encoded[node] = node.encoder(value, steps, self.net.dt, generator)
            if tuple(encoded[node].shape[2:]) != node.shape:
                raise Problem(
                    f"data of shape {tuple(data[node].shape)} for the input {node.name} of {node.shape}",
                    "forward", f"{type(node.encoder).__name__} takes (B, *shape), with time where it says so",
                )  # fmt: skip
        batches = {value.shape[1] for value in encoded.values()}
        if len(batches) > 1:
            raise Problem(f"batches of {sorted(batches)}", "forward", "give all inputs the same samples")
        batch = batches.pop() if batches else batch
        for node in self.net.nodes:
            if isinstance(node, Source):
                encoded[node] = node.generator((batch, *node.shape), steps, self.net.dt, like, generator)
        run = Run(steps, batch, like, encoded)
        if carry and self._carried is not None:
            if self._carried.batch != batch:
                raise Problem(f"a batch of {batch} after one of {self._carried.batch}", "carry", "call reset() first")
            run.states, run.traffic = dict(self._carried.states), dict(self._carried.traffic)
        return run

    def _detached(self, run: Run) -> Run:
        def free(traffic: Traffic) -> Traffic:
            pending = [None if due is None else due.detach() for due in traffic.pending]
            return Traffic(pending, {k: [r.detach() for r in sums] for k, sums in traffic.sums.items()})

        states = {i: {name: value.detach() for name, value in s.items()} for i, s in run.states.items()}
        return Run(run.steps, run.batch, run.like, states=states, traffic={k: free(t) for k, t in run.traffic.items()})

    def _wanted(self, group: Group) -> set[str]:
        """Variables of a population that somebody will look at."""
        names = {name for what, names in self.net.records if what is group for name in names}
        names |= {readout.decoder.variable for g, readout in self.net.readouts if g is group}
        return names

    def _state_names(self, group: Group) -> set[str]:
        return self._wanted(group) - {"spike", "current"}

    def _layer(self, i: int, run: Run) -> None:
        group, cell = self.net.groups[i], self.cells()[i]
        current = self._currents(group, self._onto[i], run)
        output, traces, state = cell.scan(current, run.states.get(i), self._state_names(group))
        run.outputs[group], run.states[i] = output, state
        run.traces |= {(group, name): value for name, value in traces.items()}
        run.traces[group, "current"] = current

    def _currents(self, group: Group, wires: list[int], run: Run) -> Tensor:
        """Sum over projections from what is computed already: (T, B, *shape)."""
        total: Tensor | None = None
        for k in wires:
            wire = self.wires()[k]
            current, traffic = wire.block(run.outputs[wire.projection.source], run.traffic.get(k), run.keep)
            run.traffic[k] = traffic
            total = current if total is None else total + current
        if total is None:
            return run.like.expand(run.steps, run.batch, *group.shape)
        return total

    # -- step by step -----------------------------------------------------------------------------

    def _parts(self, stage: Stage, training: bool) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Projections onto each population of a stage: those that go step by step, and those that need not."""
        inside = {self.net.groups[i] for i in stage.groups}
        ticked: dict[int, list[int]] = {i: [] for i in stage.groups}
        blocked: dict[int, list[int]] = {i: [] for i in stage.groups}
        for i in stage.groups:
            for k in self._onto[i]:
                changing = training and self._plastic(k)
                there = ticked if self.wires()[k].projection.source in inside or changing else blocked
                there[i].append(k)
        return ticked, blocked

    def _loop(self, stage: Stage, run: Run) -> None:
        groups, cells, wires = self.net.groups, self.cells(), self.wires()
        ticked, blocked = self._parts(stage, self.training)
        ahead = {i: self._currents(groups[i], blocked[i], run) for i in stage.groups}
        chosen = [k for i in stage.groups for k in ticked[i]]
        plastic = [k for k in chosen if self.training and self._plastic(k)]
        states = {i: run.states.get(i) or cells[i].begin(ahead[i][0]) for i in stage.groups}
        traffic = {k: run.traffic.get(k) or Traffic() for k in chosen}
        weights = {k: self._starting_weight(wires[k], run.batch) for k in plastic}
        taps = {k: [] if wires[k].electrical or wires[k].connection is None else wires[k].taps() for k in chosen}
        learning: dict[int, dict[str, Any]] = {k: {} for k in plastic}
        seen: dict[tuple[Node, str], list[Tensor]] = {
            (groups[i], name): [] for i in stage.groups for name in {"spike"} | self._wanted(groups[i])
        }
        watched = {id(what) for what, _ in self.net.records}
        outside = {wires[k].projection.source for k in chosen} - {groups[i] for i in stage.groups}
        feeds = {node: run.outputs[node].unbind() for node in outside}
        values = {i: cells[i].values() for i in stage.groups}
        ahead_steps = {i: current.unbind() for i, current in ahead.items()}
        totals: Tensor | None = None
        for t in range(run.steps):
            for k in plastic:
                taps[k] = wires[k].taps(weights[k])
            now = {node: steps[t] for node, steps in feeds.items()}
            here = {i: steps[t] for i, steps in ahead_steps.items()}
            states, traffic, now, currents = self._translated(stage, ticked, states, traffic, taps, here, now, values)
            for (node, name), kept in seen.items():
                i = self._index[cast(Group, node)]
                kept.append(now[node] if name == "spike" else currents[i] if name == "current" else states[i][name])
            if plastic:
                totals = self._totals(totals, now)
                reward = self._reward(run, t, totals)
                for k in plastic:
                    weights[k], learning[k] = self._learn(wires[k], weights[k], learning[k], now, reward)
                    if id(wires[k].connection) in watched:
                        run.weights.setdefault(k, []).append(weights[k])
        for (node, name), kept in seen.items():
            whole = torch.stack(kept)
            run.traces[node, name] = whole
            if name == "spike":
                run.outputs[node] = whole
        run.states |= states
        run.traffic |= traffic
        for k in plastic:
            self._write_back(wires[k], weights[k], run)

    def _translated(self, *words: Any) -> Any:
        """The step, by torch.compile where that was asked for; if it cannot, Python's, with a warning that says why."""
        if not self._jit:
            return self._one_step(*words)
        try:
            return self._tick(*words)
        except Exception as error:  # dynamo and its back ends raise many kinds
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"torch.compile cannot translate the step, Python runs it: {reason}", stacklevel=4)
            self._jit = False
            return self._one_step(*words)

    def _one_step(
        self,
        stage: Stage,
        ticked: dict[int, list[int]],
        states: dict[int, State],
        traffic: dict[int, Traffic],
        taps: dict[int, list[Tap]],
        ahead: dict[int, Tensor],
        now: dict[Node, Tensor],
        values: dict[int, Any],
    ) -> tuple[dict[int, State], dict[int, Traffic], dict[Node, Tensor], dict[int, Tensor]]:
        """State and spikes from outside -> state and all spikes after one step."""
        wires, cells, groups = self.wires(), self.cells(), self.net.groups
        after, moved, now, currents = dict(states), dict(traffic), dict(now), {}
        extra: dict[int, Tensor] = {}
        for k in (k for i in stage.groups for k in ticked[i] if wires[k].electrical):
            pre, post = (
                self._index[cast(Group, node)] for node in (wires[k].projection.source, wires[k].projection.target)
            )
            for i, current in zip((post, pre), wires[k].across(states[pre]["v"], states[post]["v"]), strict=True):
                extra[i] = extra[i] + current if i in extra else current
        for i in stage.groups:
            current = ahead[i] + extra[i] if i in extra else ahead[i]
            for k in ticked[i]:
                if not wires[k].electrical:
                    source = now.get(wires[k].projection.source)
                    arrived, moved[k] = wires[k].arriving(moved[k], current, source, taps[k])
                    current = current + arrived
            after[i], now[groups[i]] = cells[i].step(states[i], current, values[i])
            currents[i] = current
        for k in (k for i in stage.groups for k in ticked[i]):
            if wires[k].lagged and not wires[k].electrical:
                moved[k] = wires[k].sent(moved[k], now[wires[k].projection.source], taps[k])
        return after, moved, now, currents

    # -- by events --------------------------------------------------------------------------------

    def _by_events(self, stage: Stage, run: Run) -> bool:
        """Whether a stage can be driven by events: no gradient, no carrying over, and lagged matrices only."""
        if torch.is_grad_enabled() or run.keep or run.traffic:
            return False
        ticked, _ = self._parts(stage, self.training)
        wires = [self.wires()[k] for i in stage.groups for k in ticked[i]]
        return bool(wires) and all(
            wire.lagged
            and len(wire.links) == 1
            and wire.connection is not None
            and wire.connection.matrix
            and not wire.electrical
            and not wire.connection.train_delay
            and not (self.training and wire.connection.rule is not None)
            and wire.bias is None
            and float((wire.current_weight() != 0).float().mean()) <= SPARSE
            for wire in wires
        )

    def _outgoing(self, k: int, batch: int) -> Outgoing:
        """Synapses by the neuron that they leave, made anew where the weights have changed."""
        wire = self.wires()[k]
        parts = (wire.weight, wire.mask, wire.delay)
        key = (batch, *((part.data_ptr(), part._version) for part in parts if part is not None))
        if self._lists.get(k, (None,))[0] != key:
            self._lists[k] = key, _outgoing(wire, batch)
        return self._lists[k][1]

    def _events(self, stage: Stage, run: Run) -> None:
        groups, cells = self.net.groups, self.cells()
        ticked, blocked = self._parts(stage, self.training)
        synapses = {k: self._outgoing(k, run.batch) for i in stage.groups for k in ticked[i]}
        longest = max(found.longest for found in synapses.values())
        coming = {}
        for i in stage.groups:
            ahead = self._currents(groups[i], blocked[i], run)
            coming[i] = torch.cat([ahead, ahead.new_zeros(longest, *ahead.shape[1:])])
        flat = {i: c.view(-1) for i, c in coming.items()}
        steps = {i: c.unbind() for i, c in coming.items()}
        states = {i: cells[i].begin(coming[i][0]) for i in stage.groups}
        values = {i: cells[i].values() for i in stage.groups}
        wanted = {i: self._state_names(groups[i]) for i in stage.groups}
        spikes: dict[int, list[Tensor]] = {i: [] for i in stage.groups}
        kept: dict[tuple[int, str], list[Tensor]] = {(i, name): [] for i in stage.groups for name in wanted[i]}
        leaving = {
            i: [(self._index[p.target], k) for k in synapses if (p := self.wires()[k].projection).source is groups[i]]
            for i in stage.groups
        }
        for t in range(run.steps):
            for i in stage.groups:
                states[i], output = cells[i].step(states[i], steps[i][t], values[i])
                spikes[i].append(output)
                for name in wanted[i]:
                    kept[i, name].append(states[i][name])
            for i in stage.groups:
                output = spikes[i][t].flatten(1)
                sample, fired = output.nonzero(as_tuple=True)
                if not len(fired):
                    continue
                strength = output[sample, fired, None] if silent(groups[i]) else None
                for target, k in leaving[i]:
                    found = synapses[k]
                    places, weights = found.places[fired], found.weights[fired]
                    if run.batch > 1:
                        places = places + (sample * found.post)[:, None]
                    if strength is not None:
                        weights = weights * strength
                    ahead = flat[target][t * run.batch * found.post :]
                    ahead.index_add_(0, places.view(-1), weights.view(-1))
        for i in stage.groups:
            run.outputs[groups[i]], run.states[i] = torch.stack(spikes[i]), states[i]
            run.traces |= {(groups[i], name): torch.stack(kept[i, name]) for name in wanted[i]}
            run.traces[groups[i], "current"] = coming[i][: run.steps]

    # -- learning as it runs ----------------------------------------------------------------------

    def _check_plasticity(self, run: Run) -> None:
        if not self.training:
            return
        for wire in self.wires():
            rule = None if wire.connection is None else wire.connection.rule
            if rule is None:
                continue
            if run.batch > 1 and not rule.batch_rule:
                raise Problem(
                    f"{type(rule).__name__} with a batch of {run.batch}", str(wire.projection),
                    "say what a batch does: batch_rule='mean', 'sum' or 'own'",
                )  # fmt: skip
            known = run.reward is not None or (run.labels is not None and self.net.rewarded is not None)
            if isinstance(rule, RSTDP) and not known:
                raise Problem(
                    f"{type(rule).__name__} without a reward", str(wire.projection),
                    "forward(..., reward=...), or net.reward(group) and labels",
                )  # fmt: skip
            if not rule.online and run.labels is None:
                raise Problem(f"{type(rule).__name__} without labels", str(wire.projection), "forward(..., labels=...)")

    def _starting_weight(self, wire: Wire, batch: int) -> Tensor:
        weight = wire.current_weight().detach()
        own = (
            wire.connection is not None
            and wire.connection.rule is not None
            and wire.connection.rule.batch_rule == "own"
        )
        return weight.expand(batch, *weight.shape) if own else weight

    def _totals(self, totals: Tensor | None, now: dict[Node, Tensor]) -> Tensor | None:
        """Spikes of the rewarded population so far (B, N)."""
        if self.net.rewarded is None:
            return None
        spikes = now[self.net.rewarded[0]].detach().flatten(1)
        return spikes if totals is None else totals + spikes

    def _reward(self, run: Run, t: int, totals: Tensor | None) -> Tensor:
        reward = run.reward
        if reward is None and totals is not None and run.labels is not None and self.net.rewarded is not None:
            reward = reward_of(self.net.rewarded[1], totals, run.labels)
        reward = reward(t, totals) if callable(reward) else reward
        found = torch.as_tensor(0.0 if reward is None else reward, dtype=run.like.dtype, device=run.like.device)
        return (found[t] if found.ndim == 2 else found).expand(run.batch)

    @torch.no_grad()
    def _learn(
        self, wire: Wire, weight: Tensor, memory: dict[str, Any], now: dict[Node, Tensor], reward: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        connection = wire.connection
        assert connection is not None
        assert connection.rule is not None
        rule = connection.rule
        merge: dict[str, Callable[[Tensor], Tensor]] = {
            "mean": lambda change: change.mean(0), "own": lambda change: change,
        }  # fmt: skip
        share = 1 / len(reward) if rule.batch_rule == "mean" else 1.0
        pre, post = now[wire.projection.source].detach(), now[wire.projection.target].detach()
        lagged = self.compat and rule.lagged
        told = (memory["pre"], memory["post"]) if lagged and memory else (torch.zeros_like(pre), torch.zeros_like(post))
        told = told if lagged else (pre, post)
        state, change = rule.step(
            memory.get("state", {}),
            Synapse(
                weight,
                *told,
                reward,
                wire.outer_each if rule.batch_rule == "own" else partial(_shared, wire, share),
                wire.outer_each,
                merge.get(rule.batch_rule, lambda change: change.sum(0)),
                self.net.dt,
                self.compat,
            ),
        )
        due = memory.get("late") if lagged else change
        weight = weight if due is None else weight + due
        weight = rule.settle(weight)
        if wire.mask is not None:
            weight = weight * wire.mask
        return weight, {"state": state, "pre": pre, "post": post, "late": change}

    @torch.no_grad()
    def _write_back(self, wire: Wire, weight: Tensor, run: Run) -> None:
        assert wire.connection is not None
        rule = wire.connection.rule
        if isinstance(rule, FullSTDP):
            weight = rule.close(weight)
        if rule is not None and rule.batch_rule == "own":
            self._own[str(wire.projection)] = weight
            return
        wire.weight.copy_(weight)

    @property
    def own_weights(self) -> dict[str, Tensor]:
        """Projection in words -> (B, *weight): where each sample has weights of its own, those after the last run."""
        return self._own

    @torch.no_grad()
    def _finish(self, run: Run) -> None:
        """Rules that learn from a whole run."""
        for wire in self.wires():
            rule = None if wire.connection is None else wire.connection.rule
            if rule is None or rule.online or run.labels is None:
                continue
            pre, post = run.outputs[wire.projection.source].detach(), run.outputs[wire.projection.target].detach()
            error = self._error(wire.projection.target, run)
            share = 1 / run.batch if rule.batch_rule == "mean" else 1.0
            outer = partial(_shared, wire, share)
            record = Record(wire.weight, pre, post, error, run.labels, outer, self.net.dt)
            weight = rule.settle(wire.weight + rule.finish(record))
            wire.weight.copy_(weight if wire.mask is None else weight * wire.mask)

    def _error(self, group: Group, run: Run) -> Tensor:
        """What a population should do more (positive) or less of, (B, *shape): see `BackpropRSTDP`."""
        assert run.labels is not None
        spikes = run.outputs[group].detach()
        for g, readout in self.net.readouts:
            if g is group:
                scores = spikes.sum(0).flatten(1).unflatten(1, (-1, readout.pop_size)).mean(-1)
                target = nn.functional.one_hot(run.labels, scores.shape[1]).to(scores)
                return (target - scores.softmax(1)).repeat_interleave(readout.pop_size, 1).view(spikes.shape[1:])
        back = torch.zeros_like(spikes[0])
        for wire in self.wires():
            if wire.projection.source is group and wire.projection.target is not group:
                if wire.connection is None or not wire.connection.matrix:
                    raise Problem("an error cannot go back through it", str(wire.projection), "use a matrix connection")
                onward = self._error(wire.projection.target, run).flatten(1)
                back += (onward @ wire.current_weight()).view_as(back)
        return back * (spikes.sum(0) > 0)

    # -- what comes out ---------------------------------------------------------------------------

    def _look(self, node: Node, variable: str, run: Run) -> Tensor:
        return run.outputs[node] if variable == "spike" else run.traces[node, variable]

    def _record(self, run: Run) -> None:
        self.trace = {}
        for what, names in self.net.records:
            if isinstance(what, Node):
                self.trace |= {f"{what.name}.{name}": self._look(what, name, run) for name in names}
            else:
                for k, wire in enumerate(self.wires()):
                    if wire.connection is what:
                        steps = run.weights.get(k) or [wire.current_weight().detach()] * run.steps
                        self.trace[f"{wire.projection}.weight"] = torch.stack(steps)

    def _answer(self, group: Group, readout: Any, run: Run, generator: torch.Generator | None) -> Tensor:
        variable = readout.decoder.variable
        return readout(self._look(group, variable, run), generator)

    def __getstate__(self) -> dict[str, Any]:
        """Without what the last call left: records may be part of a graph, which cannot be copied."""
        return {**super().__getstate__(), "trace": {}, "_carried": None, "_lists": {}}  # pyright: ignore[reportAttributeAccessIssue]


def _shared(wire: Wire, share: float, post: Tensor, pre: Tensor) -> Tensor:
    """Sum of outer products over the batch, times each sample's share."""
    return share * wire.outer(post, pre)


@dataclass
class Outgoing:
    """Synapses by the neuron that they leave: `places` in the array of coming currents, `weights`, both (pre, K)."""

    places: Tensor
    weights: Tensor
    post: int
    longest: int


@torch.no_grad()
def _outgoing(wire: Wire, batch: int) -> Outgoing:
    """Lists padded by weights of 0 to the largest number of synapses that any neuron has."""
    sent = wire.current_weight().mT
    pre, post = sent.shape
    source, target = sent.nonzero(as_tuple=True)  # in the order of the sources
    lag = torch.full_like(source, wire.latency)
    if wire.delay is not None:
        lag += wire.whole_delay().expand(post, pre).mT[source, target]
    counts = torch.bincount(source, minlength=pre)
    rank = torch.arange(len(source), device=source.device) - (counts.cumsum(0) - counts)[source]
    places, weights = sent.new_zeros(2, pre, max(1, int(counts.max()))).unbind()
    places = places.long()
    places[source, rank], weights[source, rank] = lag * batch * post + target, sent[source, target]
    return Outgoing(places, weights, post, int(lag.max()) if len(lag) else 1)
