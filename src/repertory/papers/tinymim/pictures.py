"""Figures: relations of one patch, per head; losses of pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from repertory.papers.tinymim.model import relations

PAIRS = ("qk", "vv")
MAX_HEADS = 8
"""Heads drawn."""


@torch.no_grad()
def patch_relations(model: VisionTransformer, image: Tensor, block: int, row: float, column: float) -> np.ndarray:
    """Relations of one patch to all patches: the rows R^QK and R^VV of the patch.

    Args:
        model: in evaluation mode.
        image: (C, H, W), preprocessed.
        block: number of the block, from 1.
        row: of the patch, from 0 (top) to 1 (bottom).
        column: from 0 (left) to 1 (right).

    Returns:
        (2, M, rows, columns); without the class token, so a map sums to 1 at most.
    """
    rows, columns = model.patch_embed.grid_size
    place = min(int(row * rows), rows - 1) * columns + min(int(column * columns), columns - 1)
    prefix = model.num_prefix_tokens
    maps = [r[0, :, prefix + place, prefix:] for r in relations(model, image[None], block, PAIRS)]
    return torch.stack(maps).unflatten(-1, (rows, columns)).cpu().numpy()


def relations_picture(picture: np.ndarray, maps: Mapping[str, np.ndarray], row: float, column: float) -> Figure:
    """The image with the patch, and its relations as heat maps over the image: a row per network and relation.

    Args:
        picture: (H, W, 3), 0 to 1.
        maps: network -> output of `patch_relations`.
        row, column: of the patch, as given there.
    """
    heads = min(MAX_HEADS, max(values.shape[1] for values in maps.values()))
    lines = [(f"{name}\n{pair.upper()}", values[k]) for name, values in maps.items() for k, pair in enumerate(PAIRS)]
    figure = Figure(figsize=(1.4 * (heads + 2), 1.5 * len(lines) + 0.6), layout="constrained")
    for axes, (label, values) in zip(figure.subplots(len(lines), squeeze=False)[:, 0], lines, strict=True):
        rows, columns = values.shape[1:]
        step = columns + 0.5  # from one tile to the next
        tiles = ["image", *(f"head {number}" for number in range(1, 1 + min(heads, len(values))))]
        for number in range(len(tiles)):
            left = number * step - 0.5
            extent = (left, left + columns, rows - 0.5, -0.5)
            axes.imshow(picture, extent=extent, alpha=1.0 if number == 0 else 0.4)
            if number:
                axes.imshow(values[number - 1], extent=extent, alpha=0.7, vmin=0, vmax=values.max())
        place = min(int(column * columns), columns - 1), min(int(row * rows), rows - 1)
        axes.plot(*place, "s", markersize=7, fillstyle="none", color="#cf222e", markeredgewidth=1.5)
        axes.set_xlim(-0.5, len(tiles) * step - 1)
        axes.set_xticks([number * step + (columns - 1) / 2 for number in range(len(tiles))], tiles, fontsize=7)
        axes.set_yticks([], [])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, fontsize=8)
        figure.colorbar(axes.images[-1], ax=axes, shrink=0.8, pad=0.01).ax.tick_params(labelsize=6)
    figure.suptitle("relations of the marked patch to all patches, softmax weight", fontsize=9)
    return figure


def losses_picture(records: Sequence[Mapping[str, float]]) -> Figure:
    """Losses of a pre-training over its steps.

    Args:
        records: of the loop, with "step" and the losses.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    names = [name for name in records[0] if name not in ("step", "part", "lr")]
    for name in names:
        axes.plot([r["step"] for r in records], [r[name] for r in records], label=name, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
