"""Spiking neurons trained with surrogate gradients: leaky integrate-and-fire, tdBN, convolutional networks.

Tensors are time-first, (T, B, ...): stateless layers process all steps as one batch, only neurons iterate over time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from repertory.core.problem import Problem

# -- surrogate derivatives of the step function -------------------------------------------------


@dataclass(frozen=True)
class Surrogate:
    """Replacement for the derivative of the step function H(x); x is the membrane potential minus the threshold."""

    alpha: float = 1.0
    inclusive: ClassVar[bool] = False
    """Whether H(0) = 1."""

    def derivative(self, x: Tensor) -> Tensor:
        """Surrogate of dH/dx, same shape as x."""
        raise NotImplementedError


@dataclass(frozen=True)
class Stca(Surrogate):
    """1[|x| < alpha] (Gu et al., IJCAI 2019)."""

    alpha: float = 0.5

    def derivative(self, x: Tensor) -> Tensor:
        """A box of height 1."""
        return (x.abs() < self.alpha).to(x.dtype)


@dataclass(frozen=True)
class Rectangle(Stca):
    """1[|x| < alpha] with a wide default."""

    alpha: float = 2.0


@dataclass(frozen=True)
class Window(Surrogate):
    """1[|x| < alpha] / (2 alpha): a box of area 1 (Wu et al., Frontiers in Neuroscience 2018)."""

    alpha: float = 0.5

    def derivative(self, x: Tensor) -> Tensor:
        """A box of area 1."""
        return (x.abs() < self.alpha).to(x.dtype).div_(2 * self.alpha)


@dataclass(frozen=True)
class Gate(Surrogate):
    """1[|x| < 1 / alpha]."""

    def derivative(self, x: Tensor) -> Tensor:
        """A box of height 1."""
        return (x.abs() < 1 / self.alpha).to(x.dtype)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, alpha - alpha^2 |x|), a triangle of area 1."""

    def derivative(self, x: Tensor) -> Tensor:
        """A triangle of height alpha."""
        return x.abs().mul_(-(self.alpha**2)).add_(self.alpha).clamp_(min=0)


@dataclass(frozen=True)
class Stbp(Surrogate):
    """exp(-x^2 / (2 alpha)) / (2 pi alpha), as in SPAIC's code: without the square root that would make the area 1."""

    alpha: float = 0.5

    def derivative(self, x: Tensor) -> Tensor:
        """A Gaussian of variance alpha."""
        return x.square().mul_(-1 / (2 * self.alpha)).exp_().div_(2 * math.pi * self.alpha)


@dataclass(frozen=True)
class Atan(Surrogate):
    """(alpha / 2) / (1 + (pi alpha x / 2)^2), the derivative of an arc tangent (Fang et al., ICCV 2021)."""

    alpha: float = 2.0

    def derivative(self, x: Tensor) -> Tensor:
        """A Cauchy density of height alpha / 2."""
        return x.mul(math.pi * self.alpha / 2).square_().add_(1).reciprocal_().mul_(self.alpha / 2)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """alpha sigmoid(alpha x) (1 - sigmoid(alpha x))."""

    inclusive: ClassVar[bool] = True

    def derivative(self, x: Tensor) -> Tensor:
        """A logistic density of height alpha / 4."""
        s = torch.sigmoid(self.alpha * x)
        return s.mul(1 - s).mul_(self.alpha)


@dataclass(frozen=True)
class ReLULike(Surrogate):
    """alpha 1[x > 0]."""

    inclusive: ClassVar[bool] = True

    def derivative(self, x: Tensor) -> Tensor:
        """A step of height alpha."""
        return (x > 0).to(x.dtype).mul_(self.alpha)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """1 everywhere."""

    inclusive: ClassVar[bool] = True

    def derivative(self, x: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(x)


class _Spike(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate) -> Tensor:
        return (x >= 0 if surrogate.inclusive else x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x), None


def spike(x: Tensor, surrogate: Surrogate) -> Tensor:
    """1 where x > 0 (x >= 0 for inclusive surrogates), else 0; its gradient is the surrogate's.

    Example:
        >>> x = torch.tensor([-1.0, 0.2], requires_grad=True)
        >>> spike(x, Stca(0.5)).tolist()
        [0.0, 1.0]
        >>> spike(x, Stca(0.5)).sum().backward(); x.grad.tolist()
        [0.0, 1.0]
    """
    return _Spike.apply(x, surrogate)


# -- leaky integrate-and-fire -------------------------------------------------------------------


class _LIF(torch.autograd.Function):
    """Fused scan over time: three element-wise passes per step forward, one backward; saves u and the spikes."""

    @staticmethod
    def forward(
        current: Tensor, decay: Tensor | float, v0: Tensor, threshold: float, v_reset: float, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor]:
        u, spikes, v = (torch.empty_like(current) for _ in range(3))
        fires = torch.ge if surrogate.inclusive else torch.gt
        before = v0
        for i, u_t, s_t, v_t in zip(current.unbind(), u.unbind(), spikes.unbind(), v.unbind(), strict=True):
            if isinstance(decay, Tensor):
                torch.addcmul(i, before, decay, out=u_t)
            else:
                torch.add(i, before, alpha=decay, out=u_t)
            fires(u_t, threshold, out=s_t)  # float output: ATen does not vectorise comparisons into bool
            torch.addcmul(u_t, u_t, s_t, value=-1, out=v_t)
            if v_reset:
                v_t.add_(s_t, alpha=v_reset)
            before = v_t
        return spikes, v, u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, ctx.decay, v0, ctx.threshold, ctx.v_reset, ctx.surrogate = inputs
        spikes, v, u = output
        ctx.mark_non_differentiable(u)
        ctx.set_materialize_grads(False)
        ctx.learns_decay = isinstance(ctx.decay, Tensor) and ctx.needs_input_grad[1]
        ctx.save_for_backward(spikes, u, *((v, v0) if ctx.learns_decay else ()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        spikes, u, *kept = ctx.saved_tensors
        from_spikes, from_v, _ = grad_outputs
        steep = ctx.surrogate.derivative(u - ctx.threshold)
        stays = 1 - spikes  # dV/du = (1 - O) - (u - v_reset) dO/du
        stays.addcmul_(u, steep, value=-1)
        if ctx.v_reset:
            stays.add_(steep, alpha=ctx.v_reset)
        grad = torch.zeros_like(u) if from_spikes is None else from_spikes * steep
        if from_v is not None:
            grad.addcmul_(from_v, stays)
        stays.mul_(ctx.decay)
        steps = grad.unbind()
        for earlier, later, stay in zip(steps[-2::-1], steps[:0:-1], stays.unbind()[-2::-1], strict=True):
            earlier.addcmul_(stay, later)
        to_decay = None
        if ctx.learns_decay:
            v, v0 = kept
            to_decay = (grad[0] * v0 + torch.einsum("t...,t...->...", grad[1:], v[:-1])).sum_to_size(ctx.decay.shape)
        return grad, to_decay, grad[0] * ctx.decay if ctx.needs_input_grad[2] else None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        """Neurons are independent: treat the mapped axis as another axis of neurons, after time."""
        (current, decay, v0, *rest), (of_current, of_decay, of_v0, *_) = inputs, in_dims
        size = info.batch_size
        current = (
            current.unsqueeze(1).expand(-1, size, *current.shape[1:])
            if of_current is None
            else current.movedim(of_current, 1)
        )
        inner = current.ndim - 2
        if of_v0 is not None:
            v0 = v0.movedim(of_v0, 0)
            v0 = v0.reshape(size, *(1,) * (inner - v0.ndim + 1), *v0.shape[1:])
        if of_decay is not None:
            decay = decay.movedim(of_decay, 0)
            decay = decay.reshape(size, *(1,) * (inner - decay.ndim + 1), *decay.shape[1:])
        return _LIF.apply(current, decay, v0, *rest), (1, 1, 1)


def lif(
    current: Tensor,
    decay: Tensor | float,
    threshold: float = 1.0,
    surrogate: Surrogate = Atan(),
    *,
    v_reset: float = 0.0,
    v0: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Leaky integrate-and-fire neurons with hard reset, scanned over time.

        u[t] = decay V[t-1] + I[t],   O[t] = 1[u[t] > threshold],   V[t] = u[t] (1 - O[t]) + v_reset O[t]

    The gradient equals that of the unrolled graph, including the path through the reset.

    Args:
        current: input I, (T, ...).
        decay: number, or tensor that broadcasts with one step; a tensor gets a gradient.
        threshold: u above it fires.
        surrogate: derivative of the step function in the backward pass.
        v_reset: potential after a spike.
        v0: potential before the first step; broadcasts with one step; None: 0.

    Returns:
        Spikes O and potentials V, both (T, ...).

    Example:
        >>> spikes, v = lif(torch.full((5, 1), 0.6), decay=0.5, threshold=1.0)
        >>> spikes[:, 0].tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0]
    """
    start = current.new_zeros(()) if v0 is None else v0
    start = start.expand(current.shape[1:])
    spikes, v, _ = _LIF.apply(current, decay, start, threshold, v_reset, surrogate)
    return spikes, v


class LIF(nn.Module):
    """`lif` as a module, starting at V = 0."""

    def __init__(self, decay: float = 0.5, threshold: float = 1.0, surrogate: Surrogate = Triangle()) -> None:
        super().__init__()
        self.decay, self.threshold, self.surrogate = decay, threshold, surrogate

    def forward(self, current: Tensor) -> Tensor:
        """Currents (T, B, ...) -> spikes, same shape."""
        return lif(current, self.decay, self.threshold, self.surrogate)[0]

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        return f"decay={self.decay}, threshold={self.threshold}, surrogate={self.surrogate}"


# -- layers without state -----------------------------------------------------------------------


def over_time(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stateless layer to all steps as one batch: (T, B, ...) -> (T, B, ...)."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ThresholdBatchNorm2d(nn.BatchNorm2d):
    """tdBN: BatchNorm over batch, space and time, scaled by alpha * threshold (Zheng et al., AAAI 2021).

    y = alpha threshold (x - mean) / sqrt(var + eps) weight + bias
    """

    def __init__(
        self, channels: int, threshold: float = 1.0, alpha: float = 1.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(channels, eps, momentum)
        self.scale = alpha * threshold

    def forward(self, input: Tensor) -> Tensor:
        """(T, B, C, H, W) -> same shape."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            input.flatten(0, 1),
            self.running_mean,
            self.running_var,
            self.weight * self.scale,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        ).unflatten(0, input.shape[:2])


# -- networks -----------------------------------------------------------------------------------

PLANS = {
    "lightweight": "64C3-128C3-AP2-128C3-AP2-256C3-AP2-256C3-AP2",
    "vggsnn": "64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2",
}
"""nCk: k x k convolution with n channels; APk: k x k average pooling. vggsnn: the network of TET (ICLR 2022)."""


def layers_of(plan: str) -> list[tuple[int, int]]:
    """Layers of a plan: (channels, kernel) of a convolution, (0, factor) of a pooling.

    Raises:
        Problem: another word than nCk and APk, or a number below 1.

    Example:
        >>> layers_of("16C3-AP2")
        [(16, 3), (0, 2)]
    """
    layers = []
    for word in PLANS.get(plan, plan).split("-"):
        found = re.fullmatch(r"(?:([1-9]\d*)C|AP)([1-9]\d*)", word)
        if found is None:
            remedy = f"give layers such as 16C3-AP2-32C3-AP2, or one of {', '.join(PLANS)}"
            raise Problem(f"{word!r} is not a layer", f"plan {plan!r}", remedy)
        layers.append((int(found[1] or 0), int(found[2])))
    return layers


class SpikingConvNet(nn.Sequential):
    """Blocks of convolution, tdBN and LIF, average pooling, and a linear read-out that does not spike.

    Args:
        plan: name in `PLANS`, or layers such as "16C3-AP2-32C3-AP2".
        in_channels: channels of the input.
        size: height and width of the input.
        classes: outputs of the read-out.
        decay, threshold, surrogate: see `lif`.
        conv: factory of convolutions, `conv(layer, in_channels, out_channels, kernel)`; default: `nn.Conv2d`.

    Shape:
        (T, B, in_channels, H, W) -> logits (T, B, classes).

    Raises:
        Problem: see `layers_of`; a plan that pools the input to nothing; in `forward`, another shape.

    Example:
        >>> net = SpikingConvNet("8C3-AP2-16C3-AP2", 2, (16, 16), classes=10)
        >>> net(torch.rand(4, 3, 2, 16, 16)).shape
        torch.Size([4, 3, 10])
    """

    def __init__(
        self,
        plan: str,
        in_channels: int,
        size: tuple[int, int],
        classes: int,
        *,
        decay: float = 0.5,
        threshold: float = 1.0,
        surrogate: Surrogate = Triangle(),
        conv: Callable[[int, int, int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        conv = conv or (lambda _, inside, outside, kernel: nn.Conv2d(inside, outside, kernel, padding=kernel // 2))
        channels, shrink = in_channels, 1
        for n, (maps, width) in enumerate(layers_of(plan)):
            if not maps:
                self.append(OverTime(nn.AvgPool2d(width)))
                shrink *= width
            else:
                self.append(OverTime(conv(n, channels, maps, width)))
                self.append(ThresholdBatchNorm2d(maps, threshold))
                self.append(LIF(decay, threshold, surrogate))
                channels = maps
        if min(size) < shrink:
            raise Problem(f"{plan} pools {size[0]} x {size[1]} pixels to nothing", "plan", "use fewer AP layers")
        self.in_channels, self.size, self.shrink = in_channels, (size[0], size[1]), shrink
        self.append(nn.Flatten(2))
        self.append(nn.Linear(channels * (size[0] // shrink) * (size[1] // shrink), classes))

    def forward(self, input: Tensor) -> Tensor:
        """See the class; B may be 0."""
        pooled = [side // self.shrink for side in self.size]
        given = [side // self.shrink for side in input.shape[3:]]
        if input.ndim != 5 or input.shape[2] != self.in_channels or given != pooled:
            raise Problem(
                f"an input of shape {tuple(input.shape)}",
                type(self).__name__,
                f"give (T, B, {self.in_channels}, {self.size[0]}, {self.size[1]})",
            )
        return super().forward(input)


class OverTime(nn.Sequential):
    """`over_time` as a module, in channels-last memory: 10 to 25 % less time per training step on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(T, B, C, H, W) -> (T, B, C', H', W')."""
        batch = input.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (T B, C, H, W)
        return super().forward(batch).unflatten(0, input.shape[:2])


def mean_over_time(logits: Tensor) -> Tensor:
    """Logits (T, B, K) -> (B, K), the mean over time; (B, K) -> unchanged."""
    return logits.mean(0) if logits.ndim == 3 else logits


def tet_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each step's logits, mean over time (temporal efficient training, Deng et al., ICLR 2022).

    Args:
        logits: (T, B, K).
        labels: (B,).
    """
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
