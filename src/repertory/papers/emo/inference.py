"""EMO's block in eager inference on a CPU: few operators, few bytes.

At batch 1 the calls of modules and operators take as long as the arithmetic; in batches, a batch norm moves a map that
does not fit the cache. So pixels are the rows of one matrix (N H W, C), a 1x1 convolution is one product that also adds
its bias or the residual, parameters are read past `nn.Module.__getattr__`, and the batch norm of a large map is folded
into the weights beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

FOLDED_FROM = 1 << 17
"""Elements of a map from which on folding its batch norm costs less than applying it."""


class Pointwise(nn.Conv2d):
    """1x1 convolution as one matrix product over all pixels of a channels-last map."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        if self.groups > 1:
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


WEIGHTED = {Pointwise, LayerNorm2d, nn.BatchNorm2d, nn.Conv2d}
KNOWN = {*WEIGHTED, DropPath, nn.Dropout, nn.Identity, nn.Sequential, nn.SiLU}


def applies(block: Any, x: Tensor) -> bool:
    """Whether `run` may stand for the equations of a `model.iRMB`.

    The block is built as in the published networks, no gradient is wanted, windows divide the map, and the layers
    whose parameters `run` reads are of known classes and without hooks: a subclass may compute something else, a hook
    wants to be called.
    """
    if not block.published or torch.is_grad_enabled() or not x.numel():
        return False
    if block.attn_s and (x.shape[2] % block.window_size or x.shape[3] % block.window_size):
        return False
    layers = [*block._modules.values(), *list(block._modules["local"]._modules.values())[:3]]
    layers += list(block._modules["v"]._modules.values())[:1]
    for layer in layers:
        kind = type(layer)
        if kind not in KNOWN or layer._forward_hooks or layer._forward_pre_hooks:
            return False
        if kind in WEIGHTED and layer._parameters.get("weight") is None:
            return False
        if layer.training and kind in (nn.BatchNorm2d, nn.Dropout, DropPath):
            return False
        if kind is nn.BatchNorm2d and layer.running_var is None:
            return False
    return True


def run(block: Any, x: Tensor) -> Tensor:
    """The equations of `model.iRMB.block`: (N, C, H, W) -> (N, C', H / stride, W / stride)."""
    modules: dict[str, Any] = block._modules
    norm, v, local, proj = modules["norm"], modules["v"], modules["local"]._modules, modules["proj"]
    n, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1)
    pixels = x.reshape(-1, channels)
    folds = not block.attn_s and type(v) is nn.Sequential and foldable(norm, x.numel(), v._modules["0"])
    if block.attn_s:
        u = attended(block, normed(norm, x))
    elif folds:
        u = pixels
    else:
        u = normed(norm, x).reshape(-1, channels)
    y = u
    if type(v) is nn.Sequential:
        layers: Any = v._modules.values()
        expand, act = layers
        weight, bias = expand._parameters["weight"].flatten(1), expand._parameters["bias"]
        if folds:
            scale, shift = affine(norm)
            bias, weight = torch.addmv(bias, weight, shift), weight * scale
        y = act(torch.addmm(bias, u, weight.t()))  # (N H W, dim_mid)
    y = y.view(n, height, width, y.shape[1]).permute(0, 3, 1, 2)
    conv, norm, _, *gates = local.values()
    z = F.silu(convolved(conv, norm, y), inplace=True)
    for gate in gates:
        z = gate(z)
    if block.skip:
        z.add_(y)
    n, mid, height, width = z.shape
    z, weight = z.permute(0, 2, 3, 1).reshape(-1, mid), proj._parameters["weight"].flatten(1).t()
    o = torch.addmm(pixels, z, weight) if block.skip else torch.mm(z, weight)
    return o.view(n, height, width, o.shape[1]).permute(0, 3, 1, 2)


def attended(block: Any, u: Tensor) -> Tensor:
    """Attention in strided windows that divide the map: (N, H, W, C) -> (N H W, C)."""
    n, height, width, channels = u.shape
    side, heads, p = block.window_size, block.heads, block._modules["qk"]._parameters
    n1, n2, length = height // side, width // side, side**2
    t = u.view(n, side, n1, side, n2, channels).permute(0, 2, 4, 1, 3, 5).reshape(-1, channels)
    q, k = (
        torch.addmm(p["bias"], t, p["weight"].flatten(1).t())
        .view(-1, length, 2, heads, channels // heads)
        .permute(2, 0, 3, 1, 4)
    )
    v = t.view(-1, length, heads, channels // heads).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (N', L, h, C / h)
    return y.reshape(n, n1, n2, side, side, channels).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels)


def normed(norm: Any, x: Tensor) -> Tensor:
    """The norm of maps (N, H, W, C)."""
    p, b = norm._parameters, norm._buffers
    if type(norm) is LayerNorm2d:
        return torch.layer_norm(x, norm.normalized_shape, p["weight"], p["bias"], norm.eps)
    if type(norm) is not nn.BatchNorm2d:
        return x
    x = x.permute(0, 3, 1, 2)
    x = torch.batch_norm(x, p["weight"], p["bias"], b["running_mean"], b["running_var"], False, 0.0, norm.eps, False)
    return x.permute(0, 2, 3, 1)


def convolved(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """norm(conv(x)), by one convolution where the map is large."""
    weight, bias = conv._parameters["weight"], conv._parameters["bias"]
    folds = foldable(norm, x.numel() // conv.stride[0] ** 2, conv)
    if folds:
        scale, shift = affine(norm)
        weight, bias = weight * scale.view(-1, 1, 1, 1), shift if bias is None else torch.addcmul(shift, bias, scale)
    z = torch.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return z if folds else normed(norm, z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def foldable(norm: Any, size: int, conv: Any) -> bool:
    """Whether the norm of `size` elements goes into a convolution; half precision would round the weights again."""
    if size < FOLDED_FROM or type(norm) is not nn.BatchNorm2d:
        return False
    return conv.weight.dtype == norm.weight.dtype and norm.weight.dtype in (torch.float32, torch.float64)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, (C,) each, of a batch norm in evaluation mode."""
    p, b = norm._parameters, norm._buffers
    scale = p["weight"] * torch.rsqrt(b["running_var"] + norm.eps)
    return scale, torch.addcmul(p["bias"], b["running_mean"], scale, value=-1)
