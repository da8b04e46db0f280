"""What a study can be told: its arms, its settings and their values at each scale.

Nothing here imports torch, so that the command line checks an arm, a scale or a setting at once.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from repertory.core.card import explain
from repertory.core.problem import Problem, suggest

Group = Literal["model", "training", "evaluation", "prediction", "data", "sample", "run"]
OWN = "own"
"""In place of the name of a scale: the published recipe for one's own data, see `Design.own`."""
GROUPS: tuple[Group, ...] = get_args(Group)
"""In the order in which settings are shown."""


class StudyConfig(BaseModel):
    """What every study can be told. A paper's own configuration adds fields, each documented and bounded.

    Fields are shown by group. A field belongs to the group whose entry in `groups` names it, else to the `main_group`
    of the class that declares it first: the model's, for a paper's own fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    main_group: ClassVar[Group] = "run"
    groups: ClassVar[Mapping[Group, tuple[str, ...]]] = {"data": ("real",)}
    free_to_change: ClassVar[frozenset[str]] = frozenset({"seeds"})
    """Fields that no figure of a trial depends on: a run may go on with other values."""

    seeds: int = Field(
        default=3, ge=1, le=10_000, description="number of repetitions; claims are judged on paired seeds"
    )
    first_seed: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="number of the first seed; earlier ones were looked at before the tests were fixed",
    )
    vary: Literal["all", "split", "init"] = Field(
        default="all",
        description="what the seed drives: split and sample of the data, initialisation and training, or all; what it "
        "does not drive is that of the first seed",
    )
    real: str = Field(default="", description="data set under $REPERTORY_DATA that this scale reads; empty: the sample")
    threads: int = Field(
        default=1,
        ge=0,
        le=1024,
        description="CPU threads of a trial, 0: all cores; small models run best on one, and --jobs fills the others",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        named = {name for names in cls.groups.values() for name in names}
        if absent := sorted(named - set(cls.model_fields)):
            raise TypeError(f"{cls.__name__}.groups: no field is called {', '.join(absent)}")

    @classmethod
    def group_of(cls, field: str) -> Group:
        """The group that a field is shown in."""
        bases = [base for base in cls.__mro__ if issubclass(base, StudyConfig)]
        for base in bases:
            for group, names in vars(base).get("groups", {}).items():
                if field in names:
                    return group
        declaring = [base for base in bases if field in inspect.get_annotations(base)]
        return vars(declaring[-1]).get("main_group", "model")


OPTIMIZERS = frozenset(
    """
    adabelief adadelta adafactor adafactorbv adafactorbvc adagrad adahessian adam adamax adamc adamp adamuon adamw
    adamwlegacy adan adanw adopt adoptc adoptw bnbadam bnbadam8bit bnbadamw bnbadamw8bit bnbademamix
    bnbademamix8bit bnblion bnblion8bit bnbsgd bnbsgd8bit cadafactor cadafactorbv cadafactorbvc cadamc cadamp
    cadamw cadan cadanw cadopt cadoptc cadoptw clamb clambw claprop clion clionc cmars cnadamc cnadamw crmsproptf
    csgdc csgdp csgdw fusedadam fusedadamw fusedlamb fusednovograd fusedsgd kron kronc kronw lamb lambc lambcd
    lambcw lambw laprop lapropc larc lars lion lionc madgrad madgradw mars momentum muon nadam nadamc nadamlegacy
    nadamuon nadamw nesterov nesterovw nlarc nlars nmuon novograd novogradc novogradw radabelief radam radamlegacy
    radamw rmsprop rmsproptf rmsproptfc rmsproptfw sgd sgdc sgdp sgdw
    """.split()  # noqa: SIM905  a hundred names
)
"""The optimizers of timm. It has them by name only once it is imported, and torch with it."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class Recipe(StudyConfig):
    """How a model is trained. Studies that use `fit` derive their configuration from it."""

    main_group: ClassVar[Group] = "training"
    free_to_change: ClassVar[frozenset[str]] = StudyConfig.free_to_change | {"workers"}

    epochs: int = Field(default=10, ge=1, description="passes over the training data")
    batch_size: int = Field(default=32, ge=1, description="samples per process and gradient")
    accumulate: int = Field(default=1, ge=1, description="batches whose gradients are averaged for one step")
    optimizer: str = Field(default="adamw", description="name of an optimizer in timm")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="not applied to biases and other 1-d parameters")
    decay_all: bool = Field(default=False, description="apply weight_decay to biases and 1-d parameters too")
    layer_decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="learning rate of a layer relative to the next, by the model's group_matcher; 0: one for all",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD-like optimizers; onecycle sets its own")
    betas: tuple[Decay, Decay] | None = Field(
        default=None, description="decay of the two moments, of Adam-like optimizers; empty: the optimizer's own"
    )
    schedule: Literal["constant", "cosine", "onecycle", "poly", "step"] = Field(
        default="cosine", description="learning rate over steps"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="linear warm-up; onecycle sets its own")
    warmup_lr: float = Field(default=1e-6, ge=0, description="learning rate at step 0 of the warm-up")
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at the end")
    decay_epochs: float = Field(default=30.0, gt=0, description="step schedule: epochs between two decays")
    milestones: tuple[float, ...] = Field(
        default=(), description="step schedule: epochs after which the rate decays; replaces decay_epochs"
    )
    decay_rate: float = Field(default=0.1, gt=0, le=1, description="step schedule: factor of a decay")
    power: float = Field(default=0.9, gt=0, description="poly schedule: exponent")
    clip_norm: float = Field(default=0.0, ge=0, description="largest gradient norm; 0: no clipping")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="moving average of the weights; 0: none")
    ema_returned: bool = Field(
        default=True, description="training returns the moving average; False: it is evaluated only"
    )
    eval_every: int = Field(default=1, ge=1, description="epochs between two evaluations during training")
    patience: int = Field(
        default=0, ge=0, description="evaluations without improvement before training stops; 0: never stop early"
    )
    workers: int = Field(default=0, ge=0, le=512, description="data-loading processes")

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        plain = name.removeprefix("lookahead_")
        if plain not in OPTIMIZERS:
            raise ValueError(f"timm has no optimizer of this name{suggest(plain, OPTIMIZERS, '; ')}")
        return name


C = TypeVar("C", bound=StudyConfig)


class Design(Generic[C]):
    """What a paper compares, and with which settings. `settings.py` of a paper declares it; its study derives from it.

    A `settings.py` must not import torch, nor any module of the paper that does: the command line loads it alone.
    """

    paper: ClassVar[str]
    """Identifier of the paper."""
    arms: ClassVar[Mapping[str, str]]
    """name -> one line; published baselines, the method, ablations."""
    method: ClassVar[str]
    """The arm that is the paper's own."""
    Config: ClassVar[type[StudyConfig]]
    scales: ClassVar[Mapping[str, StudyConfig]]
    """"smoke", "laptop", "paper"; with real mid-size data also "desk"."""
    own: ClassVar[StudyConfig | None] = None
    """What `train --data` starts from: the smallest published network with its published recipe, which `Study.scaled`
    fits to the data. None: the laptop scale."""
    own_batch: ClassVar[int] = 1
    """Samples a step, over all processes, that the learning rate of `own` is meant for."""
    takes_text: ClassVar[bool] = False
    """Whether `Study.predict` takes words in place of a path: what names no file is given to it as it is."""


def study_config(design: type[Design[Any]], scale: str, changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """The configuration of a scale, with fields changed.

    Raises:
        Problem: unknown scale or field (names the closest ones), or a value out of its range.
    """
    if scale not in design.scales:
        raise Problem(
            f"{design.paper} has no scale {scale!r}{suggest(scale, design.scales)}",
            "--scale",
            f"choose from {', '.join(design.scales)}",
        )
    return changed(design, design.scales[scale], changes)


def own_config(design: type[Design[Any]], changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """What `train --data` starts from, see `Design.own`, with fields changed.

    Raises:
        Problem: unknown field (names the closest ones), or a value out of its range.
    """
    return changed(design, design.own or design.scales["laptop"], changes)


def changed(design: type[Design[Any]], config: StudyConfig, changes: Mapping[str, Any] | None) -> StudyConfig:
    """A configuration with fields changed.

    Raises:
        Problem: unknown field (names the closest ones), or a value out of its range.
    """
    changes, known = dict(changes or {}), design.Config.model_fields
    for name, value in changes.items():
        if name not in known:
            raise Problem(
                f"{design.paper} has no setting {name!r}{suggest(name, known)}",
                f"--set {name}={value}",
                f"`repertory settings {design.paper}` lists them all",
            )
    try:
        return design.Config.model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        if not place:
            given = " ".join(f"--set {name}={value}" for name, value in changes.items()) or design.paper
            remedy = f"change one of them; `repertory settings {design.paper}` describes all"
            raise Problem(f"settings that do not go together: {explain(error)}", given, remedy) from error
        name = str(place[0])
        raise Problem(
            f"bad setting {explain(error)}", f"--set {name}={changes.get(name)}", f"{name}: {known[name].description}"
        ) from error


def saved_config(design: type[Design[Any]], saved: Mapping[str, Any], where: object) -> StudyConfig:
    """The configuration that a model directory was trained with.

    Raises:
        Problem: it does not fit the settings that the paper has now.
    """
    try:
        return design.Config.model_validate(saved)
    except ValidationError as error:
        raise Problem(f"the model is of another version: {explain(error)}", where, "train it anew") from error


def check_arms(design: type[Design[Any]], arms: Iterable[str], where: str = "--arms") -> None:
    """Raises `Problem` for an arm that the paper does not have; names the closest ones."""
    for arm in arms:
        if arm not in design.arms:
            raise Problem(
                f"{design.paper} has no arm {arm!r}{suggest(arm, design.arms)}",
                where,
                f"arms: {', '.join(design.arms)}",
            )


def real_data(name: str) -> Path:
    """The folder of a real data set under $REPERTORY_DATA.

    Raises:
        Problem: the variable is unset, or the folder is not there.
    """
    root = os.environ.get("REPERTORY_DATA", "")
    folder = Path(root) / name
    if not root or not folder.exists():
        raise Problem(
            f"this scale reads the real data set {name}",
            f"REPERTORY_DATA={root or '(unset)'}",
            f"set REPERTORY_DATA to a folder that holds {name}/, or pass --data, or use --scale laptop",
        )
    return folder
