"""Preprocessing and class names of ImageNet-1K, under the keys of timm's `pretrained_cfg`."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo

IMAGENET: dict[str, Any] = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
}
"""Standard test preprocessing: resize the short side to 256 (bicubic), crop the central 224 x 224."""


def label_names(classes: int) -> dict[str, Any]:
    """Class names of a network trained on ImageNet-1K; empty unless `classes` is 1000.

    Example:
        >>> label_names(1000)["label_names"][0], label_names(10)
        ('n01440764', {})
    """
    if classes != 1000:
        return {}
    info = ImageNetInfo()
    return {"label_names": info.label_names(), "label_descriptions": info.label_descriptions(as_dict=True)}
