"""Settings, and what the arms differ in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig


class Arm(NamedTuple):
    """Who continues the grooves: a rule, or a language model and the text it has read before."""

    rule: Literal["human", "random", "repeat", ""] = ""
    text: Literal["", "docstrings", "shuffled"] = ""


ARMS: dict[str, Arm] = {
    "human": Arm("human"),
    "random": Arm("random"),
    "repeat": Arm("repeat"),
    "scratch": Arm(),
    "shuffled": Arm(text="shuffled"),
    "pretrained": Arm(text="docstrings"),
}


class DrumsConfig(Recipe):
    """Encoding, model, fine-tuning (the fields of `Recipe`), generation."""

    main_group: ClassVar[Group] = "model"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "training": (
            "lora", "lora_r", "lora_alpha", "lora_dropout", "prompt_loss_weight", "pretrain_steps", "pretrain_batch",
            "pretrain_length", "pretrain_lr", "text_size", "endpoint_files",
        ),
        "evaluation": ("continuations", "compat", "speed_rounds"),
        "prediction": ("temperature", "max_new_tokens", "constrained", "wav"),
        "data": ("measures", "given", "time_signatures", "note_map", "trim_silence", "split", "train_grooves"),
        "sample": ("sample_grooves",),
    }  # fmt: skip

    epochs: int = Field(default=4, ge=1, description="passes over the training grooves")
    batch_size: int = Field(default=8, ge=1, description="grooves a step")
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="poly", description="learning rate over steps; poly with power 1: linear decay"
    )
    power: float = Field(default=1.0, gt=0, description="poly schedule: exponent")
    warmup_epochs: float = Field(default=0.4, ge=0, description="linear warm-up; a tenth of the epochs")

    model: str = Field(
        default="",
        description="folder of a causal language model of Hugging Face, a name under $REPERTORY_DATA, or empty: a "
        "small GPT-2 on bytes, pre-trained on the spot on docstrings of Python's standard library",
    )
    width: int = Field(default=64, ge=8, le=2048, description="width of the small GPT-2")
    layers: int = Field(default=2, ge=1, le=48, description="layers of the small GPT-2")
    heads: int = Field(default=4, ge=1, le=32, description="attention heads of the small GPT-2")
    context: int = Field(default=2048, ge=64, le=32_768, description="positions of the small GPT-2, in bytes")
    scratch: Literal["same", "small"] = Field(
        default="same",
        description="network of the arm scratch: that of the others with fresh weights, or the small GPT-2",
    )

    lora: bool = Field(default=False, description="learn low-rank differences of all linear maps (LoRA), by peft")
    lora_r: int = Field(default=16, ge=1, le=1024, description="rank of LoRA")
    lora_alpha: float = Field(default=32, gt=0, description="scale of LoRA, over the rank")
    lora_dropout: float = Field(default=0.05, ge=0, lt=1, description="dropout before LoRA's maps")
    prompt_loss_weight: float = Field(
        default=0.0, ge=0, le=1, description="weight of the prompt's tokens in the loss; 0.01 with OpenAI, it is said"
    )
    pretrain_steps: int = Field(default=1500, ge=1, description="steps of the small GPT-2 on text")
    pretrain_batch: int = Field(default=8, ge=1, description="windows of text a step")
    pretrain_length: int = Field(default=192, ge=2, le=32_768, description="tokens of a window")
    pretrain_lr: float = Field(default=3e-3, gt=0, description="peak learning rate on text")
    text_size: int = Field(default=900_000, ge=1000, le=20_000_000, description="characters of docstrings")
    endpoint_files: bool = Field(
        default=False, description="write the JSONL files that fine-tuning endpoints take beside the trial"
    )

    measures: int = Field(default=16, ge=3, le=16, description="of a groove; 16: the whole, fewer: its beginning")
    given: int = Field(default=2, ge=1, le=15, description="measures of the prompt")
    time_signatures: Literal["4-4", "x-4"] = Field(
        default="4-4", description="4-4 as the paper says, or x-4 as its code reads, in measures of 16 rows"
    )
    note_map: str = Field(default="", description='columns of further notes: "44=hi-hat, 39=snare"')
    trim_silence: bool = Field(default=False, description="cut empty measures at the end of a groove")
    split: Literal["published", "drawn"] = Field(
        default="published", description="that of info.csv, or one of the same sizes that the seed draws"
    )
    train_grooves: int = Field(default=0, ge=0, description="training grooves that a seed draws; 0: all")

    temperature: float = Field(default=0.9, ge=0, le=10, description="of sampling; 0: the most likely token")
    max_new_tokens: int = Field(default=1000, ge=1, le=32_768, description="longest completion, in tokens")
    constrained: bool = Field(default=False, description="draw well-formed rows only")
    wav: bool = Field(default=True, description="write a WAV beside each MIDI file, of a small drum synthesiser")
    continuations: int = Field(default=1, ge=1, le=100, description="drawn for each groove of the test part")
    compat: bool = Field(
        default=True, description="two newlines between rows when measures are compared, as in the authors' code"
    )
    speed_rounds: int = Field(default=0, ge=0, description="rounds of the races; 0: no races")
    sample_grooves: int = Field(default=150, ge=12, le=2000, description="grooves in the sample")

    @model_validator(mode="after")
    def _given_below_measures(self) -> DrumsConfig:
        if self.given >= self.measures:
            raise ValueError(f"given={self.given} of measures={self.measures}: leave a measure to be continued")
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}")
        return self


class DrumsDesign(Design[DrumsConfig]):
    """What is compared, and at which scales."""

    paper = "llm_drums"
    arms: ClassVar[Mapping[str, str]] = {
        "human": "the rest of the groove as it was played",
        "random": "every cell of the grid a fair coin",
        "repeat": "the second measure again and again",
        "scratch": "the same language model with fresh weights, fine-tuned as long",
        "shuffled": "pre-trained on the same text with its tokens in random order",
        "pretrained": "pre-trained on text, fine-tuned on grooves: the paper's method",
    }
    method = "pretrained"
    Config = DrumsConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": DrumsConfig(
            seeds=1, epochs=2, warmup_epochs=0.2, lr=2e-3, width=16, layers=1, heads=2, context=512, measures=4,
            given=2, pretrain_steps=20, pretrain_length=64, text_size=20_000, split="drawn", sample_grooves=12,
            max_new_tokens=60, constrained=True, wav=False,
        ),
        "laptop": DrumsConfig(
            seeds=5, first_seed=100, epochs=16, warmup_epochs=1.6, batch_size=2, lr=2e-3, eval_every=4, context=512,
            measures=4, pretrain_steps=750, split="drawn", train_grooves=60, continuations=4, speed_rounds=10,
        ),
        "desk": DrumsConfig(
            seeds=5, first_seed=100, real="groove_midi", epochs=8, warmup_epochs=0.8, lr=2e-3, split="drawn",
            max_new_tokens=2000, continuations=2, speed_rounds=10,
        ),
        "paper": DrumsConfig(seeds=5, model="gpt2", lora=True),
    }  # fmt: skip
    own: ClassVar[StudyConfig | None] = DrumsConfig(epochs=8, warmup_epochs=0.8, lr=2e-3, max_new_tokens=2000)
    own_batch = 8
