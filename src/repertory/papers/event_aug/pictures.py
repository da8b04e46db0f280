"""Figures: event streams, and accuracy for each change of brightness."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from repertory.core.printing import figure_text
from repertory.data.events import Size, count_frames, pick

BRIGHTER, DARKER = "#cf222e", "#0969da"
MAX_EVENTS = 20_000
"""Largest number of events in a point cloud; of longer streams, every n-th event is drawn."""


def cloud_picture(streams: Mapping[str, np.ndarray], size: Size) -> Figure:
    """Point clouds of events: x and y (rows) over time, one column per stream."""
    figure = Figure(figsize=(4 * len(streams), 5), layout="constrained")
    grid = figure.subplots(2, len(streams), squeeze=False, sharex=True, sharey="row")
    for column, (title, events) in zip(grid.T, streams.items(), strict=True):
        drawn = pick(events, slice(None, None, len(events) // MAX_EVENTS + 1))
        colours = np.where(drawn["p"] > 0, BRIGHTER, DARKER)
        for axes, name in zip(column, "xy", strict=True):
            axes.scatter(drawn["t"] / 1000, drawn[name], s=2, c=colours, linewidths=0)
        column[0].set_title(f"{title}: {len(events):,} events")
        column[1].set_xlabel("t, ms")
    for axes, name, side in zip(grid[:, 0], "xy", size[::-1], strict=True):
        axes.set_ylabel(f"{name}, pixels")
        axes.set_ylim(-0.5, side - 0.5)
    grid[1, 0].invert_yaxis()
    return figure


def frames_picture(events: np.ndarray, size: Size, bins: int, title: str) -> Figure:
    """Heat map of each time bin: positive minus negative events per pixel."""
    frames = count_frames(events, size, bins)
    difference = frames[1] - frames[0]  # (H, W, T)
    bound = max(1.0, float(np.quantile(np.abs(difference[difference != 0]), 0.98)) if difference.any() else 1.0)
    columns = min(bins, 5)
    rows = -(-bins // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if number < bins:
            axes.imshow(difference[..., number], cmap="RdBu_r", vmin=-bound, vmax=bound)
            axes.set_title(f"bin {number + 1}", fontsize=8)
    figure.suptitle(figure_text(title))
    return figure


def brightness_picture(accuracy: Mapping[str, float], arm: str) -> Figure:
    """Bar chart of accuracy in per cent for each change of brightness."""
    figure = Figure(figsize=(1.3 * len(accuracy) + 1.5, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(accuracy), list(accuracy.values()), color=["#1a7f37"] + [DARKER] * (len(accuracy) - 1))
    axes.bar_label(bars, fmt="%.1f")
    axes.set_ylim(0, 108)
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"by course of brightness: {arm}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
