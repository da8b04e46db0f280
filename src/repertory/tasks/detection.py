"""Detection: the loss of torchvision's detectors, and COCO's average precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from repertory.data.coco import CocoSet

Batch = tuple[list[Tensor], list[dict[str, Any]]]
"""Images and targets, see `repertory.data.coco.collate`."""


def detection_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Losses of a detector for `repertory.core.training.fit`: their sum as "loss", and each of them."""
    losses = model(*batch)
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


@torch.no_grad()
def average_precision(model: nn.Module, data: CocoSet, batches: Iterable[Batch]) -> dict[str, float]:
    """COCO's average precision in per cent: of boxes, and of masks ("mask_AP", ...) if `data` has masks.

    Args:
        model: one of torchvision's detectors.
        data: the ground truth; see `CocoSet.evaluate`.
        batches: all images of `data`, untransformed, on the device of the model.
    """
    model.eval()
    results: list[dict[str, Any]] = []
    for images, targets in batches:
        for target, output in zip(targets, model(images), strict=True):
            results += data.results(target["image_id"], output)
    scores = data.evaluate(results)
    if data.masks:
        scores |= {f"mask_{name}": value for name, value in data.evaluate(results, "segm").items()}
    return scores
