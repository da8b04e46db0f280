"""Pictures: relations and their homophily, confusion of classes, and what the relations weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#57606a")


def relations_picture(degrees: Mapping[str, float], homophily: Mapping[str, Mapping[str, float]]) -> Figure:
    """Mean degree of each relation, and the share of its edges within a class, per task.

    Args:
        degrees: relation -> edges an account.
        homophily: task -> relation -> share, 0 to 1, NaN where unknown.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    place = np.arange(len(degrees))
    left.bar(place, list(degrees.values()), color=COLOURS[5])
    left.set_ylabel("edges an account")
    width = 0.8 / max(1, len(homophily))
    for k, (task, shares) in enumerate(homophily.items()):
        heights = [100 * shares[name] for name in degrees]
        right.bar(place + k * width, heights, width, color=COLOURS[k % len(COLOURS)], label=task)
    right.set_ylabel("edges within a class, %")
    if homophily:
        right.legend(frameon=False, fontsize=8)
    for axes, shift in ((left, 0.0), (right, 0.4 - width / 2)):
        axes.set_xticks(place + shift, list(degrees), rotation=35, ha="right")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_picture(counts: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]) -> Figure:
    """Confusion matrices, a panel a task.

    Args:
        counts: task -> (C, C), rows the true classes, columns the predicted ones.
        names: task -> names of its classes.
    """
    figure = Figure(figsize=(3.8 * len(counts), 3.6), layout="constrained")
    panels = figure.subplots(1, len(counts), squeeze=False).flat
    for axes, (task, table) in zip(panels, counts.items(), strict=True):
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(table.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(table)), names[task], rotation=35, ha="right")
        axes.set_yticks(range(len(table)), names[task])
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(task)
    return figure


def weights_picture(weights: Mapping[str, Sequence[float]], relations: Sequence[str], label: str) -> Figure:
    """A bar for each relation and task.

    Args:
        weights: task -> a value for each relation.
        relations: their names.
        label: what the values are.
    """
    figure = Figure(figsize=(1.6 + 0.9 * max(3, len(relations)), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(weights))
    place = np.arange(len(relations))
    for k, (task, values) in enumerate(weights.items()):
        axes.bar(place + k * width, list(values), width, color=COLOURS[k % len(COLOURS)], label=task)
    axes.axhline(0, color="#24292f", linewidth=0.8)
    axes.set_xticks(place + 0.4 - width / 2, relations, rotation=35, ha="right")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def classes_picture(shares: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many accounts were given each class, a panel a task.

    Args:
        shares: task -> class -> accounts.
    """
    figure = Figure(figsize=(3.4 * len(shares), 3.2), layout="constrained")
    for axes, (task, counts) in zip(figure.subplots(1, len(shares), squeeze=False).flat, shares.items(), strict=True):
        axes.bar(list(counts), list(counts.values()), color=COLOURS[0])
        axes.set_title(task)
        axes.set_ylabel("accounts")
        axes.tick_params("x", rotation=35)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
