"""The baselines' noise: random signs, synthetic patterns, error-minimising noise (Huang et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from repertory.core.loops import Loop
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import Batches, draws, loader

STEP = 0.1
"""Length of a descent step of error-minimising noise relative to eps, as in its authors' code (0.8 of 8)."""
GRID = 8
"""Rows and columns of patches in a synthetic pattern."""


def random_signs(count: int, size: int, eps: float, generator: torch.Generator) -> Tensor:
    """±eps for each pixel and channel: (count, 3, S, S)."""
    return eps * (2.0 * torch.randint(2, (count, 3, size, size), generator=generator) - 1)


def synthetic(count: int, size: int, eps: float, generator: torch.Generator) -> Tensor:
    """±eps for each patch of an 8 x 8 grid and each channel: linearly separable, (count, 3, S, S)."""
    patches = random_signs(count, GRID, eps, generator)
    return F.interpolate(patches, size=(size, size), mode="nearest")


class Numbered(Dataset[tuple[Tensor, int]]):
    """The images of a data set with their numbers in place of labels."""

    def __init__(self, images: Dataset[tuple[Any, int]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)  # pyright: ignore[reportArgumentType]

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return draws(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index][0], index


class Noise(nn.Module):
    """Perturbations that descent steps change, (M, 3, S, S)."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(count, 3, size, size), requires_grad=False)


def minimise_error(
    session: Session,
    network: nn.Module,
    images: Dataset[tuple[Any, int]],
    labels: Sequence[int],
    groups: Sequence[int],
    size: int,
    eps: float,
    recipe: Recipe,
    *,
    steps: int,
    threshold: float,
    rounds: int,
    batches: int,
) -> Tensor:
    """Error-minimising noise: min over θ and δ of CE(f_θ(x + δ), y), |δ| ≤ eps.

    A round trains the network on `batches` batches of perturbed images, then lowers the loss by signed gradient steps
    of the noise on all images. Rounds end when the trained network misclassifies few perturbed images.

    Args:
        session: of the trial.
        network: takes images in [0, 1]; trained in place.
        images: (image (3, S, S) in [0, 1], anything), without augmentation.
        labels: y of each image.
        groups: which perturbation each image has: its own, or that of its class.
        size: S.
        eps: bound, for images in [0, 1].
        recipe: of the network's training; its epochs do not count.
        steps: descent steps of a batch in a round.
        threshold: share of misclassified images that ends the rounds.
        rounds: most rounds.
        batches: training batches in a round.

    Returns:
        (M, 3, S, S).
    """
    fabric = session.fabric
    numbered = Numbered(images)
    y, group = fabric.to_device(torch.tensor(labels)), fabric.to_device(torch.tensor(groups))
    noise = Noise(int(group.max()) + 1, size)
    fabric.to_device(noise)  # in place, as the network
    fabric.to_device(network)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    training = Batches(session, numbered, recipe)
    loop = Loop(
        session, rounds, part="error-minimising", until=lambda: loop.extra.get("error", 1.0) <= threshold,
        network=network, noise=noise, optimizer=optimizer,
    )  # fmt: skip
    for round_ in loop:
        network.train()
        first = round_ * batches
        for step in range(first, first + batches):
            if step == first or step % len(training) == 0:
                stream = training.epoch(step // len(training), step % len(training))
            x, index = fabric.to_device(next(stream))  # pyright: ignore[reportPossiblyUnboundVariable]
            loss = F.cross_entropy(network((x + noise.table[group[index]]).clamp(0, 1)), y[index])
            loop.check(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        network.eval()
        wrong = 0
        for x, index in loader(session, numbered, recipe.batch_size, workers=recipe.workers, label="noise"):
            shared, place = group[index].unique(return_inverse=True)
            delta = noise.table[shared]
            for step in range(steps):
                delta.requires_grad_()
                logits = network((x + delta[place]).clamp(0, 1))
                if step == 0:  # what is left to learn with the noise that the network was trained on
                    wrong += int((logits.argmax(1) != y[index]).sum())
                (slope,) = torch.autograd.grad(F.cross_entropy(logits, y[index]), delta)
                delta = (delta.detach() - STEP * eps * slope.sign()).clamp(-eps, eps)
            noise.table[shared] = delta
        loop.extra["error"] = wrong / len(groups)
        loop.log(error=loop.extra["error"])
    return noise.table.detach().cpu()
