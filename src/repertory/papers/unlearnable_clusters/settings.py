"""The arms, settings and scales of Unlearnable Clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig

Labels = Literal["classes", "parity", "halves", "merged"]

SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "surrogate": "small", "image_size": 32, "resize": 32, "flip": 0.0, "clusters": 5, "ngf": 16, "blocks": 2,
        "generator_epochs": 7, "generator_batch_size": 64, "generator_lr": 1e-3,
        "hacker": "small", "simclr_network": "small", "other_hackers": ("timm:test_efficientnet",),
        "hacker_epochs": 8, "hacker_batch_size": 64,
    },
    "published": {
        "surrogate": "rn50", "image_size": 224, "resize": 256, "flip": 0.5, "clusters": 10, "ngf": 64, "blocks": 6,
        "generator_epochs": 50, "generator_batch_size": 256, "generator_lr": 1e-4,
        "hacker": "torchvision:resnet18", "simclr_network": "torchvision:resnet50",
        "other_hackers": ("torchvision:regnet_x_1_6gf", "torchvision:efficientnet_b1"),
        "hacker_epochs": 90, "hacker_batch_size": 512,
    },
}  # fmt: skip
"""Settings that are left empty, by `size`."""


class UnlearnableClustersConfig(StudyConfig):
    """Surrogate, clusters, generators, the baselines' noise, and the hackers that the protection is tested on."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "generator_epochs", "generator_batch_size", "generator_lr", "surrogate_epochs", "em_network", "em_steps",
            "em_rounds", "em_batches", "workers",
        ),
        "evaluation": (
            "verify", "hacker", "hacker_labels", "other_hackers", "hacker_epochs", "hacker_batch_size", "simclr_epochs",
            "simclr_network",
        ),
        "prediction": ("format", "quality"),
        "sample": ("public_images", "train_images", "test_images"),
    }  # fmt: skip
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers", "format", "quality"}

    size: Literal["", "small", "published"] = Field(
        default="", description="values of empty settings; empty: small on the sample, published on your own images"
    )
    surrogate: str = Field(
        default="", description="small, rn50, clip_rn50, timm:NAME or torchvision:NAME; empty: by size"
    )
    surrogate_weights: str = Field(
        default="", description="file of its weights, as CLIP's RN50.pt; empty: download them, or train small here"
    )
    image_size: int | None = Field(
        default=None, ge=8, le=1024, description="height and width of a perturbation; empty: by size"
    )
    resize: int | None = Field(
        default=None, ge=8, le=1024, description="short side of an image before it is cropped; empty: by size"
    )
    flip: float | None = Field(
        default=None, ge=0, le=1, description="probability of mirroring a training image; empty: by size"
    )
    eps: float = Field(
        default=16.0, gt=0, le=100_000, description="bound on a pixel of 0 to 255; with norm=l2 on the L2 norm"
    )
    norm: Literal["linf", "l2"] = Field(default="linf", description="norm that bounds a perturbation")
    clusters: int | None = Field(default=None, ge=2, le=10_000, description="perturbations; empty: by size")
    target_offset: int = Field(
        default=1, ge=0, le=10_000, description="cluster i is moved to the centre of cluster i + offset; 0: to its own"
    )
    own_cluster: bool = Field(
        default=False, description="a generator sees the images of its cluster alone; the authors show it all images"
    )
    ngf: int | None = Field(default=None, ge=1, le=512, description="channels of a generator; empty: by size")
    blocks: int | None = Field(default=None, ge=0, le=64, description="residual blocks; empty: by size")
    keep_size: bool = Field(
        default=True, description="stretch the noise to the image; False: crop the image to the noise, as in the paper"
    )

    generator_epochs: int | None = Field(
        default=None, ge=1, le=100_000, description="passes over the images for each generator; empty: by size"
    )
    generator_batch_size: int | None = Field(
        default=None, ge=1, le=65_536, description="images in a step of a generator; empty: by size"
    )
    generator_lr: float | None = Field(default=None, gt=0, le=10, description="peak rate of Adam; empty: by size")
    surrogate_epochs: int = Field(
        default=20, ge=1, le=10_000, description="epochs of the small surrogate, which learns rotations"
    )
    owner_labels: Labels = Field(
        default="classes", description="the labels that the owner has, for baselines that need labels"
    )
    em_network: str = Field(default="", description="network of error-minimising noise; empty: the hacker's")
    em_steps: int = Field(default=20, ge=1, le=1000, description="descent steps of sample-wise noise in a round")
    em_rounds: int = Field(default=30, ge=1, le=10_000, description="most rounds of error-minimising noise")
    em_batches: int = Field(default=10, ge=1, le=10_000, description="training batches of its network in a round")
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")

    verify: bool = Field(
        default=True, description="train hackers on the protected images; False: report the size of the noise alone"
    )
    hacker: str = Field(default="", description="network of the hacker, named as a surrogate; empty: by size")
    hacker_labels: tuple[Labels, ...] = Field(
        default=("classes", "parity", "halves", "merged"), description="label sets that hackers train with, one each"
    )
    other_hackers: tuple[str, ...] | None = Field(
        default=None, description="further networks, trained with the classes; empty: by size"
    )
    hacker_epochs: int | None = Field(default=None, ge=1, le=10_000, description="epochs of a hacker; empty: by size")
    hacker_batch_size: int | None = Field(
        default=None, ge=2, le=65_536, description="images in a step of a hacker; empty: by size"
    )
    simclr_epochs: int = Field(
        default=0, ge=0, le=10_000, description="epochs of a hacker that learns without labels (SimCLR); 0: none"
    )

    simclr_network: str = Field(default="", description="its network; empty: by size")

    format: Literal["same", "png"] = Field(
        default="same", description="format of protected files; png: all, which loses nothing of the noise"
    )
    quality: int = Field(
        default=95, ge=1, le=100, description="least quality of protected JPEG and WebP files: low ones lose the noise"
    )
    public_images: int = Field(
        default=500, ge=8, le=500, description="images of the sample that the surrogate learns from, nobody's own"
    )
    train_images: int = Field(default=700, ge=20, le=700, description="images of the sample that are the owner's")
    test_images: int = Field(default=597, ge=20, le=597, description="held-out images of the sample")

    @field_validator("eps")
    @classmethod
    def _in_steps(cls, eps: float) -> float:
        if eps < 0.5:
            raise ValueError(f"eps counts in steps of a pixel from 0 to 255: give {eps * 255:.3g}, not {eps:g}")
        return eps

    @model_validator(mode="after")
    def _consistent(self) -> UnlearnableClustersConfig:
        if self.norm == "linf" and self.eps > 255:
            raise ValueError("eps: a pixel has 255 steps; a larger bound needs norm=l2")
        if self.image_size and self.resize and self.resize < self.image_size:
            raise ValueError(f"resize={self.resize} is below image_size={self.image_size}: nothing is left to crop")
        return self

    def filled(self, own: bool) -> UnlearnableClustersConfig:
        """The same settings, the empty ones by size.

        Args:
            own: the images are the user's, not the sample.
        """
        size = self.size or ("published" if own else "small")
        empty = {name: value for name, value in SIZES[size].items() if getattr(self, name) in (None, "")}
        return type(self).model_validate({**self.model_dump(), **empty})

    @property
    def arch(self) -> str:
        """What is trained, for the line before a training."""
        return f"surrogate {self.surrogate}, {self.clusters} clusters, {self.image_size} px"

    @property
    def epochs(self) -> int | None:
        """Of each generator."""
        return self.generator_epochs

    def hacker_recipe(self, **changes: Any) -> Recipe:
        """The published recipe of a hacker, at this scale's epochs and batch size."""
        recipe = Recipe(
            epochs=self.hacker_epochs or 1,
            batch_size=self.hacker_batch_size or 2,
            optimizer="sgd",
            lr=0.1,
            weight_decay=5e-4,
            decay_all=True,
            min_lr=1e-6,
            workers=self.workers,
        )
        return recipe.model_copy(update=changes)


class UnlearnableClustersDesign(Design[UnlearnableClustersConfig]):
    """What is compared, and at which scales."""

    paper = "unlearnable_clusters"
    arms: ClassVar[Mapping[str, str]] = {
        "clean": "unprotected images",
        "random": "random signs, one pattern for each cluster",
        "em": "error-minimising noise for each image, with the owner's labels",
        "em_class": "error-minimising noise for each of the owner's classes",
        "em_cluster": "error-minimising noise for each cluster, in place of a class",
        "synthetic": "a synthetic pattern for each of the owner's classes",
        "synthetic_cluster": "a synthetic pattern for each cluster, in place of a class",
        "uc": "the paper's method: each cluster is moved to the centre of another",
        "uc_own": "each cluster is moved to its own centre",
    }
    method = "uc"
    Config = UnlearnableClustersConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": UnlearnableClustersConfig(
            seeds=1, size="small", clusters=2, generator_epochs=1, generator_batch_size=10, ngf=4, blocks=1,
            surrogate_epochs=1, owner_labels="parity", em_steps=1, em_rounds=1, em_batches=2,
            hacker_labels=("classes",), other_hackers=(), hacker_epochs=1, hacker_batch_size=10, simclr_epochs=1,
            public_images=10, train_images=36, test_images=20,
        ),
        "laptop": UnlearnableClustersConfig(
            seeds=5, first_seed=100, owner_labels="parity", em_rounds=10, hacker_labels=("classes", "parity", "merged"),
        ),
        # CIFAR-10, 1,000 images of a class.
        "desk": UnlearnableClustersConfig(
            seeds=5, first_seed=100, real="cifar10-subset", size="small", flip=0.5, clusters=10, ngf=32, blocks=4,
            owner_labels="parity", em_rounds=10, hacker_epochs=20,
        ),
        # --data pets/ with train/<class>/ and test/<class>/, --set surrogate=clip_rn50 --set surrogate_weights=RN50.pt;
        # --set simclr_epochs=500 adds the hacker without labels, a ResNet-50.
        "paper": UnlearnableClustersConfig(
            seeds=1, size="published", keep_size=False, hacker_labels=("classes", "merged"),
        ),
    }  # fmt: skip
