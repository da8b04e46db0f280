"""Figures: spikes of the last layer, association over time, accuracy under disturbances."""

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

MAX_NEURONS = 200
"""Largest number of rows in a raster plot."""


@torch.no_grad()
def pictures(model: APBNet, x: Tensor, name: str) -> dict[str, Figure]:
    """Figures of a model's response to one input (1, ...)."""
    figures: dict[str, Figure] = {}
    spikes, associated = torch.empty(0), None
    for layer, before, after in model.walk(x):
        if isinstance(layer, LIF):
            spikes = after
        inner = next(layer.children(), None)
        if isinstance(inner, APBConv2d) and (associated is None or associated[0].in_channels == before.shape[2] == 2):
            associated = inner, before[:, 0]  # the first layer with association whose input is spikes, if there is one
    figures["last-layer"] = raster(spikes[:, 0].flatten(1).cpu().numpy(), name)
    if associated is not None:
        layer, before = associated
        figures["association"] = association_picture(*association(layer, before), name)
    return figures


@torch.no_grad()
def association(layer: APBConv2d, x: Tensor) -> tuple[np.ndarray, str]:
    """Effect of the association at every position, mean over channels, and its name.

    Args:
        layer: a layer without bias.
        x: its input (T, C, H, W).

    Returns:
        (T, H, W), and "factor s" (shared) or "I' - I" (pair).
    """
    plain, associated = nn.Conv2d.forward(layer, x), layer(x)
    if layer.mode == "shared":
        factor = torch.where(plain == 0, 1, associated / plain)
        return factor.mean(1).cpu().numpy(), "factor s"
    return (associated - plain).mean(1).cpu().numpy(), "I' - I"


def association_picture(values: np.ndarray, what: str, name: str) -> Figure:
    """One heat map per step.

    Args:
        values: (T, H, W).
        what: name of the values, see `association`.
        name: title.
    """
    columns = min(10, len(values))
    rows = -(-len(values) // columns)
    neutral = 1.0 if what.startswith("factor") else 0.0
    reach = max(float(np.abs(values - neutral).max()), 1e-6)
    figure = Figure(figsize=(1.5 * columns + 0.8, 1.7 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    maps = []
    for step, (axes, values_t) in enumerate(zip(panels.flat, values, strict=False), start=1):
        maps.append(axes.imshow(values_t, cmap="RdBu_r", vmin=neutral - reach, vmax=neutral + reach))
        axes.set_title(f"step {step}", fontsize=8)
    figure.colorbar(maps[0], ax=panels.ravel().tolist(), shrink=0.8, label=f"{what}, mean over channels")
    figure.suptitle(figure_text(name), fontsize=9)
    return figure


def raster(spikes: np.ndarray, name: str) -> Figure:
    """Raster plot of spikes (T, neurons), without silent neurons; beyond `MAX_NEURONS`, every k-th is drawn."""
    firing = np.flatnonzero(spikes.any(0))
    shown = firing[:: max(1, -(-len(firing) // MAX_NEURONS))]
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
    """Accuracy in per cent against the strength of each kind of disturbance.

    Args:
        kinds: name -> points (share of events, accuracy).
    """
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
