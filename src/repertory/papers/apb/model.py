"""APB: associative plasticity between the synapses of one neuron, and spiking networks made of such neurons.

The equations are a reconstruction. The abstracts describe the method: synapses of one neuron that are stimulated at
the same time share a factor, computed from their weights and activity, without new parameters. They do not give the
formula; this module implements the simplest rule that matches the description. The neuron, tdBN and the network are
those of the baseline and exact.

For one neuron at one step: inputs x_j, weights w_j, contributions c_j = w_j x_j, active synapses A = {j: x_j != 0},
n = |A|, I = sum of c_j. With fewer than two active synapses I' = I; otherwise

    shared   I' = I clamp(1 + beta I / n, 0, 2)                   all active synapses are scaled alike
    pair     I' = I + beta / (n - 1)  sum over i != j of c_i c_j  weighted weights
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from repertory.core.arguments import check_choice, check_range, check_whole
from repertory.core.problem import Problem
from repertory.nn.spiking import SpikingConvNet, Window

Mode = Literal["shared", "pair"]
Where = Literal["hidden", "all"]

CHUNK = 1 << 17
"""Elements per chunk that fit a CPU's cache."""

# -- layers -------------------------------------------------------------------------------------


class _Scale(torch.autograd.Function):
    """I clamp(base + I share, 0, 2); allocates one large tensor instead of three and saves only I."""

    @staticmethod
    def forward(current: Tensor, share: Tensor, base: Tensor) -> Tensor:
        return torch.addcmul(base, current, share).clamp_(0, 2).mul_(current)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        current, share, base = ctx.saved_tensors
        value = torch.addcmul(base, current, share)
        factor = value.clamp(0, 2)
        inside = torch.eq(value, factor, out=value)  # 1 where the factor is not clamped
        slope = torch.addcmul(factor, inside, current * share)
        return slope.mul_(grad_outputs[0]), None, None


class _Associative(nn.Module):
    """Base of the layers: current I and number n of active synapses -> I'."""

    channel_dim = -1
    out_channels: int
    mode: Mode
    beta: float
    cache: float | None
    cached: Tensor | None

    def _init_association(self, mode: Mode, beta: float, cache: float | None) -> None:
        if mode not in get_args(Mode):
            raise Problem(f"no mode {mode!r} of association", "mode", f"choose {' or '.join(get_args(Mode))}")
        if beta < 0:
            raise Problem(f"beta = {beta} is negative", "beta", "give 0 (no association) or more")
        if cache is not None and not 0 <= cache < 1:
            raise Problem(f"cache = {cache} is not a decay rate", "cache", "give None, or 0 <= cache < 1")
        self.mode, self.beta, self.cache = mode, beta, cache
        self.register_buffer("cached", None if cache is None else torch.zeros(self.out_channels))

    def _associate(self, current: Tensor, active: Tensor, squares: Tensor | None) -> Tensor:
        """I' from I (..., out, ...), n (1 or out channels), and in pair mode Q = sum of c_j^2."""
        several = active > 1.5  # n >= 2; fast convolution algorithms round the count
        others = active if squares is None else active - 1
        share = torch.where(several, 1 / others, 0).to(current.dtype)
        total = current if squares is None else current.square() - squares  # the association is total * share
        base = current.new_zeros(())
        if self.cached is not None:
            cached = self._update_cache(total.detach() * share, several)
            share, base = share / 2, self.beta / 2 * cached * several
        if squares is None:
            return _Scale.apply(current, self.beta * share, 1 + base)
        return torch.addcmul(current + base, total, self.beta * share)

    def _update_cache(self, association: Tensor, several: Tensor) -> Tensor:
        """Moving average of the association per output channel over training steps; frozen in evaluation."""
        assert self.cached is not None
        if self.training:
            assert self.cache is not None
            dims = [d for d in range(-association.ndim, 0) if d != self.channel_dim]
            places = several.expand_as(association).sum(dims)
            mean = association.sum(dims) / places
            self.cached.copy_(torch.where(places > 0, torch.lerp(mean, self.cached, self.cache), self.cached))
        return self.cached.view(-1, *[1] * (-1 - self.channel_dim))

    def extra_repr(self) -> str:
        """Constructor arguments, for `repr`."""
        cache = "" if self.cache is None else f", cache={self.cache}"
        return f"{super().extra_repr()}, mode={self.mode}, beta={self.beta}{cache}"


class APBConv2d(_Associative, nn.Conv2d):
    """Convolution with association between active synapses: (N, C, H, W) -> (N, out, H', W'); no new parameters.

    A synapse is an input channel at a kernel position. It is active if its input is not 0; zero padding is inactive.
    n is a count without gradient: gradients flow through I only. The bias is added after the association.

    Args:
        in_channels, out_channels, kernel_size, **conv: as for `torch.nn.Conv2d`.
        mode: "shared": one factor for all active synapses; "pair": the sum of their products. "pair" needs a second
            convolution: Q = conv(x^2, w^2), and sum over i != j of c_i c_j = I^2 - Q.
        beta: strength; 0: plain convolution.
        cache: decay of a moving average of the association per output channel over training steps; the association
            and its average then have weight 1/2 each. None: no average.

    Raises:
        Problem: an unknown mode, a negative beta, or a cache outside 0 .. 1.

    Source: arXiv 2207.11670, abstracts of v1 and v3; the equations are reconstructed.

    Example:
        >>> layer = APBConv2d(1, 1, 2, bias=False, beta=0.5)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> layer(torch.tensor([[[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]])).tolist()  # three active, then one: 3 (1 + beta)
        [[[[4.5, 1.0]]]]
    """

    channel_dim = -3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        mode: Mode = "shared",
        beta: float = 0.5,
        cache: float | None = None,
        **conv: Any,
    ) -> None:
        check_whole("APBConv2d", in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, **conv)
        self._init_association(mode, beta, cache)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        if input.ndim not in (3, 4) or input.shape[-3] != self.in_channels:
            remedy = f"give (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W)"
            raise Problem(f"an input of shape {tuple(input.shape)}", "APBConv2d", remedy)
        current = self._convolve(input, self.weight, self.groups)
        squares = None
        if self.mode == "pair":
            squares = self._convolve(input.square(), self.weight.square(), self.groups)
        current = self._associate(current, self.active_synapses(input), squares)
        return current if self.bias is None else current + self.bias.view(-1, 1, 1)

    @torch.no_grad()
    def active_synapses(self, input: Tensor) -> Tensor:
        """Number n of active synapses: (N, C, H, W) -> (N, 1, H', W'), or with groups (N, out, H', W')."""
        active = _nonzeros(input.unflatten(-3, (self.groups, -1)), self.weight.dtype)  # (N, groups, H, W)
        box = self.weight.new_ones(self.groups, 1, *self.kernel_size)
        counts = self._convolve(active, box, self.groups)
        return counts if self.groups == 1 else counts.repeat_interleave(self.out_channels // self.groups, -3)

    def _convolve(self, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode), 0
        return F.conv2d(x, weight, None, self.stride, padding, self.dilation, groups)


def _nonzeros(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Number of nonzero channels: (N, groups, C, H, W) -> (N, groups, H, W)."""
    chunks = x.split(max(1, CHUNK // max(1, math.prod(x.shape[1:])))) if x.device.type == "cpu" else (x,)
    # Compare into floats: sums of bool tensors are slow on a CPU.
    return torch.cat([torch.ne(chunk, 0, out=torch.empty_like(chunk)).sum(-3, dtype=dtype) for chunk in chunks])


class APBLinear(_Associative, nn.Linear):
    """Linear layer with association between active synapses: (..., in) -> (..., out); otherwise as `APBConv2d`.

    Example:
        >>> layer = APBLinear(3, 1, bias=False, mode="pair", beta=0.5)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> layer(torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])).tolist()  # 3 + beta / 2 * 6, and 1
        [[4.5], [1.0]]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        mode: Mode = "shared",
        beta: float = 0.5,
        cache: float | None = None,
    ) -> None:
        check_whole("APBLinear", in_features=in_features, out_features=out_features)
        nn.Linear.__init__(self, in_features, out_features, bias)
        self.out_channels = out_features
        self._init_association(mode, beta, cache)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if not input.ndim or input.shape[-1] != self.in_features:
            raise Problem(f"an input of shape {tuple(input.shape)}", "APBLinear", f"give (..., {self.in_features})")
        current = F.linear(input, self.weight)
        squares = F.linear(input.square(), self.weight.square()) if self.mode == "pair" else None
        current = self._associate(current, self.active_synapses(input), squares)
        return current if self.bias is None else current + self.bias

    @torch.no_grad()
    def active_synapses(self, input: Tensor) -> Tensor:
        """Number n of active synapses: (..., in) -> (..., 1)."""
        return (input != 0).sum(-1, keepdim=True, dtype=self.weight.dtype)


# -- network ------------------------------------------------------------------------------------


class APBNet(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Blocks of convolution (with association), tdBN and LIF; a linear read-out, averaged over time.

    The input is frames of event counts, or images, repeated at every step.

    Args:
        names: of the classes.
        plan: layers, see `repertory.nn.spiking.SpikingConvNet`.
        size: height and width of the input.
        steps: T.
        static: images (3 channels) instead of events (2 polarities).
        mode: of the association; None: the baseline, plain convolutions.
        beta, cache: see `APBConv2d`.
        where: convolutions with association: "all", or the "hidden" ones, all except the first, whose input is not
            spikes. The read-out never associates.
        decay: tau of u[t] = tau u[t-1] (1 - o[t-1]) + I'[t].
        threshold: o[t] = 1[u[t] > threshold].
        window: half the width a of the surrogate 1[|u - threshold| < a] / (2 a).
        sensor: height and width of the camera that recorded the training data.

    Raises:
        Problem: `plan` pools the input to nothing; an unknown mode or a negative beta.

    Example:
        >>> net = APBNet(["cat", "dog"], plan="8C3-AP2-8C3-AP2", size=(8, 8), steps=3, mode="shared")
        >>> net(torch.ones(5, 2, 8, 8, 3)).mean(0).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        names: list[str],
        plan: str = "lightweight",
        size: tuple[int, int] = (48, 48),
        steps: int = 10,
        static: bool = False,
        mode: Mode | None = None,
        beta: float = 0.5,
        cache: float | None = None,
        where: Where = "all",
        decay: float = 0.5,
        threshold: float = 0.5,
        window: float = 0.5,
        sensor: tuple[int, int] = (128, 128),
    ) -> None:
        super().__init__()
        check_whole("APBNet", steps=steps, classes=len(names))
        check_range("APBNet", 0, math.inf, beta=beta, decay=decay, threshold=threshold, window=window)
        check_choice("APBNet", get_args(Where), where=where)
        if len(size) != 2:
            raise Problem(f"size={size!r}", "APBNet", "give height and width of the input")
        self.names, self.steps, self.static, self.mode = list(names), steps, static, mode
        self.size, self.sensor = (size[0], size[1]), (sensor[0], sensor[1])

        def conv(layer: int, in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
            shape: dict[str, Any] = {"padding": kernel // 2, "bias": False}  # tdBN adds the bias
            if mode is None or (layer == 0 and where == "hidden"):
                return nn.Conv2d(in_channels, out_channels, kernel, **shape)
            return APBConv2d(in_channels, out_channels, kernel, mode=mode, beta=beta, cache=cache, **shape)

        channels = 3 if static else 2
        self.net = SpikingConvNet(
            plan,
            channels,
            self.size,
            len(self.names),
            decay=decay,
            threshold=threshold,
            surrogate=Window(window),
            conv=conv,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Frames (B, 2, H, W, T) or images (B, 3, H, W) -> logits of every step (T, B, classes)."""
        return self.net(self.time_first(input))

    def walk(self, input: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Yield (layer, input, output) of each layer in order; tensors are (T, B, ...)."""
        x = self.time_first(input)
        for layer in self.net:
            before, x = x, layer(x)
            yield layer, before, x

    def time_first(self, input: Tensor) -> Tensor:
        """Frames (B, 2, H, W, T) or images (B, 3, H, W) -> (T, B, C, H, W).

        Raises:
            Problem: another layout.
        """
        axes = "(B, 3, H, W)" if self.static else "(B, 2, H, W, T)"
        if input.ndim != (4 if self.static else 5) or input.shape[1] != (3 if self.static else 2):
            raise Problem(f"an input of shape {tuple(input.shape)}", "APBNet", f"give {axes}")
        if self.static:
            return input.expand(self.steps, *input.shape)
        return input.movedim(-1, 0).contiguous()
