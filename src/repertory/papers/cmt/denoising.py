"""Point-based query denoising: true boxes with shifted centres as extra queries in training (paper, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repertory.core.problem import Problem
from repertory.papers.cmt.encoding import Bounds, limits

MOST_GROUPS = 10


@dataclass(frozen=True)
class Noised:
    """Denoising queries of a batch; G groups of P places, N boxes in all, each once a group."""

    points: Tensor
    """(B, G P, 3), normalised centres; places without a box are 0."""
    sample: Tensor
    """(G N,), number of the sample."""
    place: Tensor
    """(G N,), which of its G P places."""
    labels: Tensor
    """(G N,), class, or the number of classes (background) where the centre was shifted far."""
    boxes: Tensor
    """(G N, 9), the true boxes."""
    allowed: Tensor
    """(G P + Q, G P + Q), which queries each query sees: its own group, and the Q normal queries."""
    split: float
    """Length of the shift, in half sizes, from where on a query is background."""

    @property
    def length(self) -> int:
        """G P."""
        return self.points.shape[1]


def noised_queries(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    bounds: Bounds,
    queries: int,
    classes: int,
    *,
    scale: float = 1.0,
    translation: float = 0.0,
    split: float = 0.75,
    uniform: Tensor | None = None,
) -> Noised | None:
    """Denoising queries for a batch of true boxes; None if it has none.

    There are min(10, queries // most boxes of a sample) groups. A centre is shifted by up to half of the box's size
    along x, y and z each, regardless of its yaw.

    Args:
        boxes: of each sample, (n, 9): x, y, z of the centre, dx, dy, dz, yaw, vx, vy.
        labels: of each sample, (n,).
        bounds: x0, y0, z0, x1, y1, z1.
        queries: Q, number of normal queries.
        classes: number of classes.
        scale: of the shift; 1: half a size.
        translation: metres added to half a size.
        split: length of the shift from where on the query is background.
        uniform: (G N, 3) in [0, 1), the draw; default: drawn from the global generator.

    Raises:
        Problem: a sample has more boxes than there are queries.
    """
    counts = [len(one) for one in boxes]
    most = max(counts, default=0)
    if most > queries:
        raise Problem(
            f"a sample has {most} boxes and there are {queries} queries",
            "training data",
            f"raise queries to {most} or more; half of them should stay free",
        )
    if most == 0:
        return None
    groups = min(MOST_GROUPS, queries // most)
    device = boxes[0].device
    low, extent = limits(bounds, boxes[0])
    known = torch.cat(list(boxes)).repeat(groups, 1)  # (G N, 9), group by group
    uniform = torch.rand(len(known), 3, device=device) if uniform is None else uniform
    shift = uniform * 2 - 1
    centres = known[:, :3] + shift * (known[:, 3:6] / 2 + translation) * scale
    normalised = ((centres - low) / extent).clamp(0, 1)
    background = shift.norm(dim=1) > split

    within = torch.cat([torch.arange(count, device=device) for count in counts])
    sample = torch.repeat_interleave(torch.tensor(counts, device=device)).repeat(groups)
    place = (within + most * torch.arange(groups, device=device)[:, None]).flatten()
    points = known.new_zeros(len(counts), groups * most, 3).index_put((sample, place), normalised)

    group = torch.arange(groups * most, device=device) // most
    normal = torch.full((queries,), -1, device=device)
    of = torch.cat([group, normal])
    allowed = (of[:, None] == of) | (of == -1)
    named = torch.cat(list(labels)).repeat(groups).masked_fill(background, classes)
    return Noised(points, sample, place, named, known, allowed, split)


def far_share(split: float) -> float:
    """Share of a cube that a ball of radius `split` half sides fills: the expected share of foreground queries."""
    return math.pi / 6 * split**3
