"""The arms, settings and scales of TCP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig


class TCPConfig(Recipe):
    """Recipe, network, sampling of clips, test protocol."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("head_lr", "pretrained", "keep_best", "partial_bn", "drop_rate", "crop", "flip"),
        "evaluation": ("clips", "crops", "fusion", "speed_rounds"),
        "prediction": ("place_row", "place_column"),
        "data": ("image_pattern", "sampling"),
        "sample": ("sample_motions", "sample_pool", "sample_train", "sample_val"),
    }

    arch: str = Field(
        default="",
        description="backbone: mini, a model name of timm, r3d_18, mc3_18 or r2plus1d_18; empty: mini for the sample, "
        "resnet50 for your own data",
    )
    temporal: Literal["none", "shift", "tea"] = Field(
        default="none", description="added to a 2-D backbone: TSM's shift, or TEA (with arch=res2net50_26w_4s)"
    )
    frames: int = Field(default=8, ge=1, le=256, description="frames of a clip")
    image_size: int | None = Field(
        default=None, ge=32, le=1024, description="height and width of the input; empty: 64 for mini, else 224"
    )
    last_stride: Literal[1, 2] = Field(default=1, description="stride of the last stage of the backbone")
    input_bn: bool = Field(default=False, description="batch norm on the pixels in place of a fixed normalisation")
    dim: int | None = Field(
        default=None, ge=2, le=1024, description="channels of the covariance; empty: 32 for mini, else 128"
    )
    dim_inner: int | None = Field(
        default=None,
        ge=2,
        le=4096,
        description="channels between the convolutions of the reduction; empty: 64 for mini, else 256",
    )
    iterations: int = Field(default=3, ge=1, le=20, description="Newton-Schulz steps of the square root")
    level: Literal["video", "frame"] = Field(
        default="video", description="one covariance of a video, or one of each frame with logits averaged"
    )

    head_lr: float = Field(default=1.0, gt=0, description="learning rate of pooling and classifier, relative to lr")
    pretrained: str = Field(
        default="", description="weights to start from: of an image network, the authors' file, or a model directory"
    )
    keep_best: bool = Field(
        default=False, description="return the weights with the best accuracy on the held-out videos, as published"
    )
    partial_bn: bool = Field(default=False, description="keep the statistics of all batch norms but the first")
    drop_rate: float = Field(default=0.5, ge=0, lt=1, description="dropout before the classifier")
    crop: bool = Field(default=True, description="random crops at four scales in training")
    flip: float = Field(
        default=0.0, ge=0, le=1, description="probability of mirroring a clip; 0 where left and right differ"
    )

    clips: Literal[1, 10] = Field(default=1, description="clips of a video in the test with several views")
    crops: Literal[1, 3] = Field(default=1, description="crops of a clip in the test with several views")
    fusion: Literal["max", "mean"] = Field(
        default="max", description="probability of a class over views; the authors' code takes the largest"
    )
    speed_rounds: int = Field(default=0, ge=0, description="rounds of the race against a centring matrix; 0: no race")

    place_row: float = Field(default=0.5, ge=0, le=1, description="place whose attention is drawn: 0 top, 1 bottom")
    place_column: float = Field(default=0.5, ge=0, le=1, description="place whose attention is drawn: 0 left, 1 right")

    image_pattern: str = Field(
        default="", description="names of frames, such as img_{:05d}.jpg; empty: found from the names"
    )
    sampling: Literal["segments", "dense"] = Field(
        default="segments", description="frames of a clip: one of each segment of the video, or a window of 64 frames"
    )

    sample_motions: Literal[2, 4, 6, 8] = Field(
        default=4, description="classes of the sample that are motions, in pairs of opposites; four are textures"
    )
    sample_pool: int = Field(default=45, ge=1, le=500, description="training videos of each class in the sample")
    sample_train: int = Field(
        default=30, ge=0, description="of them, how many each seed draws; 0: all. Ignored for your own data"
    )
    sample_val: int = Field(default=30, ge=1, le=500, description="held-out videos of each class in the sample")

    @field_validator("image_pattern")
    @classmethod
    def _numbered(cls, pattern: str) -> str:
        try:
            if pattern and pattern.format(1) == pattern.format(2):
                raise ValueError
        except (ValueError, IndexError, KeyError):
            raise ValueError("write the number as {:05d}, once") from None
        return pattern

    def completed(self, sample: bool) -> TCPConfig:
        """With the architecture that empty fields stand for: a small one for the sample, else the published one."""
        arch = self.arch or ("mini" if sample else "resnet50")
        sizes = {"image_size": 64, "dim": 32, "dim_inner": 64} if arch == "mini" else PUBLISHED_SIZES
        return self.model_copy(update={"arch": arch} | {k: v for k, v in sizes.items() if getattr(self, k) is None})


PUBLISHED_SIZES = {"image_size": 224, "dim": 128, "dim_inner": 256}
PUBLISHED: dict[str, Any] = {
    "seeds": 1, "optimizer": "momentum", "weight_decay": 1e-4, "clip_norm": 20.0, "schedule": "step", "flip": 0.5,
    "clips": 10, "crops": 3, "keep_best": True, "workers": 8,
}  # fmt: skip
"""What the published recipes share. Their batches were spread over 8 GPUs or so: --devices 8."""


class TCPDesign(Design[TCPConfig]):
    """What is compared, and at which scales."""

    paper = "tcp"
    arms: ClassVar[Mapping[str, str]] = {
        "gap": "TSN: global average pooling, logits averaged over frames",
        "covariance": "the covariance of a video, without attention and without square root",
        "gcp": "plain covariance pooling: with square root, without attention",
        "no_tsa": "TCP without temporal spatial attention",
        "no_tca": "TCP without temporal channel attention",
        "no_conv": "TCP without the convolution over time",
        "tcp": "the paper's pooling",
        "tsm_gap": "TSM: global average pooling on a backbone with temporal shifts",
        "tsm_tcp": "the paper's pooling on a backbone with temporal shifts",
    }
    method = "tcp"
    Config = TCPConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": TCPConfig(
            seeds=1, epochs=1, batch_size=8, optimizer="momentum", lr=0.02, arch="mini", frames=4, image_size=32, dim=8,
            dim_inner=16, sample_pool=2, sample_train=0, sample_val=1,
        ),
        "laptop": TCPConfig(
            seeds=5, first_seed=100, epochs=15, batch_size=16, lr=3e-3, weight_decay=0.01, schedule="onecycle",
            clip_norm=20.0, drop_rate=0.0, crop=False, speed_rounds=15,
        ),
        # Kinetics-400, TSN with ResNet-50, 8 frames: batch 96 on 8 processes.
        "paper": TCPConfig(
            **PUBLISHED, arch="resnet50", epochs=50, milestones=(20, 40), batch_size=12, lr=0.015, head_lr=5.0,
        ),
        "k400-16f": TCPConfig(
            **PUBLISHED, arch="resnet50", frames=16, epochs=50, milestones=(20, 40), batch_size=12, lr=0.00375,
            head_lr=5.0,
        ),
        "k400-tea": TCPConfig(
            **PUBLISHED, arch="res2net50_26w_4s", temporal="tea", epochs=40, milestones=(20, 30), batch_size=4,
            lr=0.01, head_lr=10.0,
        ),
        # Batch 52 on 4 processes.
        "k400-r152": TCPConfig(
            **{**PUBLISHED, "clip_norm": 60.0}, arch="resnetv2_152", input_bn=True, epochs=40, milestones=(20, 30),
            batch_size=13, lr=0.0008125, head_lr=50.0,
        ),
        "mini-kinetics": TCPConfig(
            **PUBLISHED, arch="resnet50", epochs=40, milestones=(20, 30), batch_size=12, lr=0.015, head_lr=5.0,
        ),
        # From a network trained on Kinetics-400: --set pretrained=…; batch 52 on 4 processes.
        "hmdb51": TCPConfig(
            **{**PUBLISHED, "weight_decay": 5e-4}, arch="resnet50", epochs=15, milestones=(5, 10), batch_size=13,
            lr=0.001, head_lr=5.0, drop_rate=0.8, partial_bn=True,
        ),
    }  # fmt: skip
