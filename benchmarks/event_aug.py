"""Events per second of each augmentation on one core, compared with plain code and tonic.

    python benchmarks/event_aug.py [--events 1000000] [--rounds 9] [--output FILE.json]

Plain code is the straightforward implementation: a table (N, 4), index arrays, `np.delete`, `np.add.at`. tonic takes
part where it has a counterpart, if it is installed (pip install tonic). All transform a copy of the same stream; where
plain code does the same operation, the results are compared first. The contestants alternate, and the result is the
median of the paired ratios (above 1: ours is faster).
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.files import write_json
from repertory.core.timing import race, ratio
from repertory.data.events import count_frames, event_count, make_events, pick, voxel_grid
from repertory.papers.event_aug import METHODS, EventDrift, EventDrop, EventReversal, ShiftFlip

SIZE = (180, 240)
COLUMNS = {"x": 0, "y": 1, "t": 2, "p": 3}
BINS = 10
Step = Callable[[], Any]


def stream(count: int) -> np.ndarray:
    """Uniform events on a sensor of 240 x 180 pixels within 300 ms."""
    rng = np.random.default_rng(0)
    x, y, t, p = (rng.integers(limit, size=count) for limit in (SIZE[1], SIZE[0], 300_000, 2))
    return make_events(x, y, np.sort(t), p)


def as_table(events: np.ndarray) -> np.ndarray:
    return np.stack([events[name].astype(np.int64) for name in COLUMNS], axis=1)


# -- plain code ---------------------------------------------------------------------------------------


def plain_reverse(table: np.ndarray, domain: str, rows: np.ndarray) -> np.ndarray:
    table = table.copy()
    for name in domain:
        last = {"x": SIZE[1] - 1, "y": SIZE[0] - 1, "t": table[:, 2].max(), "p": 1}[name]
        table[rows, COLUMNS[name]] = last - table[rows, COLUMNS[name]]
    return table[np.argsort(table[:, 2], kind="stable")] if "t" in domain else table


def plain_drift(table: np.ndarray, domain: str, offset: int, rows: np.ndarray) -> np.ndarray:
    table = table.copy()
    for name in domain:
        limit = {"x": SIZE[1], "y": SIZE[0], "t": table[:, 2].max() + 1, "p": 2}[name]
        rows = rows[rows < len(table)]
        table[rows, COLUMNS[name]] += offset
        column = table[:, COLUMNS[name]]
        table = np.delete(table, np.where((column < 0) | (column >= limit))[0], axis=0)
    return table[np.argsort(table[:, 2], kind="stable")] if "t" in domain else table


def plain_frames(table: np.ndarray) -> np.ndarray:
    frames = np.zeros((2, *SIZE, BINS), np.float32)
    x, y, t, p = table.T
    np.add.at(frames, (p, y, x, BINS * t // (t.max() + 1)), 1)
    return frames


# -- the races ----------------------------------------------------------------------------------------


def contestants(count: int) -> dict[str, dict[str, Step]]:
    """Task -> contestant -> call."""
    events = stream(count)
    table = as_table(events)
    rng = np.random.default_rng
    drawn = rng(0).choice(count, int(0.3 * count), replace=False)
    rows = {"all": np.arange(count), "range": np.arange(count // 4, count // 4 + count // 2), "random": drawn}
    tasks: dict[str, dict[str, Step]] = {}
    for name, (domain, kind) in METHODS.items():
        if name == "identical":
            continue
        domain = domain or "xyt"
        reversal, drift = EventReversal(SIZE, [name]), EventDrift(SIZE, [name])
        tasks[f"reverse {name}"] = {
            "ours": lambda r=reversal: r(events, rng(2)),
            "plain": lambda d=domain, k=kind: plain_reverse(table, d, rows[k]),
        }
        tasks[f"drift {name}"] = {
            "ours": lambda r=drift: r(events, rng(2)),
            "plain": lambda d=domain, k=kind: plain_drift(table, d, 12, rows[k]),
        }
    drop = EventDrop(SIZE, "rectangle")
    for name, chosen in (("time", drop._time), ("area", drop._area), ("random", drop._random)):
        tasks[f"drop by {name}"] = {"ours": lambda c=chosen: pick(events, ~c(events, rng(2)))}
    tasks["drop by random"]["plain"] = lambda: np.delete(table, rng(2).choice(count, count // 2, False), axis=0)
    tasks["shift and flip"] = {"ours": lambda: ShiftFlip(SIZE)(events, rng(2))}
    tasks["count frames"] = {"ours": lambda: count_frames(events, SIZE, BINS), "plain": lambda: plain_frames(table)}
    tasks["event count"] = {"ours": lambda: event_count(events, SIZE)}
    tasks["voxel grid"] = {"ours": lambda: voxel_grid(events, SIZE, BINS)}
    for name, step in tonics(events).items():
        tasks[name]["tonic"] = step
    agree(events, table, tasks)
    return tasks


def tonics(events: np.ndarray) -> dict[str, Step]:
    """tonic's counterparts; empty if it is not installed."""
    try:
        transforms: Any = importlib.import_module("tonic.transforms")
    except ImportError as error:
        print(f"tonic is not installed ({error}); pip install tonic")
        return {}
    sensor = (SIZE[1], SIZE[0], 2)
    counterparts = {
        "reverse x_all": transforms.RandomFlipLR(sensor, 1.0),
        "reverse y_all": transforms.RandomFlipUD(sensor, 1.0),
        "reverse p_all": transforms.RandomFlipPolarity(1.0),
        "reverse t_all": transforms.RandomTimeReversal(1.0),
        "drop by time": transforms.DropEventByTime(0.5),
        "drop by area": transforms.DropEventByArea(sensor, 0.15),
        "drop by random": transforms.DropEvent(0.5),
        "count frames": transforms.ToFrame(sensor, n_time_bins=BINS),
    }
    return {name: lambda t=transform: t(pick(events, slice(None))) for name, transform in counterparts.items()}


def agree(events: np.ndarray, table: np.ndarray, tasks: dict[str, dict[str, Step]]) -> None:
    """Check that equal operations give equal results."""
    for name in ("reverse x_all", "reverse y_all", "reverse p_all"):
        assert (as_table(tasks[name]["ours"]()) == tasks[name]["plain"]()).all(), name
    ours, plain = (
        np.sort(np.asarray(t)) for t in (tasks["reverse t_all"]["ours"]()["t"], table[:, 2].max() - table[:, 2])
    )
    assert (ours == plain).all()
    assert (tasks["count frames"]["ours"]() == tasks["count frames"]["plain"]()).all()
    whole = EventDrift(SIZE, ["x_all"])
    drifted = as_table(whole._apply(events, "x", "all", slice(None), _Constant(12)))  # pyright: ignore[reportArgumentType]
    assert (drifted == plain_drift(table, "x", 12, np.arange(len(table)))).all()


class _Constant:
    """Generator that returns a constant."""

    def __init__(self, value: int) -> None:
        self.value = value

    def integers(self, *_: int) -> int:
        return self.value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    print(f"{given.events:,} events; millions of events a second, and how many times faster ours is")
    print(f"{'':20}{'ours':>8}{'plain':>8}{'tonic':>8}{'/ plain':>9}{'/ tonic':>9}")
    found: dict[str, dict[str, float]] = {}
    for task, runs in contestants(given.events).items():
        times = race(runs, range(1 + given.rounds))
        row = {who: given.events / 1e6 / float(np.median(seconds)) for who, seconds in times.items()}
        row |= {f"over {who}": ratio(times, "ours", who) for who in times if who != "ours"}
        found[task] = row
        cells = [f"{row[key]:{width}.1f}" if key in row else " " * width for key, width in TABLE]
        print(f"{task:20}{''.join(cells)}", flush=True)
    slowest = min(found, key=lambda task: found[task]["ours"])
    print(f"slowest of ours: {slowest}, {found[slowest]['ours']:.1f} million events a second")
    if given.output:
        write_json(given.output, {"events": given.events, "tasks": found})


TABLE = (("ours", 8), ("plain", 8), ("tonic", 8), ("over plain", 9), ("over tonic", 9))
"""Columns and their widths."""

if __name__ == "__main__":
    main()
