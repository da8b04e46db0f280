"""A run's report as one HTML file, and in notebooks."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape

from repertory import catalog
from repertory.core.files import write_text
from repertory.reports.forest import HEIGHT
from repertory.reports.views import slug
from repertory.reports.words import (
    axis_of,
    claimed_metrics,
    duration,
    figure_of,
    head_of,
    interval_of,
    measured_in,
    metric_named,
    metrics_of,
    multiplicity_of,
    number,
    spread,
    with_unit,
)
from repertory.verdicts.results import Result
from repertory.verdicts.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


HEX = {"holds": "#1a7f37", "fails": "#cf222e", "undecided": "#9a6700", "not tested": "#6e7781"}


class Report(Result):
    """A result that shows itself as the report: in a notebook, or as a file."""

    def write_html(self, path: Path) -> Path:
        """One self-contained file: verdicts, figures and all metrics."""
        write_text(path, template("report.html").render(**_page(self)))
        return path

    def _repr_html_(self) -> str:
        """The same without the page around it, for notebooks."""
        return template("body.html").render(**_page(self))


def cell(text: object) -> str:
    """Text for a cell of a Markdown table: it cannot end the cell or the row."""
    return " ".join(str(text).replace("|", "\\|").splitlines())


def template(name: str) -> Template:
    """A template of ours; HTML is escaped, and `cell` makes text fit for a table of Markdown."""
    return _environment().get_template(name)


@functools.cache
def _environment() -> Environment:
    folder = str(files("repertory.reports") / "templates")
    found = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {"cell": cell, "slug": slug}
    found.globals["height"] = HEIGHT
    return found


def _page(result: Result) -> dict[str, Any]:
    card, declared = catalog.card(result.paper), metrics_of(result)
    claims = [
        {
            "claim": claim,
            "verdict": verdict,
            "colour": HEX[verdict.word],
            "published": [figure_of(p) for p in claim.published],
            "measured": measured_in(claim, result),
            "findings": [
                (interval_of(test, finding, declared), finding.word, HEX[finding.word], finding.reason)
                for test, finding in zip(claim.elementary, verdict.findings, strict=True)
            ],
        }
        for claim, verdict in zip(card.claim, result.verdicts, strict=True)
    ]
    names = dict.fromkeys(name for outcome in result.outcomes for name in outcome.metrics)
    metrics = {name: metric_named(declared, name) for name in names}
    rows = [
        (
            arm,
            [spread([m.get(name, math.nan) for m in seeds.values()], what.decimals) for name, what in metrics.items()],
        )
        for arm, seeds in result.metrics.items()
    ]
    figures = [
        (what.en, with_unit(number(value, what.decimals), what.unit))
        for name, value in result.figures.items()
        for what in [metric_named(declared, name)]
    ]
    charts = [(metrics[name].en, _data_uri(chart(result, name))) for name in claimed_metrics(result)]
    pictures = (
        []
        if result.folder is None
        else [
            (f"{path.parent.parent.name}: {path.stem}", _png_uri(path.read_bytes()))
            for path in _first_seed_figures(result)
        ]
    )
    return {
        "card": card, "result": result, "claims": claims, "heads": [head_of(metric) for metric in metrics.values()],
        "rows": rows, "figures": figures, "charts": charts, "pictures": pictures, "duration": duration(result.seconds),
        "multiplicity": multiplicity_of(result.verdicts),
    }  # fmt: skip


def _first_seed_figures(result: Result) -> list[Path]:
    """The figures of each arm's first seed: one of each kind is enough to look at."""
    assert result.folder is not None
    first = min((outcome.seed for outcome in result.outcomes), default=0)
    folders = ["measure", *(f"{arm}-{first}" for arm in result.metrics)]
    return [path for name in folders for path in sorted((result.folder / "trials" / name / "figures").glob("*.png"))]


def chart(result: Result, metric: str, lang: str = "en", arms: Sequence[str] | None = None) -> Figure:
    """Every seed as a dot, the mean with its 95 % interval as a bar, one row per arm; default: all arms."""
    from matplotlib.figure import Figure

    arms = list(arms or result.metrics)
    figure = Figure(figsize=(7, 0.6 + 0.34 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for row, arm in enumerate(arms):
        values = [m[metric] for m in result.metrics[arm].values() if math.isfinite(m.get(metric, math.nan))]
        if not values:
            continue
        found = mean_interval(values)
        axes.plot(values, [row] * len(values), "o", color="#8c959f", markersize=4, alpha=0.8)
        if math.isfinite(found.low):
            axes.plot([found.low, found.high], [row, row], color="#0969da", linewidth=2)
        axes.plot([found.estimate], [row], "|", color="#0969da", markersize=12, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set_xlabel(axis_of(metric_named(metrics_of(result), metric), lang))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _png_uri(buffer.getvalue())


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
