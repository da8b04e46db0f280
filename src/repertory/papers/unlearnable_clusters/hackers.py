"""Hackers: networks that somebody else trains on the protected images, with labels of his own or with none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import fit, loader
from repertory.papers.unlearnable_clusters.networks import HALF, Normalised

TEMPERATURE = 0.5
"""Of SimCLR's loss."""


def train_hacker(
    session: Session, name: str, classes: int, images: Dataset[tuple[Any, int]], recipe: Recipe, part: str
) -> Normalised:
    """A classifier from scratch; its start and the order of the images depend on the seed and the name alone.

    Args:
        session: of the trial.
        name: of the network.
        classes: of the hacker's labels.
        images: augmented, in [0, 1], with the hacker's labels.
        recipe: of the training.
        part: name of the loop.
    """
    session.reseed("hacker", name, classes)
    network = Normalised(name, classes, HALF, HALF)
    return fit(
        session, network, images, recipe, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), part=part
    )


class SimCLR(nn.Module):
    """An encoder with the projection head of contrastive learning: images (B, 3, H, W) -> (B, 128), of unit length."""

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 128))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(x)))


def contrastive_loss(one: Tensor, other: Tensor) -> Tensor:
    """NT-Xent of two views (B, D) of unit length (Chen et al., ICML 2020, equation 1).

    Each view is told apart from the 2 B - 2 views of other images.

    Example:
        >>> round(float(contrastive_loss(torch.eye(2), torch.eye(2))), 4)
        0.2395
    """
    views = torch.cat([one, other])  # (2 B, D)
    similarity = views @ views.T / TEMPERATURE
    similarity.fill_diagonal_(float("-inf"))
    partner = torch.arange(len(views), device=views.device).roll(len(one))
    return F.cross_entropy(similarity, partner)


def train_simclr(
    session: Session, name: str, images: Dataset[tuple[Any, int]], size: int, recipe: Recipe, part: str
) -> nn.Module:
    """An encoder trained without labels.

    Args:
        session: of the trial.
        name: of the network.
        images: ((view, view), anything).
        size: of the views.
        recipe: of the training.
        part: name of the loop.
    """
    session.reseed(part)
    encoder = Normalised(name, 0, HALF, HALF)
    with torch.no_grad():
        features = encoder.eval()(torch.zeros(1, 3, size, size)).shape[1]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        (one, other), _ = batch
        return contrastive_loss(*model(torch.cat([one, other])).chunk(2))

    return cast(SimCLR, fit(session, SimCLR(encoder.train(), features), images, recipe, loss, part=part)).encoder


def features_of(
    session: Session, network: Callable[[Tensor], Tensor], images: Dataset[tuple[Any, int]], recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Outputs (N, D) of a network for all images, and their labels (N,)."""
    with torch.no_grad():
        parts = [
            (network(x).cpu(), y.cpu())
            for x, y in loader(session, images, recipe.batch_size, workers=recipe.workers, label="features")
        ]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def probe_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Test accuracy in per cent of a linear classifier of features: (N, D) and labels (N,)."""
    if len(train[1].unique()) == 1:  # a dry run sees few images
        return 100 * float((test[1] == train[1][0]).float().mean())
    probe = LogisticRegression(max_iter=200).fit(train[0].numpy(), train[1].numpy())
    return 100 * float(probe.score(test[0].numpy(), test[1].numpy()))
