"""A run's report as one HTML file, and in notebooks."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, Template, select_autoescape

from repertory import catalog
from repertory.core.files import write_text
from repertory.reports.curves import columns
from repertory.reports.forest import HEIGHT, arms_plot
from repertory.reports.reasons import reason_of
from repertory.reports.views import changed_settings, claim_views, counts_of, place_of, slug
from repertory.reports.words import (
    WORDS,
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


class Report(Result):
    """A result that shows itself as the report: in a notebook, or as a file."""

    def write_html(self, path: Path, lang: str = "en") -> Path:
        """One self-contained file in one language: verdicts, plots and all metrics."""
        write_text(path, template("report.html").render(**_page(self, lang)))
        return path

    def _repr_html_(self) -> str:
        """The same without the page around it, for notebooks."""
        return template("body.html").render(**_page(self, "en"))


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


def _page(result: Result, lang: str) -> dict[str, Any]:
    card, declared, words = catalog.card(result.paper), metrics_of(result), WORDS[lang]
    claims = [
        {
            "found": view.findings[0],
            "published": [figure_of(p) for p in view.claim.published],
            "measured": measured_in(view.claim, result, lang),
            "findings": [
                (interval_of(test, finding, declared, lang), finding.word, reason_of(test, finding, lang))
                for test, finding in zip(view.claim.elementary, view.findings[0].verdict.findings, strict=True)
            ],
        }
        for view in claim_views(card, [result], lang)
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
        (what[lang], with_unit(number(value, what.decimals), what.unit))
        for name, value in result.figures.items()
        for what in [metric_named(declared, name)]
    ]
    pictures = (
        []
        if result.folder is None
        else [
            (f"{path.parent.parent.name}: {path.stem}", _png_uri(path.read_bytes()))
            for path in _first_seed_figures(result)
        ]
    )
    parts = {
        "claims": True, "arms": True, "training": result.curves, "figures": figures, "pictures": pictures,
        "notes": card.note or card.fidelity_note, "run": True,
    }  # fmt: skip
    titles = {"figures": "no training", "run": "this run"}
    return {
        "lang": lang, "w": words, "card": card, "result": result, "claims": claims,
        "place": place_of(result, lang), "counts": counts_of(result.verdicts),
        "contents": [(name, words[titles.get(name, name)]) for name, there in parts.items() if there],
        "heads": [head_of(metric, lang) for metric in metrics.values()], "rows": rows, "figures": figures,
        "charts": [arms_plot(result, name, lang) for name in claimed_metrics(result)], "pictures": pictures,
        "training": columns(result), "method": catalog.design(result.paper).method,
        "duration": duration(result.seconds), "changed": changed_settings(result),
        "multiplicity": multiplicity_of(result.verdicts, lang),
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


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
