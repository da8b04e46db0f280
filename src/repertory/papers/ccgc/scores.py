"""How good a clustering is: against true labels, and without them."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

MOST_PAIRED = 10_000
"""The silhouette compares all pairs of nodes; of larger graphs it takes a sample of this size."""


def accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """ACC in percent: the share of nodes (n,) that agree after the best one-to-one relabelling of the clusters.

    Example:
        >>> accuracy(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]))
        75.0
    """
    table = contingency_matrix(labels, clusters)
    return float(100 * table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def relabel(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Clusters (n,) as classes, after the best one-to-one relabelling; a cluster left over gets a class of its own.

    Example:
        >>> relabel(np.array([5, 5, 7, 7]), np.array([1, 1, 0, 2]))
        array([5, 5, 7, 4])
    """
    classes, (ids, position) = np.unique(labels), np.unique(clusters, return_inverse=True)
    to_class = np.full(len(ids), classes[0] - 1)
    row, column = linear_sum_assignment(contingency_matrix(labels, clusters), maximize=True)
    to_class[column] = classes[row]
    return to_class[position]


def supervised_scores(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """ACC, NMI (arithmetic), ARI and macro F1 (after the relabelling of ACC), all in percent."""
    return {
        "acc": accuracy(labels, clusters),
        "nmi": 100 * float(normalized_mutual_info_score(labels, clusters)),
        "ari": 100 * float(adjusted_rand_score(labels, clusters)),
        "f1": 100 * float(f1_score(labels, relabel(labels, clusters), labels=np.unique(labels), average="macro")),
    }


def label_free_scores(z: Tensor, distances: Tensor) -> dict[str, float]:
    """Relative inertia (lower is better) and silhouette (−1 to 1; higher is better).

    The silhouette is defined, and given, where 2 to n − 1 clusters have members.

    Args:
        z: embedding (n, h).
        distances: squared distances to the centres (n, K).
    """
    scores = {"inertia": relative_inertia(z, distances)}
    clusters = distances.argmin(dim=1).cpu().numpy()
    if 2 <= len(np.unique(clusters)) < len(clusters):
        size = MOST_PAIRED if len(clusters) > MOST_PAIRED else None
        scores["silhouette"] = float(silhouette_score(z.cpu().numpy(), clusters, sample_size=size, random_state=0))
    return scores


def relative_inertia(z: Tensor, distances: Tensor) -> float:
    """Inertia of a clustering over the total variance of what was clustered: 0 for points, 1 for one shapeless cloud.

    Args:
        z: embedding (n, h).
        distances: squared distances to the centres (n, K).
    """
    spread = (z - z.mean(dim=0)).square().sum()
    return float(distances.min(dim=1).values.sum() / spread)
