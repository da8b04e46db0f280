"""Augmentations of event streams beside plain code and tonic, and how the cost of streams grows.

    python benchmarks/event_aug.py

A million uniform events on a sensor of 240 x 180 pixels within 300 ms; each contestant transforms a copy of the stream.

- plain: the straightforward implementation: a table (N, 4), index arrays, `np.delete`, `np.add.at`. Where both do the
  same, results are compared.
- tonic: where it has a counterpart (pip install tonic).
- growth: an augmentation, frames, the simulated camera (pixels, at 20 frames), and the readers of every event format
  and of spike trains in SHD's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.core.problem import require
from repertory.data import shd
from repertory.data.dvs import moving, saccades, simulate
from repertory.data.events import (
    count_frames,
    make_events,
    pick,
    read_events,
    voxel_grid,
    write_aedat,
    write_atis,
    write_dat,
)
from repertory.papers.event_aug import METHODS, EventDrift, EventDrop, EventReversal

SIZE = (180, 240)
COUNT = 1_000_000
COLUMNS = {"x": 0, "y": 1, "t": 2, "p": 3}
BINS = 10


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


class _Constant:
    """Generator that returns a constant."""

    def __init__(self, value: int) -> None:
        self.value = value

    def integers(self, *_: int) -> int:
        return self.value


# -- the races ----------------------------------------------------------------------------------------

Generator = np.random.default_rng


def against(peer: Run, ours: Run, name: str) -> Race:
    return Race(ours, {name: peer}, memory=False, facts={"events": COUNT})


def rows_of(kind: str) -> np.ndarray:
    """Events that plain code changes: as many as ours."""
    if kind == "all":
        return np.arange(COUNT)
    if kind == "range":
        return np.arange(COUNT // 4, COUNT // 4 + COUNT // 2)
    return Generator(0).choice(COUNT, int(0.3 * COUNT), replace=False)


def reversal(name: str) -> Race:
    events, (domain, kind), reverse = stream(COUNT), METHODS[name], EventReversal(SIZE, [name])
    table, rows = as_table(events), rows_of(kind)
    ours, plain = lambda: reverse(events, Generator(2)), partial(plain_reverse, table, domain or "xyt", rows)
    if kind == "all":
        found, expected = as_table(ours()), plain()
        if "t" in domain:  # events of one time may change places
            found, expected = np.sort(found, axis=0), np.sort(expected, axis=0)
        np.testing.assert_array_equal(found, expected)
    return against(plain, ours, "plain")


def drift(name: str) -> Race:
    events, (domain, kind), move = stream(COUNT), METHODS[name], EventDrift(SIZE, [name])
    table = as_table(events)
    if name == "x_all":
        drifted = move._apply(events, "x", "all", slice(None), _Constant(12))  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(as_table(drifted), plain_drift(table, "x", 12, np.arange(COUNT)))
    plain = partial(plain_drift, table, domain or "xyt", 12, rows_of(kind))
    return against(plain, lambda: move(events, Generator(2)), "plain")


def drop() -> Race:
    events, dropped = stream(COUNT), EventDrop(SIZE, "rectangle")
    table = as_table(events)
    return against(
        lambda: np.delete(table, Generator(2).choice(COUNT, COUNT // 2, False), axis=0),
        lambda: pick(events, ~dropped._random(events, Generator(2))),
        "plain",
    )


def frames() -> Race:
    events = stream(COUNT)
    ours, plain = partial(count_frames, events, SIZE, BINS), partial(plain_frames, as_table(events))
    np.testing.assert_array_equal(ours(), plain())
    return Race(ours, {"plain": plain}, facts={"events": COUNT})


def beside_tonic(name: str) -> Race:
    transforms: Any = require("tonic.transforms", "peers")
    events, dropped = stream(COUNT), EventDrop(SIZE, "rectangle")
    sensor = (SIZE[1], SIZE[0], 2)
    contestants: Mapping[str, tuple[Run, Callable[..., object]]] = {
        "reverse x_all": (
            partial(EventReversal(SIZE, ["x_all"]), events, Generator(2)),
            transforms.RandomFlipLR(sensor, 1.0),
        ),
        "reverse t_all": (
            partial(EventReversal(SIZE, ["t_all"]), events, Generator(2)),
            transforms.RandomTimeReversal(1.0),
        ),
        "drop by time": (lambda: pick(events, ~dropped._time(events, Generator(2))), transforms.DropEventByTime(0.5)),
        "drop by area": (
            lambda: pick(events, ~dropped._area(events, Generator(2))),
            transforms.DropEventByArea(sensor, 0.15),
        ),
        "drop by random": (lambda: pick(events, ~dropped._random(events, Generator(2))), transforms.DropEvent(0.5)),
        "count frames": (
            partial(count_frames, events, SIZE, BINS),
            transforms.ToFrame(sensor, n_time_bins=BINS),
        ),
    }
    ours, theirs = contestants[name]
    return against(lambda: theirs(pick(events, slice(None))), ours, "tonic")


TONIC = ("reverse x_all", "reverse t_all", "drop by time", "drop by area", "drop by random", "count frames")

# -- growth -------------------------------------------------------------------------------------------


def reversing(count: int) -> Run:
    return partial(EventReversal(SIZE, ["t_range"]), stream(count), Generator(2))


def gridding(count: int) -> Run:
    return partial(voxel_grid, stream(count), SIZE, BINS)


def camera(pixels: int) -> Run:
    side = int(pixels**0.5)
    picture, times = Generator(0).random((1, side, side)), 2_000.0 * np.arange(20)
    return lambda: simulate(moving(picture, saccades(times, 2.5)), times, Generator(1), noise=0)


def reading(suffix: str, count: int) -> Run:
    path, events = scratch() / f"stream{suffix}", stream(count)
    WRITERS[suffix](path, events)
    return partial(read_events, path)


def write_aedat_cut(path: Path, events: np.ndarray) -> None:
    write_aedat(path, make_events(events["x"] % 128, events["y"] % 128, events["t"], events["p"]))


def write_h5(path: Path, events: np.ndarray) -> None:
    with require("h5py", "spiking").File(path, "w") as file:
        for name in COLUMNS:
            file[name] = events[name]


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    ".bin": write_atis,
    ".dat": write_dat,
    ".aedat": write_aedat_cut,
    ".npy": lambda path, events: np.save(path, as_table(events)),
    ".npz": lambda path, events: np.savez(path, x=events["x"], y=events["y"], t=events["t"], p=events["p"]),
    ".h5": write_h5,
}


def spike_trains(spikes: int) -> Run:
    """Recordings of 1,000 spikes."""
    path, rng = scratch() / "shd_train.h5", Generator(0)
    trains = np.sort(rng.random((spikes // 1_000, 1_000)), axis=1)
    units = rng.integers(shd.CHANNELS, size=trains.shape)
    labels = np.arange(len(trains)) % 20
    shd.write(path, shd.Recordings(list(trains), list(units), labels, tuple(map(str, range(20)))))
    return partial(shd.read, path)


EVENTS = (10_000, 100_000, 1_000_000, 10_000_000)
BENCHMARKS: dict[str, Callable[[], Race | Growth]] = {
    **{f"reverse {name}": partial(reversal, name) for name in ("x_all", "t_all", "xy_range", "random")},
    **{f"drift {name}": partial(drift, name) for name in ("x_all", "xy_range", "random")},
    "drop by random": drop,
    "count frames": frames,
    **{f"tonic, {name}": partial(beside_tonic, name) for name in TONIC},
    "growth, reversal": lambda: Growth(reversing, EVENTS, "events"),
    "growth, voxel grid": lambda: Growth(gridding, EVENTS, "events"),
    "growth, simulated camera": lambda: Growth(camera, (1_000, 10_000, 100_000, 1_000_000), "pixels"),
    **{f"growth, {s} reader": partial(Growth, partial(reading, s), EVENTS, "events") for s in WRITERS},
    "growth, SHD reader": lambda: Growth(spike_trains, EVENTS, "spikes"),
}

if __name__ == "__main__":
    bench(__doc__, BENCHMARKS)
