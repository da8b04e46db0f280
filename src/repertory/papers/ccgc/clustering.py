"""K-means, and a confidence for each point (the authors' code: kmeans_gpu.py, train.py)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from repertory.core.arguments import check_shares
from repertory.core.problem import Problem
from repertory.nn.graphs import check_features


class Clusters(NamedTuple):
    """One clustering of n points into K clusters. `labels` is the row-wise argmin of `distances`."""

    labels: Tensor
    """(n,) int64."""
    distances: Tensor
    """(n, K) float64, squared Euclidean distances to `centres`."""
    centres: Tensor
    """(K, d) float64, the centres of the last assignment step."""


def kmeans(
    points: Tensor,
    clusters: int,
    generator: torch.Generator | None = None,
    *,
    centres: Tensor | None = None,
    draws: int = 20,
    tolerance: float = 1e-4,
    most_steps: int = 500,
) -> Clusters:
    """Lloyd's algorithm, in float64.

    Stops when (Σ_k ‖c_k − c_k^old‖)² < `tolerance` and returns the last assignment with the centres it used.
    An empty cluster restarts at the point farthest from its own centre.

    Args:
        points: (n, d).
        clusters: K.
        generator: CPU generator of the initial draws; not needed when `centres` is given.
        centres: (K, d) to start from; default: see `initial_rows`.
        draws: of K points, of which the best is the start.
        tolerance: of the stopping rule.
        most_steps: maximum number of steps.

    Raises:
        Problem: K is not between 2 and n, or points or centres of another shape.

    Example:
        >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> kmeans(points, 2, centres=points[:2]).labels
        tensor([0, 0, 1, 1])
    """
    check_features(points.shape, None, "kmeans, points")
    require_clusters(clusters, len(points))
    if centres is not None:
        check_features(centres.shape, points.shape[1], "kmeans, centres", clusters)
    points, mean, norms = _about_mean(points)
    centres = points[initial_rows(norms, clusters, generator, draws)] if centres is None else centres.to(points) - mean
    distances = _squared_distances(points, centres, norms)
    for _ in range(most_steps):
        nearest = distances.min(dim=1)
        moved = _means(points, nearest.indices, nearest.values, clusters)
        if (moved - centres).norm(dim=1).sum().square() < tolerance:
            break
        centres = moved
        distances = _squared_distances(points, centres, norms)
    return Clusters(distances.min(dim=1).indices, distances, centres + mean)


def initial_rows(norms: Tensor, clusters: int, generator: torch.Generator | None, draws: int = 20) -> Tensor:
    """Draw K distinct rows `draws` times; return the draw with the least sum of squared distances to all points.

    Up to a constant, the squared distances from a point x to all points sum to n ‖x − mean‖².

    Args:
        norms: squared distances (n, 1) of the points to their mean.
        clusters: K.
        generator: CPU generator of the draws.
        draws: how many.
    """
    rows = torch.rand(draws, len(norms), generator=generator).topk(clusters).indices.to(norms.device)
    return rows[norms[:, 0][rows].sum(dim=1).argmin()]


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances (n, K) of points (n, d) to centres (K, d), in float64."""
    points, mean, norms = _about_mean(points)
    return _squared_distances(points, centres.to(points) - mean, norms)


def _about_mean(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points minus their mean (n, d), the mean (d,), and the squared norms (n, 1), in float64.

    Centring keeps ‖x‖² + ‖c‖² − 2 x·c from cancelling where the distance is small.
    """
    if points.device.type == "mps":  # which has no float64
        points = points.cpu()
    points = points.detach().to(torch.float64, copy=True)  # one copy: allocation dominates the cost
    mean = points.mean(dim=0)
    points -= mean
    return points, mean, torch.linalg.vector_norm(points, dim=1, keepdim=True).square()


def _squared_distances(points: Tensor, centres: Tensor, norms: Tensor) -> Tensor:
    return torch.addmm(norms + centres.square().sum(dim=1), points, centres.T, alpha=-2).clamp_(min=0)


def _means(points: Tensor, labels: Tensor, nearest: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster's points (K, d); an empty cluster gets the point farthest from its own centre."""
    members = (labels == torch.arange(clusters, device=labels.device)[:, None]).to(points)  # (K, n)
    counts = members.sum(dim=1)
    means = members @ points / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        means[empty] = points[nearest.topk(len(empty)).indices]
    return means


def high_confidence(distances: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Select the points nearest to their centres, over all clusters together.

    Args:
        distances: (n, K) to the centres.
        fraction: τ, the share of points to select.

    Returns:
        Mask (n,) and the cut: the value at position ⌊n τ⌋ of the sorted distances to the nearest centre. Points
        strictly below the cut are taken, which is none where all are equally far or τ n < 1.

    Raises:
        Problem: τ is not between 0 and 1.
    """
    check_shares("high_confidence", fraction=fraction)
    nearest = distances.min(dim=1).values
    cut = nearest.sort().values[min(int(len(nearest) * fraction), len(nearest) - 1)]
    return nearest < cut, cut


def require_clusters(clusters: int, points: int) -> None:
    """Raise a Problem unless K is between 2 and the number of points."""
    if not 2 <= clusters <= points:
        raise Problem(
            f"clusters must be between 2 and the number of nodes ({points}), not {clusters}",
            "clusters",
            "ask for another number of clusters: --set clusters=K",
        )


def require_distinct(points: Tensor, clusters: int) -> None:
    """Raise a Problem if there are fewer than K distinct points."""
    distinct = len(points.unique(dim=0))
    if distinct < clusters:
        raise Problem(
            f"only {distinct} distinct rows of features for {clusters} clusters",
            "features",
            "ask for fewer clusters, or give features that differ between nodes",
        )
