"""A run's report in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Line

from repertory import catalog
from repertory.core.card import Claim
from repertory.reports.card import COLOURS
from repertory.reports.reasons import reason_of
from repertory.reports.views import SIGNS, claim_views, counts_of, place_of
from repertory.reports.words import (
    WORDS,
    claimed_metrics,
    duration,
    figure_of,
    head_of,
    interval_of,
    measured_in,
    metric_named,
    metrics_of,
    multiplicity_of,
    seeds_of,
    spread,
    verdict_of,
)
from repertory.verdicts.judge import Verdict
from repertory.verdicts.results import Result


def report(result: Result, lang: str = "en") -> RenderableType:
    """The whole report for a terminal."""
    card = catalog.card(result.paper)
    words, seeds = WORDS[lang], seeds_of(result)
    count = f"{seeds} seed{'s' * (seeds != '1')}" if lang == "en" else f"{seeds} 个种子"
    if len(result.looks) > 1:
        count += f", {words['looks'].format(', '.join(map(str, result.looks)))}"
    time = f"{duration(result.seconds)} {words['of computing']}"
    head = Line.assemble(
        (card.title, "bold"), "\n",
        (f"{card.venue} {card.year}" + (f", arXiv {card.arxiv}" if card.arxiv else ""), "dim"), "\n",
        f"{words['scale']} {result.scale} · {words['data']}: {result.data} · {count} · {time}",
        (" · DRY RUN: the figures mean nothing" if result.dry_run else "", "bold red"),
    )  # fmt: skip
    verdicts = zip(card.claim, result.verdicts, strict=True)
    return Group(
        head,
        *(_claim(claim, verdict, result, lang) for claim, verdict in verdicts),
        *([Line("\n" + told, "dim")] if (told := multiplicity_of(result.verdicts, lang)) else []),
        "",
        _arms(result, lang),
        *_failed(result, lang),
    )


def summary(result: Result, lang: str = "en") -> RenderableType:
    """One line a claim, the verdict first: what is seen of a run without `--verbose`.

    A sentence or reason that is too long for the terminal ends in an ellipsis.
    """
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=36, style="dim")
    for view in claim_views(catalog.card(result.paper), [result], lang):
        (found,) = view.findings
        row = next((row for plot in found.plots for row in plot.rows if row.word == found.word), None)
        told = f"{row.said} {row.interval}, n = {row.n}" if row and row.interval else row.said if row else ""
        verdict = Line(f"{found.sign} {WORDS[lang][found.word]}", COLOURS[found.word])
        table.add_row(verdict, Line(view.text), Line(told or next(iter(found.reasons), "")))
    head = Line(f"{result.paper}: {place_of(result, lang)}", "bold")
    dry = [Line(WORDS[lang]["dry run"], "bold red")] if result.dry_run else []
    return Group("", head, *dry, table, *_failed(result, lang))


def count(verdicts: Sequence[Verdict], lang: str = "en") -> Line:
    """How many claims have each verdict: the last line of a run.

    Example:
        >>> count([]).plain
        '● 0 holds · ◐ 0 undecided · ○ 0 fails · – 0 not tested'
    """
    parts = [
        Line(f"{SIGNS[word]} {number} {WORDS[lang][word]}", COLOURS[word])
        for word, number in counts_of(verdicts).items()
    ]
    return Line(" · ").join(parts)


def _claim(claim: Claim, verdict: Verdict, result: Result, lang: str) -> RenderableType:
    colour, words = COLOURS[verdict.word], WORDS[lang]
    width = 11 if lang == "en" else 6  # a Chinese character takes two columns
    heads = {word: (words[word].ljust(width), "dim") for word in ("published", "measured", "test", "reason")}
    indent = "\n" + " " * (11 if lang == "en" else 8)
    body: list[RenderableType] = []
    if claim.published:
        body.append(Line.assemble(heads["published"], indent.join(map(figure_of, claim.published))))
    rows = measured_in(claim, result, lang)
    if rows:
        lines = [f"{arm}: {metric} {values}" if arm else f"{metric} {values}" for arm, metric, values in rows]
        body.append(Line.assemble(heads["measured"], indent.join(lines)))
    metrics = metrics_of(result)
    for test, finding in zip(claim.elementary, verdict.findings, strict=True):
        line = Line.assemble(heads["test"], interval_of(test, finding, metrics, lang)) if finding.label else Line()
        if len(verdict.findings) > 1 and finding.label:
            line.append(f"  {words[finding.word]}", style=COLOURS[finding.word])
        if reason := reason_of(test, finding, lang):
            line.append(f"{indent}{reason}" if finding.label else f"{heads['reason'][0]}{reason}", style="italic")
        body.append(line)
    title = Line.assemble(
        "\n",
        (f"{SIGNS[verdict.word]} ", colour),
        (claim.text[lang], "bold"),
        "  ",
        (verdict_of(verdict, lang), f"bold {colour}"),
    )
    return Group(title, Padding(Group(*body), (0, 0, 0, 2)))


def _arms(result: Result, lang: str) -> RenderableType:
    names, words = claimed_metrics(result)[:3], WORDS[lang]  # what fits beside the arms; report.html has all
    metrics = {name: metric_named(metrics_of(result), name) for name in names}
    table = Table(title=words["over seeds"], title_justify="left", title_style="dim", box=None)
    table.add_column(words["arm"], style="bold", no_wrap=True)
    for metric in metrics.values():
        table.add_column(head_of(metric, lang), justify="right")
    table.add_column(words["seconds"], justify="right", style="dim", no_wrap=True)
    for arm, seeds in result.metrics.items():
        seconds = [outcome.seconds for outcome in result.outcomes if outcome.arm == arm]
        values = (
            spread([found.get(name, math.nan) for found in seeds.values()], metric.decimals)
            for name, metric in metrics.items()
        )
        table.add_row(arm, *values, f"{np.mean(seconds):.1f}")
    return table


def _failed(result: Result, lang: str) -> list[RenderableType]:
    failed = WORDS[lang]["failed"]
    return [
        Line(f"{failed}: {o.arm} seed {o.seed}: {o.error.strip().splitlines()[-1]}", style="red")
        for o in result.failures
    ]
