"""Runs until decided: which arms get more seeds next, whether that fits the budget, and what a run came to."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from repertory.core.card import Card
from repertory.reports.words import duration
from repertory.verdicts.judge import open_tests
from repertory.verdicts.results import Result
from repertory.verdicts.sequential import LOOKS, next_look


@dataclass(frozen=True)
class Step:
    """A look: what has to be run before verdicts are formed again."""

    seeds: dict[str, int]
    """Arm -> number of seeds that it gets."""
    seconds: float
    """Of computing, as the trials so far took; 0: not known."""

    def __str__(self) -> str:
        """In words: plain, wide to 8 seeds."""
        by_look: dict[int, list[str]] = {}
        for arm, look in self.seeds.items():
            by_look.setdefault(look, []).append(arm)
        return "; ".join(f"{', '.join(arms)} to {look} seeds" for look, arms in by_look.items())


@dataclass
class Effort:
    """The time that one invocation may spend, and how fast trials go by in it."""

    budget: float = math.inf
    """Seconds of wall clock."""
    pace: float = 1.0
    """Seconds of computing in a second of wall clock: the number of trials at once, then as measured."""
    began: float = field(default_factory=lambda: time.monotonic())
    computed: float = 0.0
    waited: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def left(self) -> bool:
        """Whether another trial may begin."""
        return self.elapsed < self.budget

    def note(self, computed: float, waited: float) -> None:
        """Add trials that took `computed` seconds, summed, in `waited` seconds of wall clock."""
        self.computed, self.waited = self.computed + computed, self.waited + waited
        if self.computed and self.waited:
            self.pace = self.computed / self.waited

    def expected(self, step: Step) -> float:
        """Seconds of wall clock that a step will take."""
        return step.seconds / self.pace

    def fits(self, step: Step) -> bool:
        return self.elapsed + self.expected(step) <= self.budget


def first_step(result: Result, arms: Collection[str], most: int, under_way: dict[str, int]) -> Step:
    """What an invocation begins with: every arm up to its last look or the first, and a look that was interrupted."""
    done = result.completed
    seeds = {arm: max(LOOKS[0], done.get(arm, 0)) for arm in arms}
    valid = all(arm in seeds and look in LOOKS and look <= most for arm, look in under_way.items())
    return _step(result, seeds | under_way if valid else seeds)


def next_step(card: Card, result: Result, arms: Collection[str], most: int) -> Step | None:
    """The cheapest look that an undecided test needs; None: all is decided, or at the last look.

    Args:
        card: the paper's card.
        result: of the looks so far.
        arms: that may be run; tests that need others are passed over.
        most: the last look.
    """
    done = result.completed
    steps = []
    for _, needed in open_tests(card, result.verdicts):
        look = next_look(min(done.get(arm, 0) for arm in needed))
        if look is not None and look <= most and set(needed) <= set(arms):
            steps.append(_step(result, {arm: look for arm in arms if arm in needed and done.get(arm, 0) < look}))
    return min(steps, key=lambda step: step.seconds, default=None)


def _step(result: Result, seeds: dict[str, int]) -> Step:
    """A step with the time that it will take: missing trials x median seconds of the arm."""
    first = result.config.get("first_seed", 0)
    total = 0.0
    for arm, look in seeds.items():
        seconds = [outcome.seconds for outcome in result.outcomes if outcome.arm == arm]
        missing = sum(seed not in result.metrics.get(arm, {}) for seed in range(first, first + look))
        total += missing * (statistics.median(seconds) if seconds else 0.0)
    return Step(seeds, total)


def closing(card: Card, result: Result, arms: Collection[str], most: int, effort: Effort) -> str:
    """What a run until decided came to, in lines: what is decided, what is open and why, how long it took."""
    words = {verdict.claim: verdict.word for verdict in result.verdicts}
    decided = [claim for claim, word in words.items() if word in ("holds", "fails")]
    testable = [claim for claim, word in words.items() if word != "not tested"]
    lines = [f"{len(decided)} of {len(testable)} testable claims are decided, after {duration(effort.elapsed)}"]
    lines += [f"  {claim}: {words[claim]}" for claim in decided]
    reasons: dict[str, dict[str, None]] = {claim: {} for claim in testable if claim not in decided}
    for claim, needed in open_tests(card, result.verdicts):
        reasons[claim][_why_open(result, needed, arms, most, effort)] = None
    lines += [f"  {claim}: open; {'; '.join(why) or 'no seeds can decide it'}" for claim, why in reasons.items()]
    return "\n".join(lines)


def _why_open(result: Result, needed: Collection[str], arms: Collection[str], most: int, effort: Effort) -> str:
    if absent := [arm for arm in needed if arm not in arms]:
        return f"{', '.join(absent)} was not asked for"
    done = min(result.completed.get(arm, 0) for arm in needed)
    look = next_look(done)
    if look is None or look > most:
        return f"{done} seeds of {', '.join(needed)}, the last look, do not decide it"
    seeds = {arm: look for arm in arms if arm in needed and result.completed.get(arm, 0) < look}
    expected = effort.expected(_step(result, seeds))
    return f"the budget ends before {Step(seeds, 0)}{f', about {duration(expected)} more' if expected else ''}"
