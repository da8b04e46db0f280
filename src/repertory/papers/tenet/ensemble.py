"""Six futures out of those of several networks: weighted K-means over endpoints, and the baseline by suppression.

The report names a K-means ensemble; the algorithm is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from repertory.core.arguments import check_choice
from repertory.core.problem import Problem
from repertory.papers.tenet.model import TENET

Floats = NDArray[np.float64]
Features = Literal["endpoint", "trajectory"]
MAX_ITERATIONS = 50
"""Of Lloyd's algorithm."""
EVERY = 10
"""Of a whole trajectory as features: every so many steps."""


class Fused(NamedTuple):
    """Trajectories (S, K, T, 2) and probabilities (S, K), most probable first."""

    trajectories: Floats
    probabilities: Floats


def kmeans_fuse(
    trajectories: Floats,
    probabilities: Floats,
    modes: int = 6,
    features: Features = "endpoint",
) -> Fused:
    """Cluster the pooled futures of each scenario, with their probabilities as weights.

    1. Centres: the most probable candidate, then repeatedly the one with the largest p · (distance to the nearest
       centre)².
    2. Lloyd's iterations with weights p until no assignment changes. A cluster that runs empty starts anew at the
       candidate that is farthest from its centre.
    3. A cluster's trajectory is the p-weighted mean of its members, its probability their share of all p.

    Where there are fewer distinct candidates than modes, the spare modes repeat the first with probability 0.

    Args:
        trajectories: (S, N, T, 2) candidates, N >= modes.
        probabilities: (S, N), of each network summing to 1, or not normalised.
        modes: K.
        features: what is clustered: the last point, or every tenth point.
    """
    x, p = _candidates(trajectories, probabilities, modes)
    points = x[:, :, -1] if features == "endpoint" else x[:, :, EVERY - 1 :: EVERY].reshape(*x.shape[:2], -1)
    rows = np.arange(len(x))
    centres = np.empty((len(x), modes, points.shape[-1]))
    centres[:, 0] = points[rows, p.argmax(1)]
    nearest = ((points - centres[:, :1]) ** 2).sum(-1)
    for k in range(1, modes):
        centres[:, k] = points[rows, (p * nearest).argmax(1)]
        nearest = np.minimum(nearest, ((points - centres[:, k : k + 1]) ** 2).sum(-1))

    owner = np.full(p.shape, -1)
    for _ in range(MAX_ITERATIONS):
        distance = ((points[:, :, None] - centres[:, None]) ** 2).sum(-1)  # (S, N, K)
        before, owner = owner, distance.argmin(-1)
        _refill(owner, distance, modes)
        if (owner == before).all():
            break
        member = _membership(owner, p, modes)
        total = member.sum(1)  # (S, K)
        means = np.einsum("snk,snf->skf", member, points) / np.maximum(total, 1e-300)[..., None]
        centres = np.where(total[..., None] > 0, means, centres)

    member = _membership(owner, p, modes)
    total = member.sum(1)
    fused = np.einsum("snk,sntc->sktc", member, x) / np.maximum(total, 1e-300)[..., None, None]
    order = (-total).argsort(1, kind="stable")
    fused, total = np.take_along_axis(fused, order[..., None, None], 1), np.take_along_axis(total, order, 1)
    fused = np.where(total[..., None, None] > 0, fused, fused[:, :1])
    return Fused(fused, total / total.sum(1, keepdims=True))


def _membership(owner: NDArray[np.int64], p: Floats, modes: int) -> Floats:
    """Weights (S, N, K): p of a candidate in the column of its cluster."""
    return np.eye(modes)[owner] * p[..., None]


def _refill(owner: NDArray[np.int64], distance: Floats, modes: int) -> None:
    """Give each empty cluster the candidate farthest from its own centre, of a cluster that keeps others; in place."""
    sizes = np.eye(modes, dtype=int)[owner].sum(1)  # (S, K)
    for s in np.flatnonzero((sizes == 0).any(1)):
        own = np.take_along_axis(distance[s], owner[s][:, None], 1)[:, 0]
        for k in np.flatnonzero(sizes[s] == 0):
            spare = np.where(sizes[s][owner[s]] > 1, own, 0.0)
            far = int(spare.argmax())
            if spare[far] == 0:  # the candidates coincide with their centres
                break
            sizes[s, owner[s, far]] -= 1
            sizes[s, k] += 1
            owner[s, far], own[far] = k, 0.0


def top_fuse(trajectories: Floats, probabilities: Floats, modes: int = 6, radius: float = 2.0) -> Fused:
    """The most probable futures whose endpoints are not within `radius` of a more probable one.

    Where too few are left, the most probable of the dropped ones follow. Probabilities are normalised.

    Args:
        trajectories: (S, N, T, 2), N >= modes.
        probabilities: (S, N).
        modes: K.
        radius: in metres.
    """
    x, p = _candidates(trajectories, probabilities, modes)
    order = (-p).argsort(1, kind="stable")
    ends = np.take_along_axis(x[:, :, -1], order[..., None], 1)
    close = np.linalg.norm(ends[:, :, None] - ends[:, None], axis=-1) <= radius  # (S, N, N)
    kept = np.ones(p.shape, dtype=bool)
    for n in range(1, p.shape[1]):
        kept[:, n] = ~(close[:, n, :n] & kept[:, :n]).any(1)
    chosen = np.take_along_axis(order, (~kept).argsort(1, kind="stable")[:, :modes], 1)
    p = np.take_along_axis(p, chosen, 1)
    return Fused(np.take_along_axis(x, chosen[..., None, None], 1), p / p.sum(1, keepdims=True))


def _candidates(trajectories: Floats, probabilities: Floats, modes: int) -> tuple[Floats, Floats]:
    x, p = np.asarray(trajectories, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if x.ndim != 4 or x.shape[:2] != p.shape or x.shape[1] < modes:
        what = f"trajectories {x.shape} and probabilities {p.shape} for {modes} modes"
        raise Problem(what, "ensemble", "give (S, N, T, 2) and (S, N) with N >= modes")
    if not ((p >= 0).all() and (p.sum(1) > 0).all()):
        raise Problem("probabilities that are negative, or all 0", "ensemble", "give shares")
    return x, p


class Ensemble(nn.Module, PyTorchModelHubMixin):
    """Several TENETs whose futures are fused.

    Args:
        members: constructor arguments of each.
        fusion: "kmeans" or "top".
        features: of K-means, see `kmeans_fuse`.
        radius: of suppression, see `top_fuse`.
    """

    def __init__(
        self,
        members: Sequence[Mapping[str, Any]],
        fusion: str = "kmeans",
        features: Features = "endpoint",
        radius: float = 2.0,
    ) -> None:
        check_choice("Ensemble", ("kmeans", "top"), fusion=fusion)
        check_choice("Ensemble", ("endpoint", "trajectory"), features=features)
        if not members:
            raise Problem("no members", "Ensemble", "give the arguments of at least one TENET")
        super().__init__()
        networks = [TENET(**member) for member in members]
        self.members = nn.ModuleList(networks)
        self.fusion, self.radius, self.modes = fusion, radius, networks[0].modes
        self.features: Features = features

    def candidates(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The futures of all members, (B, n K, T, 2) and (B, n K); probabilities sum to 1 for each member."""
        found = [member.forecast(batch) for member in cast("Iterable[TENET]", self.members)]
        return torch.cat([x for x, _ in found], 1), torch.cat([p for _, p in found], 1)

    def fuse(self, trajectories: Floats, probabilities: Floats) -> Fused:
        """Candidates -> K futures."""
        if self.fusion == "top":
            return top_fuse(trajectories, probabilities, self.modes, self.radius)
        return kmeans_fuse(trajectories, probabilities, self.modes, self.features)

    def forecast(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Trajectories (B, K, T, 2) and probabilities (B, K) of a batch of `scenes.collate`."""
        x, p = self.candidates(batch)
        fused = self.fuse(x.double().cpu().numpy(), p.double().cpu().numpy())
        return torch.from_numpy(fused.trajectories).to(x), torch.from_numpy(fused.probabilities).to(p)
