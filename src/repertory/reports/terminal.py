"""A run's report in the terminal."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Line

from repertory import catalog
from repertory.core.card import Claim
from repertory.reports.card import COLOURS
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
        reason = test.reason[lang] if test.kind == "untested" and finding.word == "not tested" else finding.reason
        if reason:
            line.append(f"{indent}{reason}" if finding.label else f"{heads['reason'][0]}{reason}", style="italic")
        body.append(line)
    title = Line.assemble(
        "\n", ("● ", colour), (claim.text[lang], "bold"), "  ", (verdict_of(verdict, lang), f"bold {colour}")
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
