"""What a run found: outcomes of trials, and the result that judges them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from repertory import catalog
from repertory.core.files import write_json
from repertory.core.problem import Problem
from repertory.verdicts.judge import Verdict, judge

MEASURE = "measure"
"""Folder name of the figures that need no training; no arm may be called so."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    arm: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Result:
    """All that a run directory, or a recorded result, says."""

    paper: str
    scale: str
    data: str
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str
    date: str
    outcomes: tuple[Outcome, ...]
    figures: dict[str, float]
    """What `Study.measure` and the points of sweeps gave."""
    folder: Path | None = None
    dry_run: bool = False
    machine: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read a run directory. Raises `Problem` if it is none."""
        try:
            head = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise Problem("not a run directory", run_dir, "give the folder that `repertory run --out` wrote") from error
        results = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(run_dir.glob("trials/*/result.json"))]
        measured = next((r for r in results if r["arm"] == MEASURE), {"metrics": {}})
        study = catalog.load(head["paper"])
        arms, figures = list(study.arms), _numbers(measured["metrics"])
        of_points = {r["arm"]: _numbers(r["metrics"]) for r in results if r["arm"] not in arms}
        for sweep in study.sweeps:
            points = sweep.points(head["config"].get(sweep.values, ()))
            figures |= sweep.figures({x: of_points[name] for name, x in points.items() if name in of_points})
        trials = sorted((r for r in results if r["arm"] in arms), key=lambda r: (arms.index(r["arm"]), r["seed"]))
        return cls(
            head["paper"], head["scale"], head["data"], head["config"], head["versions"], head["commit"], head["date"],
            tuple(_outcome(r) for r in trials), figures, run_dir,
            head["dry_run"], head["machine"],
        )  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `save` wrote."""
        names = ("paper", "scale", "data", "config", "versions", "commit", "date", "machine", "dry_run")
        return cls(
            **{name: content[name] for name in names},
            outcomes=tuple(_outcome(t) for t in content["trials"]),
            figures=_numbers(content["figures"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the folder, with the verdicts."""
        names = ("paper", "scale", "data", "dry_run", "date", "machine", "versions", "commit", "config", "figures")
        return {
            **{name: getattr(self, name) for name in names},
            "trials": [vars(outcome) for outcome in self.outcomes],
            "verdicts": [_verdict_json(v) for v in self.verdicts],
        }

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
    def verdicts(self) -> list[Verdict]:
        """The verdict on each claim of the card."""
        declared = catalog.load(self.paper).metrics
        return judge(catalog.card(self.paper), self.metrics, self.figures, self.data, self.scale, declared)

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


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(fields["arm"], fields["seed"], _numbers(fields["metrics"]), fields["seconds"], fields["error"])


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: it is stored as null."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    findings = [{**vars(f), "accepted": list(f.accepted)} for f in verdict.findings]
    return {"claim": verdict.claim, "verdict": verdict.word, "sentence": verdict.sentence, "tests": findings}
