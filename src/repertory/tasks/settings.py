"""Settings that the papers of one job share. Like all settings, they import no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from repertory.core.problem import Problem
from repertory.core.settings import Group, Recipe


class ImageRecipe(Recipe):
    """How an image classifier is trained."""

    main_group: ClassVar[Group] = "training"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "model": ("image_size", "drop_path"),
        "sample": ("sample", "sample_labels"),
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
    sample_labels: int = Field(
        default=0,
        ge=0,
        description="training images per class drawn from the sample for each seed; 0: all. Ignored for your own data",
    )


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
