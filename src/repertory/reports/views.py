"""A claim as reports show it: verdict, plots, published beside measured. Site, report.html and notebooks share it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from repertory import catalog
from repertory.core.card import Card, Claim
from repertory.reports.forest import Curve, Plot, plots, published_differences
from repertory.reports.reasons import reason_of
from repertory.reports.words import WORDS, metrics_of, rounded, seeds_of, signed, spread, verdict_of
from repertory.verdicts.decisions import Word
from repertory.verdicts.judge import Verdict
from repertory.verdicts.results import Result

ORDER: tuple[Word, ...] = ("holds", "undecided", "fails", "not tested")
SIGNS: dict[Word, str] = {"holds": "●", "undecided": "◐", "fails": "○", "not tested": "–"}
"""Each verdict has a shape, so that it is read without colour."""


def slug(word: str) -> str:
    """A verdict as the name of a CSS class: "not-tested"."""
    return word.replace(" ", "-")


def counts_of(verdicts: Iterable[Verdict]) -> dict[Word, int]:
    """How many claims have each verdict, in the order in which they are always told."""
    found = Counter(verdict.word for verdict in verdicts)
    return {word: found[word] for word in ORDER}


@dataclass(frozen=True)
class Judged:
    """One claim in one result."""

    claim: Claim
    verdict: Verdict
    result: Result
    lang: str

    @property
    def word(self) -> Word:
        return self.verdict.word

    @property
    def sign(self) -> str:
        return SIGNS[self.word]

    @property
    def said(self) -> str:
        """The verdict in words, with data and scale."""
        return verdict_of(self.verdict, self.lang)

    @cached_property
    def _drawn(self) -> tuple[list[Plot], list[Curve]]:
        return plots(self.claim, self.verdict, self.result, self.lang)

    @property
    def plots(self) -> list[Plot]:
        return self._drawn[0]

    @property
    def curves(self) -> list[Curve]:
        return self._drawn[1]

    @property
    def reasons(self) -> list[str]:
        """Why it is open or not tested, each reason once."""
        tests = zip(self.claim.elementary, self.verdict.findings, strict=True)
        return list(dict.fromkeys(filter(None, (reason_of(test, finding, self.lang) for test, finding in tests))))

    @property
    def beside(self) -> str:
        """The line of published and measured; "" where nothing was published."""
        return self.line if self.claim.published else ""

    @property
    def line(self) -> str:
        """Published beside measured: "published +2.1 (ImageNet-1K) · measured −4.9 [−8.1, −1.6] (digits, n = 5)".

        Of several tests, the first with the verdict of the claim; "" for exact figures, which the plot tells alone.
        """
        words, rows = WORDS[self.lang], [row for plot in self.plots for row in plot.rows]
        row = next((row for row in rows if row.word == self.word), None)
        if row is None or not row.interval:
            return ""
        found = published_differences(self.claim, row.test) if row.test else []
        told = [f"{signed(value)} ({figure.data})" for figure, value in found[:1]]
        told = told or [f"{p.arm} {rounded(p.value)} ({p.data}, {p.metric})" for p in self.claim.published[:2]]
        parts = [f"{words['published']} {'; '.join(told)}{' …' * (len(self.claim.published) > 2 and not found)}"]
        parts = parts if told else []
        where = self.verdict.data if row.n <= 1 else f"{self.verdict.data}{words['comma']}n = {row.n}"
        measured = f"{words['measured']} {row.said}{f' {row.interval}' if row.interval else ''} ({where})"
        return " · ".join([*parts, measured])

    @property
    def seeds(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """(seeds, rows of an arm's values by seed) of all that the tests look at."""
        looked_at = dict.fromkeys(pair for test in self.claim.test for pair in test.measurements() if pair[0])
        seeds = sorted({seed for arm, _ in looked_at for seed in self.result.metrics.get(arm, {})})
        declared, rows = metrics_of(self.result), []
        for arm, name in looked_at:
            found = self.result.metrics.get(arm, {})
            values = [found.get(seed, {}).get(name, math.nan) for seed in seeds]
            label = declared[name][self.lang] if name in declared else name
            cells = [rounded(value) if math.isfinite(value) else "" for value in values]
            rows.append((f"{arm}: {label}", [*cells, spread(values)]))
        return [str(seed) for seed in seeds], rows


@dataclass(frozen=True)
class ClaimView:
    """One claim in all results of its paper, laptop scale first."""

    claim: Claim
    findings: tuple[Judged, ...]
    lang: str

    @property
    def text(self) -> str:
        return self.claim.text[self.lang]

    @property
    def alike(self) -> list[list[Judged]]:
        """Its findings, those together that show the very same: exact figures do not change with the data."""
        groups: dict[object, list[Judged]] = {}
        for finding in self.findings:
            rows = [row for plot in finding.plots for row in plot.rows]
            shown = tuple((row.label, row.said, row.interval, row.dots) for row in rows)
            groups.setdefault((finding.word, shown, tuple(finding.reasons)), []).append(finding)
        return list(groups.values())

    @property
    def reasons(self) -> list[str]:
        """Why it is not tested, where it never was."""
        return [test.reason[self.lang] for test in self.claim.test if test.kind == "untested"]


def claim_views(card: Card, results: Sequence[Result], lang: str) -> list[ClaimView]:
    """The claims of a card in some results."""
    return [
        ClaimView(claim, tuple(Judged(claim, result.verdicts[position], result, lang) for result in results), lang)
        for position, claim in enumerate(card.claim)
    ]


def place_of(result: Result, lang: str) -> str:
    """What a result speaks for: "digits, laptop, 5 seeds"."""
    return place(result.data, result.scale, seeds_of(result), lang)


def place(data: str, scale: str, seeds: str, lang: str) -> str:
    """Data, scale and number of seeds in words."""
    count = f"{seeds} seed{'s' * (seeds != '1')}" if lang == "en" else f"{seeds} 个种子"
    return WORDS[lang]["comma"].join([data, scale, count])


def changed_settings(result: Result) -> str:
    """The settings in which a result differs from its scale as it is now."""
    scales = catalog.design(result.paper).scales
    if result.scale not in scales:
        return ""
    now = scales[result.scale].model_dump(mode="json")
    return ", ".join(f"{name} = {value}" for name, value in result.config.items() if now.get(name) != value)
