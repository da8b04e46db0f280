"""The arms, settings and scales of CMT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig


class CMTConfig(StudyConfig):
    """Network, training, data, evaluation, sample."""

    main_group: ClassVar[Group] = "model"
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers"}
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "pretrained", "pretrain_epochs", "epochs", "last_epochs", "batch_size", "lr", "peak_ratio", "weight_decay",
            "clip_norm", "workers", "turn", "scale", "shift", "flip", "smallest_zoom", "largest_zoom", "image_flip",
            "grid_mask", "paste", "balanced", "checkpointing",
        ),
        "evaluation": ("most",),
        "prediction": ("frame", "without", "least_score"),
        "data": ("version", "split_file", "sweeps", "classes"),
        "sample": (
            "train_scenes", "val_scenes", "scene_frames", "kinds", "fewest", "most_objects", "reach", "spread",
            "azimuths",
        ),
    }  # fmt: skip

    arch: Literal["tiny", "cmt_r50", "cmt_vov"] = Field(
        default="tiny",
        description="sizes of the network: the sample's, or the published ones with ResNet-50 or VoVNet-99",
    )
    lidar_backbone: Literal["pillar", "voxel"] = Field(
        default="pillar", description="network of the points; voxel, the published one, needs spconv"
    )
    queries: int | None = Field(default=None, ge=1, le=10_000, description="learned queries; empty: of the arch")
    grid_reference: bool = Field(
        default=False, description="reference points start on a jittered grid, not at random; the sample's"
    )

    pretrained: str = Field(
        default="",
        description="weights to start from: imagenet (a download, of the image network), the authors' file, or a model "
        "directory",
    )
    pretrain_epochs: int = Field(
        default=0, ge=0, le=1000, description="epochs of pre-training both trunks on heat-maps, shared by all arms"
    )
    epochs: int = Field(default=20, ge=1, le=1000, description="passes over the training data")
    last_epochs: int = Field(
        default=0, ge=0, le=1000, description="the last of these epochs are without ground-truth sampling"
    )
    batch_size: int = Field(default=2, ge=1, le=1024, description="key frames per process and step")
    lr: float = Field(default=1e-4, gt=0, le=1, description="learning rate at the start")
    peak_ratio: float = Field(default=6.0, ge=1, le=1000, description="highest learning rate relative to the first")
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="of AdamW; 5 times as much for the image network")
    clip_norm: float = Field(default=35.0, gt=0, le=1000, description="largest gradient norm")
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")
    turn: float = Field(default=0.0, ge=0, le=3.15, description="largest random rotation of the scene, radians")
    scale: float = Field(default=0.0, ge=0, lt=1, description="largest random relative change of scale")
    shift: float = Field(default=0.0, ge=0, le=10, description="random translation along each axis, metres (std)")
    flip: float = Field(default=0.0, ge=0, le=1, description="probability of mirroring the scene along x, and along y")
    smallest_zoom: float = Field(default=1.0, gt=0, le=10, description="random resizing of the images")
    largest_zoom: float = Field(default=1.0, gt=0, le=10, description="random resizing of the images")
    image_flip: float = Field(default=0.0, ge=0, le=1, description="probability of mirroring all images")
    grid_mask: float = Field(default=0.0, ge=0, le=1, description="probability of GridMask")
    paste: bool = Field(default=False, description="ground-truth sampling: paste objects of other frames")
    balanced: bool = Field(default=False, description="draw frames so that all classes are equally frequent (CBGS)")
    checkpointing: bool = Field(default=False, description="recompute the image network in the backward pass")

    most: int = Field(default=300, ge=1, le=500, description="boxes of a frame")

    frame: str = Field(default="", description="token of the key frame to predict; empty: the held-out ones")
    without: Literal["", "lidar", "camera"] = Field(default="", description="sensor that is dead in prediction")
    least_score: float = Field(default=0.2, ge=0, le=1, description="score from which on a box is drawn")

    version: str = Field(default="", description="v1.0-trainval, ...; empty: the first that is there")
    split_file: str = Field(
        default="", description='JSON with names of scenes, {"train": [...], "val": [...]}; empty: splits.json or none'
    )
    sweeps: int = Field(default=11, ge=1, le=100, description="LiDAR sweeps of a frame, the key frame's included")
    classes: tuple[str, ...] = Field(
        default=(), description="classes to detect; empty: those that the training frames have, in the official order"
    )

    train_scenes: int = Field(default=100, ge=1, le=1000, description="training scenes of the sample")
    val_scenes: int = Field(default=40, ge=1, le=1000, description="held-out scenes of the sample")
    scene_frames: int = Field(default=4, ge=1, le=40, description="key frames of a scene of the sample")
    kinds: tuple[Literal["car", "pedestrian", "traffic_cone"], ...] = Field(
        default=("car", "pedestrian"), min_length=1, description="classes of the sample"
    )
    fewest: int = Field(default=2, ge=1, le=20, description="fewest objects of a scene of the sample")
    most_objects: int = Field(default=4, ge=1, le=30, description="most objects of a scene of the sample")
    reach: float = Field(
        default=10.88, gt=3, le=40, description="metres around the vehicle's path within which the sample has objects"
    )
    spread: float = Field(default=0.0, ge=0, lt=0.5, description="relative half range of sizes in the sample")
    azimuths: int = Field(default=180, ge=16, le=3600, description="directions of a beam of the sample's LiDAR")


RECIPE: dict[str, Any] = {
    "epochs": 20, "last_epochs": 5, "batch_size": 4, "lr": 1.4e-4, "peak_ratio": 6.0, "turn": 0.785, "scale": 0.1,
    "shift": 0.5, "flip": 0.5, "smallest_zoom": 0.94, "largest_zoom": 1.25, "grid_mask": 0.7, "image_flip": 0.5,
    "paste": True, "balanced": True, "checkpointing": True, "workers": 8, "pretrained": "imagenet",
}  # fmt: skip
"""As published for ResNet-50, on 8 processes; but for the weights to start from, which are nuImages' there."""


SAMPLE: dict[str, Any] = {
    "lr": 5e-4, "peak_ratio": 4.0, "clip_norm": 5.0, "flip": 0.5, "sweeps": 2, "grid_reference": True,
}  # fmt: skip
"""For the sample's network, chosen on the arm `unmasked`."""


class CMTDesign(Design[CMTConfig]):
    """What is compared, and at which scales."""

    paper = "cmt"
    arms: ClassVar[Mapping[str, str]] = {
        "fusion": "cameras and LiDAR, masked-modal training: the paper's method",
        "unmasked": "cameras and LiDAR, always both in training",
        "lidar": "LiDAR alone",
        "camera": "cameras alone",
        "no_denoising": "cameras and LiDAR, always both, without query denoising",
    }
    method = "fusion"
    Config = CMTConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": CMTConfig(
            **SAMPLE, seeds=1, epochs=1, pretrain_epochs=1, batch_size=4, train_scenes=2, val_scenes=1,
            scene_frames=3, queries=20, azimuths=60,
        ),
        "laptop": CMTConfig(**SAMPLE, seeds=5, first_seed=100, epochs=12, pretrain_epochs=6, batch_size=8),
        "paper": CMTConfig(**RECIPE, seeds=1, arch="cmt_r50"),
        "vov": CMTConfig(**{**RECIPE, "lr": 1e-4, "peak_ratio": 8.0, "batch_size": 2}, seeds=1, arch="cmt_vov"),
    }  # fmt: skip
    own = CMTConfig(**RECIPE, arch="cmt_r50")
    own_batch = 32
