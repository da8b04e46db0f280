"""Settings that the papers of one job share. Like all settings, they import no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, field_validator

from repertory.core.problem import Problem
from repertory.core.settings import Group, Recipe, StudyConfig

C = TypeVar("C", bound=StudyConfig)
LEAST_BATCH, LEAST_STEPS = 16, 8
"""Samples of a batch, and steps of an epoch, that a scaled recipe does not go below where the data allow it."""


class ImageRecipe(Recipe):
    """How an image classifier is trained."""

    main_group: ClassVar[Group] = "training"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "model": ("image_size", "drop_path"),
        "sample": ("sample", "sample_digits", "sample_labels"),
    }

    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width of the input; empty: the default of the architecture"
    )
    train_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width in training with random crops; empty: image_size"
    )
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="drop-path rate; empty: the published rate of the size"
    )
    pretrained: str = Field(default="", description="weights to start from: the authors' file, or a model directory")
    keep_best: bool = Field(
        default=False,
        description="return the weights with the best accuracy on the held-out images, as many papers report",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all classes")
    crop_scale: float = Field(
        default=1.0, gt=0, le=1, description="smallest area of a random crop; 1: no crop, no augmentation"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring, with random crops only")
    crop_interpolation: Literal["random", "bilinear", "bicubic"] = Field(
        default="random", description="interpolation of random crops"
    )
    color_jitter: float = Field(default=0.0, ge=0, le=1, description="strength, with random crops only")
    auto_augment: str = Field(
        default="", description="timm's name of an automatic augmentation, with random crops only"
    )
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="probability of replacing a box by noise, with random crops only"
    )
    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup; 0: none")
    cutmix: float = Field(
        default=0.0, ge=0, description="alpha of CutMix; 0: none. With mixup too, each with probability 1/2"
    )
    sample: Literal["digits", "photo-crops"] = Field(default="photo-crops", description="sample data set to write")
    sample_digits: int = Field(
        default=50, ge=5, le=52, description="training images of each digit in the sample; for every 5, 8 are held out"
    )
    sample_labels: int = Field(
        default=0,
        ge=0,
        description="training images per class drawn from the sample for each seed; 0: all. Ignored for your own data",
    )


def fitted(
    config: C, published: StudyConfig, samples: int, world: int, batch: int, given: Collection[str], prefix: str = ""
) -> C:
    """A published recipe scaled to a data set.

    - batch_size: the largest power of two that leaves `LEAST_STEPS` steps an epoch, at most the published one.
    - lr: in proportion to the samples of a step for SGD, to their square root for Adam and its kin.
    - Lengths in epochs (warm-up, decays, between evaluations): in proportion to the number of epochs.
    - ema_decay: averages over a tenth of the training at most.
    - workers: one a core at most. threads: all cores.

    Args:
        config: the published recipe with the user's changes.
        published: the recipe as published.
        samples: in the training set.
        world: number of processes.
        batch: samples a step, over all processes, of the published recipe.
        given: fields that the user has set; they stay as they are.
        prefix: of the fields' names, for a second recipe in the same configuration ("pretrain_", by AdamW).
    """
    share = max(1, samples // world)
    longest = max(min(LEAST_BATCH, share), share // LEAST_STEPS)
    size = min(getattr(published, f"{prefix}batch_size"), 2 ** int(math.log2(longest)))
    fit: dict[str, Any] = {"batch_size": size}
    size = getattr(config, f"{prefix}batch_size") if f"{prefix}batch_size" in given else size
    linear = not prefix and getattr(config, "optimizer", "sgd") in ("sgd", "momentum", "nesterov", "nesterovw")
    fit["lr"] = getattr(published, f"{prefix}lr") * (size * world / batch) ** (1.0 if linear else 0.5)
    stretch = getattr(config, f"{prefix}epochs") / getattr(published, f"{prefix}epochs")
    for name in ("warmup_epochs", "decay_epochs"):
        fit[name] = getattr(published, f"{prefix}{name}", 0) * stretch
    fit["milestones"] = tuple(epoch * stretch for epoch in getattr(published, "milestones", ()))
    fit["eval_every"] = max(1, round(getattr(published, "eval_every", 1) * stretch))
    steps = getattr(config, f"{prefix}epochs") * max(1, share // size)
    fit["ema_decay"] = min(getattr(published, "ema_decay", 0.0), max(0.0, 1 - 10 / steps))
    fit = {f"{prefix}{name}": value for name, value in fit.items()}
    fit |= {"workers": min(getattr(published, "workers", 0), os.cpu_count() or 1), "threads": 0}
    known = type(config).model_fields
    return config.model_copy(update={k: v for k, v in fit.items() if k in known and k not in given})


class EventRecipe(Recipe):
    """How a classifier of event streams is trained, and how its data are read."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"data": ("sensor", "time_unit", "upright", "dvs_scale")}

    sensor: str = Field(default="", description="size of the sensor, WIDTHxHEIGHT; empty: by layout or header")
    time_unit: Literal["", "us", "ms", "s"] = Field(
        default="", description="of t in .npy, .npz and .h5 files; empty: us, and very small values are refused"
    )
    upright: bool = Field(
        default=False, description="turn .aedat recordings of a DVS128 upright, as is usual with CIFAR10-DVS"
    )
    dvs_scale: Literal[4, 8, 16] = Field(default=16, description="MNIST-DVS: size of the digits")

    @field_validator("sensor")
    @classmethod
    def _sensor_size(cls, text: str) -> str:
        if not text:
            return text
        from repertory.data.events import parse_size  # here: it needs NumPy

        try:
            parse_size(text)
        except Problem as problem:
            raise ValueError(f"{problem.what}; {problem.remedy}") from None
        return text
