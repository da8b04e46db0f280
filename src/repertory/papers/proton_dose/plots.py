"""Figures: one beam along depth, and range errors under each disturbance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repertory.core.printing import figure_text
from repertory.papers.proton_dose.metrics import r80
from repertory.papers.proton_dose.simulator import Array


def beam_figure(title: str, activity: Array, hu: NDArray, predicted: Array, true: Array | None = None) -> Figure:
    """Activity, predicted and true dose with their R80, and the CT below; profiles (L,) on a grid of 1 mm."""
    figure = Figure(figsize=(9, 4.5))
    above, strip = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
    depth = np.arange(len(activity)) + 0.5
    above.fill_between(depth, activity, color="#c9c9c9", label="activity")
    doses = {"predicted dose": (predicted, "#d1495b"), **({} if true is None else {"true dose": (true, "#00798c")})}
    for name, (dose, colour) in doses.items():
        edge = float(r80(dose))
        above.plot(depth, dose, color=colour, label=f"{name}, R80 = {edge:.1f} mm")
        above.axvline(edge, color=colour, linestyle="--", linewidth=1)
    above.set(title=figure_text(title), ylabel="relative to the maximum", ylim=(0, None))
    above.legend(loc="upper right")
    strip.imshow(hu[None], extent=(0, len(hu), 0, 1), aspect="auto", cmap="gray", vmin=-200, vmax=300)
    strip.set(xlabel="depth / mm", ylabel="CT", yticks=[])
    return figure


def range_figure(errors: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Mean and standard deviation of the absolute range error.

    Args:
        errors: group ("washout B", ...) -> setting ("5 min", ...) -> error of each beam in mm.
    """
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    start = 0
    ticks: list[str] = []
    for group, varied in errors.items():
        places = start + np.arange(len(varied))
        means, spreads = ([f(e) for e in varied.values()] for f in (np.mean, np.std))
        axes.bar(places, means, yerr=spreads, capsize=3, label=group)
        ticks += varied
        start += len(varied)
    axes.set_xticks(range(start), ticks, rotation=90)
    axes.set(ylabel="|range error| / mm", ylim=(0, None))
    axes.legend(ncols=len(errors), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure
