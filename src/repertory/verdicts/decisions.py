"""Decide a test: hold the intervals of all looks so far against what the test accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from repertory.verdicts import sequential
from repertory.verdicts.sequential import LOOKS, TAIL
from repertory.verdicts.statistics import Interval, Tails, mean_interval

Word = Literal["holds", "fails", "undecided", "not tested"]
SMALL = "but by less than matters"
MEDIANS = 5
"""Medians that a timing needs for an interval."""
Look = tuple[Callable[[Tails], Interval], float]
"""Interval of a look, and the error that each of its ends may spend."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one test: the estimate, its interval, and what that says of the claim."""

    word: Word
    label: str
    """What the estimate is, in words: "acc: both - dw_only"."""
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    """Ends of the repeated 95 % interval; equal to the estimate for an exact figure."""
    accepted: tuple[float, float] = (-math.inf, math.inf)
    """The estimate must lie in here for the claim to hold."""
    n: int = 0
    """Seeds (points of a trend, medians of a timing) that the interval rests on; of unequal arms the smaller number."""
    reason: str = ""
    """Why it is undecided or not tested, and what would decide it; or what qualifies it."""
    over: str = ""
    """Of a comparison: the control that the difference is taken to."""
    least: float = 0.0
    """Smallest effect beyond the margin that matters; with 0 any does."""
    method: str = ""
    """How the interval was made: "t, group-sequential"."""
    p: float = math.nan
    """One-sided p of the word, scaled to the look: below 0.025 it is decided. NaN: exact, or not decided."""


@dataclass(frozen=True)
class Rule:
    """What an interval must show for a test to hold or to fail."""

    accepted: tuple[float, float]
    strict: bool = False
    """The interval must lie beyond the ends of the region, not on them: a difference of nothing is no improvement."""
    least: float = 0.0
    """An upper end below the margin + this fails."""
    shares: int = 1
    """Tests of the claim, among which the error of failing is shared."""

    def holds(self, found: Interval) -> bool:
        bottom, top = self.accepted
        if self.strict:
            return found.low > bottom and found.high < top
        return found.low >= bottom and found.high <= top

    def fails(self, found: Interval) -> bool:
        bottom, top = self.accepted
        return found.high < bottom + self.least or found.low > top

    def tails(self, tail: float) -> Tails:
        """Errors of the ends of the interval that is shown: an end that can only fail the test has its share."""
        bottom, top = self.accepted
        return tail / (self.shares if math.isinf(bottom) else 1), tail / (self.shares if math.isinf(top) else 1)


def decide(
    interval: Callable[[int, Tails], Interval], n: int, rule: Rule, label: str, looks: Collection[int] = ()
) -> Finding:
    """Decide by the repeated intervals of all looks so far; an open finding says when the next look is.

    Args:
        interval: (k, tails) -> interval over the first k seeds.
        n: seeds at hand.
        rule: what the interval must show.
        label: what is estimated.
        looks: numbers of seeds at which verdicts were formed before.
    """
    plan = sequential.plan_of(n, looks)
    at = [k for k in LOOKS if k < n] if plan == "group-sequential" else []
    finding = decide_by([(partial(interval, k), sequential.tail(k, plan)) for k in [*at, n]], n, rule, label)
    finding = replace(finding, method=f"{finding.method}, {plan}")
    if finding.word != "undecided":
        return finding
    after = sequential.next_look(n)
    if n < LOOKS[0]:
        reason = f"{n} seed{'s' * (n > 1)}; the first look is at {LOOKS[0]}"
    elif math.isinf(finding.low) and math.isinf(finding.high):
        reason = "every seed gives the same value: its spread cannot be estimated"
    elif math.isinf(finding.low) or math.isinf(finding.high):
        reason = "the values are too skewed to bound their mean on one side"
        reason += f"; the next look is at {after} seeds" if after and plan != "anytime-valid" else ""
    elif plan == "anytime-valid":
        reason = "more seeds may decide it"
    elif after:
        reason = f"the next look is at {after} seeds"
    else:
        reason = f"{n} seeds, the last look, do not decide it"
    return replace(finding, reason=reason)


def decide_by(looks: Sequence[Look], n: int, rule: Rule, label: str) -> Finding:
    """Hold the interval of each look against the rule; one that decides is enough."""
    spent = [(look, tail) for look, tail in looks if tail]
    holding = any(rule.holds(look((tail, tail))) for look, tail in spent)
    failing = any(rule.fails(look((tail / rule.shares, tail / rule.shares))) for look, tail in spent)
    word: Word = "holds" if holding else "fails" if failing else "undecided"
    shown = [look(rule.tails(tail)) for look, tail in spent] or [looks[-1][0]((0.0, 0.0))]
    low, high = max(found.low for found in shown), min(found.high for found in shown)
    if low > high:  # looks that exclude one another
        low, high = shown[-1].low, shown[-1].high
    p = math.nan
    if word == "holds":
        p = min(_p(look, rule.holds) * TAIL / tail for look, tail in spent)
    elif word == "fails":
        p = min(_p(look, rule.fails) * TAIL * rule.shares / tail for look, tail in spent)
    return Finding(
        word, label, shown[-1].estimate, low, high, rule.accepted, n, SMALL if holding and failing else "",
        least=rule.least, method=shown[-1].method, p=p,
    )  # fmt: skip


def _p(look: Callable[[Tails], Interval], decides: Callable[[Interval], bool]) -> float:
    """Smallest error of an end that still decides, by bisection on its logarithm."""
    low, high = -30.0, math.log10(0.5)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if decides(look((10**middle, 10**middle))) else (middle, high)
    return 10**high


def decide_exactly(value: float, rule: Rule, label: str, n: int = 1) -> Finding:
    """Judge a figure that has no spread."""
    word: Word = "holds" if rule.holds(Interval(value, value, value, "exact")) else "fails"
    return Finding(word, label, value, value, value, rule.accepted, n, method="exact")


def decide_figure(value: float | Sequence[float], rule: Rule, label: str) -> Finding:
    """Judge a figure of `Study.measure`: an exact one, or the medians of a timing."""
    values = [value] if isinstance(value, float | int) else list(value)
    if not values or not all(math.isfinite(v) for v in values):
        return Finding("undecided", label, accepted=rule.accepted, reason="the figure was not measured")
    if isinstance(value, float | int):
        return decide_exactly(float(value), rule, label)
    if len(values) < MEDIANS:
        few = f"{len(values)} median{'s' * (len(values) > 1)}; an interval needs {MEDIANS}"
        return Finding("undecided", label, float(np.mean(values)), accepted=rule.accepted, n=len(values), reason=few)
    return decide_by([(partial(mean_interval, values), TAIL)], len(values), rule, label)
