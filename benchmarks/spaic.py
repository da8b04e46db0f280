"""Speed of SPAIC's compiled networks beside SpikingJelly and plain torch.

    python benchmarks/spaic.py [--rounds 9] [--profile]

W1: a training step (forward, backward, Adam) of 784-256-10 LIF neurons, batch 64, T = 100.
W2: a reservoir of 1000 LIF neurons, a tenth of all synapses, delays of 1 to 5 ms, T = 1000, batch 1, no gradient.

One thread. A ratio is measured in one run: contestants take turns, and the median of the paired ratios counts (above 1:
ours is faster). SpikingJelly takes part if it is installed: pip install 'repertory[peers]'. Its LIF decays by
1 - 1/tau where ours decays by e^(-dt/tau); tau is chosen so that both are the same, and outputs are compared first.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repertory.core.timing import race, ratio
from repertory.papers.spaic import LIF, Full, Group, Input, Net, Sparse, Uniform, compile_net
from repertory.papers.spaic.race import DECAY, Loop, linears, ours, spikes_and_labels, training_step
from repertory.papers.spaic.run.compiled import Compiled

TAU_OF_PEER = 1 / (1 - DECAY)
NEURONS, STEPS_W1, STEPS_W2 = 1000, 100, 1000


def peer() -> Any:
    """SpikingJelly's neurons, surrogates, containers and reset; None where it is not installed."""
    try:
        names = ("neuron", "surrogate", "layer", "functional")
        return {name: importlib.import_module(f"spikingjelly.activation_based.{name}") for name in names}
    except ImportError:
        return None


# -- W1 -----------------------------------------------------------------------------------------------


def their_network(jelly: Any) -> nn.Module:
    """The same weights and neurons in SpikingJelly's multi-step mode."""
    layers: list[nn.Module] = []
    for linear in linears():
        layer = jelly["layer"].Linear(linear.in_features, linear.out_features, bias=False, step_mode="m")  # pyright: ignore[reportArgumentType]
        layer.load_state_dict(linear.state_dict())
        layers += [layer, their_neuron(jelly)]
    return nn.Sequential(*layers)


def their_neuron(jelly: Any, step_mode: str = "m") -> nn.Module:
    """LIF with hard reset and no decay of the input."""
    return jelly["neuron"].LIFNode(
        tau=TAU_OF_PEER, decay_input=False, v_threshold=1.0, v_reset=0.0,
        surrogate_function=jelly["surrogate"].ATan(alpha=2.0), detach_reset=False, step_mode=step_mode,
    )  # fmt: skip


def w1(jelly: Any) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """Contestants: the module, and its forward pass to mean spikes (B, 10)."""
    found: dict[str, Any] = {}
    for name, module in (("ours", ours()), ("loop", Loop())):
        found[name] = module, module
    if jelly:
        theirs = their_network(jelly)

        def forward(x: Tensor) -> Tensor:
            jelly["functional"].reset_net(theirs)
            return theirs(x).mean(0)

        found["spikingjelly"] = theirs, forward
    return found


# -- W2 -----------------------------------------------------------------------------------------------


def reservoir() -> Compiled:
    """1000 neurons, driven by 100 inputs, at a few per cent of activity."""
    torch.manual_seed(0)
    with Net(1.0) as net:
        x = Input(100, "spikes")
        r = Group(NEURONS, LIF(tau_m=2.0))
        _ = x >> Full(init=("normal", 0.02, 0.08)) >> r
        _ = r >> Sparse(0.1, init=("normal", 0.0, 0.06), delay=Uniform(1, 5)) >> r
        net.record(r, "spike")
    return compile_net(net).eval()


def plain_torch(module: Compiled, x: Tensor) -> Tensor:
    """The reservoir as people write it: a matrix for each delay, a list of past spikes, a loop over time."""
    into, recurrent = module.wires()
    weights, taps = into.current_weight(), recurrent.taps()
    past = [torch.zeros(1, NEURONS)] * 6
    v, spikes = torch.zeros(1, NEURONS), []
    for now in x:
        current = now @ weights.mT
        for lag, weight in taps:
            current = current + past[-lag] @ weight.mT
        u = DECAY * v + current
        fired = (u > 1).float()
        v = u * (1 - fired)
        past = [*past[1:], fired]
        spikes.append(fired)
    return torch.stack(spikes)


def their_steps(jelly: Any, module: Compiled, x: Tensor) -> Tensor:
    """The same loop around SpikingJelly's single-step neuron."""
    into, recurrent = module.wires()
    weights, taps = into.current_weight(), recurrent.taps()
    node = their_neuron(jelly, "s").eval()
    past = [torch.zeros(1, NEURONS)] * 6
    spikes = []
    for now in x:
        current = now @ weights.mT
        for lag, weight in taps:
            current = current + past[-lag] @ weight.mT
        past = [*past[1:], node(current)]
        spikes.append(past[-1])
    return torch.stack(spikes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="where our time goes, by torch's profiler")
    given = parser.parse_args()
    torch.set_num_threads(1)
    jelly = peer()
    if jelly is None:
        print("SpikingJelly is not installed: pip install 'repertory[peers]'")

    contestants = w1(jelly)
    x, _ = spikes_and_labels(STEPS_W1)
    with torch.no_grad():
        outputs = {name: forward(x) for name, (_, forward) in contestants.items()}
    apart = max(float((y - outputs["ours"]).abs().max()) for y in outputs.values())
    print(f"W1: {outputs['ours'].mean():.3f} spikes an output and step")
    steps = {name: training_step(module, forward, STEPS_W1) for name, (module, forward) in contestants.items()}
    tell("W1 training step", race(steps, range(1 + given.rounds)), apart)

    module, x = reservoir(), (torch.rand(STEPS_W2, 1, 100, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    with torch.no_grad():
        runs: dict[str, Callable[[], Tensor]] = {
            "ours": lambda: (module(x), module.trace["r.spike"])[1],
            "plain torch": lambda: plain_torch(module, x),
        }
        if jelly:
            runs["spikingjelly"] = lambda: their_steps(jelly, module, x)
        spikes = {name: run() for name, run in runs.items()}
        print(f"W2: {spikes['ours'].mean():.3f} spikes a neuron and step")
        apart = max(float((s[:50] - spikes["ours"][:50]).abs().max()) for s in spikes.values())
        tell("W2 reservoir", race(runs, range(1 + max(3, given.rounds // 3))), apart)
    if given.profile:
        for name, run in (("W1", steps["ours"]), ("W2", runs["ours"])):
            with torch.profiler.profile() as profile, torch.set_grad_enabled(name == "W1"):
                run()
            print(name, profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12), sep="\n")


def tell(title: str, times: dict[str, Any], apart: float) -> None:
    """Medians, and ratios to ours."""
    print(f"{title}, one thread; outputs differ by {apart:.1e} at most")
    for name, seconds in times.items():
        beside = "" if name == "ours" else f"{ratio(times, 'ours', name):7.2f} times ours"
        print(f"    {name:14}{1000 * float(np.median(seconds)):9.1f} ms{beside}")


if __name__ == "__main__":
    main()
