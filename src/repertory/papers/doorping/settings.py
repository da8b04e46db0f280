"""The arms, settings and scales of DOORPING."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, StudyConfig

LOOPS: Mapping[int, tuple[int, int]] = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Images per class -> the reference's numbers of outer and inner loops."""

NetName = Literal["mini", "alexnet", "convnet", "vgg11", "resnet18"]


class DoorpingConfig(StudyConfig):
    """Data, attack, both distillers, victims and defences."""

    main_group = "training"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "model": ("net", "norm", "image_size", "distiller", "attack"),
        "evaluation": (
            "victims", "victim_net", "victim_epochs", "victim_lr", "victim_momentum", "victim_weight_decay",
            "eval_every", "defences", "cleanse_steps", "cleanse_images", "prune_drop", "prune_epochs", "prune_lr",
            "strip_overlays", "spectral_share",
        ),
        "prediction": ("clean", "trigger"),
        "data": ("train_share", "reference_svhn"),
        "sample": ("sample_images",),
    }  # fmt: skip

    net: NetName = Field(default="convnet", description="network that the images are distilled with")
    norm: Literal["none", "instancenorm", "batchnorm"] = Field(default="none", description="norm of mini and convnet")
    image_size: int = Field(default=32, ge=4, le=512, description="height and width; images are resized to it")
    distiller: Literal["dc", "dd"] = Field(
        default="dc", description="dc: gradient matching; dd: unrolled training; arms dd_… set dd"
    )
    attack: Literal["none", "naive", "doorping", "fixed"] = Field(default="doorping", description="arms set it")

    portion: float = Field(default=0.01, gt=0, lt=1, description="share of the training images that are poisoned")
    patch: int = Field(default=2, ge=1, le=64, description="side of the trigger in pixels")
    target: int = Field(default=0, ge=0, le=999, description="number of the class that the trigger leads to")
    topk: int = Field(default=1, ge=1, le=192, description="neurons that the trigger is fitted to")
    alpha: float = Field(default=10.0, gt=0, description="factor by which their activation should grow in an update")
    trigger_lr: float = Field(default=0.08, gt=0, description="learning rate of the trigger")
    trigger_steps: int = Field(default=1000, ge=1, le=100_000, description="most steps of an update")
    trigger_tolerance: float = Field(default=0.5, ge=0, description="squared error at which an update stops")
    clamp: bool = Field(default=False, description="clip the trigger to the range of pixels; the reference does not")

    ipc: int = Field(default=10, ge=1, le=1000, description="distilled images per class; dd: per class and batch")
    iterations: int = Field(default=1001, ge=1, le=1_000_000, description="dc: passes, each with a new network")
    outer: int | None = Field(
        default=None, ge=1, le=1000, description="dc: image updates of a pass; empty: the published number for ipc"
    )
    inner: int | None = Field(
        default=None, ge=1, le=1000, description="dc: epochs of the network between two; empty: as published for ipc"
    )
    image_lr: float = Field(default=0.1, gt=0, description="dc: learning rate of the images")
    image_momentum: float = Field(default=0.5, ge=0, lt=1, description="dc: momentum of the images")
    net_lr: float = Field(default=0.01, gt=0, description="dc: learning rate of the networks")
    batch_real: int = Field(default=256, ge=1, le=100_000, description="dc: real images of a class in a gradient")
    batch_train: int = Field(default=256, ge=1, le=100_000, description="distilled images in a step of a network")
    distance: Literal["rows", "mse", "cos"] = Field(
        default="rows", description="dc: distance of gradients; rows: the published one"
    )

    dd_steps: int = Field(default=10, ge=1, le=1000, description="dd: batches of distilled images")
    dd_cycles: int = Field(default=3, ge=1, le=1000, description="dd: how often the batches are passed")
    dd_rate: float = Field(default=0.02, gt=0, description="dd: initial learning rate on the distilled images")
    dd_lr: float = Field(default=0.01, gt=0, description="dd: learning rate of images and rates (Adam)")
    dd_epochs: int = Field(default=400, ge=1, le=100_000, description="dd: passes over the real images")
    dd_batch: int = Field(default=1024, ge=1, le=100_000, description="dd: real images in a step")
    dd_decay_epochs: int = Field(default=40, ge=1, le=100_000, description="dd: epochs after which dd_lr is halved")
    reference_positions: bool = Field(
        default=False, description="dd: poison the positions of the reference, which are other images in every epoch"
    )

    victims: int = Field(default=10, ge=1, le=1000, description="networks trained on the distilled images")
    victim_net: Literal["", "mini", "alexnet", "convnet", "vgg11", "resnet18"] = Field(
        default="", description="their kind; empty: net. dd: always net"
    )
    victim_epochs: int = Field(default=300, ge=1, le=100_000, description="epochs; one more is trained, as published")
    victim_lr: float = Field(default=0.01, gt=0, description="learning rate, a tenth after half of the epochs")
    victim_momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum")
    victim_weight_decay: float = Field(default=5e-4, ge=0, description="weight decay")
    eval_every: int = Field(
        default=50, ge=0, le=1_000_000, description="passes (dd: epochs) between two points of the curve; 0: none"
    )
    defences: bool = Field(default=True, description="evaluate the six defences on the first victim")
    cleanse_steps: int = Field(default=300, ge=1, le=100_000, description="Neural Cleanse: steps")
    cleanse_images: int = Field(default=64, ge=2, le=10_000, description="Neural Cleanse: clean images")
    prune_drop: float = Field(default=4.0, ge=0, le=100, description="fine-pruning: points of accuracy it may cost")
    prune_epochs: int = Field(default=10, ge=0, le=10_000, description="fine-pruning: epochs of fine-tuning")
    prune_lr: float = Field(default=0.001, gt=0, description="fine-pruning: learning rate of fine-tuning")
    strip_overlays: int = Field(default=20, ge=1, le=1000, description="STRIP: clean images laid over each input")
    spectral_share: float = Field(
        default=0.05, gt=0, lt=0.5, description="Spectral Signatures: assumed share of poison; 1.5 times it is flagged"
    )

    train_share: float = Field(default=1.0, gt=0, le=1, description="share of the training images that a seed draws")
    reference_svhn: bool = Field(
        default=False, description="naive: the reference's two-row stripe on SVHN instead of the patch"
    )
    sample_images: int = Field(default=1797, ge=100, le=1797, description="digits in the sample; 1797: all there are")
    clean: str = Field(default="", description="folder of clean images in class folders, for an audit")
    trigger: str = Field(default="", description="*_trigger.pth of a received set, for an audit")

    @model_validator(mode="after")
    def _consistent(self) -> DoorpingConfig:
        if (self.outer is None or self.inner is None) and self.ipc not in LOOPS:
            known = ", ".join(map(str, LOOPS))
            raise ValueError(f"ipc={self.ipc} has no published loops ({known} have): give outer and inner")
        return self

    @property
    def loops(self) -> tuple[int, int]:
        """Outer and inner loops of DC."""
        outer, inner = LOOPS.get(self.ipc, (0, 0))
        return self.outer or outer, self.inner or inner


VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    "clean": {"attack": "none"},
    "naive": {"attack": "naive"},
    "fixed": {"attack": "fixed"},
    "doorping": {"attack": "doorping"},
    "clamped": {"attack": "doorping", "clamp": True},
    "dd_clean": {"attack": "none", "distiller": "dd"},
    "dd_naive": {"attack": "naive", "distiller": "dd"},
    "dd_doorping": {"attack": "doorping", "distiller": "dd"},
}
"""Settings that an arm fixes."""


class DoorpingDesign(Design[DoorpingConfig]):
    """What is compared, and at which scales."""

    paper = "doorping"
    arms: ClassVar[Mapping[str, str]] = {
        "clean": "gradient matching (DC) without an attack",
        "naive": "NAIVEATTACK on DC: a white patch",
        "fixed": "a random patch that is never updated, on DC",
        "doorping": "the paper's method on DC: the patch is optimised during distillation",
        "clamped": "DOORPING on DC with the patch kept in the range of pixels",
        "dd_clean": "unrolled distillation (DD) without an attack",
        "dd_naive": "NAIVEATTACK on DD",
        "dd_doorping": "DOORPING on DD",
    }
    method = "doorping"
    Config = DoorpingConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": DoorpingConfig(
            seeds=1, net="mini", image_size=16, portion=0.1, ipc=2, iterations=3, outer=2, inner=2, image_lr=1.0,
            batch_real=16, trigger_steps=5, dd_steps=2, dd_cycles=1, dd_epochs=3, dd_batch=256, train_share=0.9,
            victims=1, victim_epochs=20, eval_every=0, cleanse_steps=5, cleanse_images=8, prune_epochs=1,
            strip_overlays=4, sample_images=400,
        ),
        "laptop": DoorpingConfig(
            seeds=5, first_seed=100, net="mini", image_size=16, portion=0.2, ipc=5, iterations=10, outer=4, inner=20,
            image_lr=1.0, batch_real=64, trigger_steps=100, trigger_tolerance=0.0, train_share=0.8,
            dd_steps=5, dd_cycles=1, dd_rate=0.3, dd_lr=0.03, dd_epochs=30, dd_batch=256, dd_decay_epochs=10,
            victims=3, eval_every=5, cleanse_steps=100, cleanse_images=32,
        ),
        # The published numbers of images and outer loops; a small network and fewer passes.
        "desk": DoorpingConfig(
            seeds=5, first_seed=100, real="mnist-png", net="mini", image_size=32, portion=0.05, ipc=10, iterations=50,
            outer=10, inner=10, image_lr=1.0, batch_real=64, trigger_steps=200, trigger_tolerance=0.0, train_share=0.5,
            dd_steps=10, dd_cycles=1, dd_rate=0.3, dd_lr=0.03, dd_epochs=30, dd_batch=512, dd_decay_epochs=10,
            victims=3, eval_every=10,
        ),
        "paper": DoorpingConfig(seeds=1, net="convnet", dd_rate=0.001),
    }  # fmt: skip
