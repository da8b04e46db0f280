"""Pictures: grids of drums, and how much each measure differs from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repertory.core.printing import figure_text
from repertory.data.drums import COLUMNS, ROWS, Grid
from repertory.papers.llm_drums.structure import Stabilities

BLUE, GREY, SHADE = "#0969da", "#57606a", "#eaeef2"
COLOURS = {"human": "#1a7f37", "random": "#cf222e", "repeat": GREY}
OTHER = BLUE
DRAWN = ("crash", "hi-hat", "ride", "toms", "snare", "kick")
"""From top to bottom."""


def roll_picture(grids: Mapping[str, Grid], given: int) -> Figure:
    """Grooves one above the other: a lane for each instrument, measure lines, the given measures shaded.

    Args:
        grids: title -> (rows, 6) bool.
        given: measures that were given.
    """
    longest = max(map(len, grids.values()))
    width = float(np.clip(longest / 16, 6, 18))
    figure = Figure(figsize=(width, 0.6 + 1.75 * len(grids)), layout="constrained")
    panels = figure.subplots(len(grids), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, grid) in zip(panels, grids.items(), strict=True):
        axes.axvspan(0, given * ROWS, color=SHADE)
        for lane, column in enumerate(reversed(DRAWN)):
            rows = np.flatnonzero(grid[:, COLUMNS.index(column)])
            axes.scatter(rows + 0.5, np.full(len(rows), lane), marker="s", s=9, color=BLUE, linewidths=0)
        for start in range(0, longest + 1, ROWS):
            axes.axvline(start, color=GREY, linewidth=0.6, alpha=0.6)
        axes.set_yticks(range(len(DRAWN)), DRAWN[::-1], fontsize=8)
        axes.set(ylim=(-0.6, len(DRAWN) - 0.4), xlim=(0, longest))
        axes.set_title(figure_text(title), fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xticks([start + ROWS / 2 for start in range(0, longest, ROWS)], range(1, 1 + -(-longest // ROWS)))
    panels[-1].set_xlabel("measure (shaded: given)")
    return figure


def stability_picture(curves: Mapping[str, Sequence[Stabilities]], first: int) -> Figure:
    """Mean s_i over grooves by measure: a curve for each of those who play.

    Args:
        curves: who -> values of each groove.
        first: number of the first measure that has a value, from 1.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, grooves in curves.items():
        longest = max((len(values) for values in grooves), default=0)
        if not longest:
            continue
        table = np.full((len(grooves), longest), np.nan)
        for row, values in zip(table, grooves, strict=True):
            row[: len(values)] = values
        axes.plot(
            range(first, first + longest),
            np.nanmean(table, axis=0),
            "o-",
            markersize=3,
            color=COLOURS.get(name, OTHER),
            label=figure_text(name),
        )
    axes.set(xlabel="measure", ylabel="edit distance to the nearer neighbour")
    axes.set_ylim(bottom=-1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
