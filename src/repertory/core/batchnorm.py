"""Batch norms over the samples of all processes, as one process with the whole batch would compute them.

torch's `SyncBatchNorm` does so on GPUs alone; here it is two sums over the processes, on any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def plain_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch norms with torch's own forward pass; a subclass with another one is not among them."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and type(m).forward is _BatchNorm.forward]


@contextmanager
def over_processes(model: nn.Module, processes: int) -> Iterator[None]:
    """Inside, `plain_norms` in training mode normalise by the samples of all processes, forward and backward.

    All processes must compute the same layers in the same order. Cost: two small sums over the processes for each norm
    and pass. With one process nothing changes.
    """
    norms = plain_norms(model) if processes > 1 else []
    for norm in norms:
        cast(Any, norm).forward = partial(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].clone()
        distributed.all_reduce(total)
        return total


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """(N, C, ...) -> same shape."""
    norm._check_input_dim(x)
    if not norm.training:
        return _BatchNorm.forward(norm, x)
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
    wide = torch.float64  # sums over many pixels; their rounding grows over the layers
    count = x.new_tensor([x.numel() / x.shape[1]], dtype=wide)
    sums = _Sum.apply(torch.cat([x.sum(axes, dtype=wide), count]))  # (C + 1)
    mean, count = sums[:-1] / sums[-1], sums[-1]
    kind = x.dtype if x.dtype == wide else torch.float32  # not in half precision
    centred = x.to(kind) - mean.to(kind).view(shape)
    variance = _Sum.apply(centred.square().sum(axes, dtype=wide)) / count  # (C)
    _update_statistics(norm, mean.detach(), (variance * count / (count - 1)).detach())
    scale = (variance + norm.eps).rsqrt().to(kind)
    if not norm.affine:
        return (centred * scale.view(shape)).to(x.dtype)
    return torch.addcmul(norm.bias.view(shape), centred, (scale * norm.weight).view(shape)).to(x.dtype)


@torch.no_grad()
def _update_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running averages towards a batch's mean (C,) and unbiased variance (C,)."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_(variance.to(norm.running_var), share)
