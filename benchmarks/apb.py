"""Cost of association relative to plain convolution; our LIF network compared with SpikingJelly's multi-step mode.

    python benchmarks/apb.py [--threads 1] [--rounds 7] [--output FILE.json]

The contestants alternate on one batch; results are medians of the paired ratios. Three tables:

    layers    a convolution without and with association; inference, and a training step (forward and backward)
    networks  the same for whole networks: convolution, tdBN, LIF, pooling, read-out
    LIF       the plain network compared with SpikingJelly's layers (step_mode "m", backend torch; detach_reset off,
              since our gradient passes through the reset); outputs and gradients are compared first, in float64

Cost is time relative to the plain version. Without SpikingJelly the third table is skipped; to install it:
pip install 'repertory[peers]', or without its dependencies: pip install --no-deps spikingjelly loguru
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.problem import Problem, require
from repertory.core.timing import race, ratio
from repertory.nn.spiking import LIF, ThresholdBatchNorm2d
from repertory.papers.apb import APBConv2d, APBNet
from repertory.papers.apb.model import Mode

MODES: tuple[Mode | None, ...] = (None, "shared", "pair")
LAYERS = {"16 -> 32, 32 px, 150 images": (150, 16, 32, 32), "64 -> 128, 48 px, 40 images": (40, 64, 128, 48)}
"""Images (batch times steps), channels in and out, height and width: the laptop's second layer and the paper's."""
NETWORKS: dict[str, tuple[str, int, int, int]] = {
    "laptop: 32 px, T = 6, batch 25": ("16C3-AP2-32C3-AP2-32C3-AP2", 32, 6, 25),
    "lightweight: 48 px, T = 10, batch 4": ("lightweight", 48, 10, 4),
}
DENSITY = 0.15
"""Share of the synapses that are active."""


def conv(mode: Mode | None, inside: int, outside: int) -> nn.Conv2d:
    shape: dict[str, Any] = {"padding": 1, "bias": False}
    if mode is None:
        return nn.Conv2d(inside, outside, 3, **shape)
    return APBConv2d(inside, outside, 3, mode=mode, **shape)


def network(name: str, mode: Mode | None) -> tuple[APBNet, Tensor]:
    """A network, and an input of event counts, mostly 0."""
    plan, size, steps, batch = NETWORKS[name]
    torch.manual_seed(0)
    model = APBNet([str(k) for k in range(10)], plan, (size, size), steps, mode=mode)
    return model, torch.poisson(torch.full((batch, 2, size, size, steps), DENSITY))


def spikingjelly(part: str) -> Any:
    return require(f"spikingjelly.activation_based.{part}", extra="peers")


def spikingjelly_network(ours: APBNet) -> nn.Module:
    """The same network and weights, built from SpikingJelly's layers."""
    layer, neuron, surrogate = (spikingjelly(part) for part in ("layer", "neuron", "surrogate"))
    built: list[nn.Module] = []
    for module in ours.net:
        inner = next(module.children(), module)
        if isinstance(inner, nn.Conv2d):
            shape = inner.in_channels, inner.out_channels, inner.kernel_size
            made = layer.Conv2d(*shape, padding=inner.padding, bias=False, step_mode="m")
            made.load_state_dict(inner.state_dict())
        elif isinstance(inner, nn.AvgPool2d):
            made = layer.AvgPool2d(inner.kernel_size, step_mode="m")
        elif isinstance(inner, ThresholdBatchNorm2d):
            made = layer.ThresholdDependentBatchNorm2d(1.0, 0.5, inner.num_features)  # its weight starts at alpha v_th
        elif isinstance(inner, LIF):
            made = neuron.LIFNode(
                tau=2.0,
                decay_input=False,
                # SpikingJelly fires at u >= threshold, ours at u > threshold.
                v_threshold=float(np.nextafter(inner.threshold, np.inf)),  # in float64, where outputs are compared
                surrogate_function=surrogate.Rect(),
                step_mode="m",
            )
        elif isinstance(inner, nn.Flatten):
            made = layer.Flatten(step_mode="m")
        else:
            assert isinstance(inner, nn.Linear)
            made = layer.Linear(inner.in_features, inner.out_features, step_mode="m")
            made.load_state_dict(inner.state_dict())
        built.append(made)
    return nn.Sequential(*built)


def inference(model: nn.Module, x: Tensor, reset: Callable[[], object] = lambda: None) -> Callable[[], Tensor]:
    def run() -> Tensor:
        reset()
        with torch.inference_mode():
            return model(x)

    return run


def training(model: nn.Module, x: Tensor, reset: Callable[[], object] = lambda: None) -> Callable[[], Tensor]:
    """Forward and backward pass, without optimizer."""

    def run() -> Tensor:
        reset()
        model.zero_grad()
        out = model(x)
        out.square().mean().backward()
        return out.detach()

    return run


def row(title: str, what: str, runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, Any]:
    """Race; print milliseconds and costs relative to the first contestant."""
    times = race(runs, range(1 + rounds))
    first = next(iter(runs))
    medians = {name: 1000 * float(np.median(values)) for name, values in times.items()}
    costs = {name: ratio(times, first, name) for name in runs}
    cells = "".join(f"{medians[name]:9.1f} ms{costs[name]:6.2f}" for name in runs)
    print(f"{title:38}{what:10}{cells}")
    return {"case": title, "what": what, "milliseconds": medians, "cost": costs}


def associations(rounds: int) -> list[dict[str, Any]]:
    records = []
    print(f"\n{'':48}" + "".join(f"{mode or 'plain':>12}{'cost':>6}" for mode in MODES))
    for title, (count, inside, outside, size) in LAYERS.items():
        x = (torch.rand(count, inside, size, size) < DENSITY).float()
        layers = {mode or "plain": conv(mode, inside, outside) for mode in MODES}
        leaf = x.clone().requires_grad_()  # as the input of a hidden layer
        records.append(row(title, "inference", {name: inference(m, x) for name, m in layers.items()}, rounds))
        records.append(row(title, "training", {name: training(m, leaf) for name, m in layers.items()}, rounds))
    for title in NETWORKS:
        pairs = {mode or "plain": network(title, mode) for mode in MODES}
        records.append(row(title, "inference", {n: inference(m.eval(), x) for n, (m, x) in pairs.items()}, rounds))
        records.append(row(title, "training", {n: training(m.train(), x) for n, (m, x) in pairs.items()}, rounds))
    return records


def beside_spikingjelly(rounds: int) -> list[dict[str, Any]]:
    try:
        functional = spikingjelly("functional")
    except Problem as problem:
        print(f"\n{problem}")
        return []
    records = []
    print(f"\n{'':48}{'ours':>12}{'cost':>6}{'SpikingJelly':>12}{'cost':>6}")
    for title in NETWORKS:
        model, x = network(title, None)
        x = model.time_first(x)
        ours, theirs = model.net, spikingjelly_network(model)

        def reset(net: nn.Module = theirs) -> None:
            functional.reset_net(net)

        # float64: in float32 the two round differently, which flips spikes near the threshold.
        exact = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
        outputs = [training(net, x.double(), partial(functional.reset_net, net))() for net in exact]
        difference = (outputs[0] - outputs[1]).abs().max()
        one, other = (next(net.parameters()).grad for net in exact)
        assert one is not None
        assert other is not None
        apart = float((one - other).abs().max() / other.abs().max())
        print(f"{title}: outputs differ by {difference:.1e}, gradients of the first weights by {apart:.1e} at most")
        for net in (ours, theirs):
            net.eval()
        runs = {"ours": inference(ours, x), "SpikingJelly": inference(theirs, x, reset)}
        records.append(row(title, "inference", runs, rounds))
        for net in (ours, theirs):
            net.train()
        runs = {"ours": training(ours, x), "SpikingJelly": training(theirs, x, reset)}
        records.append(row(title, "training", runs, rounds))
    return records


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    records = [*associations(given.rounds), *beside_spikingjelly(given.rounds)]
    if given.output:
        write_json(given.output, {"threads": given.threads, "torch": torch.__version__, "records": records})


if __name__ == "__main__":
    main()
