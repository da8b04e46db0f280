"""Figures: a strip of frames with what moments look like, scores in and out of order, frames of ranked clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from repertory.core.printing import figure_text

ORDERED, SHUFFLED = "#0969da", "#bc4c00"
MOST = 8
"""Clips, captions and bars drawn at most."""


def strip_picture(frames: np.ndarray, moments: np.ndarray, texts: Sequence[str], title: str) -> Figure:
    """The frames of a clip; below them how similar the moment around each is to some captions.

    Args:
        frames: (T, H, W, 3), 0 to 1.
        moments: (C, T), similarity of the short view around each frame to each caption.
        texts: the captions.
        title: of the figure.
    """
    count = len(frames)
    figure = Figure(figsize=(max(6.0, 1.1 * count), 4.2), layout="constrained")
    grid = figure.add_gridspec(2, count, height_ratios=(1, 1.6))
    for t, frame in enumerate(frames):
        axes = figure.add_subplot(grid[0, t])
        axes.imshow(frame, interpolation="nearest")
        axes.set_title(f"{t + 1}", fontsize=8)
        axes.axis("off")
    axes = figure.add_subplot(grid[1, :])
    for row, text in zip(moments[:MOST], texts, strict=False):
        axes.plot(np.arange(1, count + 1), row, marker="o", markersize=3, label=figure_text(text))
    axes.set_xlim(0.5, count + 0.5)
    axes.set_xlabel("frame at the centre of the moment")
    axes.set_ylabel("similarity")
    axes.legend(fontsize=7, loc="best")
    figure.suptitle(figure_text(title), fontsize=10)
    return figure


def order_picture(bars: Mapping[str, tuple[float, float]], label: str) -> Figure:
    """Two bars for each entry: the score of frames in order, and in random order."""
    shown = dict(list(bars.items())[:MOST])
    figure = Figure(figsize=(max(4.0, 1.6 * len(shown)), 3.2), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    for shift, colour, name, k in ((-0.2, ORDERED, "in order", 0), (0.2, SHUFFLED, "in random order", 1)):
        heights = [pair[k] for pair in shown.values()]
        drawn = axes.bar(places + shift, heights, 0.4, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.2g", fontsize=8)
    axes.set_xticks(places, [figure_text(name) for name in shown], fontsize=8)
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return figure


def clips_picture(strips: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """A row of frames for each clip, with a title: (T, H, W, 3) each."""
    shown = min(len(strips), MOST)
    figure = Figure(figsize=(8, 1.4 * shown), layout="constrained")
    for axes, strip, title in zip(figure.subplots(shown, squeeze=False)[:, 0], strips, titles, strict=False):
        axes.imshow(np.concatenate(list(strip), 1), interpolation="nearest")
        axes.set_title(figure_text(title), fontsize=8, loc="left")
        axes.axis("off")
    return figure
