"""Neural collapse: how near features and classifier are to a simplex ETF (Papyan, Han, Donoho; PNAS 2020).

At the end of balanced training, class means (centred) and rows of the classifier have equal norms and pairwise cosines
of -1 / (K - 1), and agree with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from repertory.core.printing import figure_text
from repertory.core.study import Metric

LIMIT = 2000
"""Most features of a class; of an image at most `PER_IMAGE` of each class."""
PER_IMAGE = 50

NEARER: dict[str, Any] = {"better": "lower", "decimals": 3}
COLLAPSE_METRICS = {
    "nc1": Metric("NC1: variability within classes", "NC1：类内变异", **NEARER),
    "equinorm": Metric("NC2: spread of the norms of class centres", "NC2：类中心范数的离散度", **NEARER),
    "equiangularity": Metric("NC2: spread of the cosines of class centres", "NC2：类中心余弦的离散度", **NEARER),
    "maximal_angle": Metric(
        "NC2: distance of the cosines of class centres from -1/(K-1)", "NC2：类中心余弦与 -1/(K-1) 的距离", **NEARER
    ),
    "classifier_equinorm": Metric("spread of the norms of the classifier's rows", "分类器行向量范数的离散度", **NEARER),
    "classifier_equiangularity": Metric(
        "spread of the cosines of the classifier's rows", "分类器行向量余弦的离散度", **NEARER
    ),
    "classifier_maximal_angle": Metric(
        "distance of the cosines of the classifier's rows from -1/(K-1)", "分类器行向量余弦与 -1/(K-1) 的距离", **NEARER
    ),
    "nc3": Metric("NC3: distance of classifier and class centres", "NC3：分类器与类中心的距离", **NEARER),
}
"""What `collapse_metrics` gives."""


class Features:
    """Features of each class, gathered from maps or points.

    Args:
        classes: K.

    Example:
        >>> kept = Features(2)
        >>> kept.add(torch.eye(3), torch.tensor([0, 1, 255]))
        >>> [len(features) for features in kept.of_class]
        [1, 1]
    """

    def __init__(self, classes: int) -> None:
        self.of_class: list[list[Tensor]] = [[] for _ in range(classes)]

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Take up the features of one image, at most `PER_IMAGE` of a class, evenly chosen.

        Args:
            features: (C, h, w), or (N, C).
            labels: (H, W), taken at the centres of the h x w places; or (N,). What is no class is left out.
        """
        if features.ndim == 3:
            rows, columns = (
                ((torch.arange(places, device=labels.device) + 0.5) * pixels / places).long()
                for places, pixels in zip(features.shape[1:], labels.shape, strict=True)
            )
            features, labels = features.flatten(1).T, labels[rows][:, columns].flatten()
        for k in labels.unique().tolist():
            if 0 <= k < len(self.of_class) and sum(map(len, self.of_class[k])) < LIMIT:
                places = (labels == k).nonzero()[:, 0]
                if len(places) > PER_IMAGE:
                    places = places[torch.linspace(0, len(places) - 1, PER_IMAGE, device=places.device).long()]
                self.of_class[k].append(features[places].detach().cpu())

    def moments(self) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        """The classes that were seen, their means (k, C), and the mean of their covariances (C, C)."""
        seen = [k for k, found in enumerate(self.of_class) if found]
        gathered = [torch.cat(self.of_class[k]).double().numpy() for k in seen]
        means = np.stack([x.mean(0) for x in gathered])
        return seen, means, np.mean([np.cov(x.T, bias=True).reshape(len(x.T), -1) for x in gathered], 0)


def cosines(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of the rows (k, C) after their mean is taken off, (k, k)."""
    centred = rows - rows.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def frame_metrics(rows: NDArray[np.float64], prefix: str = "") -> dict[str, float]:
    """NC2 of vectors (k, C): spread of norms, spread of cosines, mean distance of cosines from -1 / (k - 1).

    Example:
        >>> {name: round(value, 6) for name, value in frame_metrics(np.eye(4)).items()}
        {'equinorm': 0.0, 'equiangularity': 0.0, 'maximal_angle': 0.0}
    """
    k = len(rows)
    norms = np.linalg.norm(rows - rows.mean(0), axis=1)
    pairs = cosines(rows)[~np.eye(k, dtype=bool)]
    return {
        f"{prefix}equinorm": float(norms.std() / norms.mean()),
        f"{prefix}equiangularity": float(pairs.std()),
        f"{prefix}maximal_angle": float(np.abs(pairs + 1 / (k - 1)).mean()),
    }


def collapse_metrics(features: Features, classifier: Tensor) -> dict[str, float]:
    """NC1, NC2 of class centres and of the classifier, NC3; of the classes that were seen. Empty below 3 of them.

    Args:
        features: in front of the classifier.
        classifier: its weights, (K, C).
    """
    if sum(map(bool, features.of_class)) < 3:
        return {}
    seen, means, within = features.moments()
    m = means - means.mean(0)
    between = m.T @ m / len(m)
    w = classifier.double().cpu().numpy()[seen]
    rows = w - w.mean(0)
    nc3 = rows / np.linalg.norm(rows) - m / np.linalg.norm(m)
    return {
        "nc1": float(np.trace(within @ np.linalg.pinv(between, hermitian=True)) / len(m)),
        **frame_metrics(means),
        **frame_metrics(w, "classifier_"),
        "nc3": float((nc3**2).sum()),
    }


# -- pictures -----------------------------------------------------------------------------------


def cosines_picture(panels: dict[str, NDArray[np.float64]], names: list[str]) -> Figure:
    """Cosines of class centres as heat maps (k, k), side by side; a simplex ETF is one colour off the diagonal."""
    figure = Figure(figsize=(4.6 * len(panels) + 0.8, 4.4), layout="constrained")
    shown = None
    for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        shown = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_title(title, fontsize=9)
        if len(names) <= 30:
            labels = [figure_text(name) for name in names]
            axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=6)
            axes.set_yticks(range(len(names)), labels, fontsize=6)
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label="cosine")
    return figure


def curves_picture(records: Iterable[dict[str, Any]]) -> Figure:
    """Equiangularity, maximal angle and mean IoU over the steps of a training.

    Args:
        records: rows of metrics.jsonl that hold these metrics, with "step".
    """
    rows = list(records)
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in (("equiangularity", "equiangularity"), ("maximal_angle", "maximal angle")):
        left.plot(steps, [row[name] for row in rows], "o-", markersize=3, label=f"{label}, class centres")
        classifier = [row[f"classifier_{name}"] for row in rows]
        left.plot(steps, classifier, "o--", markersize=3, label=f"{label}, classifier")
    left.set_ylabel("distance from a simplex ETF")
    left.legend(fontsize=7, frameon=False)
    right.plot(steps, [row["mIoU"] for row in rows], "o-", markersize=3, color="#1a7f37")
    right.set_ylabel("mean IoU, %")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
