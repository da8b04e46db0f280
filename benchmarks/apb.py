"""Cost of association relative to plain convolution; our LIF network beside SpikingJelly's multi-step mode.

    python benchmarks/apb.py

- network, inference and training (forward and backward): a plain network of ours, convolution, tdBN, LIF, pooling and
  read-out. Peer: the same weights in SpikingJelly's layers (step_mode "m", backend torch; detach_reset off, since our
  gradient passes through the reset). The laptop's network (32 px, 6 steps, batch 25) and the lightweight one (48 px, 10
  steps, batch 2). Outputs and gradients are compared in float64: in float32 the two round differently, which flips
  spikes near the threshold.
- association: a training step of a layer and of both networks with each mode of association. Peer: the same without
  association; no goal, the ratio tells what association costs.

SpikingJelly: pip install 'repertory[peers]', or without its dependencies: pip install --no-deps spikingjelly loguru
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from repertory.core.bench import Race, bench
from repertory.core.problem import require
from repertory.nn.spiking import LIF, ThresholdBatchNorm2d
from repertory.papers.apb import APBConv2d, APBNet
from repertory.papers.apb.model import Mode

NETWORKS: dict[str, tuple[str, int, int, int]] = {
    "laptop": ("16C3-AP2-32C3-AP2-32C3-AP2", 32, 6, 25),
    "lightweight": ("lightweight", 48, 10, 2),
}
"""Plan, height and width, time steps, batch."""
DENSITY = 0.15
"""Share of the synapses that are active."""


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


def inference(model: nn.Module, x: Tensor, reset: Callable[[], object] = lambda: None) -> Tensor:
    reset()
    with torch.inference_mode():
        return model(x)


def training(model: nn.Module, x: Tensor, reset: Callable[[], object] = lambda: None) -> Tensor:
    """Forward and backward pass, without optimizer."""
    reset()
    model.zero_grad()
    out = model(x)
    out.square().mean().backward()
    return out.detach()


def beside_spikingjelly(name: str, work: Callable[..., Tensor]) -> Race:
    functional = spikingjelly("functional")
    model, x = network(name, None)
    x = model.time_first(x)
    ours, theirs = model.net, spikingjelly_network(model)
    exact = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    torch.testing.assert_close(*(training(net, x.double(), partial(functional.reset_net, net)) for net in exact))
    torch.testing.assert_close(*(next(net.parameters()).grad for net in exact))
    for net in (ours, theirs):
        net.train(work is training)
    reset = partial(functional.reset_net, theirs)
    return Race(
        partial(work, ours, x),
        {"SpikingJelly": partial(work, theirs, x, reset)},
        memory=work is training,
        facts={"batch": NETWORKS[name][3]},
    )


def associated_layer(mode: Mode) -> Race:
    """The paper's second layer on 20 images (batch times steps), as a hidden layer: its input takes a gradient."""
    x = (torch.rand(20, 64, 48, 48) < DENSITY).float().requires_grad_()
    shape: dict[str, Any] = {"padding": 1, "bias": False}
    ours, plain = APBConv2d(64, 128, 3, mode=mode, **shape), nn.Conv2d(64, 128, 3, **shape)
    return Race(partial(training, ours, x), {"convolution": partial(training, plain, x)}, goal=None, memory=False)


def associated_network(name: str, mode: Mode) -> Race:
    ours, plain = (partial(training, *network(name, kind)) for kind in (mode, None))
    return Race(ours, {"without association": plain}, goal=None, memory=False)


RACES: dict[str, Callable[[], Race]] = {
    f"{name}, {work.__name__}": partial(beside_spikingjelly, name, work)
    for name in NETWORKS
    for work in (inference, training)
}
for mode in get_args(Mode):
    RACES[f"association {mode}, layer"] = partial(associated_layer, mode)
    RACES |= {f"association {mode}, {name}": partial(associated_network, name, mode) for name in NETWORKS}

if __name__ == "__main__":
    bench(__doc__, RACES)
