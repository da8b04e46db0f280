"""Baselines in closed form: the focal road user keeps its velocity, or changes it in one of six usual ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from sklearn.cluster import KMeans
from torch import Tensor, nn

from repertory.data.argoverse import STEP
from repertory.papers.tenet.scenes import Scene

LEAST_SPEED = 1.0
"""m/s: slower road users are treated as if they moved so fast, in the division by their speed."""


class Velocities(nn.Module, PyTorchModelHubMixin):
    """Straight futures at constant speed, relative to the last velocity.

    Args:
        ways: (forward, left) of each future: its velocity as a multiple of the last one; (1, 0) keeps it.
        probabilities: of each, summing to 1.
        future: steps.

    Example:
        >>> Velocities().ways
        tensor([[1., 0.]])
    """

    def __init__(
        self,
        ways: Sequence[Sequence[float]] = ((1.0, 0.0),),
        probabilities: Sequence[float] = (1.0,),
        future: int = 60,
    ) -> None:
        super().__init__()
        self.modes = len(ways)
        self.future = future
        self.ways: Tensor
        self.probabilities: Tensor
        self.register_buffer("ways", torch.tensor(ways))
        self.register_buffer("probabilities", torch.tensor(probabilities))

    def forecast(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Trajectories (B, K, F, 2) and probabilities (B, K) of a batch of `scenes.collate`."""
        velocity = batch["history"][:, 0, -1, 3:]  # (B, 2)
        if self.modes > 1:
            velocity = _lengthened(velocity)
        side = torch.stack((-velocity[:, 1], velocity[:, 0]), -1)
        v = self.ways[:, :1] * velocity[:, None] + self.ways[:, 1:] * side[:, None]  # (B, K, 2)
        seconds = STEP * torch.arange(1, self.future + 1, device=v.device)
        return v[:, :, None] * seconds[:, None], self.probabilities.expand(len(v), -1)


def usual_velocities(scenes: Sequence[Scene], modes: int, future: int, seed: int) -> Velocities:
    """The velocities that training futures have on average, relative to the last ones: their K-means centres.

    Args:
        scenes: of training; those without the last future step do not count.
        modes: K.
        future: steps.
        seed: of K-means.
    """
    whole = [scene for scene in scenes if scene.known[-1]]
    last = _lengthened(torch.from_numpy(np.stack([scene.history[0, -1, 3:] for scene in whole]))).double().numpy()
    mean = np.stack([scene.future[-1] for scene in whole]) / (STEP * future)
    side = np.stack((-last[:, 1], last[:, 0]), -1)
    ways = np.stack(((mean * last).sum(1), (mean * side).sum(1)), -1) / (last**2).sum(1, keepdims=True)
    starts: Any = 10  # the stubs know "auto" alone
    found = KMeans(min(modes, len(ways)), n_init=starts, random_state=seed).fit(ways)
    shares = np.bincount(found.predict(ways), minlength=len(found.cluster_centers_)) / len(ways)
    return Velocities(found.cluster_centers_.tolist(), shares.tolist(), future)


def _lengthened(velocity: Tensor) -> Tensor:
    """Velocities (N, 2) of at least `LEAST_SPEED`; one of nearly 0 points along x, the heading."""
    speed = velocity.norm(dim=-1, keepdim=True)
    ahead = torch.tensor([1.0, 0.0], dtype=velocity.dtype, device=velocity.device)
    direction = torch.where(speed > 0.1, velocity / speed.clamp(min=1e-6), ahead)
    return direction * speed.clamp(min=LEAST_SPEED)
