"""Supervision of intermediate columns: classifiers, image decoders, and the compound loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from timm.layers import LayerNorm2d, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.nn.backbone import pooling
from repertory.papers.revcol.blocks import EPS, Block

IMAGE_BOUNDS = (0.01, 0.99)
"""The target image is clamped to this range: no finite logit reaches 0 or 1."""
SIMPLE_ABOVE = 1000
"""Number of classes above which `SimpleDecoder` is used."""


class Supervised(NamedTuple):
    """Outputs of the supervised columns."""

    logits: list[Tensor]
    """(N, classes) each; the last is the prediction."""
    reconstructions: list[Tensor]
    """Logits of the image, (N, 3, H, W) each; the last column has none."""


class Classifier(nn.Module):
    """Pooling, LayerNorm, dropout, linear: (N, C, H, W) -> (N, num_classes); (N, dim) with 0 classes.

    Args:
        dim: pooled channels.
        num_classes: 0: no linear layer; without pooling too, the output is the normalised map (N, C, H, W).
        drop_rate: dropout before the linear layer.
        pool: (N, C, H, W) -> (N, dim); default: the mean.
    """

    def __init__(
        self, dim: int, num_classes: int, drop_rate: float = 0.0, pool: SelectAdaptivePool2d | None = None
    ) -> None:
        super().__init__()
        self.pool = pool or pooling("avg")
        self.drop_rate = drop_rate
        linear = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.classifier = nn.Sequential(nn.LayerNorm(dim, eps=EPS), linear)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classifier[1](F.dropout(self.pooled(x), self.drop_rate, self.training))

    @torch.no_grad()
    def scale_(self, factor: float) -> None:
        """Multiply the weights of the linear layer."""
        for parameter in self.classifier[1].parameters():
            parameter.mul_(factor)

    def pooled(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, dim), normalised over channels."""
        x = self.pool(x)
        return self.classifier[0](x) if x.ndim == 2 else self.classifier[0](x.movedim(1, -1)).movedim(-1, 1)


class Decoder(nn.Module):
    """Reconstruct the image step by step: three times upsampling by 2 and a block, then a pixel shuffle by 4.

    Args:
        channels: of the four levels, finest first.
        layer_scale: initial gamma of the blocks.
        in_chans: channels of the image.

    Shape:
        (N, C_3, h, w) -> logits (N, in_chans, 32 h, 32 w).
    """

    def __init__(self, channels: Sequence[int], layer_scale: float = 1e-6, in_chans: int = 3) -> None:
        super().__init__()
        dims = list(reversed(channels))
        steps = list(pairwise(dims))
        self.proj_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1), LayerNorm2d(b, eps=EPS), nn.GELU()) for a, b in steps
        )
        self.normal_layers = nn.ModuleList(
            nn.Sequential(Block(b, layer_scale=layer_scale, expansion=1)) for _, b in steps
        )
        self.projback = nn.Sequential(nn.Conv2d(dims[-1], 16 * in_chans, 1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for project, block in zip(self.proj_layers, self.normal_layers, strict=True):
            x = F.interpolate(project(x), scale_factor=2, mode="bilinear", align_corners=True)
            x = block(x)
        return self.projback(x)


class SimpleDecoder(nn.Module):
    """Reconstruct the image in one step, by a pixel shuffle by 32: (N, dim, h, w) -> (N, in_chans, 32 h, 32 w)."""

    def __init__(self, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.projback = nn.Sequential(
            LayerNorm2d(dim, eps=EPS), nn.Conv2d(dim, 1024 * in_chans, 1), nn.PixelShuffle(32)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.projback(x)


def compound_loss(
    supervised: Supervised,
    image: Tensor,
    target: Tensor,
    reconstruction_weight: float = 3.0,
    label_weight: float = 0.7,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> list[Tensor]:
    r"""Loss of each supervised column; their sum is the loss of the model.

    .. math:: \sum_{j=1}^{L-1} \Big[ f \Big(1 - \frac{j-1}{L-1}\Big) \mathrm{BCE}(r_j, I)
              + c \, \frac{j}{L} \, \mathrm{CE}(p_j, y) \Big] + \mathrm{CE}(p_L, y)

    Early columns focus on reconstruction, late ones on classification: with the released f = 3, c = 0.7 and L = 4,
    the reconstructions have weights 3, 2, 1 and the labels 0.175, 0.35, 0.525, 1.

    Args:
        supervised: p_1 … p_L and r_1 … r_{L-1}.
        image: I, the network's input (after mixup), from 0 to 1, (N, 3, H, W).
        target: y, classes (N,) or class probabilities (N, classes).
        reconstruction_weight: f.
        label_weight: c.
        cross_entropy: CE, of logits and targets.
    """
    logits, reconstructions = supervised
    count = len(logits)
    image = image.clamp(*IMAGE_BOUNDS)
    terms: list[Tensor] = []
    for j, (p, r) in enumerate(zip(logits, reconstructions, strict=False), start=1):
        pixels = reconstruction_weight * (1 - (j - 1) / (count - 1)) * F.binary_cross_entropy_with_logits(r, image)
        terms.append(pixels + label_weight * j / count * cross_entropy(p, target))
    return [*terms, cross_entropy(logits[-1], target)]


def default_taps(columns: int) -> tuple[int, ...]:
    """Supervised columns, counted from 1: n/4, n/2, 3n/4, n.

    Example:
        >>> default_taps(8)
        (2, 4, 6, 8)
    """
    return tuple(columns * k // 4 for k in range(1, 5))
