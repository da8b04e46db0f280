"""The arms, settings and scales of TegFormer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from repertory.core.settings import Design, Group, Recipe, StudyConfig

ZHIHU_GPT2 = "gpt2-chinese-cluecorpussmall"


class Arm(NamedTuple):
    """What an arm consists of."""

    extension: bool = True
    fusion: Literal["gate", "domain", "gpt2"] = "gate"
    positions: bool = False
    prompted: bool = False


ARMS: dict[str, Arm] = {
    "tegformer": Arm(),
    "no_extension": Arm(extension=False),
    "no_fusion": Arm(fusion="domain"),
    "no_fusion_positions": Arm(fusion="domain", positions=True),
    "gpt2_only": Arm(fusion="gpt2"),
    "plain": Arm(extension=False, fusion="domain"),
    "plain_positions": Arm(extension=False, fusion="domain", positions=True),
    "prompted": Arm(prompted=True),
}


class TegFormerConfig(Recipe):
    """Network, language model, training (the fields of `Recipe`), mining, decoding."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "gpt2_steps", "gpt2_batch", "gpt2_lr", "gpt2_dropout", "states_mib", "keep_best", "prompted_lr",
        ),
        "evaluation": ("written", "speed_rounds", "judged"),
        "prediction": ("decoding", "top_k", "top_p", "temperature", "beams", "length_penalty", "most", "samples"),
        "data": (
            "tokenizer", "vocabulary", "max_length", "held_out", "resplit", "train_essays", "mined_essays",
            "extension_words", "textrank", "least_topics",
        ),
        "sample": ("sample_train", "sample_dev", "sample_test", "sample_general"),
    }  # fmt: skip

    epochs: int = Field(default=40, ge=1, description="passes over the training essays")
    batch_size: int = Field(default=128, ge=1, description="essays per process and gradient")
    optimizer: str = Field(default="adam", description="name of an optimizer in timm; with ε = 1e-9")
    betas: tuple[float, float] | None = Field(default=(0.9, 0.98), description="decay of the two moments")
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="constant", description="learning rate over steps"
    )
    keep_best: bool = Field(
        default=False, description="return the weights of the epoch with the lowest loss on dev; False: the last ones"
    )
    prompted_lr: float = Field(default=5e-5, gt=0, description="learning rate of the arm prompted, a fine-tuned GPT-2")

    d: int = Field(default=512, ge=4, le=8192, description="width of the Transformer")
    ff: int = Field(default=2048, ge=1, le=65_536, description="width of its feed-forward layers")
    heads: int = Field(default=8, ge=1, le=128, description="its attention heads; Topic-Extension has 4 always")
    encoder_layers: int = Field(default=6, ge=1, le=64, description="layers that read the topics")
    decoder_layers: int = Field(default=6, ge=1, le=64, description="layers that write the essay")
    drop: float = Field(default=0.1, ge=0, lt=1, description="dropout")
    domain: int = Field(default=32, ge=1, le=4096, description="width of the domain embedding")
    gate: Literal["linear", "sigmoid"] = Field(
        default="linear", description="GPT-2's share of the fused embedding: as in the authors' code, or squashed"
    )
    gpt2: str = Field(
        default="",
        description="folder of a causal model of Hugging Face, a name under $REPERTORY_DATA, none (arms without fusion "
        "alone), or empty: a small GPT-2 is trained on the spot, on general.txt or else on the essays",
    )
    gpt2_width: int = Field(default=64, ge=2, le=4096, description="width of the small GPT-2")
    gpt2_layers: int = Field(default=2, ge=1, le=48, description="its layers")
    gpt2_heads: int = Field(default=4, ge=1, le=64, description="its attention heads")
    gpt2_steps: int = Field(default=600, ge=1, description="steps of its training")
    gpt2_batch: int = Field(default=32, ge=1, description="rows of tokens a step there")
    gpt2_lr: float = Field(default=3e-3, gt=0, description="peak learning rate there")
    gpt2_dropout: bool = Field(
        default=False, description="keep the dropout of the frozen GPT-2 on in training, as in the authors' code"
    )
    states_mib: int = Field(
        default=2048,
        ge=0,
        description="most MiB on disk for GPT-2's states of the training essays, which are then computed once",
    )

    tokenizer: str = Field(
        default="", description="folder of a tokenizer of Hugging Face; empty: that of gpt2, or else words of the texts"
    )
    vocabulary: int = Field(default=20_000, ge=10, description="most words, if the tokenizer is made from the texts")
    max_length: int = Field(
        default=150, ge=4, description="tokens of an essay, [CLS] and [SEP] included; longer ones are cut"
    )
    held_out: float = Field(
        default=0.1, gt=0, lt=0.5, description="share of the essays for dev, and for test, where there are no files"
    )
    resplit: bool = Field(
        default=False, description="put train, dev and test together, and draw parts of these sizes for each seed"
    )
    train_essays: int = Field(default=0, ge=0, description="training essays that a seed draws; 0: all")
    mined_essays: int = Field(default=0, ge=0, description="training essays for extension words; 0: all")
    extension_words: int = Field(
        default=0, ge=0, description="rows of the table that GNN/relations.json points into; 0: as many as it needs"
    )
    textrank: Literal["auto", "jieba", "own"] = Field(
        default="auto", description="keywords by jieba or by our own TextRank; auto: jieba for Chinese if installed"
    )
    least_topics: int = Field(default=4, ge=0, description="an extension word belongs to more topics than this")

    written: int = Field(default=0, ge=0, description="test essays whose topics are written on; 0: all")
    judged: int = Field(default=20_000, ge=10, description="training essays for the classifier of topics at most")
    speed_rounds: int = Field(default=0, ge=0, description="rounds of the race of decoding with cache; 0: no race")

    decoding: Literal["top_k", "nucleus", "greedy", "beam"] = Field(
        default="top_k", description="how tokens are chosen"
    )
    top_k: int = Field(default=10, ge=1, description="top_k: sample from so many likeliest tokens")
    top_p: float = Field(default=0.9, gt=0, le=1, description="nucleus: sample from the likeliest of this probability")
    temperature: float = Field(default=1.0, gt=0, le=100, description="of sampling")
    beams: int = Field(default=4, ge=1, le=1000, description="beam: texts that are followed")
    length_penalty: float = Field(default=1.0, ge=0, le=10, description="beam: exponent of the length")
    most: int = Field(default=150, ge=1, description="tokens of a written essay at most")
    samples: int = Field(default=3, ge=1, le=1000, description="essays that predict writes for each list of topics")

    sample_train: int = Field(default=2400, ge=10, le=100_000, description="training essays in the sample")
    sample_dev: int = Field(default=200, ge=2, le=10_000, description="essays for development in the sample")
    sample_test: int = Field(default=200, ge=2, le=10_000, description="test essays in the sample")
    sample_general: int = Field(default=6000, ge=10, le=100_000, description="sentences without topics in the sample")


class TegFormerDesign(Design[TegFormerConfig]):
    """What is compared, and at which scales."""

    paper = "tegformer"
    arms: ClassVar[Mapping[str, str]] = {
        "plain": "Transformer: topics in, essay out; neither Topic-Extension nor Embedding-Fusion",
        "plain_positions": "the same with sinusoidal positions, which it lacks otherwise",
        "no_fusion": "ablation: domain embedding alone, no GPT-2",
        "no_fusion_positions": "the same with sinusoidal positions, which GPT-2 brings otherwise",
        "no_extension": "ablation: without Topic-Extension",
        "gpt2_only": "ablation: GPT-2's states alone, no domain embedding",
        "prompted": "outside baseline: GPT-2 fine-tuned with the topics as prompt",
        "tegformer": "TegFormer",
    }
    method = "tegformer"
    Config = TegFormerConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": TegFormerConfig(
            seeds=1, epochs=1, batch_size=32, d=16, ff=32, heads=4, encoder_layers=1, decoder_layers=1, domain=8,
            prompted_lr=1e-3, gpt2_width=16, gpt2_layers=1, gpt2_heads=2, gpt2_steps=6, max_length=64, most=20,
            least_topics=1, sample_train=200, sample_dev=10, sample_test=20, sample_general=200,
        ),
        "laptop": TegFormerConfig(
            seeds=5, first_seed=100, epochs=6, batch_size=32, lr=3e-3, schedule="onecycle", gpt2_steps=300, d=64,
            ff=128, heads=4, encoder_layers=2, decoder_layers=2, domain=16, prompted_lr=1e-3, max_length=64, most=63,
            resplit=True, speed_rounds=5,
        ),
        "paper": TegFormerConfig(
            seeds=5, gpt2=ZHIHU_GPT2, max_length=130, held_out=1 / 11, mined_essays=50_000, extension_words=2430,
        ),
        "essay": TegFormerConfig(
            seeds=5, epochs=25, gpt2=ZHIHU_GPT2, max_length=150, held_out=1 / 61, mined_essays=300_000,
            extension_words=2870,
        ),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = TegFormerConfig(gpt2=ZHIHU_GPT2, keep_best=True)
    own_batch = 128
    takes_text = True
