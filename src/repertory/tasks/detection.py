"""What papers on backbones share in detection: the loss of torchvision's detectors, and COCO's scores of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from repertory.data.coco import CocoSet

Batch = tuple[list[Tensor], list[dict[str, Any]]]
"""Images and targets, see `repertory.data.coco.collate`."""


def detection_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """For `repertory.core.training.fit`: the sum of a detector's losses, and each of them."""
    losses = model(*batch)
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


@torch.no_grad()
def average_precision(model: nn.Module, data: CocoSet, batches: Iterable[Batch]) -> dict[str, float]:
    """COCO's average precision, in percent, of boxes, and, where `data` has masks, of masks ("mask_AP", ...).

    Args:
        model: one of torchvision's detectors.
        data: what is detected; see `CocoSet.evaluate`.
        batches: of all its images as they lie on disk, on the device of the model.
    """
    model.eval()
    results: list[dict[str, Any]] = []
    for images, targets in batches:
        for target, output in zip(targets, model(images), strict=True):
            results += data.results(target["image_id"], output)
    found = data.evaluate(results)
    if data.masks:
        found |= {f"mask_{name}": value for name, value in data.evaluate(results, "segm").items()}
    return found
