"""A run's report in the terminal, and as an SVG picture of it."""

from __future__ import annotations

import io
import math
import re

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Line

from repertory import catalog
from repertory.core.card import Claim
from repertory.reports.card import COLOURS
from repertory.reports.words import claimed_metrics, duration, figure_of, interval_of, measured_in, spread
from repertory.verdicts.judge import Verdict
from repertory.verdicts.results import Result


def report(result: Result, lang: str = "en") -> RenderableType:
    """The whole report for a terminal."""
    card = catalog.card(result.paper)
    seeds = sorted({outcome.seed for outcome in result.outcomes})
    count = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
    head = Line.assemble(
        (card.title, "bold"), "\n",
        (f"{card.venue} {card.year}" + (f", arXiv {card.arxiv}" if card.arxiv else ""), "dim"), "\n",
        f"scale {result.scale} · data: {result.data} · {count} · {duration(result.seconds)} of computing",
        (" · DRY RUN: the figures mean nothing" if result.dry_run else "", "bold red"),
    )  # fmt: skip
    verdicts = zip(card.claim, result.verdicts, strict=True)
    return Group(
        head,
        *(_claim(claim, verdict, result, lang) for claim, verdict in verdicts),
        "",
        _arms(result),
        *_failed(result),
    )


def _claim(claim: Claim, verdict: Verdict, result: Result, lang: str) -> RenderableType:
    colour = COLOURS[verdict.word]
    body: list[RenderableType] = []
    if claim.published:
        body.append(Line.assemble(("published  ", "dim"), "\n           ".join(map(figure_of, claim.published))))
    rows = measured_in(claim, result)
    if rows:
        lines = [f"{arm}: {metric} {values}" if arm else f"{metric} {values}" for arm, metric, values in rows]
        body.append(Line.assemble(("measured   ", "dim"), "\n           ".join(lines)))
    for finding in verdict.findings:
        line = Line.assemble(("test       ", "dim"), interval_of(finding)) if finding.label else Line()
        if len(verdict.findings) > 1 and finding.label:
            line.append(f"  {finding.word}", style=COLOURS[finding.word])
        reason = finding.reason
        if finding.word == "not tested" and not finding.label:  # the card says why, in both languages
            reason = next(t.reason[lang] for t in claim.test if t.kind == "untested" and t.reason.en == finding.reason)
        if reason:
            line.append(f"\n           {reason}" if finding.label else f"reason     {reason}", style="italic")
        body.append(line)
    title = Line.assemble("\n", ("● ", colour), (claim.text[lang], "bold"), "  ", (verdict.sentence, f"bold {colour}"))
    return Group(title, Padding(Group(*body), (0, 0, 0, 2)))


def _arms(result: Result) -> RenderableType:
    metrics = claimed_metrics(result)[:3]  # what fits beside the names; report.html has all
    table = Table(title="mean ± standard deviation over seeds", title_justify="left", title_style="dim", box=None)
    table.add_column("arm", style="bold", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", style="dim", no_wrap=True)
    for arm, seeds in result.metrics.items():
        seconds = [outcome.seconds for outcome in result.outcomes if outcome.arm == arm]
        values = (spread([m.get(metric, math.nan) for m in seeds.values()]) for metric in metrics)
        table.add_row(arm, *values, f"{np.mean(seconds):.1f}")
    return table


def _failed(result: Result) -> list[RenderableType]:
    return [
        Line(f"failed: {o.arm} seed {o.seed}: {o.error.strip().splitlines()[-1]}", style="red") for o in result.failures
    ]


def svg(result: Result, width: int = 110) -> str:
    """The terminal report as an SVG picture that loads nothing from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(report(result))
    picture = console.export_svg(title=f"repertory run {result.paper}")
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # rich names fonts on a server
