"""Figures: mean channel weights of each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from repertory.core.printing import figure_text
from repertory.papers.eca.layers import Gate
from repertory.papers.eca.model import stages_of


@torch.inference_mode()
def mean_channel_weights(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[NDArray[np.float32]]:
    """Channel weights in the last block of each stage, averaged over the images of each class.

    Args:
        model: in evaluation mode, a network that `stages_of` supports.
        batches: images (N, C, H, W) and their rows (N,), from 0.

    Returns:
        An array (rows, channels) per stage; empty if the model has no attention with one weight per channel.
    """
    gates = [gate for stage in stages_of(model) if (gate := _last_gate(stage)) is not None]
    weights: list[list[Tensor]] = [[] for _ in gates]
    handles = [
        gate.gate.register_forward_hook(partial(_append, kept)) for gate, kept in zip(gates, weights, strict=True)
    ]
    rows: list[Tensor] = []
    try:
        for x, row in batches:
            model(x)
            rows.append(row)
    finally:
        for handle in handles:
            handle.remove()
    members = torch.nn.functional.one_hot(torch.cat(rows)).float().T  # (rows, images)
    means = members / members.sum(1, keepdim=True)
    return [(means @ torch.cat(kept).float()).cpu().numpy() for kept in weights]


def _last_gate(blocks: Sequence[nn.Module]) -> Gate | None:
    return next((module for module in reversed(list(blocks[-1].modules())) if isinstance(module, Gate)), None)


def _append(kept: list[Tensor], _module: nn.Module, _inputs: object, weights: Tensor) -> None:
    kept.append(weights)


def weights_picture(stages: Sequence[NDArray[np.float32]], classes: Sequence[str]) -> Figure:
    """Heat maps of mean channel weights, one per stage.

    Args:
        stages: arrays (rows, channels).
        classes: names of the rows.
    """
    figure = Figure(figsize=(9, 1.0 + len(stages) * (0.55 + 0.22 * len(classes))), layout="constrained")
    rows = figure.subplots(len(stages), 1, squeeze=False).flat
    for number, (axes, weights) in enumerate(zip(rows, stages, strict=True), 1):
        shown = axes.imshow(weights, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_yticks(range(len(classes)), [figure_text(name) for name in classes], fontsize=8)
        axes.set_title(f"stage {number}, last block: {weights.shape[1]} channels", fontsize=9)
        figure.colorbar(shown, ax=axes, label="weight")
    figure.axes[len(stages) - 1].set_xlabel("channel")
    return figure
