"""Settings, and what the arms differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig

Expansion = Literal["released", "exact"]
ProxyKind = Literal["none", "group", "learned"]


class Arm(NamedTuple):
    """How a student is taught."""

    framework: Literal["teacher", "alone", "cpf", "akd"]
    proxy: ProxyKind = "none"
    fairness: Literal["", "sp", "eo"] = ""


ARMS: dict[str, Arm] = {
    "teacher": Arm("teacher"),
    "student-alone": Arm("alone"),
    "cpf": Arm("cpf"),
    "cpf+reliant": Arm("cpf", "learned", "sp"),
    "cpf+reliant-eo": Arm("cpf", "learned", "eo"),
    "cpf+penalty": Arm("cpf", "none", "sp"),
    "cpf+group": Arm("cpf", "group", "sp"),
    "akd": Arm("akd"),
    "akd+reliant": Arm("akd", "learned", "sp"),
    "akd+reliant-eo": Arm("akd", "learned", "eo"),
    "akd+penalty": Arm("akd", "none", "sp"),
}

STUDENTS = {"teacher": "", "alone": "sgc", "cpf": "plp", "akd": "sgc"}

SETTINGS: dict[str, dict[str, Any]] = {
    "bail": {"num_layers": 10, "cpf_lr": 0.01},
    "german": {"num_layers": 8, "cpf_lr": 0.01},
    "credit": {"num_layers": 10, "cpf_lr": 0.01},
    "small": {"num_layers": 10, "cpf_lr": 1e-3},
    "medium": {"num_layers": 5, "cpf_lr": 1e-3},
}
"""What of CPF's settings depends on the data set, as released (for the GCN teacher); others take those of bail."""


class ReliantConfig(StudyConfig):
    """Teacher, students, proxy."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "teacher_epochs", "cpf_epochs", "akd_epochs", "patience", "alpha", "legendre", "released", "cpf_lr",
            "cpf_weight_decay", "akd_lr", "akd_weight_decay", "knowledge",
        ),
        "evaluation": ("curve",),
        "data": ("label", "sensitive", "join_similar"),
        "sample": ("sample_nodes",),
    }  # fmt: skip

    teacher: Literal["gcn", "sage"] = Field(default="gcn", description="kind of the teacher")
    teacher_epochs: int = Field(default=200, ge=1, description="full-batch steps of the teacher")
    cpf_epochs: int = Field(default=200, ge=1, description="full-batch steps of CPF's student")
    akd_epochs: int = Field(default=600, ge=1, description="full-batch steps of GraphAKD's student")
    patience: int = Field(default=500, ge=1, description="epochs without a better validation score before a loop ends")
    alpha: float | None = Field(default=None, ge=0, description="weight of the fairness term; empty: CPF 1000, AKD 10")
    legendre: Expansion = Field(default="released", description="coefficients of the smooth step")
    released: bool = Field(
        default=False,
        description="the authors' code as it is: the proxy replaces two features (CPF), true labels of all nodes in "
        "the eo term, the last proxy, rounded teacher probabilities (CPF), dropout in validation (AKD)",
    )
    num_layers: int | None = Field(default=None, ge=2, le=100, description="L of PLP; empty: as released, or 10")
    emb: int = Field(default=64, ge=1, description="hidden width of PLP's MLP")
    mlp_layers: int = Field(default=2, ge=1, le=2, description="layers of PLP's MLP")
    feat_drop: float = Field(default=0.8, ge=0, lt=1, description="dropout of PLP's input")
    attn_drop: float = Field(default=0.2, ge=0, lt=1, description="dropout of PLP's attention")
    cpf_lr: float | None = Field(
        default=None, gt=0, description="learning rate of PLP and its proxy; empty: as released, or 0.01"
    )
    cpf_weight_decay: float = Field(default=0.01, ge=0, description="of PLP and its proxy")
    akd_lr: float = Field(default=1e-4, gt=0, description="learning rate of SGC; proxy and discriminators: 10 times it")
    akd_weight_decay: float = Field(default=5e-4, ge=0, description="of SGC, its proxy and the discriminators")
    knowledge: str = Field(default="", description="file of a teacher's outputs, in place of training one")
    label: str = Field(default="", description="own table: the column to predict")
    sensitive: str = Field(default="", description="own table: the column of the sensitive attribute")
    join_similar: bool = Field(
        default=False, description="own table without edges: join people to those most like them, as is done for bail"
    )
    sample_nodes: int = Field(default=800, ge=60, le=10_000, description="people in the sample")
    curve: tuple[float, ...] = Field(
        default=(0.0, 1.0, 10.0, 100.0, 1000.0), description="α of the accuracy-ΔSP curve (CPF); none: no curve"
    )


class ReliantDesign(Design[ReliantConfig]):
    """What is compared, and at which scales."""

    paper = "reliant"
    arms: ClassVar[Mapping[str, str]] = {
        "teacher": "the teacher itself",
        "student-alone": "GraphAKD's student without a teacher (CPF's learns nothing without one)",
        "cpf": "CPF: distillation as it is",
        "cpf+reliant": "CPF with the learned proxy, for statistical parity",
        "cpf+reliant-eo": "CPF with the learned proxy, for equal opportunity",
        "cpf+penalty": "CPF with the fairness term alone, no proxy",
        "cpf+group": "CPF with the fairness term and the true group as input, in use too",
        "akd": "GraphAKD: distillation as it is",
        "akd+reliant": "GraphAKD with the learned proxy, for statistical parity",
        "akd+reliant-eo": "GraphAKD with the learned proxy, for equal opportunity",
        "akd+penalty": "GraphAKD with the fairness term alone, no proxy",
    }
    method = "cpf+reliant"
    Config = ReliantConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": ReliantConfig(seeds=1, sample_nodes=120, teacher_epochs=20, cpf_epochs=10, akd_epochs=10, curve=()),
        "laptop": ReliantConfig(seeds=5, first_seed=100),
        "desk": ReliantConfig(seeds=5, first_seed=100, real="german-credit"),
        "paper": ReliantConfig(seeds=5, teacher_epochs=1000, cpf_epochs=1000, released=True, curve=()),
    }
