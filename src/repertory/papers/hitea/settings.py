"""The arms, settings and scales of HiTeA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig


@dataclass(frozen=True)
class Arm:
    """What an arm trains."""

    cme: bool = False
    mtre: bool = False
    order_blind: bool = False


ARMS: dict[str, Arm] = {
    "base": Arm(),
    "cme": Arm(cme=True),
    "mtre": Arm(mtre=True),
    "hitea": Arm(cme=True, mtre=True),
    "frame_mean": Arm(cme=True, mtre=True, order_blind=True),
}


class HiTeAConfig(Recipe):
    """Fine-tuning (the fields of `Recipe`), pre-training, network, evaluation, sample."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "pretrain_epochs", "pretrain_batch_size", "pretrain_lr", "pretrain_weight_decay", "short_frames", "queue",
            "pretrained", "bert", "grad_checkpointing",
        ),
        "evaluation": ("shuffles", "eval_batch", "captioned", "answer_length", "speed_rounds"),
        "prediction": ("question", "search", "candidates", "caption_length", "shown"),
        "data": ("train_clips",),
        "sample": (
            "sample_ordered", "sample_static", "sample_test_ordered", "sample_test_static", "sample_size",
        ),
    }  # fmt: skip

    img_size: int = Field(default=224, ge=8, le=1024, description="height and width of the input")
    frames: int = Field(default=16, ge=2, le=256, multiple_of=2, description="frames of a clip, even")
    video_dim: int = Field(default=96, ge=4, le=1024, description="width of the first block of the video encoder")
    video_depth: int = Field(default=24, ge=1, le=96, description="blocks of the video encoder")
    video_heads: int = Field(default=1, ge=1, le=64, description="heads of the first block of the video encoder")
    widen_at: tuple[int, ...] = Field(
        default=(2, 5, 21), description="blocks that double width and heads and halve height and width"
    )
    kv_stride: int = Field(default=4, ge=1, le=32, description="stride of keys and values in the first block")
    text_heads: int = Field(default=12, ge=1, le=64, description="heads of text encoder, fusion and decoder")
    intermediate: int = Field(default=3072, ge=1, le=65_536, description="hidden width of their feed-forward layers")
    encoder_layers: int = Field(default=6, ge=1, le=96, description="layers of the text encoder")
    built_layers: int = Field(default=12, ge=1, le=96, description="layers of the fusion encoder that are built")
    fusion_layers: int = Field(default=6, ge=1, le=96, description="layers of the fusion encoder that run, the last")
    stride_layer: int = Field(
        default=6, ge=1, le=10_000, description="of those, each so-manieth but the first attends to video and text"
    )
    decoder_layers: int = Field(default=12, ge=1, le=96, description="layers of the decoder")
    embed_dim: int = Field(default=256, ge=2, le=4096, description="dimensions of the embeddings that are compared")
    drop_rate: float = Field(default=0.1, ge=0, lt=1, description="dropout in the text networks")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth of the video encoder")
    init_std: float = Field(
        default=0.02, gt=0, le=1, description="standard deviation of initial weights; narrow networks need more"
    )
    max_length: int = Field(default=25, ge=3, le=512, description="tokens of a text; longer ones are cut")
    vocabulary: int = Field(default=30_000, ge=10, le=1_000_000, description="most words, where `bert` gives none")

    pretrain_epochs: int = Field(default=10, ge=0, le=10_000, description="passes of pre-training; 0: none")
    pretrain_batch_size: int = Field(default=32, ge=2, description="clips per process and step of pre-training")
    pretrain_lr: float = Field(default=1e-4, gt=0, description="peak learning rate of pre-training")
    pretrain_weight_decay: float = Field(default=0.02, ge=0, description="weight decay of pre-training")
    short_frames: int = Field(default=8, ge=2, le=256, multiple_of=2, description="frames of a short view, even")
    queue: int = Field(
        default=0, ge=0, le=1 << 20, description="embeddings that momentum encoders keep as negatives; 0: the batch"
    )
    pretrained: str = Field(
        default="", description="weights to start from: a model directory, or a folder that the authors released"
    )
    bert: str = Field(
        default="", description="folder of a BERT, for tokenizer and text weights; empty: words of the captions"
    )
    grad_checkpointing: bool = Field(default=False, description="compute blocks again to save memory")

    shuffles: int = Field(default=3, ge=1, le=100, description="random orders of frames in the shuffling test")
    eval_batch: int = Field(default=32, ge=1, le=10_000, description="clips of a batch in evaluation")
    captioned: int = Field(default=0, ge=0, description="test clips that are captioned for BLEU; 0: all")
    answer_length: int = Field(default=10, ge=1, le=512, description="tokens of an answer at most")
    speed_rounds: int = Field(default=0, ge=0, le=10_000, description="rounds of the attention race; 0: no race")

    question: str = Field(default="", description="predict answers it for each clip")
    search: str = Field(default="", description="predict ranks the clips of a folder by this text")
    candidates: str = Field(
        default="", description="captions to rank, separated by ;, or a file with one a line; empty: those of training"
    )
    caption_length: int = Field(default=25, ge=1, le=512, description="tokens of a caption at most")
    shown: int = Field(default=3, ge=1, le=100, description="best captions in the table")

    train_clips: int = Field(default=0, ge=0, description="training clips that a seed draws; 0: all")
    sample_ordered: int = Field(default=900, ge=2, le=100_000, description="training clips with two moves")
    sample_static: int = Field(default=200, ge=2, le=100_000, description="training clips in which nothing moves")
    sample_test_ordered: int = Field(default=240, ge=2, le=100_000, description="held-out clips with two moves")
    sample_test_static: int = Field(default=80, ge=2, le=100_000, description="held-out clips without motion")
    sample_size: int = Field(default=32, ge=16, le=256, multiple_of=2, description="height and width of sample clips")

    @model_validator(mode="after")
    def _fitting(self) -> HiTeAConfig:
        side = 4 * 2 ** len(self.widen_at)
        if self.img_size % side:
            raise ValueError(f"img_size={self.img_size} is no multiple of {side}, which widen_at asks for")
        if self.fusion_layers > self.built_layers:
            raise ValueError(f"fusion_layers={self.fusion_layers} is above built_layers={self.built_layers}")
        return self


SMALL: dict[str, Any] = {
    "img_size": 16, "frames": 8, "short_frames": 4, "video_dim": 16, "video_depth": 4, "video_heads": 1,
    "widen_at": (1, 3), "kv_stride": 2, "text_heads": 4, "intermediate": 128, "encoder_layers": 1, "built_layers": 1,
    "fusion_layers": 1, "stride_layer": 2, "decoder_layers": 1, "embed_dim": 64, "drop_rate": 0.0, "init_std": 0.1,
    "answer_length": 3, "caption_length": 12,
}  # fmt: skip
"""The network of the sample: 64 wide where the published one is 768."""


class HiTeADesign(Design[HiTeAConfig]):
    """What is compared, and at which scales."""

    paper = "hitea"
    arms: ClassVar[Mapping[str, str]] = {
        "base": "VTC, VTM, MLM and PrefixLM alone",
        "cme": "with cross-modal moment exploration",
        "mtre": "with multi-modal temporal relation exploration",
        "hitea": "the paper's pre-training: both",
        "frame_mean": "control: the same, with an encoder that averages frames and is blind to their order",
    }
    method = "hitea"
    Config = HiTeAConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": HiTeAConfig(
            **{**SMALL, "img_size": 16, "frames": 4, "short_frames": 2, "video_dim": 8, "text_heads": 2,
               "intermediate": 32, "encoder_layers": 1, "decoder_layers": 1, "embed_dim": 8},
            seeds=1, epochs=1, batch_size=8, pretrain_epochs=1, pretrain_batch_size=8, pretrain_lr=1e-3, lr=1e-3,
            shuffles=1, captioned=4, sample_ordered=16, sample_static=8, sample_test_ordered=6, sample_test_static=4,
            sample_size=16,
        ),
        "laptop": HiTeAConfig(
            **SMALL, seeds=5, first_seed=100, epochs=4, batch_size=32, lr=3e-3, weight_decay=0.02, schedule="onecycle",
            clip_norm=1.0, pretrain_epochs=12, pretrain_batch_size=32, pretrain_lr=3e-3, eval_batch=64, captioned=64,
            train_clips=750, speed_rounds=10,
        ),
        # WebVid-2M and CC3M: 1024 pairs a step.
        "paper": HiTeAConfig(
            seeds=1, epochs=10, batch_size=8, lr=2e-5, weight_decay=0.02, schedule="cosine", warmup_epochs=1.0,
            pretrain_epochs=10, pretrain_batch_size=128, pretrain_lr=1e-4, queue=65_536, drop_rate=0.1, workers=8,
            grad_checkpointing=True,
        ),
        # From released weights: --set pretrained=FOLDER.
        "finetune": HiTeAConfig(
            seeds=1, epochs=10, batch_size=8, lr=2e-5, weight_decay=0.02, schedule="cosine", warmup_epochs=1.0,
            pretrain_epochs=0, workers=8, grad_checkpointing=True,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = HiTeAConfig(
        seeds=1, epochs=10, batch_size=64, lr=1e-4, weight_decay=0.02, warmup_epochs=1.0, pretrain_epochs=10,
        pretrain_batch_size=64, workers=8, grad_checkpointing=True,
    )  # fmt: skip
    own_batch = 64
