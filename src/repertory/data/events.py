"""Streams of an event camera: byte formats, the layouts of the usual data sets, and tensors that count events.

A stream is a structured array of dtype `EVENT`, in file order: x (column), y (row), t (microseconds), p (1: brighter,
0: darker). Formats by suffix:

- `.bin`: ATIS (N-MNIST, N-Caltech101); 40 bits per event, big-endian: x 8, y 8, p 1, t 23; rows with y = 240 mark an
  overflow of the clock by 8192 us
- `.dat`: Prophesee (N-CARS); lines of text that begin with `%`, two bytes (type and size of an event), then pairs of
  little-endian uint32: t, and x 14 bits, y 14, p 1 from the lowest bit
- `.aedat`: AEDAT 2.0 of a DVS128 (CIFAR10-DVS, MNIST-DVS); lines that begin with `#`, then pairs of big-endian uint32:
  address (p bit 0, x bits 1-7, y bits 8-14), t
- `.npy`: (N, 4) with columns x, y, t, p, or a structured array; `.npz`: arrays x, y, t, p, or one called `events`
- `.h5`: the same, at the root or in one group at any depth, as `CD/events` (Prophesee), `events/xs, ys, ts, ps`
  (ESIM) or `davis/left/events` (MVSEC)

The clock of `.dat` and `.aedat` has 32 bits and overflows after 71.6 minutes; t goes on there.
"""

from __future__ import annotations

import filecmp
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.problem import Problem, require
from repertory.data.arrays import file_size, load_npy, load_npz
from repertory.data.hdf5 import open_hdf5, read_dataset
from repertory.data.splits import check_distinct_files

LAYOUT = """\
Train/<digit>/*.bin, Test/<digit>/*.bin (N-MNIST)
or Caltech101/<class>/*.bin (N-Caltech101)
or n-cars_train/<class>/*.dat, n-cars_test/<class>/*.dat (N-CARS)
or <class>/*.aedat (CIFAR10-DVS), grabbed_data<digit>/scale16/*.aedat (MNIST-DVS)
or [train/ and test/ with] <class>/*.bin, .dat, .aedat, .npy, .npz or .h5"""

EVENT = np.dtype([("x", np.int32), ("y", np.int32), ("t", np.int64), ("p", np.int32)], align=True)
"""One event; wide integers, so that arithmetic on the fields does not wrap around."""

Size = tuple[int, int]
"""Height and width of a sensor, in pixels."""

DVS128: Size = (128, 128)
ATIS_OVERFLOW_ROW = 240
ATIS_OVERFLOW = 8192
SHORTEST = 10_000
"""A stream of arrays whose last t is below this is asked about: seconds or milliseconds, perhaps."""
LATEST = 1 << 62
CLOCK = 1 << 32
"""Microseconds after which the clock of `.dat` and `.aedat` starts again."""
UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}
FIELD_NAMES = {
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "t": ("t", "ts", "timestamp", "timestamps"),
    "p": ("p", "ps", "pol", "polarity", "polarities"),
}
"""What the fields are called in structured arrays, .npz and .h5 files."""
CACHE_BYTES = 256 << 20
"""Decoded streams are kept up to this size in each process, so that a small set is decoded once."""


# -- one stream ---------------------------------------------------------------------------------


def make_events(x: Any, y: Any, t: Any, p: Any) -> np.ndarray:
    """A stream (N,) of `EVENT` from four arrays or numbers.

    Example:
        >>> make_events([3, 4], 0, [10, 20], [1, 0])["x"]
        array([3, 4], dtype=int32)
    """
    columns = np.broadcast_arrays(x, y, t, p)
    events = np.empty(columns[0].shape, EVENT)
    for name, column in zip("xytp", columns, strict=True):
        events[name] = column
    return events


def pick(events: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
    """Some rows of a stream, by a slice, a mask or indices, as a copy.

    NumPy copies `events[rows]` field by field; taken as opaque records, rows are copied up to ten times faster.
    """
    picked = events.view(np.dtype((np.void, events.dtype.itemsize)))[rows]
    return (picked.copy() if isinstance(rows, slice) else picked).view(events.dtype)


def read_events(path: Path, *, unit: str = "", upright: bool = False) -> np.ndarray:
    """One stream, sorted by t.

    Args:
        path: a file of one of the formats above.
        unit: of t in .npy, .npz and .h5 files: us, ms or s; "": us, and very small values are asked about.
        upright: mirror a DVS128's picture at its diagonal and swap polarities, as is usual with CIFAR10-DVS
            (SpikingJelly): x' = 127 - y, y' = 127 - x, p' = 1 - p.

    Returns:
        (N,) of `EVENT`, t as in the file but for its unit.

    Raises:
        Problem: another format or version, a truncated or damaged file, no events, negative coordinates,
            polarities other than 0/1 and -1/1, t that may not be microseconds.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Problem(f"no event format has the suffix {path.suffix!r}", path, f"give one of {', '.join(READERS)}")
    file_size(path)
    try:
        events = reader(path)
    except OSError as error:
        raise Problem(f"the file cannot be read: {error}", path, "replace or remove the file") from error
    if isinstance(events, dict):
        events = _from_arrays(events, path, unit)
    if not len(events):
        raise Problem("the stream is empty", path, "remove the file")
    if upright and path.suffix.lower() == ".aedat":
        events["x"], events["y"] = 127 - events["y"], 127 - events["x"]
        events["p"] = 1 - events["p"]
    if (np.diff(events["t"]) < 0).any():
        warnings.warn(f"{path}: events are not in the order of t; sorted", stacklevel=2)
        events = pick(events, np.argsort(events["t"], kind="stable"))
    return events


def check_size(events: np.ndarray, size: Size, where: object = "") -> None:
    """Whether all events lie on the sensor.

    Raises:
        Problem: one does not; names the first, and whether height and width look swapped.
    """
    height, width = size
    x, y = events["x"], events["y"]
    # A negative number is a very large unsigned one.
    if not len(events) or (int(x.view(np.uint32).max()) < width and int(y.view(np.uint32).max()) < height):
        return
    first = int(np.argmax((x < 0) | (x >= width) | (y < 0) | (y >= height)))
    swapped = min(x.min(), y.min()) >= 0 and x.max() < height and y.max() < width
    remedy = f"it is {width} high and {height} wide, perhaps?" if swapped else f"widest x {x.max()}, y {y.max()}"
    raise Problem(
        f"event {first} at x = {x[first]}, y = {y[first]} is outside a sensor {width} wide and {height} high",
        where,
        f"set the size of the sensor (sensor=WIDTHxHEIGHT); {remedy}",
    )


def _read_atis(path: Path) -> np.ndarray:
    words = _records(path.read_bytes(), 5, path).astype(np.int32)
    x, y = words[:, 0], words[:, 1]
    t = ((words[:, 2] & 0x7F) << 16 | words[:, 3] << 8 | words[:, 4]).astype(np.int64)
    marks = y == ATIS_OVERFLOW_ROW
    if marks.any():
        t += ATIS_OVERFLOW * np.cumsum(marks)
    return pick(make_events(x, y, t, words[:, 2] >> 7), ~marks)


def _read_dat(path: Path) -> np.ndarray:
    header, content = _header(path.read_bytes(), b"%")
    if header:
        if len(content) < 2 or content[1] != 8:
            found = f"{content[1]} bytes" if len(content) > 1 else "nothing"
            raise Problem(f"events of {found} in a .dat file, expected 8", path, "give events of the CD type")
        content = content[2:]
    words = _records(content, 8, path).view("<u4").astype(np.int64)
    t, data = words[:, 0], words[:, 1]
    return make_events(data & 0x3FFF, data >> 14 & 0x3FFF, _unwrapped(t), data >> 28 & 1)


def _read_aedat(path: Path) -> np.ndarray:
    content = path.read_bytes()
    version = re.match(rb"#!AER-DAT(\d+)\.?\d*", content)
    if version is not None and version[1] != b"2":
        found = version[0].removeprefix(b"#!AER-DAT").decode()
        raise Problem(f"this is AEDAT {found}, expected AEDAT 2.0", path, "convert it, with jAER for example")
    words = _records(_header(content, b"#")[1], 8, path).view(">u4").astype(np.int64)
    address, t = words[:, 0], words[:, 1]
    if len(address) and int(address.max()) >> 16:
        raise Problem(f"address {int(address.max()):#x} is not one of a DVS128", path, "give recordings of a DVS128")
    pixels = address < 0x8000  # the others are marks of synchronisation
    address, t = address[pixels], t[pixels]
    return make_events(address >> 1 & 0x7F, address >> 8 & 0x7F, _unwrapped(t), address & 1)


def _unwrapped(t: np.ndarray) -> np.ndarray:
    """Undo overflows of a 32-bit clock: a step of more than half its range is one, forwards or back.

    The latter is an event from before an overflow that was written after it.
    """
    step = np.diff(t, prepend=t[:1])
    turns = np.cumsum((step < -CLOCK // 2).astype(np.int64) - (step > CLOCK // 2))
    return t + CLOCK * np.maximum(turns, 0)


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    return _columns(load_npy(path), path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    return _columns(load_npz(path), path)


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    h5py = require("h5py", extra="spiking")
    with open_hdf5(path) as file:
        groups: dict[str, dict[str, Any]] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                folder, _, last = name.rpartition("/")
                groups.setdefault(folder, {})[last] = item

        file.visititems(visit)
        holding = [wanted for group in groups.values() if (wanted := _event_arrays(group))]
        if len(holding) != 1:
            every = [item for group in groups.values() for item in group.values()]
            found = ", ".join(f"{item.name.lstrip('/')} {item.shape}" for item in every[:12]) or "no data sets at all"
            raise Problem(
                f"{len(holding) or 'no'} streams of events here; the file holds {found}",
                path,
                "give one group with x, y, t and p (or xs, ys, ts, ps), or with an array called events",
            )
        return _columns({name: read_dataset(item, path) for name, item in holding[0].items()}, path)


def _event_arrays(group: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a group's data sets that hold events: one called `events`, or one of each field; empty: neither."""
    events = group.get("events")
    if events is not None and (_holds_fields(events.dtype.names or ()) or events.shape[1:] == (4,)):
        return {"events": events}
    if not _holds_fields(group):
        return {}
    return {name: group[name] for names in FIELD_NAMES.values() for name in names if name in group}


def _holds_fields(names: Collection[str]) -> bool:
    return all(any(name in names for name in known) for known in FIELD_NAMES.values())


READERS: dict[str, Callable[[Path], Any]] = {
    ".aedat": _read_aedat,
    ".bin": _read_atis,
    ".dat": _read_dat,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
}


def _header(content: bytes, sign: bytes) -> tuple[list[str], bytes]:
    """Lines that begin with `sign`, and the rest."""
    lines: list[str] = []
    place = 0
    while content.startswith(sign, place):
        end = content.find(b"\n", place) + 1 or len(content)
        lines.append(content[place:end].decode("latin-1").strip())
        place = end
    return lines, content[place:]


def _records(content: bytes, size: int, path: Path) -> np.ndarray:
    """(N, size) bytes."""
    if len(content) % size:
        raise Problem(
            f"{len(content)} bytes of events are not a multiple of {size}",
            path,
            "the file is truncated: fetch it again",
        )
    return np.frombuffer(content, np.uint8).reshape(-1, size)


def _columns(content: Any, path: Path) -> dict[str, np.ndarray]:
    """x, y, t, p from an (N, 4) array, a structured one, or a mapping of arrays."""
    if isinstance(content, Mapping) and isinstance(content.get("events"), np.ndarray):
        content = content["events"]
    if isinstance(content, np.ndarray) and content.dtype.names is None:
        if content.ndim != 2 or content.shape[1] != 4:
            raise Problem(f"an array of shape {content.shape}, expected (N, 4)", path, "give columns x, y, t, p")
        return dict(zip("xytp", content.T, strict=True))
    names = tuple(content) if isinstance(content, Mapping) else content.dtype.names or ()
    found = {key: next((n for n in known if n in names), "") for key, known in FIELD_NAMES.items()}
    absent = [key for key, name in found.items() if not name]
    if absent:
        raise Problem(f"no array called {absent[0]}; there are: {', '.join(names)}", path, "give x, y, t and p")
    columns = {key: np.asarray(content[name]).ravel() for key, name in found.items()}
    if len({len(column) for column in columns.values()}) > 1:
        raise Problem("x, y, t and p differ in length", path, "give as many of each")
    return columns


def _from_arrays(columns: dict[str, np.ndarray], path: Path, unit: str) -> np.ndarray:
    """Check and convert what users wrote themselves."""
    x, y, t, p = (columns[name] for name in "xytp")
    for name, column in columns.items():
        if column.dtype.kind not in "biuf" or not np.isfinite(column).all():
            raise Problem(f"{name} holds what is not a finite number", path, "give numbers")
    if len(t) and max(abs(float(t.min())), abs(float(t.max()))) * UNITS.get(unit, 1) >= LATEST:
        raise Problem(f"t lies between {t.min()} and {t.max()}", path, "give microseconds below 2^62, or say the unit")
    t = t.astype(np.float64 if t.dtype.kind == "f" else np.int64)
    for name, column in (("x", x), ("y", y)):
        if len(column) and (column.min() < 0 or column.max() >= 1 << 14):
            wrong = column[np.argmax((column < 0) | (column >= 1 << 14))]
            raise Problem(f"{name} = {wrong} is no coordinate of a pixel", path, "give columns in the order x, y, t, p")
    values = np.unique(p).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {-1, 1}):
        raise Problem(f"polarities are {values[:5]}, expected 0 and 1, or -1 and 1", path, "convert them")
    if unit:
        t = t * UNITS[unit]
    elif len(t) and t.max() - t.min() < SHORTEST:
        raise Problem(
            f"the stream lasts {t.max() - t.min():g}: in microseconds that is very short",
            path,
            "say the unit of t (time_unit=s, ms or us)",
        )
    return make_events(x, y, np.round(t), p > 0)


# -- writing ------------------------------------------------------------------------------------


def write_atis(path: Path, events: np.ndarray) -> None:
    """Write an ATIS .bin file, as N-MNIST and N-Caltech101 are.

    Raises:
        Problem: x above 255, y above 239, or t not in 0 .. 2^23 - 1 us (8.39 s), which have no code.
    """
    _encodable(path, events, width=256, height=ATIS_OVERFLOW_ROW, duration=1 << 23)
    words = np.empty((len(events), 5), np.uint8)
    t = events["t"]
    words[:, 0], words[:, 1] = events["x"], events["y"]
    words[:, 2] = events["p"] << 7 | t >> 16
    words[:, 3], words[:, 4] = t >> 8 & 0xFF, t & 0xFF
    path.write_bytes(words.tobytes())


def write_dat(path: Path, events: np.ndarray, size: Size | None = None) -> None:
    """Write a Prophesee .dat file, as N-CARS is; `size` of the sensor goes into its header.

    Raises:
        Problem: coordinates of more than 14 bits, or t of more than 32.
    """
    _encodable(path, events, width=1 << 14, height=1 << 14, duration=1 << 32)
    lines = ["% Data file containing CD events.", "% Version 2"]
    if size is not None:
        lines += [f"% Height {size[0]}", f"% Width {size[1]}"]
    words = np.empty((len(events), 2), "<u4")
    words[:, 0] = events["t"]
    words[:, 1] = events["x"] | events["y"] << 14 | events["p"] << 28
    header = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(header + bytes([0, 8]) + words.tobytes())


def write_aedat(path: Path, events: np.ndarray) -> None:
    """Write an AEDAT 2.0 file of a DVS128, as CIFAR10-DVS and MNIST-DVS are.

    Raises:
        Problem: events outside 128 x 128 pixels, or t of more than 32 bits.
    """
    _encodable(path, events, width=128, height=128, duration=1 << 32)
    words = np.empty((len(events), 2), ">u4")
    words[:, 0] = events["p"] | events["x"] << 1 | events["y"] << 8
    words[:, 1] = events["t"]
    header = b"#!AER-DAT2.0\r\n# addresses and timestamps, big-endian uint32; timestamps in microseconds\r\n"
    path.write_bytes(header + words.tobytes())


def _encodable(path: Path, events: np.ndarray, *, width: int, height: int, duration: int) -> None:
    for name, limit in (("x", width), ("y", height), ("t", duration), ("p", 2)):
        column = events[name]
        if len(column) and (column.min() < 0 or column.max() >= limit):
            wrong = column[np.argmax((column < 0) | (column >= limit))]
            raise Problem(f"{name} = {wrong} has no code in a {path.suffix} file", path, f"keep it in 0 .. {limit - 1}")


# -- data sets ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EventSet:
    """Labelled streams on disk, read when asked for."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    """Of the classes; labels are indices into it."""
    size: Size
    """Height and width of the sensor."""
    unit: str = ""
    upright: bool = False
    _decoded: dict[Path, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def events(self, index: int) -> np.ndarray:
        """One stream, t from its first event on. Do not change it.

        Raises:
            Problem: as `read_events`; an event outside the sensor.
        """
        path = self.paths[index]
        if path not in self._decoded:
            events = read_events(path, unit=self.unit, upright=self.upright)
            check_size(events, self.size, path)
            events["t"] -= events["t"][0]
            # Supposing that the others are as long as this one.
            if (len(self._decoded) + 1) * events.nbytes > CACHE_BYTES:
                return events
            self._decoded[path] = events
        return self._decoded[path]

    def subset(self, indices: Sequence[int]) -> EventSet:
        """Some of the streams."""
        return replace(self, paths=tuple(self.paths[i] for i in indices), labels=tuple(self.labels[i] for i in indices))

    def named(self, names: Sequence[str]) -> EventSet:
        """The same streams, with their classes numbered as in `names`, which may hold more of them.

        Raises:
            Problem: a stream is of none of them.
        """
        unknown = [name for name in self.names if name not in names]
        if unknown:
            raise Problem(
                f"streams of the class {unknown[0]!r}, which is none of the {len(names)} known ({names[0]!r}, …)",
                self.paths[self.labels.index(self.names.index(unknown[0]))].parent,
                "give streams of the known classes, in folders of their names",
            )
        numbers = [list(names).index(name) for name in self.names]
        return replace(self, labels=tuple(numbers[label] for label in self.labels), names=tuple(names))


SPLITS = (("Train", "Test"), ("train", "test"), ("train", "val"), ("n-cars_train", "n-cars_test"))
SIZES: dict[str, Size] = {"n-cars_train": (100, 120), "n-cars_test": (100, 120), "Caltech101": (180, 240)}
"""Sensors that the name of a folder tells."""
NMNIST: Size = (34, 34)
MNIST_DVS = "grabbed_data"


def read_splits(
    folder: Path, *, size: Size | None = None, unit: str = "", upright: bool = False, scale: int = 16
) -> tuple[EventSet, EventSet]:
    """Training and test streams of a folder in one of the layouts above.

    Without folders of their own for the two, a tenth of each class, drawn at random but always the same, is the test.

    Args:
        folder: the data set as its owners distribute it, or folders named by class.
        size: height and width of the sensor; None: by layout or header.
        unit, upright: as in `read_events`.
        scale: of MNIST-DVS, 4, 8 or 16.

    Raises:
        Problem: no streams, a class without any, an unknown sensor, test classes that training does not have, or a
            file that is in both parts, perhaps by a link.
    """
    options: dict[str, Any] = {"size": size, "unit": unit, "upright": upright, "scale": scale}
    for first, second in SPLITS:
        if (folder / first).is_dir() and (folder / second).is_dir():
            train, test = (read_class_folders(folder / part, **options) for part in (first, second))
            check_distinct_files({first: train.paths, second: test.paths}, folder)
            return train, test.named(train.names)
    if (folder / "Caltech101").is_dir():
        folder = folder / "Caltech101"
    return nine_to_one(read_class_folders(folder, **options))


def read_class_folders(
    folder: Path, *, size: Size | None = None, unit: str = "", upright: bool = False, scale: int = 16
) -> EventSet:
    """The streams below `folder`/<class>/, at any depth; classes are numbered in the order of their names.

    Raises:
        Problem: no class folders, one without streams, or an unknown sensor.
    """
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []
    if not found:
        raise Problem("no class folders here", folder, "put the event files of each class into a folder of its name")
    paths: list[Path] = []
    labels: list[int] = []
    for number, room in enumerate(found):
        if room.name.startswith(MNIST_DVS):
            room = room / f"scale{scale}"
        files = event_files(room)
        if not files:
            raise Problem(f"the class {found[number].name!r} has no streams", room, f"add {', '.join(READERS)} files")
        paths += files
        labels += [number] * len(files)
    names = tuple(room.name.removeprefix(MNIST_DVS) for room in found)
    digits = all(name.isdigit() for name in names) and folder.name.lower().startswith(("train", "test"))
    known = SIZES.get(folder.name) or (NMNIST if digits and paths[0].suffix == ".bin" else None)
    return EventSet(tuple(paths), tuple(labels), names, size or known or sensor_size(paths[0]), unit, upright)


def event_files(source: Path) -> list[Path]:
    """The file itself, or all event files below a folder, sorted; hidden ones are left out."""
    if source.is_file():
        return [source]
    return sorted(p for p in source.rglob("*") if p.suffix.lower() in READERS and not p.name.startswith("."))


def sensor_size(path: Path) -> Size:
    """Height and width of the sensor that a file's header tells.

    Raises:
        Problem: it tells none.
    """
    if path.suffix.lower() == ".aedat":
        return DVS128
    if path.suffix.lower() == ".dat":
        file_size(path)
        with path.open("rb") as file:
            header = "\n".join(_header(file.read(4096), b"%")[0])
        sides = [re.search(rf"(?i)\b{name}\s+(\d+)", header) for name in ("height", "width")]
        if sides[0] and sides[1]:
            return int(sides[0][1]), int(sides[1][1])
    raise Problem("the file does not tell how large the sensor is", path, "set it: sensor=WIDTHxHEIGHT, as in 346x260")


def parse_size(text: str) -> Size:
    """(height, width) of "WIDTHxHEIGHT".

    Example:
        >>> parse_size("240x180")
        (180, 240)
    """
    found = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text.strip())
    if not found:
        raise Problem(f"not the size of a sensor: {text!r}", "sensor", "give WIDTHxHEIGHT, as in 240x180")
    return int(found[2]), int(found[1])


def nine_to_one(data: EventSet) -> tuple[EventSet, EventSet]:
    """Nine tenths and one tenth of each class, at least one stream each; always the same ones.

    Raises:
        Problem: a class has one stream only.
    """
    labels, rng = np.array(data.labels), np.random.default_rng(0)
    train: list[int] = []
    for number, name in enumerate(data.names):
        rows = rng.permutation(np.flatnonzero(labels == number))
        if len(rows) < 2:
            raise Problem(f"the class {name!r} has one stream only", data.paths[rows[0]], "add more, or make test/")
        train += rows[max(1, round(0.1 * len(rows))) :].tolist()
    return data.subset(sorted(train)), data.subset(sorted(set(range(len(data))) - set(train)))


def shared_streams(train: EventSet, test: EventSet) -> list[tuple[Path, Path]]:
    """Files that are in both, by content: a wrong conversion of N-CARS is known to do that."""
    known: dict[tuple[int, bytes], Path] = {_fingerprint(path): path for path in train.paths}
    pairs = ((known.get(_fingerprint(path)), path) for path in test.paths)
    return [(one, other) for one, other in pairs if one is not None and filecmp.cmp(one, other, shallow=False)]


def _fingerprint(path: Path) -> tuple[int, bytes]:
    size = file_size(path)
    with path.open("rb") as file:
        return size, sha256(file.read(1 << 14)).digest()


# -- tensors that count -------------------------------------------------------------------------


def count_frames(events: np.ndarray, size: Size, bins: int) -> np.ndarray:
    """Events per polarity, pixel and bin of time: bin = floor(bins t / (max t + 1)).

    Args:
        events: (N,), t >= 0.
        size: (H, W).
        bins: T.

    Returns:
        float32 (2, H, W, T).

    Raises:
        Problem: an event outside the sensor.

    Example:
        >>> frames = count_frames(make_events([0, 0, 1], 0, [0, 5, 9], [1, 1, 0]), (1, 2), bins=2)
        >>> frames[1, 0, 0], frames[0, 0, 1]
        (array([1., 1.], dtype=float32), array([0., 1.], dtype=float32))
    """
    last = events["t"].max(initial=0)
    return _counts(events, size, events["p"], 2, bins * events["t"] // (last + 1), bins)


def event_count(events: np.ndarray, size: Size) -> np.ndarray:
    """Whether a pixel has had events of a polarity: float32 (2, H, W) of 0 and 1."""
    return np.minimum(_counts(events, size, events["p"], 2), 1)[..., 0]


def event_frame(events: np.ndarray, size: Size) -> np.ndarray:
    """Number of polarities that a pixel has had events of: float32 (1, H, W) of 0, 1 and 2 (as in EventDrop's code)."""
    return event_count(events, size).sum(0, keepdims=True)


def voxel_grid(events: np.ndarray, size: Size, bins: int) -> np.ndarray:
    """Events per pixel and bin of time, whatever their polarity.

    Bin i holds i/C < t / max t <= (i+1)/C, so events at t = 0 are in none (as in EventDrop's code).

    Returns:
        float32 (C, H, W).
    """
    events = pick(events, events["t"] > 0)
    last = events["t"].max(initial=1)
    return _counts(events, size, (bins * events["t"] - 1) // last, bins)[..., 0]


def _counts(
    events: np.ndarray, size: Size, outer: np.ndarray, outers: int, inner: np.ndarray | int = 0, inners: int = 1
) -> np.ndarray:
    """Histogram (outers, H, W, inners)."""
    check_size(events, size, "a stream")
    height, width = size
    cell = outer.astype(np.int64)
    for index, limit in ((events["y"], height), (events["x"], width), (inner, inners)):
        cell *= limit
        cell += index
    counts = np.bincount(cell, minlength=outers * height * width * inners)
    return counts.astype(np.float32).reshape(outers, height, width, inners)
