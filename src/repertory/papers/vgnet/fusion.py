"""Fold batch norms for inference.

A batch norm after an activation cannot be folded into the preceding convolution. But until the next activation only
linear layers read its output s u + t: K and PW of the next layer, and PW of the one after that. The scale s is folded
into their weights; the shift t contributes the offset W_a t_a + W_b K(t_b), which is added before the next activation.
K pads with zeros, so the offset differs at the border: it is a map, computed once per image size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from repertory.papers.vgnet.kernels import FixedDepthwise, SharedDepthwise

Affine = tuple[Tensor, Tensor]
"""Scale and shift of each channel, (C,) each."""


class Offset(nn.Module):
    """Contribution of the shifts of both halves to the product of a half-identity layer.

    Args:
        constant: W_a t_a, (C',).
        shifted: the kernels of K times t_b, (C, 1, 3, 3); or t_b, (C, 1, 1, 1), if K is the identity.
        weight: W_b, (C', C).
    """

    def __init__(self, constant: Tensor, shifted: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.constant, self.shifted, self.weight = (nn.Buffer(x, persistent=False) for x in (constant, shifted, weight))
        self._map: tuple[object, Tensor] = (None, constant)

    def forward(self, height: int, width: int) -> Tensor:
        """The map (H W, C'); that of the last size is cached."""
        size = (height, width, self.weight.dtype, self.weight.device)
        if self._map[0] != size:
            with torch.inference_mode(False), torch.no_grad():
                ones = self.shifted.new_ones(1, len(self.shifted), height, width)
                y = F.conv2d(ones, self.shifted, padding=self.shifted.shape[-1] // 2, groups=len(self.shifted))
                self._map = size, torch.addmm(self.constant, y[0].flatten(1).t(), self.weight.t())
        return self._map[1]


class AffineJoin(nn.Module):
    """Concatenate a and b, and apply their remaining batch norms.

    Args:
        scale, shift: of all channels.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Buffer(x.view(1, -1, 1, 1), persistent=False) for x in (scale, shift))

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        """Pair of (N, C, H, W) -> (N, 2 C, H, W)."""
        return torch.addcmul(self.shift, torch.cat(pair, 1), self.scale)


def fuse_stage(stage: nn.Sequential) -> None:
    """Fold every batch norm of a `model.Stage`, in place; with squeeze-and-excitation only those of K."""
    down, *halves, _ = cast("list[Any]", list(stage))  # a Downsampling, HalfIdentity layers, a Join
    for half in halves:
        half.kernel = plain_kernel(half.kernel)
    if not isinstance(down.pw.norm, nn.BatchNorm2d) or not isinstance(down.pw.se, nn.Identity):
        return
    scale, shift = affine(down.pw.norm)
    down.pw.norm = nn.Identity()
    scales = torch.cat([scale.new_ones(down.kept), scale]).chunk(2)
    shifts = torch.cat([shift.new_zeros(down.kept), shift]).chunk(2)
    a, b = zip(scales, shifts, strict=True)
    for half in halves:
        _fold(half, a, b)
        a, b = b, affine(cast(nn.BatchNorm2d, half.pw.norm))
        half.pw.norm = nn.Identity()
    stage[-1] = AffineJoin(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))


def _fold(half: Any, a: Affine, b: Affine) -> None:
    """Fold scale and shift of a and b into a `model.HalfIdentity`."""
    conv, kernel = half.pw.conv, half.kernel
    weights = conv.weight.flatten(1)
    weight_a, weight_b = weights.chunk(2, 1)
    shifted = b[1].view(-1, 1, 1, 1)
    scaled_b = weight_b * b[0]
    if isinstance(kernel, nn.Conv2d):
        shifted = kernel.weight * shifted
        kernel.weight = nn.Parameter(kernel.weight * b[0].view(-1, 1, 1, 1))
        scaled_b = weight_b
    half.pw.offset = Offset(weight_a @ a[1], shifted.clone(), weight_b.clone())
    conv.weight = nn.Parameter(torch.cat([weight_a * a[0], scaled_b], 1).view_as(conv.weight))


def plain_kernel(kernel: nn.Module) -> nn.Module:
    """K as one convolution, with a bias if a batch norm follows; an identity is returned unchanged."""
    if isinstance(kernel, nn.Sequential):
        conv, norm = plain_kernel(kernel[0]), kernel[1]
        return fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
    if not isinstance(kernel, FixedDepthwise | SharedDepthwise):
        return kernel
    conv = nn.Conv2d(kernel.channels, kernel.channels, 3, padding=1, groups=kernel.channels, bias=False).eval()
    times = kernel.times if isinstance(kernel, SharedDepthwise) else 1
    conv.weight = nn.Parameter(kernel.weight.detach().repeat(times, 1, 1, 1))
    return conv


def affine(norm: nn.BatchNorm2d) -> Affine:
    """Scale and shift of a batch norm in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale.detach(), (norm.bias - norm.running_mean * scale).detach()
