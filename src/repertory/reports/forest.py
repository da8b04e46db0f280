"""Geometry of forest plots: what is tested, every seed, estimate, interval, and what the test accepts.

Templates draw them as inline SVG. Positions are percentages of the width, so that text and marks keep their size on
a phone, and colours are CSS variables: no picture library, no JavaScript, dark mode and print for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from repertory.core.card import Claim, Compare, Published, Test, Trend
from repertory.reports.reasons import reason_of
from repertory.reports.words import (
    WORDS,
    axis_of,
    claimed,
    estimate_of,
    metric_named,
    metrics_of,
    rounded,
    signed,
    with_unit,
)
from repertory.verdicts.decisions import Finding, Word
from repertory.verdicts.judge import Verdict
from repertory.verdicts.results import Result
from repertory.verdicts.statistics import mean_interval

ROOM = 0.06
"""Share of an axis that stays free on either side."""


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """An axis on which all finite values lie, with some room around them."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = (high - low) * ROOM or abs(low) * ROOM or 1.0
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width; beyond an end: at the end.

        Example:
            >>> Axis(-1.0, 1.0).at(0.5), Axis(-1.0, 1.0).at(math.inf)
            (75.0, 100.0)
        """
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)

    @cached_property
    def ticks(self) -> list[tuple[float, str]]:
        """(position, label) of about four round values."""
        values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [float(value) for value in values if self.low <= value <= self.high]
        return [(self.at(value), _tick(value)) for value in inside]


def _tick(value: float) -> str:
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return "0" if abs(value) < 1e-12 else text.replace("-", "−")


@dataclass(frozen=True)
class Row:
    """One test: a line of a forest plot."""

    test: Test | None
    label: str
    word: Word | Literal["mean"]
    """The verdict of the test; "mean" where an arm is shown as it is."""
    dots: tuple[float, ...]
    """What each seed gave."""
    estimate: float
    low: float
    high: float
    n: int
    said: str
    """The estimate with its unit."""
    interval: str
    """Its interval in brackets; "" for an exact figure."""
    wanted: str
    """What the test accepts, in words."""
    method: str
    reason: str
    published: tuple[tuple[float, str], ...] = ()
    """(difference, in words) of published figures on these very data: hollow marks on the row itself."""


@dataclass(frozen=True)
class Mark:
    """A published difference on other data, on an axis of its own that shares only its zero with the plot."""

    at: float
    said: str


@dataclass(frozen=True)
class Plot:
    """Rows that share an axis and what is accepted."""

    rows: tuple[Row, ...]
    axis: Axis
    accepted: tuple[float, float]
    least: float
    label: str
    exact: bool
    """No row has an interval: an axis says nothing that the figures do not."""
    elsewhere: tuple[tuple[str, tuple[Mark, ...], Axis], ...] = ()
    """(what is published, differences, axis) on other data."""

    @property
    def shade(self) -> tuple[float, float] | None:
        """(start, width) of the accepted region in percent; None where nothing is tested."""
        if math.isinf(self.accepted[0]) and math.isinf(self.accepted[1]):
            return None
        start, end = map(self.axis.at, self.accepted)
        return start, round(max(end - start, 0.4), 2)

    @property
    def drawn(self) -> bool:
        """Whether there is something to see: an exact figure that must equal another is only told."""
        return not (self.exact and math.isclose(*self.accepted, rel_tol=1e-6))

    @property
    def edges(self) -> list[float]:
        """Positions of the finite ends of the accepted region."""
        return [self.axis.at(end) for end in dict.fromkeys(self.accepted) if math.isfinite(end)]

    @property
    def matters(self) -> float | None:
        """From where on the effect matters; None where any effect does."""
        return self.axis.at(self.accepted[0] + self.least) if self.least else None


@dataclass(frozen=True)
class Curve:
    """A trend: points, the fitted line, and the steepest and flattest lines that are accepted."""

    label: str
    points: tuple[tuple[float, float], ...]
    """(x, y) of the measured points in percent of the width and pixels from the top."""
    line: tuple[float, float, float, float]
    bounds: tuple[tuple[float, float, float, float], ...]
    """Lines through the middle of the points with the accepted slopes."""
    ticks: tuple[tuple[float, str], ...]
    tops: tuple[tuple[float, str], ...]
    """(pixels from the top, label) on the vertical axis."""


HEIGHT = 150
"""Of a curve, in pixels."""


def plots(claim: Claim, verdict: Verdict, result: Result, lang: str = "en") -> tuple[list[Plot], list[Curve]]:
    """The plots of a claim's tests; comparisons of one metric with one margin share an axis."""
    groups: dict[object, list[tuple[Test, Finding]]] = {}
    curves = []
    for test, finding in zip(claim.elementary, verdict.findings, strict=True):
        if not math.isfinite(finding.estimate):
            continue
        if isinstance(test, Trend) and (curve := _curve(test, finding, result, lang)):
            curves.append(curve)
        shared = (test.metric, test.over_metric, finding.accepted, finding.least) if isinstance(test, Compare) else ()
        groups.setdefault(shared or id(test), []).append((test, finding))
    return [_plot(claim, group, result, lang) for group in groups.values()], curves


def _plot(claim: Claim, group: Sequence[tuple[Test, Finding]], result: Result, lang: str) -> Plot:
    rows = [_row(claim, test, finding, result, lang) for test, finding in group]
    test, finding = group[0]
    bounds = [end for end in finding.accepted if math.isfinite(end)]
    values = [value for row in rows for value in (*row.dots, row.estimate, row.low, row.high)]
    values += bounds + [mark for row in rows for mark, _ in row.published]
    if isinstance(test, Compare):
        values += [0.0, finding.accepted[0] + finding.least]
    metric = metric_named(metrics_of(result), getattr(test, "metric", ""))
    return Plot(
        tuple(rows),
        Axis.over(values),
        finding.accepted,
        finding.least,
        metric[lang] if isinstance(test, Compare) else axis_of(metric, lang),
        all(not row.interval for row in rows) and not isinstance(test, Compare),
        tuple(_elsewhere(claim, [test for test, _ in group], result, lang)),
    )


def _row(claim: Claim, test: Test, finding: Finding, result: Result, lang: str) -> Row:
    label, _ = estimate_of(test, finding, metrics_of(result), lang)
    digits, unit = _digits(test, finding, result), _unit(test, result, lang)
    exact = finding.low == finding.high or (math.isinf(finding.low) and math.isinf(finding.high))
    ends = ", ".join(rounded(end, digits) for end in (finding.low, finding.high))
    return Row(
        test,
        label.replace(" - ", " − "),
        finding.word,
        tuple(_dots(test, finding, result)),
        finding.estimate,
        finding.low,
        finding.high,
        finding.n,
        with_unit(rounded(finding.estimate, digits), unit),
        "" if exact else f"[{ends}]",
        claimed(finding, lang).replace("-", "−"),
        finding.method,
        reason_of(test, finding, lang),
        tuple(
            (value, with_unit(rounded(value, digits), unit))
            for figure, value in published_differences(claim, test)
            if _same_data(figure, result)
        ),
    )


def arms_plot(result: Result, metric: str, lang: str = "en") -> Plot:
    """A metric of every arm: each seed, the mean and its 95 % interval."""
    declared, rows = metric_named(metrics_of(result), metric), []
    for arm, seeds in result.metrics.items():
        values = [found[metric] for found in seeds.values() if math.isfinite(found.get(metric, math.nan))]
        if not values:
            continue
        found = mean_interval(values)
        exact = found.low == found.high or not math.isfinite(found.low + found.high)
        ends = ", ".join(rounded(end, declared.decimals) for end in (found.low, found.high))
        said = with_unit(rounded(found.estimate, declared.decimals), declared.unit)
        rows.append(
            Row(None, arm, "mean", tuple(values), found.estimate, found.low, found.high, len(values), said,
                "" if exact else f"[{ends}]", "", found.method, "")
        )  # fmt: skip
    finite = (value for row in rows for value in (*row.dots, row.low, row.high))
    return Plot(tuple(rows), Axis.over(finite), (-math.inf, math.inf), 0.0, axis_of(declared, lang), False)


def _digits(test: Test, finding: Finding, result: Result) -> int | None:
    """Decimals of the metric, where they show the interval at all; else None: significant digits."""
    decimals = metric_named(metrics_of(result), getattr(test, "metric", "")).decimals
    width = finding.high - finding.low
    return None if decimals is None or not width or not width > 2 * 10.0**-decimals else decimals


def _unit(test: Test, result: Result, lang: str) -> str:
    unit = metric_named(metrics_of(result), getattr(test, "metric", "")).unit
    if isinstance(test, Trend):
        return ""
    return WORDS[lang]["points"] if isinstance(test, Compare) and unit == "%" else unit


def _dots(test: Test, finding: Finding, result: Result) -> list[float]:
    """What each seed gave: differences of a comparison, also where the test is Welch's; values; of a trend nothing."""
    if isinstance(test, Compare):
        pairs, _ = result.evidence.paired((test.arm, test.metric), (finding.over, test.over_metric or test.metric))
        sign = 1.0 if test.better == "higher" else -1.0
        return [sign * (ours - theirs) for ours, theirs in pairs]
    if test.kind == "value":
        if test.arm:
            return result.evidence.column(test.arm, test.metric)[0]
        return list(result.repeats.get(test.metric, []))
    return []


def published_differences(claim: Claim, test: Test) -> list[tuple[Published, float]]:
    """(figure, difference) of the published pairs that a comparison repeats: both arms on the same data and metric."""
    if not isinstance(test, Compare) or test.over_metric:
        return []
    groups: dict[tuple[str, str], dict[str, list[Published]]] = {}
    for figure in claim.published:
        arm = figure.ours or figure.arm.partition(",")[0]
        groups.setdefault((figure.data, figure.metric), {}).setdefault(arm, []).append(figure)
    sign, (over,) = 1.0 if test.better == "higher" else -1.0, test.controls
    return [
        (group[test.arm][0], sign * (group[test.arm][0].value - group[over][0].value))
        for group in groups.values()
        if len(group.get(test.arm, ())) == len(group.get(over, ())) == 1 and test.arm != over
    ]


def _same_data(figure: Published, result: Result) -> bool:
    return result.data.lower() in map(str.lower, (figure.data, *figure.on))


def _elsewhere(
    claim: Claim, tests: Sequence[Test], result: Result, lang: str
) -> Iterable[tuple[str, tuple[Mark, ...], Axis]]:
    """Published differences on other data, by data and metric."""
    found: dict[str, list[tuple[float, str]]] = {}
    for test in tests:
        for figure, value in published_differences(claim, test):
            if not _same_data(figure, result):
                over = test.over if isinstance(test, Compare) and len(tests) > 1 else ""
                said = f"{signed(value)}{f' ({over})' if over else ''}"
                found.setdefault(f"{figure.metric}, {figure.data}", []).append((value, said))
    for where, marks in found.items():
        axis = Axis.over([0.0, *(value for value, _ in marks)])
        yield where, tuple(Mark(value, said) for value, said in marks), axis


def _curve(test: Trend, finding: Finding, result: Result, lang: str) -> Curve | None:
    """The points of a trend with its line; on logarithmic axes where the slope is an exponent."""
    if test.arm:
        trials = list(result.evidence.trials.get(test.arm, {}).values())
        y = [float(np.nanmean([trial.get(name, math.nan) for trial in trials])) for name in test.metrics()]
    else:
        y = [float(np.median(result.evidence.figures.get(name, math.nan))) for name in test.metrics()]
    x = list(test.x)
    if not all(map(math.isfinite, y)) or (test.log and min(y) <= 0):
        return None
    scaled_x, scaled_y = (list(map(math.log10, values)) if test.log else values for values in (x, y))
    across, up = Axis.over(scaled_x), Axis.over(scaled_y)

    def top(value: float) -> float:
        """Pixels from the top; not cut off, since SVG cuts what lies outside."""
        return round(HEIGHT * (up.high - value) / (up.high - up.low), 1)

    middle_x, middle_y = float(np.mean(scaled_x)), float(np.mean(scaled_y))

    def line(slope: float) -> tuple[float, float, float, float]:
        ends = (across.low, across.high)
        first, last = (top(middle_y + slope * (end - middle_x)) for end in ends)
        return 0.0, first, 100.0, last

    return Curve(
        estimate_of(test, finding, metrics_of(result), lang)[0],
        tuple((across.at(a), top(b)) for a, b in zip(scaled_x, scaled_y, strict=True)),
        line(finding.estimate),
        tuple(line(slope) for slope in dict.fromkeys(finding.accepted) if math.isfinite(slope)),
        tuple((across.at(scaled), _tick(value)) for scaled, value in zip(scaled_x, x, strict=True)),
        tuple((top(scaled), _tick(value)) for scaled, value in ((min(scaled_y), min(y)), (max(scaled_y), max(y)))),
    )
