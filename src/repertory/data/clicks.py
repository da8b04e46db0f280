"""Click logs: Criteo, Avazu, iPinYou and one's own tables, streamed in blocks and encoded field by field.

A file is read in blocks of whole lines, unpacked on the way where it is compressed, and each block is parsed by Polars:
memory is that of a block, of the vocabularies, and of the encoded rows, which lie on disk where they are many. Two
passes: the first counts the levels of every column in the training rows, the second turns rows into ids.

Only an empty cell is missing; NA, null and nan are words (as in `data.tables`).
"""

from __future__ import annotations

import csv
import json
import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from repertory.core.files import cache_dir, read_json, replace_folder, write_json
from repertory.core.problem import Problem, reason, require, suggest
from repertory.data.arrays import OPENERS, file_size

Split = Literal["random", "ordered", "released"]
Progress = Callable[[Iterable[Any], str, int | None], Iterator[Any]]

FORMATS = """\
train.txt                Criteo: tabs, no header, 40 columns: label, I1 ... I13, C1 ... C26; may be .gz
criteo.csv               the same with commas and a header: label,I1,...,C26
train.csv, train.gz      Avazu: id,click,hour,C1,banner_pos,...,C21
train.log.txt, test.log.txt  iPinYou, one advertiser: tabs, header "click weekday hour bidid ..."
any.csv, any.tsv         a header, one column of 0 and 1 (label), others numbers or categories; may be .gz
test.csv beside train.csv    a test part of one's own, if it has labels"""

CRITEO_NUMBERS = tuple(f"I{k}" for k in range(1, 14))
CRITEO_CATEGORIES = tuple(f"C{k}" for k in range(1, 27))
AVAZU_DERIVED = ("weekday", "hour_of_day")
"""Of `hour`, YYMMDDHH, which as it stands would never come again."""
AVAZU_KEY = {"id", "hour", "banner_pos", "site_id", "device_ip"}
IPINYOU_KEY = {"click", "bidid", "ipinyouid", "slotprice", "usertag"}
IPINYOU_DROPPED = {"bidid", "timestamp", "logtype", "bidprice", "payprice"}
LABELS = ("label", "click", "clicked", "target", "y")
"""What a column of labels is called, where no setting names it; in any case of letters."""

BUCKETS = 64
"""Of a number x: floor(ln(x² + 1)), at most 63; an empty cell counts as 0."""
BLOCK = 1 << 24
"""Bytes of text that are parsed at a time."""
LONGEST = 1 << 26
"""Bytes of a line."""
IN_MEMORY = 1 << 28
"""Bytes of encoded rows that are held in memory; more lie in the cache folder, mapped."""
GUESSED_ROWS = 10_000
"""Rows that the kind of a column is guessed from."""
DISTINCT = 64
"""A column of numbers with more different values than this is taken for numeric."""
VERSION = 1
"""Of the encoded rows in the cache."""
TRAIN, VALID, TEST = 0, 1, 2
PARTS = ("train", "valid", "test")
CHUNK = 1 << 20
OFFENDERS = 3
"""Values that a message about labels quotes."""


def _polars() -> Any:
    return require("polars", extra="recommendation")


# -- what a file is ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """One file of clicks: how to parse it, and what its columns are."""

    path: Path
    format: str
    """criteo, avazu, ipinyou or table."""
    separator: str
    header: bool
    names: tuple[str, ...]
    """Columns in the order of the file."""
    label: str
    """Column of labels; empty: the file has none."""
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def quoted(self) -> bool:
        """Whether cells may be quoted: in files of commas; in logs with tabs a quote is a character."""
        return self.separator == ","

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)


def open_log(
    path: Path, label: str = "", numeric: Sequence[str] = (), categorical: Sequence[str] = (), labelled: bool = True
) -> Log:
    """Find out the format of a file from its first lines.

    Args:
        path: the file, compressed or not.
        label, numeric, categorical: names of columns in one's own table; empty: by name, and by the first rows.
        labelled: False: do without labels where there are none.

    Raises:
        Problem: unreadable, empty, a column that is not there, no column of labels, or one name twice.
    """
    first = _first_line(path)
    separator = "\t" if "\t" in first else ","
    try:
        cells = [cell.strip() for cell in next(csv.reader([first], delimiter=separator), [])]
    except csv.Error as error:
        raise Problem(f"line 1 is no line of a table: {error}", path, "give a table of text") from error
    known = {cell.lower() for cell in cells}
    width = len(CRITEO_NUMBERS) + len(CRITEO_CATEGORIES)
    if separator == "\t" and not known & {"label", "i1", "c1", "click"} and len(cells) in (width, width + 1):
        names = (*(("label",) if len(cells) > width else ()), *CRITEO_NUMBERS, *CRITEO_CATEGORIES)
        log = Log(path, "criteo", separator, False, names, names[0], CRITEO_NUMBERS, CRITEO_CATEGORIES)
        return _with_label(log if len(cells) > width else replace(log, label=""), labelled)
    duplicates = sorted({name for name in cells if cells.count(name) > 1})
    if duplicates or "" in cells:
        what = f"two columns are called {duplicates[0]!r}" if duplicates and duplicates[0] else "a column has no name"
        remedy = "give the first line one name for each column; Criteo's train.txt has 40 columns and no such line"
        raise Problem(f"line 1: {what}", path, remedy)
    log = Log(path, "table", separator, True, tuple(cells), "", tuple(numeric), tuple(categorical))
    if not (numeric or categorical or label):
        log = _known_format(log)
    if log.format == "table":
        log = _own_table(log, label)
    return _with_label(log, labelled)


def _known_format(log: Log) -> Log:
    """Criteo, Avazu or iPinYou by the names of the columns."""
    names = set(log.names)
    label = next((name for name in log.names if name.lower() == "label"), "")
    if names >= {*CRITEO_NUMBERS, *CRITEO_CATEGORIES}:
        return replace(log, format="criteo", label=label, numeric=CRITEO_NUMBERS, categorical=CRITEO_CATEGORIES)
    if names >= AVAZU_KEY:
        plain = tuple(name for name in log.names if name not in ("id", "click", "hour"))
        label = "click" if "click" in names else ""
        return replace(log, format="avazu", label=label, categorical=(*AVAZU_DERIVED, *plain))
    if names >= IPINYOU_KEY:
        plain = tuple(n for n in log.names if n not in {"click", "slotprice"} | IPINYOU_DROPPED)
        return replace(log, format="ipinyou", label="click", numeric=("slotprice",), categorical=plain)
    return log


def _own_table(log: Log, label: str) -> Log:
    """The label by its name, and the kinds of the columns that no setting names."""
    for name in (*([label] if label else []), *log.numeric, *log.categorical):
        if name not in log.names and name != label:
            remedy = f"it has: {', '.join(log.names)}"
            raise Problem(f"no column is called {name!r}{suggest(name, log.names)}", log.path, remedy)
    if twice := set(log.numeric) & set(log.categorical):
        raise Problem(f"{sorted(twice)[0]!r} is both numeric and categorical", log.path, "name it once")
    found = label if label in log.names else ""
    if not label:
        found = next((name for wanted in LABELS for name in log.names if name.lower() == wanted), "")
    log = replace(log, label=found)
    if log.numeric or log.categorical:
        if found in log.fields:
            raise Problem(f"{found!r} is the label, and a field", log.path, "a model must not read the label")
        return log
    rest = [name for name in log.names if name != found]
    numeric = _looks_numeric(log, rest)
    return replace(log, numeric=tuple(numeric), categorical=tuple(name for name in rest if name not in numeric))


def _looks_numeric(log: Log, names: Sequence[str]) -> list[str]:
    """Columns of numbers with many different values, by the first rows."""
    pl = _polars()
    _, block = next(_blocks(replace(log, numeric=(), categorical=()), BLOCK), (2, b""))
    frame, _, _ = _parse(log, 2, block)
    frame = frame.head(GUESSED_ROWS)
    found = []
    for name in names:
        cells = frame[name].drop_nulls()
        numbers = cells.str.strip_chars().cast(pl.Float64, strict=False)
        if len(cells) and numbers.null_count() == 0 and cells.n_unique() > DISTINCT:
            found.append(name)
    return found


def _with_label(log: Log, labelled: bool) -> Log:
    if labelled and not log.label:
        names = f"it has: {', '.join(log.names)}" if log.header else "39 columns are Criteo's test.txt"
        raise Problem(f"{log.path.name} has no column of labels; {names}", log.path, "name it: --set label=COLUMN")
    if not log.fields:
        raise Problem(f"{log.path.name} has no column but the label", log.path, "add numeric or categorical columns")
    return log


def _first_line(path: Path) -> str:
    with _opened(path) as file:
        line = file.readline(CHUNK)
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise Problem(f"{path.name} is not in UTF-8: {error.reason}", path, "save it as text in UTF-8") from error
    if not text.strip():
        raise Problem(f"{path.name} is empty, or starts with an empty line", path, "give a table of text")
    return text


class _opened:
    """A file as bytes, unpacked on the way; what its compression finds damaged is a Problem."""

    def __init__(self, path: Path) -> None:
        file_size(path)
        self.path = path

    def __enter__(self) -> _opened:
        try:
            self.raw = self.path.open("rb")
        except OSError as error:
            raise Problem(f"{self.path.name} cannot be read: {error.strerror}", self.path, "check the file") from error
        self.file = OPENERS.get(self.path.suffix.lower(), lambda raw: raw)(self.raw)
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def read(self, size: int) -> bytes:
        return self._try(lambda: self.file.read(size))

    def readline(self, size: int) -> bytes:
        return self._try(lambda: self.file.readline(size))

    def tell(self) -> int:
        """Bytes read of the file as it lies on disk."""
        return self.raw.tell()

    def _try(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except Exception as error:  # gzip, bz2 and lzma raise many kinds on a damaged file
            raise Problem(f"{self.path.name} cannot be read: {reason(error)}", self.path, "fetch it again") from error


# -- blocks of lines --------------------------------------------------------------------------------


def _blocks(log: Log, size: int) -> Iterator[tuple[int, bytes]]:
    """(number of the first line, whole lines) after the header; line ends are \\n.

    Raises:
        Problem: no line ends in `LONGEST` bytes, for example since a quote is never closed.
    """
    with _opened(log.path) as file:
        line, rest = 1, b""
        if log.header:
            file.readline(CHUNK)
            line = 2
        while read := file.read(size):
            block = (rest + read).removeprefix(b"\xef\xbb\xbf") if line == 1 else rest + read
            end = _last_line_end(block, log.quoted)
            filled = len(
                block[:end].rstrip(b"\r\n")
            )  # empty lines after it wait: at the end of the file they are no rows
            end = block.index(b"\n", filled) + 1 if filled else 0
            block, rest = block[:end].replace(b"\r\n", b"\n"), block[end:]
            if len(rest) > LONGEST:
                what = f"no line ends in {LONGEST >> 20} MiB" + ("; is a quote never closed?" if log.quoted else "")
                raise Problem(f"{log.path.name}, line {line}: {what}", log.path, "mend the line")
            if block:
                yield line, block
                line += block.count(b"\n")
        if rest := rest.replace(b"\r\n", b"\n").rstrip(b"\r\n"):
            yield line, rest + b"\n"


def _last_line_end(block: bytes, quoted: bool) -> int:
    """Position after the last line end that is outside quotes; 0: none."""
    if not (quoted and b'"' in block):
        return block.rfind(b"\n") + 1
    ends = _line_ends(block, quoted)
    return int(ends[-1]) + 1 if len(ends) else 0


def _line_ends(block: bytes, quoted: bool) -> np.ndarray:
    """Positions of the line ends that are outside quotes."""
    text = np.frombuffer(block, np.uint8)
    ends = text == 10
    return np.flatnonzero(ends & (np.cumsum(text == 34) % 2 == 0) if quoted and b'"' in block else ends)


def _parse(log: Log, first_line: int, block: bytes) -> tuple[Any, np.ndarray, list[tuple[int, str]]]:
    """(frame of strings, line of each row, faults as (line, reason)); rows of another width are left out.

    Raises:
        Problem: no UTF-8.
    """
    pl = _polars()
    text = np.frombuffer(block, np.uint8)
    ends, cells = text == 10, text == ord(log.separator)
    lines = np.flatnonzero(ends)
    if log.quoted and b'"' in block:
        outside = np.cumsum(text == 34) % 2 == 0
        ends, cells = ends & outside, cells & outside
    stops = np.flatnonzero(ends)
    starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
    numbers = first_line + np.searchsorted(lines, starts)
    widths = np.diff(np.searchsorted(np.flatnonzero(cells), stops), prepend=0) + 1
    wrong = widths != len(log.names)
    faults = []
    if wrong.any():
        for k in np.flatnonzero(wrong).tolist():
            many = "is empty" if starts[k] == stops[k] else f"has {widths[k]} columns, not {len(log.names)}"
            faults.append((int(numbers[k]), many))
        block = b"".join(block[starts[k] : stops[k] + 1] for k in np.flatnonzero(~wrong).tolist())
    schema = dict.fromkeys(log.names, pl.String)
    if not block:
        return pl.DataFrame(schema=schema), numbers[~wrong], faults
    try:
        frame = pl.read_csv(
            BytesIO(block),
            has_header=False,
            separator=log.separator,
            quote_char='"' if log.quoted else None,
            schema=schema,
        )
    except pl.exceptions.PolarsError as error:
        what = "is not in UTF-8" if "utf-8" in str(error) else f"cannot be parsed: {reason(error)}"
        where = f"{log.path}, from line {first_line} on"
        raise Problem(f"{log.path.name} {what}", where, "save it as text in UTF-8") from error
    if len(frame) != np.count_nonzero(~wrong):
        what = f"{log.path.name} cannot be parsed: a quote stands inside a cell"
        raise Problem(what, f"{log.path}, from line {first_line} on", 'write the cell in quotes, and " in it as ""')
    spaced = block.startswith(b" ") or b"\n " in block or f"{log.separator} ".encode() in block
    if spaced:
        frame = frame.with_columns(pl.all().str.strip_chars_start(" "))
    if spaced or (log.quoted and b'""' in block):  # nothing but spaces, or nothing in quotes, is an empty cell
        frame = frame.with_columns(pl.all().replace("", None))
    return frame, numbers[~wrong], faults


# -- rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows of one block whose cells are what they must be, and the faults of the others."""

    lines: np.ndarray
    """(n,) line of each in its file, from 1."""
    labels: np.ndarray | None
    """(n,) uint8; None: the file has none."""
    buckets: Mapping[str, np.ndarray]
    """Numeric column -> (n,) int32 from 0."""
    levels: Any
    """Polars frame of the categorical columns; null: empty."""
    faults: list[tuple[int, str]]
    """(line, reason) of rows that are left out."""

    def __len__(self) -> int:
        return len(self.lines)


def read_rows(log: Log, *, strict: bool = True, size: int = BLOCK) -> Iterator[Rows]:
    """Rows of a file, block by block.

    Args:
        log: of `open_log`.
        strict: raise on the first fault; False: tell faults, and go on.
        size: bytes of a block.

    Raises:
        Problem: unreadable; with `strict`: a row of another width, a label that is not 0 or 1, a number that is none.
    """
    for first, block in _blocks(log, size):
        rows = _checked(log, *_parse(log, first, block))
        if strict and rows.faults:
            line, what = min(rows.faults)
            remedy = "mend the line; a missing cell is an empty one"
            raise Problem(f"{log.path.name}, line {line}: {what}", f"{log.path}, line {line}", remedy)
        yield rows


def _checked(log: Log, frame: Any, lines: np.ndarray, faults: list[tuple[int, str]]) -> Rows:
    pl = _polars()
    good = np.ones(len(lines), bool)
    labels = None
    if log.label:
        cells = frame[log.label].str.strip_chars()
        labels = cells.replace_strict(["0", "1", "0.0", "1.0"], [0, 1, 0, 1], default=2, return_dtype=pl.UInt8)
        labels = labels.fill_null(2).to_numpy()
        wrong = labels > 1
        if wrong.any():
            values = cells.filter(pl.Series(wrong)).unique(maintain_order=True).head(OFFENDERS).to_list()
            shown = ", ".join("(empty)" if v is None else repr(v) for v in values)
            faults += [
                (line, f"the label {log.label!r} must be 0 or 1; found {shown}") for line in lines[wrong].tolist()
            ]
            good &= ~wrong
    buckets = {}
    for name in log.numeric:
        cells = frame[name]
        numbers = cells.str.strip_chars().cast(pl.Float64, strict=False)
        values = numbers.fill_null(0.0).to_numpy()
        wrong = (numbers.is_null() & cells.is_not_null()).to_numpy() | ~np.isfinite(values)
        for k in np.flatnonzero(wrong).tolist():
            faults.append((int(lines[k]), f"{name} is {cells[k]!r}, not a number"))
        good &= ~wrong
        buckets[name] = log_square(np.where(wrong, 0.0, values))
    if log.format == "avazu":
        hour = frame["hour"]
        frame = frame.with_columns(
            hour.str.slice(0, 6).str.to_date("%y%m%d", strict=False).dt.weekday().cast(pl.String).alias("weekday"),
            hour.str.slice(6, 2).alias("hour_of_day"),
        )
        spelled = hour.str.contains(r"^[0-9]{6}([01][0-9]|2[0-3])$").fill_null(False)
        wrong = (frame["weekday"].is_null() | ~spelled).to_numpy()
        faults += [(int(lines[k]), f"hour is {hour[k]!r}, not YYMMDDHH") for k in np.flatnonzero(wrong).tolist()]
        good &= ~wrong
    levels = frame.select(log.categorical)
    if not good.all():
        levels = levels.filter(pl.Series(good)) if log.categorical else levels
        buckets = {name: values[good] for name, values in buckets.items()}
        labels = None if labels is None else labels[good]
        lines = lines[good]
    return Rows(lines, labels, buckets, levels, faults)


def log_square(values: np.ndarray) -> np.ndarray:
    """Buckets floor(ln(x² + 1)) of numbers, 0 … 63, int32.

    Example:
        >>> log_square(np.array([0.0, -1.0, 2.0, 1e20])).tolist()
        [0, 0, 1, 63]
    """
    magnitude = np.minimum(np.abs(values), 1e30)  # its square is finite
    return np.minimum(np.floor(np.log(magnitude * magnitude + 1)), BUCKETS - 1).astype(np.int32)


# -- vocabularies -----------------------------------------------------------------------------------


class LevelCounts:
    """How often each level of a column comes, and where it came first.

    Memory grows with the different levels, not with the rows: counts of blocks are merged whenever they have doubled.
    """

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._merged = 0

    def add(self, levels: Any, first_row: int) -> None:
        """Count a Polars series; its first cell is row `first_row` of the data."""
        pl = _polars()
        frame = pl.DataFrame({"level": levels, "row": np.arange(first_row, first_row + len(levels))}).drop_nulls()
        counted = frame.group_by("level").agg(pl.len().alias("count").cast(pl.Int64), pl.col("row").min())
        self._parts.append(counted)
        if sum(map(len, self._parts)) > 2 * self._merged + 100_000:
            self._merge()

    def _merge(self) -> None:
        pl = _polars()
        whole = pl.concat(self._parts).group_by("level").agg(pl.col("count").sum(), pl.col("row").min())
        self._parts, self._merged = [whole], len(whole)

    def __len__(self) -> int:
        """Different levels."""
        if len(self._parts) > 1:
            self._merge()
        return len(self._parts[0]) if self._parts else 0

    def vocabulary(self, min_count: int) -> list[str]:
        """Levels that come more than `min_count` times, in order of their first appearance."""
        if not len(self):
            return []
        pl = _polars()
        return self._parts[0].filter(pl.col("count") > min_count).sort("row")["level"].to_list()


@dataclass(frozen=True)
class Schema:
    """What a row becomes: a field for each column, an id for each level or bucket; 0: no id."""

    format: str
    label: str
    fields: tuple[str, ...]
    numeric: frozenset[str]
    vocabularies: Mapping[str, Sequence[str]]
    """Of the categorical columns that have one."""
    hash_buckets: int = 0
    """Of the categorical columns without a vocabulary."""

    @property
    def sizes(self) -> list[int]:
        """Number of ids of each field."""
        return [
            BUCKETS if name in self.numeric else len(self.vocabularies.get(name, ())) or self.hash_buckets
            for name in self.fields
        ]

    @property
    def categorical(self) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name not in self.numeric)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "label": self.label,
            "fields": list(self.fields),
            "numeric": sorted(self.numeric),
            "vocabularies": {name: list(levels) for name, levels in self.vocabularies.items()},
            "hash_buckets": self.hash_buckets,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Schema:
        return cls(
            content["format"],
            content["label"],
            tuple(content["fields"]),
            frozenset(content["numeric"]),
            content["vocabularies"],
            content["hash_buckets"],
        )

    def open(self, path: Path, labelled: bool = False) -> Log:
        """A file with the columns of this schema; `labelled`: with labels too.

        Raises:
            Problem: a column is missing.
        """
        numeric = tuple(name for name in self.fields if name in self.numeric)
        given: Any = (self.label, numeric, self.categorical) if self.format == "table" else ()
        log = open_log(path, *given, labelled=labelled)
        if log.format != self.format:
            remedy = f"expected: {', '.join(self.fields)}"
            raise Problem(f"{path.name} is no file of the format {self.format}", path, remedy)
        return replace(log, numeric=numeric, categorical=self.categorical)

    def encode(self, rows: Rows) -> np.ndarray:
        """Ids (n, F) int32."""
        ids = np.zeros((len(rows), len(self.fields)), np.int32)
        for k, name in enumerate(self.fields):
            if name in self.numeric:
                ids[:, k] = rows.buckets[name] + 1
            elif len(rows):
                ids[:, k] = self._ids(name, rows.levels[name])
        return ids

    def _ids(self, name: str, levels: Any) -> np.ndarray:
        pl = _polars()
        if name in self._tables:
            frame = pl.DataFrame({"level": levels}).join(
                self._tables[name], on="level", how="left", maintain_order="left"
            )
            return frame["id"].fill_null(0).to_numpy()
        different = levels.drop_nulls().unique()
        hashed = [1 + zlib.crc32(level.encode()) % self.hash_buckets for level in different.to_list()]
        return levels.replace_strict(different, hashed, default=0, return_dtype=pl.Int32).fill_null(0).to_numpy()

    @cached_property
    def _tables(self) -> dict[str, Any]:
        """Column -> frame of levels and ids."""
        pl = _polars()
        return {
            name: pl.DataFrame(
                {"level": list(levels), "id": np.arange(1, len(levels) + 1, dtype=np.int32)},
                schema_overrides={"level": pl.String},
            )
            for name, levels in self.vocabularies.items()
        }


# -- data sets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """How files become ids. Fields without a comment are as in the settings of `xdeepint`."""

    label: str = ""
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Fields that are not used."""
    split: Split = "random"
    test_fraction: float = 0.2
    valid_fraction: float = 0.1
    min_count: int | None = None
    """A level has an id if it comes more often in the training rows; None: `fitting_count`."""
    hash_buckets: int = 0
    """Ids of a categorical column by the hash of its levels; 0: a vocabulary."""


@dataclass(frozen=True)
class Clicks:
    """Encoded rows. Those of many rows lie on disk, and are read as they are used."""

    schema: Schema
    ids: np.ndarray
    """(N, F) int32."""
    labels: np.ndarray
    """(N,) uint8."""
    roles: np.ndarray
    """(N,) uint8: 0 training, 1 validation, 2 test."""
    min_count: int
    notes: tuple[str, ...] = field(default=())
    """What was decided or left out, a line each."""

    @cached_property
    def split(self) -> dict[str, np.ndarray]:
        """Rows of each part, in the order of the files."""
        return {part: np.flatnonzero(self.roles == k).astype(np.uint32) for k, part in enumerate(PARTS)}


def fitting_count(rows: int) -> int:
    """The published frequency cut, 20, or a smaller one for few training rows: one for every 50,000, at least 1.

    Example:
        >>> [fitting_count(rows) for rows in (200, 100_000, 40_000_000)]
        [1, 2, 20]
    """
    return min(20, max(1, rows // 50_000))


def find_logs(source: Path) -> dict[str, Path] | None:
    """Files of a data set: part -> path; the part of a file that is to be split is "train". None: there are none.

    Raises:
        Problem: several tables that could be meant, or folders of several advertisers.
    """
    if not source.is_dir():
        return {"train": source}
    kinds = (".csv", ".tsv", ".txt", ".gz", ".bz2", ".xz")
    files = sorted(
        p for p in source.iterdir() if p.suffix.lower() in kinds and p.name[0] != "." and "readme" not in p.name.lower()
    )
    named: dict[str, Path] = {}
    for part, words in (("train", ("train",)), ("valid", ("valid", "val", "dev")), ("test", ("test",))):
        found = [path for path in files if path.name.partition(".")[0].lower() in words]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise Problem(f"which of these is it: {names}?", source, "give one file, or remove the others")
        named |= dict(zip([part], found, strict=False))
    if "train" in named:
        if others := [path.name for path in files if path not in named.values()]:
            warnings.warn(f"{source}: not read beside train: {', '.join(others[:5])}", stacklevel=2)
        return named
    if len(files) == 1:
        return {"train": files[0]}
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:5])
        raise Problem(f"which of these is it: {names}?", source, "give one file, or call it train.csv")
    advertisers = sorted(path.parent.name for path in source.glob("*/train.log.txt"))
    if advertisers:
        raise Problem(
            f"folders of {len(advertisers)} advertisers: {', '.join(advertisers)}", source, "give one of them"
        )
    return None


def read_clicks(
    files: Mapping[str, Path],
    preparation: Preparation,
    rng: Callable[[str], np.random.Generator],
    progress: Progress = lambda items, label, total: iter(items),
    key: str = "",
    schema: Schema | None = None,
) -> Clicks:
    """Read and encode a data set. More than `IN_MEMORY` of ids go to the cache folder, and are found there next time.

    Args:
        files: of `find_logs`.
        preparation: columns, split, vocabulary.
        rng: word -> a generator; draws the split and the validation rows.
        progress: `Session.progress`.
        key: what `rng` depends on, to find rows in the cache.
        schema: of a model, whose vocabularies are taken in place of those of these files.

    Raises:
        Problem: unreadable files, a row that is not what it must be (file, line and value), one class only in the
            training rows, or no level that comes often enough.
    """
    logs, notes = _open_all(files, preparation, schema)
    folder = cache_dir() / "clicks" / _fingerprint(logs, preparation, key, schema)
    if folder.exists():
        return _mapped(folder)
    counts, roles, notes_of_columns = _count(logs, preparation, rng, progress)
    notes += notes_of_columns
    training = int((roles == TRAIN).sum())
    min_count = fitting_count(training) if preparation.min_count is None else preparation.min_count
    if schema is None:
        schema = _schema(logs["train"], preparation, counts, min_count, training)
    blocks = _encoded(logs, schema, progress)
    if len(roles) * len(schema.fields) * 4 <= IN_MEMORY:
        ids, labels = map(np.concatenate, zip(*blocks, strict=True))
        return _examined(Clicks(schema, ids, labels, roles, min_count, tuple(notes)), files["train"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with replace_folder(folder) as fresh:
                _write(fresh, blocks, (len(roles), len(schema.fields)))
                np.save(fresh / "roles.npy", roles)
                about = {"schema": schema.to_json(), "min_count": min_count, "notes": notes}
                write_json(fresh / "about.json", about)
    return _examined(_mapped(folder), files["train"])


def _open_all(
    files: Mapping[str, Path], preparation: Preparation, schema: Schema | None
) -> tuple[dict[str, Log], list[str]]:
    """The files that have labels, and what was left out."""
    given = preparation.label, preparation.numeric, preparation.categorical
    train = open_log(files["train"], *given) if schema is None else schema.open(files["train"], labelled=True)
    if unknown := [name for name in preparation.left_out if name not in train.fields]:
        raise Problem(f"no field is called {unknown[0]!r}", files["train"], f"fields: {', '.join(train.fields)}")
    logs, notes = {"train": train}, []
    for part in ("valid", "test"):
        if part not in files:
            continue
        log = open_log(files[part], *given, labelled=False)
        if not log.label:
            notes.append(f"{files[part].name} has no labels and is left out")
            warnings.warn(f"{files[part]}: no labels; it is left out", stacklevel=4)
            continue
        missing = set(train.fields) - set(log.names) - set(AVAZU_DERIVED if log.format == "avazu" else ())
        if missing:
            raise Problem(
                f"{log.path.name} has no column {sorted(missing)[0]!r}", log.path, "give both the same columns"
            )
        logs[part] = replace(log, numeric=train.numeric, categorical=train.categorical)
    return logs, notes


def _fingerprint(logs: Mapping[str, Log], preparation: Preparation, key: str, schema: Schema | None) -> str:
    """Changes with the files, and with all that their encoding depends on."""
    status = {part: log.path.stat() for part, log in logs.items()}
    parts = [[part, str(logs[part].path.absolute()), s.st_size, s.st_mtime_ns] for part, s in status.items()]
    content = [VERSION, parts, str(preparation), key, None if schema is None else schema.to_json()]
    return sha256(json.dumps(content).encode()).hexdigest()[:16]


def _mapped(folder: Path) -> Clicks:
    about = read_json(folder / "about.json", f"remove {folder}")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "labels", "roles")}
    return Clicks(
        Schema.from_json(about["schema"]), **arrays, min_count=about["min_count"], notes=tuple(about["notes"])
    )


def _watched(log: Log, label: str, progress: Progress) -> Iterator[Rows]:
    """Rows of a file with a progress bar over its blocks; their number is known for plain files alone."""
    total = None if log.path.suffix.lower() in OPENERS else math.ceil(file_size(log.path) / BLOCK)
    yield from progress(read_rows(log), label, total)


def _count(
    logs: Mapping[str, Log], preparation: Preparation, rng: Callable[[str], np.random.Generator], progress: Progress
) -> tuple[dict[str, LevelCounts], np.ndarray, list[str]]:
    """First pass: levels of the training rows, the part of every row, and what is remarkable about columns."""
    pl = _polars()
    fields = [name for name in logs["train"].fields if name not in preparation.left_out]
    counts = {name: LevelCounts() for name in logs["train"].categorical if name in fields}
    filled = dict.fromkeys(fields, 0)
    spread: dict[str, set[int]] = {name: set() for name in logs["train"].numeric if name in fields}
    total = _count_rows(logs["train"]) if preparation.split == "ordered" and "test" not in logs else 0
    split, valid = rng("split"), rng("valid")
    parts, first = [], 0
    for part, log in logs.items():
        before = 0
        for rows in _watched(log, f"count levels of {log.path.name}", progress):
            n = len(rows)
            roles = np.full(n, PARTS.index(part), np.uint8)
            if part == "train" and "test" not in logs:
                number = np.arange(before, before + n)
                roles[_in_test(preparation, number, total, split)] = TEST
            if part == "train" and "valid" not in logs and preparation.valid_fraction:
                drawn = valid.random(n) < preparation.valid_fraction
                roles[drawn & (roles == TRAIN)] = VALID
            chosen = rows.levels.filter(pl.Series(roles == TRAIN)) if counts else rows.levels
            for name, levels in counts.items():
                filled[name] += n - rows.levels[name].null_count()
                if not preparation.hash_buckets:
                    levels.add(chosen[name], first + before)
            for name, seen in spread.items():
                seen |= set(np.unique(rows.buckets[name]).tolist())
                filled[name] += int((rows.buckets[name] > 0).sum())
            parts.append(roles)
            before += n
        first += before
    if not first:
        raise Problem(f"{logs['train'].path.name} has no rows", logs["train"].path, "give rows below the header")
    notes = [f"column {name} is empty" for name in counts if not filled[name]]
    notes += [f"all numbers of {name} fall in one bucket" for name, seen in spread.items() if len(seen) == 1]
    for note in notes:
        warnings.warn(f"{logs['train'].path}: {note}; it tells the model nothing", stacklevel=4)
    return counts, np.concatenate(parts), notes


def _in_test(preparation: Preparation, number: np.ndarray, total: int, split: np.random.Generator) -> np.ndarray:
    """Which rows of a file, by their number from 0, go to the test part."""
    match preparation.split:
        case "released":  # (i mod 1000) / 1000 ≤ 0.80 trains: 801 of 1000
            return number % 1000 > 800
        case "ordered":
            return number >= total - round(total * preparation.test_fraction)
        case "random":
            return split.random(len(number)) < preparation.test_fraction


def _count_rows(log: Log) -> int:
    return sum(len(_line_ends(block, log.quoted)) for _, block in _blocks(log, BLOCK))


def _schema(
    log: Log, preparation: Preparation, counts: Mapping[str, LevelCounts], min_count: int, training: int
) -> Schema:
    vocabularies = {} if preparation.hash_buckets else {k: levels.vocabulary(min_count) for k, levels in counts.items()}
    if any(map(len, counts.values())) and vocabularies and not any(vocabularies.values()):
        raise Problem(
            f"no category comes more than {min_count} times in {training} training rows",
            log.path,
            "lower it: --set min_count=0 gives an id to every level",
        )
    fields = tuple(name for name in log.fields if name not in preparation.left_out)
    numeric = frozenset(log.numeric) & set(fields)
    return Schema(log.format, log.label, fields, numeric, vocabularies, preparation.hash_buckets)


def _encoded(logs: Mapping[str, Log], schema: Schema, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Second pass: ids (n, F) and labels (n,) block by block."""
    for log in logs.values():
        for rows in _watched(log, f"encode {log.path.name}", progress):
            assert rows.labels is not None
            yield schema.encode(rows), rows.labels


def _write(folder: Path, blocks: Iterable[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]) -> None:
    """Write ids.npy and labels.npy of the given shape as the blocks come; nothing stays in memory."""
    with (folder / "ids.npy").open("wb") as ids_file, (folder / "labels.npy").open("wb") as labels_file:
        for file, kind, size in ((ids_file, np.int32, shape), (labels_file, np.uint8, shape[:1])):
            about = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(file, about)
        for ids, labels in blocks:
            ids_file.write(np.ascontiguousarray(ids).data)
            labels_file.write(np.ascontiguousarray(labels).data)


def _examined(clicks: Clicks, path: Path) -> Clicks:
    """Raise `Problem` where nothing can be learnt, or tested."""
    for part in ("train", "test"):
        if not len(clicks.split[part]):
            raise Problem(f"nothing is left for {part}: {len(clicks.labels)} rows", path, "give more rows")
    found = set(np.unique(clicks.labels[clicks.split["train"]]).tolist())
    if len(found) < 2:
        raise Problem(f"all labels of the training rows are {found.pop()}", path, "give clicks and other rows")
    return clicks
