"""Pictures: the course of adaptation, bonds by keep probability, groups before and after, ROC curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve

from repertory.core.printing import figure_text
from repertory.core.problem import require
from repertory.data.molecules import Molecules

BEFORE, AFTER = "#57606a", "#0969da"
GROUPS = ("#0969da", "#cf222e")
KEPT = colormaps["RdYlBu"]


def stream_picture(
    records: Sequence[Mapping[str, float]],
    labels: np.ndarray | None = None,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Panels along the stream: mean entropy; R and the loss, where the arm has them; running AUC, with labels.

    Args:
        records: of `Stream`, one per batch.
        labels: (n,) of one task, in the order of the stream; NaN where unknown.
        scores: "before" and "after" -> (n,) in the same order.
    """
    seen = np.cumsum([record["graphs"] for record in records])
    names = [name for name in ("dropped", "loss") if any(name in record for record in records)]
    panels = ["entropy", *names, *(["AUC so far"] if labels is not None else [])]
    figure = Figure(figsize=(3.6 * len(panels), 3), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        if panel == "AUC so far" and labels is not None and scores is not None:
            for (name, values), colour in zip(scores.items(), (BEFORE, AFTER), strict=True):
                so_far = [auc(labels[: int(n)], values[: int(n)]) for n in seen]
                axes.plot(seen, so_far, "o-", color=colour, label=name, markersize=3)
            axes.legend(frameon=False, fontsize=8)
        else:
            if panel == "entropy":
                axes.plot(
                    seen, [r["entropy_before"] for r in records], "o-", color=BEFORE, label="before", markersize=3
                )
            axes.plot(seen, [r.get(panel, np.nan) for r in records], "o-", color=AFTER, label="after", markersize=3)
            if panel == "entropy":
                axes.legend(frameon=False, fontsize=8)
        axes.set_title({"entropy": "mean entropy, nats", "dropped": "R: share of bonds dropped"}.get(panel, panel))
        axes.set_xlabel("molecules seen")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """ROC-AUC of labels (n,) 0, 1 or NaN; NaN if only one class is present.

    Example:
        >>> auc(np.array([0, 1, np.nan, 1]), np.array([0.2, 0.4, 9.0, 0.3]))
        1.0
    """
    known = np.isfinite(labels) & np.isfinite(scores)
    labels, scores = labels[known], scores[known]
    return float(roc_auc_score(labels, scores)) if len(set(labels.tolist())) == 2 else float("nan")


def bonds_picture(molecules: Molecules, keep: Mapping[int, np.ndarray], most: int = 6) -> Figure:
    """The molecules whose bonds differ most, bonds coloured by keep probability."""
    chem, draw = require("rdkit.Chem", extra="chem"), require("rdkit.Chem.Draw.rdMolDraw2D", extra="chem")
    spread = {row: float(np.ptp(values)) for row, values in keep.items() if len(values)}
    rows = sorted(spread, key=lambda row: spread[row], reverse=True)[:most]
    low, high = (f([f(keep[row]) for row in rows]) for f in (min, max)) if rows else (0.0, 1.0)
    columns = max(1, min(3, len(rows)))
    figure = Figure(figsize=(3.2 * columns, 2.6 * max(1, -(-len(rows) // columns))), layout="constrained")
    panels = figure.subplots(max(1, -(-len(rows) // columns)), columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, row in zip(panels.flat, rows, strict=False):
        colours = {k: KEPT((v - low) / max(high - low, 1e-9))[:3] for k, v in enumerate(keep[row].tolist())}
        canvas = draw.MolDraw2DCairo(480, 360)
        molecule = chem.MolFromSmiles(molecules.smiles[row])
        draw.PrepareAndDrawMolecule(
            canvas, molecule, highlightAtoms=[], highlightBonds=list(colours), highlightBondColors=colours
        )
        canvas.FinishDrawing()
        axes.imshow(imread(io.BytesIO(canvas.GetDrawingText()), format="png"))
    colours = ScalarMappable(cmap=KEPT)
    colours.set_clim(low, high)
    figure.colorbar(colours, ax=panels.ravel().tolist(), label="chance that a bond is kept", shrink=0.7)
    return figure


def projection_picture(features: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], task: str) -> Figure:
    """Pooled vectors in the plane of their first two principal components, before and after, by pseudo-label.

    Args:
        features: panel -> (n, width); one plane for all.
        groups: panel -> (n,) bool.
        task: its name.
    """
    plane = PCA(2, random_state=0).fit(np.concatenate(list(features.values())))
    figure = Figure(figsize=(4 * len(features), 3.6), layout="constrained")
    panels = figure.subplots(1, len(features), squeeze=False, sharex=True, sharey=True)
    for axes, (name, values) in zip(panels.flat, features.items(), strict=True):
        points = plane.transform(values)
        for label, colour in enumerate(GROUPS):
            chosen = groups[name] == bool(label)
            axes.scatter(*points[chosen].T, s=9, color=colour, alpha=0.7, label=f"pseudo-label {label}: {chosen.sum()}")
        axes.set_title(f"{name} ({figure_text(task)})")
        axes.legend(frameon=False, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def roc_picture(labels: np.ndarray, scores: Mapping[str, np.ndarray], tasks: Sequence[str], most: int = 6) -> Figure:
    """ROC curves before and after, one panel per task with both classes.

    Args:
        labels: (n, T), 0, 1 or NaN.
        scores: "before" and "after" -> (n, T).
        tasks: names.
        most: maximum number of panels.
    """
    shown = [k for k in range(len(tasks)) if len(set(labels[np.isfinite(labels[:, k]), k].tolist())) == 2][:most]
    figure = Figure(figsize=(3.4 * max(1, len(shown)), 3.4), layout="constrained")
    for axes, k in zip(figure.subplots(1, max(1, len(shown)), squeeze=False).flat, shown, strict=False):
        known = np.isfinite(labels[:, k])
        for (name, values), colour in zip(scores.items(), (BEFORE, AFTER), strict=True):
            false, true, _ = roc_curve(labels[known, k], values[known, k])
            axes.plot(false, true, color=colour, label=f"{name}: AUC {auc(labels[:, k], values[:, k]):.3f}")
        axes.plot([0, 1], [0, 1], ":", color=BEFORE, linewidth=0.8)
        axes.set(title=figure_text(tasks[k]), xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
