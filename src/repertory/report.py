"""What a run found, side by side with what was published: in the terminal, as one HTML file, as README's table."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as Line

from repertory import catalog
from repertory.card import Card, Claim, Compare, Published, Trend, Value
from repertory.files import write_text
from repertory.problem import Problem
from repertory.show import COLOURS
from repertory.verdict import Finding, Verdict, t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repertory.runner import Result

HEX = {"holds": "#1a7f37", "fails": "#cf222e", "undecided": "#9a6700", "not tested": "#6e7781"}


# -- numbers and short words --------------------------------------------------------------------


def number(value: float) -> str:
    """Four significant digits; from a thousand on without decimals, but with separators.

    Example:
        >>> number(1361168.0), number(0.123456), number(float("nan"))
        ('1,361,168', '0.1235', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"  # less is what rounding leaves of equal means


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return "-"
    mean = number(float(np.mean(finite)))
    return f"{mean} ± {number(float(f'{np.std(finite, ddof=1):.2g}'))}" if len(finite) > 1 else mean


def figure_of(published: Published) -> str:
    """One published figure in words."""
    std = "" if published.std is None else f" ± {number(published.std)}"
    return f"{published.arm}: {published.metric} {number(published.value)}{std} ({published.data}; {published.source})"


def interval_of(finding: Finding) -> str:
    """The estimate of a test with its interval and what would be accepted."""
    if not math.isfinite(finding.estimate):
        return finding.label
    if math.isinf(finding.low):
        interval = ""
    elif finding.low == finding.high == finding.estimate:
        interval = "" if finding.n == 1 else f" (the same in all {finding.n} seeds)"
    else:
        interval = f", 95 % interval [{number(finding.low)}, {number(finding.high)}], n = {finding.n}"
    return f"{finding.label} = {number(finding.estimate)}{interval}; {_accepted(finding.accepted)}"


def _accepted(region: tuple[float, float]) -> str:
    low, high = region
    if number(low) == number(high):
        return f"claimed: {number(low)}"
    if math.isinf(high):
        return f"claimed: above {number(low)}"
    if math.isinf(low):
        return f"claimed: at most {number(high)}"
    return f"claimed: {number(low)} to {number(high)}"


def measured_in(claim: Claim, result: Result) -> list[tuple[str, str, str]]:
    """(arm, metric, mean ± std) of all that the claim's tests look at, each once; no arm: a figure of `measure`."""
    wanted: list[tuple[str, str]] = []
    for test in claim.test:
        if isinstance(test, Compare):
            wanted += [(test.arm, test.metric), *((over, test.over_metric or test.metric) for over in test.controls)]
        elif isinstance(test, Value):
            wanted.append((test.arm, test.metric))
        elif isinstance(test, Trend):
            wanted += [(test.arm, metric) for metric in test.metrics()]
    rows = []
    for arm, metric in dict.fromkeys(wanted):
        if arm:
            values = [metrics.get(metric, math.nan) for metrics in result.metrics.get(arm, {}).values()]
        else:
            values = [result.figures.get(metric, math.nan)]
        rows.append((arm, metric, spread(values)))
    return rows


def duration(seconds: float) -> str:
    """Example:

    >>> duration(12.3), duration(250), duration(7384)
    ('12 s', '4 min 10 s', '2 h 3 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# -- terminal -----------------------------------------------------------------------------------


def terminal(result: Result, lang: str = "en") -> RenderableType:
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


def claimed_metrics(result: Result) -> list[str]:
    """The metrics of trials that claims are about, in the claims' order; all metrics, if none is."""
    card = catalog.card(result.paper)
    claimed = [metric for claim in card.claim for arm, metric, _ in measured_in(claim, result) if arm]
    present = dict.fromkeys(name for outcome in result.outcomes for name in outcome.metrics)
    return [metric for metric in dict.fromkeys(claimed) if metric in present] or list(present)


def _failed(result: Result) -> list[RenderableType]:
    return [
        Line(f"failed: {o.arm} seed {o.seed}: {o.error.strip().splitlines()[-1]}", style="red") for o in result.failures
    ]


def svg(result: Result, width: int = 110) -> str:
    """The terminal report as an SVG picture that loads nothing from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(terminal(result))
    picture = console.export_svg(title=f"repertory run {result.paper}")
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # rich names fonts on a server


# -- HTML ---------------------------------------------------------------------------------------


def write_html(result: Result, path: Path) -> Path:
    """One self-contained file: verdicts, figures and all metrics."""
    write_text(path, _template("report.html").render(**_page(result)))
    return path


def html_body(result: Result) -> str:
    """The same without the page around it, for notebooks."""
    return _template("body.html").render(**_page(result))


def _template(name: str) -> Any:
    folder = str(files("repertory") / "templates")
    return Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True).get_template(name)


def _page(result: Result) -> dict[str, Any]:
    card = catalog.card(result.paper)
    claims = [
        {
            "claim": claim,
            "verdict": verdict,
            "colour": HEX[verdict.word],
            "published": [figure_of(p) for p in claim.published],
            "measured": measured_in(claim, result),
            "findings": [(interval_of(f) if f.label else "", f.word, HEX[f.word], f.reason) for f in verdict.findings],
        }
        for claim, verdict in zip(card.claim, result.verdicts, strict=True)
    ]
    metrics = list(dict.fromkeys(name for outcome in result.outcomes for name in outcome.metrics))
    rows = [
        (arm, [spread([m.get(metric, math.nan) for m in seeds.values()]) for metric in metrics])
        for arm, seeds in result.metrics.items()
    ]
    charts = [(metric, _data_uri(chart(result, metric))) for metric in claimed_metrics(result)]
    pictures = (
        []
        if result.folder is None
        else [
            (f"{path.parent.parent.name}: {path.stem}", _png_uri(path.read_bytes()))
            for path in _first_seed_figures(result)
        ]
    )
    return {
        "card": card, "result": result, "claims": claims, "metrics": metrics, "rows": rows, "charts": charts,
        "pictures": pictures, "duration": duration(result.seconds), "number": number,
    }  # fmt: skip


def _first_seed_figures(result: Result) -> list[Path]:
    """The figures of each arm's first seed: one of each kind is enough to look at."""
    assert result.folder is not None
    first = min((outcome.seed for outcome in result.outcomes), default=0)
    folders = ["measure", *(f"{arm}-{first}" for arm in result.metrics)]
    return [path for name in folders for path in sorted((result.folder / "trials" / name / "figures").glob("*.png"))]


def chart(result: Result, metric: str) -> Figure:
    """Every seed as a dot, the mean with its 95 % interval as a bar, one row per arm."""
    from matplotlib.figure import Figure

    arms = list(result.metrics)
    figure = Figure(figsize=(7, 0.6 + 0.34 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for row, arm in enumerate(arms):
        values = [m[metric] for m in result.metrics[arm].values() if math.isfinite(m.get(metric, math.nan))]
        if not values:
            continue
        mean, low, high = t_interval(values)
        axes.plot(values, [row] * len(values), "o", color="#8c959f", markersize=4, alpha=0.8)
        if math.isfinite(low):
            axes.plot([low, high], [row, row], color="#0969da", linewidth=2)
        axes.plot([mean], [row], "|", color="#0969da", markersize=12, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set_xlabel(metric)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _png_uri(buffer.getvalue())


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


# -- README's table -----------------------------------------------------------------------------


def markdown_table(cards: Sequence[Card], results: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """Papers, claims, published and measured figures, verdicts, from cards and recorded results.

    Args:
        cards: a row for each claim of each.
        results: paper -> recorded results (the content of results/<id>*.json).
    """
    lines = ["| paper | claim | published | measured | verdict |", "| --- | --- | --- | --- | --- |"]
    for card in cards:
        recorded = list(results.get(card.id, ()))
        for position, claim in enumerate(card.claim):
            name = f"**{card.id}** ({card.venue} {card.year})" if position == 0 else ""
            published = [f"{p.arm}: {p.metric} {number(p.value)} ({p.data})" for p in claim.published]
            measured, verdicts = [], []
            for result in recorded:
                verdict = next((v for v in result["verdicts"] if v["claim"] == claim.id), None)
                if verdict is None or (verdict["verdict"] == "not tested" and verdicts):
                    continue
                verdicts.append(verdict["sentence"])
                for test in verdict["tests"]:
                    if test["estimate"] is not None and test["label"]:
                        measured.append(f"{test['label']} = {number(test['estimate'])} ({result['data']})")
            cells = (name, claim.en, _listed(published), _listed(measured), _listed(verdicts) or "not recorded")
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _listed(lines: Sequence[str], most: int = 4) -> str:
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "<br>".join([*lines[:most], *more])


MARKS = ("<!-- papers: generated by `repertory table` -->", "<!-- end of papers -->")


def with_table(readme: str, table: str) -> str:
    """README with the table between its two marks replaced.

    Raises:
        Problem: a mark is missing.
    """
    before, begin, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise Problem("the marks around the table of papers are missing", "README", f"put in {' and '.join(MARKS)}")
    return f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}"
