"""Matching of queries and true boxes, and the losses of one decoder layer (the conventions of mmdetection)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from repertory.papers.cmt.denoising import Noised, far_share

PARTS = ("center", "height", "dim", "rot", "vel")
"""Predictions that make up a box code: 2, 1, 3, 2 and 2 numbers."""
CODE_WEIGHTS = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
CLASS_WEIGHT, BOX_WEIGHT = 2.0, 0.25
ALPHA, GAMMA = 0.25, 2.0
BACKGROUND_SHARE = 0.1
"""Weight of a query without a box in the divisor of the classification loss."""
TINY = torch.finfo(torch.float32).eps


def box_code(boxes: Tensor) -> Tensor:
    """What the network predicts of boxes, (..., 9) -> (..., 10).

    x, y, log dx, log dy, z, log dz, sin yaw, cos yaw, vx, vy: the authors' code keeps the order of DETR3D. The branch
    called `height` therefore learns log dx, and `dim` learns log dy, z and log dz.
    """
    x, y, z, dx, dy, dz, yaw, vx, vy = boxes.unbind(-1)
    return torch.stack([x, y, dx.log(), dy.log(), z, dz.log(), yaw.sin(), yaw.cos(), vx, vy], -1)


def from_code(code: Tensor) -> Tensor:
    """The inverse of `box_code`, (..., 10) -> (..., 9)."""
    xy, across, z, height, sine, cosine, velocity = code.split([2, 2, 1, 1, 1, 1, 2], -1)
    return torch.cat([xy, z, across.exp(), height.exp(), torch.atan2(sine, cosine), velocity], -1)


def code_of(predictions: Mapping[str, Tensor]) -> Tensor:
    """Box codes (..., 10) of a head's predictions."""
    return torch.cat([predictions[name] for name in PARTS], -1)


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al., ICCV 2017), logits (n, K) and labels (n,), K for background."""
    target = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    p = logits.sigmoid()
    wrong = (1 - p) * target + p * (1 - target)
    weight = (ALPHA * target + (1 - ALPHA) * (1 - target)) * wrong.pow(GAMMA)
    return (weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()


def box_loss(code: Tensor, boxes: Tensor) -> Tensor:
    """Sum of weighted L1 distances, codes (n, 10) and true boxes (n, 9); boxes with unknown values do not count."""
    target = box_code(boxes)
    known = target.isfinite().all(1)
    weights = code.new_tensor(CODE_WEIGHTS)
    return torch.nan_to_num(((code[known] - target[known]).abs() * weights).sum())


@torch.no_grad()
def match(logits: Tensor, code: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Assign each true box of a sample to a query: Hungarian matching on focal cost plus L1 without velocity.

    Args:
        logits: (Q, K).
        code: (Q, 10).
        boxes: (n, 9).
        labels: (n,).

    Returns:
        Numbers of the queries and of their boxes.
    """
    p = logits.sigmoid()
    positive = -(p + 1e-12).log() * ALPHA * (1 - p).pow(GAMMA)
    negative = -(1 - p + 1e-12).log() * (1 - ALPHA) * p.pow(GAMMA)
    weights = code.new_tensor(CODE_WEIGHTS)
    distance = torch.cdist((code * weights)[:, :8], (box_code(boxes) * weights)[:, :8], p=1)
    cost = CLASS_WEIGHT * (positive - negative)[:, labels] + BOX_WEIGHT * distance
    queries, found = linear_sum_assignment(torch.nan_to_num(cost, nan=100.0, posinf=100.0, neginf=-100.0).cpu().numpy())
    return torch.as_tensor(queries, device=code.device), torch.as_tensor(found, device=code.device)


def layer_losses(
    logits: Tensor, code: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Classification and box loss of one decoder layer.

    Args:
        logits: (B, Q, K).
        code: (B, Q, 10).
        boxes: of each sample, (n, 9).
        labels: of each sample, (n,).
    """
    classes = logits.shape[-1]
    target = torch.full(logits.shape[:2], classes, device=logits.device)
    picked, true = [], []
    for sample, (own_boxes, own_labels) in enumerate(zip(boxes, labels, strict=True)):
        queries, found = match(logits[sample], code[sample], own_boxes, own_labels)
        target[sample, queries] = own_labels[found]
        picked.append(code[sample, queries])
        true.append(own_boxes[found])
    positive = sum(map(len, picked))
    divisor = max(1.0, positive + BACKGROUND_SHARE * (target.numel() - positive)) + TINY
    classification = focal_loss(logits.flatten(0, 1), target.flatten()) / divisor
    box = box_loss(torch.cat(picked), torch.cat(true)) / (positive + TINY)
    return CLASS_WEIGHT * classification, BOX_WEIGHT * box


def denoising_losses(logits: Tensor, code: Tensor, noised: Noised) -> tuple[Tensor, Tensor]:
    """Classification and box loss of the denoising queries of one layer; boxes count for background queries too.

    Args:
        logits: (B, G P, K).
        code: (B, G P, 10).
        noised: the queries.
    """
    where = noised.sample, noised.place
    known = len(noised.labels)
    classification = focal_loss(logits[where], noised.labels) / (max(1.0, known * far_share(noised.split)) + TINY)
    box = box_loss(code[where], noised.boxes) / (max(1, known) + TINY)
    return CLASS_WEIGHT * classification, BOX_WEIGHT * box
