"""Speed of compiled spiking networks.

    python benchmarks/spaic.py

- training step: 784-256-10 LIF neurons, batch 64, T = 100; forward, backward, Adam. Peers: a loop over time, and
  SpikingJelly's multi-step mode.
- reservoir: 1,000 LIF neurons, a tenth of all synapses, delays of 1 to 5 ms, T = 1,000, batch 1, no gradient. Peers: a
  loop in plain torch, and the same around SpikingJelly's neuron. No goal.

SpikingJelly's LIF decays by 1 - 1/tau where ours decays by e^(-dt/tau); its tau makes both the same. It is in the extra
`peers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from repertory.core.bench import Race, bench
from repertory.core.problem import require
from repertory.papers.spaic import LIF, Full, Group, Input, Net, Sparse, Uniform, compile_net
from repertory.papers.spaic.race import DECAY, Loop, linears, ours, spikes_and_labels, training_step
from repertory.papers.spaic.run.compiled import Compiled

TAU_OF_PEER = 1 / (1 - DECAY)
NEURONS, STEPS, STEPS_OF_RESERVOIR = 1000, 100, 1000
SAME = 50
"""Steps of the reservoir that are compared: later, a spike that rounding flips has changed all others."""
FLIPPED = 1e-3
"""Share of spikes that rounding at the threshold may flip."""


def jelly(module: str) -> Any:
    return require(f"spikingjelly.activation_based.{module}", "peers")


def their_neuron(step_mode: str) -> nn.Module:
    """LIF with hard reset and no decay of the input."""
    return jelly("neuron").LIFNode(
        tau=TAU_OF_PEER, decay_input=False, v_threshold=1.0, v_reset=0.0,
        surrogate_function=jelly("surrogate").ATan(alpha=2.0), detach_reset=False, step_mode=step_mode,
    )  # fmt: skip


# -- training step ------------------------------------------------------------------------------------


def their_network() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The same weights and neurons in SpikingJelly's multi-step mode: module, and pass to mean spikes (B, 10)."""
    layers: list[nn.Module] = []
    for linear in linears():
        layer = jelly("layer").Linear(linear.in_features, linear.out_features, bias=False, step_mode="m")
        layer.load_state_dict(linear.state_dict())
        layers += [layer, their_neuron("m")]
    module = nn.Sequential(*layers)

    def forward(x: Tensor) -> Tensor:
        jelly("functional").reset_net(module)
        return module(x).mean(0)

    return module, forward


def loop() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    module = Loop()
    return module, module


def step(name: str, make: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]]) -> Race:
    compiled, (module, forward) = ours(), make()
    x, _ = spikes_and_labels(STEPS)
    with torch.no_grad():
        apart = (forward(x) - compiled(x)).abs()
    assert apart.mean() < FLIPPED
    facts = {"batch": x.shape[1], "steps": STEPS, "outputs_differ_by": float(apart.max())}
    peers = {name: training_step(module, forward, STEPS)}
    return Race(training_step(compiled, compiled, STEPS), peers, goal=1.25, facts=facts)


# -- reservoir ----------------------------------------------------------------------------------------


def reservoir() -> Compiled:
    """1,000 neurons, driven by 100 inputs, at a few per cent of activity."""
    with Net(1.0) as net:
        x = Input(100, "spikes")
        r = Group(NEURONS, LIF(tau_m=2.0))
        _ = x >> Full(init=("normal", 0.02, 0.08)) >> r
        _ = r >> Sparse(0.1, init=("normal", 0.0, 0.06), delay=Uniform(1, 5)) >> r
        net.record(r, "spike")
    return compile_net(net).eval()


class PlainNeurons(nn.Module):
    """One step of LIF neurons at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.v = torch.zeros(1, NEURONS)

    def forward(self, current: Tensor) -> Tensor:
        u = DECAY * self.v + current
        fired = (u > 1).float()
        self.v = u * (1 - fired)
        return fired


def over_time(module: Compiled, make_neurons: Callable[[], nn.Module], x: Tensor) -> Tensor:
    """The reservoir as people write it: a matrix for each delay, a list of past spikes, a loop over time."""
    into, recurrent = module.wires()
    weights, taps = into.current_weight(), recurrent.taps()
    neurons = make_neurons().eval()
    past, spikes = [torch.zeros(1, NEURONS)] * 6, []
    for now in x:
        current = now @ weights.mT
        for lag, weight in taps:
            current = current + past[-lag] @ weight.mT
        past = [*past[1:], neurons(current)]
        spikes.append(past[-1])
    return torch.stack(spikes)


def recurrent(name: str, make_neurons: Callable[[], nn.Module]) -> Race:
    module = reservoir()
    x = (torch.rand(STEPS_OF_RESERVOIR, 1, 100, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    by_events: Callable[[], Tensor] = torch.inference_mode()(lambda: (module(x), module.trace["r.spike"])[1])
    by_steps: Callable[[], Tensor] = torch.inference_mode()(lambda: over_time(module, make_neurons, x))
    spikes = by_events()
    assert (by_steps()[:SAME] - spikes[:SAME]).abs().mean() < FLIPPED
    facts = {"steps": STEPS_OF_RESERVOIR, "spikes_a_step": round(float(spikes.mean()), 3)}
    return Race(by_events, {name: by_steps}, goal=None, facts=facts)


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "training step, loop": partial(step, "plain torch", loop),
            "training step, SpikingJelly": partial(step, "SpikingJelly, multi-step", their_network),
            "reservoir, loop": partial(recurrent, "plain torch", PlainNeurons),
            "reservoir, SpikingJelly": partial(recurrent, "SpikingJelly, single step", lambda: their_neuron("s")),
        },
    )
