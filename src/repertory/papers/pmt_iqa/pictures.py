"""Figures: predicted against true scores, the course of a training, ranked images, where an image is good or bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repertory.core.printing import figure_text
from repertory.data.quality import ScoreScale

BLUE, RED, GREEN, GREY = "#0969da", "#cf222e", "#1a7f37", "#8c959f"


def scatter_picture(
    predicted: NDArray[np.float64],
    scores: NDArray[np.float64],
    found: Mapping[str, float],
    name: str,
    scale: ScoreScale,
) -> Figure:
    """Predicted against true scores of the test images, with the straight fit.

    Args:
        predicted, scores: (n,).
        found: srcc, plcc, krcc.
        name: of the data.
        scale: of the scores.
    """
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(scores, predicted, "o", color=BLUE, markersize=3.5, alpha=0.6)
    ends = np.array([scores.min(), scores.max()])
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="equal")
    if np.ptp(scores) > 0:
        axes.plot(ends, np.polyval(np.polyfit(scores, predicted, 1), ends), color=RED, linewidth=1, label="linear fit")
    axes.set_xlabel(f"true {scale.name} ({scale.better} is better)")
    axes.set_ylabel(f"predicted {scale.name}")
    figures = ", ".join(f"{key.upper()} {found[key]:.3f}" for key in ("srcc", "plcc", "krcc"))
    axes.set_title(f"{figure_text(name)}, {len(scores)} images\n{figures}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def course_picture(history: Sequence[Mapping[str, float]], official: int) -> Figure:
    """Weights of the tasks, their losses and the test SRCC over the epochs.

    Args:
        history: of `Picks`.
        official: epoch that the published protocol picks.
    """
    epochs = [record["step"] for record in history]
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    weights, losses, ranks = figure.subplots(3, 1, sharex=True)
    for axes, names, label in (
        (weights, {"regression": "regression", "classification": "classification"}, "weight of the task"),
        (losses, {"l1": "L1 of the score, in units", "ce": "cross entropy of the level"}, "mean training loss"),
        (ranks, {"srcc": "SRCC", "plcc": "PLCC"}, "test correlation"),
    ):
        for colour, (name, text) in zip((BLUE, RED), names.items(), strict=True):
            axes.plot(epochs, [record[name] for record in history], "o-", color=colour, markersize=3, label=text)
        axes.set_ylabel(label, fontsize=8)
        _plain(axes)
    ranks.axvline(official, color=GREY, linestyle="--", linewidth=1, label="best on the test part (published protocol)")
    for axes in (weights, losses, ranks):
        axes.legend(frameon=False, fontsize=8)
    ranks.set_xlabel("epoch")
    ranks.xaxis.get_major_locator().set_params(integer=True)
    return figure


def contact_sheet(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], left_out: int = 0) -> Figure:
    """Images from best to worst, row by row.

    Args:
        images: (H, W, 3) each.
        titles: of the images, escaped for matplotlib.
        left_out: images between the first half, the best, and the second, the worst.
    """
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.0 * rows + 0.4), layout="constrained")
    for axes, image, title in zip(figure.subplots(rows, columns, squeeze=False).flat, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=7)
    for axes in figure.axes:
        axes.set_axis_off()
    middle = f", {left_out} in the middle left out" if left_out else ""
    figure.suptitle(f"best to worst, row by row{middle}", fontsize=9)
    return figure


def heat_picture(image: NDArray[np.uint8], heat: NDArray[np.float64], title: str, scale: ScoreScale) -> Figure:
    """An image beside the scores of its places.

    Args:
        image: (H, W, 3).
        heat: mean score of the patches that cover a pixel, (H, W).
        title: escaped for matplotlib.
        scale: of the scores.
    """
    height, width = heat.shape
    figure = Figure(figsize=(8.4, 1.0 + min(6.0, 3.8 * height / width)), layout="constrained")
    plain, coloured = figure.subplots(1, 2)
    plain.imshow(image)
    plain.set_title(title, fontsize=9)
    coloured.imshow(image)
    shown = coloured.imshow(heat, cmap="RdYlGn" if scale.better == "higher" else "RdYlGn_r", alpha=0.65)
    coloured.set_title("scores of overlapping patches", fontsize=9)
    figure.colorbar(shown, ax=coloured, shrink=0.8, label=f"{scale.name} ({scale.better} is better)")
    for axes in (plain, coloured):
        axes.set_axis_off()
    return figure


def _plain(axes: object) -> None:
    axes.grid(alpha=0.3)  # pyright: ignore[reportAttributeAccessIssue]
    axes.spines[["top", "right"]].set_visible(False)  # pyright: ignore[reportAttributeAccessIssue]
