"""Figures: where, at what and when the pooling looks; covariances and their spectra; accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from repertory.core.printing import figure_text
from repertory.papers.tcp.model import TCP, TCPNet

MARK = "#cf222e"
MAX_FRAMES = 16
"""Frames drawn of a clip."""


@dataclass(frozen=True)
class Inside:
    """What TCP does to one clip."""

    affinity: np.ndarray | None
    """(t, h, w): weights of all places, for the chosen one; None: no TSA."""
    place: tuple[int, int]
    """row, column"""
    channels: np.ndarray | None
    """(t, d): weights of TCA; None: no TCA."""
    before: np.ndarray
    """(d, d): covariance, of the first frame at the level of frames."""
    after: np.ndarray
    """(d, d): its root."""


@torch.no_grad()
def look_inside(model: TCPNet, clip: Tensor, row: float, column: float) -> Inside | None:
    """Attention and covariance of one clip; None where the network has another pooling.

    Args:
        model: in evaluation mode.
        clip: (T, C, H, W), preprocessed.
        row: of the place whose affinity is shown, 0 (top) to 1.
        column: 0 (left) to 1.
    """
    pool = model.pool
    if not isinstance(pool, TCP):
        return None
    x = pool.reduce(model.forward_features(clip[None]))  # (t, d, h, w)
    height, width = x.shape[-2:]
    place = min(int(row * height), height - 1), min(int(column * width), width - 1)
    spatial, channel = pool.attention.spatial, pool.attention.channel
    affinity = channels = None
    if spatial is not None:
        affinity = spatial.affinity(x)[:, place[0] * width + place[1]].unflatten(1, (height, width)).cpu().numpy()
    if channel is not None:
        channels = channel.weights(x)[..., 0, 0].cpu().numpy()
    p = pool.covariance(pool.attention(x))
    return Inside(affinity, place, channels, p[0].cpu().numpy(), pool.root(p)[0].cpu().numpy())


def attention_picture(frames: np.ndarray, numbers: list[int], inside: Inside | None, title: str) -> Figure:
    """The frames of a clip; over them the weights of TSA for one place; below them the channel weights of TCA.

    Args:
        frames: (T, H, W, 3), 0 to 1.
        numbers: of the frames in the video, from 0.
        inside: of this clip.
        title: escaped for matplotlib.
    """
    affinity = None if inside is None else inside.affinity
    channels = None if inside is None else inside.channels
    shown = np.unique(np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round().astype(int))
    rows = 1 + (affinity is not None) + (channels is not None)
    figure = Figure(figsize=(1.5 * len(shown) + 1, 1.8 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.add_gridspec(rows, len(shown))
    for column, k in enumerate(shown):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(frames[k])
        axes.set_title(f"frame {numbers[k]}", fontsize=8)
        axes.set_axis_off()
    if inside is not None and affinity is not None:
        # A 3-D backbone has fewer maps than frames: each stands for several of them.
        of_frame = np.arange(len(frames)) * len(affinity) // len(frames)
        height, width = affinity.shape[1:]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        heat, drawn = None, []
        for column, k in enumerate(shown):
            axes = figure.add_subplot(grid[1, column])
            axes.imshow(frames[k], extent=extent)
            weights = affinity[of_frame[k]]
            heat = axes.imshow(weights, extent=extent, alpha=0.6, vmin=0, vmax=affinity.max())
            axes.plot(inside.place[1], inside.place[0], "s", markersize=7, fillstyle="none", color=MARK, mew=1.5)
            axes.set_axis_off()
            drawn.append(axes)
        assert heat is not None
        bar = figure.colorbar(heat, ax=drawn, shrink=0.85)
        bar.set_label("TSA: weights of the marked place", fontsize=7)
    if channels is not None:
        axes = figure.add_subplot(grid[-1, :])
        image = axes.imshow(channels.T, aspect="auto", cmap="magma")
        axes.set_xlabel("position in the clip", fontsize=8)
        axes.set_ylabel("channel", fontsize=8)
        figure.colorbar(image, ax=axes).set_label("TCA: weight", fontsize=7)
    return figure


def covariance_picture(inside: Inside) -> Figure:
    """The covariance before and after its root, and both spectra."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    named = {"covariance": inside.before, "its square root": inside.after}
    for axes, (name, matrix) in zip((left, middle), named.items(), strict=True):
        most = max(float(np.abs(matrix).max()), 1e-12)
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_title(f"{name}, {len(matrix)} channels")
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.85)
    for (name, matrix), style in zip(named.items(), ("o-", "s--"), strict=True):
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]
        share = np.clip(values / max(float(values[0]), 1e-12), 1e-8, None)
        right.semilogy(np.arange(1, 1 + len(share)), share, style, markersize=2.5, linewidth=1, label=name)
    right.set_title("eigenvalues, relative to the largest")
    right.set_xlabel("rank")
    right.legend(frameon=False)
    right.grid(alpha=0.3)
    return figure


def class_picture(accuracy: Mapping[str, float]) -> Figure:
    """Accuracy of each class in per cent."""
    figure = Figure(figsize=(7, 0.5 + 0.28 * len(accuracy)), layout="constrained")
    axes = figure.subplots()
    names = list(accuracy)[::-1]
    axes.barh(range(len(names)), [accuracy[name] for name in names], color="#0969da")
    axes.set_yticks(range(len(names)), [figure_text(name) for name in names])
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 accuracy, %")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
