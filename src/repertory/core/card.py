"""What a paper says: its card, its claims and the figures it published.

A card is `card.toml` in the paper's folder. It is read without importing the paper, so listing the
repertory needs no deep-learning library.
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repertory.core.problem import Problem

Topic = Literal[
    "vision", "video", "driving", "graphs", "spiking", "language", "music",
    "generation", "security", "recommendation", "medicine", "theory",
]  # fmt: skip
TOPICS: tuple[str, ...] = get_args(Topic)
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Sentence = Annotated[str, Field(min_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


class Text(_Part):
    """The same words in English and in Chinese."""

    en: Sentence
    zh: Sentence

    def __getitem__(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en


class Clause(Text):
    """One line in a list."""

    en: Annotated[str, Field(min_length=2, max_length=72)]
    zh: Annotated[str, Field(min_length=2, max_length=36)]


class Published(_Part):
    """One figure as it was published."""

    data: str = Field(min_length=1, description="data set, as the paper names it")
    metric: str = Field(min_length=1, description="metric and, where it has one, its unit")
    arm: str = Field(min_length=1, description="model or baseline that the figure belongs to")
    value: float
    std: float | None = Field(default=None, ge=0, description="published standard deviation, if any")
    source: Literal["abstract", "paper", "code", "readme", "secondary"]
    on: tuple[str, ...] = Field(default=(), description="names of folders with these data; then `ours` and `measured`")
    ours: str = Field(default="", description="the arm of the study that reproduces it")
    measured: str = Field(default="", description="the metric of the study that it is compared with")

    @model_validator(mode="after")
    def _comparable(self) -> Published:
        if len({bool(self.on), bool(self.ours), bool(self.measured)}) > 1:
            raise ValueError("`on`, `ours` and `measured` go together")
        return self


class _Region(_Part):
    """Values that a test accepts: equal within a tolerance, or bounded."""

    equals: float | None = None
    tolerance: float = Field(default=0.0, ge=0, description="absolute; goes with `equals`")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _stated(self) -> _Region:
        bounds = (self.at_least, self.at_most)
        if (self.equals is None) == (bounds == (None, None)):
            raise ValueError("state either `equals` (with `tolerance`) or `at_least` / `at_most`")
        if self.tolerance and self.equals is None:
            raise ValueError("`tolerance` goes with `equals`")
        if self.region[0] > self.region[1]:
            raise ValueError("`at_least` is above `at_most`")
        return self

    @property
    def region(self) -> tuple[float, float]:
        """Closed interval (low, high) of the accepted values."""
        if self.equals is not None:
            return self.equals - self.tolerance, self.equals + self.tolerance
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low, high


class Assay(_Region):
    """What a control must reach for a comparison with it to mean anything: not collapsed, above chance."""

    metric: str


class Compare(_Part):
    """`arm` is better than each arm of `over` in `metric` by more than `margin`; every control has a test of its own.

    A negative margin tests non-inferiority, which needs a control that works: state `assay`. `over_metric`
    compares two metrics, for example the error after and before a disturbance of the same arm.
    """

    kind: Literal["compare"]
    metric: str
    arm: str
    over: str | Annotated[tuple[str, ...], Field(min_length=1)]
    over_metric: str = Field(default="", description="metric of `over`; empty: the same metric")
    margin: float = 0.0
    least: float = Field(
        default=0.0,
        ge=0,
        description="smallest effect beyond the margin worth having, in the metric's unit: a smaller one fails",
    )
    fixed: date | None = Field(default=None, description="day on which margin and `least` were fixed")
    paired: bool = Field(default=True, description="False: Welch's test, where pairing over seeds gains nothing")
    exact: bool = Field(
        default=False, description="the seed cannot change the difference: equal differences decide by themselves"
    )
    assay: Assay | None = None
    better: Literal["higher", "lower"] = "higher"

    @property
    def controls(self) -> tuple[str, ...]:
        return (self.over,) if isinstance(self.over, str) else self.over

    def one_by_one(self) -> list[Compare]:
        """A comparison with each control."""
        return [self.model_copy(update={"over": over}) for over in self.controls]

    def measurements(self) -> list[tuple[str, str]]:
        """(arm, metric) of all that the test looks at."""
        return [(self.arm, self.metric), *((over, self.over_metric or self.metric) for over in self.controls)]


class Value(_Region):
    """A measured figure lies where the claim says. Without `arm`: a figure of `Study.measure`."""

    kind: Literal["value"]
    metric: str
    arm: str = ""
    exact: bool = Field(default=False, description="the seed cannot change the value: equal values decide")

    def measurements(self) -> list[tuple[str, str]]:
        """(arm, metric) of what the test looks at; no arm: a figure of `Study.measure`."""
        return [(self.arm, self.metric)]


class Trend(_Region):
    """The slope of a metric against `x` lies where the claim says.

    `metric` holds `{x}`: "memory_{x}" with x = [1, 2, 4] reads memory_1, memory_2, memory_4. Without
    `arm` the figures come from `Study.measure`.
    """

    kind: Literal["trend"]
    metric: str = Field(pattern=r"\{x\}")
    x: tuple[float, ...] = Field(min_length=3)
    arm: str = ""
    log: bool = Field(default=False, description="fit log y against log x: the slope is the exponent")

    @model_validator(mode="after")
    def _fittable(self) -> Trend:
        if len(set(self.x)) < 3 or (self.log and min(self.x) <= 0):
            raise ValueError(f"x: three different values are needed, positive ones with `log`, got {list(self.x)}")
        return self

    def metrics(self) -> list[str]:
        return [self.metric.replace("{x}", f"{x:g}") for x in self.x]

    def measurements(self) -> list[tuple[str, str]]:
        """(arm, metric) of all that the test looks at; no arm: figures of `Study.measure`."""
        return [(self.arm, metric) for metric in self.metrics()]


class Untested(_Part):
    """The claim cannot be tested here, for the stated reason.

    With `reproduces` it can on the very data of a published figure that says where it is measured (`Published.on`): the
    mean over seeds lies within the published standard deviation, or `tolerance` where none is published, or is better.
    """

    kind: Literal["untested"]
    reason: Text
    reproduces: bool = False
    tolerance: float = Field(default=0.0, ge=0, description="in the metric's unit")
    figures: tuple[Published, ...] = Field(default=(), description="filled in: those of the card that can be compared")

    def measurements(self) -> list[tuple[str, str]]:
        return []


Test = Annotated[Compare | Value | Trend | Untested, Field(discriminator="kind")]


def _listed(tests: Any) -> Any:
    return [tests] if isinstance(tests, dict) else tests


class Claim(_Part):
    """One claim, the figures it rests on, and the tests which must all hold for it."""

    id: Slug
    en: Sentence
    zh: Sentence
    published: tuple[Published, ...] = ()
    test: tuple[Test, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, fields: Any) -> Any:
        return {**fields, "test": _listed(fields["test"])} if isinstance(fields, dict) and "test" in fields else fields

    @property
    def text(self) -> Text:
        return Text(en=self.en, zh=self.zh)

    @property
    def elementary(self) -> tuple[Test, ...]:
        """The tests with one control each: a comparison with several is as many tests."""
        return tuple(one for test in self.test for one in (test.one_by_one() if isinstance(test, Compare) else [test]))


class Note(_Part):
    """What a careful reader should know: a decision of ours, or a finding with its figure."""

    kind: Literal["decision", "finding"]
    en: Sentence
    zh: Sentence


class Card(_Part):
    """A paper: who wrote it, what it does, what it claims, and how true our version is to theirs."""

    id: Identifier
    title: Sentence
    authors: tuple[Sentence, ...] = Field(min_length=1)
    year: int = Field(ge=1950, le=2100)
    venue: str
    arxiv: Annotated[str, Field(pattern=r"^(\d{4}\.\d{4,5})?$")]
    code: str = Field(description="authors' repository as owner/name; empty if there is none")
    fidelity: Literal["exact", "partial", "reconstruction"]
    fidelity_note: str = ""
    topic: Topic
    keywords: tuple[Sentence, ...] = Field(
        min_length=1, description="what a user would type: English, Chinese, abbreviations, tasks"
    )
    extra: str = Field(default="", description="extra of the package that `repertory run` needs; empty: none")
    minutes: float = Field(gt=0, description="time of the laptop scale on two cores")
    clause: Clause = Field(description="what it is, in one clause: for lists and README")
    usage: Sentence
    summary: Text
    claim: tuple[Claim, ...] = Field(min_length=1)
    note: tuple[Note, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_figures(cls, fields: Any) -> Any:
        """Hand the figures that can be compared to the tests that reproduce them."""
        claims = fields.get("claim", ()) if isinstance(fields, dict) else ()
        claims = [claim for claim in claims if isinstance(claim, dict)]
        figures = [figure for claim in claims for figure in claim.get("published", ()) if figure.get("on")]
        tests = [test for claim in claims for test in _listed(claim.get("test", ()))]
        for test in tests:
            if isinstance(test, dict) and test.get("reproduces"):
                test["figures"] = figures
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        if self.fidelity != "exact" and not self.fidelity_note:
            raise ValueError("fidelity_note: say what is not exact")
        ids = [claim.id for claim in self.claim]
        if len(set(ids)) < len(ids):
            raise ValueError("claim: two claims have the same id")
        return self


def read_card(path: Path) -> Card:
    """Read and validate one card.toml.

    Raises:
        Problem: the file is missing, is not TOML, or a field is absent or wrong; names file, field and value.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem("a paper has no readable card", path, "write card.toml; see CONTRIBUTING") from error
    except UnicodeDecodeError as error:
        raise Problem(f"the card is not in UTF-8: {error.reason}", path, "save it in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"the card is not valid TOML: {error}", path, "mend the line named above") from error
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        raise Problem(f"the card is not valid: {explain(error)}", path, "mend the field; see CONTRIBUTING") from error


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: field, reason, value."""
    first, *others = error.errors(include_url=False)
    more = f" (and {len(others)} more)" if others else ""
    if not first["loc"]:  # of several fields together
        return first["msg"].removeprefix("Value error, ") + more
    field = ".".join(str(part) for part in first["loc"])
    value = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"{field}: {first['msg']}{value[:120]}{more}"
