"""Optimal transport between labelled sets of vectors (OTDD): entropic, with debiasing, for many languages at once.

The authors' code solves one small problem after another and repeats those inside a language for every pair of
languages. Here all pairs of classes of a language with all others are solved in batches of similar size, each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repertory.core.problem import Problem

EPS = 0.1
"""ε, the square of the blur."""
SCALING = 0.25
"""Factor of ε between two steps: the square of 0.5."""
SAFE = 60.0
"""Largest C / ε for which exp(-C / ε) is taken: 1e-26, far from the smallest float32."""
ELEMENTS = 2**19
"""Entries of the cost matrices that are worked on at a time: they stay in the cache of a core."""
GPU_ELEMENTS = 2**25
"""On other devices: enough to keep one busy."""


def schedule_length(diameter: Tensor, eps: float = EPS) -> Tensor:
    """Number of steps (P,) of the ε-scaling: D², then D² · 0.25^k as long as it is above ε, then ε."""
    ratio = (diameter.double().square() / eps).log() / -math.log(SCALING)
    return 2 + ratio.clamp(min=0).ceil().long()


def sinkhorn(
    cost: Tensor,
    diameter: Tensor,
    log_a: Tensor | None = None,
    log_b: Tensor | None = None,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    eps: float = EPS,
) -> Tensor:
    """Entropic transport cost of P problems whose schedules have the same length; symmetric updates with ε-scaling.

    Args:
        cost: (P, N, M).
        diameter: (P,), D of each problem: its schedule starts at ε = D².
        log_a: (P, N), log weights of the rows, -inf for padding; default: uniform.
        log_b: (P, M), of the columns.
        own: costs (P, N, N) and (P, M, M) of each side with itself: the result is debiased (Sinkhorn divergence).
        eps: ε at the end.

    Returns:
        (P,): mean(f) + mean(g), debiased mean(f - f_aa) + mean(g - g_bb).
    """
    P, N, M = cost.shape
    log_a = cost.new_full((P, N), -math.log(N)) if log_a is None else log_a
    log_b = cost.new_full((P, M), -math.log(M)) if log_b is None else log_b
    start = diameter.to(cost.dtype).square()
    steps = int(schedule_length(diameter, eps).max())
    schedule = [start, *(start * SCALING**k for k in range(steps - 2)), torch.full_like(start, eps)]

    tops = [matrix.amax((1, 2)) for matrix in (cost, *(own or ()))]

    def softmins(e: Tensor, h: Sequence[Tensor | float]) -> list[Tensor]:
        """New potentials f, g and, debiased, f_aa, g_bb, from the old ones over ε."""
        f, g, *selves = h
        safe = bool((tops[0] / e).max() < SAFE)
        matrix = _kernel(cost, e, safe)
        found = [_softmin(matrix, log_b + g, e, safe), _softmin(matrix.mT, log_a + f, e, safe)]
        for same, top, log_weights, potential in zip(own or (), tops[1:], (log_a, log_b), selves, strict=False):
            safe = bool((top / e).max() < SAFE)
            found.append(_softmin(_kernel(same, e, safe), log_weights + potential, e, safe))
        return found

    count = 4 if own else 2
    potentials = softmins(start, [0.0] * count)
    for e in schedule:
        fresh = softmins(e, [p / e[:, None] for p in potentials])
        potentials = [(old + new) / 2 for old, new in zip(potentials, fresh, strict=True)]
    e = schedule[-1]
    f, g, *selves = softmins(e, [p / e[:, None] for p in potentials])
    if own:
        f, g = f - selves[0], g - selves[1]
    return (log_a.exp() * f).sum(1) + (log_b.exp() * g).sum(1)


def _kernel(cost: Tensor, e: Tensor, safe: bool) -> Tensor:
    """exp(-C / ε), or C / ε where that could underflow."""
    scaled = cost / e[:, None, None]
    return scaled.neg_().exp_() if safe else scaled


def _softmin(matrix: Tensor, h: Tensor, e: Tensor, safe: bool) -> Tensor:
    """-ε log Σ_j exp(h_j - C_ij / ε): (P, N, M), (P, M) -> (P, N).

    Where all C / ε are below `SAFE`, by a product with the kernel: the term of the largest h_j keeps the sum above
    exp(-SAFE): nothing that counts is lost.
    """
    if not safe:
        return -e[:, None] * torch.logsumexp(h[:, None, :] - matrix, dim=2)
    top = h.amax(1, keepdim=True)
    return -e[:, None] * ((matrix @ (h - top).exp()[:, :, None]).squeeze(2).log() + top)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(..., N, d), (..., M, d) -> (..., N, M). Subtract a common mean first, or float32 loses digits."""
    return (x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT).clamp_(min=0)


@dataclass(frozen=True)
class Cloud:
    """Vectors of one language, sorted by class; a class has at least two.

    Attributes:
        points: (N, d).
        labels: (N,), position of the class in `classes`.
        classes: what each class is called: numbers of relations.
        starts: (C + 1,), first vector of each class, and N.
        outer: (n,), the vectors between which mass is transported.
    """

    points: Tensor
    labels: Tensor
    classes: tuple[int, ...]
    starts: Tensor
    outer: Tensor

    @property
    def counts(self) -> Tensor:
        """(C,), vectors of each class."""
        return self.starts.diff()

    def to(self, device: torch.device) -> Cloud:
        """The same on another device."""
        points, labels, starts, outer = (x.to(device) for x in (self.points, self.labels, self.starts, self.outer))
        return Cloud(points, labels, self.classes, starts, outer)


def make_cloud(points: Tensor, labels: Tensor, most: int = 1500, generator: torch.Generator | None = None) -> Cloud:
    """Sort vectors by class and leave out classes with a single one.

    Args:
        points: (N, d).
        labels: (N,), numbers of classes.
        most: vectors in the outer problem.
        generator: draws them where there are more.

    Raises:
        Problem: fewer than two classes are left.
    """
    names, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    kept = counts[labels] > 1
    names, labels, counts = names[counts > 1], labels[kept].unique(return_inverse=True)[1], counts[counts > 1]
    if len(names) < 2:
        raise Problem(f"{len(names)} relation(s) with two cases or more", "treebank", "give more sentences")
    order = labels.argsort(stable=True)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    outer = torch.arange(len(labels))
    if len(labels) > most:
        outer = torch.randperm(len(labels), generator=generator)[:most].sort().values
    return Cloud(points[kept][order], labels[order], tuple(names.tolist()), starts, outer)


# -- distances of classes -----------------------------------------------------------------------


def label_distances(
    clouds: Sequence[Cloud],
    eps: float = EPS,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tensor:
    """Transport costs between all classes of all languages: W (ΣC, ΣC), symmetric, 0 on the diagonal.

    The classes of the first language come first. W[c, c'] = Sinkhorn(X_c, X_c') with cost |x - x'|², not debiased.
    """
    points = torch.cat([c.points for c in clouds])
    points = points - points.mean(0)
    counts = torch.cat([c.counts for c in clouds])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    lows, highs = _boxes(points, starts)
    elements = ELEMENTS if points.device.type == "cpu" else GPU_ELEMENTS
    i, j = torch.triu_indices(len(counts), len(counts), 1, device=points.device)
    i, j = torch.where(counts[i] < counts[j], i, j), torch.where(counts[i] < counts[j], j, i)  # the smaller first
    diameter = torch.cat(
        [
            (torch.maximum(highs[a], highs[b]) - torch.minimum(lows[a], lows[b])).norm(dim=1)
            for a, b in zip(i.split(elements // 64), j.split(elements // 64), strict=True)
        ]
    )
    W = points.new_zeros(len(counts), len(counts))
    batches = list(_batches(counts[i], counts[j], schedule_length(diameter, eps), points.shape[1], elements))
    for batch, n, m in progress(batches):
        a, row = _padded(starts[i[batch]], counts[i[batch]], n)
        b, column = _padded(starts[j[batch]], counts[j[batch]], m)
        cost = squared_distances(points[row], points[column])
        W[i[batch], j[batch]] = sinkhorn(cost, diameter[batch], a.to(cost), b.to(cost), eps=eps)
    return W + W.T


def _boxes(points: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (C, d), (C, d) of the bounding box of each class."""
    parts = [points[a:b] for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False)]
    return torch.stack([p.amin(0) for p in parts]), torch.stack([p.amax(0) for p in parts])


def _grid(counts: Tensor) -> Tensor:
    """Sizes rounded up to 2, 3, 4, 6, 8, 12, 16, …: padding adds less than a half."""
    power = torch.exp2((counts.double() / 3).log2().ceil())  # 3 · 2^k and 4 · 2^k
    return torch.where(counts <= 2 * power, 2 * power, 3 * power).long().clamp(min=2)


def _batches(
    rows: Tensor, columns: Tensor, steps: Tensor, dim: int, elements: int
) -> Iterator[tuple[Tensor, int, int]]:
    """Problems of similar size and equal schedule: their numbers, and the size that they are padded to."""
    keys = torch.stack([_grid(rows), _grid(columns), steps], dim=1)
    kinds, which = keys.unique(dim=0, return_inverse=True)
    order, sizes = which.argsort(stable=True), which.bincount().tolist()
    for kind, (n, m, _) in zip(order.split(sizes), kinds.tolist(), strict=True):
        for batch in kind.split(max(1, elements // max(n * m, (n + m) * dim // 16))):
            yield batch, int(rows[batch].max()), int(columns[batch].max())


def _padded(starts: Tensor, counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Log weights (P, size), -inf for padding, and indices (P, size) of the vectors of P classes."""
    place = torch.arange(size, device=counts.device).expand(len(counts), size)
    weights = torch.where(place < counts[:, None], -counts.double().log()[:, None], -math.inf)
    return weights, starts[:, None] + torch.minimum(place, counts[:, None] - 1)


# -- distances of languages ---------------------------------------------------------------------


def distance_matrix(
    clouds: Sequence[Cloud],
    eps: float = EPS,
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = lambda items, _: items,
) -> Tensor:
    """OTDD between languages, (L, L), symmetric, 0 on the diagonal.

    Ground cost |x - x'|² / 2 + W[y, y'] / 2; Sinkhorn divergence with uniform weights. The printed value of the
    authors' code: no square root is taken.

    Args:
        clouds: of the languages.
        eps: ε of both problems.
        progress: (items, label) -> items, draws a bar.

    Source: Alvarez-Melis & Fusi 2020; the schedule and the bounding box are those of geomloss, which the authors use.
    """
    mean = torch.cat([c.points for c in clouds]).mean(0)
    W = label_distances(clouds, eps, lambda items: progress(items, "label distances"))
    ends = np.cumsum([len(c.classes) for c in clouds]).tolist()
    points = [c.points[c.outer] - mean for c in clouds]
    labels = [c.labels[c.outer] + end - len(c.classes) for c, end in zip(clouds, ends, strict=True)]

    def ground(k: int, other: int) -> Tensor:
        return (squared_distances(points[k], points[other]) + W[labels[k]][:, labels[other]])[None] / 2

    selves = [ground(k, k) for k in range(len(clouds))]
    found = W.new_zeros(len(clouds), len(clouds))
    pairs = [(k, other) for k in range(len(clouds)) for other in range(k + 1, len(clouds))]
    for k, other in progress(pairs, "distances"):
        diameter = _outer_diameter(clouds[k], clouds[other])
        own = selves[k], selves[other]
        found[k, other] = found[other, k] = sinkhorn(ground(k, other), diameter, own=own, eps=eps)[0]
    return found


def _outer_diameter(a: Cloud, b: Cloud) -> Tensor:
    """D (1,) of the outer problem. The number of the class counts as one more coordinate, as in the authors' code."""
    numbers = torch.cat([a.labels[a.outer], b.labels[b.outer] + len(a.classes)])
    both = torch.cat([torch.cat([a.points[a.outer], b.points[b.outer]]), numbers[:, None].to(a.points)], dim=1)
    return (both.amax(0) - both.amin(0)).norm()[None]


def otdd(a: Cloud, b: Cloud, eps: float = EPS) -> float:
    """Distance of two labelled sets; small but not 0 for equal ones, since distances of classes are not debiased.

    Example:
        >>> x, y = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
        >>> otdd(make_cloud(x, y), make_cloud(x + 1, y)) > otdd(make_cloud(x, y), make_cloud(x + 0.1, y)) > 0
        True
    """
    return float(distance_matrix([a, b], eps)[0, 1])
