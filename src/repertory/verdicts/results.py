"""What a run found: outcomes of trials, and the result that judges them."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from repertory import catalog
from repertory.core.card import explain
from repertory.core.files import read_json, write_json
from repertory.core.problem import Damaged, Problem
from repertory.core.study import OUTPUTS
from repertory.verdicts.curves import Curves, curves_of
from repertory.verdicts.evidence import Evidence, Metrics
from repertory.verdicts.judge import Verdict, judge
from repertory.verdicts.sequential import LOOKS
from repertory.verdicts.statistics import Interval, cohens_d, interquartile_mean, superiority

MEASURE = "measure"
"""Folder name of the figures that need no training; no arm may be called so."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: all that the process which started it needs to know."""

    arm: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str = ""
    repeats: dict[str, list[float]] = field(default_factory=dict)
    """Of a timing: the medians that its metric is the median of."""
    commit: str = ""
    """That the trial ran under; empty: not known, or outside a checkout."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that it ran under; empty: not known."""
    card: str = ""
    """Digest of the card.toml that it ran under; empty: not known."""
    date: str = ""
    """When it began; empty: not known."""
    files: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """Path below the trial's folder -> content, where the trial ran on a machine that does not share the folder."""

    def to_json(self) -> dict[str, Any]:
        """Everything but the files."""
        told = {name: value for name, value in vars(self).items() if name not in ("repeats", "files")}
        return {**told, "repeats": self.repeats} if self.repeats else told


@dataclass(frozen=True)
class Origin:
    """The code that some trials of a result ran under."""

    commit: str
    versions: dict[str, str]
    trials: int
    """How many they are."""


@dataclass(frozen=True)
class Effect:
    """How far arm A is from arm B in a metric."""

    difference: float
    """Mean of A - B over the seeds that both have."""
    d: float
    """Cohen's d: difference of the means in pooled standard deviations; NaN without spread."""
    superiority: float
    """P(A > B) + P(A = B) / 2 for a random trial of each."""
    pairs: int
    """Seeds that both have."""


Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""JSON has no NaN: it is stored as null."""
Stored = dict[str, Number]


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class TrialFile(_Stored):
    """result.json of a trial."""

    status: Literal["done", "failed"]
    arm: str
    seed: int
    metrics: Stored
    seconds: float
    error: str
    repeats: dict[str, list[float]] = Field(default_factory=dict)
    commit: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    card: str = ""
    date: str = ""

    def outcome(self) -> Outcome:
        return Outcome(**{name: value for name, value in self if name != "status"})


class RunFile(_Stored):
    """config.json of a run directory."""

    paper: str
    scale: str
    data: str
    data_dir: str | None = None
    dry_run: bool
    hardware: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str
    """That the run began with; its trials name their own."""
    date: str
    machine: str
    fresh: bool = False
    """Begun by --fresh, and not ended yet."""
    looks: list[int] = Field(default_factory=list)
    """Numbers of seeds at which verdicts were formed."""
    scheduled: bool = False
    """Seeds are added until the claims are decided: verdicts are formed at the scheduled looks alone."""
    under_way: dict[str, int] = Field(default_factory=dict)
    """Of a look that is not finished: arm -> number of seeds that it gets."""


class DataFile(_Stored):
    """data.json of a run directory: what the data were when the run began."""

    files: dict[str, str]
    refused: list[str]
    """Files that a Problem complained about, which may be mended."""


S = TypeVar("S", bound=_Stored)


def read_stored(path: Path, kind: type[S], remedy: str) -> S:
    """Read and check a JSON file of a run directory.

    Raises:
        Damaged: cut short, or without the fields that belong there; names the field.
        FileNotFoundError: absent.
    """
    content = read_json(path, remedy)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise Damaged(f"{path.name} is damaged: {explain(error)}", path, remedy) from error


def read_run_file(run_dir: Path) -> RunFile:
    """config.json of a run directory.

    Raises:
        Damaged: see `read_stored`.
        FileNotFoundError: absent.
    """
    remedy = "restore the file, or use --fresh to start over"
    return read_stored(run_dir / "config.json", RunFile, remedy)


def read_trial_file(path: Path) -> TrialFile:
    """result.json of a trial.

    Raises:
        Damaged: see `read_stored`.
        FileNotFoundError: absent.
    """
    return read_stored(path, TrialFile, "delete the file: the trial is evaluated again from its checkpoint")


@dataclass(frozen=True)
class Result:
    """All that a run directory, or a recorded result, says."""

    paper: str
    scale: str
    data: str
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str
    """That the run began with; `origins` lists those of its trials."""
    date: str
    outcomes: tuple[Outcome, ...]
    figures: dict[str, float]
    """What `Study.measure` and the points of sweeps gave."""
    folder: Path | None = None
    dry_run: bool = False
    machine: str = ""
    repeats: dict[str, list[float]] = field(default_factory=dict)
    """Of the figures that are timings: their medians."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which verdicts were formed, this one included."""
    scheduled: bool = False
    """Verdicts rest on the trials up to the last scheduled look that each arm completed."""
    closing: str = ""
    """What a run until decided came to: what is decided, what is open and why; empty for other runs."""
    recorded_curves: Curves = field(default_factory=dict, repr=False)
    """Of a recorded result, see `curves`."""

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read a run directory.

        Raises:
            Damaged: a file of it is damaged; names the file.
            Problem: not a run directory.
        """
        try:
            head = read_run_file(run_dir)
        except FileNotFoundError as error:
            raise Problem("not a run directory", run_dir, "give the folder that `repertory run --out` wrote") from error
        outcomes = [read_trial_file(path).outcome() for path in sorted(run_dir.glob("trials/*/result.json"))]
        study = catalog.load(head.paper)
        measured = next((o for o in outcomes if o.arm == MEASURE), Outcome(MEASURE, 0, {}, 0.0))
        arms, figures = list(study.arms), dict(measured.metrics)
        of_points = {o.arm: o.metrics for o in outcomes if o.arm not in arms}
        for sweep in study.sweeps:
            points = sweep.points(head.config.get(sweep.values, ()))
            figures |= sweep.figures({x: of_points[name] for name, x in points.items() if name in of_points})
        trials = sorted((o for o in outcomes if o.arm in arms), key=lambda o: (arms.index(o.arm), o.seed))
        return cls(
            head.paper, head.scale, head.data, head.config, head.versions, head.commit, head.date,
            tuple(trials), figures, run_dir, head.dry_run, head.machine, measured.repeats, tuple(head.looks),
            head.scheduled,
        )  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `save` wrote."""
        names = ("paper", "scale", "data", "config", "versions", "commit", "date", "machine", "dry_run")
        return cls(
            **{name: content[name] for name in names},
            outcomes=tuple(_outcome(trial) for trial in content["trials"]),
            figures=_numbers(content["figures"]),
            repeats=content.get("repeats", {}),
            looks=tuple(content.get("looks", ())),
            scheduled=content.get("scheduled", False),
            recorded_curves=content.get("curves", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the folder, with the verdicts."""
        names = ("paper", "scale", "data", "dry_run", "date", "machine", "versions", "commit", "config", "figures")
        return {
            **{name: getattr(self, name) for name in names},
            "repeats": self.repeats,
            "looks": list(self.looks),
            "scheduled": self.scheduled,
            "trials": [self._trial_json(outcome) for outcome in self.outcomes],
            "verdicts": [_verdict_json(v) for v in self.verdicts],
            "curves": self.curves,
        }

    def _trial_json(self, outcome: Outcome) -> dict[str, Any]:
        """A trial names its versions only where they differ from those that the run began with."""
        same = outcome.versions in ({}, self.versions)
        return {name: value for name, value in outcome.to_json().items() if name != "versions" or not same}

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file: date, versions, configuration, all metrics, verdicts."""
        write_json(Path(path), self.to_json())
        return Path(path)

    @cached_property
    def metrics(self) -> dict[str, dict[int, dict[str, float]]]:
        """arm -> seed -> metric -> value; a failed trial is there, empty."""
        table: dict[str, dict[int, dict[str, float]]] = {}
        for outcome in self.outcomes:
            table.setdefault(outcome.arm, {})[outcome.seed] = outcome.metrics
        return table

    @cached_property
    def curves(self) -> Curves:
        """Training curves: arm -> what was logged -> (step, mean, lowest, highest) over seeds."""
        if self.folder is None:
            return self.recorded_curves
        return curves_of(self.folder, ((outcome.arm, outcome.seed) for outcome in self.outcomes))

    @property
    def completed(self) -> dict[str, int]:
        """Arm -> the largest scheduled look that it completed, with all seeds from the first; 0: none."""
        first = self.config.get("first_seed", 0)
        return {
            arm: max((look for look in LOOKS if seeds.keys() >= set(range(first, first + look))), default=0)
            for arm, seeds in self.metrics.items()
        }

    @property
    def seen(self) -> Metrics:
        """The metrics that verdicts rest on: of all trials, or up to the last scheduled look of each arm."""
        if not self.scheduled:
            return self.metrics
        first = self.config.get("first_seed", 0)
        return {
            arm: {seed: self.metrics[arm][seed] for seed in range(first, first + look)}
            for arm, look in self.completed.items()
        }

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each claim of the card."""
        return judge(catalog.card(self.paper), self.evidence, self.data, self.scale)

    @property
    def evidence(self) -> Evidence:
        """All that verdicts rest on."""
        figures = {**self.figures, **self.repeats}
        return Evidence(self.seen, figures, catalog.load(self.paper).metrics, self.looks)

    @property
    def origins(self) -> list[Origin]:
        """The distinct commits and versions that the trials ran under, in the order in which they came.

        Trials that name none, as earlier versions wrote them, count as the commit that the run began with.
        """
        distinct: dict[str, Origin] = {}
        for outcome in sorted(self.outcomes, key=lambda o: o.date):
            commit, versions = (outcome if outcome.card else self).commit, outcome.versions or self.versions
            key = json.dumps([commit, versions], sort_keys=True)
            before = distinct.get(key)
            distinct[key] = Origin(commit, versions, before.trials + 1 if before else 1)
        return list(distinct.values())

    def effect(self, arm: str, over: str, metric: str) -> Effect:
        """How far an arm is from another in a metric, over the trials that verdicts rest on.

        Raises:
            Problem: the arms share no seed with a finite value.
        """
        pairs, _ = self.evidence.paired((arm, metric), (over, metric))
        if not pairs:
            raise Problem(self.evidence.gap((arm, metric), (over, metric)), f"{self.paper}, {metric}", "run both arms")
        (ours, _), (theirs, _) = self.evidence.column(arm, metric), self.evidence.column(over, metric)
        difference = float(np.mean([a - b for a, b in pairs]))
        return Effect(difference, cohens_d(ours, theirs), superiority(ours, theirs), len(pairs))

    def interquartile_mean(self, *metrics: str) -> dict[str, Interval]:
        """Arm -> mean of the middle half of its trials, with a 95 % bootstrap interval (Agarwal et al. 2021).

        Args:
            metrics: one, or one for each of several tasks on a common scale; resampling is stratified by task. Arms
                without a finite value of each are left out.
        """
        found = {arm: {name: self.evidence.column(arm, name)[0] for name in metrics} for arm in self.seen}
        return {arm: interquartile_mean(tasks) for arm, tasks in found.items() if all(tasks.values())}

    def outputs(self, arm: str, seed: int) -> dict[str, np.ndarray]:
        """What came out for each example of the test part in one trial, as `Session.keep_outputs` stored it.

        Returns:
            Name -> (N, ...), such as label, prediction and probability; the same examples for all arms of a seed.

        Raises:
            Problem: a recorded result, which holds no outputs; or the trial kept none.
            Damaged: the file cannot be read.
        """
        if self.folder is None:
            raise Problem("recorded results hold no outputs of examples", self.paper, "run the study")
        path = self.folder / "trials" / f"{arm}-{seed}" / OUTPUTS
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except FileNotFoundError as error:
            remedy = "give an arm and a seed of a trial of a study that keeps them"
            raise Problem("there are no outputs of this trial", path, remedy) from error
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            remedy = "delete it and the result.json beside it: the trial is evaluated again from its checkpoint"
            raise Damaged(f"{path.name} is damaged: {error}", path, remedy) from error

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def seconds(self) -> float:
        """Time that the trials took, summed."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def table(self) -> Any:
        """One row per trial, as a pandas DataFrame: arm, seed, seconds, error, and every metric."""
        import pandas

        return pandas.DataFrame(
            [{"arm": o.arm, "seed": o.seed, **o.metrics, "seconds": o.seconds, "error": o.error} for o in self.outcomes]
        )


def variance_by_source(split: Result, init: Result, metric: str, arm: str) -> dict[str, float]:
    """Unbiased variance of a metric over seeds, from either source of randomness alone.

    Each is measured at the first seed's value of the other source. Their sum is the variance of an ordinary run
    (`vary="all"`) as far as the sources do not interact.

    Args:
        split: of a run with `vary="split"`: other splits or samples, the same initialisation and training noise.
        init: of a run with `vary="init"`, otherwise alike: the same data, other initialisations.
        metric: name.
        arm: name.

    Returns:
        {"split": variance, "init": variance}, in the square of the metric's unit.

    Raises:
        Problem: other runs than these, or fewer than two finite values.
    """
    variance = {}
    for source, result in {"split": split, "init": init}.items():
        if result.config.get("vary") != source:
            raise Problem(
                f"this run did not vary {source} alone", result.folder or result.paper, f"use --vary {source}"
            )
        values, _ = result.evidence.column(arm, metric)
        if len(values) < 2:
            found = f"{len(values)} finite value{'s' * (len(values) != 1)} of {metric}"
            raise Problem(f"{found} for {arm}: there is no variance", result.folder or result.paper, "run more seeds")
        variance[source] = float(np.var(values, ddof=1))
    free = catalog.load(split.paper).Config.free_to_change | {"vary"} if split.paper == init.paper else set()
    heads = ({name: getattr(result, name) for name in ("paper", "scale", "data")} for result in (split, init))
    ours, theirs = (head | result.config for head, result in zip(heads, (split, init), strict=True))
    if differing := [name for name in ours if name not in free and ours[name] != theirs.get(name)]:
        raise Problem(f"the runs differ in more than `vary`: {', '.join(differing)}", split.paper, "run both alike")
    return variance


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(**{**fields, "metrics": _numbers(fields["metrics"])})


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: it is stored as null."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    findings = [{**vars(f), "accepted": list(f.accepted)} for f in verdict.findings]
    return {"claim": verdict.claim, "verdict": verdict.word, "sentence": verdict.sentence, "tests": findings}
