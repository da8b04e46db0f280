"""The arms, settings and scales of TENET."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig


class Arm(NamedTuple):
    """What is trained, and how its futures come about."""

    kind: Literal["constant velocity", "six velocities", "network", "ensemble"]
    flow: bool = True
    """Train with the Temporal Flow Header."""
    fusion: Literal["kmeans", "top"] = "kmeans"
    """Of an ensemble."""


ARMS: Mapping[str, Arm] = {
    "constant_velocity": Arm("constant velocity"),
    "six_velocities": Arm("six velocities"),
    "tenet_no_tfh": Arm("network", flow=False),
    "tenet": Arm("network"),
    "tenet_top6": Arm("ensemble", fusion="top"),
    "tenet_kmeans": Arm("ensemble", fusion="kmeans"),
}


class TenetConfig(Recipe):
    """The network (its sizes are ours: those of the report could not be read), its input and its training."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "score_weight", "score_target", "flow_weight", "flow_modes", "mirror", "history_dropout", "all_scored",
            "keep_best",
        ),
        "evaluation": ("test_agents", "test_lanes", "members", "ensemble_features", "nms_radius", "speed_rounds"),
        "prediction": ("ensemble", "focal", "pictures"),
        "data": ("train_agents", "train_lanes", "lane_points", "cache"),
        "sample": ("sample_train", "sample_val", "sample_test", "sample_share"),
    }  # fmt: skip

    dim: int = Field(default=128, ge=8, le=4096, description="D, width of all tokens; a multiple of heads and of 8")
    heads: int = Field(default=8, ge=1, le=64, description="attention heads")
    encoder_layers: int = Field(default=3, ge=1, le=64, description="rounds of attention along time, agents and map")
    decoder_layers: int = Field(default=2, ge=1, le=64, description="of the trajectory tokens")
    modes: int = Field(default=6, ge=1, le=64, description="K, futures of a scenario; the benchmark asks for 6")
    history: int = Field(default=50, ge=2, le=1000, description="observed steps, at 10 Hz")
    future: int = Field(default=60, ge=1, le=1000, description="steps to predict; a multiple of step_points")
    step_points: int = Field(default=5, ge=1, le=100, description="s, steps that one trajectory token predicts")
    patch: int = Field(
        default=1, ge=1, le=100, description="observed steps of an agent token; more is faster; a divisor of history"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in attention blocks")

    score_weight: float = Field(default=1.0, ge=0, le=1000, description="of the loss of the score header")
    score_target: Literal["hard", "soft"] = Field(
        default="hard", description="hard: the mode with the least final error; soft: softmax of minus that error in m"
    )
    flow_weight: float = Field(default=0.5, ge=0, le=1000, description="λ, of the loss of the Temporal Flow Header")
    flow_modes: Literal["best", "mean"] = Field(
        default="best", description="modes whose features reconstruct the history"
    )
    mirror: float = Field(default=0.5, ge=0, le=1, description="probability of mirroring left and right in training")
    history_dropout: float = Field(
        default=0.2, ge=0, le=1, description="probability of dropping the first steps of the history in training"
    )
    all_scored: bool = Field(default=False, description="train on scored tracks too, each as the focal one")
    keep_best: bool = Field(
        default=False, description="return the weights with the least brier-minFDE on the validation scenarios"
    )

    test_agents: int = Field(default=64, ge=1, le=1024, description="nearest agents seen at test time")
    test_lanes: int = Field(default=192, ge=1, le=4096, description="nearest map polylines seen at test time")
    members: int = Field(default=3, ge=1, le=100, description="networks of an ensemble")
    ensemble_features: Literal["endpoint", "trajectory"] = Field(
        default="endpoint", description="what K-means clusters: the last point, or every tenth point"
    )
    nms_radius: float = Field(
        default=2.0, ge=0, le=100, description="m, of tenet_top6: endpoints nearer to a more probable one are dropped"
    )
    speed_rounds: int = Field(default=10, ge=0, le=1000, description="rounds of the race of input sizes; 0: no race")

    ensemble: tuple[str, ...] = Field(default=(), description="model directories whose futures are pooled by K-means")
    focal: str = Field(default="", description="track to predict in a CSV file; empty: its column focal_track_id")
    pictures: int = Field(default=6, ge=1, le=1000, description="scenarios that are drawn")

    train_agents: int = Field(default=32, ge=1, le=1024, description="nearest agents seen in training")
    train_lanes: int = Field(default=64, ge=1, le=4096, description="nearest map polylines seen in training")
    lane_points: int = Field(default=20, ge=2, le=200, description="L, points of a map polyline")
    cache: bool = Field(
        default=False, description="keep the tensors of each scenario as .npz in the cache folder, about 0.1 MB each"
    )

    sample_train: int = Field(default=720, ge=1, le=100_000, description="training scenarios of the sample")
    sample_val: int = Field(default=300, ge=1, le=100_000, description="validation scenarios of the sample")
    sample_test: int = Field(default=60, ge=1, le=100_000, description="test scenarios of the sample, without future")
    sample_share: float = Field(
        default=0.67, gt=0, le=1, description="share of the sample's scenarios that a seed draws; not of your data"
    )

    @field_validator("ensemble", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        """Folders by commas, as the command line gives them."""
        return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _divides(self) -> TenetConfig:
        if self.dim % self.heads or self.dim % 8:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads} and of 8")
        if self.future % self.step_points or self.history % self.patch:
            raise ValueError(
                f"future={self.future} is no multiple of step_points={self.step_points}, or history={self.history} "
                f"of patch={self.patch}"
            )
        return self


FULL = {
    "optimizer": "adamw", "lr": 5e-4, "weight_decay": 1e-4, "min_lr": 1e-6, "batch_size": 64, "epochs": 60,
    "warmup_epochs": 3.0, "clip_norm": 5.0, "threads": 0, "workers": 8,
}  # fmt: skip
"""Our recipe for the whole data set; that of the report could not be read."""


class TenetDesign(Design[TenetConfig]):
    """What is compared, and at which scales."""

    paper = "tenet"
    arms: ClassVar[Mapping[str, str]] = {
        "constant_velocity": "the focal road user keeps its velocity: one future",
        "six_velocities": "six speeds and headings relative to the last ones, K-means centres of the training futures",
        "tenet_no_tfh": "the network without the Temporal Flow Header",
        "tenet": "the network, trained with the Temporal Flow Header",
        "tenet_top6": "several of these networks, their six most probable futures with distinct endpoints",
        "tenet_kmeans": "several of these networks, their futures fused by weighted K-means",
    }
    method = "tenet"
    Config = TenetConfig
    own_batch = 64
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": TenetConfig(
            seeds=1, dim=16, heads=2, encoder_layers=1, decoder_layers=1, train_agents=4, train_lanes=8, test_agents=6,
            test_lanes=12, patch=10, lane_points=6, members=2, epochs=2, batch_size=4, lr=1e-3,
            sample_train=8, sample_val=4, sample_test=2, sample_share=1.0, speed_rounds=0, pictures=2,
        ),
        "laptop": TenetConfig(
            seeds=5, first_seed=100, dim=32, heads=4, encoder_layers=1, decoder_layers=1, patch=5, train_agents=8,
            train_lanes=24, test_agents=12, test_lanes=48, epochs=30, batch_size=32, lr=2e-3, weight_decay=1e-4,
            min_lr=1e-6, warmup_epochs=1.5, clip_norm=5.0, dropout=0.0, cache=True,
        ),
        "paper": TenetConfig(seeds=1, **FULL),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = TenetConfig(seeds=1, **FULL)
