"""Figures: memory against columns, reconstructions, CKA of each column with labels and image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#8c959f", "#0969da", "#cf222e")


def memory_picture(curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """Megabytes against the number of columns.

    Args:
        curves: name -> {columns: bytes}.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        axes.plot(list(curve), [size / 1e6 for size in curve.values()], "o-", color=colour, label=name)
    axes.set_xticks(sorted({columns for curve in curves.values() for columns in curve}))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("columns")
    axes.set_ylabel("peak memory of a training step, MB,\nbeyond weights and gradients")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def reconstruction_picture(images: Sequence[np.ndarray], rebuilt: Sequence[Sequence[np.ndarray]]) -> Figure:
    """Images (H, W, 3) and, in the same row, their reconstructions by the supervised columns, early ones first."""
    columns = 1 + len(rebuilt[0])
    figure = Figure(figsize=(1.7 * columns, 1.8 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, image, versions in zip(axes, images, rebuilt, strict=True):
        for panel, shown in zip(row, [image, *versions], strict=True):
            panel.imshow(shown)
            panel.set_axis_off()
    for panel, title in zip(axes[0], ["image", *(f"$r_{j}$" for j in range(1, columns))], strict=True):
        panel.set_title(title)
    return figure


def cka_picture(similarities: Mapping[str, Sequence[float]]) -> Figure:
    """Linear CKA of c(3, i) with the labels and with the image, column by column."""
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(similarities.items(), COLOURS[1:], strict=True):
        axes.plot(range(1, 1 + len(values)), values, "o-", color=colour, label=f"with the {name}")
    axes.set_xticks(range(1, 1 + max(map(len, similarities.values()))))
    axes.set_ylim(0, 1)
    axes.set_xlabel("column $i$")
    axes.set_ylabel("linear CKA of $c(3, i)$")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
