"""Figures: accuracy against cost, measured time against accuracy, and which images left at which exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from repertory.core.printing import figure_text
from repertory.papers.l2w_den.protocols import Curve

COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700")
IMAGES_PER_EXIT = 8


def curves_picture(curves: Mapping[str, Curve]) -> Figure:
    """Budgeted curves (lines) and anytime accuracy of each exit (crosses) against cost, one colour per arm."""
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        order = np.argsort(curve.budgets)
        axes.plot(
            curve.budgets[order] / 1e6, curve.accuracies[order], "o-", color=colour, markersize=3,
            label=figure_text(f"{name}: early exits"),
        )  # fmt: skip
        axes.plot(
            curve.costs / 1e6, curve.anytime, "x", color=colour, markersize=8,
            label=figure_text(f"{name}: one exit for all images"),
        )  # fmt: skip
    axes.set_xlabel("average operations per image, millions")
    axes.set_ylabel("top-1 accuracy on the held-out images, %")
    _finish(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def timing_picture(points: Sequence[tuple[float, float]], whole: tuple[float, float]) -> Figure:
    """Accuracy against measured time.

    Args:
        points: milliseconds per image and accuracy in per cent of the early-exiting model, at several budgets.
        whole: the same of the network that always takes all exits.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    times, accuracies = zip(*sorted(points), strict=True)
    axes.plot(times, accuracies, "o-", color=COLOURS[0], label="stops early")
    axes.plot(*whole, "s", color=COLOURS[1], markersize=8, label="takes all exits")
    axes.set_xlabel("measured time per image, ms (one image at a time)")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_xlim(left=0)
    _finish(axes)
    axes.legend(frameon=False)
    return figure


def exits_picture(rows: Sequence[Sequence[tuple[np.ndarray, str]]], counts: Sequence[int]) -> Figure:
    """Images that left at each exit, one row per exit.

    Args:
        rows: up to 8 images (H, W, 3), 0 to 1, and their titles, for each exit.
        counts: of all images that left there.
    """
    figure = Figure(figsize=(1.25 * IMAGES_PER_EXIT, 1.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), IMAGES_PER_EXIT, squeeze=False)
    for k, (row, count) in enumerate(zip(rows, counts, strict=True)):
        for axes, (image, title) in zip(grid[k], row, strict=False):
            axes.imshow(image)
            axes.set_title(figure_text(title), fontsize=7)
        for axes in grid[k]:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        grid[k][0].set_ylabel(f"exit {k + 1}\n{count} images", fontsize=8)
    return figure


def _finish(axes: object) -> None:
    axes.grid(alpha=0.3)  # pyright: ignore[reportAttributeAccessIssue]
    axes.spines[["top", "right"]].set_visible(False)  # pyright: ignore[reportAttributeAccessIssue]
