"""Training curves of a run: what its trials logged, as a few points with mean and range over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

Points = list[list[float]]
"""(step, mean, lowest, highest), ascending in step."""
Curves = dict[str, dict[str, Points]]
"""Arm -> what was logged ("loss"; "teacher/loss" in a named part of a trial) -> points."""
POINTS = 24
"""Of a curve, at most: neighbouring steps are averaged within a trial."""
NAMES = 4
"""Curves of an arm, at most: those that were logged first."""


def curves_of(run_dir: Path, trials: Iterable[tuple[str, int]]) -> Curves:
    """The curves of the trials of a run directory.

    Args:
        run_dir: with trials/ARM-SEED/metrics.jsonl, as `Session.log` writes them; trials without are passed over.
        trials: (arm, seed).
    """
    logged: dict[str, dict[str, list[dict[int, float]]]] = {}
    for arm, seed in trials:
        of_trial: dict[str, dict[int, float]] = {}
        for name, step, value in _records(run_dir / "trials" / f"{arm}-{seed}" / "metrics.jsonl"):
            of_trial.setdefault(name, {})[step] = value
        for name, values in of_trial.items():
            logged.setdefault(arm, {}).setdefault(name, []).append(values)
    return {
        arm: {name: _points(of) for name, of in list(names.items())[:NAMES] if len(set().union(*of)) > 1}
        for arm, names in logged.items()
    }


def _records(path: Path) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of what is finite; a line that was cut short is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
            step, part = int(record.pop("step")), record.pop("part", "")
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        record.pop("lr", None)  # a setting, not an outcome
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                yield f"{part}/{name}" if part else name, step, float(value)


def _points(trials: list[dict[int, float]]) -> Points:
    """Of the trials of an arm, which log at steps of their own."""
    steps = sorted(set().union(*trials))
    points = []
    for group in np.array_split(steps, min(POINTS, len(steps))):
        of_trials = [[trial[step] for step in group.tolist() if step in trial] for trial in trials]
        means = [float(np.mean(values)) for values in of_trials if values]
        found = (float(np.mean(means)), min(means), max(means))
        points.append([int(group[-1]), *(float(f"{value:.4g}") for value in found)])
    return points
