"""What benchmarks/ found, as reports show it: races beside their goals, growth beside its promise."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repertory.catalog import BENCHMARKS

SPAN = 16.0
"""The axis of ratios goes from 1 / SPAN to SPAN."""


@dataclass(frozen=True)
class Race:
    """Ours beside a peer. A ratio above 1: ours is faster."""

    paper: str
    name: str
    peer: str
    ratio: float
    low: float
    high: float
    """Quartiles of the paired ratios."""
    goal: float | None
    """None: it only informs."""
    system: float | None
    """The ratio under the allocator of the system."""
    memory: tuple[float, float] | None
    """MiB that ours and the peer add."""

    @property
    def reached(self) -> bool:
        """Whether the ratio, as it is shown, is up to the goal."""
        return self.goal is None or round(self.ratio, 2) >= self.goal

    @property
    def said(self) -> str:
        """The ratio with its quartiles."""
        return f"{_short(self.ratio)} [{_short(self.low)}, {_short(self.high)}]"

    @property
    def places(self) -> tuple[float, float, float]:
        """Ratio and quartiles on the logarithmic axis, in per cent of its width."""
        return place(self.ratio), place(self.low), place(self.high)


@dataclass(frozen=True)
class Growth:
    """How time grows with size."""

    paper: str
    name: str
    unit: str
    sizes: tuple[int, int]
    slope: float
    promised: float

    @property
    def reached(self) -> bool:
        """Within a tenth of what the method promises, or below."""
        return self.slope <= self.promised + 0.1


@dataclass(frozen=True)
class Speed:
    """All that results/benchmarks.json holds."""

    races: tuple[Race, ...] = ()
    growths: tuple[Growth, ...] = ()
    skipped: tuple[tuple[str, str, str], ...] = ()
    """(paper, race, reason)."""
    machines: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    loads: tuple[float, ...] = ()
    """Load averages of the machine as the scripts began; 1 is one busy core."""

    @property
    def judged(self) -> list[Race]:
        """The races that have a goal."""
        return [race for race in self.races if race.goal is not None]

    @property
    def median(self) -> float:
        return statistics.median(race.ratio for race in self.judged)

    @property
    def worst(self) -> Race:
        return min(self.judged, key=lambda race: race.ratio / (race.goal or 1))


def read(folder: Path) -> Speed:
    """The benchmarks in a folder of recorded results; empty where there are none."""
    path = folder / BENCHMARKS
    if not path.exists():
        return Speed()
    papers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["papers"]
    lines = [(paper, line) for paper, found in papers.items() for line in found["lines"]]
    return Speed(
        tuple(_race(paper, line) for paper, line in lines if "ratio" in line),
        tuple(_growth(paper, line) for paper, line in lines if "slope" in line),
        tuple((paper, line["race"], line["skipped"]) for paper, line in lines if "skipped" in line),
        tuple(sorted({found["machine"] for found in papers.values()})),
        tuple(sorted({found["date"] for found in papers.values()})),
        tuple(found["load"] for found in papers.values() if found.get("load") is not None),
    )


def _race(paper: str, line: dict[str, Any]) -> Race:
    memory = (line["ours_mib"], line["peer_mib"]) if "ours_mib" in line else None
    low, high = line["quartiles"]
    return Race(
        paper, line["race"], line["peer"], line["ratio"], low, high, line["goal"], line.get("system_ratio"), memory
    )


def _growth(paper: str, line: dict[str, Any]) -> Growth:
    ends = (line["sizes"][0], line["sizes"][-1])
    return Growth(paper, line["race"], line["unit"], ends, line["slope"], line["goal"])


def place(ratio: float) -> float:
    """Where a ratio lies on the logarithmic axis, in per cent; beyond an end: at the end.

    Example:
        >>> place(1.0), place(4.0), place(100.0)
        (50.0, 75.0, 100.0)
    """
    share = (math.log(ratio) / math.log(SPAN) + 1) / 2
    return round(100 * min(max(share, 0.0), 1.0), 2)


def sentence(speed: Speed) -> str:
    """README's line; "" where nothing was measured."""
    if not speed.judged:
        return ""
    reached = sum(race.reached for race in speed.judged)
    worst = speed.worst
    return (
        f"[Speed](docs/benchmarks.md): {len(speed.judged)} races beside peers on one thread, median ratio "
        f"{_short(speed.median)} (above 1: ours is faster); {reached} reach their goal; the worst is {worst.paper}, "
        f"{worst.name}: {_short(worst.ratio)} of {worst.peer}."
    )


def _short(value: float) -> str:
    """Two digits after the point below ten, one below a hundred, then none."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
