"""NAIVEATTACK and DOORPING (Liu et al., NDSS 2023): a trigger in the raw images, and in what is distilled from them.

The attacker distils a data set; the victim trains on the distilled images alone. Triggered images x' = x (1 - m) + m t
with the label of the target class are part of the raw data. NAIVEATTACK: t is a white patch. DOORPING: t is optimised
again and again while the images are distilled, until neurons of the current network react to it strongly.

    trigger, steps = update_trigger(net, trigger, mask)    # section 4.3 of the method: one update
    loss = matching_loss(net, real, weights, images)       # gradient matching (DC), all classes
    theta = unroll(net, theta, images, labels, lrs)        # T steps of gradient descent on distilled images (DD)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from repertory.core.problem import Problem
from repertory.papers.doorping.networks import Network, Norm, network

Attack = Literal["none", "naive", "doorping", "fixed", "unknown"]
Distiller = Literal["dc", "dd"]
Distance = Literal["rows", "mse", "cos"]
EPS = 1e-6
BETAS, ADAM_EPS = (0.9, 0.99), 1e-8
"""Of the trigger's Adam."""


# -- the trigger --------------------------------------------------------------------------------


def patch_place(image_size: int, patch: int) -> slice:
    """Rows, and columns, of the patch: one pixel away from the lower and the right border.

    Raises:
        Problem: the patch and its margin do not fit.

    Example:
        >>> patch_place(32, 2)
        slice(29, 31, None)
    """
    if image_size < patch + 1:
        raise Problem(
            f"a patch of {patch} pixels and its margin of 1 do not fit images of {image_size} pixels",
            "patch",
            f"give images of {patch + 1} pixels or more, or a smaller patch",
        )
    return slice(image_size - patch - 1, image_size - 1)


def patch_mask(in_chans: int, image_size: int, patch: int, stripe: bool = False) -> Tensor:
    """m: (C, H, W), 1 inside the patch and 0 outside.

    With `stripe`, what the reference pastes on SVHN: whole rows of the first two channels.
    """
    mask = torch.zeros(in_chans, image_size, image_size)
    place = patch_place(image_size, patch)
    if stripe:
        mask[:2, place] = 1
    else:
        mask[:, place, place] = 1
    return mask


def stamp(x: Tensor, trigger: Tensor, mask: Tensor) -> Tensor:
    """x' = x (1 - m) + m t: (N, C, H, W) -> same shape."""
    return x * (1 - mask) + mask * trigger


def update_trigger(
    net: Network,
    trigger: Tensor,
    mask: Tensor,
    *,
    topk: int = 1,
    alpha: float = 10.0,
    lr: float = 0.08,
    steps: int = 1000,
    tolerance: float = 0.5,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, int]:
    """One update of DOORPING's trigger: its activation grows towards `alpha` times what it was.

    The neurons are those of the hidden Linear with the largest sums of absolute weights. Their activation is taken
    after the ReLU, of the trigger image alone. Only the patch is optimised, by Adam(betas 0.9, 0.99), and only what
    depends on it is computed, see `response`.

    Args:
        net: the network of the moment; its mode is set to evaluation.
        trigger: (1, C, H, W), normalised; black outside the patch.
        mask: (C, H, W).
        topk: number of neurons.
        alpha: factor.
        lr: learning rate.
        steps: at most so many.
        tolerance: mean squared error at which it stops.
        bounds: lowest and highest value of each channel, (C, 1, 1) each; the patch is clipped to them after each step.
            None: it may leave the range of pixels, as in the reference.

    Returns:
        The new trigger, and the number of steps. A dead neuron, or one with an activation so small that the first error
        is below the tolerance, leaves the trigger as it is, with 0 steps.

    Raises:
        Problem: the network has no hidden Linear.
    """
    net.eval()
    hidden = net.hidden
    chosen = hidden.weight.detach().abs().sum(1).topk(topk).indices
    place = patch_place_of(mask)
    image = trigger.detach().clone()
    patch = image[..., place, place].clone().requires_grad_()
    react = response(net, image, place, chosen)
    first, second = (
        torch.zeros_like(patch.data),
        torch.zeros_like(patch.data),
    )  # moments of Adam, written out: it is half the time

    goal: Tensor | None = None
    done = 0
    for done in range(steps + 1):
        with torch.enable_grad():
            activation = react(patch)  # (1, k)
            goal = alpha * activation.detach() if goal is None else goal
            loss = F.mse_loss(activation, goal)
        if done == steps or loss <= tolerance:
            break
        (gradient,) = torch.autograd.grad(loss, patch)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (second / (1 - BETAS[1] ** (done + 1))).sqrt_().add_(ADAM_EPS)
        patch.data.addcdiv_(first, scale, value=-lr / (1 - BETAS[0] ** (done + 1)))
        if bounds is not None:
            patch.data.clamp_(*bounds)
    image[..., place, place] = patch.detach()
    return image, done


def patch_place_of(mask: Tensor) -> slice:
    """Rows, and columns, of a square patch in its mask."""
    rows = mask[0].any(1).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1)


POINTWISE = nn.ReLU | nn.LocalResponseNorm | nn.BatchNorm2d
"""Layers whose output at a place depends on this place alone (batch norms: in evaluation)."""


@torch.no_grad()
def response(net: Network, image: Tensor, place: slice, chosen: Tensor) -> Callable[[Tensor], Tensor]:
    """Activation of hidden neurons, after the ReLU, as a function of the patch alone.

    Only the part of each map that the patch reaches is computed; the rest of the image is constant. A network with
    layers other than convolutions, pooling and `POINTWISE` ones is computed as a whole.

    Args:
        net: in evaluation mode.
        image: (1, C, S, S).
        place: rows, and columns, of the patch.
        chosen: numbers of the neurons, (k,).

    Returns:
        patch (1, C, s, s) -> (1, k).
    """
    weight, bias = net.hidden.weight[chosen], net.hidden.bias[chosen]
    if not all(isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | POINTWISE) for layer in net.features):
        return _whole(net, image, place, weight, bias)
    layers: list[tuple[Callable[[Tensor], Tensor], Tensor | None, tuple[int, ...]]] = []
    x, first, last = image, place.start, place.stop  # the rows that the patch reaches
    for layer in net.features:
        if isinstance(layer, POINTWISE):
            layers.append((layer, None, ()))
            x = layer(x)
            continue
        function, kernel, stride, padding = _windowed(layer)
        border = F.pad(x, (padding,) * 4, value=-torch.inf if isinstance(layer, nn.MaxPool2d) else 0.0)
        x = layer(x)
        out_first = max(0, -(-(first + padding - kernel + 1) // stride))
        out_last = min(x.shape[-1], (last - 1 + padding) // stride + 1)
        low, high = out_first * stride, (out_last - 1) * stride + kernel  # in rows of `border`
        hole, pads = _hole(border[..., low:high, low:high], first + padding - low, last + padding - low)
        layers.append((function, hole, pads))
        first, last = out_first, out_last
    rest = [*net.classifier[:-3]]
    linear = rest.pop(0) if rest else None
    w, b = (linear.weight, linear.bias) if isinstance(linear, nn.Linear) else (weight, bias)
    reached = torch.zeros_like(x, dtype=torch.bool)
    reached[..., first:last, first:last] = True
    constant = F.linear(x.masked_fill(reached, 0).flatten(1), w, b)
    w = w[:, reached.flatten()]

    def react(patch: Tensor) -> Tensor:
        y = patch
        for function, hole, pads in layers:
            y = function(y if hole is None else hole + F.pad(y, pads))
        y = constant + F.linear(y.flatten(1), w)
        if linear is not None:
            for layer in rest:
                y = layer(y)
            y = F.linear(y, weight, bias)
        return y.relu()

    return react


def _whole(net: Network, image: Tensor, place: slice, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """`response` of any network."""
    hole, pads = _hole(image, place.start, place.stop)
    return lambda patch: F.linear(net.before_hidden(hole + F.pad(patch, pads)), weight, bias).relu()


def _hole(x: Tensor, first: int, last: int) -> tuple[Tensor, tuple[int, ...]]:
    """A copy with zeros in a square, and the padding that puts a map of the square's size there."""
    hole = x.clone()
    hole[..., first:last, first:last] = 0
    return hole, (first, x.shape[-1] - last, first, x.shape[-1] - last)


def _windowed(layer: nn.Module) -> tuple[Callable[[Tensor], Tensor], int, int, int]:
    """A convolution or pooling without its padding; its kernel, stride and padding."""
    if isinstance(layer, nn.Conv2d):
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], cast(tuple[int, int], layer.padding)[0]
        return partial(F.conv2d, weight=weight, bias=bias, stride=stride), kernel, stride, padding
    pool = cast(nn.MaxPool2d | nn.AvgPool2d, layer)
    kernel, stride, padding = (cast(int, value) for value in (pool.kernel_size, pool.stride, pool.padding))
    pooling = F.max_pool2d if isinstance(pool, nn.MaxPool2d) else F.avg_pool2d
    return partial(pooling, kernel_size=kernel, stride=stride), kernel, stride, padding


# -- distillation by gradient matching (DC) -----------------------------------------------------


def distance(real: Tensor, synthetic: Tensor, kind: Distance) -> Tensor:
    """Distance of two gradients.

    rows: for each row (the weights into one output) 1 minus the cosine, summed; mse: sum of squared differences; cos: 1
    minus one cosine over everything.

    Args:
        real: rows: (..., out, rest) of one weight; mse, cos: (..., P) of all parameters.
        synthetic: same shape.
        kind: see above.

    Returns:
        (...); rows: summed over `out` as well.
    """
    if kind == "mse":
        return (real - synthetic).square().sum(-1)
    cosine = (real * synthetic).sum(-1) / (real.norm(dim=-1) * synthetic.norm(dim=-1) + EPS)
    return (1 - cosine).sum(-1) if kind == "rows" else 1 - cosine


def matching_loss(
    net: nn.Module,
    real: Sequence[Tensor],
    images: Tensor,
    kind: Distance = "rows",
    labels: Tensor | None = None,
    vectorised: bool = True,
) -> Tensor:
    """Sum over classes of the distance between the gradients of real and of distilled images.

    The gradients of distilled images are taken for all classes at once (vmap); for real ones a loop is as fast, and
    classes may have different numbers of them. Weights of one dimension contribute nothing to `rows`, so their
    gradients are not taken.

    Args:
        net: of this moment.
        real: for each class its real images (n, C, H, W).
        images: distilled, (classes, ipc, C, H, W); the loss can be differentiated by them.
        kind: see `distance`.
        labels: of the classes, (classes,); None: 0, 1, ...
        vectorised: False: distilled images class by class too; faster for wide networks on CPUs.
    """
    labels = torch.arange(len(real), device=images.device) if labels is None else labels
    parameters = dict(net.named_parameters())
    matched = {name: p for name, p in parameters.items() if kind != "rows" or p.ndim > 1}

    def loss(weights: Mapping[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        logits = cast(Tensor, functional_call(net, {**parameters, **weights}, (x,)))
        return F.cross_entropy(logits, label.expand(len(x)))

    weights = list(matched.values())
    targets = [torch.autograd.grad(loss({}, x, label), weights) for x, label in zip(real, labels, strict=True)]
    expected = [torch.stack(of_classes) for of_classes in zip(*targets, strict=True)]  # (classes, ...) each
    if vectorised:
        constant = {name: p.detach() for name, p in matched.items()}
        found = [*cast(dict[str, Tensor], vmap(grad(loss), (None, 0, 0))(constant, images, labels)).values()]
    else:
        losses = [loss({}, x, label) for x, label in zip(images, labels, strict=True)]
        each = [torch.autograd.grad(value, weights, create_graph=True) for value in losses]
        found = [torch.stack(of_classes) for of_classes in zip(*each, strict=True)]
    if kind == "rows":
        rows = [distance(a.flatten(2), b.flatten(2), kind).sum() for a, b in zip(expected, found, strict=True)]
        return torch.stack(rows).sum()
    flat = [torch.cat([tensor.flatten(1) for tensor in tensors], 1) for tensors in (expected, found)]
    return distance(flat[0], flat[1], kind).sum()


# -- distillation through unrolled training (DD) ------------------------------------------------


def raw_rates(rates: Tensor) -> Tensor:
    """Inverse of softplus: raw = log(exp(rate) - 1)."""
    return rates.expm1().log()


def unroll(
    net: nn.Module, theta: Mapping[str, Tensor], images: Tensor, labels: Tensor, rates: Tensor, graph: bool = True
) -> dict[str, Tensor]:
    """Gradient descent on the distilled batches, which are cycled: theta <- theta - lr_t grad CE(batch_t; theta).

    Args:
        net: the architecture; its own weights are not used.
        theta: name -> initial weight.
        images: (steps, batch, C, H, W).
        labels: (steps, batch).
        rates: lr_t, (T,); T is a multiple of the number of batches.
        graph: the result can be differentiated by images and rates.

    Returns:
        theta_T.
    """
    weights = {name: p.detach().requires_grad_() for name, p in theta.items()}
    with torch.enable_grad():
        for step, rate in enumerate(rates):
            batch = step % len(images)
            loss = F.cross_entropy(functional_call(net, weights, (images[batch],)), labels[batch])
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=graph)
            weights = {
                name: weight - rate * gradient
                for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            }
            if not graph:
                weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    return weights


@torch.no_grad()
def xavier_(net: nn.Module) -> nn.Module:
    """DD's initial weights: Xavier-normal with gain 1, biases 0."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)
        else:
            parameter.zero_()
    return net


# -- what is handed over ------------------------------------------------------------------------


class DistilledSet(nn.Module, PyTorchModelHubMixin, tags=["dataset-distillation", "poisoned-data-audit"]):
    """Distilled images with their labels, and what the attacker keeps: the trigger.

    What `save_pretrained` writes says `"poisoned": true` in config.json and in the head of the weights' file, if the
    set was made under an attack. A set cannot be built with an attack and without that mark.

    Args:
        count: number of images.
        classes: names of the classes.
        in_chans: channels C.
        image_size: height and width S.
        mean: of each channel; images are stored normalised.
        std: of each channel.
        attack: none, naive, doorping, fixed (a random patch that is never updated), or unknown (a received set).
        poisoned: True for naive, doorping and fixed, False for none, None for unknown.
        target: class that the trigger leads to.
        patch: side of the trigger.
        stripe: the trigger is the stripe of the reference on SVHN, see `patch_mask`.
        net: network that the set was distilled with.
        norm: of that network.
        distiller: dc (gradient matching) or dd (unrolled training, for one fixed initialisation).
        steps: dd: number of batches.
        epochs: dd: how often they are cycled.
        lr: dd: initial learning rate.

    Raises:
        Problem: `poisoned` contradicts `attack`, or a set that cannot be.

    Example:
        >>> one = DistilledSet(4, ("cat", "dog"), 3, 32, attack="doorping", poisoned=True)
        >>> one.images.shape, one.trigger.shape, one.mask.sum().item()
        (torch.Size([4, 3, 32, 32]), torch.Size([1, 3, 32, 32]), 12.0)
    """

    def __init__(
        self,
        count: int,
        classes: Sequence[str],
        in_chans: int = 3,
        image_size: int = 32,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        *,
        attack: Attack = "none",
        poisoned: bool | None = False,
        target: int = 0,
        patch: int = 2,
        stripe: bool = False,
        net: str = "convnet",
        norm: Norm = "none",
        distiller: Distiller = "dc",
        steps: int = 1,
        epochs: int = 1,
        lr: float = 0.02,
    ) -> None:
        super().__init__()
        self.classes, self.attack, self.poisoned, self.target = tuple(classes), attack, poisoned, target
        self.net, self.norm, self.distiller, self.batches = net, norm, distiller, steps
        self.in_chans, self.image_size, self.patch = in_chans, image_size, patch
        self._check(count)
        self.images = nn.Parameter(torch.zeros(count, in_chans, image_size, image_size))
        self.labels: Tensor
        self.register_buffer("labels", torch.zeros(count, dtype=torch.long))
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", mean), ("std", std)):
            channels = torch.tensor(list(values)).float().expand(in_chans)
            self.register_buffer(name, channels.reshape(-1, 1, 1).clone(), persistent=False)
        self.mask: Tensor
        self.register_buffer("mask", patch_mask(in_chans, image_size, patch, stripe), persistent=False)
        black = (-self.mean / self.std).expand(1, in_chans, image_size, image_size)
        self.trigger: Tensor
        self.register_buffer("trigger", black.clone())
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros(2, dtype=torch.long))  # calls, and Adam steps in all of them
        if distiller == "dd":
            self.rates = nn.Parameter(raw_rates(torch.full((steps * epochs,), float(lr))))  # before softplus
            for name, parameter in self.network().named_parameters():
                self.register_buffer(_flat(name), torch.zeros_like(parameter))

    def network(self) -> Network:
        """A new network of the kind that the set was distilled with."""
        return network(self.net, len(self.classes), self.in_chans, self.image_size, cast(Norm, self.norm))

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Black and white, normalised: (C, 1, 1) each."""
        return -self.mean / self.std, (1 - self.mean) / self.std

    @property
    def by_batch(self) -> tuple[Tensor, Tensor]:
        """dd: images (steps, batch, C, S, S) and labels (steps, batch)."""
        return self.images.unflatten(0, (self.batches, -1)), self.labels.unflatten(0, (self.batches, -1))

    @property
    def initial(self) -> dict[str, Tensor]:
        """dd: the initial weights that the images were distilled for."""
        return {name: self.get_buffer(_flat(name)) for name, _ in self.network().named_parameters()}

    def start_from(self, net: nn.Module) -> None:
        """dd: take the initial weights."""
        for name, parameter in net.named_parameters():
            self.get_buffer(_flat(name)).copy_(parameter.detach())

    def pixels(self, x: Tensor) -> Tensor:
        """Undo the normalisation: 0 is black, 1 white."""
        return x * self.std + self.mean

    def stamped(self, x: Tensor) -> Tensor:
        """Images with the trigger, (N, C, S, S) -> same shape."""
        return stamp(x, self.trigger, self.mask)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, S, S), normalised, and labels (N,)."""
        return self.images, self.labels

    def metadata(self) -> dict[str, str]:
        """What the head of the weights' file says."""
        return {"format": "pt", "poisoned": json.dumps(self.poisoned), "attack": self.attack}

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, save_directory / "model.safetensors", metadata=self.metadata())

    def results_file(self) -> dict[str, Any]:
        """The set as the reference's DC code stores results (`res_*.pt`), with `poisoned` beside the data."""
        return {"data": [[self.images.detach().cpu(), self.labels.cpu()]], "poisoned": self.poisoned}

    def _check(self, count: int) -> None:
        expected = {"none": False, "unknown": None}.get(self.attack, True)
        if self.poisoned is not expected:
            raise Problem(
                f"poisoned={self.poisoned} with the attack {self.attack}", "DistilledSet", f"say poisoned={expected}"
            )
        if not 0 <= self.target < len(self.classes):
            what = f"the target class {self.target} is not among the {len(self.classes)} labels"
            raise Problem(what, "target", f"choose 0 to {len(self.classes) - 1}")
        if count < 1 or count % self.batches:
            raise Problem(f"{count} images in {self.batches} batches", "DistilledSet", "give batches of equal size")


def _flat(name: str) -> str:
    """Name of a buffer that holds a weight: no dots."""
    return "initial_" + name.replace(".", "_")
