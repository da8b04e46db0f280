"""From measurements to verdicts: paired statistics over seeds.

A verdict speaks for the data and the scale it was measured on, never for more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from repertory.core.card import Card, Claim, Compare, Test, Text, Trend, Untested, Value
from repertory.core.study import Metric, find_metric

Word = Literal["holds", "fails", "undecided", "not tested"]
CONFIDENCE = 0.95
MOST_SEEDS = 10_000
Metrics = Mapping[str, Mapping[int, Mapping[str, float]]]
"""arm -> seed -> metric -> value. A failed trial is there, with no metrics."""
Declared = Mapping[str, Metric]
"""`Study.metrics`."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one test: what was estimated, how surely, and what that says of the claim."""

    word: Word
    label: str
    """What the estimate is, in words: "acc: both - dw_only"."""
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    """Ends of the 95 % interval; equal to the estimate for an exact figure."""
    accepted: tuple[float, float] = (-math.inf, math.inf)
    """The estimate must lie in here for the claim to hold."""
    n: int = 0
    """Seeds (or points of a trend) that the interval rests on."""
    reason: str = ""
    """Why it is undecided or not tested, and what would decide it."""
    over: str = ""
    """Of a comparison: the control that the difference is taken to."""


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of one claim. It holds if all its tests hold, and fails if one fails."""

    claim: str
    text: Text
    word: Word
    data: str
    scale: str
    findings: tuple[Finding, ...] = field(default=())

    @property
    def sentence(self) -> str:
        """The verdict with the data and the scale it speaks for: "holds on digits, laptop"."""
        return self.word if self.word == "not tested" else f"{self.word} on {self.data}, {self.scale}"


def judge(
    card: Card, trials: Metrics, figures: Mapping[str, float], data: str, scale: str, declared: Declared
) -> list[Verdict]:
    """Judge every claim of a card.

    Args:
        card: the paper's card.
        trials: metrics of every trial, failed ones included (without metrics).
        figures: what `Study.measure` gave.
        data: what the data are called.
        scale: name of the scale.
        declared: the study's metrics; they tell what data a metric needs.
    """
    return [_judge_claim(claim, trials, figures, data, scale, declared) for claim in card.claim]


def _judge_claim(
    claim: Claim, trials: Metrics, figures: Mapping[str, float], data: str, scale: str, declared: Declared
) -> Verdict:
    findings = tuple(examine(test, trials, figures, declared) for test in claim.test)
    words = {finding.word for finding in findings}
    # One test that fails sinks the claim; otherwise the least certain test speaks for it.
    ranking: tuple[Word, ...] = ("fails", "undecided", "not tested", "holds")
    word: Word = next(word for word in ranking if word in words)
    return Verdict(claim.id, claim.text, word, data, scale, findings)


def examine(test: Test, trials: Metrics, figures: Mapping[str, float], declared: Declared) -> Finding:
    """Run one test of a card on the measurements; arguments as in `judge`."""
    match test:
        case Untested():
            return Finding("not tested", "", reason=test.reason.en)
        case Compare():
            return _compare(test, trials, declared)
        case Value():
            return _value(test, trials, figures, declared)
        case Trend():
            return _trend(test, trials, figures)


# -- the three kinds of test --------------------------------------------------------------------


def _compare(test: Compare, trials: Metrics, declared: Declared) -> Finding:
    """Paired differences, signed so that positive means: the claim's arm is better."""
    other = test.over_metric or test.metric
    sign = 1.0 if test.better == "higher" else -1.0
    tables = {over: _paired(trials, (test.arm, test.metric), (over, other)) for over in test.controls}
    absent = [over for over, (pairs, _) in tables.items() if not pairs]
    if absent:
        label = _label(test, absent[0])
        for arm, metric in ((test.arm, test.metric), (absent[0], other)):
            if lack := _lack(trials, arm, metric, declared):
                return Finding("not tested", label, reason=lack, over=absent[0])
        return Finding("undecided", label, reason=_gap(trials, test.arm, absent[0], test.metric, other), over=absent[0])
    means = {over: sign * float(np.mean([b for _, b in pairs])) for over, (pairs, _) in tables.items()}
    over = max(means, key=lambda name: means[name])
    differences = [sign * (a - b) for a, b in tables[over][0]]
    finding = interval_finding(differences, (test.margin, math.inf), _label(test, over), strict=True)
    gaps = [
        f"{len(failed)} of {len(failed) + len(pairs)} pairs with {name} lack a finite metric (seeds {_listed(failed)})"
        for name, (pairs, failed) in tables.items()
        if failed
    ]
    return replace(_with_gaps(finding, gaps), over=over)


def _value(test: Value, trials: Metrics, figures: Mapping[str, float], declared: Declared) -> Finding:
    label = f"{test.metric} of {test.arm}" if test.arm else test.metric
    if not test.arm:
        return _figure(figures.get(test.metric, math.nan), test.region, label)
    if lack := _lack(trials, test.arm, test.metric, declared):
        return Finding("not tested", label, reason=lack)
    values, failed = _column(trials, test.arm, test.metric)
    if not values:
        return Finding("undecided", label, accepted=test.region, reason=f"no trial of {test.arm} gave {test.metric}")
    gaps = [f"{len(failed)} of {len(failed) + len(values)} trials of {test.arm} failed (seeds {_listed(failed)})"]
    return _with_gaps(interval_finding(values, test.region, label), gaps if failed else [])


def _trend(test: Trend, trials: Metrics, figures: Mapping[str, float]) -> Finding:
    label = f"slope of {test.metric.replace('{x}', 'x')} over x" + (" (log-log)" if test.log else "")
    x = np.log(test.x) if test.log else np.asarray(test.x, dtype=float)

    def curve(metrics: Mapping[str, float]) -> np.ndarray | None:
        y = np.array([metrics.get(name, math.nan) for name in test.metrics()], dtype=float)
        if test.log:
            y = np.log(np.where(y > 0, y, np.nan))
        return y if np.isfinite(y).all() else None

    if test.arm:
        curves = {seed: curve(metrics) for seed, metrics in sorted(trials.get(test.arm, {}).items())}
        slopes = [float(np.polyfit(x, y, 1)[0]) for y in curves.values() if y is not None]
        if not slopes:
            return Finding("undecided", label, accepted=test.region, reason=f"no trial of {test.arm} gave a curve")
        failed = [seed for seed, y in curves.items() if y is None]
        gaps = [f"points of the curve are missing (seeds {_listed(failed)})"] if failed else []
        return _with_gaps(interval_finding(slopes, test.region, label), gaps)
    y = curve(figures)
    if y is None:
        return Finding("undecided", label, accepted=test.region, reason="points of the curve are missing")
    (slope, offset), degrees = np.polyfit(x, y, 1).tolist(), len(x) - 2
    residual = float(np.square(y - slope * x - offset).sum())
    stderr = math.sqrt(residual / degrees / np.square(x - x.mean()).sum())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * stderr
    finding = _decide(slope, slope - half, slope + half, test.region, label, len(x))
    scatter = "the points scatter too much around the line" if finding.word == "undecided" else ""
    return replace(finding, reason=scatter)


def _with_gaps(finding: Finding, gaps: Sequence[str]) -> Finding:
    """Say which trials are missing: they may sink a claim, but never make it hold."""
    if not gaps:
        return finding
    word = "undecided" if finding.word == "holds" else finding.word
    return replace(finding, word=word, reason="; ".join(filter(None, [*gaps, finding.reason])))


# -- statistics ---------------------------------------------------------------------------------


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t-interval; the ends are infinite for a single value.

    Example:
        >>> [round(v, 3) for v in t_interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    if len(values) > 1 and len(set(values)) == 1:  # exactly: a mean of equal values may be off by a rounding
        return values[0], values[0], values[0]
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def interval_finding(
    values: Sequence[float], accepted: tuple[float, float], label: str, *, strict: bool = False
) -> Finding:
    """Judge the mean of `values` (one per seed) against the accepted region, by its 95 % t-interval.

    `strict`: the interval must lie beyond the ends of the region, not on them (a difference of exactly
    nothing is no improvement).
    """
    mean, low, high = t_interval(values)
    finding = _decide(mean, low, high, accepted, label, len(values), strict=strict)
    if finding.word != "undecided":
        return finding
    if len(values) < 2:
        return replace(finding, reason="one seed gives no interval; use at least 2")
    if low == high:
        return replace(finding, reason="every seed gives exactly the margin; more seeds would not decide it")
    needed = seeds_to_decide(values, accepted)
    reason = (
        f"at this spread about {needed} seeds would decide it"
        if needed
        else f"the mean is so near the margin that {MOST_SEEDS} seeds would not decide it"
    )
    return replace(finding, reason=reason)


def seeds_to_decide(values: Sequence[float], accepted: tuple[float, float]) -> int | None:
    """How many seeds would put the whole interval on one side, at the observed mean and spread.

    None if more than 10,000 would be needed.
    """
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    distance = min(abs(mean - end) for end in accepted if math.isfinite(end))
    for n in range(2, 200):
        if stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * spread / math.sqrt(n) < distance:
            return n
    needed = math.ceil((stats.norm.ppf((1 + CONFIDENCE) / 2) * spread / distance) ** 2) if distance else math.inf
    return int(needed) if needed <= MOST_SEEDS else None


def _decide(
    estimate: float, low: float, high: float, accepted: tuple[float, float], label: str, n: int, *, strict: bool = False
) -> Finding:
    bottom, top = accepted
    inside = (low > bottom and high < top) if strict else (low >= bottom and high <= top)
    outside = high < bottom or low > top
    word: Word = "holds" if inside else "fails" if outside else "undecided"
    return Finding(word, label, estimate, low, high, accepted, n)


def _figure(value: float, accepted: tuple[float, float], label: str) -> Finding:
    """Judge an exact figure: no seeds, no interval."""
    if not math.isfinite(value):
        return Finding("undecided", label, accepted=accepted, reason="the figure was not measured")
    return _decide(value, value, value, accepted, label, 1)


# -- reading the trials -------------------------------------------------------------------------


def _column(trials: Metrics, arm: str, metric: str) -> tuple[list[float], list[int]]:
    """Finite values of a metric by seed, and the seeds that lack one."""
    values, failed = [], []
    for seed, metrics in sorted(trials.get(arm, {}).items()):
        value = metrics.get(metric, math.nan)
        if math.isfinite(value):
            values.append(float(value))
        else:
            failed.append(seed)
    return values, failed


def _lack(trials: Metrics, arm: str, metric: str, declared: Declared) -> str:
    """What a metric needs that all of an arm's finished trials leave out; "" if it is there, or needs nothing."""
    finished = [metrics for metrics in trials.get(arm, {}).values() if metrics]
    known = find_metric(declared, metric)
    if not finished or any(metric in metrics for metrics in finished) or known is None or not known.needs:
        return ""
    return f"{metric} has no meaning on these data: it needs {known.needs}"


def _paired(trials: Metrics, a: tuple[str, str], b: tuple[str, str]) -> tuple[list[tuple[float, float]], list[int]]:
    """Pairs of finite values of two (arm, metric) by seed, and the seeds at which one is missing."""
    pairs, failed = [], []
    for seed in sorted(set(trials.get(a[0], {})) | set(trials.get(b[0], {}))):
        pair = tuple(trials.get(arm, {}).get(seed, {}).get(metric, math.nan) for arm, metric in (a, b))
        if all(math.isfinite(value) for value in pair):
            pairs.append((float(pair[0]), float(pair[1])))
        else:
            failed.append(seed)
    return pairs, failed


def _gap(trials: Metrics, arm: str, over: str, metric: str, other: str) -> str:
    for name, wanted in ((arm, metric), (over, other)):
        if name not in trials:
            return f"the arm {name} was not run"
        if not _column(trials, name, wanted)[0]:
            return f"no trial of {name} gave a finite {wanted}"
    return f"{arm} and {over} share no seed"


def _label(test: Compare, over: str) -> str:
    other = test.over_metric or test.metric
    a, b = (test.arm, over) if other == test.metric else (f"{test.arm} {test.metric}", f"{over} {other}")
    first, second = (a, b) if test.better == "higher" else (b, a)
    subject = f"{test.metric}: " if other == test.metric else ""
    return f"{subject}{first} - {second}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)
