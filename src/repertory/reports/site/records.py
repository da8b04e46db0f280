"""The results that the site shows: recorded ones with the verdicts that were recorded, and local runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repertory import catalog
from repertory.core.card import Card
from repertory.core.problem import Problem
from repertory.verdicts.decisions import Finding
from repertory.verdicts.evidence import Evidence
from repertory.verdicts.judge import Verdict, judge
from repertory.verdicts.results import Result


@dataclass(frozen=True)
class Recorded(Result):
    """A recorded result with its recorded verdicts: shown without the study's optional dependencies."""

    kept: tuple[Verdict, ...] = ()

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return list(self.kept) or judge(catalog.card(self.paper), self.evidence, self.data, self.scale)

    @property
    def evidence(self) -> Evidence:
        try:
            return super().evidence
        except Problem:  # the study cannot be loaded: its metrics are called by their names
            return Evidence(self.seen, {**self.figures, **self.repeats}, {}, self.looks)


def recorded_results() -> dict[str, list[Result]]:
    """All recorded results by paper, laptop scale first."""
    return {paper: [_recorded(content) for content in found] for paper, found in catalog.recorded().items()}


def _recorded(content: Mapping[str, Any]) -> Result:
    card, result = catalog.card(content["paper"]), Recorded.from_json(content)
    kept = tuple(_verdict(card, result, stored) for stored in content["verdicts"])
    same = [verdict.claim for verdict in kept] == [claim.id for claim in card.claim]
    return replace(result, kept=kept if same else ())  # else the card has changed: judged anew


def _verdict(card: Card, result: Result, stored: Mapping[str, Any]) -> Verdict:
    text = next((claim.text for claim in card.claim if claim.id == stored["claim"]), card.summary)
    findings = tuple(_finding(test) for test in stored["tests"])
    return Verdict(stored["claim"], text, stored["verdict"], result.data, result.scale, findings)


def _finding(stored: Mapping[str, Any]) -> Finding:
    """JSON has neither NaN nor infinities: the ends of intervals are open, other figures are absent."""
    low, high = stored["accepted"]
    return Finding(
        **{
            **stored,
            "estimate": math.nan if stored["estimate"] is None else stored["estimate"],
            "low": -math.inf if stored["low"] is None else stored["low"],
            "high": math.inf if stored["high"] is None else stored["high"],
            "accepted": (-math.inf if low is None else low, math.inf if high is None else high),
            "p": math.nan if stored["p"] is None else stored["p"],
        }
    )


def local_runs(folder: Path) -> tuple[dict[str, list[Result]], list[Problem]]:
    """The runs below a folder by paper, and what is wrong with those that cannot be read; dry runs are left out."""
    found: dict[str, list[Result]] = {}
    problems = []
    for path in sorted(folder.glob("**/config.json")):
        if "trials" in path.relative_to(folder).parts:
            continue
        try:
            result = Result.read(path.parent)
            if not result.dry_run and result.outcomes:
                assert result.verdicts  # judged here, where a Problem is told
                found.setdefault(result.paper, []).append(result)
        except Problem as problem:
            problems.append(problem)
    return found, problems
