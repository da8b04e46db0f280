"""The arms, settings and scales of RefT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig


class Arm(NamedTuple):
    """What an arm differs in."""

    protocol: Literal["fsis", "gfsis", "ifsis"] = "fsis"
    """Fine-tuned on shots of novel classes; of base and novel ones; of novel ones, without touching base weights."""
    mdw: bool = False
    loq: bool = False
    cosine: bool = False
    tuned: Literal["all", "references", "rows"] = "all"
    """Parameters of the fine-tuning: all; input projections, references and novel rows; novel rows alone."""
    distilled: bool = False


ARMS: Mapping[str, Arm] = {
    "ft_full": Arm(),
    "mdw": Arm(mdw=True),
    "loq": Arm(loq=True),
    "reft": Arm(mdw=True, loq=True),
    "ft_full_gfsis": Arm("gfsis"),
    "reft_gfsis": Arm("gfsis", mdw=True, loq=True),
    "ifsis_rows": Arm("ifsis", mdw=True, loq=True, cosine=True, tuned="rows"),
    "ifsis_no_distillation": Arm("ifsis", mdw=True, loq=True, cosine=True, tuned="references"),
    "reft_ifsis": Arm("ifsis", mdw=True, loq=True, cosine=True, tuned="references", distilled=True),
}


class RefTConfig(StudyConfig):
    """Network, episodes, training, data, sample."""

    main_group: ClassVar[Group] = "model"
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers"}
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "pretrained", "pretrain_steps", "dense_steps", "pretrain_batch", "pretrain_lr", "crop_size", "base_epochs",
            "epochs",
            "tune_steps_a_shot", "batch_size", "lr", "tune_lr", "backbone_rate", "weight_decay", "clip_norm",
            "schedule", "smallest_scale", "largest_scale", "flip", "distillation", "workers",
        ),
        "evaluation": ("most",),
        "prediction": ("support", "least_score", "attention"),
        "data": ("shots", "novel", "base_json", "shots_json", "boxes_as_masks"),
        "sample": ("sample_train", "sample_val", "sample_shots"),
    }  # fmt: skip

    variant: Literal["tiny", "r50", "r101", "swin_t", "swin_s", "swin_b"] = Field(
        default="tiny", description="size of the base detector: the sample's, or a published image network"
    )
    image_size: int = Field(
        default=48, ge=32, le=4096, description="side of the square input; the longer side fills it"
    )
    support_size: int = Field(default=48, ge=32, le=4096, description="side of the supports")
    top_k: int = Field(default=3, ge=1, le=100, description="k: linked queries of a support")
    ffn: int = Field(default=1024, ge=1, le=16_384, description="width of the feed-forward network of the linking")
    gamma: float = Field(default=1.0, gt=0, le=100, description="γ: factor of the re-weighting of features")
    ways: int = Field(
        default=8, ge=1, le=1000, description="C_e: classes of an episode, those of its images and random others"
    )
    support_shots: int = Field(
        default=3, ge=1, le=100, description="supports of a class in an episode, from 1 to this number"
    )

    pretrained: str = Field(
        default="",
        description="weights to start from: a folder of Hugging Face with an image network (ResNet, Swin) or "
        "Mask2Former; for figures of novel classes never one that has seen them",
    )
    pretrain_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="steps of pre-training the image network on crops of base objects; none with `pretrained`",
    )
    dense_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="steps of pre-training the pixel decoder on the classes of pixels, after the crops",
    )
    pretrain_batch: int = Field(default=24, ge=2, le=4096, description="crops, or images, of a pre-training step")
    pretrain_lr: float = Field(default=3e-3, gt=0, le=1, description="peak learning rate of the pre-training")
    crop_size: int = Field(default=32, ge=32, le=512, description="side of the crops")
    base_epochs: int = Field(
        default=0, ge=0, le=1000, description="epochs of plain Mask2Former on base classes, shared by all arms"
    )
    epochs: int = Field(
        default=3, ge=1, le=1000, description="epochs on base classes by episodes, for each kind of network"
    )
    tune_steps_a_shot: int = Field(
        default=100, ge=0, le=100_000, description="steps of the fine-tuning, times the number of shots"
    )
    batch_size: int = Field(default=8, ge=1, le=1024, description="images per process and step")
    lr: float = Field(default=1e-4, gt=0, le=1, description="peak learning rate of AdamW on base classes")
    tune_lr: float = Field(default=1e-4, gt=0, le=1, description="peak learning rate of the fine-tuning")
    backbone_rate: float = Field(
        default=0.1, gt=0, le=1, description="learning rate of the image network relative to the others'"
    )
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="of layers' weights")
    clip_norm: float = Field(default=0.01, ge=0, le=1000, description="largest gradient norm; 0: no clipping")
    schedule: Literal["onecycle", "step", "constant"] = Field(
        default="step", description="learning rate over steps; step: a tenth after 90 and after 95 % of them"
    )
    smallest_scale: float = Field(default=1.0, gt=0, le=10, description="large-scale jitter: smallest factor")
    largest_scale: float = Field(default=1.0, gt=0, le=10, description="large-scale jitter: largest factor")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring an image")
    distillation: float = Field(default=1.0, ge=0, le=1000, description="weight of the distillation (iFSIS)")
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")

    most: int = Field(default=100, ge=1, le=1000, description="instances of an image")

    support: str = Field(
        default="",
        description="folder of further classes for predict: <class>/x.png with masks <class>/x_mask.png; empty: none",
    )
    least_score: float = Field(default=0.3, ge=0, le=1, description="score from which on an instance is listed")
    attention: bool = Field(default=False, description="predict draws where features attend to each class centre")

    shots: int = Field(default=5, ge=1, le=1000, description="K: instances of each class in the few-shot set")
    novel: tuple[str, ...] = Field(default=(), description="novel classes; empty: by the data")
    base_json: str = Field(
        default="", description="annotations of base classes, a path in the data folder or any; empty: by the layout"
    )
    shots_json: str = Field(
        default="", description="annotations of the shots, a path in the data folder or any; empty: by the layout"
    )
    boxes_as_masks: bool = Field(
        default=False, description="take the box as the mask where an annotation has no segmentation"
    )

    sample_train: int = Field(default=400, ge=60, le=100_000, description="training scenes of the sample")
    sample_val: int = Field(default=120, ge=2, le=100_000, description="held-out scenes of the sample")
    sample_shots: tuple[int, ...] = Field(default=(1, 5), min_length=1, description="numbers of shots with files")


SAMPLE: dict[str, Any] = {
    "ffn": 128, "lr": 2e-3, "tune_lr": 1e-3, "backbone_rate": 1.0, "clip_norm": 1.0, "schedule": "onecycle",
}  # fmt: skip
"""For the sample's network."""

PUBLISHED: dict[str, Any] = {
    "variant": "r50", "image_size": 1024, "support_size": 320, "ways": 20, "epochs": 50, "batch_size": 2,
    "smallest_scale": 0.1, "largest_scale": 2.0, "shots": 10, "workers": 4, "pretrain_steps": 5000,
    "pretrain_batch": 64, "pretrain_lr": 1e-3, "crop_size": 128,
}  # fmt: skip
"""Mask2Former's recipe, on 8 processes; sizes of episodes and the length of the fine-tuning are ours. ImageNet weights
are given by `pretrained`; without them the image network is pre-trained on crops."""


class RefTDesign(Design[RefTConfig]):
    """What is compared, and at which scales."""

    paper = "reft"
    arms: ClassVar[Mapping[str, str]] = {
        "ft_full": "FSIS: Mask2Former, all parameters fine-tuned on the novel shots",
        "mdw": "FSIS: with the first reference, mask-based dynamic weighting of features",
        "loq": "FSIS: with the second reference, linked object queries",
        "reft": "FSIS: with both references, the paper's method",
        "ft_full_gfsis": "gFSIS: Mask2Former, fine-tuned on shots of base and novel classes",
        "reft_gfsis": "gFSIS: RefT",
        "ifsis_rows": "iFSIS: RefT w/ Cos, novel rows of the classifier alone are trained",
        "ifsis_no_distillation": "iFSIS: RefT w/ Cos, projections and references too, without distillation",
        "reft_ifsis": "iFSIS: RefT w/ Cos, projections and references too, with distillation",
    }
    method = "reft"
    Config = RefTConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": RefTConfig(
            **SAMPLE, seeds=1, pretrain_steps=5, pretrain_batch=8, epochs=1, batch_size=16, ways=2, support_shots=1,
            tune_steps_a_shot=2, shots=1, sample_train=60, sample_val=8, sample_shots=(1,),
        ),
        "laptop": RefTConfig(
            **SAMPLE, seeds=5, first_seed=100, image_size=64, support_size=64, crop_size=48, pretrain_steps=200,
            dense_steps=150, base_epochs=6, epochs=3, tune_steps_a_shot=16,
        ),
        # COCO, R-50, 10 shots: published 18.4 (masks) and 19.3 (boxes) novel AP, FSIS
        "paper": RefTConfig(**PUBLISHED, seeds=10),
    }  # fmt: skip
    own = RefTConfig(**PUBLISHED)
    own_batch = 16
