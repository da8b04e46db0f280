"""Speed of a training step and of cutting patches.

    python benchmarks/pmt_iqa.py

- step: two patches of 224 pixels, forward, backward, Adam; ours has the branches, the trunk, both heads and the
  multi-task loss. Peer: the same ResNet of timm, with 10 classes and cross entropy.
- loading: four patches of a photograph as large as KonIQ-10k's, decoded once. Peer: decoded for each patch, as the
  authors' readers do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.bench import Race, bench, scratch
from repertory.data.images import read_image
from repertory.papers.pmt_iqa import PMTIQA, multi_task_loss
from repertory.papers.pmt_iqa.patches import corners_of, cut, prepared

SIZE, LEVELS, BATCH = 224, 10, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = (1024, 768)
"""Width and height."""


def stepping(model: nn.Module, loss: Callable[[Any], Tensor], x: Tensor) -> Callable[[], None]:
    """A training step."""
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-4, weight_decay=5e-4)

    def step() -> None:
        loss(model(x)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step(backbone: str) -> Race:
    x, scores = torch.randn(BATCH, 3, SIZE, SIZE), torch.rand(BATCH) * 100
    levels = (scores / LEVELS).long()
    ours = stepping(
        PMTIQA(backbone, LEVELS), lambda quality: multi_task_loss(quality, scores, levels, (0.5, 0.5))["loss"], x
    )
    theirs = timm.create_model(backbone, num_classes=LEVELS)
    peers = {f"timm {backbone}": stepping(theirs, lambda logits: F.cross_entropy(logits, levels), x)}
    return Race(ours, peers, goal=0.9, facts={"batch": BATCH})


def loading(patches: int = 4) -> Race:
    width, height = PHOTOGRAPH
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    path = scratch() / "photograph.jpg"
    Image.fromarray(pixels).resize(PHOTOGRAPH).save(path, quality=90)

    def patches_of(count: int) -> Tensor:
        image = prepared(read_image(path), SIZE)
        return cut(image, corners_of(image, SIZE, count, "random"), SIZE, MEAN, STD)

    return Race(
        lambda: patches_of(patches),
        {"decoded for each patch": lambda: [patches_of(1) for _ in range(patches)]},
        goal=3,
        facts={"patches": patches},
    )


if __name__ == "__main__":
    steps = {f"step, {backbone}": partial(step, backbone) for backbone in ("resnet18", "resnet50")}
    bench(__doc__, {**steps, "loading": loading})
