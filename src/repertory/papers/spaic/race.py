"""The contestants of the speed claim: a training step of one network, compiled, and as a plain loop over time.

784 inputs, 256 and 10 LIF neurons without bias, batch 64; forward, backward, one step of Adam.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.nn.spiking import Atan, spike
from repertory.papers.spaic.describe.connections import Full
from repertory.papers.spaic.describe.network import Group, Input, Net
from repertory.papers.spaic.describe.neurons import LIF
from repertory.papers.spaic.run.compiled import compile_net

SIZES = (784, 256, 10)
BATCH, TAU = 64, 2.0
DECAY = 0.6065306597126334  # e^(-1 / TAU)


def spikes_and_labels(steps: int) -> tuple[Tensor, Tensor]:
    """Random spikes (T, B, 784) with p = 0.2, and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(steps, BATCH, SIZES[0], generator=generator) < 0.2).float()
    return x, torch.randint(SIZES[-1], (BATCH,), generator=generator)


def training_step(model: nn.Module, forward: Callable[[Tensor], Tensor], steps: int) -> Callable[[], float]:
    """A function that takes one step (forward, backward, Adam) and returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, labels = spikes_and_labels(steps)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def linears() -> nn.ModuleList:
    """Layers with the same weights for every contestant, large enough for both populations to fire."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(SIZES))
    for layer in layers:
        nn.init.normal_(cast(nn.Linear, layer).weight, std=0.15, generator=torch.Generator().manual_seed(0))
    return layers


def ours() -> nn.Module:
    """The compiled network."""
    with Net(1.0) as net:
        here = Input(SIZES[0], "spikes")
        for layer in linears():
            weight = cast(nn.Linear, layer).weight.detach()
            here = here >> Full(weight=weight) >> Group(len(weight), LIF(tau_m=TAU))
        cast(Group, here).read("spike_rate")
    return compile_net(net, surrogate=Atan(2.0))


class Loop(nn.Module):
    """The same network as a loop over time, one layer after the other in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = linears()

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, 784) -> mean spikes (B, 10)."""
        potentials = [x.new_zeros(x.shape[1], size) for size in SIZES[1:]]
        total = torch.zeros_like(potentials[-1])
        for spikes in x:
            for n, layer in enumerate(self.layers):
                u = DECAY * potentials[n] + layer(spikes)
                spikes = spike(u - 1.0, Atan(2.0))
                potentials[n] = u * (1 - spikes)
            total = total + spikes
        return total / len(x)


def step_of_ours(steps: int) -> Callable[[], float]:
    """A training step of ours."""
    model = ours()
    return training_step(model, model, steps)


def step_of_loop(steps: int) -> Callable[[], float]:
    """A training step of the loop."""
    model = Loop()
    return training_step(model, model, steps)
