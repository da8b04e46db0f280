"""Pictures: spikes of the last layer, what association does over time, accuracy under disturbances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from repertory.core.printing import figure_text
from repertory.nn.spiking import LIF
from repertory.papers.apb.model import APBConv2d, APBNet

NEURONS = 200
"""Rows of a raster, at most."""


@torch.no_grad()
def pictures(model: APBNet, x: Tensor, name: str) -> dict[str, Figure]:
    """What a model does with one input (1, ...)."""
    figures: dict[str, Figure] = {}
    spikes, associated = torch.empty(0), None
    for layer, before, after in model.walk(x):
        if isinstance(layer, LIF):
            spikes = after
        inner = next(layer.children(), None)
        if isinstance(inner, APBConv2d) and (associated is None or associated[0].in_channels == before.shape[2] == 2):
            associated = inner, before[:, 0]  # the first layer that associates; better the next, which sees spikes
    figures["last-layer"] = raster(spikes[:, 0].flatten(1).cpu().numpy(), name)
    if associated is not None:
        layer, before = associated
        figures["association"] = association_picture(*association(layer, before), name)
    return figures


@torch.no_grad()
def association(layer: APBConv2d, x: Tensor) -> tuple[np.ndarray, str]:
    """What association does at every place, the mean over channels (T, H, W), and what that is called.

    Args:
        layer: one that associates, without bias.
        x: its input (T, C, H, W).
    """
    plain, associated = nn.Conv2d.forward(layer, x), layer(x)
    if layer.mode == "shared":
        factor = torch.where(plain == 0, 1, associated / plain)
        return factor.mean(1).cpu().numpy(), "factor s"
    return (associated - plain).mean(1).cpu().numpy(), "I' - I"


def association_picture(values: np.ndarray, what: str, name: str) -> Figure:
    """A map for each step, (T, H, W)."""
    columns = min(10, len(values))
    rows = -(-len(values) // columns)
    neutral = 1.0 if what.startswith("factor") else 0.0
    reach = max(float(np.abs(values - neutral).max()), 1e-6)
    figure = Figure(figsize=(1.5 * columns + 0.8, 1.7 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    drawn = []
    for step, (axes, values_t) in enumerate(zip(panels.flat, values, strict=False), start=1):
        drawn.append(axes.imshow(values_t, cmap="RdBu_r", vmin=neutral - reach, vmax=neutral + reach))
        axes.set_title(f"step {step}", fontsize=8)
    figure.colorbar(drawn[0], ax=panels.ravel().tolist(), shrink=0.8, label=f"{what}, mean over channels")
    figure.suptitle(figure_text(name), fontsize=9)
    return figure


def raster(spikes: np.ndarray, name: str) -> Figure:
    """Who fires when: spikes (T, neurons). Neurons that never fire are left out; of too many, every k-th is shown."""
    firing = np.flatnonzero(spikes.any(0))
    shown = firing[:: max(1, -(-len(firing) // NEURONS))]
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    extent = (0.5, len(spikes) + 0.5, max(1, len(shown)) + 0.5, 0.5)
    axes.imshow(
        spikes[:, shown].T, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest", extent=extent
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(f"{len(shown)} of the {len(firing)} that fire, of {spikes.shape[1]}")
    axes.set_title(f"{figure_text(name)}: {int(spikes.sum())} spikes of the last layer", fontsize=9)
    return figure


def disturbance_picture(kinds: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Accuracy in per cent over the strength of each kind of disturbance: (share, accuracy)."""
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for (kind, points), colour in zip(kinds.items(), ("#cf222e", "#0969da"), strict=False):
        axes.plot(*zip(*((100 * share, top1) for share, top1 in points), strict=True), "o-", color=colour, label=kind)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("events added or lost, % of the recording's")
    axes.set_ylabel("top-1, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
