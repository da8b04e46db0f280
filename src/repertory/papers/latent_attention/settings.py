"""What the laboratory compares, its settings and its scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from repertory.core.settings import Design, Group, Recipe, StudyConfig

Kernel = Literal["linear", "exponential", "rbf", "features"]
LEAST_LENGTHS = 4
"""Lengths that a slope needs."""


class Arm(NamedTuple):
    """A read-out, and the arguments of its module that differ."""

    what: str
    module: Literal["cme", "softmax", "mean", "nearest", "bayes"]
    options: Mapping[str, Any] = {}
    learned: bool = False
    """Whether `train` fits κ, ridge and the maps W_q, W_k, W_v to the data."""
    digits: bool = True
    """Whether it reads the digits."""
    predicted: float | None = None
    """Exponent of the error over L on G1; None: nothing is predicted."""
    origin: str = "derived"
    """Where the prediction comes from. None is a theorem of the paper."""


ARMS = {
    "cme_linear": Arm(
        "CME attention, linear kernel, λ = σ²/τ²", "cme", {"kernel": "linear"}, learned=True, predicted=-0.5
    ),
    "cme_rbf": Arm("CME attention, Gaussian kernel, λ fixed", "cme", {"kernel": "rbf"}, learned=True),
    "cme_rbf_schedule": Arm(
        "CME attention, Gaussian kernel, λ growing as the root of L", "cme", {"kernel": "rbf", "schedule": True},
        learned=True, predicted=-0.25, origin="upper bound; standard, unverified in the paper",
    ),
    "softmax": Arm("softmax attention at fixed temperature", "softmax", learned=True, predicted=0.0),
    "softmax_rescaled": Arm(
        "softmax attention divided by its limit C", "softmax", {"rescaled": True}, digits=False, predicted=-0.5
    ),
    "mean_pool": Arm("mean of the values: the query is not used", "mean", predicted=0.0),
    "nearest_key": Arm("value of the nearest key: hard attention", "nearest"),
    "bayes": Arm("posterior mean that knows the generator: the floor", "bayes", digits=False, predicted=-0.5),
}  # fmt: skip


class LatentAttentionConfig(Recipe):
    """The generators, the attention, and what is measured."""

    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {
        "model": ("kappa", "ridge", "schedule_constant", "schedule_exponent", "digits_kappa"),
        "data": ("file", "test_fraction"),
        "sample": ("sequences", "length", "d", "m", "sigma", "tau"),
        "evaluation": (
            "laboratory", "lengths", "draws", "draws_longest", "gap_lengths", "gap_sequences", "gap_at_length",
            "gap_at_sequences", "gap_repeats", "gap_steps", "gap_test", "gap_bound", "code_draws", "code_lengths",
            "learned_lengths", "learned_sequences", "learned_epochs", "skews", "transfer_sequences", "transfer_test",
            "digits_lengths", "digits_images",
        ),
    }  # fmt: skip

    epochs: int = Field(default=10, ge=1, description="passes over the training sequences")
    optimizer: str = Field(default="adam", description="name of an optimizer in timm")
    lr: float = Field(default=0.01, gt=0, description="peak learning rate")
    clip_norm: float = Field(default=1.0, ge=0, description="largest gradient norm; 0: no clipping")

    kappa: float = Field(default=2.0, gt=0, le=1e4, description="κ = 1 / temperature, and of the Gaussian kernel")
    ridge: float = Field(default=0.0, ge=0, le=1e6, description="λ of a fixed ridge; 0: σ²/τ² of the generator")
    schedule_constant: float = Field(default=0.05, gt=0, le=1e6, description="c of λ_L = c L^(1 - a)")
    schedule_exponent: float = Field(default=0.5, gt=0, lt=1, description="a: the normalised ridge is c L^-a")
    digits_kappa: float = Field(default=16.0, gt=0, le=1e4, description="κ between the pixels of digits")

    file: str = Field(default="g1", description="which file of a folder with several is read, without .npz")
    test_fraction: float = Field(default=0.25, gt=0, lt=1, description="held-out share of the sequences")

    sequences: int = Field(default=512, ge=8, le=10**6, description="of each sample file")
    length: int = Field(default=128, ge=8, le=10**5, description="tokens of a sequence of the sample")
    d: int = Field(default=4, ge=2, le=1024, description="dimension of the keys")
    m: int = Field(default=3, ge=1, le=1024, description="dimension of the values")
    sigma: float = Field(default=0.5, gt=0, le=100, description="σ of the noise of values")
    tau: float = Field(default=1.0, gt=0, le=100, description="τ of the latent")

    laboratory: bool = Field(default=True, description="run the experiments on generators beside those on the data")
    lengths: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256, 512, 1024), description="L of error curves")
    draws: int = Field(default=64, ge=2, le=10**6, description="sequences at each L")
    draws_longest: int = Field(default=24, ge=2, le=10**6, description="sequences where L is 1024 or more")
    gap_lengths: tuple[int, ...] = Field(
        default=(16, 32, 64, 128, 256, 512, 1024), description="L of the generalisation gap"
    )
    gap_sequences: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256), description="n of the generalisation gap")
    gap_at_length: int = Field(default=64, ge=2, le=10**5, description="L where n varies")
    gap_at_sequences: int = Field(default=64, ge=2, le=10**5, description="n where L varies")
    gap_repeats: int = Field(default=6, ge=1, le=1000, description="training sets whose gaps are averaged")
    gap_steps: int = Field(default=200, ge=1, le=10**5, description="steps of Adam on the empirical risk")
    gap_test: int = Field(default=2000, ge=8, le=10**6, description="fresh sequences; 2/5 of them from L = 512 on")
    gap_bound: float = Field(default=4.0, gt=0, le=100, description="largest Frobenius norms of the control")
    code_draws: int = Field(default=20_000, ge=100, le=10**7, description="sequences of tokens for the codes")
    code_lengths: tuple[int, ...] = Field(default=(5, 10, 20, 40), description="L of the codes")
    learned_lengths: tuple[int, ...] = Field(default=(5, 10, 20, 40, 80), description="L of the learned posterior")
    learned_sequences: int = Field(default=2000, ge=50, le=10**6, description="training sequences of tokens")
    learned_epochs: int = Field(default=30, ge=1, le=10**4, description="passes over them")
    skews: tuple[float, ...] = Field(default=(1, 4, 16, 64, 256), description="first over last eigenvalue of Σ_c")
    transfer_sequences: int = Field(default=400, ge=50, le=10**6, description="masked tokens to pre-train on")
    transfer_test: int = Field(default=20_000, ge=100, le=10**7, description="fresh sequences")
    digits_lengths: tuple[int, ...] = Field(default=(4, 6, 10, 16, 24, 40, 60), description="visible pixels")
    digits_images: int = Field(default=400, ge=2, le=1700, description="held-out digits at each L")

    @field_validator("lengths", "gap_lengths", "gap_sequences", "learned_lengths", "digits_lengths", "code_lengths")
    @classmethod
    def _curve(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) < LEAST_LENGTHS:
            raise ValueError(f"a slope needs {LEAST_LENGTHS} different values, got {list(values)}")
        if min(values) < 2:
            raise ValueError(f"a sequence needs 2 tokens, got {min(values)}")
        return tuple(sorted(values))

    @field_validator("skews")
    @classmethod
    def _skewed(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) < 1:
            raise ValueError(f"ratios of eigenvalues are 1 or more, got {list(values)}")
        return tuple(sorted(values))

    @model_validator(mode="after")
    def _visible(self) -> LatentAttentionConfig:
        if max(self.digits_lengths) > 63:
            raise ValueError("digits have 64 pixels, one of which is the query: digits_lengths go up to 63")
        return self

    @property
    def fixed_ridge(self) -> float:
        """λ of a fixed ridge."""
        return self.ridge or (self.sigma / self.tau) ** 2


SMOKE: dict[str, Any] = {
    "lengths": (16, 32, 64, 128), "draws": 16, "gap_lengths": (16, 32, 64, 128), "gap_sequences": (16, 32, 64, 128),
    "gap_repeats": 2, "gap_steps": 20, "gap_test": 100, "code_draws": 500, "code_lengths": (2, 5, 10, 40),
    "learned_lengths": (5, 10, 20, 40),
    "learned_sequences": 100, "learned_epochs": 2, "transfer_test": 500, "digits_images": 20,
    "digits_lengths": (4, 10, 24, 60), "sequences": 64, "length": 16, "epochs": 3,
}  # fmt: skip


class LatentAttentionDesign(Design[LatentAttentionConfig]):
    """What is compared, and at which scales."""

    paper = "latent_attention"
    arms: ClassVar[Mapping[str, str]] = {name: arm.what for name, arm in ARMS.items()}
    method = "cme_rbf_schedule"
    Config = LatentAttentionConfig
    scales: ClassVar[Mapping[str, StudyConfig]] = {
        "smoke": LatentAttentionConfig(seeds=1, **SMOKE),
        "laptop": LatentAttentionConfig(seeds=5, first_seed=100, epochs=3),
        "desk": LatentAttentionConfig(
            seeds=5, first_seed=100, lengths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096), draws=256, gap_repeats=24
        ),
        "paper": LatentAttentionConfig(seeds=30, draws=256, draws_longest=64, gap_repeats=24),
    }
    own: ClassVar[StudyConfig | None] = LatentAttentionConfig(laboratory=False, epochs=100)
