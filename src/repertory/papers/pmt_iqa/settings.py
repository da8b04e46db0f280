"""The arms, settings and scales of PMT-IQA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, StudyConfig

Positive = Annotated[float, Field(ge=0, le=1000)]
Pixels = Annotated[int, Field(ge=8, le=8192)]


@dataclass(frozen=True)
class Arm:
    """What an arm fixes."""

    stages: tuple[int, ...]
    """Stages of the backbone whose features are used."""
    weights: Literal["progressive", "reversed", "static", "regression"]
    """How regression and classification are weighted over the epochs."""


ALL, LAST = (1, 2, 3, 4), (4,)
ARMS: Mapping[str, Arm] = {
    "single": Arm(LAST, "regression"),
    "multi": Arm(ALL, "regression"),
    "single_pmt": Arm(LAST, "progressive"),
    "static": Arm(ALL, "static"),
    "reversed": Arm(ALL, "reversed"),
    "pmt_iqa": Arm(ALL, "progressive"),
}


class PMTConfig(StudyConfig):
    """Network, recipe, crops, split and protocol."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "pretrained", "epochs", "batch_size", "patches", "lr", "weight_decay", "decay_every", "decay_rate",
            "restart_moments", "static_weights", "flip", "workers",
        ),
        "evaluation": ("protocol", "test_patches", "test_crops"),
        "prediction": ("shown",),
        "data": ("resize", "split_by", "allow_leak", "test_share", "score_low", "score_high", "better"),
        "sample": ("sample_photographs", "sample_versions", "sample_size"),
    }  # fmt: skip
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers", "shown"}

    arch: Literal["", "mini", "resnet18", "resnet34", "resnet50", "resnet101"] = Field(
        default="", description="backbone; empty: mini for the sample, resnet50, the published one, for your own data"
    )
    patch: int | None = Field(
        default=None, ge=16, le=1024, description="height and width of a patch; empty: 64 for mini, else 224"
    )
    scale_dim: int = Field(default=28, ge=1, le=1024, description="entries of the vector of each stage but the last")
    vector: int = Field(default=112, ge=4, le=8192, description="entries of the vectors of all stages")
    hidden: int = Field(default=112, ge=1, le=8192, description="width of the shared trunk")
    head: int = Field(default=14, ge=1, le=4096, description="outputs of the shared trunk")
    num_classes: int | None = Field(
        default=None, ge=2, le=1000, description="quality levels; empty: as many as the scale of the scores has"
    )
    score_unit: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="the L1 loss counts in multiples of it; empty: 0.1 for the sample, whose scores end at 1, else 1",
    )

    pretrained: str = Field(
        default="",
        description="weights of the backbone: a file, a model directory, timm:NAME, or none; empty: none for the "
        "sample, torchvision's of ImageNet (timm:resnet50.tv_in1k), as published, for your own data",
    )
    epochs: int = Field(default=20, ge=1, le=100_000, description="E: passes over the training images")
    batch_size: int | None = Field(
        default=None, ge=1, le=4096, description="images per process and step; empty: 16 for the sample, else 9"
    )
    patches: int | None = Field(
        default=None, ge=1, le=64, description="random patches of an image in a step; empty: 2 for the sample, else 4"
    )
    lr: float | None = Field(
        default=None, gt=0, le=10, description="learning rate of Adam; empty: 3e-4 for the sample, else 1e-4"
    )
    weight_decay: float = Field(default=5e-4, ge=0, le=10, description="L2, of all parameters")
    decay_every: int | None = Field(
        default=None,
        ge=0,
        le=100_000,
        description="epochs between two decays of lr, after the first epoch; 0: none; empty: 10 for the sample, else 6",
    )
    decay_rate: float = Field(default=0.1, gt=0, le=1, description="factor of a decay")
    restart_moments: bool | None = Field(
        default=None,
        description="forget Adam's moments after each epoch, as the authors' code does; empty: not for the sample",
    )
    static_weights: tuple[Positive, Positive] = Field(
        default=(1.0, 1.0), description="of regression and classification in the arm static"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring a patch in training")
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")

    protocol: Literal["last", "official"] = Field(
        default="last",
        description="weights that training returns: of the last epoch, or of the one with the best SRCC on the test "
        "part, as published (optimistic)",
    )
    test_patches: int = Field(default=4, ge=1, le=256, description="patches whose scores are averaged for an image")
    test_crops: Literal["spread", "random"] = Field(
        default="spread", description="where they lie: evenly over the image, or at random as published"
    )
    shown: int = Field(default=48, ge=2, le=400, description="images on a contact sheet; of more, the best and worst")

    resize: tuple[Pixels, Pixels] | None = Field(
        default=None,
        description="height and width that images get before patches are cut; empty: as published (BID 512 x 512, "
        "KonIQ-10k 512 x 384, others as they are)",
    )
    split_by: Literal["auto", "reference", "image"] = Field(
        default="auto", description="what is drawn for the test part; auto: references where there are any"
    )
    allow_leak: bool = Field(
        default=False, description="with split_by=image, split a database with references all the same"
    )
    test_share: float = Field(default=0.2, gt=0, lt=1, description="share of references or images that are tested")
    score_low: float | None = Field(
        default=None, ge=-1e9, le=1e9, description="lowest score of your own CSV; empty: the lowest found"
    )
    score_high: float | None = Field(
        default=None, ge=-1e9, le=1e9, description="highest score of your own CSV; empty: the highest found"
    )
    better: Literal["", "higher", "lower"] = Field(
        default="", description="scores of better images in your own CSV; empty: higher"
    )

    sample_photographs: int = Field(
        default=16, ge=1, le=16, description="photographs of the sample; a ninth of one is a reference"
    )
    sample_versions: int = Field(default=4, ge=1, le=30, description="distorted images of a reference in the sample")
    sample_size: int = Field(default=96, ge=32, le=128, description="height and width of the sample's images")

    @model_validator(mode="after")
    def _consistent(self) -> PMTConfig:
        if self.vector <= 3 * self.scale_dim:
            raise ValueError("vector must be above 3 times scale_dim: the last stage takes what is left")
        if sum(self.static_weights) == 0:
            raise ValueError("static_weights: one of the two must be above 0")
        if self.score_low is not None and self.score_high is not None and self.score_low >= self.score_high:
            raise ValueError("score_low must be below score_high")
        return self

    def completed(self, sample: bool) -> PMTConfig:
        """With what empty fields stand for: small values for the sample, the published ones for all other data."""
        defaults = SMALL if sample else PUBLISHED
        arch = self.arch or defaults["arch"]
        sizes = {"arch": arch, "patch": 64 if arch == "mini" else 224}
        weights = {"pretrained": "none" if sample or arch == "mini" else f"timm:{arch}.tv_in1k"}
        return self.model_copy(
            update={name: value for name, value in {**defaults, **sizes, **weights}.items()
                    if getattr(self, name) in (None, "")}
        )  # fmt: skip


SMALL: Mapping[str, Any] = {
    "arch": "mini", "score_unit": 0.1, "batch_size": 16, "patches": 2, "lr": 3e-4, "decay_every": 10,
    "restart_moments": False,
}  # fmt: skip
PUBLISHED: Mapping[str, Any] = {
    "arch": "resnet50", "score_unit": 1.0, "batch_size": 9, "patches": 4, "lr": 1e-4, "decay_every": 6,
    "restart_moments": True,
}  # fmt: skip
"""What empty fields of `PMTConfig` stand for."""


class PMTDesign(Design[PMTConfig]):
    """What is compared, and at which scales."""

    paper = "pmt_iqa"
    arms: ClassVar[Mapping[str, str]] = {
        "single": "plain ResNet: features of the last stage, regression alone",
        "multi": "features of all stages, regression alone",
        "single_pmt": "features of the last stage, from classification to regression",
        "static": "features of all stages, both tasks with constant weights",
        "reversed": "features of all stages, from regression to classification",
        "pmt_iqa": "the paper's method: features of all stages, from classification to regression",
    }
    method = "pmt_iqa"
    Config = PMTConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": PMTConfig(
            seeds=1, epochs=2, batch_size=8, patches=1, patch=32, test_patches=1, test_share=0.3,
            sample_photographs=2, sample_versions=2, sample_size=48,
        ),
        "laptop": PMTConfig(seeds=5, first_seed=100, test_share=0.25),
        # Any of the six databases; three rounds, of which the authors report the median.
        "paper": PMTConfig(
            **PUBLISHED, seeds=3, patch=224, pretrained="timm:resnet50.tv_in1k", test_crops="random", workers=4
        ),
    }  # fmt: skip
