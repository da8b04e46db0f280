"""Self-supervised losses: group contrast (GPPS), contrast with own views, and the baselines' losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from repertory.core.arguments import check_positive
from repertory.core.problem import Problem
from repertory.nn.graphs import check_features


def similarities(anchors: Tensor, views: Tensor, tau: float) -> Tensor:
    """s_ij / τ: cosine similarity of anchors (G, d) and views (M, d) -> (G, M).

    Raises:
        Problem: vectors of different widths, or τ that is not positive.
    """
    check_positive("similarities", tau=tau)
    check_features(anchors.shape, None, "anchors")
    check_features(views.shape, anchors.shape[1], "views")
    return F.normalize(anchors, dim=1) @ F.normalize(views, dim=1).T / tau


def group_contrast(
    anchors: Tensor,
    views: Tensor,
    anchor_labels: Tensor,
    view_labels: Tensor,
    tau: float = 0.1,
    counted: Tensor | None = None,
) -> Tensor:
    r"""Every view with the anchor's pseudo-label is a positive; tasks are averaged.

    .. math:: L = -\frac{1}{|\{i: P(i) \ne ∅\}|} \sum_i \frac{1}{|P(i)|} \sum_{j \in P(i)}
              \log \frac{\exp(s_{ij} / τ)}{\sum_{j'} \exp(s_{ij'} / τ)}

    Args:
        anchors: z (G, d).
        views: z' (M, d).
        anchor_labels: y (G, T) bool.
        view_labels: y' (M, T) bool.
        tau: τ.
        counted: (M, T) bool, the views that may be positives (a confidence filter); None: all.

    Raises:
        Problem: shapes that do not go together.

    Example:
        >>> z = torch.eye(2)
        >>> y = torch.tensor([[True], [False]])
        >>> round(group_contrast(z, z, y, y, tau=1.0).item(), 4)  # each its own positive: log(1 + e) - 1
        0.3133
    """
    log_share = similarities(anchors, views, tau).log_softmax(dim=1)  # (G, M)
    check_features(anchor_labels.shape, None, "anchor_labels", len(anchors))
    for labels in (view_labels,) if counted is None else (view_labels, counted):
        check_features(labels.shape, anchor_labels.shape[1], "view_labels, counted", len(views))
    counts = torch.ones_like(view_labels, dtype=log_share.dtype) if counted is None else counted.to(log_share.dtype)
    with_one = counts * view_labels  # (M, T)
    with_zero = counts - with_one
    # Avoids a tensor (T, G, M): for each of the labels 0 and 1, the sum over positives is a matrix product.
    total = torch.where(anchor_labels, log_share @ with_one, log_share @ with_zero)  # (G, T)
    positives = torch.where(anchor_labels, with_one.sum(0), with_zero.sum(0))
    has_some = positives > 0
    per_anchor = -total / positives.clamp(min=1)
    per_task = (per_anchor * has_some).sum(0) / has_some.sum(0).clamp(min=1)
    asked = has_some.any(0)
    return (per_task * asked).sum() / asked.sum().clamp(min=1)


def own_contrast(anchors: Tensor, views: Tensor, tau: float = 0.1) -> Tensor:
    """The same without groups: an anchor's positives are its own views, P(i) = {views of i}.

    Args:
        anchors: (G, d).
        views: (V G, d), one copy of the batch after the other.
        tau: τ.

    Raises:
        Problem: vectors of different widths, or a number of views that the anchors do not divide.
    """
    if not len(anchors) or len(views) % len(anchors):
        raise Problem(f"{len(views)} views of {len(anchors)} anchors", "own_contrast", "give as many views of each")
    log_share = similarities(anchors, views, tau).log_softmax(dim=1)
    own = log_share.view(len(anchors), -1, len(anchors)).diagonal(dim1=0, dim2=2)  # (V, G)
    return -own.mean()


def info_nce(anchors: Tensor, views: Tensor, tau: float = 0.2, symmetric: bool = True) -> Tensor:
    """-log(positive / (sum of the others)): the positive is not in the denominator (AD-GCL).

    Args:
        anchors: (G, d).
        views: (G, d), one for each anchor.
        tau: temperature.
        symmetric: the mean with the same loss from the views' side.

    Raises:
        Problem: the shapes of anchors and views differ.
    """
    check_features(views.shape, None, "info_nce, views", len(anchors))
    scores = similarities(anchors, views, tau)
    positive = scores.diagonal()
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    loss = others.logsumexp(1) - positive
    if symmetric:
        loss = (loss + others.logsumexp(0) - positive) / 2
    return loss.mean()


def binary_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each Bernoulli decision, any shape."""
    return F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")


def information_maximisation(logits: Tensor) -> Tensor:
    """SHOT: mean entropy minus entropy of the mean decision, of logits (G, T)."""
    mean = logits.sigmoid().mean(0)
    return binary_entropy(logits).mean() - binary_entropy(torch.logit(mean, eps=1e-6)).mean()


def centroid_labels(features: Tensor, logits: Tensor) -> Tensor:
    """SHOT's pseudo-labels: the nearer, by cosine, of a task's two probability-weighted centroids.

    Args:
        features: (G, d).
        logits: (G, T).

    Returns:
        (G, T) float, 0 or 1.
    """
    p, x = logits.sigmoid(), F.normalize(features, dim=1)
    one, zero = (F.normalize(weights.T @ x, dim=1) for weights in (p, 1 - p))  # (T, d); scale does not matter
    return (x @ one.T > x @ zero.T).to(logits.dtype)
