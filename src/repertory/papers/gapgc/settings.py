"""Settings, and what the arms differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, Recipe, StudyConfig

Knowledge = Literal["last", "concat", "max", "sum"]
Pool = Literal["mean", "sum", "max"]
Scorer = Literal["mlp", "cosine"]


class Arm(NamedTuple):
    """How a classifier adapts to a batch of unlabelled graphs."""

    kind: Literal["none", "statistics", "tent", "shot", "contrast"]
    views: Literal["", "random", "learned"] = ""
    groups: bool = False
    spoilt: bool = False
    """The views may change BatchNorm's running statistics."""


ARMS: dict[str, Arm] = {
    "source": Arm("none"),
    "bn": Arm("statistics"),
    "tent": Arm("tent"),
    "shot": Arm("shot"),
    "gcl-tta": Arm("contrast", "random"),
    "ala": Arm("contrast", "learned"),
    "gpps": Arm("contrast", "random", groups=True),
    "gapgc": Arm("contrast", "learned", groups=True),
    "gapgc+view-statistics": Arm("contrast", "learned", groups=True, spoilt=True),
}


class GAPGCConfig(Recipe):
    """Source model (the fields of `Recipe`), and its adaptation. The authors' settings are not published."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("source_encoder", "pretrain_projector"),
        "evaluation": (
            "adapt_batch", "steps", "reset", "orders", "adapt_lr", "tent_lr", "augmenter_lr", "adapt_clip", "views",
            "tau", "lam", "drop", "hard", "threshold", "confidence", "shot_weight",
        ),
        "data": ("tasks", "split"),
        "sample": ("sample_molecules",),
    }  # fmt: skip

    epochs: int = Field(default=100, ge=1, description="of the source model; the best by validation AUC is kept")
    optimizer: str = Field(default="adam", description="of the source model: any name that timm knows")
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="constant", description="learning rate of the source model over steps"
    )
    layers: int = Field(default=5, ge=1, le=50, description="L of GIN")
    dim: int = Field(default=300, ge=2, description="d of GIN")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="of the source model; off while adapting")
    jk: Knowledge = Field(default="last", description="which layers' vectors a node has")
    pool: Pool = Field(default="mean", description="how a graph's vector comes of its nodes'")
    source_encoder: str = Field(default="", description="file of pretrain-gnns (model_gin/*.pth) to start from")
    tasks: str = Field(default="", description="columns of labels, by commas; empty: all columns of 0, 1 and blanks")
    split: Literal["scaffold", "random-scaffold"] = Field(
        default="scaffold",
        description="where the data bring none; scaffold: the frequent for training, the rare for test, as published; "
        "random-scaffold: whole scaffolds at random, anew for each seed",
    )

    adapt_batch: int = Field(default=64, ge=1, description="unlabelled graphs of the stream that come at a time")
    steps: int = Field(default=1, ge=1, description="of ascent and descent for each batch")
    reset: Literal["online", "episodic"] = Field(
        default="online", description="adapt on and on along the stream, or from the source model for each batch"
    )
    orders: int = Field(default=5, ge=1, description="shuffled orders of the stream, over which metrics are averaged")
    adapt_lr: float = Field(default=1e-4, gt=0, description="Adam, of encoder and projector (contrast, shot)")
    tent_lr: float = Field(default=1e-3, gt=0, description="Adam, of BatchNorm's scales and shifts (tent)")
    augmenter_lr: float = Field(default=1e-3, gt=0, description="Adam, of the augmenter")
    adapt_clip: float = Field(default=1.0, gt=0, description="largest gradient norm while adapting")
    views: int = Field(default=4, ge=1, description="V, of each graph")
    tau: float = Field(default=0.1, gt=0, description="τ of the contrast")
    lam: float = Field(default=0.1, ge=0, description="λ: what a dropped bond costs the augmenter")
    drop: float = Field(default=0.2, ge=0, lt=1, description="share of bonds that random views drop")
    scorer: Scorer = Field(default="mlp", description="how the augmenter scores a bond")
    init_keep_bias: float = Field(
        default=0.0, ge=-20, le=20, description="last bias of the augmenter's MLP; 2 keeps 88 % at first"
    )
    augmenter_tau: float = Field(default=1.0, gt=0, description="τ_a of the relaxed draw")
    hard: bool = Field(default=False, description="bonds of keep weight 0.5 and less are dropped altogether")
    threshold: Literal["half", "source-median"] = Field(
        default="half", description="pseudo-label 1 from probability 0.5, or from the source's median on validation"
    )
    confidence: float = Field(
        default=0.0, ge=0, lt=1, description="least probability of a view's pseudo-label to be a positive; 0: any"
    )
    shot_weight: float = Field(default=0.3, ge=0, description="of SHOT's pseudo-labels")
    pretrain_projector: int = Field(default=0, ge=0, description="epochs of the projector on source data beforehand")
    sample_molecules: int = Field(default=1500, ge=60, le=2000, description="molecules in the sample")


class GAPGCDesign(Design[GAPGCConfig]):
    """What is compared, and at which scales."""

    paper = "gapgc"
    arms: ClassVar[Mapping[str, str]] = {
        "source": "no adaptation",
        "bn": "BatchNorm with the statistics of the test batch",
        "tent": "bn, and scales and shifts that minimise the predictions' entropy",
        "shot": "information maximisation and pseudo-labels by centroids; the head stays",
        "gcl-tta": "contrast with views that lack random bonds (InfoNCE)",
        "ala": "contrast with views of the adversarial learnable augmenter, no groups",
        "gpps": "contrast with groups of equal pseudo-labels, bonds dropped at random",
        "gapgc": "both: adversarial views and groups",
        "gapgc+view-statistics": "gapgc whose views may change BatchNorm's running statistics",
    }
    method = "gapgc"
    Config = GAPGCConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": GAPGCConfig(
            seeds=1, layers=2, dim=16, dropout=0.2, epochs=1, orders=1, adapt_batch=16, views=2, sample_molecules=120
        ),
        "laptop": GAPGCConfig(
            seeds=5, first_seed=100, split="random-scaffold", layers=3, dim=64, dropout=0.2, epochs=15
        ),
        "desk": GAPGCConfig(seeds=5, first_seed=100, split="random-scaffold", real="bace"),
        "paper": GAPGCConfig(seeds=5),
    }
