"""The arms, settings and scales of EMO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import ImageRecipe

MIN_SIZE = 32
"""Least height and width of an image: the last stage has stride 32."""


class EMOConfig(ImageRecipe):
    """Recipe and architecture."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "evaluation": ("speed_rounds",),
        "prediction": ("pixel_row", "pixel_column"),
    }

    arch: Literal["mini", "emo_1m", "emo_2m", "emo_5m", "emo_6m"] = Field(
        default="mini", description="size of the network"
    )
    image_size: int | None = Field(
        default=None, ge=MIN_SIZE, le=1024, description="height and width of the input; empty: 64 for mini, else 224"
    )
    window: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="side of an attention window, 0: the whole map; empty: 4 for mini, else 7",
    )
    mask_padding: bool = Field(
        default=False, description="mask padded pixels in attention (the authors' code does not)"
    )
    label_smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of the target spread over all classes")
    sample: Literal["digits", "photo-crops"] = Field(default="digits", description="sample data set to write")
    speed_rounds: int = Field(
        default=15, ge=0, description="rounds of the race against EdgeNeXt, a verdict needs 5; 0: no race"
    )
    pixel_row: float = Field(
        default=0.5, ge=0, le=1, description="row of the pixel whose attention is drawn: 0 top, 1 bottom"
    )
    pixel_column: float = Field(default=0.5, ge=0, le=1, description="column of that pixel: 0 left, 1 right")


class EMODesign(Design[EMOConfig]):
    """What is compared, and at which scales."""

    paper = "emo"
    arms: ClassVar[Mapping[str, str]] = {
        "neither": "no attention, and no depth-wise convolution where the stride is 1",
        "attn_only": "attention alone where the stride is 1",
        "dw_only": "depth-wise convolution alone: an inverted residual block",
        "both": "the paper's block",
        "contiguous": "the paper's block with windows as tiles in place of dilated grids",
    }
    method = "both"
    Config = EMOConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": EMOConfig(
            seeds=1, image_size=32, window=2, epochs=1, batch_size=25, lr=3e-3, sample_digits=5, sample_labels=5,
            speed_rounds=0,
        ),
        "laptop": EMOConfig(
            seeds=5, first_seed=100, epochs=40, batch_size=25, lr=3e-3, schedule="onecycle", weight_decay=0.05,
            sample_labels=5,
        ),
        "desk": EMOConfig(
            seeds=5, first_seed=100, real="cifar10-subset", epochs=12, batch_size=50, lr=3e-3, schedule="onecycle",
            weight_decay=0.05, crop_scale=0.5,
        ),
        # 8 processes of 256 images: batch 2048, lr 1.5e-3 per 512. Run with --devices 8 --precision 16-mixed.
        "paper": EMOConfig(
            seeds=1, arch="emo_1m", epochs=300, batch_size=256, lr=6e-3, weight_decay=0.05,
            schedule="cosine", warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-6, clip_norm=5.0, ema_decay=0.9998,
            crop_scale=0.08, auto_augment="rand-m9-mstd0.5-inc1", keep_best=True, eval_every=10, workers=8,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"]
    own_batch: ClassVar[int] = 2048
