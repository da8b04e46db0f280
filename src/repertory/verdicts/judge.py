"""From measurements to verdicts: every test of a card, decided by an interval.

- *holds*: the lower end of the interval is beyond the margin;
- *fails*: the upper end is short of margin + least, the smallest effect worth having;
- where both are true it holds, "but by less than matters"; where neither is, it is *undecided*.

The lower end has the full error of one side, since every test of a claim must hold. The upper end shares it among the
tests of the claim, since one that fails sinks it. How much error a look may spend: `sequential`.

A verdict speaks for the data and the scale it was measured on, never for more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from repertory.core.card import Assay, Card, Claim, Compare, Test, Text, Trend, Untested, Value
from repertory.core.study import find_metric
from repertory.verdicts.decisions import (
    SMALL,
    Finding,
    Rule,
    Word,
    decide,
    decide_by,
    decide_exactly,
    decide_figure,
)
from repertory.verdicts.evidence import Evidence, Figures
from repertory.verdicts.sequential import ERROR, TAIL
from repertory.verdicts.statistics import (
    Interval,
    Tails,
    is_binary,
    mean_interval,
    outcome_interval,
    proportion_difference,
    welch_interval,
)


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
        if self.word == "not tested":
            return self.word
        return f"{self.word}{f', {SMALL},' if self.small else ''} on {self.data}, {self.scale}"

    @property
    def small(self) -> bool:
        """Whether it holds by less than matters."""
        return self.word == "holds" and any(SMALL in finding.reason for finding in self.findings)

    @property
    def p(self) -> float:
        """One-sided p of the word over all tests of the claim; NaN for exact figures and open verdicts."""
        values = [finding.p for finding in self.findings if finding.word == self.word and math.isfinite(finding.p)]
        if not values:
            return math.nan
        return max(values) if self.word == "holds" else min(1.0, min(values) * len(self.findings))


def judge(card: Card, evidence: Evidence, data: str, scale: str) -> list[Verdict]:
    """Judge every claim of a card.

    Args:
        card: the paper's card.
        evidence: all that was measured.
        data: what the data are called.
        scale: name of the scale.
    """
    return [judge_claim(claim, evidence, data, scale) for claim in card.claim]


def survivors(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """Claims decided by an interval: how many survive Benjamini & Hochberg's correction at 5 %, of how many."""
    p = [verdict.p for verdict in verdicts if math.isfinite(verdict.p)]
    kept = int((stats.false_discovery_control(p) <= ERROR).sum()) if p else 0
    return kept, len(p)


def open_tests(card: Card, verdicts: Sequence[Verdict]) -> list[tuple[str, tuple[str, ...]]]:
    """(claim, arms) of each test without a decision, of claims without one, that more seeds may decide."""
    return [
        (claim.id, arms)
        for claim, verdict in zip(card.claim, verdicts, strict=True)
        if verdict.word == "undecided"
        for test, finding in zip(claim.elementary, verdict.findings, strict=True)
        if finding.word == "undecided" and (arms := tuple(dict.fromkeys(arms_of(test))))
    ]


def arms_of(test: Test) -> tuple[str, ...]:
    """The arms whose trials a test reads."""
    match test:
        case Compare():
            return test.arm, *test.controls
        case Value() | Trend():
            return (test.arm,) if test.arm else ()
        case Untested():
            return tuple(figure.ours for figure in test.figures)


def judge_claim(claim: Claim, evidence: Evidence, data: str, scale: str) -> Verdict:
    """Judge one claim; arguments as for `judge`."""
    # One that fails sinks the claim, so all share the error of failing.
    tests = claim.elementary
    findings = tuple(examine(test, evidence, len(tests), data) for test in tests)
    words = {finding.word for finding in findings}
    ranking: tuple[Word, ...] = ("fails", "undecided", "not tested", "holds")
    word: Word = next(word for word in ranking if word in words)
    return Verdict(claim.id, claim.text, word, data, scale, findings)


def examine(test: Test, evidence: Evidence, shares: int = 1, data: str = "") -> Finding:
    """Run one test of a card.

    Args:
        test: an elementary one, with a single control.
        evidence: all that was measured.
        shares: tests among which the error of failing is shared.
        data: what the data are called; published figures of these very data are compared.
    """
    match test:
        case Untested():
            return _reproduced(test, evidence, shares, data)
        case Compare():
            return _compare(test, evidence, shares)
        case Value():
            return _value(test, evidence, shares)
        case Trend():
            return _trend(test, evidence, shares)


# -- the three kinds of test --------------------------------------------------------------------


def _compare(test: Compare, evidence: Evidence, shares: int) -> Finding:
    """Differences to the control, signed so that positive means: the claim's arm is better."""
    (over,) = test.controls
    first, second = (test.arm, test.metric), (over, test.over_metric or test.metric)
    label = _label(test, over)
    if lack := evidence.lack(*first) or evidence.lack(*second):
        return Finding("not tested", label, reason=lack, over=over)
    pairs, lacking = evidence.paired(first, second)
    (ours, ours_lacking), (theirs, theirs_lacking) = evidence.column(*first), evidence.column(*second)
    n = len(pairs) if test.paired else min(len(ours), len(theirs))
    if not n:
        return Finding("undecided", label, reason=evidence.gap(first, second), over=over)
    sign = 1.0 if test.better == "higher" else -1.0
    a, b = [sign * value for value in ours], [sign * value for value in theirs]
    differences = [sign * (x - y) for x, y in pairs]

    def interval(k: int, tails: Tails) -> Interval:
        cut = None if k == n else k  # an arm that has more seeds than the other gives them all at the last look
        if is_binary([*ours, *theirs]):
            better, worse = (ours, theirs) if sign > 0 else (theirs, ours)
            return proportion_difference(better[:cut], worse[:cut], tails)
        if test.paired:
            return mean_interval(differences[:cut], tails)
        return welch_interval(a[:cut], b[:cut], tails)

    rule = Rule((test.margin, math.inf), strict=True, least=test.least, shares=shares)
    if test.exact and n > 1 and len(set(differences)) == 1:
        finding = decide_exactly(differences[0], rule, label, n)
    else:
        finding = decide(interval, n, rule, label, evidence.looks)
    finding = replace(finding, over=over)
    if test.assay and finding.word != "undecided" and not _works(test.assay, over, evidence):
        broken = f"{over} does not work here ({test.assay.metric} is not {_stated(test.assay)})"
        reason = f"{broken}: a comparison with it decides nothing"
        finding = replace(finding, word="undecided", reason=reason, p=math.nan)
    if test.paired:
        lacked = f"{len(lacking)} of {len(lacking) + n} pairs with {over} lack a finite metric{_at(lacking)}"
        return _with_gaps(finding, [lacked] if lacking else [])
    columns = ((test.arm, ours_lacking), (over, theirs_lacking))
    return _with_gaps(finding, [f"{len(seeds)} trials of {arm} failed{_at(seeds)}" for arm, seeds in columns if seeds])


def _value(test: Value, evidence: Evidence, shares: int) -> Finding:
    rule = Rule(test.region, shares=shares)
    if not test.arm:
        return decide_figure(evidence.figures.get(test.metric, math.nan), rule, test.metric)
    label = f"{test.metric} of {test.arm}"
    if lack := evidence.lack(test.arm, test.metric):
        return Finding("not tested", label, reason=lack)
    return _mean_of(test.arm, test.metric, rule, label, evidence, exact=test.exact)


def _mean_of(arm: str, metric: str, rule: Rule, label: str, evidence: Evidence, *, exact: bool = False) -> Finding:
    """The mean of a metric over the seeds of an arm; `exact`: equal values decide by themselves."""
    values, failed = evidence.column(arm, metric)
    if not values:
        return Finding("undecided", label, accepted=rule.accepted, reason=f"no trial of {arm} gave {metric}")
    if exact and len(values) > 1 and len(set(values)) == 1:
        finding = decide_exactly(values[0], rule, label, len(values))
    else:
        finding = decide(_over_seeds(values), len(values), rule, label, evidence.looks)
    gaps = [f"{len(failed)} of {len(failed) + len(values)} trials of {arm} failed{_at(failed)}"]
    return _with_gaps(finding, gaps if failed else [])


def _trend(test: Trend, evidence: Evidence, shares: int) -> Finding:
    label = f"slope of {test.metric.replace('{x}', 'x')} over x" + (" (log-log)" if test.log else "")
    rule = Rule(test.region, shares=shares)
    x = np.log(test.x) if test.log else np.asarray(test.x, dtype=float)

    def curve(metrics: Figures) -> np.ndarray | None:
        y = np.array([np.median(metrics.get(name, math.nan)) for name in test.metrics()], dtype=float)
        if test.log:
            y = np.log(np.where(y > 0, y, np.nan))
        return y if np.isfinite(y).all() else None

    if test.arm:
        curves = {seed: curve(metrics) for seed, metrics in sorted(evidence.trials.get(test.arm, {}).items())}
        slopes = [float(np.polyfit(x, y, 1)[0]) for y in curves.values() if y is not None]
        if not slopes:
            return Finding("undecided", label, accepted=test.region, reason=f"no trial of {test.arm} gave a curve")
        failed = [seed for seed, y in curves.items() if y is None]
        gaps = [f"points of the curve are missing{_at(failed)}"] if failed else []
        return _with_gaps(decide(_over_seeds(slopes), len(slopes), rule, label, evidence.looks), gaps)
    y = curve(evidence.figures)
    if y is None:
        return Finding("undecided", label, accepted=test.region, reason="points of the curve are missing")
    (slope, offset), degrees = np.polyfit(x, y, 1).tolist(), len(x) - 2
    residual = float(np.square(y - slope * x - offset).sum())
    stderr = math.sqrt(residual / degrees / np.square(x - x.mean()).sum())

    def interval(tails: Tails) -> Interval:
        low, high = (stderr * float(stats.t.isf(share, degrees)) for share in tails)
        return Interval(slope, slope - low, slope + high, "t of the residuals")

    finding = decide_by([(interval, TAIL)], len(x), rule, label)
    scatter = "the points scatter too much around the line" if finding.word == "undecided" else ""
    return replace(finding, reason=scatter)


def _reproduced(test: Untested, evidence: Evidence, shares: int, data: str) -> Finding:
    """Published figures of these data against what was measured; the least convincing of them speaks for all."""
    here = [figure for figure in test.figures if data.lower() in map(str.lower, (figure.data, *figure.on))]
    measured = [figure for figure in here if any(evidence.column(figure.ours, figure.measured))]
    if not measured:
        return Finding("not tested", "", reason=test.reason.en)
    findings = []
    for figure in measured:
        known = find_metric(evidence.declared, figure.measured)
        better = known.better if known else ""
        spread = figure.std or test.tolerance
        low = -math.inf if better == "lower" else figure.value - spread
        high = math.inf if better == "higher" else figure.value + spread
        label = f"{figure.measured} of {figure.ours}, published {figure.value:g} ± {spread:g}"
        rule = Rule((low, high), shares=shares * len(measured))
        findings.append(_mean_of(figure.ours, figure.measured, rule, label, evidence))
    ranking: tuple[Word, ...] = ("fails", "undecided", "holds")
    weakest = min(findings, key=lambda finding: ranking.index(finding.word))
    agreeing = sum(finding.word == "holds" for finding in findings)
    said = f"{agreeing} of {len(findings)} published figures come out"
    return replace(weakest, reason="; ".join(filter(None, [said, weakest.reason])))


def _over_seeds(values: Sequence[float]) -> Callable[[int, Tails], Interval]:
    """(k, tails) -> interval of the mean of the first k values."""
    return lambda k, tails: outcome_interval(values[:k], tails)


def _works(assay: Assay, control: str, evidence: Evidence) -> bool:
    """Whether the mean of the control lies where a working one does."""
    values, _ = evidence.column(control, assay.metric)
    bottom, top = assay.region
    return bool(values) and bottom <= float(np.mean(values)) <= top


# -- words --------------------------------------------------------------------------------------


def _with_gaps(finding: Finding, gaps: Sequence[str]) -> Finding:
    """Name missing trials: they may sink a claim, but never make it hold."""
    if not gaps:
        return finding
    word = "undecided" if finding.word == "holds" else finding.word
    return replace(finding, word=word, reason="; ".join(filter(None, [*gaps, finding.reason])))


def _stated(assay: Assay) -> str:
    low, high = assay.region
    if math.isinf(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if math.isinf(low) else f"{low:g} to {high:g}"


def _label(test: Compare, over: str) -> str:
    other = test.over_metric or test.metric
    a, b = (test.arm, over) if other == test.metric else (f"{test.arm} {test.metric}", f"{over} {other}")
    first, second = (a, b) if test.better == "higher" else (b, a)
    subject = f"{test.metric}: " if other == test.metric else ""
    return f"{subject}{first} - {second}"


def _at(seeds: Sequence[int]) -> str:
    return f" (seeds {', '.join(str(seed) for seed in seeds)})" if seeds else ""
