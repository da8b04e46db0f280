"""Numbers, intervals and durations in words, the same in every report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from repertory import catalog
from repertory.core.card import Claim, Compare, Published, Trend, Value
from repertory.verdicts.judge import Finding
from repertory.verdicts.results import Result


def number(value: float) -> str:
    """Four significant digits; from a thousand on without decimals, but with separators.

    Example:
        >>> number(1361168.0), number(0.123456), number(float("nan"))
        ('1,361,168', '0.1235', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"  # less is what rounding leaves of equal means


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return "-"
    mean = number(float(np.mean(finite)))
    return f"{mean} ± {number(float(f'{np.std(finite, ddof=1):.2g}'))}" if len(finite) > 1 else mean


def figure_of(published: Published) -> str:
    """One published figure in words."""
    std = "" if published.std is None else f" ± {number(published.std)}"
    return f"{published.arm}: {published.metric} {number(published.value)}{std} ({published.data}; {published.source})"


def interval_of(finding: Finding) -> str:
    """The estimate of a test with its interval and what would be accepted."""
    if not math.isfinite(finding.estimate):
        return finding.label
    if math.isinf(finding.low):
        interval = ""
    elif finding.low == finding.high == finding.estimate:
        interval = "" if finding.n == 1 else f" (the same in all {finding.n} seeds)"
    else:
        interval = f", 95 % interval [{number(finding.low)}, {number(finding.high)}], n = {finding.n}"
    return f"{finding.label} = {number(finding.estimate)}{interval}; {_accepted(finding.accepted)}"


def _accepted(region: tuple[float, float]) -> str:
    low, high = region
    if number(low) == number(high):
        return f"claimed: {number(low)}"
    if math.isinf(high):
        return f"claimed: above {number(low)}"
    if math.isinf(low):
        return f"claimed: at most {number(high)}"
    return f"claimed: {number(low)} to {number(high)}"


def measured_in(claim: Claim, result: Result) -> list[tuple[str, str, str]]:
    """(arm, metric, mean ± std) of all that the claim's tests look at, each once; no arm: a figure of `measure`."""
    wanted: list[tuple[str, str]] = []
    for test in claim.test:
        if isinstance(test, Compare):
            wanted += [(test.arm, test.metric), *((over, test.over_metric or test.metric) for over in test.controls)]
        elif isinstance(test, Value):
            wanted.append((test.arm, test.metric))
        elif isinstance(test, Trend):
            wanted += [(test.arm, metric) for metric in test.metrics()]
    rows = []
    for arm, metric in dict.fromkeys(wanted):
        if arm:
            values = [metrics.get(metric, math.nan) for metrics in result.metrics.get(arm, {}).values()]
        else:
            values = [result.figures.get(metric, math.nan)]
        rows.append((arm, metric, spread(values)))
    return rows


def duration(seconds: float) -> str:
    """Example:

    >>> duration(12.3), duration(250), duration(7384)
    ('12 s', '4 min 10 s', '2 h 3 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def claimed_metrics(result: Result) -> list[str]:
    """The metrics of trials that claims are about, in the claims' order; all metrics, if none is."""
    card = catalog.card(result.paper)
    claimed = [metric for claim in card.claim for arm, metric, _ in measured_in(claim, result) if arm]
    present = dict.fromkeys(name for outcome in result.outcomes for name in outcome.metrics)
    return [metric for metric in dict.fromkeys(claimed) if metric in present] or list(present)
