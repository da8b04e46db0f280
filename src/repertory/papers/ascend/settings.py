"""The arms, settings and scales of ASCEND."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig

IMPROVED = ("adaptive_norm", "overlap", "local_mlp", "qk_norm")
"""What IU-ViT adds to U-ViT, as reconstructed."""


class AscendConfig(Recipe):
    """Network, diffusion, training, and how samples are drawn and judged."""

    main_group = "training"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "model": (
            "arch", "parameters", "image_size", "channels", "condition", "encoder_share", "decoder_width",
            "decoder_text", "noise_schedule", "predicts", "text_dim", "text_tokens",
        ),
        "evaluation": (
            "noise_levels", "eval_samples", "eval_sampler", "eval_steps", "eval_guidance", "classifier_epochs",
            "inception",
        ),
        "prediction": ("count", "sampler", "steps", "guidance", "sample_seed"),
        "data": ("train_share",),
        "sample": ("sample_digits",),
    }  # fmt: skip

    arch: Literal["mini", "uvit_s2_cifar10", "uvit_s4_celeba64", "uvit_m4_imagenet64"] = Field(
        default="mini", description="size: patches, blocks and heads; widths follow from parameters"
    )
    parameters: int | None = Field(
        default=None,
        ge=10_000,
        le=10_000_000_000,
        description="parameters of every arm; empty: those of U-ViT of this size",
    )
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="height and width; larger images are cropped and resized; empty: arch"
    )
    channels: Literal[1, 3] = Field(default=3, description="1: grey, 3: RGB; images of the other kind are converted")
    condition: Literal["none", "class", "text"] = Field(
        default="none", description="what images are made for: nothing, a class, or a caption"
    )
    encoder_share: float = Field(
        default=2 / 3,
        gt=0.5,
        lt=1,
        description="ascend: share of the blocks that are the encoder's; reverse: decoder's",
    )
    decoder_width: float = Field(
        default=1.0, ge=0.25, le=1, description="ascend: width of the decoder over the encoder's; reverse: the inverse"
    )
    decoder_text: bool = Field(default=False, description="ascend: the decoder sees the caption too")
    noise_schedule: Literal["linear", "cosine"] = Field(default="linear", description="beta(t) of the diffusion")
    predicts: Literal["noise", "image"] = Field(default="noise", description="what the network gives")
    text_dim: int = Field(default=768, ge=2, le=8192, description="channels of a caption's features")
    text_tokens: int = Field(default=77, ge=1, le=1024, description="longest caption, in words")

    condition_drop: float = Field(
        default=0.1, ge=0, lt=1, description="share of conditions that are emptied in training; 0: no guidance later"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring an image in training")

    noise_levels: int = Field(default=10, ge=1, le=1000, description="times at which the held-out error is measured")
    eval_samples: int = Field(default=10_000, ge=0, le=1_000_000, description="images sampled for distances; 0: none")
    eval_sampler: Literal["ode", "sde", "dpm"] = Field(default="ode", description="sampler for distances")
    eval_steps: int = Field(default=100, ge=2, le=100_000, description="network calls for distances")
    eval_guidance: float = Field(default=0.0, ge=0, le=100, description="guidance for distances")
    classifier_epochs: int = Field(
        default=0, ge=0, le=10_000, description="epochs of the classifier whose features distances use; 0: none"
    )
    inception: str = Field(default="", description="torchvision's Inception weights, for FID; empty: none")

    count: int = Field(default=16, ge=1, le=100_000, description="images to sample")
    sampler: Literal["ode", "sde", "dpm"] = Field(default="dpm", description="sampler")
    steps: int = Field(default=50, ge=2, le=100_000, description="network calls of the sampler")
    guidance: float = Field(default=0.0, ge=0, le=100, description="s of e_c + s (e_c - e_u); 0: none")
    sample_seed: int = Field(default=0, ge=0, le=2**31, description="of the noise that sampling starts from")

    train_share: float = Field(default=1.0, gt=0, le=1, description="share of the training images that a seed draws")
    sample_digits: int = Field(
        default=145, ge=5, le=145, description="training images of each digit in the sample; 29 at most are held out"
    )

    @model_validator(mode="after")
    def _consistent(self) -> AscendConfig:
        if self.condition == "none" and (self.guidance or self.eval_guidance):
            raise ValueError("guidance needs condition=class or condition=text")
        return self


class AscendDesign(Design[AscendConfig]):
    """What is compared, and at which scales."""

    paper = "ascend"
    arms: ClassVar[Mapping[str, str]] = {
        "vit": "a plain ViT, time as a token",
        "uvit": "U-ViT: long skips and a final convolution",
        "iu_vit": "IU-ViT, reconstructed: U-ViT with four improvements",
        **{f"iu_vit_no_{name}": f"IU-ViT, reconstructed, without {name}" for name in IMPROVED},
        "ascend": "ASCEND, reconstructed: two thirds of the blocks in the encoder",
        "symmetric": "encoder and decoder of equal depth",
        "reverse": "two thirds of the blocks in the decoder",
    }
    method = "ascend"
    Config = AscendConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": AscendConfig(
            seeds=1, parameters=30_000, channels=1, flip=0, epochs=3, batch_size=16, lr=2e-3, schedule="constant",
            ema_decay=0.9, eval_samples=20, eval_steps=5, noise_levels=2, classifier_epochs=2, sample_digits=8,
            steps=5, count=4,
        ),
        "laptop": AscendConfig(
            seeds=5, first_seed=100, parameters=150_000, channels=1, flip=0, train_share=0.8, epochs=20, batch_size=32,
            lr=3e-3, weight_decay=0.03, decay_all=True, schedule="cosine", warmup_epochs=1, ema_decay=0.99,
            eval_samples=290, classifier_epochs=40,
        ),
        # 500 thousand steps. Run with --precision bf16-mixed; add --set inception=inception_v3_google-0cc3c7bd.pth.
        "paper": AscendConfig(
            seeds=1, arch="uvit_s2_cifar10", epochs=1282, batch_size=128, lr=2e-4, weight_decay=0.03, decay_all=True,
            betas=(0.99, 0.999), schedule="constant", warmup_epochs=6.41, warmup_lr=0, ema_decay=0.9999,
            eval_samples=50_000, eval_sampler="sde", eval_steps=1000, workers=8,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"]
    own_batch: ClassVar[int] = 128
    takes_text: ClassVar[bool] = True
