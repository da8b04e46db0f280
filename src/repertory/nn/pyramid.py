"""Pyramid pooling of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation


class PyramidPooling(nn.Module):
    """A map concatenated with its averages over several grids of bins, each reduced by a convolution.

    Zhao et al., Pyramid Scene Parsing Network, CVPR 2017.

    Args:
        dim: C, channels of the map.
        width: channels of each average.
        bins: along height and width, of each grid.

    Shape:
        (N, C, H, W) -> (N, C + len(bins) * width, H, W). In training a grid of one bin needs N > 1 (batch norm).

    Example:
        >>> PyramidPooling(8, 4).eval()(torch.zeros(1, 8, 6, 9)).shape
        torch.Size([1, 24, 6, 9])
    """

    def __init__(self, dim: int, width: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.out_channels = dim + len(bins) * width
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), Conv2dNormActivation(dim, width, 1)) for side in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        means = [F.interpolate(pool(x), x.shape[-2:], mode="bilinear", align_corners=False) for pool in self.pools]
        return torch.cat([x, *means], 1)
