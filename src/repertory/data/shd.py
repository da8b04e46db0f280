"""Spike trains in HDF5, as the Spiking Heidelberg Digits (SHD) and Spiking Speech Commands (SSC) are distributed.

shd_train.h5, shd_test.h5:   spikes/times   one array of seconds a recording
                             spikes/units   one array of channel numbers a recording
                             labels         class numbers;   extra/keys   names of the classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repertory.core.problem import Problem, require
from repertory.data.hdf5 import open_hdf5, read_dataset
from repertory.data.idx import Labelled, digits

LAYOUT = """\
shd_train.h5 and shd_test.h5 (or ssc_…): spikes/times, spikes/units, labels, extra/keys"""
CHANNELS = 700
"""Of SHD's artificial cochlea."""


@dataclass(frozen=True)
class Recordings:
    """Spike trains: times in s and channels, one array each a recording; labels (n,) int64; names of the classes."""

    times: Sequence[NDArray[np.float64]]
    units: Sequence[NDArray[np.int64]]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)

    def counts(self, index: int, steps: int, dt: float, channels: int = CHANNELS) -> NDArray[np.float32]:
        """How many spikes fall into each step of `dt` ms: (steps, channels); what comes later is cut off."""
        step = (self.times[index] * 1000 / dt).astype(np.int64)
        inside = (step >= 0) & (step < steps)
        where = step[inside] * channels + self.units[index][inside]
        return np.bincount(where, minlength=steps * channels).reshape(steps, channels).astype(np.float32)


def find(folder: Path, part: str) -> Path | None:
    """The file of "train" or "test" in a folder."""
    return next(iter(sorted([*folder.glob(f"*{part}.h5"), *folder.glob(f"*{part}.hdf5")])), None)


def read(path: Path, channels: int = CHANNELS) -> Recordings:
    """Read one file.

    Raises:
        Problem: not HDF5, damaged, a field is missing or of another form, lengths that differ, times or channels out of
            range.
    """
    with open_hdf5(path) as file:
        fields = {name: file.get(name) for name in ("spikes/times", "spikes/units", "labels", "extra/keys")}
        absent = [name for name, field in fields.items() if field is None and name != "extra/keys"]
        if absent:
            raise Problem(
                f"not a file of spike trains: no {absent[0]}", path, "it holds spikes/times, spikes/units and labels"
            )
        found = {name: read_dataset(field, path) for name, field in fields.items() if field is not None}
    times, units = (_trains(found[name], name, path) for name in ("spikes/times", "spikes/units"))
    labels, keys = found["labels"], found.get("extra/keys", np.empty(0, object))
    if labels.ndim != 1 or labels.dtype.kind not in "biu" or (labels.astype(np.float64) < 0).any() or keys.ndim != 1:
        raise Problem(f"labels are {labels.dtype} of shape {labels.shape}", path, "give one whole number a recording")
    labels, units = labels.astype(np.int64), [u.astype(np.int64) for u in units]
    if not len(times) == len(units) == len(labels):
        raise Problem(
            f"{len(times)} times, {len(units)} units, {len(labels)} labels", path, "give one of each a recording"
        )
    for n, (t, u) in enumerate(zip(times, units, strict=True)):
        if not (np.isfinite(t) & (t >= 0)).all():
            raise Problem(f"recording {n} has times below 0 or not finite", path, "give seconds from the start")
        if len(t) != len(u) or (len(u) and not 0 <= u.min() <= u.max() < channels):
            span = f"units {u.min()} to {u.max()}" if len(u) else "no units"
            raise Problem(f"recording {n}: {len(t)} times, {span}", path, f"units are 0 to {channels - 1}, one a time")
    names = tuple(k.decode() if isinstance(k, bytes) else str(k) for k in keys)
    classes = int(labels.max(initial=-1)) + 1
    return Recordings(times, units, labels, names if len(names) >= classes else tuple(map(str, range(classes))))


def _trains(field: np.ndarray, name: str, path: Path) -> list[NDArray[np.float64]]:
    """One array of numbers a recording."""
    trains = [np.asarray(train) for train in field] if field.ndim else []
    if field.ndim not in (1, 2) or any(train.ndim != 1 or train.dtype.kind not in "iuf" for train in trains):
        raise Problem(f"{name} is {field.dtype} of shape {field.shape}", path, "give one array of numbers a recording")
    with np.errstate(invalid="ignore"):  # NaN; refused by the caller
        trains = [train.astype(np.float64) for train in trains]
    if name.endswith("units") and any((train % 1).any() for train in trains):
        raise Problem(f"{name} are not whole numbers", path, "give channel numbers")
    return trains


def write(path: Path, data: Recordings) -> None:
    """Write one file."""
    h5py = require("h5py", extra="spiking")
    with h5py.File(path, "w") as file:
        for name, trains, kind in (("times", data.times, np.float32), ("units", data.units, np.uint16)):
            field = file.create_dataset(f"spikes/{name}", (len(trains),), h5py.vlen_dtype(kind))
            for n, train in enumerate(trains):
                field[n] = train.astype(kind)
        file["labels"] = data.labels.astype(np.uint16)
        file["extra/keys"] = [name.encode() for name in data.names]


# -- the sample -------------------------------------------------------------------------------------

PER_BAND = 64
COLUMN_MS, JITTER_MS, RATE = 10.0, 1.5, 0.35


def scanned(data: Labelled, rng: np.random.Generator) -> Recordings:
    """Digits of 8 x 8 read column by column, as a cochlea hears: rows are 8 bands of 64 channels, columns 10 ms each.

    A channel fires with a probability that goes with the pixel, at the column's time and some jitter.
    """
    times, units = [], []
    for image in data.images:
        drive = np.repeat(image / 255, PER_BAND, axis=0) * RATE  # (512, 8)
        channel, column = np.nonzero(rng.random(drive.shape) < drive)
        when = (column + 0.5) * COLUMN_MS + rng.normal(0, JITTER_MS, len(column))
        order = np.argsort(when)
        times.append(np.clip(when[order], 0, None) / 1000)
        units.append(channel[order])
    return Recordings(times, units, data.labels, tuple(str(k) for k in range(10)))


def write_sample(folder: Path, rng: np.random.Generator) -> None:
    """Write the digits as two files of spike trains."""
    for part, data in zip(("train", "test"), digits(8), strict=True):
        write(folder / f"shd_{part}.h5", scanned(data, rng))
