"""Multiply-accumulates of a model in fvcore's convention, which papers on light backbones use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def count_macs(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode.

    One multiply-accumulate counts 1. Included: convolutions, matrix products (also inside attention), norms, bilinear
    upsampling. Excluded: biases, activations, softmax, element-wise sums, means.

    Args:
        model: unchanged on return, including its training mode.
        inputs: example inputs on the device of the model; only their shapes matter.

    Example:
        >>> count_macs(nn.Linear(3, 5), torch.zeros(2, 3))
        30
    """
    from fvcore.nn import FlopCountAnalysis  # here: a study is imported to train and predict too

    modes = {module: module.training for module in model.modules()}
    try:
        analysis = FlopCountAnalysis(model.eval(), inputs)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        with torch.no_grad():
            return int(analysis.total())
    finally:
        for module, training in modes.items():
            module.training = training


def _attention_macs(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """q (..., L, E), k (..., S, E), v (..., S, V): L S E for the scores plus L S V for the weighted sums."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
