"""repertory: published deep-learning methods, runnable; their claims, executable.

    >>> import repertory
    >>> "emo" in repertory.list_papers()
    True
    >>> repertory.card("emo").year
    2023

`repertory.study("emo", scale="laptop").run(seeds=3)` tests a paper's claims and returns a result with
`.table()`, `.verdicts` and `.save(path)`; in a notebook it shows itself as the report.
Importing this package imports no deep-learning library; running a study does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repertory.core.problem import Problem

if TYPE_CHECKING:
    from repertory.core.card import Card
    from repertory.execution.experiment import Experiment
    from repertory.execution.hardware import Hardware

__version__ = "0.1.0"
__all__ = ["Problem", "Scale", "card", "list_papers", "study"]

Scale = Literal["smoke", "laptop", "desk", "paper"]


def list_papers() -> list[str]:
    """Identifiers of all papers."""
    from repertory import catalog

    return list(catalog.packages())


def card(paper: str) -> Card:
    """What a paper says: title, claims, published figures, notes.

    Raises:
        Problem: no such paper; names the closest ones.
    """
    from repertory import catalog

    return catalog.card(paper)


def study(
    paper: str,
    scale: Scale = "laptop",
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    hardware: Hardware | None = None,
    dry_run: bool = False,
) -> Experiment:
    """A paper's study at one scale, ready to `run()`.

    Args:
        paper: identifier.
        scale: "smoke" (seconds), "laptop" (minutes), "desk" where there is real mid-size data, "paper".
        data: your own data; None: the sample, or the scale's real data set.
        out: run directory; default: runs/<paper>/<scale>.
        settings: fields of the study's configuration to change.
        hardware: devices, precision, strategy.
        dry_run: two steps per loop; proves that a recipe builds.

    Raises:
        Problem: unknown paper, scale or setting, or a folder that does not exist.
    """
    from repertory.execution.experiment import Experiment

    return Experiment(paper, scale, data=data, out=out, settings=settings, hardware=hardware, dry_run=dry_run)
