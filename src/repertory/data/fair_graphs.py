"""Graphs of people: a binary label to predict, and a binary sensitive attribute that should not decide it.

Formats, as their owners distribute them (nifty's and RELIANT's repositories):

- tables: `<name>.csv`, a row a person, and `<name>_edges.txt` (or `edges.csv`), pairs of row numbers, which may be
  written as floats. `bail`, `credit` and `german` are known by name: label, attribute, and how columns are prepared.
  Without edges people are joined to those most like them if that is asked for; for `bail` it always is.
- npz: `X.npz` (COO parts data, row, col, shape), `labels.txt` and `sens.txt` (id, value), `edgelist.txt` (u, v)

Either may have `split/{train,val,test}_split.npy`, ids of nodes or masks (n,) of booleans; otherwise splits are drawn.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial.distance import cdist

from repertory.core.problem import Problem
from repertory.data.arrays import load_npy, load_npz, to_dense
from repertory.data.splits import check_disjoint, part_ids
from repertory.data.tables import read_table, to_numbers, without_index

FORMATS = """\
<name>.csv (a row a person) and <name>_edges.txt (pairs of row numbers); own tables with label= and sensitive=
or X.npz, labels.txt, sens.txt, edgelist.txt (DBLP)
split/{train,val,test}_split.npy (optional)"""
PARTS = ("train", "val", "test")
SIMILAR = 0.6
"""People are neighbours if they are as similar as this, relative to the most similar one."""
ROWS_AT_ONCE = 256
"""Rows of the matrix of distances that are in memory together."""


@dataclass(frozen=True)
class Encoding:
    """How the columns of a table become features; kept with a model, so that new people are read the same way.

    JSON values only: `Encoding(**encoding.__dict__)` copies it.
    """

    columns: list[str]
    """Columns, in the order of the features; empty: the files hold features as they are."""
    scaled: dict[str, list[float]] = field(default_factory=dict)
    """Columns brought to [-1, 1], and their least and greatest value."""
    yes: dict[str, str] = field(default_factory=dict)
    """Columns of words, and the word that becomes 1."""
    rows: Literal["raw", "normalised", "binary"] = "raw"
    """Features as they are, divided by the sum of their row, or 1 where they are not 0."""
    similar: bool = False
    """Whether people are joined by similarity where a table has no edges."""

    def features(self, table: pd.DataFrame, where: object = "") -> np.ndarray:
        """(n, d) float32.

        Raises:
            Problem: a column is missing, or holds something that is not a finite number.
        """
        features = self.numbers(table, where)
        if self.rows == "normalised":
            sums = features.sum(axis=1, keepdims=True)
            features = np.divide(features, sums, out=np.zeros_like(features), where=sums != 0)
        return (features != 0 if self.rows == "binary" else features).astype(np.float32)

    def numbers(self, table: pd.DataFrame, where: object = "") -> np.ndarray:
        """(n, d) float64: the columns, scaled where that is told, before rows are prepared; raises as `features`."""
        missing = [name for name in self.columns if name not in table]
        if missing:
            raise Problem(f"the column {missing[0]!r} is missing", where, f"the features are {', '.join(self.columns)}")
        columns = []
        for name in self.columns:
            values = table[name] == self.yes[name] if name in self.yes else table[name]
            try:
                numbers = values.to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise Problem(f"the column {name!r} holds text", where, "encode it as numbers, or drop it") from error
            if not np.isfinite(numbers).all():
                row = int((~np.isfinite(numbers)).argmax())
                raise Problem(f"the column {name!r} has no number in row {row}", where, "fill or drop it first")
            if name in self.scaled:
                low, high = self.scaled[name]
                numbers = 2 * (numbers - low) / ((high - low) or 1.0) - 1
            columns.append(numbers)
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class FairGraph:
    """People, who knows whom, what is to be predicted, and the group that each belongs to."""

    name: str
    features: np.ndarray
    """(n, d) float32."""
    edges: np.ndarray
    """(2, E) int64: both directions of every edge and a self loop at every node, sorted by source and target."""
    encoding: Encoding
    labels: np.ndarray | None = None
    """(n,) 0 or 1; None where only predictions are wanted."""
    sensitive: np.ndarray | None = None
    """(n,) 0 or 1, or None."""
    split: Mapping[str, np.ndarray] = field(default_factory=dict)
    """train, val and test: ids of nodes; empty where there are no labels."""
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    """The rows that features were made of; None where the files hold features as they are."""

    def encoded(self, encoding: Encoding, where: object = "") -> FairGraph:
        """The same people as a model was trained to read them; raises as `Encoding.features`."""
        if self.table is None or encoding == self.encoding:
            return self
        return replace(self, features=encoding.features(self.table, where), encoding=encoding)

    @property
    def size(self) -> int:
        """Number of people n."""
        return len(self.features)


@dataclass(frozen=True)
class _Known:
    """What the files of a public data set do not say."""

    label: str
    sensitive: str
    yes: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    rows: Literal["raw", "normalised", "binary"] = "raw"
    largest_component: bool = False
    similar: bool = False


KNOWN: Mapping[str, _Known] = {
    "bail": _Known("RECID", "WHITE", rows="normalised", similar=True),
    "german": _Known(
        "GoodCustomer",
        "Gender",
        yes={"Gender": "Female"},
        dropped=("OtherLoansAtStore", "PurposeOfLoan"),
        scaled=("LoanAmount", "Age", "LoanDuration"),
    ),
    "credit": _Known("NoDefaultNextMonth", "Age", rows="binary", largest_component=True),
}
"""Prepared as RELIANT's authors do. In all of them the sensitive column is among the features too."""


# -- reading ------------------------------------------------------------------------------------


def read_fair_graph(
    folder: Path,
    label: str = "",
    sensitive: str = "",
    seed: int = 0,
    encoding: Encoding | None = None,
    per_class: int = 500,
    similar: bool = False,
) -> FairGraph:
    """Read the graph in a folder.

    Args:
        folder: see the head of this module; the files may lie in a folder right below it.
        label: column to predict; needed for tables that are not known by name.
        sensitive: column of the sensitive attribute; in own tables it is not a feature.
        seed: of the split, where the folder has none.
        encoding: of a trained model: read what it predicts from, and neither labels nor groups.
        per_class: most training nodes of each class in a split that is drawn.
        similar: where a table has no edges, join people to those most like them.

    Raises:
        Problem: files, columns or values that are missing or wrong; groups or labels that are not binary; edges to
            people who are not there; a group without a member in training or test.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Problem("no graph of people here", folder, f"expected: {'; '.join(FORMATS.splitlines())}")
    home = next((path.parent for depth in ("", "*/") for path in sorted(folder.glob(f"{depth}X.npz"))), None)
    table = (folder, label, sensitive, encoding, similar)
    graph = _read_npz(home, encoding is not None) if home else _read_table(*table)
    if encoding is not None:
        return graph
    return _checked(replace(graph, split=_read_split(home or _table(folder).parent, graph, seed, per_class)), folder)


def _read_table(folder: Path, label: str, sensitive: str, encoding: Encoding | None, similar: bool) -> FairGraph:
    path = _table(folder)
    table = without_index(read_table(path), path)
    known = KNOWN.get(path.stem) if not label and not sensitive else _Known(label, sensitive)
    if encoding is not None:
        return FairGraph(path.stem, encoding.features(table, path), _read_edges(path, table, encoding), encoding)
    if known is None:
        raise Problem(
            f"label and sensitive attribute of {path.name} are not known",
            path,
            f"--set label=COLUMN --set sensitive=COLUMN; it has {', '.join(table.columns)}",
        )
    for name, what in ((known.label, "label"), (known.sensitive, "sensitive")):
        if name not in table:
            raise Problem(f"no {what} column {name!r}", path, f"it has {', '.join(table.columns)}")
    own = path.stem not in KNOWN or bool(label or sensitive)
    left_out = {known.label, *known.dropped, *([known.sensitive] if own else [])}
    columns = [name for name in table.columns if name not in left_out]
    scaled = columns if own else known.scaled
    numeric = [name for name in scaled if pd.api.types.is_numeric_dtype(table[name])]
    encoding = Encoding(
        columns,
        {name: [float(f(table[name].to_numpy())) for f in (np.nanmin, np.nanmax)] for name in numeric},
        {name: word for name, word in known.yes.items() if name in columns},
        known.rows,
        similar or known.similar,
    )
    graph = FairGraph(
        path.stem,
        encoding.features(table, path),
        _read_edges(path, table, encoding),
        encoding,
        _binary(table, known.label, "label", path, known),
        _binary(table, known.sensitive, "sensitive attribute", path, known),
        table=table,
    )
    return _largest_component(graph) if known.largest_component else graph


def _table(folder: Path) -> Path:
    edges = ("edges.csv", "*_edges.csv")
    for depth in ("", "*/"):
        found = [p for p in sorted(folder.glob(f"{depth}*.csv")) if not any(p.match(pattern) for pattern in edges)]
        if len(found) > 1:
            raise Problem(f"{len(found)} tables: {', '.join(p.name for p in found)}", folder, "one graph a folder")
        if found:
            return found[0]
    raise Problem("no graph of people here", folder, f"expected: {'; '.join(FORMATS.splitlines())}")


def _binary(table: pd.DataFrame, name: str, what: str, where: Path, known: _Known) -> np.ndarray:
    """0 and 1: the greater value is 1, or the word that is known for this column."""
    column = table[name].to_numpy()
    values = sorted(pd.unique(column[~pd.isna(column)]).tolist())
    if len(values) != 2 or pd.isna(column).any():
        shown = ", ".join(map(str, values[:6])) + (", …" if len(values) > 6 else "")
        raise Problem(f"the {what} {name} is not binary: {shown}", where, "give a column with two values and no gaps")
    return (column == known.yes.get(name, values[1])).astype(np.int64)


def _read_edges(path: Path, table: pd.DataFrame, encoding: Encoding) -> np.ndarray:
    """The edges beside a table; where there is no file, people are joined to those most like them, or asked about."""
    names = (f"{path.stem}_edges.txt", "edges.txt", f"{path.stem}_edges.csv", "edges.csv", f"{path.stem}_edges.txt.zip")
    edges = next((path.with_name(name) for name in names if os.path.lexists(path.with_name(name))), None)
    if edges is None:
        if not encoding.similar:
            raise Problem(
                "no edges beside the table",
                path,
                f"add {names[0]}, pairs of row numbers; or --set join_similar=true joins people who are alike",
            )
        built = _both_ways(pd.DataFrame(_alike(encoding.numbers(table, path))), len(table), path)
        pairs, share = (built.shape[1] - len(table)) // 2, (built.shape[1] / len(table) - 1) / max(1, len(table) - 1)
        warnings.warn(
            f"{path.name}: no edges; {pairs} pairs of people who are alike are joined ({share:.1%} of all)",
            stacklevel=4,
        )
        return built
    pairs = read_table(edges, header=None, sep=r"[\s,]+", engine="python", dtype=str)
    first = np.asarray(pd.to_numeric(pairs.iloc[0], errors="coerce"), np.float64)
    if edges.suffix == ".csv" and np.isnan(first[:2]).any():  # names of columns
        pairs = pairs.iloc[1:].set_axis(pairs.iloc[0].fillna("Unnamed: 0"), axis=1)
        pairs = without_index(pairs.reset_index(drop=True), edges)
    return _both_ways(pairs, len(table), edges)


def _both_ways(pairs: pd.DataFrame, size: int, where: Path) -> np.ndarray:
    """Sorted edges (2, E): both directions, each once, and a self loop at every node."""
    if pairs.shape[1] < 2:
        raise Problem(f"the edges have {pairs.shape[1]} column", where, "give two row numbers a line")
    ends = to_numbers(pairs.iloc[:, :2], where)
    wrong = ~((ends >= 0) & (ends < size) & (ends % 1 == 0)).all(axis=1)
    if wrong.any():
        pair = tuple(ends[wrong][0].tolist())
        raise Problem(f"the edge {pair} leads to nobody", where, f"people are numbered from 0 to {size - 1}")
    u, v = ends.T.astype(np.int64)
    loops = np.arange(size)
    keys = np.unique(np.r_[u * size + v, v * size + u, loops * size + loops])
    return np.stack([keys // size, keys % size])


def _alike(features: np.ndarray) -> np.ndarray:
    """(E, 2) pairs of people with similarity 1 / (1 + distance) above 0.6 of the greatest to anybody else."""
    found = []
    for start in range(0, len(features), ROWS_AT_ONCE):
        similar = 1 / (1 + cdist(features[start : start + ROWS_AT_ONCE], features))
        rows = np.arange(len(similar))
        similar[rows, start + rows] = 0.0
        u, v = np.nonzero(similar > SIMILAR * similar.max(axis=1, keepdims=True))
        found.append(np.stack([start + u, v], axis=1))
    return np.concatenate(found)


def _largest_component(graph: FairGraph) -> FairGraph:
    ones = np.ones(graph.edges.shape[1])
    _, component = sparse.csgraph.connected_components(sparse.coo_array((ones, tuple(graph.edges))))
    kept = component == np.bincount(component).argmax()
    number = np.cumsum(kept) - 1
    edges = number[graph.edges[:, kept[graph.edges[0]]]]
    parts = {name: array[kept] for name in ("labels", "sensitive") if (array := getattr(graph, name)) is not None}
    table = None if graph.table is None else graph.table[kept]
    return replace(graph, features=graph.features[kept], edges=edges, table=table, **parts)


def _read_npz(folder: Path, features_only: bool) -> FairGraph:
    """DBLP: labels are 1 for class 3 and groups 1 for continent 2, as RELIANT's authors have them."""
    path = folder / "X.npz"
    parts = load_npz(path)
    try:
        data, row, column, shape = (parts[name] for name in ("data", "row", "col", "shape"))
        if data.dtype.kind not in "biuf" or not row.dtype.kind == column.dtype.kind == shape.dtype.kind == "i":
            raise ValueError(f"data are {data.dtype}, row {row.dtype}, col {column.dtype}, shape {shape.dtype}")
        features = to_dense(sparse.coo_array((data, (row, column)), shape=tuple(shape.tolist())), path)
        if features.ndim != 2 or not features.size or not np.isfinite(features).all():
            raise ValueError(f"the features have shape {features.shape}, or are not finite")
    except Problem:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"X.npz is no sparse matrix: {error}", path, "COO parts: data, row, col, shape") from error
    edges = _both_ways(_columns(folder / "edgelist.txt"), len(features), folder / "edgelist.txt")
    name = folder.resolve().name
    graph = FairGraph(name, features.astype(np.float32), edges, Encoding([]))
    if features_only:
        return graph
    labels, groups = (_values(folder / file, len(features)) for file in ("labels.txt", "sens.txt"))
    return replace(graph, labels=(labels == 3).astype(np.int64), sensitive=(groups == 2).astype(np.int64))


def _columns(path: Path) -> pd.DataFrame:
    return read_table(path, sep=r"\s+", header=None)


def _values(path: Path, size: int) -> np.ndarray:
    table = to_numbers(_columns(path), path)
    if table.shape[1] != 2 or not np.isfinite(table).all():
        raise Problem(f"{path.name} is not two finite numbers a line", path, "one line a node: id, value")
    ids, values = table.T
    if sorted(ids.tolist()) != list(range(size)):
        raise Problem(f"{path.name} does not name each of the {size} nodes once", path, "one line a node: id, value")
    return values[np.argsort(ids)]


def _read_split(home: Path, graph: FairGraph, seed: int, per_class: int) -> dict[str, np.ndarray]:
    files = {part: home / "split" / f"{part}_split.npy" for part in PARTS}
    if not any(os.path.lexists(path) for path in files.values()):
        assert graph.labels is not None
        return draw_split(graph.labels, seed, per_class)
    split = {part: part_ids(load_npy(path), graph.size, part, path) for part, path in files.items()}
    for part, ids in split.items():
        if not len(ids):
            raise Problem(f"{part} is empty", files[part], "give each part at least one node")
    check_disjoint(split, home / "split")
    return split


def draw_split(labels: np.ndarray, seed: int, per_class: int = 500) -> dict[str, np.ndarray]:
    """Half of each class for training (at most `per_class`), a quarter for validation, the rest for the test.

    Drawn as nifty's and RELIANT's code does, with Python's generator: seed 0 gives their split.

    Example:
        >>> {part: len(ids) for part, ids in draw_split(np.array([0, 1] * 20), 0).items()}
        {'train': 20, 'val': 10, 'test': 10}
    """
    generator, parts = random.Random(seed), {part: [] for part in PARTS}
    for label in (0, 1):
        ids = np.flatnonzero(labels == label).tolist()
        generator.shuffle(ids)
        half, quarter = int(0.5 * len(ids)), int(0.75 * len(ids))
        parts["train"] += ids[: min(half, per_class)]
        parts["val"] += ids[half:quarter]
        parts["test"] += ids[quarter:]
    return {part: np.array(ids, dtype=np.int64) for part, ids in parts.items()}


def _checked(graph: FairGraph, where: Path) -> FairGraph:
    assert graph.sensitive is not None
    for part in ("train", "test"):
        groups = np.unique(graph.sensitive[graph.split[part]])
        if len(groups) < 2:
            raise Problem(f"only one group has members in {part}", where, "differences need people of both groups")
    return graph


# -- a generated graph --------------------------------------------------------------------------


def biased_graph(
    rng: np.random.Generator,
    nodes: int = 800,
    groups: tuple[float, float] = (0.4, 0.6),
    positive: tuple[float, float] = (0.35, 0.6),
    words: int = 60,
    group_words: int = 10,
    label_words: int = 15,
    mean_degree: float = 8.0,
    homophily: tuple[float, float] = (3.0, 3.0),
    lift: float = 1.8,
) -> FairGraph:
    """A graph whose words and edges tell the label, the group, and the one through the other.

    Args:
        rng: source of all randomness.
        nodes: number of people n.
        groups: share of group 0 and group 1.
        positive: share of label 1 in group 0 and group 1.
        words: number of features, counts of words.
        group_words: of these, how many group 1 uses more often.
        label_words: of these, how many those with label 1 use more often.
        mean_degree: edges of a person.
        homophily: how much likelier an edge is within a group, and within a label.
        lift: how much more often.
    """
    sensitive = (rng.random(nodes) < groups[1]).astype(np.int64)
    labels = (rng.random(nodes) < np.array(positive)[sensitive]).astype(np.int64)
    rate = np.full((nodes, words), 0.4)
    rate[:, :group_words] *= np.where(sensitive == 1, lift, 1.0)[:, None]
    rate[:, group_words : group_words + label_words] *= np.where(labels == 1, lift, 1.0)[:, None]
    features = rng.poisson(rate).astype(np.float32)
    same = np.where(np.equal.outer(sensitive, sensitive), homophily[0], 1.0)
    same *= np.where(np.equal.outer(labels, labels), homophily[1], 1.0)
    chance = np.triu(same, k=1)
    chance *= mean_degree * nodes / 2 / chance.sum()
    u, v = np.nonzero(rng.random((nodes, nodes)) < chance)
    edges = _both_ways(pd.DataFrame(np.stack([u, v], axis=1)), nodes, Path("generated"))
    return FairGraph("dblp-like", features, edges, Encoding([]), labels, sensitive)


def write_npz(folder: Path, graph: FairGraph, split: Mapping[str, np.ndarray]) -> None:
    """Write a graph as DBLP is distributed: `X.npz`, `labels.txt`, `sens.txt`, `edgelist.txt` and `split/`."""
    assert graph.labels is not None
    assert graph.sensitive is not None
    (folder / "split").mkdir(parents=True, exist_ok=True)
    x = sparse.coo_array(graph.features)
    np.savez(folder / "X.npz", data=x.data, row=x.coords[0], col=x.coords[1], shape=np.array(x.shape))
    for name, values in (("labels", np.where(graph.labels, 3.0, 1.0)), ("sens", np.where(graph.sensitive, 2.0, 1.0))):
        lines = (f"{node}\t{value}\n" for node, value in enumerate(values))
        (folder / f"{name}.txt").write_text("".join(lines), encoding="ascii")
    (folder / "edgelist.txt").write_text("".join(_lines(graph.edges)), encoding="ascii")
    for part, ids in split.items():
        np.save(folder / "split" / f"{part}_split.npy", ids.astype(np.float64))


def _lines(edges: np.ndarray) -> Iterator[str]:
    return (f"{u}\t{v}\n" for u, v in edges.T.tolist() if u < v)
