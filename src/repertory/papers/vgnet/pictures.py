"""Figures and table: the 3x3 kernels of a network compared with the fixed ones."""

from __future__ import annotations

from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from repertory.papers.vgnet.kernels import SETS, FixedDepthwise, SharedDepthwise, fixed_kernels
from repertory.papers.vgnet.model import VGNet

MAX_KERNELS = 14
"""Kernels per stage in the figure."""

REFERENCES = {
    **dict(zip(SETS["edge_gaussian"], fixed_kernels("edge_gaussian").numpy(), strict=True)),
    "identity": np.eye(9)[4].reshape(3, 3),
}
"""The fixed kernels, and the identity."""

FIELDS = [
    ("stage", "i4"),
    ("layer", "i4"),
    ("channel", "i4"),
    ("learned", "?"),
    ("nearest", "U20"),
    ("cosine", "f8"),
    *((f"k{i}", "f8") for i in range(9)),
]


def compare_kernels(model: VGNet) -> NDArray[np.void]:
    """Every 3x3 kernel of a network, except the blurs, with the most similar fixed kernel.

    A kernel and its negative count as equal: the next 1x1 convolution can change the sign.

    Returns:
        One row per kernel: `stage` (5: the tail), `layer`, `channel`, `learned`, `nearest`, `cosine` (with its sign),
        and the values by rows, `k0` to `k8`.
    """
    rows: list[tuple[object, ...]] = []
    references = np.stack([kernel.ravel() / np.linalg.norm(kernel) for kernel in REFERENCES.values()])  # (9, 9)
    for name, module in model.named_modules():
        learned = isinstance(module, SharedDepthwise) or (isinstance(module, nn.Conv2d) and module.groups > 1)
        if not learned and (not isinstance(module, FixedDepthwise) or name.endswith(".filter")):
            continue
        weight = cast(Tensor, module.weight)
        kernels = weight.detach().flatten(1).double().cpu().numpy()  # (C, 9)
        cosines = kernels / np.maximum(np.linalg.norm(kernels, axis=1, keepdims=True), 1e-12) @ references.T
        numbers = [int(part) for part in name.split(".")[1:3]] if name.startswith("stages") else [4, 0]
        for channel, (kernel, best) in enumerate(zip(kernels, np.abs(cosines).argmax(1), strict=True)):
            place = (numbers[0] + 1, numbers[1] + 1, channel)
            rows.append((*place, learned, list(REFERENCES)[best], cosines[channel, best], *kernel))
    return np.array(rows, dtype=FIELDS)


def summary(kernels: NDArray[np.void]) -> str:
    """One line per stage: the most frequent nearest kernels."""
    lines = []
    for stage in np.unique(kernels["stage"]):
        own = kernels[kernels["stage"] == stage]
        names, counts = np.unique(own["nearest"], return_counts=True)
        shares = ", ".join(f"{names[i]} {100 * counts[i] / len(own):.0f} %" for i in np.argsort(-counts)[:4])
        kind = "learned" if own["learned"].all() else "fixed"
        lines.append(
            f"{_title(stage)}: {len(own)} {kind} 3x3 kernels, "
            f"mean |cosine| {np.abs(own['cosine']).mean():.2f} to the nearest fixed one: {shares}"
        )
    return "\n".join(lines)


def kernels_picture(kernels: NDArray[np.void]) -> Figure:
    """Top row: the fixed kernels; below: kernels of each stage with their nearest fixed kernel and cosine."""
    stages = np.unique(kernels["stage"])
    figure = Figure(figsize=(MAX_KERNELS, 1.45 * (1 + len(stages))), layout="constrained")
    grid = figure.subplots(1 + len(stages), 1)
    _row(grid[0], "fixed", list(REFERENCES.values()), list(REFERENCES))
    for axes, stage in zip(grid[1:], stages, strict=True):
        own = kernels[kernels["stage"] == stage]
        own = own[np.linspace(0, len(own) - 1, min(MAX_KERNELS, len(own))).astype(int)]
        values = [np.array([row[f"k{i}"] for i in range(9)]).reshape(3, 3) for row in own]
        _row(axes, _title(stage), values, [f"{row['nearest']}\n{row['cosine']:+.2f}" for row in own])
    return figure


def _title(stage: int) -> str:
    return "tail" if stage == 5 else f"stage {stage}"


def _row(axes: Axes, title: str, kernels: list[NDArray[np.float64]], labels: list[str]) -> None:
    """Kernels in one row of an image, each scaled by its largest magnitude, with labels below."""
    strip = np.full((3, 4 * MAX_KERNELS - 1), np.nan)
    for i, kernel in enumerate(kernels):
        strip[:, 4 * i : 4 * i + 3] = kernel / max(float(np.abs(kernel).max()), 1e-12)
    axes.imshow(strip, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks([4 * i + 1 for i in range(len(labels))], labels, fontsize=6.5)
    axes.set_yticks([1], [title])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
