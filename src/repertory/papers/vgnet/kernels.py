"""Fixed 3x3 kernels, edge detectors and low-pass filters, and layers that apply them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem

Rows = tuple[tuple[float, float, float], ...]


def _symmetric(corner: float, edge: float, centre: float) -> Rows:
    """A kernel with four-fold symmetry."""
    return ((corner, edge, corner), (edge, centre, edge), (corner, edge, corner))


_UNIT = 1 + 4 * math.exp(-0.5) + 4 * math.exp(-1)

KERNELS: dict[str, Rows] = {
    "vertical gradient": ((-1 / 2, -1, -1 / 2), (0, 0, 0), (1 / 2, 1, 1 / 2)),
    "horizontal gradient": ((-1 / 2, 0, 1 / 2), (-1, 0, 1), (-1 / 2, 0, 1 / 2)),
    "Laplacian-8": _symmetric(-1 / 12, -1 / 6, 1),
    "Laplacian-4": _symmetric(0, -1 / 4, 1),
    "falling diagonal": ((-1, -2 / 3, -1 / 3), (-2 / 3, 0, 2 / 3), (1 / 3, 2 / 3, 1)),
    "rising diagonal": ((-1 / 3, -2 / 3, -1), (2 / 3, 0, -2 / 3), (1, 2 / 3, 1 / 3)),
    "Gaussian": _symmetric(0.0811, 0.1226, 0.1853),
    "narrow Gaussian": _symmetric(0.0277, 0.1110, 0.4452),
    "negative Gaussian": _symmetric(-0.0811, -0.1226, -0.1853),
    "unit Gaussian": _symmetric(math.exp(-1) / _UNIT, math.exp(-0.5) / _UNIT, 1 / _UNIT),
}
"""Name -> rows. "Gaussian" has a standard deviation of 1.1 pixels, rounded as in the authors' code; "unit Gaussian"
of 1 pixel."""

EDGE = ("vertical gradient", "horizontal gradient", "Laplacian-8", "Laplacian-4")
SETS: dict[str, tuple[str, ...]] = {
    "edge": EDGE,
    "edge_gaussian": (*EDGE, "falling diagonal", "rising diagonal", "Gaussian", "narrow Gaussian"),
    "blur_paper": ("Gaussian", "negative Gaussian"),
    "blur_release": ("unit Gaussian",),
}
"""Name -> n kernels; channel c uses kernel c mod n."""


def fixed_kernels(names: str) -> Tensor:
    """The kernels of a set, (n, 3, 3).

    Example:
        >>> fixed_kernels("edge").shape, fixed_kernels("blur_release").sum().item()
        (torch.Size([4, 3, 3]), 1.0)
    """
    return torch.tensor([KERNELS[name] for name in SETS[names]])


class FixedDepthwise(nn.Module):
    """Depth-wise 3x3 convolution with constant kernels, stored in a buffer and not trained.

    Args:
        channels: a multiple of the number of kernels in the set.
        kernels: a key of `SETS`.
        stride: of the convolution; the padding is 1.

    Shape:
        (N, channels, H, W) -> (N, channels, H / stride, W / stride), rounded up.

    Raises:
        Problem: `channels` is not a multiple of the number of kernels.

    Example:
        >>> FixedDepthwise(8, "edge")(torch.ones(1, 8, 5, 5))[0, :4, 2, 2].abs().sum().item() < 1e-6  # flat: no edge
        True
    """

    weight: Tensor

    def __init__(self, channels: int, kernels: str, stride: int = 1) -> None:
        super().__init__()
        check_whole("FixedDepthwise", channels=channels, stride=stride)
        check_choice("FixedDepthwise", SETS, kernels=kernels)
        if channels % len(SETS[kernels]):
            raise Problem(
                f"{channels} channels do not divide into the {len(SETS[kernels])} kernels of {kernels!r}",
                "fixed kernels",
                f"choose a width that makes them a multiple of {len(SETS[kernels])}, or other kernels",
            )
        self.channels, self.kernels, self.stride = channels, kernels, stride
        # Constants are not saved with the weights.
        self.register_buffer("weight", self.constants(), persistent=False)

    def constants(self) -> Tensor:
        """The kernel of each channel, (channels, 1, 3, 3)."""
        kernels = fixed_kernels(self.kernels)
        return kernels.repeat(self.channels // len(kernels), 1, 1)[:, None]

    def reset(self) -> None:
        """Restore the constants."""
        self.weight.copy_(self.constants())

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H / stride, W / stride)."""
        return F.conv2d(x, self.weight, stride=self.stride, padding=1, groups=self.channels)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.kernels!r}, stride={self.stride}"


class SharedDepthwise(nn.Module):
    """Depth-wise 3x3 convolution with shared kernels: channel c uses kernel c mod (channels / times).

    Args:
        channels: a multiple of `times`.
        times: channels per kernel.

    Raises:
        Problem: `times` does not divide `channels`.
    """

    def __init__(self, channels: int, times: int = 8) -> None:
        super().__init__()
        check_whole("SharedDepthwise", channels=channels, times=times)
        if channels % times:
            raise Problem(
                f"{channels} channels are not a multiple of {times}", "shared kernels", "choose another last width"
            )
        self.channels, self.times = channels, times
        self.weight = nn.Parameter(depthwise(channels // times).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> same shape."""
        return F.conv2d(x, self.weight.repeat(self.times, 1, 1, 1), padding=1, groups=self.channels)

    def extra_repr(self) -> str:
        return f"{self.channels}, times={self.times}"


def depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    """A learned depth-wise 3x3 convolution without bias, norm or activation."""
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
