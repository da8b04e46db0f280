"""Sample weights that are learned: the weight prediction network and the gradient of its meta objective.

    w = constrain(wpn(losses), epsilon=0.8, axis="col")     # (n, K), one weight for each sample at each exit

The meta objective asks how a step on the weighted loss changes the loss of other samples, each at the exit where it
would leave. Its gradient needs d theta_hat / d w, of which only the product with one vector is ever used: see
`meta_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from repertory.core.problem import Problem

Axis = Literal["row", "col", "mat"]
Inputs = Literal["loss", "conf", "both"]
AXES: Mapping[str, tuple[int, ...]] = {"row": (0,), "col": (1,), "mat": (0, 1)}


class WeightPredictionNetwork(nn.Module):
    """Multilayer perceptron from a sample's losses, or confidences, at all exits to a number in (-1, 1) for each.

    Args:
        n_exits: K.
        inputs: "loss", "conf", or "both".
        hidden: units of a hidden layer.
        layers: hidden layers.

    Shape:
        (n, K), or (n, 2K) with "both" -> (n, K).

    Example:
        >>> sum(p.numel() for p in WeightPredictionNetwork(5).parameters())
        5505
    """

    def __init__(self, n_exits: int, inputs: Inputs = "loss", hidden: int = 500, layers: int = 1) -> None:
        super().__init__()
        self.inputs = inputs
        self.first = nn.Linear(n_exits * (2 if inputs == "both" else 1), hidden)
        self.rest = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.output = nn.Linear(hidden, n_exits)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.first(x))
        for layer in self.rest:
            x = F.relu(layer(x))
        return torch.tanh(self.output(x))

    def seen(self, losses: Tensor, confidences: Tensor) -> Tensor:
        """The input, from losses (n, K) and confidences (n, K); without gradient."""
        parts = {"loss": [losses], "conf": [confidences], "both": [losses, confidences]}[self.inputs]
        return torch.cat(parts, 1).detach().to(self.output.weight)


def constrain(g: Tensor, epsilon: float, axis: Axis) -> Tensor:
    """w = 1 + epsilon (g - mean g): weights (n, K) in (1 - 2 epsilon, 1 + 2 epsilon) that average 1.

    Args:
        g: (n, K), from -1 to 1.
        epsilon: of the equation.
        axis: "row" averages over the batch, "col" over the exits, "mat" over both.

    Example:
        >>> constrain(torch.tensor([[1.0, -1.0], [0.5, -0.5]]), 0.5, "col")
        tensor([[1.5000, 0.5000],
                [1.2500, 0.7500]])
    """
    return 1 + epsilon * (g - g.mean(AXES[axis], keepdim=True))


def rank_weights(losses: Tensor, epsilon: float) -> Tensor:
    """Weights (n, K) linear in the rank of the loss at each exit; at every exit they average 1.

    The first exit gives 1 + epsilon to the sample with the least loss and 1 - epsilon to that with the largest; the
    last exit the reverse; those in between are interpolated.

    Example:
        >>> rank_weights(torch.tensor([[0.1, 0.1], [0.7, 0.7], [0.3, 0.3]]), 0.5)
        tensor([[1.5000, 0.5000],
                [0.5000, 1.5000],
                [1.0000, 1.0000]])
    """
    n, exits = losses.shape
    rank = losses.argsort(0).argsort(0) / max(1, n - 1)  # 0 least, 1 largest
    slope = torch.linspace(1, -1, exits, device=losses.device)
    return 1 + epsilon * slope * (1 - 2 * rank)


def target_shares(index: int, n_exits: int) -> Tensor:
    """q_k proportional to (index / 20)^k: the share of samples that should leave at each exit, (K,) float64.

    Raises:
        Problem: the index is not within 1 … 39.

    Example:
        >>> [round(q, 4) for q in target_shares(15, 5).tolist()]
        [0.3278, 0.2458, 0.1844, 0.1383, 0.1037]
    """
    if not 1 <= index <= 39:
        raise Problem(f"target index {index}", "target_index", "choose 1 to 39: a larger one lets samples leave later")
    q = (torch.tensor(index / 20, dtype=torch.float64)) ** torch.arange(1, n_exits + 1)
    return q / q.sum()


def confidence(logits: Sequence[Tensor]) -> Tensor:
    """The largest softmax probability of each sample at each exit: K tensors (n, classes) -> (n, K)."""
    return torch.stack([one.softmax(1).amax(1) for one in logits], 1)


def allocate(confidences: Tensor, shares: Tensor) -> Tensor:
    """The exit (n,) of each sample: exit k takes the floor(n q_k) most confident of those left, the last one the rest.

    Args:
        confidences: (n, K).
        shares: q, (K,).

    Example:
        >>> allocate(torch.tensor([[0.2, 0.5], [0.9, 0.9], [0.4, 0.6], [0.3, 0.7]]), torch.tensor([0.5, 0.5]))
        tensor([1, 0, 0, 1])
    """
    n, exits = confidences.shape
    chosen = torch.full((n,), exits - 1, device=confidences.device)
    left = torch.ones(n, dtype=torch.bool, device=confidences.device)
    for k, share in enumerate(shares[:-1].tolist()):
        order = confidences[:, k].masked_fill(~left, -1).argsort(descending=True, stable=True)
        taken = order[: int(n * share)]
        chosen[taken] = k
        left[taken] = False
    return chosen


def sample_losses(logits: Sequence[Tensor], y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample at each exit: K tensors (n, classes) and labels (n,) -> (n, K)."""
    return torch.stack(
        [F.cross_entropy(one, y, reduction="none", label_smoothing=label_smoothing) for one in logits], 1
    )


def exit_means(losses: Tensor, exits: Tensor) -> Tensor:
    """Sum over exits of the mean loss of their samples; exits without samples count 0.

    Args:
        losses: (n, K).
        exits: the exit of each sample (n,).
    """
    at = F.one_hot(exits, losses.shape[1]).to(losses)  # (n, K)
    return ((losses * at).sum(0) / at.sum(0).clamp(min=1)).sum()


# -- the meta objective -------------------------------------------------------------------------


@dataclass(frozen=True)
class PseudoStep:
    """The SGD step that the meta objective looks ahead by."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __call__(self, p: Tensor, gradient: Tensor, buffer: Tensor | None) -> Tensor:
        """p - lr (momentum buffer + gradient + weight_decay p); the buffer is a constant."""
        d = gradient + self.weight_decay * p
        return p - self.lr * (d if buffer is None else self.momentum * buffer + d)


@dataclass(frozen=True)
class MetaObjective:
    """How samples are weighted, and what is asked of the step on them.

    Args:
        shares: target share of each exit, (K,).
        epsilon: see `constrain`.
        axis: see `constrain`.
        label_smoothing: of all losses.
    """

    shares: Tensor
    epsilon: float = 0.8
    axis: Axis = "col"
    label_smoothing: float = 0.0

    def weights(self, wpn: WeightPredictionNetwork, logits: Sequence[Tensor], losses: Tensor) -> Tensor:
        """w (n, K), with a graph to the parameters of `wpn` alone."""
        detached = [one.detach() for one in logits]
        return constrain(wpn(wpn.seen(losses.detach(), confidence(detached))), self.epsilon, self.axis)

    def value(self, logits: Sequence[Tensor], y: Tensor) -> Tensor:
        """The meta loss: each sample counts at the exit where it would leave."""
        with torch.no_grad():
            exits = allocate(confidence(logits), self.shares)
        return exit_means(sample_losses(logits, y, self.label_smoothing), exits)


Batch = tuple[Tensor, Tensor]
Parameters = dict[str, Tensor]
MetaGradient = Callable[..., tuple[list[Tensor], Tensor, Tensor]]


def meta_gradient(
    network: nn.Module,
    wpn: WeightPredictionNetwork,
    train: Batch,
    meta: Batch,
    objective: MetaObjective,
    step: PseudoStep,
    buffers: Mapping[str, Tensor | None],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradient of the meta loss with respect to the weight prediction network, by one forward-mode product.

    A step on L = sum_k mean_i w_ik l_ik(theta) leads to theta_hat, and d theta_hat / d w_ik = -(lr / n) grad l_ik.
    With v the gradient of the meta loss at theta_hat,

        d L_meta / d w_ik = -(lr / n) <grad l_ik, v> = -(lr / n) (d / ds) l_ik(theta + s v) at s = 0,

    which is one Jacobian-vector product of the loss matrix. Neither a second-order graph nor the graphs of both
    halves are held at a time. Momentum and weight decay add constants to theta_hat.

    Args:
        network: returns a list of logits; in training mode. Weights and batch-norm statistics stay as they are.
        wpn: of the weights.
        train: images and labels of the half that the step is taken on, n samples.
        meta: images and labels of the half that judges it.
        objective: weights and meta loss.
        step: the step.
        buffers: momentum buffer of each parameter of `network`, by name; None before the first step.

    Returns:
        Gradient of each parameter of `wpn`; the weighted loss; the meta loss.

    Raises:
        Problem: the network returns no list of logits.
    """
    theta = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    logits = _call(network, theta, train[0])
    losses = sample_losses(logits, train[1], objective.label_smoothing)
    w = objective.weights(wpn, logits, losses)  # (n, K)
    weighted = (w.detach() * losses).mean(0).sum()
    gradients = torch.autograd.grad(weighted, list(theta.values()), allow_unused=True, materialize_grads=True)
    del logits, losses
    with torch.no_grad():
        hat = {
            name: step(p, g, buffers.get(name)).requires_grad_()
            for (name, p), g in zip(theta.items(), gradients, strict=True)
        }
    del gradients

    meta_loss = objective.value(_call(network, hat, meta[0]), meta[1])
    v = torch.autograd.grad(meta_loss, list(hat.values()), allow_unused=True, materialize_grads=True)
    del hat

    with torch.no_grad(), forward_ad.dual_level():
        dual = {
            name: forward_ad.make_dual(p.detach(), direction)
            for (name, p), direction in zip(theta.items(), v, strict=True)
        }
        moved = sample_losses(_call(network, dual, train[0]), train[1], objective.label_smoothing)
        slope = forward_ad.unpack_dual(moved).tangent  # (n, K): <grad l_ik, v>
    assert slope is not None
    found = torch.autograd.grad(w, list(wpn.parameters()), -(step.lr / len(w)) * slope)
    return list(found), weighted.detach(), meta_loss.detach()


def meta_gradient_by_double_backward(
    network: nn.Module,
    wpn: WeightPredictionNetwork,
    train: Batch,
    meta: Batch,
    objective: MetaObjective,
    step: PseudoStep,
    buffers: Mapping[str, Tensor | None],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The same as `meta_gradient`, by differentiating through the step as the authors' code does: the reference."""
    theta = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    logits = _call(network, theta, train[0])
    losses = sample_losses(logits, train[1], objective.label_smoothing)
    weighted = (objective.weights(wpn, logits, losses) * losses).mean(0).sum()
    gradients = torch.autograd.grad(
        weighted, list(theta.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    hat = {name: step(p.detach(), g, buffers.get(name)) for (name, p), g in zip(theta.items(), gradients, strict=True)}
    meta_loss = objective.value(_call(network, hat, meta[0]), meta[1])
    return list(torch.autograd.grad(meta_loss, list(wpn.parameters()))), weighted.detach(), meta_loss.detach()


def _call(network: nn.Module, parameters: Parameters, x: Tensor) -> Sequence[Tensor]:
    """The logits under other parameters; batch-norm statistics are updated in copies."""
    copies = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return check_exits(functional_call(network, {**parameters, **copies}, (x,)))


def check_exits(logits: object) -> Sequence[Tensor]:
    """Require a list of logits.

    Raises:
        Problem: anything else.
    """
    if isinstance(logits, list | tuple) and logits and all(isinstance(one, Tensor) for one in logits):
        return logits
    raise Problem(
        f"the network returned {type(logits).__name__}, but a list of logits is needed, one tensor per exit",
        "network",
        "give a network with several exits, such as MultiExit of a timm backbone",
    )
