"""The networks, arms, settings and scales of L2W-DEN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from repertory.core.problem import suggest
from repertory.core.settings import Design, Group, StudyConfig

CIFAR: dict[str, Any] = {"stem": "cifar", "channels": 16, "growth": 6, "gr_factor": (1, 2, 4), "bn_factor": (1, 2, 4)}
IMAGENET: dict[str, Any] = {
    "stem": "imagenet", "channels": 32, "growth": 16, "gr_factor": (1, 2, 4, 4), "bn_factor": (1, 2, 4, 4),
}  # fmt: skip
RANET_CIFAR: dict[str, Any] = {
    "stem": "cifar", "n_blocks": 2, "block_step": 2, "step": 4, "step_mode": "even", "scale_list": (1, 2, 3),
    "gr_factor": (4, 2, 1), "bn_factor": (4, 2, 1), "channels": 16, "growth": 6,
}  # fmt: skip
RANET_IMAGENET: dict[str, Any] = {
    **RANET_CIFAR, "stem": "imagenet", "step": 8, "scale_list": (1, 2, 3, 4), "gr_factor": (4, 2, 2, 1),
    "bn_factor": (4, 2, 2, 1), "channels": 32, "growth": 16,
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "msdnet_mini": {
        **CIFAR, "n_exits": 4, "base": 1, "step": 1, "step_mode": "lin_grow", "channels": 8, "growth": 4,
    },
    "msdnet_cifar": {**CIFAR, "n_exits": 5, "base": 1, "step": 1, "step_mode": "lin_grow"},
    "msdnet_cifar_anytime": {**CIFAR, "n_exits": 7, "base": 4, "step": 2, "step_mode": "even"},
    "msdnet_imagenet_4": {**IMAGENET, "n_exits": 5, "base": 4, "step": 4, "step_mode": "even"},
    "msdnet_imagenet_6": {**IMAGENET, "n_exits": 5, "base": 6, "step": 6, "step_mode": "even"},
    "msdnet_imagenet_7": {**IMAGENET, "n_exits": 5, "base": 7, "step": 7, "step_mode": "even"},
    "ranet_mini": {**RANET_CIFAR, "n_blocks": 1, "block_step": 1, "step": 2, "channels": 8, "growth": 4},
    "ranet_cifar": RANET_CIFAR,
    "ranet_imagenet": RANET_IMAGENET,
    "ranet_imagenet_shell": {**RANET_IMAGENET, "gr_factor": (4, 2, 1, 1), "bn_factor": (4, 2, 1, 1)},
    "ranet_imagenet_wide": {**RANET_IMAGENET, "channels": 64},
}  # fmt: skip
"""Arguments of `MSDNet` and `RANet`. `_shell` and `_wide`: RANet's shell script, and the example in its source file."""

TIMM = "timm:"
"""Prefix of `arch` for a backbone of timm with a linear exit after each of its stages."""
INDICES = 39
"""Target proportions that the budgeted protocol goes through."""


class L2WConfig(StudyConfig):
    """Network, recipe, sample weighting and protocols."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "epochs", "batch_size", "lr", "momentum", "weight_decay", "label_smoothing", "augment", "workers",
            "weighting_input", "weighting_hidden", "weighting_layers", "meta_lr", "meta_weight_decay", "meta_interval",
            "epsilon", "constraint", "target_index",
        ),
        "evaluation": ("threshold_set", "timed_images"),
        "prediction": ("budget", "export"),
        "data": ("valid_share", "train_images", "imbalance"),
        "sample": ("sample_batch", "sample_test"),
    }  # fmt: skip
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers"}

    arch: str = Field(
        default="msdnet_mini",
        description=f"network: {', '.join(VARIANTS)}, or {TIMM}NAME for a backbone of timm with an exit per stage",
    )
    image_size: int | None = Field(
        default=None, ge=17, le=1024, description="height and width of the input; empty: 32 or 224, by the stem"
    )

    epochs: int = Field(default=300, ge=1, description="passes over the training data")
    batch_size: int = Field(
        default=1024, ge=4, multiple_of=2, description="images per process and batch; its halves swap roles"
    )
    lr: float = Field(default=0.8, gt=0, description="of SGD at the start; it follows a cosine down to 0")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(default=1e-4, ge=0, description="of SGD, applied to all parameters")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target spread over all classes")
    augment: Literal["none", "cifar", "imagenet"] = Field(
        default="cifar", description="none; pad by 1/8, crop and mirror; or random resized crop and mirror"
    )
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")

    weighting_input: Literal["loss", "conf", "both"] = Field(
        default="loss", description="what the weight prediction network sees of a sample at all exits"
    )
    weighting_hidden: int = Field(default=500, ge=1, description="its hidden units")
    weighting_layers: int = Field(default=1, ge=1, le=8, description="its hidden layers")
    meta_lr: float = Field(default=1e-4, gt=0, description="of its Adam at the start; it follows a cosine down to 0")
    meta_weight_decay: float = Field(default=1e-4, ge=0, description="of its Adam")
    meta_interval: int = Field(default=1, ge=1, description="batches between two of its updates")
    epsilon: float = Field(default=0.8, ge=0, lt=1, description="largest deviation of a weight from 1 is 2 epsilon")
    constraint: Literal["row", "col", "mat"] = Field(
        default="col", description="weights average 1 over the batch (row), over the exits (col), or over both (mat)"
    )
    target_index: int = Field(
        default=15, ge=1, le=INDICES, description="target share of exit k is proportional to (index / 20)^k"
    )

    valid_share: float = Field(default=0.1, gt=0, lt=0.9, description="share of the training images held out for val")
    train_images: int = Field(
        default=0, ge=0, description="images drawn for each seed from the training part, val included; 0: all"
    )
    imbalance: float = Field(
        default=1.0, ge=1, le=1000, description="images of the most frequent class per image of the rarest; 1: as given"
    )
    threshold_set: Literal["val", "train"] = Field(
        default="val", description="where exit thresholds are fitted; the authors use the augmented training images"
    )
    timed_images: int = Field(
        default=0, ge=0, description="test images on which the early-exiting model is timed, one by one; 0: none"
    )
    budget: float = Field(
        default=0.0, ge=0, description="average multiply-accumulates an image may cost; 0: every image takes all exits"
    )
    export: bool = Field(default=False, description="write the early-exiting model for one image as early_exit.pt2")
    sample_batch: int = Field(default=800, ge=20, le=10_000, description="images in each of the five training files")
    sample_test: int = Field(default=2000, ge=20, le=10_000, description="test images")

    @field_validator("arch")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in VARIANTS and not name.removeprefix(TIMM) != name:
            raise ValueError(f"no such network{suggest(name, VARIANTS, '; ')}")
        return name


class L2WDesign(Design[L2WConfig]):
    """What is compared, and at which scales."""

    paper = "l2w_den"
    arms: ClassVar[Mapping[str, str]] = {
        "uniform": "every sample weighs 1 at every exit: ordinary training",
        "l2w": "the weight prediction network, trained by the meta objective",
        "hand": "weights linear in the rank of the loss: easy samples at early exits, hard ones at late exits",
        "frozen": "a random weight prediction network that is never trained",
    }
    method = "l2w"
    Config = L2WConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": L2WConfig(
            seeds=1, arch="ranet_mini", image_size=20, epochs=1, batch_size=32, lr=0.05, meta_interval=2,
            train_images=160, valid_share=0.2, augment="none", sample_batch=60, sample_test=60,
        ),
        # The published rates are for batches of 1024: lr 0.8 for them is 0.05 for 64.
        "laptop": L2WConfig(
            seeds=5, first_seed=100, image_size=20, epochs=4, batch_size=64, lr=0.05, meta_interval=2,
            train_images=2000, valid_share=0.2, augment="none", timed_images=60,
        ),
        "paper": L2WConfig(seeds=1, arch="msdnet_cifar", workers=8),
        # 8 processes of 512 images: run with --devices 8 --precision 16-mixed.
        "imagenet": L2WConfig(
            seeds=1, arch="msdnet_imagenet_4", epochs=100, batch_size=512, augment="imagenet", meta_interval=100,
            epsilon=0.3, constraint="mat", valid_share=0.02, workers=8,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["imagenet"]
    own_batch: ClassVar[int] = 4096
