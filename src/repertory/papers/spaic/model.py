"""The networks of the study, and classifiers that are saved with their description and weights."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_positive, check_range, check_whole
from repertory.core.problem import Problem
from repertory.nn.spiking import (
    Atan,
    Gate,
    Rectangle,
    ReLULike,
    Sigmoid,
    Stbp,
    Stca,
    StraightThrough,
    Surrogate,
    Triangle,
)
from repertory.papers.spaic.describe.connections import Full, Lateral
from repertory.papers.spaic.describe.draws import Draws
from repertory.papers.spaic.describe.encoders import Encoder
from repertory.papers.spaic.describe.network import Group, Input, Net
from repertory.papers.spaic.describe.neurons import MODELS, Neuron
from repertory.papers.spaic.describe.rules import NearestSTDP
from repertory.papers.spaic.describe.synapses import Shape
from repertory.papers.spaic.exchange.json import from_json
from repertory.papers.spaic.run.compiled import Compiled, compile_net

SURROGATES: dict[str, type[Surrogate]] = {
    "stca": Stca, "stbp": Stbp, "atan": Atan, "sigmoid": Sigmoid, "rectangle": Rectangle, "gate": Gate,
    "triangle": Triangle, "relu": ReLULike, "straight_through": StraightThrough,
}  # fmt: skip
"""The official code's name -> surrogate (its quadratic gate is our triangle)."""


def mlp(
    shape: Shape, widths: list[int], classes: int, encode: str | Encoder, model: str | Neuron, dt: float = 1.0
) -> Net:
    """Fully connected populations; the read-out counts the output's spikes.

    Args:
        shape: of one sample.
        widths: sizes of the hidden populations.
        classes: size of the output.
        encode: see `Input`.
        model: neuron model of all populations.
        dt: length of a step, ms.

    Raises:
        Problem: a size below 1, a step that is not positive and finite, or an unknown encoder or model.

    Example:
        >>> print(mlp((784,), [256], 10, "poisson", "lif").summary().splitlines()[-1])
        hidden >> Full >> output 2560
    """
    with Net(dt) as net:
        here: Any = Input(shape, encode, name="input")
        for n, width in enumerate(widths):
            here = here >> Full(init="kaiming") >> Group(width, model, name=f"hidden{n or ''}")
        # A positive mean: under a box surrogate, an output that never fires gets no gradient, and never will fire.
        here = here >> Full(init=("normal", 0.05, 0.05)) >> Group(classes, model, name="output")
        here.read("spike_counts")
        net.record(here, *(name for name in ("spike", "v") if name == "spike" or name in here.model.start))
        for group in net.groups[:-1]:
            net.record(group, "spike")
    return net


def winner_take_all(
    shape: Shape, neurons: int, encode: str | Encoder, *, rate: float, w_norm: float, theta_plus: float, dt: float = 1.0
) -> Net:
    """Unsupervised learning of prototypes (Diehl and Cook, 2015): STDP from the input, and lateral inhibition.

    Each spike raises its neuron's threshold, so that all neurons take part; at most one neuron fires per step.

    Args:
        shape: of one sample.
        neurons: number of excitatory neurons.
        encode: see `Input`.
        rate: potentiation at a spike; depression is a hundredth of it.
        w_norm: sum of the weights onto a neuron.
        theta_plus: mV by which a spike raises the threshold.
        dt: length of a step, ms.

    Raises:
        Problem: a negative rate or `theta_plus`, `w_norm` or `dt` that is not positive, a size below 1, or an unknown
            encoder.
    """
    check_range("winner_take_all", 0, math.inf, rate=rate, theta_plus=theta_plus)
    check_positive("winner_take_all", w_norm=w_norm)
    with Net(dt) as net:
        x = Input(shape, encode)
        e = Group(neurons, MODELS["lifstdp_ex"](theta_plus=theta_plus, winner=1.0), labels=["exc"])
        stdp = NearestSTDP(a_post=rate, a_pre=rate / 100, w_norm=w_norm, batch_rule="sum")
        _ = x >> Full(init=("uniform", 0.0, 0.3), rule=stdp) >> e
        _ = e >> Lateral(init=-20.0, trainable=False) >> e
        e.read("spike_counts")
        net.record(e, "spike")
    return net


class SpikingClassifier(nn.Module, PyTorchModelHubMixin):
    """A network with a read-out, its weights, and the range of its data.

    Args:
        network: description by `to_json`.
        labels: names of the classes.
        steps: number of time steps per sample; spikes bring their own.
        mode, latency: see `compile_net`.
        surrogate, alpha: derivative of a spike: a name in `SURROGATES`, and its parameter.
        votes: whether the read-out's neurons vote for classes (`assign`) instead of being classes.
        events: whether the data are spikes (T, B, N) rather than values (B, *shape).
    """

    low: Tensor
    high: Tensor
    votes: Tensor | None

    def __init__(
        self,
        network: dict[str, Any],
        labels: list[str],
        steps: int,
        mode: Literal["auto", "layerwise", "step"] = "auto",
        latency: Literal[0, 1] = 0,
        surrogate: str = "stca",
        alpha: float = 0.5,
        votes: bool = False,
        events: bool = False,
    ) -> None:
        super().__init__()
        check_whole("SpikingClassifier", steps=steps)
        check_choice("SpikingClassifier", SURROGATES, surrogate=surrogate)
        check_positive("SpikingClassifier", alpha=alpha)
        self.labels, self.steps, self.events = labels, steps, events
        net = from_json(network)
        self.network: Compiled = compile_net(net, mode, SURROGATES[surrogate](alpha), latency)
        neurons = net.readouts[0][0].size if net.readouts else 0
        scores = neurons // net.readouts[0][1].pop_size if net.readouts else 0
        if not labels or (not votes and scores != len(labels)):
            remedy = "give one label a score, or let neurons vote (votes=True)"
            raise Problem(f"{len(labels)} labels for {scores} scores", "SpikingClassifier", remedy)
        self.register_buffer("votes", torch.zeros(len(labels), neurons) if votes else None)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def scaled(self, x: Tensor) -> Tensor:
        """Values (B, *shape) scaled to [0, 1]; spikes unchanged."""
        return x if self.events else ((x - self.low) / (self.high - self.low)).clamp(0, 1)

    def forward(self, x: Tensor, generator: Draws = None) -> Tensor:
        """Scores (B, C) of values (B, *shape), or of spikes (T, B, N)."""
        counts = self.counts(x, generator)
        return counts if self.votes is None else counts @ self.votes.mT

    def counts(self, x: Tensor, generator: Draws = None) -> Tensor:
        """The network's read-out, (B, N), of values (B, *shape), or of spikes (T, B, N)."""
        return self.network(self.scaled(x), None if self.events else self.steps, generator=generator)

    @torch.no_grad()
    def assign(self, counts: Tensor, labels: Tensor) -> None:
        """Set each neuron's votes to its mean spike counts per class, normalised.

        Args:
            counts: (n, N).
            labels: (n,).
        """
        votes = cast(Tensor, self.votes)
        samples = torch.bincount(labels, minlength=len(self.labels)).clamp(min=1)
        means = torch.zeros_like(votes).index_add_(0, labels, counts) / samples[:, None]
        votes.copy_(nn.functional.normalize(means, dim=0))


class Perceptron(nn.Module, PyTorchModelHubMixin):
    """The baseline without spikes: an MLP of the same widths with ReLU; spikes are summed over time.

    Args:
        shape: of one sample.
        widths: sizes of the hidden layers.
        labels: names of the classes.
        events: whether the data are spikes (T, B, N) rather than values (B, *shape).
    """

    low: Tensor
    high: Tensor

    def __init__(self, shape: list[int], widths: list[int], labels: list[str], events: bool = False) -> None:
        super().__init__()
        check_whole("Perceptron", shape=shape)
        check_whole("Perceptron", **{f"widths[{i}]": width for i, width in enumerate(widths)})
        check_whole("Perceptron", labels=len(labels))
        self.shape, self.labels, self.events = shape, labels, events
        sizes = [int(torch.Size(shape).numel()), *widths, len(labels)]
        layers: list[nn.Module] = [nn.Flatten()]
        for inside, outside in itertools.pairwise(sizes):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def forward(self, x: Tensor, generator: Draws = None) -> Tensor:
        """Logits (B, C) of values (B, *shape), or of spikes (T, B, N)."""
        lead = "(T, B)" if self.events else "(B)"
        if tuple(x.shape[2 if self.events else 1 :]) != tuple(self.shape):
            remedy = f"give {lead} + {tuple(self.shape)}"
            raise Problem(f"data of shape {tuple(x.shape)} for samples of {tuple(self.shape)}", "Perceptron", remedy)
        x = x.sum(0) if self.events else (x - self.low) / (self.high - self.low)
        return self.layers(x)


Classifier = SpikingClassifier | Perceptron
"""Models of the study's arms."""
