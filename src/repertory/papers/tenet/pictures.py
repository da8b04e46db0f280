"""Pictures of scenarios: the map, the past, six futures by probability, and what happened."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repertory.core.text import visible
from repertory.data.argoverse import OBJECT_TYPES, Scenario, StreetMap

MARGIN = 15.0
"""Metres around what is drawn."""
_COLORS = colormaps["viridis_r"]


def scenario_picture(
    scenario: Scenario,
    streets: StreetMap,
    trajectories: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    focal: int | None = None,
) -> Figure:
    """The map in grey, all histories, the futures coloured by probability, and the true future, if known, dashed.

    Args:
        scenario: tracks.
        streets: its map; may be empty.
        trajectories: (K, F, 2) in the city's frame.
        probabilities: (K,)
        focal: index of the track; None: the scenario's.
    """
    focal = scenario.focal if focal is None else focal
    figure = Figure(figsize=(7, 6.2), layout="constrained")
    ax = figure.add_subplot()
    for area in (streets.areas or {}).values():
        ax.fill(area[:, 0], area[:, 1], color="0.96", zorder=0)
    for lane in streets.lanes:
        for side in (lane.left, lane.right):
            ax.plot(side[:, 0], side[:, 1], color="0.75", lw=0.6, zorder=1)
        ax.plot(lane.centerline[:, 0], lane.centerline[:, 1], color="0.85", lw=0.6, ls=":", zorder=1)
    for crossing in streets.crossings:
        outline = np.concatenate([crossing.edge1, crossing.edge2[::-1], crossing.edge1[:1]])
        ax.plot(outline[:, 0], outline[:, 1], color="tan", lw=0.8, zorder=1)
    now = scenario.history - 1
    for k, (states, valid) in enumerate(zip(scenario.states, scenario.valid, strict=True)):
        past = states[: now + 1][valid[: now + 1], :2]
        if k != focal and len(past):
            ax.plot(past[:, 0], past[:, 1], color="steelblue", lw=1, zorder=2)
            if valid[now]:
                ax.plot(*states[now, :2], "o", color="steelblue", ms=3, zorder=2)
    past = scenario.states[focal, : now + 1][scenario.valid[focal, : now + 1], :2]
    ax.plot(past[:, 0], past[:, 1], color="black", lw=2.2, zorder=3, label="observed")
    known = scenario.valid[focal, now + 1 :]
    future = scenario.states[focal, now + 1 :][known, :2]
    if len(future):
        ax.plot(future[:, 0], future[:, 1], color="crimson", lw=1.8, ls="--", zorder=5, label="what happened")
    scale = Normalize(0, max(float(probabilities.max()), 1e-9))
    for line, p in sorted(zip(trajectories, probabilities, strict=True), key=lambda pair: float(pair[1])):
        line = np.concatenate([past[-1:], line])
        color = _COLORS(scale(float(p)))
        ax.plot(line[:, 0], line[:, 1], color=color, lw=1.6, zorder=4)
        ax.scatter(*line[-1], s=20 + 180 * float(p), color=color, zorder=4)
        ax.annotate(f"{100 * p:.0f} %", line[-1], fontsize=7, xytext=(4, 4), textcoords="offset points", zorder=6)
    around = np.concatenate([past, future, trajectories.reshape(-1, 2)])
    low, high = around.min(0) - MARGIN, around.max(0) + MARGIN
    centre, half = (low + high) / 2, max(high - low) / 2
    ax.set_xlim(centre[0] - half, centre[0] + half)
    ax.set_ylim(centre[1] - half, centre[1] + half)
    ax.set_aspect("equal")
    ax.set_xlabel("x (m)")
    ax.set_ylabel("y (m)")
    ax.ticklabel_format(useOffset=False)
    kind = OBJECT_TYPES[scenario.types[focal]]
    name = _plain(f"{scenario.name}, {kind} {scenario.tracks[focal]}")
    ax.set_title(name, fontsize=8)
    figure.colorbar(ScalarMappable(scale, _COLORS), ax=ax, label="probability of a future", shrink=0.7)
    ax.legend(loc="upper left", fontsize=7)
    return figure


def _plain(text: str) -> str:
    """Text from files without mathematics of matplotlib and hidden characters."""
    return visible(text, lines=False).replace("$", r"\$")


def modes_picture(wins: NDArray[np.float64]) -> Figure:
    """Share of the scenarios in which each mode is the best: one tall bar is a collapse of the modes."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    ax = figure.add_subplot()
    ax.bar(range(1, len(wins) + 1), 100 * wins)
    ax.set_xlabel("mode")
    ax.set_ylabel("scenarios that it wins (%)")
    return figure


def errors_picture(errors: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Shares of scenarios with a final error up to x, one curve an entry."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    ax = figure.add_subplot()
    for name, values in errors.items():
        ax.plot(np.sort(values), 100 * np.arange(1, len(values) + 1) / len(values), label=name)
    ax.axvline(2.0, color="0.6", lw=0.8, ls="--")
    ax.set_xlabel("final error (m); dashed: a miss begins")
    ax.set_ylabel("scenarios (%)")
    ax.set_xlim(left=0)
    ax.legend(fontsize=7)
    return figure
