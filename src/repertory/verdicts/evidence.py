"""What verdicts rest on: the metrics of trials, and the figures that need no training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from repertory.core.study import Metric, find_metric

Metrics = Mapping[str, Mapping[int, Mapping[str, float]]]
"""arm -> seed -> metric -> value. A failed trial has no metrics, an arm before its first look no seeds."""
Figures = Mapping[str, float | Sequence[float]]
"""What `Study.measure` gave: exact figures, and repeated medians of timings."""


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured in one run directory."""

    trials: Metrics = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)
    declared: Mapping[str, Metric] = field(default_factory=dict)
    """The study's metrics: they tell what data a metric needs."""
    looks: Collection[int] = ()
    """Numbers of seeds at which verdicts were formed before."""

    def column(self, arm: str, metric: str) -> tuple[list[float], list[int]]:
        """Finite values of a metric by seed, and the seeds that lack one."""
        values, failed = [], []
        for seed, metrics in sorted(self.trials.get(arm, {}).items()):
            value = metrics.get(metric, math.nan)
            if math.isfinite(value):
                values.append(float(value))
            else:
                failed.append(seed)
        return values, failed

    def paired(self, a: tuple[str, str], b: tuple[str, str]) -> tuple[list[tuple[float, float]], list[int]]:
        """Pairs of finite values of two (arm, metric) by seed, and the seeds that both ran but one failed at."""
        pairs, failed = [], []
        for seed in sorted(set(self.trials.get(a[0], {})) & set(self.trials.get(b[0], {}))):
            first, second = (self.trials[arm][seed].get(metric, math.nan) for arm, metric in (a, b))
            if math.isfinite(first) and math.isfinite(second):
                pairs.append((float(first), float(second)))
            else:
                failed.append(seed)
        return pairs, failed

    def lack(self, arm: str, metric: str) -> str:
        """What a metric needs that all of an arm's finished trials leave out; "" if it is there, or needs nothing."""
        finished = [metrics for metrics in self.trials.get(arm, {}).values() if metrics]
        known = find_metric(self.declared, metric)
        if not finished or any(metric in metrics for metrics in finished) or known is None or not known.needs:
            return ""
        return f"{metric} has no meaning on these data: it needs {known.needs}"

    def gap(self, *measurements: tuple[str, str]) -> str:
        """Why several (arm, metric) have no value in common."""
        for arm, metric in measurements:
            if arm not in self.trials:
                return f"the arm {arm} was not run"
            if not self.trials[arm]:
                return f"the first look at {arm} is not finished"
            if not self.column(arm, metric)[0]:
                return f"no trial of {arm} gave a finite {metric}"
        return f"{' and '.join(arm for arm, _ in measurements)} share no seed"
