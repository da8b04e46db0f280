"""The arms, settings and scales of VGNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import ImageRecipe


class VGNetConfig(ImageRecipe):
    """Recipe and architecture."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"evaluation": ("shift_images", "speed_rounds")}

    arch: Literal[
        "mini",
        "vgnetg_1_0mp", "vgnetg_1_5mp", "vgnetg_2_0mp", "vgnetg_2_5mp", "vgnetg_5_0mp",
        "vgnetg_1_0mp_se", "vgnetg_1_5mp_se", "vgnetg_2_0mp_se", "vgnetg_2_5mp_se", "vgnetg_5_0mp_se",
        "vgnetc_1_0mp", "vgnetc_1_5mp", "vgnetc_2_0mp", "vgnetc_2_5mp", "vgnetc_5_0mp",
        "vgnete_1_5mp", "vgnetf_1_5mp",
    ] = Field(default="mini", description="network")  # fmt: skip
    style: Literal["", "paper", "release"] = Field(
        default="", description="details of the paper or of the released weights; empty: those of the network's weights"
    )
    kernels: Literal["", "learned", "learned_bn", "edge", "edge_gaussian", "identity"] = Field(
        default="", description="3x3 kernels of arm g; empty: those of the network"
    )
    thumbnail: bool | None = Field(
        default=None, description="for small images: stride 1 in stem and first stage; empty: with mini only"
    )
    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width of the input; empty: 32 with thumbnail, else 224"
    )
    shift_images: int = Field(default=0, ge=0, description="held-out images in the shift test; 0: all")
    speed_rounds: int = Field(
        default=15, ge=0, description="rounds of the race against MobileNetV2, a verdict needs 5; 0: no race"
    )


class VGNetDesign(Design[VGNetConfig]):
    """What is compared, and at which scales."""

    paper = "vgnet"
    arms: ClassVar[Mapping[str, str]] = {
        "g": "VGNetG: downsampling after a fixed Gaussian, learned kernels",
        "c": "VGNetC: downsampling by a learned depth-wise convolution",
        "maxpool": "downsampling by max-pooling",
        "f_edge": "VGNetF: all kernels are fixed edge detectors",
        "f_edge_gaussian": "VGNetF: fixed edge detectors and Gaussians",
        "learned_bn": "VGNetG with a batch norm after each learned kernel, as in VGNetF",
        "identity": "no kernels at all: only downsampling mixes pixels",
        "mobilenetv2": "inverted residual blocks, with as many parameters",
    }
    method = "g"
    Config = VGNetConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": VGNetConfig(
            seeds=1, epochs=1, batch_size=25, optimizer="momentum", lr=0.1, weight_decay=5e-4, sample="digits",
            sample_digits=5, sample_labels=5, image_size=16, shift_images=50, speed_rounds=0,
        ),
        "laptop": VGNetConfig(
            seeds=5, first_seed=100, epochs=4, batch_size=40, optimizer="momentum", lr=0.1, weight_decay=5e-4,
            schedule="onecycle", crop_scale=0.5, shift_images=450,
        ),
        "desk": VGNetConfig(
            seeds=5, first_seed=100, real="cifar10-subset", epochs=12, batch_size=40, optimizer="momentum", lr=0.1,
            weight_decay=5e-4, schedule="onecycle", crop_scale=0.5,
        ),
        # The 100 epochs of the paper's time, on 8 processes of 64 images. Run with --devices 8 --precision 16-mixed.
        # The size at which the paper compares kernels; those of 1.0MP do not divide by 8, as edge_gaussian needs.
        "paper": VGNetConfig(
            seeds=1, arch="vgnetg_1_5mp", style="paper", epochs=100, batch_size=64, optimizer="momentum", lr=0.2,
            weight_decay=1e-4, schedule="cosine", warmup_epochs=5, min_lr=1e-6, label_smoothing=0.1, crop_scale=0.08,
            crop_interpolation="bilinear", eval_every=10, workers=8,
        ),
        # The scripts of the time of the released weights, on 8 processes of 64 images.
        "release": VGNetConfig(
            seeds=1, arch="vgnetg_1_0mp", epochs=300, batch_size=64, optimizer="momentum", lr=0.2, weight_decay=1e-5,
            schedule="cosine", warmup_epochs=5, min_lr=1e-6, label_smoothing=0.1, train_size=192, crop_scale=0.08,
            crop_interpolation="bilinear", auto_augment="rand-m9-mstd0.5", color_jitter=0.4, random_erasing=0.25,
            mixup=0.8, cutmix=1.0, ema_decay=0.9999, eval_every=10, workers=8,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["release"]
    own_batch: ClassVar[int] = 512
