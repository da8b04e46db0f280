"""The arms, settings and scales of TinyMIM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig
from repertory.tasks.settings import ImageRecipe

Arch = Literal["mini", "mini_middle", "tiny", "small", "base"]


class TinyMIMConfig(ImageRecipe):
    """Teacher, student, target, and the recipes of pre-training and fine-tuning.

    Fields that classifiers share (`epochs`, `lr`, …) are those of fine-tuning.
    """

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "stage", "pretrain_epochs", "teacher_epochs", "pretrain_batch_size", "pretrain_lr", "pretrain_weight_decay",
            "pretrain_warmup_epochs", "pretrain_crop_scale", "pretrain_flip", "pretrain_color_jitter",
            "student_drop_path", "teacher_drop_path",
        ),
        "prediction": ("patch_row", "patch_column"),
    }  # fmt: skip

    arch: Arch = Field(default="mini", description="size of the student")
    pretraining: Literal["distil", "mae", "none"] = Field(
        default="distil",
        description="how the student is pre-trained; mae: by masked image modelling, without a teacher",
    )
    teacher: str = Field(
        default="",
        description="teacher: MAE's file, a model directory, or timm:NAME; empty: MAE trains one on the same images",
    )
    teacher_arch: Literal["mini_teacher", "small", "base", "large"] = Field(
        default="mini_teacher", description="size of the teacher that is trained here"
    )
    teacher_heads: int | None = Field(
        default=None, ge=1, le=64, description="heads of a teacher's file; empty: the published number for its width"
    )
    target_heads: int | None = Field(
        default=None, ge=1, le=64, description="heads of its target block; empty: as the model directory or heads say"
    )
    target: Literal[
        "cls", "output", "ffn", "ffn_res", "attn", "attn_res", "qkv",
        "qk_vv", "qq_kk_vv", "qk_vv_raw", "qq_kk_vv_raw",
    ] = Field(default="qk_vv", description="what is distilled; raw: products without softmax")  # fmt: skip
    target_block: int | None = Field(
        default=None,
        ge=-100,
        le=100,
        description="teacher's block, from 1, or from -1 for the last; empty: the last of equal depths, else 3/4 up",
    )
    chain: tuple[Arch, ...] = Field(
        default=(), description="students in between, each distilled from the one before: sequential distillation"
    )
    masked_input: bool = Field(default=False, description="teacher and student see the same visible patches only")
    reconstruction: bool = Field(default=False, description="add MAE's loss; needs masked_input")
    mask_ratio: float = Field(default=0.75, gt=0, lt=1, description="share of hidden patches, where some are hidden")
    decoder_dim: int = Field(default=512, ge=4, le=4096, multiple_of=4, description="width of MAE's decoder")
    decoder_depth: int = Field(default=8, ge=1, le=32, description="blocks of MAE's decoder")
    decoder_heads: int = Field(default=16, ge=1, le=64, description="heads of MAE's decoder")
    finetune_heads: int | None = Field(
        default=None, ge=1, le=64, description="heads of all blocks in fine-tuning; empty: the published number"
    )

    stage: Literal["both", "pretrain", "finetune"] = Field(
        default="both", description="pretrain: needs no labels; finetune: takes the encoder that `pretrained` names"
    )
    pretrain_epochs: int = Field(default=300, ge=1, le=10_000, description="epochs of the student's pre-training")
    teacher_epochs: int = Field(default=800, ge=1, le=10_000, description="epochs of a teacher that is trained here")
    pretrain_batch_size: int = Field(default=512, ge=1, description="images per process and gradient in pre-training")
    pretrain_lr: float = Field(default=2.4e-3, gt=0, description="peak learning rate: 1.5e-4 per 256 images")
    pretrain_weight_decay: float = Field(default=0.05, ge=0, description="not of biases and norms")
    pretrain_warmup_epochs: float = Field(default=15.0, ge=0, description="linear warm-up from 0")
    pretrain_crop_scale: float = Field(default=0.2, gt=0, le=1, description="smallest area of a random crop; 1: none")
    pretrain_flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring, with random crops")
    pretrain_color_jitter: float = Field(default=0.4, ge=0, le=1, description="strength, in the student's view alone")
    student_drop_path: float = Field(default=0.1, ge=0, lt=1, description="rate in all blocks but the last")
    teacher_drop_path: float = Field(default=0.0, ge=0, lt=1, description="rate in the blocks below the target block")

    sample_digits: int = Field(
        default=90, ge=2, le=90, description="training images of each digit in the sample; as many held out, 84 at most"
    )
    patch_row: float = Field(default=0.5, ge=0, le=1, description="row of the patch that is drawn: 0 top, 1 bottom")
    patch_column: float = Field(default=0.5, ge=0, le=1, description="column of that patch: 0 left, 1 right")

    @model_validator(mode="after")
    def _consistent(self) -> TinyMIMConfig:
        if self.reconstruction and not self.masked_input:
            raise ValueError("reconstruction needs masked_input=true: without it there is nothing to reconstruct")
        if (self.stage == "finetune") != bool(self.pretrained):
            raise ValueError("stage=finetune and pretrained=PATH go together: the encoder to fine-tune")
        return self

    def pretraining_recipe(self, epochs: int) -> Recipe:
        """The recipe of a pre-training of so many epochs."""
        return Recipe(
            epochs=epochs,
            batch_size=self.pretrain_batch_size,
            lr=self.pretrain_lr,
            weight_decay=self.pretrain_weight_decay,
            betas=(0.9, 0.95),
            warmup_epochs=self.pretrain_warmup_epochs,
            warmup_lr=0.0,
            workers=self.workers,
        )


VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    "scratch": {"pretraining": "none"},
    "mae": {"pretraining": "mae"},
    "cls": {"target": "cls"},
    "output": {"target": "output"},
    "qkv": {"target": "qkv"},
    "tinymim": {},
    "last": {"target_block": -1},
    "masked": {"masked_input": True},
    "masked_reconstruction": {"masked_input": True, "reconstruction": True},
    "drop_path": {"student_drop_path": 0.3},
    "sequential": {},
}
"""Settings that an arm fixes; `sequential` puts students in between, see `TinyMIMStudy.chain`."""


class TinyMIMDesign(Design[TinyMIMConfig]):
    """What is compared, and at which scales."""

    paper = "tinymim"
    arms: ClassVar[Mapping[str, str]] = {
        "scratch": "the student without pre-training",
        "mae": "the student pre-trained by MAE, without a teacher",
        "cls": "the teacher's class token distilled",
        "output": "the teacher's last features distilled",
        "qkv": "queries, keys and values of the target block distilled",
        "tinymim": "the paper's method: relations QK and VV of the target block",
        "last": "relations of the teacher's last block",
        "masked": "relations, teacher and student see a quarter of the patches",
        "masked_reconstruction": "the same with MAE's reconstruction loss",
        "drop_path": "relations, with a drop path of 0.3 in the student",
        "sequential": "relations, through a student of a size in between",
    }
    method = "tinymim"
    Config = TinyMIMConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": TinyMIMConfig(
            seeds=1, epochs=1, batch_size=25, lr=2e-3, sample_labels=5, sample="digits", sample_digits=5,
            pretrain_epochs=1, teacher_epochs=1, pretrain_batch_size=40, pretrain_lr=2e-3, pretrain_warmup_epochs=0,
            pretrain_crop_scale=1, pretrain_color_jitter=0, decoder_dim=32, decoder_depth=1, decoder_heads=2,
        ),
        "laptop": TinyMIMConfig(
            seeds=5, first_seed=100, epochs=60, batch_size=50, lr=2e-3, weight_decay=0.05, warmup_epochs=5,
            sample="digits", sample_labels=15,
            pretrain_epochs=40, teacher_epochs=120, pretrain_batch_size=100, pretrain_lr=2e-3,
            pretrain_warmup_epochs=10, pretrain_crop_scale=1, pretrain_color_jitter=0,
            decoder_dim=32, decoder_depth=2, decoder_heads=2,
        ),
        # 8 processes of 512 images: batch 4096. Run with --devices 8 --precision bf16-mixed, and
        # --set teacher=mae_pretrain_vit_base.pth; without it MAE trains a ViT-S teacher first.
        "paper": TinyMIMConfig(
            seeds=1, arch="tiny", teacher_arch="small", epochs=100, batch_size=128, lr=2e-3, layer_decay=0.65,
            weight_decay=0.05, warmup_epochs=5, min_lr=1e-6, drop_path=0.2, crop_scale=0.08,
            auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1,
            crop_interpolation="bicubic", workers=8,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"]
    own_batch: ClassVar[int] = 1024
