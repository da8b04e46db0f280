"""Figures: attention of one pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.papers.emo.model import EMO, iRMB


@dataclass(frozen=True)
class PixelAttention:
    """Attention weights of one pixel of a feature map."""

    weights: np.ndarray
    """(H, W), mean over heads; NaN outside the pixel's window."""
    pixel: tuple[int, int]
    stage: int
    block: int
    windows: int


@torch.no_grad()
def pixel_attention(model: EMO, image: Tensor, row: float, column: float) -> PixelAttention | None:
    """Attention of one pixel in the last block of the first stage whose map has several windows.

    Args:
        model: in evaluation mode.
        image: (C, H, W), preprocessed.
        row: from 0 (top) to 1 (bottom).
        column: from 0 (left) to 1 (right).

    Returns:
        The weights; None if the model has no attention. If no map has several windows: the first stage with attention.
    """
    candidates: list[tuple[int, int, Tensor, Tensor, Tensor]] = []
    for number, stage in enumerate(model.stages, start=1):
        *_, block = blocks = list(stage.children())
        if isinstance(block, iRMB) and block.attn_s:
            u = _input_of(model, block, image)
            candidates.append((number, len(blocks), u, *block.attention(u)))
    if not candidates:
        return None
    number, block_number, u, weights, places = next((c for c in candidates if len(c[-1]) > 1), candidates[0])
    height, width = u.shape[-2:]
    pixel = min(int(row * height), height - 1), min(int(column * width), width - 1)
    window, position = (
        int(index) for index in (places == torch.tensor(pixel, device=places.device)).all(-1).nonzero()[0]
    )
    shown = np.full((height, width), np.nan)
    for (r, c), weight in zip(places[window].tolist(), weights[window, :, position].mean(0).tolist(), strict=True):
        if r < height and c < width:
            shown[r, c] = weight
    return PixelAttention(shown, pixel, number, block_number, len(places))


def _input_of(model: EMO, block: iRMB, image: Tensor) -> Tensor:
    """The normalised input of a block, (1, C, H, W)."""
    outputs: list[Tensor] = []
    handle = block.norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(image[None])
    handle.remove()
    return outputs[0]


def attention_picture(picture: np.ndarray, attention: PixelAttention) -> Figure:
    """The pixel on the image, and a heat map of its attention weights over the image.

    Args:
        picture: (H, W, 3), 0 to 1.
        attention: of a pixel of this image.
    """
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    height, width = attention.weights.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for axes in (left, right):
        axes.imshow(picture, extent=extent, alpha=1.0 if axes is left else 0.35)
        axes.plot(attention.pixel[1], attention.pixel[0], "s", markersize=9, fillstyle="none", color="#cf222e", mew=2)
        axes.set_xticks(np.arange(width + 1) - 0.5, [])
        axes.set_yticks(np.arange(height + 1) - 0.5, [])
        axes.grid(color="white", linewidth=0.4)
        axes.tick_params(length=0)
    shown = right.imshow(np.ma.masked_invalid(attention.weights), extent=extent, alpha=0.75, cmap="viridis", vmin=0)
    figure.colorbar(shown, ax=right, shrink=0.85, label="attention weight, mean over heads")
    left.set_title(f"pixel {attention.pixel} of the {height} x {width} map")
    members = int(np.isfinite(attention.weights).sum())
    right.set_title(
        f"stage {attention.stage}, block {attention.block}: its window, {members} pixels (1 of {attention.windows})"
    )
    return figure
