"""The arms, settings and scales of ECA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from repertory.core.problem import Problem
from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import ImageRecipe


class ECAConfig(ImageRecipe):
    """Recipe and architecture."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"evaluation": ("speed_rounds",)}

    arch: Literal[
        "mini",
        "eca_resnet18",
        "eca_resnet34",
        "eca_resnet50",
        "eca_resnet101",
        "eca_resnet152",
        "eca_mobilenet_v2",
    ] = Field(default="mini", description="network that the layers are added to")
    kernel_sizes: str | int | tuple[int, ...] = Field(
        default="",
        description="kernel of each stage in the arms eca and eca_ns, as 3,5,5,7 or 3557; one for all; or adaptive. "
        "Empty: those of the file in `pretrained`, otherwise the published ones of the architecture",
    )
    speed_rounds: int = Field(default=15, ge=0, description="rounds of the race of layers, 0: no race")

    @field_validator("kernel_sizes")
    @classmethod
    def _odd(cls, value: str | int | tuple[int, ...], info: Any) -> str | int | tuple[int, ...]:
        if value != "":
            # Here, since they import torch. No scale sets any kernels.
            import torch

            from repertory.papers.eca.layers import channel_attention
            from repertory.papers.eca.model import kernels_of_stages, network, stages_of

            with torch.device("meta"):
                stages = len(stages_of(network(info.data["arch"], attention="none")))
            try:
                for kernel in kernels_of_stages(value, stages):
                    channel_attention("eca", 2048, kernel_size=kernel)
            except Problem as problem:
                raise ValueError(problem.what) from problem
        return value


class ECADesign(Design[ECAConfig]):
    """What is compared, and at which scales."""

    paper = "eca"
    arms: ClassVar[Mapping[str, str]] = {
        "none": "no attention",
        "se": "squeeze and excitation: two layers with a narrow middle",
        "se_var1": "the mean of a channel is its weight, before the sigmoid; no parameters",
        "se_var2": "each channel by itself: a diagonal matrix",
        "se_var3": "every channel sees all: a full matrix",
        "se_gc1": "a matrix of 16 blocks",
        "se_gc2": "a matrix of blocks of 16 channels",
        "se_gc3": "a matrix of blocks of 8 channels",
        "cbam": "CBAM: channels as SE, from means and maxima, then positions",
        "eca_ns": "a band matrix: neighbours, with weights of each channel's own",
        "eca": "the paper's layer: a shared convolution along the channels",
        "eca_k9": "the paper's layer with a kernel of 9 everywhere",
    }
    method = "eca"
    Config = ECAConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": ECAConfig(
            seeds=1, image_size=16, sample="digits", sample_digits=5, sample_labels=5, epochs=1,
            batch_size=25, optimizer="momentum", lr=0.05, speed_rounds=0,
        ),
        "laptop": ECAConfig(
            seeds=5, first_seed=100, epochs=4, batch_size=20, optimizer="momentum", lr=0.05, schedule="onecycle",
            weight_decay=5e-4, crop_scale=0.5,
        ),
        "desk": ECAConfig(
            seeds=5, first_seed=100, real="cifar10-subset", epochs=20, batch_size=50, optimizer="momentum", lr=0.05,
            schedule="onecycle", weight_decay=5e-4, crop_scale=0.5,
        ),
        # On several processes divide batch_size among them.
        "paper": ECAConfig(
            seeds=1, arch="eca_resnet50", epochs=100, batch_size=256, optimizer="momentum", lr=0.1, weight_decay=1e-4,
            decay_all=True, schedule="step", decay_epochs=30, crop_scale=0.08, crop_interpolation="bilinear",
            keep_best=True, workers=8,
        ),
    }  # fmt: skip
    # The published recipe of MobileNetV2: 400 epochs, the rate times 0.98 after each.
    own: ClassVar[StudyConfig | None] = ECAConfig(
        seeds=1, arch="eca_mobilenet_v2", epochs=400, batch_size=96, optimizer="momentum", lr=0.045, weight_decay=4e-5,
        schedule="step", decay_epochs=1, decay_rate=0.98, crop_scale=0.08, crop_interpolation="bilinear",
        keep_best=True, workers=8,
    )  # fmt: skip
    own_batch: ClassVar[int] = 96
