"""The arms, settings and scales of MGTAB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, StudyConfig

Word = Annotated[str, Field(min_length=1, max_length=200)]
Fanout = Annotated[int, Field(ge=-1, le=100_000)]


class Arm(NamedTuple):
    """A method, and the relations that it sees."""

    method: str
    relations: Literal["given", "all", "none"] = "given"
    """Those of the setting `relations`, all that the data have, or no edges at all."""


FEATURE_METHODS = (
    "adaboost", "random_forest", "decision_tree", "xgboost", "svm", "logistic_regression", "naive_bayes", "knn",
)  # fmt: skip
GRAPH_METHODS = ("gcn", "gat", "sage", "rgcn", "botrgcn", "hgt", "shgn", "rgt")
ARMS: Mapping[str, Arm] = {
    **{method: Arm(method, "none") for method in FEATURE_METHODS},
    **{method: Arm(method) for method in GRAPH_METHODS},
    "rgcn_all": Arm("rgcn", "all"),
    "rgt_all": Arm("rgt", "all"),
    "rgt_none": Arm("rgt", "none"),
}


class MGTABConfig(StudyConfig):
    """Networks, full-batch or sampled training, split, relations."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "epochs", "lr", "weight_decay", "schedule", "schedule_epochs", "validation", "fanouts", "batch_size",
            "edges_on_disk",
        ),
        "evaluation": ("speed_rounds",),
        "data": ("tasks", "relations", "split", "train_share", "valid_share"),
        "sample": ("sample_accounts", "sample_unlabelled", "sample_tweet_noise"),
    }  # fmt: skip

    hidden: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        multiple_of=8,
        description="width of the networks; empty: as released, 256, RGT 128",
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="share that is dropped; empty: as released, 0.3, S-HGN and RGT 0.5"
    )
    trans_heads: int = Field(default=4, ge=1, le=64, description="RGT: heads of the transformer of a relation")
    semantic_heads: int = Field(default=4, ge=1, le=64, description="RGT: heads of the attention over relations")
    rel_dim: int = Field(default=200, ge=1, le=4096, description="S-HGN: width of the relation embeddings")
    beta: float = Field(default=0.05, ge=0, le=1, description="S-HGN: weight of the previous layer's attention")
    edge_residual: bool = Field(
        default=False, description="S-HGN: messages use the carried attention, as published; off: as released"
    )
    columns: Literal["correct", "released"] = Field(
        default="correct", description="BotRGCN: columns of the properties; released: one too far right"
    )
    tapered: bool = Field(
        default=False, description="GCN, GAT, SAGE, RGCN: widths H, H/2, H/4, as released for MGTAB-large"
    )

    epochs: int = Field(default=200, ge=1, le=100_000, description="passes over the training accounts")
    lr: float = Field(default=1e-3, gt=0, le=10, description="learning rate of AdamW")
    weight_decay: float | None = Field(
        default=None, ge=0, le=10, description="of AdamW; empty: as released, 5e-4, RGT 5e-3"
    )
    schedule: Literal["constant", "cosine"] = Field(default="constant", description="learning rate over epochs")
    schedule_epochs: int = Field(default=16, ge=1, le=100_000, description="cosine: epochs from the peak to 0")
    validation: Literal["eval", "train"] = Field(
        default="eval",
        description="validation accuracy that chooses the epoch: after the step, without dropout; or, as released, of "
        "the training pass before the step",
    )
    fanouts: tuple[Fanout, ...] = Field(
        default=(), max_length=8, description="neighbours sampled in each hop, -1: all; empty: full batch"
    )
    batch_size: int = Field(
        default=512, ge=1, le=1_000_000, description="accounts a step, where neighbours are sampled"
    )
    edges_on_disk: bool = Field(
        default=False,
        description="where neighbours are sampled, keep the sorted edges in temporary files of the run's folder",
    )

    tasks: tuple[Word, ...] = Field(default=(), description="kinds of labels that are learnt; empty: all")
    relations: tuple[Word, ...] = Field(
        default=("followers", "friends"), description="relations that graph methods see, in this order; empty: all"
    )
    split: Literal["", "random", "ordered", "files"] = Field(
        default="",
        description="drawn by seed, the first accounts in the order of the data, or the files *_idx.pt; empty: files "
        "where there are some, ordered for MGTAB-large, else random",
    )
    train_share: float = Field(default=0.7, gt=0, lt=1, description="share of the labelled accounts for training")
    valid_share: float = Field(
        default=0.2, gt=0, lt=1, description="share that chooses the epoch; the rest is for test"
    )

    speed_rounds: int = Field(
        default=0, ge=0, le=1000, description="rounds of the race of an epoch against PyG's R-GCN; 0: no race"
    )

    sample_accounts: int = Field(default=2000, ge=60, le=20_000, description="labelled accounts in the sample")
    sample_unlabelled: int = Field(
        default=0, ge=0, le=100_000, description="further accounts; any: the sample has the layout of MGTAB-large"
    )
    sample_tweet_noise: float = Field(
        default=7.0, ge=0, le=100, description="length of the noise in the embedding of a tweet"
    )

    @model_validator(mode="after")
    def _consistent(self) -> MGTABConfig:
        if self.validation == "train" and self.fanouts:
            raise ValueError("validation = train needs the full batch: leave fanouts empty")
        if self.train_share + self.valid_share >= 1:
            raise ValueError("train_share and valid_share leave nothing for test")
        return self


class MGTABDesign(Design[MGTABConfig]):
    """What is compared, and at which scales."""

    paper = "mgtab"
    arms: ClassVar[Mapping[str, str]] = {
        "adaboost": "features alone: AdaBoost, 50 stumps",
        "random_forest": "features alone: random forest, 100 trees",
        "decision_tree": "features alone: a decision tree",
        "xgboost": "features alone: XGBoost, 200 trees (needs the extra boosting)",
        "svm": "features alone: support vector machine, RBF kernel",
        "logistic_regression": "features alone: logistic regression",
        "naive_bayes": "features alone: Gaussian naive Bayes",
        "knn": "features alone: 7 nearest neighbours",
        "gcn": "graph convolutions, relations not told apart",
        "gat": "graph attention, relations not told apart",
        "sage": "GraphSAGE, relations not told apart",
        "rgcn": "relational graph convolutions",
        "botrgcn": "BotRGCN: branches for kinds of features, then R-GCN",
        "hgt": "heterogeneous graph transformer",
        "shgn": "Simple-HGN: attention that knows the relation",
        "rgt": "RGT: a transformer a relation, attention over relations",
        "rgcn_all": "R-GCN with all relations of the data",
        "rgt_all": "RGT with all relations of the data",
        "rgt_none": "RGT without edges: a network of each account alone",
    }
    method = "rgt"
    Config = MGTABConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": MGTABConfig(
            seeds=1, sample_accounts=120, epochs=3, lr=3e-3, hidden=16, trans_heads=1, semantic_heads=1
        ),
        "laptop": MGTABConfig(
            seeds=5, first_seed=100, epochs=50, lr=3e-3, hidden=32, trans_heads=2, semantic_heads=2, speed_rounds=25
        ),
        "paper": MGTABConfig(seeds=5),
        "large": MGTABConfig(
            seeds=5, fanouts=(15, 25), schedule="cosine", tapered=True, relations=(), edges_on_disk=True,
            sample_unlabelled=3000,
        ),
    }  # fmt: skip
    own = MGTABConfig(relations=())
