"""The arms, settings and scales of CeCo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, Recipe, StudyConfig

SWIN = "swin_tiny_patch4_window7_224"


class CeCoConfig(Recipe):
    """Recipe, network, centre branch, augmentation, evaluation."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "pretrained", "avg_valid", "crop", "box", "smallest_ratio", "largest_ratio", "largest_share", "flip",
            "distort",
        ),
        "evaluation": ("image_size", "view_scales", "view_flip"),
        "data": ("classes", "zero_is_ignore", "scannet_ids"),
        "sample": ("sample", "sample_train", "sample_val", "sample_points"),
    }  # fmt: skip

    arch: str = Field(
        default="",
        description="network: mini, one of torchvision's deeplabv3_*, or an encoder of timm, which gets UPerNet's "
        "decoder; voxels for point clouds; empty: mini for the sample, else Swin-T",
    )
    channels: int = Field(default=512, ge=8, le=4096, description="channels of UPerNet's decoder")
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="drop-path rate of an encoder of timm; empty: its own default"
    )
    centre_weight: float | None = Field(
        default=None, ge=0, le=100, description="factor of the loss of the centres; empty: the arm's published one"
    )
    centre_scale: float | None = Field(
        default=None, gt=0, le=1000, description="factor of the centres' logits; empty: the arm's published one"
    )
    centre_smooth: float | None = Field(
        default=None, gt=0, le=1, description="target of the true class; empty: the arm's published one"
    )
    classifier: Literal["", "etf", "random", "learned"] = Field(
        default="", description="classifier of the centres; empty: the arm's"
    )
    project: Literal["", "frozen", "learned", "none"] = Field(
        default="", description="layers between features and centres' classifier; empty: the arm's"
    )
    prior: Literal["", "image", "pixel", "none"] = Field(
        default="",
        description="what adjusts the centres' logits: counts of images, of pixels, nothing; empty: the arm's",
    )

    voxel: float = Field(default=0.1, gt=0, le=10, description="side of a voxel in metres; point clouds only")
    grid: tuple[int, int, int] = Field(
        default=(48, 40, 28), description="voxels along x, y, z, multiples of 4; points outside go to the outermost"
    )

    pretrained: str = Field(
        default="",
        description="weights to start from: imagenet (a download), mmsegmentation's file, or a model directory",
    )
    avg_valid: bool = Field(
        default=False, description="average the pixels' loss over labelled pixels; as released, over all of them"
    )
    crop: int = Field(default=0, ge=0, le=4096, description="side of random crops in training; 0: whole images")
    box: tuple[int, int] = Field(
        default=(2048, 512), description="longer and shorter side that images are resized into before the random ratio"
    )
    smallest_ratio: float = Field(default=1.0, gt=0, le=10, description="random resizing in training, with crops only")
    largest_ratio: float = Field(default=1.0, gt=0, le=10, description="random resizing in training, with crops only")
    largest_share: float = Field(
        default=1.0, gt=0, le=1, description="share of a crop that a single class may fill, in ten tries"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring")
    distort: bool = Field(default=False, description="photometric distortion in training")

    image_size: int = Field(
        default=0, ge=0, le=4096, description="shorter side of the input in evaluation; 0: as the image is"
    )
    view_scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="factors of image_size whose probabilities are averaged"
    )
    view_flip: bool = Field(default=False, description="average mirrored views too")

    classes: int = Field(
        default=0, ge=0, le=254, description="number of classes; 0: from classes.txt or objectInfo150.txt, else 150"
    )
    zero_is_ignore: bool = Field(
        default=True, description="0 in annotations is unlabelled and 1 the first class; false: 0 is the first"
    )

    scannet_ids: str = Field(
        default="",
        description="the benchmark's class ids, one a line; empty: scannet200_ids.txt in the folder",
    )

    sample: Literal["ade_tiny", "scannet_tiny"] = Field(default="ade_tiny", description="sample data set to write")
    sample_train: int = Field(default=400, ge=2, le=20_000, description="training images or rooms of the sample")
    sample_val: int = Field(default=160, ge=2, le=20_000, description="held-out images or rooms of the sample")

    sample_points: int = Field(default=3000, ge=100, le=200_000, description="points of a room of the sample")

    def completed(self, sample: bool, points: bool) -> CeCoConfig:
        """With the network that an empty `arch` stands for: a small one for the sample, else Swin-T.

        Of other data than the sample, a recipe that fits replaces all fields that are as the laptop scale has them:
        the published one with Swin-T, that of the scale `points` with point clouds.

        Args:
            sample: the data are the sample.
            points: they are point clouds.
        """
        if sample or (self.arch and not points):
            return self.model_copy(update={"arch": self.arch or ("voxels" if points else "mini")})
        ours, recipe = CeCoDesign.scales["laptop"], POINTS if points else PUBLISHED
        return self.model_copy(update={k: v for k, v in recipe.items() if getattr(self, k) == getattr(ours, k)})


PUBLISHED: dict[str, Any] = {
    "arch": SWIN, "pretrained": "imagenet", "epochs": 127, "batch_size": 4, "lr": 6e-5, "weight_decay": 0.01,
    "schedule": "poly", "power": 1.0, "warmup_epochs": 1.19, "warmup_lr": 6e-11, "drop_path": 0.3, "crop": 512,
    "smallest_ratio": 0.5, "largest_ratio": 2.0, "largest_share": 0.75, "distort": True, "image_size": 512,
    "workers": 8, "eval_every": 10,
}  # fmt: skip
"""160,000 steps of 4 x 4 images of ADE20K: 127 epochs on 4 processes, 1500 of the steps as warm-up."""

POINTS: dict[str, Any] = {
    "arch": "voxels", "epochs": 40, "batch_size": 2, "optimizer": "momentum", "lr": 0.05, "weight_decay": 1e-4,
    "schedule": "poly", "eval_every": 10,
}  # fmt: skip
"""Ours: the authors' recipe for point clouds is not known."""

PAPER: dict[str, Any] = {**PUBLISHED, "seeds": 1}


class CeCoDesign(Design[CeCoConfig]):
    """What is compared, and at which scales."""

    paper = "ceco"
    arms: ClassVar[Mapping[str, str]] = {
        "ce": "the pixels' cross entropy alone",
        "rr": "region rebalance: centres, a random linear classifier without norm, targets of 0.5",
        "ceco": "the paper's branch: a fixed simplex ETF, frozen projection, prior of image counts",
        "learned_projection": "CeCo whose projection is trained",
        "no_prior": "CeCo without the prior",
    }
    method = "ceco"
    Config = CeCoConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": CeCoConfig(
            seeds=1, epochs=1, batch_size=4, lr=3e-3, arch="mini", sample_train=16, sample_val=4,
        ),
        "laptop": CeCoConfig(
            seeds=5, first_seed=100, epochs=15, batch_size=12, lr=3e-3, schedule="onecycle", eval_every=3,
        ),
        # Rooms in ScanNet's layout: --arms ce,ceco; --seeds 3 for more.
        "points": CeCoConfig(**POINTS, seeds=1, sample="scannet_tiny", sample_train=24, sample_val=8),
        # ADE20K, UPerNet with Swin-T: 4 processes.
        "paper": CeCoConfig(**PAPER),
        "swin-b": CeCoConfig(**{**PAPER, "arch": "swin_base_patch4_window12_384.ms_in22k", "centre_weight": 0.2}),
    }  # fmt: skip
