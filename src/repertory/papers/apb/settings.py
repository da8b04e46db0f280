"""The arms, settings and scales of APB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig
from repertory.tasks.settings import EventRecipe


class APBConfig(EventRecipe):
    """Recipe, reading, neurons, association and augmentation; the authors' settings are not published."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("tet", "least_crop", "crop_pad", "hflip", "transpose", "tflip", "swap_polarity"),
        "sample": ("sample", "sample_train", "sample_test"),
    }

    epochs: int = Field(default=100, ge=1, description="passes over the training data")
    optimizer: str = Field(default="adam", description="name of an optimizer in timm")
    plan: str = Field(
        default="lightweight",
        pattern=r"^(lightweight|vggsnn|(\d+C\d+|AP[1-9]\d*)(-(\d+C\d+|AP[1-9]\d*))*)$",
        description="layers: lightweight, vggsnn, or as in 16C3-AP2-32C3-AP2 (maps C kernel, AP pooling)",
    )
    image_size: int = Field(default=48, ge=8, le=512, description="height and width of the input; events are summed")
    steps: int = Field(default=10, ge=1, le=500, description="T: time bins of a recording, or repetitions of an image")
    decay: float = Field(default=0.5, ge=0, le=1, description="tau: decay of the membrane potential per step")
    threshold: float = Field(default=0.5, gt=0, description="v_th of the neurons and of tdBN")
    window: float = Field(default=0.5, gt=0, description="a: half the width of the surrogate's rectangle")
    beta: float = Field(default=0.5, ge=0, description="strength of the association; 0: none")
    cache: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="decay of the moving average of the association over training steps; empty: no average",
    )
    where: Literal["", "hidden", "all"] = Field(
        default="",
        description="convolutions with association; empty: all for events, all but the first for images",
    )
    tet: bool = Field(default=False, description="TET: loss of every step's logits instead of their mean")
    least_crop: float = Field(default=0.7, gt=0, le=1, description="stcf: smallest share of a recording kept by a crop")
    crop_pad: int | None = Field(
        default=None, ge=0, description="stcf: zero padding before a crop, in pixels; empty: a twelfth of the height"
    )
    hflip: bool = Field(default=True, description="stcf: mirror with probability 1/2; not for digits")
    transpose: bool = Field(default=False, description="stcf: exchange rows and columns with probability 1/2")
    tflip: bool = Field(default=True, description="stcf: reverse time with probability 1/2")
    swap_polarity: bool = Field(default=False, description="stcf: exchange polarities when time is reversed")
    sample: Literal["mnist-dvs", "digits"] = Field(
        default="mnist-dvs", description="sample data set to write: recordings, or images"
    )
    sample_train: int = Field(
        default=30, ge=2, le=90, description="training recordings or images per class in the sample"
    )
    sample_test: int = Field(
        default=20, ge=1, le=80, description="held-out recordings or images per class in the sample"
    )


class APBDesign(Design[APBConfig]):
    """What is compared, and at which scales."""

    paper = "apb"
    arms: ClassVar[Mapping[str, str]] = {
        "lif": "the baseline: convolutions, tdBN, LIF neurons",
        "lif+stcf": "the baseline, with spatio-temporal crops and flips",
        "apb-shared": "active synapses of a neuron share a factor (reconstructed)",
        "apb-pair": "products of active synapses are added (reconstructed)",
        "apb-shared+stcf": "the shared factor, with spatio-temporal crops and flips",
        "apb-shared-beta0.25": "the shared factor, half as strong",
        "apb-shared-beta1": "the shared factor, twice as strong",
        "apb-pair-hidden": "products of pairs of spikes only: not in the first layer, whose input is event counts",
    }
    method = "apb-shared+stcf"
    Config = APBConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": APBConfig(
            seeds=1, epochs=1, batch_size=10, lr=2e-3, plan="8C3-AP2-8C3-AP2", image_size=16, steps=3, hflip=False,
            sample_train=2, sample_test=2,
        ),
        "laptop": APBConfig(
            seeds=5, first_seed=100, epochs=10, batch_size=25, lr=2e-3, plan="16C3-AP2-32C3-AP2-32C3-AP2",
            image_size=32, steps=6, hflip=False,
        ),
        "desk": APBConfig(
            seeds=5, first_seed=100, real="cifar10-subset", epochs=8, batch_size=50, lr=2e-3,
            plan="16C3-AP2-32C3-AP2-64C3-AP2", image_size=32, steps=4,
        ),
        # The authors' recipes could not be read: these are what is usual for recordings and for CIFAR-10.
        "paper": APBConfig(seeds=5, workers=8),
        "cifar10": APBConfig(seeds=5, epochs=200, batch_size=64, image_size=32, steps=4, workers=8),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = scales["paper"]
    own_batch: ClassVar[int] = 32
