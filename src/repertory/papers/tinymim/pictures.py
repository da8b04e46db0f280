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
    lines = [(f"{name}\n{pair.upper()}", values[k]) for name, values in maps.items() for k, pair in enumerate(PAIRS)]
    heads = min(MAX_HEADS, max(len(values) for _, values in lines))
    largest = max(values.max() for _, values in lines)
    rows, columns = lines[0][1].shape[1:]
    tall, wide = 1.1 * rows, 1.1 * columns  # from one tile to the next
    place = min(int(column * columns), columns - 1), min(int(row * rows), rows - 1)

    figure = Figure(figsize=(1.3 * (heads + 2), 1.3 * len(lines) + 0.6), layout="constrained")
    axes = figure.subplots()
    for line, (_, values) in enumerate(lines):
        for number, shown in enumerate([None, *values[:heads]]):
            left, top = number * wide - 0.5, line * tall - 0.5
            extent = (left, left + columns, top + rows, top)
            axes.imshow(picture, extent=extent, alpha=1.0 if shown is None else 0.4)
            if shown is not None:
                axes.imshow(shown, extent=extent, alpha=0.7, vmin=0, vmax=largest)
        axes.plot(place[0], place[1] + line * tall, "s", markersize=7, fillstyle="none", color="#cf222e", mew=1.5)
    axes.set_xlim(-0.5, heads * wide + columns - 0.5)
    axes.set_ylim((len(lines) - 1) * tall + rows - 0.5, -0.5)
    names = ["image", *(f"head {number}" for number in range(1, heads + 1))]
    axes.set_xticks([number * wide + (columns - 1) / 2 for number in range(heads + 1)], names)
    axes.set_yticks([line * tall + (rows - 1) / 2 for line in range(len(lines))], [label for label, _ in lines])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    figure.colorbar(axes.images[-1], ax=axes, shrink=0.6, label="softmax weight")
    axes.set_title("relations of the marked patch to all patches", fontsize=9)
    return figure


def losses_picture(records: Sequence[Mapping[str, float]]) -> Figure:
    """Losses of a pre-training over its steps.

    Args:
        records: of the loop, with "step" and the losses.
    """
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    names = [name for name in records[0] if name not in ("step", "part", "lr")]
    for name in names:
        axes.plot([r["step"] for r in records], [r[name] for r in records], label=name, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
