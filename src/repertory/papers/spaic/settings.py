"""The arms, settings and scales of SPAIC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from repertory.core.settings import Design, Group, Recipe, StudyConfig


class SpaicConfig(Recipe):
    """The network, how it is shown its data, and how it learns."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("stdp_rate", "stdp_norm", "stdp_batch", "theta_plus"),
        "evaluation": ("speed_repeats", "speed_steps"),
        "data": ("images",),
        "sample": ("modality",),
    }

    epochs: int = Field(default=5, ge=1, description="passes over the training data")
    lr: float = Field(default=3e-3, gt=0, description="peak learning rate")
    optimizer: str = Field(default="adam", description="any name that timm.optim.create_optimizer_v2 knows")
    net: str = Field(default="mlp:256", description="mlp:WIDTHS, or a Python file that defines build(net)")
    model: str = Field(default="lif", description="neuron model of mlp networks")
    encode: str = Field(default="poisson", description="encoder of values, in mlp networks")
    steps: int = Field(default=20, ge=1, le=10_000, description="time steps per sample")
    dt: float = Field(default=1.0, gt=0, le=100, description="length of a step, ms")
    latency: Literal[0, 1] = Field(default=0, description="steps of every projection, besides its delay")
    mode: Literal["auto", "layerwise", "step"] = Field(default="auto", description="computation: see compile_net")
    modality: Literal["static", "events"] = Field(default="static", description="sample: images, or spike trains")
    images: int = Field(default=0, ge=0, description="training samples used; 0: all")
    neurons: int = Field(default=100, ge=1, le=100_000, description="excitatory neurons of the unsupervised network")
    stdp_rate: float = Field(default=0.01, gt=0, le=1, description="potentiation at a spike; depression is a hundredth")
    stdp_norm: float = Field(default=30.0, gt=0, description="sum of the weights onto a neuron")
    stdp_batch: int = Field(default=16, ge=1, description="samples per batch in STDP; their weight changes are summed")
    theta_plus: float = Field(default=1.0, ge=0, description="mV by which a spike raises the threshold, batch mean")
    input_rate: float = Field(default=0.5, gt=0, le=1, description="spikes per step of a white pixel, unsupervised")
    speed_repeats: int = Field(default=5, ge=5, description="medians of the speed race, for its interval")
    speed_steps: int = Field(default=100, ge=2, description="time steps of the speed race")


class SpaicDesign(Design[SpaicConfig]):
    """What is compared, and at which scales."""

    paper = "spaic"
    arms: ClassVar[Mapping[str, str]] = {
        "stca": "surrogate gradients, a box of width 1 (SPAIC's default)",
        "stbp": "surrogate gradients, a Gaussian",
        "atan": "surrogate gradients, the derivative of an arc tangent",
        "stdp": "unsupervised: STDP and inhibition; labels only assign neurons to classes",
        "mlp": "no spikes: an MLP of the same widths",
    }
    method = "stca"
    Config = SpaicConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": SpaicConfig(seeds=1, epochs=1, images=200, net="mlp:32", neurons=20, speed_steps=10),
        "laptop": SpaicConfig(seeds=5, first_seed=100),
        "desk": SpaicConfig(seeds=5, first_seed=100, real="mnist-png", epochs=10, stdp_norm=78.4),
        "paper": SpaicConfig(seeds=5, epochs=20, steps=100, net="mlp:512", neurons=400, stdp_norm=78.4, batch_size=64),
    }
