"""Figures: a sheet of originals and protected images, and the perturbations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from repertory.core.printing import figure_text
from repertory.papers.unlearnable_clusters.files import Difference

AMPLIFIED = 8
"""Factor of the differences on the sheet."""
MOST_ROWS, MOST_DELTAS = 6, 20
SHOWN = 1024
"""Longest side of an image on the sheet."""

Row = tuple[str, NDArray[np.uint8], NDArray[np.uint8], Difference]
"""Name, original, protected image, difference."""


def sheet(rows: Sequence[Row]) -> Figure:
    """Each image, its protected copy with PSNR and SSIM, and their difference, eight times as strong around grey."""
    figure = Figure(figsize=(7.5, 2.6 * len(rows)), layout="constrained")
    for (name, original, protected, found), axes in zip(
        rows, figure.subplots(len(rows), 3, squeeze=False), strict=True
    ):
        every = max(1, max(original.shape[:2]) // SHOWN)
        original, protected = original[::every, ::every], protected[::every, ::every]
        amplified = (128 + AMPLIFIED * (protected.astype(np.int16) - original)).clip(0, 255).astype(np.uint8)
        titles = (
            figure_text(name),
            f"protected, {found.psnr:.1f} dB, SSIM {found.ssim:.3f}",
            f"difference x {AMPLIFIED}, at most {found.largest} of 255",
        )
        for axis, image, title in zip(axes, (original, protected, amplified), titles, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    return figure


def perturbations(deltas: Tensor, names: Sequence[str]) -> Figure:
    """Perturbations (p, 3, S, S) around grey, from their smallest to their largest value."""
    shown = deltas[:MOST_DELTAS]
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows), layout="constrained")
    largest = float(shown.abs().max()) or 1.0
    for axis, delta, name in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, names, strict=False):
        axis.imshow((0.5 + delta.permute(1, 2, 0) / (2 * largest)).clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(figure_text(name), fontsize=8)
    for axis in figure.axes:
        axis.set_axis_off()
    return figure
