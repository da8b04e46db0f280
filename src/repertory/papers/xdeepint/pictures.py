"""Pictures: which fields interact, which features were selected, calibration, the probabilities of a prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from repertory.core.printing import figure_text

MAIN, REST = "#0969da", "#57606a"
BINS = 10


def interactions_picture(strength: np.ndarray, fields: Sequence[str]) -> Figure:
    """Heat map (F, F) of |W|, mean over layers and sub-spaces: how much field j scales field i."""
    side = max(4.0, 0.17 * len(fields) + 2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(strength, cmap="viridis", vmin=0)
    names = [figure_text(name) for name in fields]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="field j", ylabel="field i", title="which fields interact: mean |W| with which j scales i")
    figure.colorbar(drawn, ax=axes, shrink=0.8)
    return figure


def selection_picture(shares: np.ndarray, sizes: Sequence[int], fields: Sequence[str]) -> Figure:
    """Bars of each field: the share of its embeddings that are zero; and how many embeddings it has.

    Args:
        shares: (F,) in 0 … 1; NaN for a field without embeddings.
        sizes: embeddings of each field.
        fields: names.
    """
    figure = Figure(figsize=(max(5.0, 0.2 * len(fields) + 1), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(fields)), 100 * np.nan_to_num(shares), color=MAIN)
    names = [figure_text(f"{name} ({size})") for name, size in zip(fields, sizes, strict=True)]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set(ylim=(0, 100), ylabel="zero embeddings, %", title="which values were dropped, by field (its embeddings)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def calibration_picture(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Observed click rate against the predicted one, in ten bins with the same number of rows."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    predicted, observed = (np.array([values[part].mean() for part in bins]) for values in (scores, labels))
    errors = np.sqrt(observed * (1 - observed) / np.array([len(part) for part in bins]))
    top = 1.05 * max(predicted.max(), (observed + errors).max())
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, top], [0, top], ":", color=REST, linewidth=0.8)
    axes.errorbar(predicted, observed, errors, fmt="o-", color=MAIN, markersize=4, capsize=2)
    axes.set(xlabel="predicted click rate", ylabel="observed, ± standard error", title="calibration", xlim=(0, top))
    axes.set_ylim(0, top)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def probabilities_picture(scores: np.ndarray) -> Figure:
    """Histogram of predicted probabilities, with their mean."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, bins=min(40, max(5, len(scores) // 5)), color=MAIN)
    axes.axvline(float(scores.mean()), color=REST, linestyle="--")
    axes.set(xlabel="predicted probability of a click", ylabel="rows", title=f"mean {scores.mean():.3f} (dashed)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
