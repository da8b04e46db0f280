"""Attributed hypergraphs: one `Hypergraph`, and the on-disk formats that hold it.

- HyperGCN: `features.pickle` (SciPy CSR), `labels.pickle` (list), `hypergraph.pickle` (hyperedge -> vertices) and
  `splits/*.pickle` (lists `train` and `test`)
- mat: features of the same objects by two networks, `X` (cells), `Y`, `indices`; hyperedges are for the user to build
- LE: `<name>.content` (vertex, features …, label) and `<name>.edges` (vertex, hyperedge)
- tables: `features.csv`, and `incidence.csv` (vertex, hyperedge[, weight]), `labels.csv` (a blank is unlabelled),
  `weights.csv` (hyperedge, weight), each if there is one
- PyG: `*.pt`, a saved `torch_geometric.data.Data` with `x` and `hyperedge_index`
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import io, sparse

from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import check_sparse, file_size, find_file, load_mat, load_pickle, to_dense
from repertory.data.splits import check_disjoint, part_ids
from repertory.data.tables import read_table, to_numbers, without_index

FORMATS = """\
features.pickle, labels.pickle, hypergraph.pickle, splits/*.pickle (HyperGCN format)
or <name>.mat with X, Y, indices (features of objects by two networks)
or <name>.content and <name>.edges (LE format)
or features.csv with incidence.csv, labels.csv, weights.csv (each optional)
or <name>.pt (a PyTorch Geometric Data with x and hyperedge_index)"""

MAT_VIEWS = ("mvcnn", "gvcnn")
"""What the cells of `X` in the mat format are called, in their order."""

UNLABELLED = -1

CSR = Any
"""A `scipy.sparse.csr_array`, whose own annotations tell a checker that its shape is None."""

Split = tuple[np.ndarray, np.ndarray]
"""Ids of the training and of the test vertices."""


@dataclass(frozen=True)
class Hypergraph:
    """A hypergraph with vertex features; or objects with features only, from which hyperedges are yet to be built.

    Example:
        >>> papers = citation_hypergraph(np.random.default_rng(0), vertices=50, hyperedges=30)
        >>> papers.features.shape, papers.incidence.shape[0], len(papers.classes)
        ((50, 120), 50, 4)
    """

    name: str
    views: Mapping[str, np.ndarray | CSR]
    """view -> (n, f), finite float32, dense or sparse; most data sets have one view."""
    incidence: CSR | None
    """Q, (n, m) float64: the weight of a vertex inside a hyperedge, ≥ 0. None: the data have no hyperedges."""
    labels: np.ndarray
    """(n,) classes 0 … C−1; `UNLABELLED` where there is none."""
    classes: tuple[str, ...]
    """C names of the classes, as the files spell them."""
    splits: tuple[Split, ...] = ()
    """Published splits; may be none."""
    weights: np.ndarray | None = None
    """(m,) weights of the hyperedges, > 0, or None: all 1."""
    vertices: np.ndarray | None = field(default=None)
    """(n,) names of the vertices, where the files give them; otherwise a vertex is called by its row."""

    @property
    def size(self) -> int:
        """Number of vertices n."""
        return len(self.labels)

    @property
    def features(self) -> np.ndarray | CSR:
        """All views side by side, (n, f); sparse if all of them are."""
        views = list(self.views.values())
        if len(views) == 1:
            return views[0]
        if all(sparse.issparse(view) for view in views):
            return sparse.csr_array(sparse.hstack(views))
        return np.hstack([view.toarray() if isinstance(view, sparse.csr_array) else view for view in views])


def make_hypergraph(
    name: str,
    views: Mapping[str, Any],
    incidence: Any = None,
    labels: Any = None,
    splits: Sequence[tuple[Any, Any]] = (),
    weights: Any = None,
    vertices: np.ndarray | None = None,
    hyperedges: Sequence[Any] | None = None,
    where: object = "",
) -> Hypergraph:
    """Check raw arrays and make a Hypergraph of them. Empty hyperedges are dropped with a warning.

    Args:
        name: what the data set is called.
        views: view -> (n, f), sparse or dense.
        incidence: (n, m), sparse or dense, or None.
        labels: (n,) integers or words; None or NaN: unlabelled. They are numbered 0 … C−1 in sorted order, with a
            warning if integers change by that.
        splits: pairs of lists: ids of the training and of the test vertices.
        weights: (m,) weights of the hyperedges, or None.
        vertices: (n,) names.
        hyperedges: m names, for messages.
        where: file or folder that a Problem names.

    Raises:
        Problem: shapes that do not go together, negative or non-finite weights, features that are not finite numbers,
            or splits that name a vertex twice, an unknown one, or the same one for training and test.
    """
    views = {view: _features(array, where) for view, array in views.items()}
    sizes = {view: array.shape[0] for view, array in views.items()}
    n = next(iter(sizes.values()), 0)
    if n == 0 or set(sizes.values()) != {n}:
        raise Problem(f"the features do not have one row a vertex: {sizes}", where, "give every view n > 0 rows")

    if incidence is not None:
        checked = check_sparse(incidence, where) if sparse.issparse(incidence) else incidence
        incidence = sparse.csr_array(checked, dtype=np.float64)
        if incidence.shape[0] != n:
            raise Problem(
                f"an incidence matrix {incidence.shape} and {n} rows of features do not go together",
                where,
                f"the incidence matrix needs shape ({n}, m): one row a vertex",
            )
        check_weights(incidence.data, where)
        incidence.eliminate_zeros()
        weights = _hyperedge_weights(weights, incidence.shape[1], where)
        filled = np.diff(sparse.csc_array(incidence).indptr) > 0
        if not filled.all():
            empty = np.flatnonzero(~filled)
            called = empty[0] if hyperedges is None else hyperedges[empty[0]]
            warnings.warn(f"{where or name}: {len(empty)} empty hyperedges are dropped (first: {called})", stacklevel=2)
            incidence = incidence[:, filled]
            weights = None if weights is None else weights[filled]

    if vertices is not None and np.shape(vertices) != (n,):
        raise Problem(f"{np.size(vertices)} names for {n} vertices", where, "one name a vertex")
    numbers, classes = _numbered(labels, n, where or name)
    apart = tuple(_split(train, test, n, k, where) for k, (train, test) in enumerate(splits, start=1))
    return Hypergraph(name, views, incidence, numbers, classes, apart, weights, vertices)


def check_weights(weights: np.ndarray, where: object = "") -> None:
    """Raise `Problem` unless all weights of vertices are finite and not negative."""
    if not np.isfinite(weights).all() or (weights < 0).any():
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise Problem(f"vertex weights must be finite and ≥ 0, got {wrong}", where, "0 means: not in the hyperedge")


def _features(array: Any, where: object) -> np.ndarray | CSR:
    values = sparse.csr_array(check_sparse(array, where)) if sparse.issparse(array) else np.asarray(array)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise Problem(f"the features are not a table of numbers: {values.dtype} {values.shape}", where, "save as float")
    values = values.astype(np.float32)
    entries = values if isinstance(values, np.ndarray) else values.data
    if not np.isfinite(entries).all():
        raise Problem("the features hold NaN or infinity", where, "fill or drop them first")
    return values


def _hyperedge_weights(weights: Any, hyperedges: int, where: object) -> np.ndarray | None:
    if weights is None:
        return None
    try:
        weights = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Problem(f"hyperedge weights are not numbers: {error}", where, "give one number a hyperedge") from error
    if weights.shape != (hyperedges,):
        raise Problem(f"{weights.shape} weights for {hyperedges} hyperedges", where, "give one weight a hyperedge")
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise Problem("hyperedge weights must be finite and > 0", where, "leave out a hyperedge of weight 0")
    return weights


def _numbered(labels: Any, n: int, where: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes 0 … C−1 and their names."""
    if labels is None:
        return np.full(n, UNLABELLED, dtype=np.int64), ()
    try:
        column = pd.Series(np.asarray(labels).ravel()).infer_objects()  # whole numbers among None are numbers
        codes, names = pd.factorize(column, sort=True)
        whole = pd.api.types.is_numeric_dtype(column.dtype)
        if len(column) != n:
            raise Problem(f"{len(column)} labels for {n} vertices", where, "one label a vertex; a blank is unlabelled")
        if whole and (np.iscomplexobj(column) or (np.asarray(names, dtype=float) % 1).any()):
            raise Problem("the labels are not whole numbers", where, "number the classes, or name them")
    except Problem:
        raise
    except (TypeError, ValueError) as error:
        raise Problem(f"the labels are not a list of numbers or words: {error}", where, "one label a vertex") from error
    spelt = tuple(str(int(label)) if whole else str(label) for label in names)
    if whole and spelt != tuple(map(str, range(len(spelt)))):
        warnings.warn(
            f"{where}: the labels are not 0 … {len(spelt) - 1}; they are renumbered: "
            + ", ".join(f"{label} -> {k}" for k, label in enumerate(spelt[:5]))
            + (", …" if len(spelt) > 5 else ""),
            stacklevel=3,
        )
    return codes.astype(np.int64), spelt


def _split(train: Any, test: Any, n: int, number: int, where: object) -> Split:
    parts = {"train": train, "test": test}
    ids = {part: part_ids(content, n, f"split {number}, {part}", where) for part, content in parts.items()}
    check_disjoint({f"split {number}, {part}": rows for part, rows in ids.items()}, where)
    return ids["train"], ids["test"]


# -- reading --------------------------------------------------------------------------------------


def hypergraph_files(source: Path) -> list[Path]:
    """The files by which hypergraphs are known: features.pickle, *.mat, *.content, features.csv, *.pt.

    Looks in the folder `source` and, if there is none, one and then two levels below. A file of one of these kinds
    stands for itself.
    """
    source = Path(source)
    patterns = ("features.pickle", "*.mat", "*.content", "features.csv", "*.pt")
    if source.is_file():
        return [source] if any(source.match(pattern) for pattern in patterns) else []
    for depth in ("", "*/", "*/*/"):
        found = [path for pattern in patterns for path in sorted(source.glob(depth + pattern))]
        if found:
            return found
    return []


def read_hypergraph(source: Path) -> Hypergraph:
    """Read the hypergraph in a folder, or the one that a file (see `hypergraph_files`) stands for.

    Raises:
        Problem: none, or several, in the folder; or what the reader of the format finds wrong.
    """
    found = hypergraph_files(source)
    if not found:
        raise Problem("no hypergraph here", source, f"expected: {'; '.join(FORMATS.splitlines())}")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in found)
        raise Problem(f"{len(found)} hypergraphs: {names}", source, "name one of the files")
    (path,) = found
    match path.suffix:
        case ".pickle":
            return read_hypergcn(path.parent)
        case ".mat":
            return read_mat(path)
        case ".content":
            return read_le(path.parent, path.stem)
        case ".csv":
            return read_tables(path.parent)
        case _:
            return read_pyg(path)


def read_hypergcn(folder: Path) -> Hypergraph:
    """Read features.pickle, labels.pickle, hypergraph.pickle and splits/*.pickle; columns are in the dict's order.

    The data set is called by its folder and the one above: cocitation-cora.

    Raises:
        Problem: a file is missing, cut short or holds more than arrays and containers; a hyperedge names an unknown
            vertex; or see `make_hypergraph`.
    """
    features = load_pickle(folder / "features.pickle")
    hypergraph = load_pickle(folder / "hypergraph.pickle")
    if not sparse.issparse(features) and not (isinstance(features, np.ndarray) and features.ndim == 2):
        raise Problem(
            f"the features are a {type(features).__name__}, no matrix", folder / "features.pickle", "save a CSR matrix"
        )
    if not isinstance(hypergraph, Mapping):
        raise Problem(
            f"the hypergraph is a {type(hypergraph).__name__}, no dict",
            folder / "hypergraph.pickle",
            "save a dict: hyperedge -> set of vertex ids",
        )
    try:
        sizes = np.fromiter((len(members) for members in hypergraph.values()), np.int64, len(hypergraph))
        vertex = np.array(list(chain.from_iterable(hypergraph.values())))
        if vertex.size and (vertex.ndim != 1 or vertex.dtype.kind not in "iu"):
            raise ValueError(f"they are {vertex.dtype}")
    except (TypeError, ValueError) as error:
        raise Problem(
            f"a hyperedge is not a set of vertex ids: {error}", folder / "hypergraph.pickle", "ids are whole numbers"
        ) from error
    incidence = _incidence(vertex, np.repeat(np.arange(len(sizes)), sizes), features.shape[0], list(hypergraph), folder)
    splits = []
    for path in sorted(_pickles(folder / "splits"), key=lambda path: (len(path.stem), path.stem)):
        split = load_pickle(path)
        if not isinstance(split, Mapping) or not {"train", "test"} <= set(split):
            raise Problem("a split is a dict with lists train and test", path, "fetch it again")
        splits.append((split["train"], split["test"]))
        _split(split["train"], split["test"], features.shape[0], len(splits), path)
    return make_hypergraph(
        "-".join(folder.resolve().parts[-2:]),
        {"words": features},
        incidence,
        load_pickle(folder / "labels.pickle"),
        splits,
        hyperedges=list(hypergraph),
        where=folder,
    )


def _pickles(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() == ".pickle"] if folder.is_dir() else []


def read_mat(path: Path) -> Hypergraph:
    """Read features of objects by two networks (`X`), classes (`Y`, from 0 or 1) and the split (`indices`, 1: train).

    There are no hyperedges in these files.

    Raises:
        Problem: not a MATLAB file of version 5, variables that are missing or of another form; or see
            `make_hypergraph`.
    """
    content = load_mat(path, ("X", "Y", "indices"))
    x, labels, indices = (content[name] for name in ("X", "Y", "indices"))
    cells = list(x.ravel()) if x.dtype == object else [x]
    if not 1 <= len(cells) <= len(MAT_VIEWS):
        raise Problem(f"X has {len(cells)} cells", path, f"one or two: {', '.join(MAT_VIEWS)}")
    labels, indices = (np.asarray(_unwrapped(part)).ravel() for part in (labels, indices))
    for name, part in (("Y", labels), ("indices", indices)):
        if part.dtype.kind not in "biuf" or not np.isfinite(part).all():
            raise Problem(f"`{name}` does not hold finite numbers", path, "give one number an object")
    labels = labels - 1 if labels.size and labels.min() == 1 else labels
    if len(indices) != len(labels) or not np.isin(indices, (0, 1)).all():
        raise Problem(f"`indices` is not a 0 or 1 for each of {len(labels)} objects", path, "1: training, 0: test")
    split = (np.flatnonzero(indices == 1), np.flatnonzero(indices == 0))
    views: dict[str, Any] = dict(zip(MAT_VIEWS, cells, strict=False))
    return make_hypergraph(path.stem, views, None, labels, [split], where=path)


def _unwrapped(array: Any) -> Any:
    """The content of a cell array with one cell; a sparse matrix as a dense one."""
    inner = array.item() if isinstance(array, np.ndarray) and array.dtype == object and array.size == 1 else array
    return to_dense(inner, "a .mat file") if sparse.issparse(inner) else inner


def read_le(folder: Path, name: str) -> Hypergraph:
    """Read `<name>.content` (vertex, features …, label a line) and `<name>.edges` (vertex, hyperedge a line).

    Raises:
        Problem: a file is missing or not of this form, a line of `<name>.edges` names no vertex; or see
            `make_hypergraph`.
    """
    content = read_table(folder / f"{name}.content", sep=r"\s+", header=None, dtype={0: str})
    edges = read_table(folder / f"{name}.edges", sep=r"\s+", header=None, dtype=str)
    if content.shape[1] < 3 or edges.shape[1] != 2:
        columns = f"{name}.content has {content.shape[1]} columns, {name}.edges {edges.shape[1]}"
        raise Problem(columns, folder, "content: vertex, features, label (3 or more); edges: vertex, hyperedge (2)")
    if content[0].duplicated().any():
        raise Problem("a vertex is listed twice", folder / f"{name}.content", "one row a vertex")
    vertex, hyperedge, names = _ends(edges[0], edges[1], content[0].to_numpy(dtype=str), folder / f"{name}.edges")
    features = to_numbers(content.iloc[:, 1:-1], folder / f"{name}.content")
    incidence = _incidence(vertex, hyperedge, len(content), names, folder)
    labels = content.iloc[:, -1].to_numpy()
    return make_hypergraph(
        name,
        {"features": sparse.csr_array(features) if (features == 0).mean() > 0.5 else features},
        incidence,
        labels,
        vertices=content[0].to_numpy(dtype=str),
        where=folder,
    )


def read_tables(folder: Path) -> Hypergraph:
    """Read `features.csv` and, where they are there, `incidence.csv`, `labels.csv` and `weights.csv`.

    - features.csv: a row a vertex; an optional column `vertex` names them, else they are called 0, 1, …
    - incidence.csv: columns vertex, hyperedge and, optional, weight (of the vertex inside the hyperedge)
    - labels.csv: column label, blank for the unlabelled; with a column `vertex` in any order
    - weights.csv: columns hyperedge and weight (of the hyperedge)

    Raises:
        Problem: columns or values that are missing or wrong, unknown vertices; or see `make_hypergraph`.
    """
    table = without_index(read_table(folder / "features.csv", dtype={"vertex": str}), folder / "features.csv")
    vertices = table.pop("vertex").to_numpy(dtype=str) if "vertex" in table else None
    features = to_numbers(table, folder / "features.csv")
    called = np.arange(len(table)).astype(str) if vertices is None else vertices
    if len(np.unique(called)) < len(called):
        raise Problem("a vertex is listed twice", folder / "features.csv", "one row a vertex")

    incidence, weights, hyperedges = None, None, None
    if path := find_file(folder, "incidence.csv"):
        pairs = read_table(path, ("vertex", "hyperedge"), dtype={"vertex": str, "hyperedge": str})
        vertex, hyperedge, hyperedges = _ends(pairs["vertex"], pairs["hyperedge"], called, path)
        entries = to_numbers(pairs[["weight"]], path)[:, 0] if "weight" in pairs else None
        incidence = _incidence(vertex, hyperedge, len(table), hyperedges, path, entries)
    if (path := find_file(folder, "weights.csv")) and hyperedges is not None:
        listed = read_table(path, ("hyperedge", "weight"), dtype={"hyperedge": str}).set_index("hyperedge")["weight"]
        if not listed.index.is_unique:
            raise Problem("a hyperedge is listed twice", path, "one row a hyperedge")
        unknown = listed.index[~listed.index.isin(hyperedges)]
        if len(unknown):
            raise Problem(f"{unknown[0]!r} is weighted but is no hyperedge", path, "hyperedges are in incidence.csv")
        weights = to_numbers(listed.reindex(pd.Index(hyperedges)).fillna(1.0), path)

    labels = None
    if path := find_file(folder, "labels.csv"):
        column = read_table(path, ("label",), dtype={"vertex": str})
        if "vertex" in column:
            unknown = column["vertex"][~column["vertex"].isin(called)]
            if len(unknown):
                raise Problem(f"{unknown.iloc[0]!r} is labelled but is no vertex", path, "vertices are in features.csv")
            if column["vertex"].duplicated().any():
                raise Problem("a vertex is labelled twice", path, "one row a vertex")
            column = column.set_index("vertex").reindex(called)
        labels = column["label"].to_numpy()
    return make_hypergraph(
        folder.resolve().name,
        {"features": features},
        incidence,
        labels,
        (),
        weights,
        vertices,
        hyperedges,
        folder,
    )


def read_pyg(path: Path) -> Hypergraph:
    """Read a saved PyTorch Geometric `Data`: x, hyperedge_index and, where they are there, y and the masks.

    `incidence_weight`, or a `hyperedge_attr` with one number an incidence, (nnz,) or (nnz, 1), weighs vertices inside
    hyperedges; a `hyperedge_attr` of another shape, or with as many rows as there are hyperedges, describes hyperedges
    and is left out with a warning. `hyperedge_weight` weighs hyperedges. A negative or NaN `y` is unlabelled.
    `train_mask` and `test_mask` make a split.

    Raises:
        Problem: PyTorch Geometric is not installed, the file holds anything else, an attribute is missing; or see
            `make_hypergraph`.
    """
    torch = require("torch", "graphs")
    classes = require("torch_geometric.data.data", "graphs")
    storage = require("torch_geometric.data.storage", "graphs")
    known = [classes.Data, classes.DataTensorAttr, classes.DataEdgeAttr, storage.GlobalStorage]
    file_size(path)
    try:
        with torch.serialization.safe_globals(known):
            data = torch.load(path, map_location="cpu", weights_only=True)
        names = ("x", "hyperedge_index", "incidence_weight", "hyperedge_attr", "hyperedge_weight", "y")
        found = {name: getattr(data, name, None) for name in (*names, "train_mask", "test_mask")}
        arrays = {name: value.numpy() for name, value in found.items() if value is not None}
        x, index = arrays["x"], arrays["hyperedge_index"]
    except Exception as error:  # torch.load raises many kinds; all mean the same to the user
        raise Problem(
            f"not a Data with x and hyperedge_index: {reason(error)}", path, "torch.save(data, path)"
        ) from error
    if index.ndim != 2 or len(index) != 2 or index.dtype.kind not in "iu":
        raise Problem(f"hyperedge_index is {index.dtype} of shape {index.shape}", path, "give (2, E) whole numbers")
    if index[1].min(initial=0) < 0 or index[1].max(initial=0) > 1 << 31:
        raise Problem("hyperedge_index numbers a hyperedge below 0 or above 2^31", path, "number hyperedges from 0")
    for name in ("incidence_weight", "hyperedge_attr", "hyperedge_weight", "y"):
        if name in arrays and arrays[name].dtype.kind not in "biuf":
            raise Problem(f"{name} holds {arrays[name].dtype}", path, "give real numbers")
    entries, attributes = arrays.get("incidence_weight"), arrays.get("hyperedge_attr")
    edges = int(index[1].max(initial=-1)) + 1
    if entries is None and attributes is not None:
        if attributes.shape in ((index.shape[1],), (index.shape[1], 1)) and index.shape[1] != edges:
            entries = attributes
        else:
            warnings.warn(
                f"{path.name}: hyperedge_attr {attributes.shape} is left out; weights of vertices are (nnz,), "
                "or incidence_weight",
                stacklevel=2,
            )
    incidence = _incidence(index[0], index[1], len(x), range(edges), path, None if entries is None else entries.ravel())
    labels = arrays.get("y")
    labels = None if labels is None else np.where(labels.ravel() < 0, np.nan, labels.ravel().astype(np.float64))
    weights = arrays.get("hyperedge_weight")
    splits = _mask_splits(arrays, len(x), path) if {"train_mask", "test_mask"} <= arrays.keys() else []
    return make_hypergraph(path.stem, {"features": x}, incidence, labels, splits, weights, where=path)


def _mask_splits(arrays: Mapping[str, np.ndarray], n: int, path: Path) -> list[Split]:
    """Splits of masks (n,) for one split, or (n, k) for k."""
    masks = [arrays[name] for name in ("train_mask", "test_mask")]
    if masks[0].shape != masks[1].shape or masks[0].shape[:1] != (n,) or masks[0].ndim > 2:
        shapes = " and ".join(str(mask.shape) for mask in masks)
        raise Problem(f"train_mask and test_mask have the shapes {shapes}", path, f"give ({n},) or ({n}, splits)")
    if not all(np.isin(mask, (0, 1)).all() for mask in masks):
        raise Problem("train_mask or test_mask is no mask", path, "give booleans")
    train, test = (mask.reshape(n, -1).T.astype(bool) for mask in masks)
    return list(zip(train, test, strict=True))


def _incidence(
    vertex: np.ndarray,
    hyperedge: np.ndarray,
    n: int,
    names: Sequence[Any],
    where: object,
    entries: np.ndarray | None = None,
) -> CSR:
    """(n, m) matrix of a list of incidences; without `entries` each weighs 1, however often it is listed."""
    if entries is not None and np.shape(entries) != np.shape(vertex):
        raise Problem(f"{len(entries)} weights for {len(vertex)} incidences", where, "give one weight an incidence")
    if len(vertex) and not 0 <= vertex.min() <= vertex.max() < n:
        wrong = int(((vertex < 0) | (vertex >= n)).argmax())
        raise Problem(
            f"hyperedge {names[hyperedge[wrong]]!r} holds vertex {vertex[wrong]}, the vertices are 0 … {n - 1}",
            where,
            "mend the hyperedge, or add the vertex's features",
        )
    values = np.ones(len(vertex)) if entries is None else np.asarray(entries, dtype=np.float64)
    check_weights(values, where)
    incidence = sparse.csr_array((values, (vertex, hyperedge)), shape=(n, len(names)))
    if entries is None:
        incidence.data[:] = 1.0
    elif incidence.nnz < len(vertex):
        raise Problem("a vertex is listed twice in one hyperedge, with weights", where, "list it once")
    return incidence


def _ends(vertex: Any, hyperedge: Any, called: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of the vertices, columns of the hyperedges in their order of appearance, and the hyperedges' names."""
    rows = pd.Index(called).get_indexer(pd.Index(vertex))
    if (rows < 0).any():
        wrong = int((rows < 0).argmax())
        raise Problem(
            f"hyperedge {hyperedge.iloc[wrong]!r} holds {vertex.iloc[wrong]!r}, which is no vertex", path, "see its row"
        )
    if bool(hyperedge.isna().any()):
        raise Problem("a hyperedge has no name", path, "fill the column")
    columns, names = pd.factorize(hyperedge)
    return rows, columns, [str(name) for name in names]


# -- writing ----------------------------------------------------------------------------------------


def write_hypergcn(folder: Path, hypergraph: Hypergraph) -> None:
    """Write features.pickle, labels.pickle, hypergraph.pickle and splits/1.pickle, …; EDVW are not kept.

    Raises:
        ValueError: no incidence, or unlabelled vertices: the format has no place for them.
    """
    if hypergraph.incidence is None or (hypergraph.labels == UNLABELLED).any():
        raise ValueError("the HyperGCN format needs hyperedges and labels")
    columns = sparse.csc_array(hypergraph.incidence)
    members = np.split(columns.indices, columns.indptr[1:-1])
    parts: dict[str, Any] = {
        "features": sparse.csr_matrix(hypergraph.features),
        "labels": hypergraph.labels.tolist(),
        "hypergraph": {number: set(ids.tolist()) for number, ids in enumerate(members)},
    }
    for number, (train, test) in enumerate(hypergraph.splits, start=1):
        parts[f"splits/{number}"] = {"train": train.tolist(), "test": test.tolist()}
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(content, protocol=2))


def write_mat(path: Path, hypergraph: Hypergraph) -> None:
    """Write the views, the classes (from 1) and the first split as MATLAB variables X, Y and indices.

    Raises:
        ValueError: no split, or unlabelled vertices: the format has no place for them.
    """
    if not hypergraph.splits or (hypergraph.labels == UNLABELLED).any():
        raise ValueError("the mat format needs labels and a split")
    cells = np.empty((len(hypergraph.views), 1), dtype=object)
    for row, view in enumerate(hypergraph.views.values()):
        cells[row, 0] = view.toarray() if isinstance(view, sparse.csr_array) else view
    indices = np.empty((1, 1), dtype=object)
    indices[0, 0] = np.isin(np.arange(hypergraph.size), hypergraph.splits[0][0])[None].astype(np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {"X": cells, "Y": hypergraph.labels[:, None] + 1, "indices": indices})


# -- generated hypergraphs --------------------------------------------------------------------------


def citation_hypergraph(
    rng: np.random.Generator,
    vertices: int = 400,
    classes: int = 4,
    hyperedges: int = 300,
    in_topic: float = 0.75,
    left_out: float = 0.2,
    words: int = 120,
    words_per_vertex: int = 12,
    shared_words: float = 0.5,
    labelled: int = 10,
    splits: int = 10,
    name: str = "citations",
) -> Hypergraph:
    """Papers joined by co-citation: hyperedges about topics, bags of words about the same topics.

    Every hyperedge draws a topic and 2 to 12 members (2 plus a geometric number, mean 3.5 in all), `in_topic` of them
    expected from its class. Each class has words of its own and words that all classes use.

    Args:
        rng: source of all randomness.
        vertices: number of papers n.
        classes: C.
        hyperedges: m.
        in_topic: chance that a member is of the hyperedge's class.
        left_out: share of the vertices that are in no hyperedge.
        words: size f of the vocabulary.
        words_per_vertex: words drawn for each paper; a word counts once.
        shared_words: share of the vocabulary that all classes use.
        labelled: training vertices of each class in a split; the others are for test.
        splits: number of splits.
        name: of the data set.
    """
    labels = rng.permutation(np.arange(vertices) % classes)
    inside = rng.permutation(vertices)[round(left_out * vertices) :]
    incidence = sparse.lil_array((vertices, hyperedges))
    for edge in range(hyperedges):
        size = min(2 + rng.geometric(0.4) - 1, 12, len(inside))
        fits = labels[inside] == rng.integers(classes)
        chance = np.where(fits, in_topic / fits.mean(), (1 - in_topic) / (1 - fits.mean()))
        incidence[rng.choice(inside, size, replace=False, p=chance / chance.sum()), edge] = 1.0

    common = round(shared_words * words)
    owner = rng.permutation(np.r_[np.full(common, -1), np.arange(words - common) % classes])
    topics = np.stack([np.isin(owner, (-1, c)) * rng.gamma(1.0, size=words) for c in range(classes)])
    topics /= topics.sum(axis=1, keepdims=True)
    features = np.minimum(rng.multinomial(words_per_vertex, topics[labels]), 1).astype(np.float32)

    drawn = []
    for _ in range(splits):
        order = rng.permutation(vertices)
        train = np.concatenate([order[labels[order] == c][:labelled] for c in range(classes)])
        drawn.append((np.sort(train), np.setdiff1d(order, train)))
    return make_hypergraph(name, {"words": sparse.csr_array(features)}, incidence, labels, drawn)


def visual_objects(
    rng: np.random.Generator,
    objects: int = 240,
    classes: int = 6,
    dims: Sequence[int] = (16, 12),
    distance: float = 1.0,
    outliers: float = 0.1,
    train: float = 0.2,
    name: str = "objects",
) -> Hypergraph:
    """Objects seen by two networks: in each view a Gaussian cluster a class, of unequal spread.

    Args:
        rng: source of all randomness.
        objects: number n.
        classes: C.
        dims: number of features of each view.
        distance: standard deviation of the clusters' centres, beside which their spreads are 0.6 to 1.8.
        outliers: share of the objects whose features, in both views, are drawn around no centre at all.
        train: share of the objects for training.
        name: of the data set.
    """
    labels = rng.permutation(np.arange(objects) % classes)
    strays = rng.permutation(objects)[: round(outliers * objects)]
    views = {}
    for view, d in zip(MAT_VIEWS, dims, strict=True):
        centres = distance * rng.normal(size=(classes, d))
        spread = rng.uniform(0.6, 1.8, size=classes)
        features = centres[labels] + spread[labels, None] * rng.normal(size=(objects, d))
        features[strays] = 1.8 * rng.normal(size=(len(strays), d))
        views[view] = features
    order = rng.permutation(objects)
    cut = round(train * objects)
    return make_hypergraph(name, views, None, labels, [(np.sort(order[:cut]), np.sort(order[cut:]))])
