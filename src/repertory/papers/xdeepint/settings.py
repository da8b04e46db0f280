"""The arms, settings and scales of xDeepInt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from repertory.core.settings import Design, Group, StudyConfig

PUBLISHED_BATCH = 4096
"""Rows of a batch that the published penalties are meant for: the loss is summed over the batch."""

Activation = Literal["linear", "relu", "tanh", "sigmoid"]
Network = Literal["lr", "fm", "dnn", "deepfm", "dcn", "xdeepfm", "pin"]


class Arm(NamedTuple):
    """A model and its optimiser."""

    network: Network
    combined: bool = False
    """Group-lasso FTRL for tables and FTRL for other weights, in place of Adam."""
    changes: Mapping[str, Any] = {}
    """Settings that the arm fixes."""


ARMS: Mapping[str, Arm] = {
    "lr": Arm("lr"),
    "fm": Arm("fm"),
    "dnn": Arm("dnn"),
    "deepfm": Arm("deepfm"),
    "dcn": Arm("dcn"),
    "xdeepfm": Arm("xdeepfm"),
    "pin_h1": Arm("pin", changes={"subspaces": 1}),
    "xdeepint_1layer": Arm("pin", changes={"layers": 1}),
    "xdeepint": Arm("pin"),
    "xdeepint_gftrl": Arm("pin", combined=True),
}


class XDeepIntConfig(StudyConfig):
    """The networks, how they are trained, and how files of clicks are read."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "epochs", "batch_size", "shuffle", "valid_fraction", "patience", "lr", "table_alpha", "table_beta",
            "table_l1", "table_l2", "weight_alpha", "weight_l1", "weight_l2",
        ),
        "data": (
            "label", "numeric", "categorical", "fields", "split", "test_fraction", "min_count", "hash_buckets",
        ),
        "sample": ("sample_train", "sample_test"),
    }  # fmt: skip

    dim: int = Field(default=16, ge=1, le=1024, description="K, size of an embedding")
    layers: int = Field(default=4, ge=1, le=64, description="L, of interaction: terms up to the order L + 1")
    activation: Activation = Field(default="linear", description="of an interaction layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on the input of every interaction layer")
    residual: bool = Field(
        default=True, description="False: the last factor without 1 +, and the outputs of all layers stacked"
    )
    heads: int = Field(default=0, ge=0, le=64, description="of the multi-head block; 0, as published: a single PIN")
    head_dim: int = Field(default=8, ge=1, le=1024, description="size of a head's embeddings; subspaces divide it")
    subspaces: int = Field(
        default=16, ge=1, le=1024, description="h, a divisor of K; K: bit by bit, 1: vector by vector"
    )
    hidden: tuple[int, ...] = Field(
        default=(128, 64), description="widths of the perceptron of dnn, deepfm, dcn, xdeepfm"
    )
    cross_layers: int = Field(default=3, ge=1, le=64, description="layers of dcn's cross network")
    maps: tuple[int, ...] = Field(default=(32, 32, 32), description="feature maps of each layer of xdeepfm's CIN")

    epochs: int = Field(default=1, ge=1, le=10_000, description="passes over the training rows")
    batch_size: int = Field(default=PUBLISHED_BATCH, ge=1, description="rows of a step")
    shuffle: bool = Field(default=True, description="False, as published: rows in the order of the file")
    valid_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="share of the training rows by whose AUC the epoch is chosen; 0: the last"
    )
    patience: int = Field(
        default=0, ge=0, description="epochs without a better validation AUC before the end; 0: never"
    )
    lr: float = Field(default=3e-3, gt=0, le=1, description="learning rate of Adam, of all arms but xdeepint_gftrl")
    table_alpha: float = Field(default=0.02, gt=0, le=100, description="α of group-lasso FTRL (tables)")
    table_beta: float = Field(default=1.0, ge=0, le=1e6, description="β of group-lasso FTRL")
    table_l1: float = Field(
        default=10.0, ge=0, le=1e6, description=f"λ₁ of tables at batch {PUBLISHED_BATCH}; in proportion to the batch"
    )
    table_l2: float = Field(
        default=10.0, ge=0, le=1e6, description=f"λ₂ of tables at batch {PUBLISHED_BATCH}; in proportion to the batch"
    )
    weight_alpha: float = Field(default=0.02, gt=0, le=100, description="α of FTRL (all weights but the tables)")
    weight_l1: float = Field(
        default=0.1, ge=0, le=1e6, description=f"λ₁ of weights at batch {PUBLISHED_BATCH}; in proportion to the batch"
    )
    weight_l2: float = Field(
        default=0.1, ge=0, le=1e6, description=f"λ₂ of weights at batch {PUBLISHED_BATCH}; in proportion to the batch"
    )

    label: str = Field(default="", description="column of 0 and 1; empty: label, click, clicked, target or y")
    numeric: tuple[str, ...] = Field(
        default=(),
        description="columns of numbers, binned as floor(ln(x² + 1)); empty, and no categorical: by the rows",
    )
    categorical: tuple[str, ...] = Field(default=(), description="columns whose words are levels; empty: see numeric")
    fields: Literal["all", "released"] = Field(
        default="all", description="of Criteo; released: without I13, which the released script drops by a slip"
    )
    split: Literal["random", "ordered", "released"] = Field(
        default="random",
        description="where no test file with labels lies beside the training file; random: by the seed; ordered: the "
        "last rows to test; released: 801 of 1000 rows to training, in turn",
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of rows to test, unless split=released")
    min_count: int | None = Field(
        default=None,
        ge=0,
        description="a level has an embedding if it comes more often in the training rows; empty: one for every 50,000 "
        "rows, from 1 to the published 20",
    )
    hash_buckets: int = Field(
        default=0, ge=0, le=100_000_000, description="embeddings of a column, by the hash of its words; 0: a vocabulary"
    )
    sample_train: int = Field(default=60_000, ge=100, le=10_000_000, description="training rows of the sample")
    sample_test: int = Field(default=16_000, ge=50, le=10_000_000, description="test rows of the sample")

    @field_validator("numeric", "categorical", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        """Names by commas, as the command line gives them."""
        return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names

    @field_validator("subspaces")
    @classmethod
    def _divides(cls, subspaces: int, info: ValidationInfo) -> int:
        name = "head_dim" if info.data.get("heads") else "dim"
        width = info.data.get(name, subspaces)  # absent where it is itself wrong
        if width % subspaces:
            divisors = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0)
            raise ValueError(f"{subspaces} does not divide {name}={width}; divisors: {divisors}")
        return subspaces


class XDeepIntDesign(Design[XDeepIntConfig]):
    """What is compared, and at which scales."""

    paper = "xdeepint"
    arms: ClassVar[Mapping[str, str]] = {
        "lr": "logistic regression",
        "fm": "factorisation machine",
        "dnn": "a perceptron on the concatenated embeddings",
        "deepfm": "factorisation machine and perceptron on the same embeddings",
        "dcn": "deep & cross network, first version",
        "xdeepfm": "compressed interaction network, perceptron and linear term",
        "pin_h1": "the polynomial interaction network, fields as vectors (h = 1), by Adam",
        "xdeepint_1layer": "the network of the paper with one layer, by Adam",
        "xdeepint": "the network of the paper, bit by bit (h = K), by Adam",
        "xdeepint_gftrl": "the paper's method: that network by the combined optimiser",
    }
    method = "xdeepint_gftrl"
    Config = XDeepIntConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": XDeepIntConfig(
            seeds=1, dim=4, subspaces=4, layers=2, hidden=(16,), maps=(4,), batch_size=32, sample_train=1500,
            sample_test=500, min_count=2,
        ),
        "laptop": XDeepIntConfig(
            seeds=5, first_seed=100, dim=8, subspaces=8, layers=3, epochs=5, batch_size=256, min_count=2,
        ),
        # 200 rows: a run of every part on real data, which compares nothing.
        "desk": XDeepIntConfig(
            seeds=5, real="criteo_sample", dim=8, subspaces=8, layers=3, epochs=3, batch_size=16, test_fraction=0.3,
            min_count=1,
        ),
        # The published run on Criteo's train.txt; Avazu and iPinYou with the same settings, which is our choice.
        "paper": XDeepIntConfig(
            seeds=1, shuffle=False, valid_fraction=0, split="released", min_count=20, threads=0,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = XDeepIntConfig(seeds=1, patience=2, threads=0)
