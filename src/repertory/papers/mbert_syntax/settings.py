"""Settings, and what the arms differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig


class Arm(NamedTuple):
    """Which encoder is analysed."""

    encoder: Literal["pretrained", "random", "shuffled"]
    finetuned: bool = False
    """The parser trains the encoder too, which is analysed afterwards."""


ARMS: dict[str, Arm] = {
    "random": Arm("random"),
    "shuffled": Arm("shuffled"),
    "pretrained": Arm("pretrained"),
    "finetuned": Arm("pretrained", finetuned=True),
}
ALPHAS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


class SyntaxConfig(Recipe):
    """Encoder, parser (the fields of `Recipe`), vectors, distances."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": ("mlm_steps", "mlm_batch", "mlm_lr", "sources"),
        "evaluation": (
            "vectors", "outer", "eps", "normalise", "probe_vectors", "alphas", "permutations", "repeats",
            "speed_rounds",
        ),
        "data": ("languages", "source", "sentences", "wals"),
        "sample": ("sample_languages", "sample_train", "sample_dev", "sample_test"),
    }  # fmt: skip

    epochs: int = Field(default=10, ge=1, description="of the parser; the best by LAS on dev is kept")
    batch_size: int = Field(default=16, ge=1, description="sentences a step, of the parser")
    lr: float = Field(default=5e-5, gt=0, description="peak learning rate of the parser")
    betas: tuple[float, float] | None = Field(default=(0.9, 0.99), description="decay of the two moments")
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="poly", description="learning rate over steps; poly with power 1: linear decay"
    )
    power: float = Field(default=1.0, gt=0, description="poly schedule: exponent")

    encoder: str = Field(
        default="",
        description="folder of an encoder of Hugging Face, a name under $REPERTORY_DATA, or empty: a small BERT is "
        "trained on the spot on the sentences",
    )
    hidden: int = Field(default=96, ge=8, le=1024, description="width of the small BERT")
    layers: int = Field(default=4, ge=1, le=24, description="layers of the small BERT")
    heads: int = Field(default=4, ge=1, le=16, description="attention heads of the small BERT")
    vocabulary: int = Field(default=2000, ge=60, le=100_000, description="word pieces of the small BERT")
    max_length: int = Field(default=128, ge=8, le=512, description="subwords of a sentence; longer ones are cut")
    mlm_steps: int = Field(default=1500, ge=1, description="steps of the small BERT's masked-language training")
    mlm_batch: int = Field(default=64, ge=1, description="sentences a step there")
    mlm_lr: float = Field(default=1e-3, gt=0, description="peak learning rate there")

    arc_dim: int = Field(default=512, ge=2, le=4096, description="of the branches for arcs")
    tag_dim: int = Field(default=128, ge=2, le=1024, description="of the branches for relations")
    pos_dim: int = Field(default=100, ge=0, le=1024, description="of the embedding of predicted POS; 0: without")
    root_fix: bool = Field(
        default=True, description="[CLS] can be a head; False: as in the authors' code, which never learns the root"
    )
    source: str = Field(default="", description="language that the parser learns; empty: en, or else the first")
    sources: int = Field(
        default=1, ge=0, description="languages that a parser is trained on, one after the other; 0: all, as published"
    )

    vectors: int = Field(default=2000, ge=20, description="head-dependent vectors of each language for distances")
    outer: int = Field(default=1500, ge=10, description="vectors between which mass is transported")
    eps: float = Field(default=0.1, gt=0, description="ε of Sinkhorn, at squared distances")
    normalise: bool = Field(
        default=False, description="divide vectors by their mean norm over all languages: OTDD is not scale-free"
    )
    probe_vectors: int = Field(
        default=5000, ge=40, description="vectors of each language for probes; half as many of dev and of test"
    )
    alphas: tuple[float, ...] = Field(default=ALPHAS, min_length=1, description="regularisation; dev chooses")
    permutations: int = Field(default=999, ge=9, le=100_000, description="of languages, in Mantel's test")
    repeats: int = Field(default=5, ge=1, le=100, description="of the 5-fold cross-validation of the regression")
    speed_rounds: int = Field(default=0, ge=0, description="rounds of the races; 0: no races")

    languages: str = Field(default="", description="codes by commas; empty: all in the folder")
    sentences: int = Field(default=0, ge=0, description="training sentences of each language that a seed draws; 0: all")
    wals: str = Field(
        default="",
        description="folder with values.csv, codes.csv, parameters.csv; empty: those in the data, or else word order "
        "counted from the treebanks",
    )
    sample_languages: int = Field(default=8, ge=3, le=8, description="languages in the sample")
    sample_train: int = Field(default=1200, ge=30, le=5000, description="training sentences of each")
    sample_dev: int = Field(default=150, ge=10, le=1000, description="sentences for development of each")
    sample_test: int = Field(default=150, ge=10, le=1000, description="sentences for the test of each")

    @field_validator("alphas")
    @classmethod
    def _positive(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if min(alphas) <= 0:
            raise ValueError("give positive numbers")
        return alphas


class SyntaxDesign(Design[SyntaxConfig]):
    """What is compared, and at which scales."""

    paper = "mbert_syntax"
    arms: ClassVar[Mapping[str, str]] = {
        "random": "encoder with random weights",
        "shuffled": "without word order: trained on shuffled sentences; an encoder that is given reads shuffled ones",
        "pretrained": "encoder after self-supervised training",
        "finetuned": "pretrained, then fine-tuned as a parser of one language",
    }
    method = "pretrained"
    Config = SyntaxConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": SyntaxConfig(
            seeds=1, epochs=1, lr=3e-3, hidden=16, layers=2, heads=2, vocabulary=300, mlm_steps=3, mlm_batch=16,
            max_length=64, arc_dim=8, tag_dim=8, pos_dim=4, vectors=100, outer=60, normalise=True, probe_vectors=150,
            alphas=(1e-3,), permutations=19, repeats=1, sample_languages=3, sample_train=48, sample_dev=10,
            sample_test=10,
        ),
        "laptop": SyntaxConfig(
            seeds=5, first_seed=100, epochs=2, lr=3e-3, mlm_steps=1000, max_length=64, arc_dim=128, tag_dim=64,
            pos_dim=32, vectors=400, outer=400, normalise=True, probe_vectors=1000, alphas=(1e-3,),
            sentences=800, speed_rounds=15,
        ),
        "desk": SyntaxConfig(
            seeds=5, first_seed=100, real="ud_pud", encoder="multilingual_encoder", epochs=3, lr=1e-3, arc_dim=256,
            normalise=True, vectors=1500, outer=1000, probe_vectors=1500, alphas=(1e-5, 1e-3), sentences=300,
            speed_rounds=15,
        ),
        "paper": SyntaxConfig(seeds=5, sources=0, encoder="bert-base-multilingual-cased"),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = SyntaxConfig(encoder="bert-base-multilingual-cased")
    own_batch = 16
