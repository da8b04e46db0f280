"""The arms, settings and scales of RevCol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import ImageRecipe

STRIDE = 32
"""Of level 3."""

PRETRAIN: dict[str, Any] = {
    "seeds": 1, "epochs": 300, "lr": 1e-3, "batch_size": 128, "weight_decay": 0.05, "schedule": "cosine",
    "warmup_epochs": 20, "warmup_lr": 1e-5, "min_lr": 1e-6, "ema_decay": 0.9999, "ema_returned": False,
    "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25, "color_jitter": 0.4, "crop_scale": 0.08, "crop_interpolation": "bicubic",
    "eval_every": 10, "workers": 8,
}  # fmt: skip
"""1024 images a step: 8 processes of 128, run with --devices 8 --precision 16-mixed."""


PRETRAIN_22K: dict[str, Any] = {
    **PRETRAIN, "epochs": 90, "lr": 1.25e-4, "weight_decay": 0.1, "warmup_epochs": 5, "min_lr": 1e-7, "clip_norm": 10.0,
    "ema_decay": 0.0,
}  # fmt: skip
"""ImageNet-22K in train/, ImageNet-1K's validation images in val/, both in folders named by wnid."""


FINETUNE: dict[str, Any] = {
    **PRETRAIN, "epochs": 30, "warmup_epochs": 0, "weight_decay": 1e-8, "min_lr": 2e-7, "clip_norm": 10.0,
    "color_jitter": 0.0, "mixup": 0.0, "cutmix": 0.0, "ema_decay": 0.0, "supervision": False, "head_init_scale": 0.001,
    "eval_every": 1,
}  # fmt: skip


class RevColConfig(ImageRecipe):
    """Recipe and architecture."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("reversible", "supervision", "reconstruction_weight", "label_weight", "head_init_scale"),
        "evaluation": ("speed_rounds",),
    }

    arch: Literal[
        "mini", "revcol_tiny", "revcol_small", "revcol_base", "revcol_large", "revcol_xlarge", "revcol_huge"
    ] = Field(default="mini", description="size of the network")
    image_size: int | None = Field(
        default=None,
        ge=STRIDE,
        le=1024,
        multiple_of=STRIDE,
        description="height and width of the input, a multiple of 32; empty: 32 for mini, else 224",
    )
    train_size: int | None = Field(
        default=None,
        ge=STRIDE,
        le=1024,
        multiple_of=STRIDE,
        description="height and width in training, with random crops; empty: image_size",
    )
    reversible: bool | None = Field(
        default=None, description="invert the columns instead of storing activations; empty: as the arm defines"
    )
    supervision: bool | None = Field(default=None, description="supervise intermediate columns; empty: by arm")
    reconstruction_weight: float = Field(
        default=3.0, ge=0, description="weight of the first reconstruction in the loss"
    )
    label_weight: float = Field(default=0.7, ge=0, description="weight of the intermediate labels in the loss")
    head_init_scale: float = Field(
        default=1.0, gt=0, description="factor of the classifier's initial weights; published: 0.001 in fine-tuning"
    )
    speed_rounds: int = Field(
        default=25, ge=0, description="rounds of the race against plain training, a verdict needs 5; 0: no race"
    )


class RevColDesign(Design[RevColConfig]):
    """What is compared, and at which scales."""

    paper = "revcol"
    arms: ClassVar[Mapping[str, str]] = {
        "one_column": "one column: a pyramid network of ConvNeXt blocks",
        "wide_column": "one column, widened to the multiply-accumulates of all",
        "plain": "all columns, trained as usual",
        "supervised": "all columns, those in between supervised",
        "reversible": "the paper's: all columns, supervised, in constant memory",
        "deeper": "twice as many columns, supervised, in constant memory",
    }
    method = "reversible"
    Config = RevColConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": RevColConfig(
            seeds=1, epochs=1, batch_size=25, lr=2e-3, sample="digits", sample_digits=5, speed_rounds=0
        ),
        "laptop": RevColConfig(
            seeds=5, first_seed=100, epochs=20, batch_size=10, lr=2e-3, schedule="onecycle", weight_decay=0.05,
            sample="digits", sample_labels=5,
        ),
        "desk": RevColConfig(
            seeds=5, first_seed=100, real="cifar10-subset", epochs=12, batch_size=50, lr=2e-3, schedule="onecycle",
            weight_decay=0.05, crop_scale=0.5,
        ),
        "paper": RevColConfig(arch="revcol_tiny", **PRETRAIN),
        "paper_small": RevColConfig(arch="revcol_small", **PRETRAIN),
        "paper_base": RevColConfig(
            arch="revcol_base", **{**PRETRAIN, "min_lr": 1e-8, "clip_norm": 5.0, "color_jitter": 0.0}
        ),
        "pretrain_base": RevColConfig(arch="revcol_base", **PRETRAIN_22K),
        "pretrain_large": RevColConfig(arch="revcol_large", **PRETRAIN_22K),
        "pretrain_xlarge": RevColConfig(arch="revcol_xlarge", **{**PRETRAIN_22K, "color_jitter": 0.0}),
        "finetune_base": RevColConfig(
            arch="revcol_base", drop_path=0.2, **{**FINETUNE, "lr": 1e-4, "layer_decay": 0.9}
        ),
        "finetune_base_384": RevColConfig(
            arch="revcol_base", image_size=384, drop_path=0.2, **{**FINETUNE, "lr": 1e-4, "layer_decay": 0.9}
        ),
        "finetune_large": RevColConfig(
            arch="revcol_large", **{**FINETUNE, "lr": 5e-5, "layer_decay": 0.8}
        ),
        "finetune_large_384": RevColConfig(
            arch="revcol_large", image_size=384, **{**FINETUNE, "lr": 5e-5, "layer_decay": 0.8}
        ),
        "finetune_xlarge_384": RevColConfig(
            arch="revcol_xlarge", image_size=384, **{**FINETUNE, "lr": 2e-5, "layer_decay": 0.8, "ema_decay": 0.9999}
        ),
        "finetune_huge_640": RevColConfig(
            arch="revcol_huge", image_size=640,
            **{**FINETUNE, "epochs": 20, "lr": 4e-5, "min_lr": 2e-8, "clip_norm": 100.0, "layer_decay": 0.8,
               "ema_decay": 0.9999},
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"]
    own_batch: ClassVar[int] = 1024
