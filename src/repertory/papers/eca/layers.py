"""Channel attention: ECA (Wang et al., CVPR 2020), and the layers that the paper compares it with.

All compute weights in (0, 1) from the mean y of each channel and scale the channels by them; they differ in z:

.. math:: y_c = \\frac{1}{HW} \\sum_{h,w} x_{chw}, \\qquad w = \\mathrm{sigmoid}(z(y)), \\qquad x'_{chw} = w_c x_{chw}

    layer = channel_attention("eca", 256)         # a kernel of 5, by equation 12; 5 parameters
    layer(torch.rand(8, 256, 56, 56)).shape       # (8, 256, 56, 56)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_positive, check_whole
from repertory.core.problem import Problem


def adaptive_kernel(channels: int, gamma: float = 2, b: float = 1) -> int:
    """Kernel for C channels (paper, eq. 12): the integer part of (log2 C + b) / gamma, plus 1 if even.

    At least 3, as in timm.

    Example:
        >>> [adaptive_kernel(c) for c in (16, 64, 127, 128, 512, 1024, 2048)]
        [3, 3, 3, 5, 5, 5, 7]
    """
    check_whole("adaptive_kernel", channels=channels)
    check_positive("adaptive_kernel", gamma=gamma)
    power_of_two = channels & (channels - 1) == 0
    log2 = (
        channels.bit_length() - 1 if power_of_two else math.log2(channels)
    )  # exact for powers of two, where rounding matters
    t = int(abs((log2 + b) / gamma))
    return max(t if t % 2 else t + 1, 3)


class Gate(nn.Module):
    """Base of channel attention: x -> x * sigmoid(z(y)). Subclasses define `logits`.

    Shape:
        (N, C, H, W) -> same shape.

    Raises:
        Problem: in `forward`, an input that is not (N, C, H, W), or empty.
    """

    gate: nn.Module
    """The sigmoid; its output is the weights (N, C)."""

    def logits(self, y: Tensor) -> Tensor:
        """z(y): (N, C) -> (N, C)."""
        raise NotImplementedError

    def weights(self, x: Tensor) -> Tensor:
        """Channel weights in (0, 1): (N, C, H, W) -> (N, C, 1, 1)."""
        return self.gate(self.logits(channel_means(x))).unflatten(1, (-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x * self.weights(x)


@torch.fx.wrap  # pyright: ignore[reportPrivateImportUsage]  shape checks break symbolic tracing
def channel_means(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C)."""
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise Problem(
            f"channel attention on a map of shape {tuple(x.shape)}", "input", "give (N, C, H, W), all but N at least 1"
        )
    return F.adaptive_avg_pool2d(x, 1).flatten(1)  # equals the mean, at the same speed


@torch.fx.wrap  # pyright: ignore[reportPrivateImportUsage]  the question for an empty batch breaks symbolic tracing
def convolved(y: Tensor, weight: Tensor) -> Tensor:
    """Rows of channels (N, C), each convolved with one kernel (1, 1, k), zero-padded -> (N, C)."""
    if y.shape[0] == 0:
        return y * weight.sum()  # convolutions refuse maps without rows
    # 2-d convolution of one image with one row per sample: 4 to 8 times faster on a CPU than a 1-d convolution.
    return F.conv2d(y[None, None], weight[:, :, None], padding=(0, weight.shape[-1] // 2))[0, 0]


class ECA(Gate, EcaModule):
    """Efficient channel attention (paper, section 3.2): z is a convolution along the channels with k weights.

    Args:
        channels: of the input.
        kernel_size: k, odd; None: `adaptive_kernel`.

    Raises:
        Problem: an even kernel, or no channels.

    Example:
        >>> layer = ECA(64)
        >>> layer.conv.weight.shape, layer(torch.zeros(2, 64, 7, 7)).shape
        (torch.Size([1, 1, 3]), torch.Size([2, 64, 7, 7]))
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__(None, _checked_kernel(channels, kernel_size))

    def logits(self, y: Tensor) -> Tensor:
        """z_i = sum over j of w_j y_(i - (k - 1) / 2 + j), zero-padded."""
        return convolved(y, self.conv.weight)


class ECANS(Gate):
    """ECA without weight sharing: every channel has k weights, for itself and its neighbours.

    Args:
        channels: of the input.
        kernel_size: k, odd; None: `adaptive_kernel`.

    Raises:
        Problem: an even kernel.
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        self.kernel_size = _checked_kernel(channels, kernel_size)
        self.conv = nn.Conv1d(channels, channels, self.kernel_size, groups=channels, bias=False)
        self.gate = nn.Sigmoid()

    def logits(self, y: Tensor) -> Tensor:
        """z_i = sum over j of w_ij y_(i - (k - 1) / 2 + j), zero-padded."""
        side = self.kernel_size // 2
        windows = F.pad(y, (side, side)).unfold(1, self.kernel_size, 1)  # (N, C, k)
        return torch.einsum("nck,ck->nc", windows, self.conv.weight[:, 0])


class SE(Gate, SEModule):
    """Squeeze and excitation (Hu et al., 2018): two fully connected layers with C / r hidden channels, at least 2.

    Args:
        channels: of the input.
        reduction: r.
        bias: True as in timm; the parameter counts in the paper are without.

    Raises:
        Problem: no channels, or r below 1.
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True) -> None:
        check_whole("SE", channels=channels, reduction=reduction)
        super().__init__(channels, rd_channels=max(channels // reduction, 2), bias=bias)

    def logits(self, y: Tensor) -> Tensor:
        """z = W2 relu(W1 y)."""
        hidden = F.linear(y, self.fc1.weight.flatten(1), self.fc1.bias).relu()
        return F.linear(hidden, self.fc2.weight.flatten(1), self.fc2.bias)


class SEVar1(Gate):
    """No parameters: z = y."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()

    def logits(self, y: Tensor) -> Tensor:
        """z = y."""
        return y


class SEGrouped(Gate):
    """z = W y with a block-diagonal W of C / G x C / G blocks: SE-GC.

    G = 1 is SE-Var3 (full matrix), G = C is SE-Var2 (diagonal matrix).

    Args:
        channels: C of the input.
        groups: G, a divisor of C.

    Raises:
        Problem: G does not divide C.
    """

    def __init__(self, channels: int, groups: float) -> None:
        super().__init__()
        check_whole("SEGrouped", channels=channels)
        if groups < 1 or groups != int(groups) or channels % groups:
            raise Problem(
                f"{groups:g} groups do not divide {channels} channels",
                "channel attention",
                "choose a layer whose groups divide the channels",
            )
        self.groups = int(groups)
        self.weight = nn.Parameter(torch.empty(channels, channels // self.groups))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # PyTorch's default initialisation
        self.gate = nn.Sigmoid()

    def logits(self, y: Tensor) -> Tensor:
        """z = W y."""
        blocks = self.weight.unflatten(0, (self.groups, -1))  # (G, C / G, C / G)
        parts = y.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (G, N, C / G)
        return (parts @ blocks.mT).transpose(0, 1).flatten(1)


def _cbam(channels: int, reduction: int = 16) -> CbamModule:
    check_whole("CBAM", channels=channels, reduction=reduction)
    return CbamModule(channels, rd_channels=max(channels // reduction, 2))


KINDS: dict[str, Callable[..., nn.Module]] = {
    "none": lambda _channels: nn.Identity(),
    "se": SE,
    "se_var1": SEVar1,
    "se_var2": lambda channels: SEGrouped(channels, groups=channels),
    "se_var3": lambda channels: SEGrouped(channels, groups=1),
    "se_gc1": lambda channels: SEGrouped(channels, groups=16),
    "se_gc2": lambda channels: SEGrouped(channels, groups=channels / 16),
    "se_gc3": lambda channels: SEGrouped(channels, groups=channels / 8),
    "cbam": _cbam,
    "eca_ns": ECANS,
    "eca": ECA,
}
"""The layers of tables 2 and 3 of the paper."""
WITH_KERNEL = ("eca", "eca_ns")
WITH_REDUCTION = ("se", "cbam")


def canonical(kind: str) -> str:
    """Name of a layer in `KINDS`; accepts the paper's names too, such as "SE-Var1".

    Raises:
        Problem: no such layer.
    """
    name = str(kind).lower().replace("-", "_")
    if name not in KINDS:
        raise Problem(f"no channel attention {kind!r}", "kind", f"choose from {', '.join(KINDS)}")
    return name


def channel_attention(kind: str, channels: int, **options: Any) -> nn.Module:
    """A layer by name.

    Args:
        kind: one of `KINDS`, or the paper's spelling, such as "ECA-NS".
        channels: C.
        options: `kernel_size` of eca and eca_ns; `reduction` of se and cbam; `bias` of se.

    Shape:
        (N, C, H, W) -> same shape.

    Raises:
        Problem: no such layer, an even kernel, groups that do not divide the channels, or an unknown option or
            value.

    Example:
        >>> {kind: sum(p.numel() for p in channel_attention(kind, 64).parameters()) for kind in KINDS}
        {'none': 0, 'se': 580, 'se_var1': 0, 'se_var2': 64, 'se_var3': 4096, 'se_gc1': 256, 'se_gc2': 1024,
         'se_gc3': 512, 'cbam': 612, 'eca_ns': 192, 'eca': 3}
    """
    name = canonical(kind)
    allowed = {
        "kernel_size": name in WITH_KERNEL,
        "reduction": name in WITH_REDUCTION,
        "bias": name == "se",
    }
    for option in options:
        if not allowed.get(option):
            raise Problem(f"{name} has no option {option!r}", "channel_attention", "leave it out")
    check_whole("channel_attention", channels=channels)
    if not isinstance(options.get("bias", True), bool):
        raise Problem(f"bias={options['bias']!r}", "channel_attention", "give True or False")
    return KINDS[name](channels, **options)


def _checked_kernel(channels: int, kernel_size: int | None) -> int:
    if kernel_size is None:
        return adaptive_kernel(channels)
    check_whole("channel attention", channels=channels)
    if not isinstance(kernel_size, int) or isinstance(kernel_size, bool) or kernel_size < 1 or kernel_size % 2 == 0:
        raise Problem(f"kernel_size must be odd, got {kernel_size}", "channel attention", "choose 3, 5, 7, ...")
    if kernel_size > 2 * channels - 1:
        warnings.warn(
            f"a kernel of {kernel_size} is longer than {channels} channels need: its outer weights multiply only zeros",
            stacklevel=3,
        )
    return kernel_size
