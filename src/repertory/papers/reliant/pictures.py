"""Pictures: score distributions of the two groups, and accuracy against fairness."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#0969da", "#cf222e")
BINS = np.linspace(0, 1, 26)


def scores_picture(scores: Mapping[str, np.ndarray], sensitive: np.ndarray | None = None) -> Figure:
    """Histograms of the probability of class 1, one panel per model.

    Args:
        scores: model -> (n,).
        sensitive: groups (n,), drawn apart; None: all together.
    """
    figure = Figure(figsize=(4.4 * len(scores), 3.4), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(scores), squeeze=False).flat, scores.items(), strict=True):
        if sensitive is None:
            axes.hist(values, BINS, color="#57606a")
        else:
            for s, colour in enumerate(COLOURS):
                of_group = values[sensitive == s]
                label = f"s = {s}: {100 * (of_group > 0.5).mean():.0f} % decided 1"
                axes.hist(of_group, BINS, density=True, alpha=0.5, color=colour, label=label)
            axes.legend(frameon=False, fontsize=8)
        axes.axvline(0.5, color="#24292f", linewidth=0.8, linestyle=":")
        axes.set_title(name)
        axes.set_xlabel("probability of class 1")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def curve_picture(curve: Mapping[float, Mapping[str, float]]) -> Figure:
    """Balanced accuracy against ΔSP.

    Args:
        curve: α -> balanced_accuracy and dsp, in per cent.
    """
    figure = Figure(figsize=(5.4, 4), layout="constrained")
    axes = figure.subplots()
    points = [(alpha, metrics["dsp"], metrics["balanced_accuracy"]) for alpha, metrics in curve.items()]
    axes.plot([x for _, x, _ in points], [y for _, _, y in points], "o-", color=COLOURS[0], linewidth=1)
    for alpha, x, y in points:
        axes.annotate(f"α = {alpha:g}", (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.margins(0.15)
    axes.set_xlabel("ΔSP, %")
    axes.set_ylabel("balanced accuracy, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
