"""Geometry of training curves: one small picture an arm and figure, on an axis that all arms share."""

from __future__ import annotations

from dataclasses import dataclass

from repertory.reports.words import rounded
from repertory.verdicts.curves import Points
from repertory.verdicts.results import Result

WIDTH, TALL = 160, 36
"""Of one picture, in its own units; it stretches with its cell."""


@dataclass(frozen=True)
class Spark:
    """A curve of an arm."""

    line: str
    """Points of the mean, for SVG."""
    band: str
    """Outline from the lowest to the highest seed."""
    first: str
    last: str
    """Mean at the first and the last step."""
    label: str


@dataclass(frozen=True)
class Column:
    """One logged figure over all arms."""

    name: str
    steps: int
    """The last of them."""
    sparks: dict[str, Spark]
    """By arm; arms that did not log it are absent."""


def columns(result: Result) -> list[Column]:
    """The training curves of a result; [] where none are kept."""
    names = dict.fromkeys(name for curves in result.curves.values() for name in curves)
    return [_column(name, {arm: of[name] for arm, of in result.curves.items() if name in of}) for name in names]


def _column(name: str, curves: dict[str, Points]) -> Column:
    low = min(point[2] for points in curves.values() for point in points)
    high = max(point[3] for points in curves.values() for point in points)
    steps = int(max(points[-1][0] for points in curves.values()))

    def place(step: float, value: float) -> str:
        x = WIDTH * step / (steps or 1)
        y = 2 + (TALL - 4) * ((high - value) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    def spark(arm: str, points: Points) -> Spark:
        first, last = rounded(points[0][1]), rounded(points[-1][1])
        upper = [place(step, top) for step, _, _, top in points]
        lower = [place(step, bottom) for step, _, bottom, _ in reversed(points)]
        line = " ".join(place(step, mean) for step, mean, _, _ in points)
        return Spark(line, " ".join([*upper, *lower]), first, last, f"{arm}, {name}: {first} → {last}")

    return Column(name, steps, {arm: spark(arm, points) for arm, points in curves.items()})
