"""Trigger and image updates, raced with the loops that the authors' code is described to have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.timing import race
from repertory.papers.doorping.distill import is_wide
from repertory.papers.doorping.model import EPS, matching_loss, patch_mask, stamp, update_trigger
from repertory.papers.doorping.networks import Network, network

STEPS = 100
"""Of a trigger update."""
SHAPES = {"mini": (1, 16, 64, 5), "convnet": (3, 32, 256, 10), "alexnet": (3, 32, 256, 10)}
"""Network -> channels, pixels, real and distilled images of a class."""
CLASSES = 10


def trigger_loop(net: Network, trigger: Tensor, mask: Tensor, steps: int, alpha: float = 10.0) -> Tensor:
    """The update as the reference has it: a new hook in every step, the whole network, gradients of all weights.

    The hook keeps the activation after the ReLU, as it does in the reference, where that ReLU works in place.
    """
    net = copy.deepcopy(net).eval()  # the hooks stay
    neuron = net.hidden.weight.detach().abs().sum(1).topk(1).indices
    image = trigger.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.08, betas=(0.9, 0.99))
    goal: Tensor | None = None
    for _ in range(steps):
        seen: list[Tensor] = []
        net.classifier[-2].register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output))
        net(image)
        activation = seen[0][:, neuron]
        goal = alpha * activation.detach() if goal is None else goal
        loss = F.mse_loss(activation, goal)
        optimizer.zero_grad()
        loss.backward()
        assert image.grad is not None
        image.grad *= mask
        optimizer.step()
    return image.detach()


def matching_loop(net: Network, real: Sequence[Tensor], images: Tensor) -> Tensor:
    """Gradient of the images as the reference computes it: class by class, all weights, one backward pass at the end.

    Args:
        net: of this moment.
        real: for each class (n, C, S, S).
        images: (classes, ipc, C, S, S), a leaf.
    """
    parameters = list(net.parameters())
    total = torch.zeros(())
    for label, (x, own) in enumerate(zip(real, images, strict=True)):
        target = torch.full((len(x),), label), torch.full((len(own),), label)
        expected = [g.detach().clone() for g in torch.autograd.grad(F.cross_entropy(net(x), target[0]), parameters)]
        found = torch.autograd.grad(F.cross_entropy(net(own), target[1]), parameters, create_graph=True)
        for one, other in zip(expected, found, strict=True):
            if one.ndim > 1:
                a, b = one.flatten(1), other.flatten(1)
                total = total + (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPS)).sum()
    images.grad = None
    net.zero_grad()
    total.backward()
    assert images.grad is not None
    return images.grad


def matching_step(net: Network, real: Sequence[Tensor], images: Tensor) -> Tensor:
    """The same gradient as `distil_dc` computes it."""
    return torch.autograd.grad(matching_loss(net, real, images, vectorised=not is_wide(net)), images)[0]


def contestants(name: str) -> dict[str, Callable[[], object]]:
    """The four updates on one network, by name; random images."""
    channels, size, real_count, count = SHAPES[name]
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network(name, CLASSES, channels, size)
    nn.init.ones_(net.hidden.bias)  # the neuron is alive
    mask = patch_mask(channels, size, 2)
    black = torch.full((1, channels, size, size), -1.0)
    trigger = stamp(black, 2 * torch.rand(black.shape, generator=draw), mask)
    real = [torch.randn(real_count, channels, size, size, generator=draw) for _ in range(CLASSES)]
    images = torch.randn(CLASSES, count, channels, size, size, generator=draw).requires_grad_()
    return {
        "trigger": partial(update_trigger, net, trigger, mask, steps=STEPS, tolerance=0.0),
        "trigger_loop": partial(trigger_loop, net, trigger, mask, STEPS),
        "matching": partial(matching_step, net, real, images),
        "matching_loop": partial(matching_loop, net, real, images),
    }


def race_steps(name: str, rounds: Iterable[int]) -> dict[str, NDArray[np.float64]]:
    """Seconds of each contestant in each round."""
    with torch.enable_grad():
        return race(contestants(name), rounds)
