"""The arms, settings and scales of the event augmentations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import EventRecipe

Representation = Literal["count_frames", "count", "frame", "voxel", "est"]
Kernel = Literal["learned", "triangle", "trilinear"]


class EventAugConfig(EventRecipe):
    """Recipe, reading, network and augmentations."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("pretrained", "mirror", "ratio", "distance", "shift", "area"),
        "sample": ("sample_train", "sample_test", "sample_strength"),
    }

    representation: Representation = Field(
        default="count_frames",
        description="input of the network: count_frames, count (0 or 1 per polarity), frame, voxel or est",
    )
    bins: int = Field(default=4, ge=1, le=200, description="number of time bins; count and frame have none")
    kernel: Kernel = Field(default="learned", description="kernel of est; trilinear: the released code's triangle")
    network: str = Field(default="cnn", description="cnn, snn, or a model name of timm, such as resnet34")
    plan: str = Field(
        default="vggsnn", description="layers of snn: vggsnn, lightweight, or for example 16C3-AP2-32C3-AP2"
    )
    side: int = Field(default=0, ge=0, le=1024, description="height and width of the network's input; 0: the sensor's")
    pretrained: str = Field(default="", description="file of weights to initialise the timm network with")
    mirror: bool = Field(default=False, description="mirroring keeps the class: true for objects, not for digits")
    ratio: float = Field(default=0.5, gt=0, le=1, description="share of a stream's events in a fragment")
    distance: float = Field(default=0.15, gt=0, le=1, description="largest drift, as a share of the sensor or duration")
    shift: int = Field(default=20, ge=0, description="largest shift of the geometric augmentation, in pixels")
    area: Literal["cross", "rectangle"] = Field(default="cross", description="shape of the area that EventDrop deletes")
    sample_train: int = Field(default=40, ge=1, le=120, description="training recordings per digit in the sample")
    sample_test: int = Field(
        default=30, ge=1, le=50, description="test recordings per digit and change of brightness in the sample"
    )
    sample_strength: float = Field(
        default=0.5, ge=0, le=2, description="strength of the brightness changes in the sample"
    )

    @field_validator("network")
    @classmethod
    def _network_exists(cls, name: str) -> str:
        if name not in ("cnn", "snn", "resnet34"):  # those of the scales
            import timm  # here, since it imports torch

            if not timm.is_model(name):
                raise ValueError("neither cnn, snn nor a model name of timm")
        return name


class EventAugDesign(Design[EventAugConfig]):
    """What is compared, and at which scales."""

    paper = "event_aug"
    arms: ClassVar[Mapping[str, str]] = {
        "none": "no augmentation",
        "geometric": "streams moved, and mirrored where classes allow it",
        "eventdrop": "events deleted by time, by area or at random",
        "reversal": "EventReversal alone",
        "drift": "EventDrift alone",
        "reversal+drift": "EventReversal, then EventDrift",
        "fragments": "both on fragments of the stream only (ESTF, the paper's third version)",
    }
    method = "reversal+drift"
    Config = EventAugConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": EventAugConfig(
            seeds=1, epochs=1, batch_size=8, optimizer="adam", shift=3, sample_train=4, sample_test=2
        ),
        # A shift of 3 pixels is to 34 what the usual 20 are to 240.
        "laptop": EventAugConfig(
            seeds=5, first_seed=100, epochs=30, batch_size=32, optimizer="adam", shift=3
        ),
        # The recipe of EST: https://arxiv.org/abs/1904.08245.
        "paper": EventAugConfig(
            seeds=5, representation="est", bins=9, network="resnet34", side=224, mirror=True, epochs=30, batch_size=4,
            optimizer="adam", lr=1e-4, schedule="step", decay_epochs=10, decay_rate=0.5, workers=8,
        ),
        # The recipe of TET: https://arxiv.org/abs/2202.11946.
        "snn": EventAugConfig(
            seeds=1, bins=10, network="snn", side=48, mirror=True, upright=True, epochs=300, batch_size=32,
            optimizer="adam", workers=8,
        ),
    }  # fmt: skip
