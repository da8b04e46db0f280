"""Attributed graphs with optional node labels: one `Graph`, and the three on-disk formats that hold it.

- planetoid: `ind.<name>.{x,tx,allx,y,ty,ally,graph}` (Python 2 pickles) and `ind.<name>.test.index` (text)
- npy triplet: `<name>_adj.npy` (n, n), `<name>_feat.npy` (n, d), `<name>_label.npy` (n,; may be absent)
- tables: `edges.csv` (columns src, dst), `features.csv` (a row a node; an optional column `node` names them) or
  `features.npy`, and, if there are labels, `labels.csv` (column label) or `labels.npy`
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from repertory.core.problem import Problem
from repertory.data.arrays import check_claim, find_file, load_npy, load_pickle, read_text, to_dense
from repertory.data.tables import read_table, to_numbers, without_index

BLOCK_BYTES = 64 << 20
"""Dense adjacency matrices are turned into CSR in blocks of rows of about this size."""

PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")

FORMATS = """\
<name>_adj.npy (n, n), <name>_feat.npy (n, d), <name>_label.npy (n; optional)
or ind.<name>.{x,tx,allx,y,ty,ally,graph,test.index} (planetoid)
or edges.csv (src, dst) with features.csv or features.npy, and labels.csv or labels.npy (optional)"""


@dataclass(frozen=True)
class Graph:
    """An undirected graph with node features.

    Example:
        >>> graph = block_graph(np.random.default_rng(0), nodes=50)
        >>> graph.adjacency.shape, graph.features.shape, graph.labels.shape
        ((50, 50), (50, 200), (50,))
    """

    name: str
    adjacency: sparse.csr_array
    """(n, n) float64, symmetric, zero diagonal; entries are edge weights, 1 in an unweighted graph."""
    features: np.ndarray
    """(n, d), finite floats."""
    labels: np.ndarray | None = None
    """(n,) integers, or None."""
    nodes: np.ndarray | None = None
    """(n,) names of the nodes, where the files give them; otherwise a node is called by its row."""

    @property
    def size(self) -> int:
        """Number of nodes n."""
        return self.features.shape[0]


def make_graph(
    name: str,
    adjacency: Any,
    features: np.ndarray,
    labels: np.ndarray | None = None,
    nodes: np.ndarray | None = None,
    where: object = "",
) -> Graph:
    """Check raw arrays and make a Graph of them: symmetric, without self loops.

    A directed adjacency gets a warning, and an edge in both directions wherever there is one in either.

    Args:
        name: what the data set is called.
        adjacency: (n, n), sparse or dense, non-negative.
        features: (n, d).
        labels: (n,) integers, or None.
        nodes: (n,) names, or None.
        where: file or folder that a Problem names.

    Raises:
        Problem: shapes that do not go together, negative or non-finite weights, features that are not finite
            numbers or all zero, labels that are not whole numbers.
    """
    shape, features = np.shape(adjacency), np.asarray(features)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise Problem(f"the adjacency matrix is not square: {shape}", where, "give one row and one column a node")
    kind = adjacency.dtype.kind if sparse.issparse(adjacency) else np.asarray(adjacency).dtype.kind
    if kind not in "biuf":
        raise Problem("the adjacency matrix does not hold real numbers", where, "save it as int or float")
    if features.ndim != 2 or len(features) != shape[0]:
        raise Problem(
            f"adjacency {shape} and features {features.shape} do not go together",
            where,
            f"the features need shape ({shape[0]}, d): one row a node",
        )
    if not np.issubdtype(features.dtype, np.number) or np.iscomplexobj(features):
        raise Problem(f"the features are not numbers but {features.dtype}", where, "save them as float")
    single = features.dtype.kind == "f" and features.dtype.itemsize <= 4
    features = features.astype(np.float32 if single else np.float64, copy=False)  # torch has no other byte order
    if not np.isfinite(features).all():
        row = int((~np.isfinite(features)).any(axis=1).argmax())
        raise Problem(f"the features hold NaN or infinity (first in row {row})", where, "fill or drop them first")
    if not features.any():
        raise Problem("the features are all zero", where, "use one-hot node degrees if the nodes have no features")

    adjacency = sparse.csr_array(adjacency, dtype=np.float64)
    if not np.isfinite(adjacency.data).all() or (adjacency.data < 0).any():
        raise Problem("the adjacency matrix holds negative or non-finite weights", where, "use 0 and 1, or weights > 0")
    if (adjacency != adjacency.T).nnz:
        warnings.warn(f"{where or name}: the adjacency is directed; every edge is taken both ways", stacklevel=2)
        adjacency = adjacency.maximum(adjacency.T)
    adjacency = sparse.csr_array(adjacency - sparse.diags_array(adjacency.diagonal()))
    adjacency.eliminate_zeros()

    for array, what in ((labels, "labels"), (nodes, "node names")):
        if array is not None and np.shape(array) != shape[:1]:
            raise Problem(f"adjacency {shape} and {what} {np.shape(array)} do not go together", where, "one a node")
    if labels is not None:
        whole = np.asarray(labels)
        if whole.dtype.kind not in "biuf" or not np.isfinite(whole).all() or (whole % 1).any():
            raise Problem("the labels are not whole numbers", where, "number the classes 0, 1, …")
        if (abs(whole.astype(np.float64)) >= 1 << 62).any():
            raise Problem("the labels are out of range", where, "number the classes 0, 1, …")
        labels = whole.astype(np.int64)
    return Graph(name, adjacency, features, labels, nodes)


# -- reading --------------------------------------------------------------------------------------


def graph_files(source: Path) -> list[Path]:
    """The files by which graphs are known: `ind.<name>.graph`, `<name>_adj.npy`, `edges.csv`.

    Looks in the folder `source` and, if there is none, in the folders right below it. A file of one of these
    kinds stands for itself.
    """
    source = Path(source)
    patterns = ("*_adj.npy", "ind.*.graph", "edges.csv")
    if source.is_file():
        return [source] if any(source.match(pattern) for pattern in patterns) else []
    for depth in ("", "*/"):
        found = [path for pattern in patterns for path in sorted(source.glob(depth + pattern))]
        if found:
            return found
    return []


def read_graph(source: Path) -> Graph:
    """Read the graph in a folder, or the one that a file (see `graph_files`) stands for.

    Raises:
        Problem: no graph, or several, in the folder; or what the reader of the format finds wrong.
    """
    found = graph_files(source)
    if not found:
        raise Problem("no graph here", source, f"expected: {'; '.join(FORMATS.splitlines())}")
    if len(found) > 1:
        raise Problem(f"{len(found)} graphs: {', '.join(path.name for path in found)}", source, "name one of the files")
    (path,) = found
    if path.name == "edges.csv":
        return read_tables(path.parent)
    if path.suffix == ".npy":
        return read_triplet(path.parent, path.name.removesuffix("_adj.npy"))
    return read_planetoid(path.parent, path.name.removeprefix("ind.").removesuffix(".graph"))


def read_triplet(folder: Path, name: str) -> Graph:
    """Read `<name>_adj.npy`, `<name>_feat.npy` and, if it is there, `<name>_label.npy`.

    The dense adjacency is mapped, not loaded: memory grows with the edges, not with n².

    Raises:
        Problem: a file is missing, damaged or pickled; or see `make_graph`.
    """
    adjacency = load_npy(folder / f"{name}_adj.npy", mapped=True)
    if adjacency.ndim == 2 and adjacency.size and adjacency.dtype.kind in "biuf":
        # SciPy takes neither half precision nor the other byte order.
        rows = max(1, BLOCK_BYTES // (adjacency.shape[1] * np.dtype(np.float64).itemsize))
        blocks = [sparse.csr_array(adjacency[k : k + rows].astype(np.float64)) for k in range(0, len(adjacency), rows)]
        adjacency = sparse.vstack(blocks, format="csr")
    labels = find_file(folder, f"{name}_label.npy")
    return make_graph(
        name,
        adjacency,
        load_npy(folder / f"{name}_feat.npy"),
        load_npy(labels) if labels else None,
        where=folder,
    )


def read_planetoid(folder: Path, name: str) -> Graph:
    """Read `ind.<name>.*`.

    Rows of `allx` are the nodes 0, 1, …; row j of `tx` is the node on line j of `test.index`. Nodes that are in
    neither (Citeseer has 15) get zero features and label 0.

    Raises:
        Problem: a part is missing, damaged or holds more than arrays and containers; parts that do not agree.
    """
    parts = {part: load_pickle(folder / f"ind.{name}.{part}") for part in ("tx", "allx", "ty", "ally", "graph")}
    index_file = folder / f"ind.{name}.test.index"
    words = read_text(index_file).split()
    try:
        test = np.array(words, dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise Problem(f"no list of node numbers: {error}", index_file, "one node number a line") from error
    listed = {}
    for part in ("tx", "allx", "ty", "ally"):
        where = folder / f"ind.{name}.{part}"
        listed[part] = to_dense(parts[part], where) if sparse.issparse(parts[part]) else np.asarray(parts[part])
        if listed[part].ndim != 2 or listed[part].dtype.kind not in "biuf":
            raise Problem(f"{where.name} is not a matrix of real numbers", where, "fetch all parts anew")
    if not isinstance(parts["graph"], dict):
        raise Problem("the graph is not a dict of neighbours", folder / f"ind.{name}.graph", "fetch all parts anew")
    try:
        known = len(listed["allx"])
        size = max(known, int(test.max(initial=-1)) + 1, len(parts["graph"]))
        if size > 2 * max(known + len(test), len(parts["graph"])):
            raise ValueError(f"test.index names node {size - 1}, and most nodes before it are in no part")
        if len(np.unique(test)) < len(test) or (test < known).any():
            raise ValueError(f"test.index repeats a node, or names one of the {known} of allx")
        if any(len(listed[tail]) != len(test) for tail in ("tx", "ty")) or len(listed["ally"]) != known:
            raise ValueError(", ".join(f"{part} has {len(rows)} rows" for part, rows in listed.items()))
        check_claim(4 * size * listed["allx"].shape[1], folder / f"ind.{name}.allx")
        features = np.zeros((size, listed["allx"].shape[1]), dtype=np.float32)
        onehot = np.zeros((size, listed["ally"].shape[1]), dtype=np.int64)
        for into, head, tail in ((features, "allx", "tx"), (onehot, "ally", "ty")):
            into[:known] = listed[head]
            into[test] = listed[tail]
        near = parts["graph"].values()
        src = np.repeat(np.fromiter(parts["graph"], dtype=np.int64), [len(nodes) for nodes in near])
        dst = np.fromiter((node for nodes in near for node in nodes), dtype=np.int64)
        adjacency = _from_edges(src, dst, size)
    except Problem:
        raise
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise Problem(f"the parts of {name} do not fit together: {error}", folder, "fetch all parts anew") from error
    unlabelled = int((~onehot.any(axis=1)).sum())
    if unlabelled:
        warnings.warn(f"{folder}: {unlabelled} nodes of {name} have no label; they count as class 0", stacklevel=2)
    return make_graph(name, adjacency, features, onehot.argmax(axis=1), where=folder)


def read_tables(folder: Path) -> Graph:
    """Read `edges.csv` with `features.csv` or `features.npy`, and `labels.csv` or `labels.npy` if there is one.

    An edge is listed once or in both directions. Nodes are called by the column `node` of `features.csv`, or else
    by their row, from 0. Labels may be words.

    Raises:
        Problem: columns or values that are missing or wrong, an edge to an unknown node; or see `make_graph`.
    """
    edges = _read_csv(folder / "edges.csv", ("src", "dst"))
    nodes: np.ndarray | None = None
    if os.path.lexists(folder / "features.csv"):
        table = _read_csv(folder / "features.csv")
        if "node" in table:
            nodes = table.pop("node").to_numpy(dtype=str)
        features = to_numbers(table, folder / "features.csv")
    else:
        features = load_npy(folder / "features.npy")
        if features.ndim != 2:
            raise Problem(f"features of shape {features.shape}", folder / "features.npy", "give (n, d): one row a node")
    names = np.arange(len(features)).astype(str) if nodes is None else nodes
    row = pd.Index(names)
    if not row.is_unique:
        raise Problem(f"node {row[row.duplicated()][0]!r} is listed twice", folder / "features.csv", "one row a node")
    ends = {column: row.get_indexer(pd.Index(edges[column].astype(str))) for column in ("src", "dst")}
    for column, rows in ends.items():
        if (rows < 0).any():
            line = int((rows < 0).argmax())
            raise Problem(
                f"{column} {edges[column].iloc[line]!r} on line {line + 2} is not a node",
                folder / "edges.csv",
                "a node has a row in the features; without a column `node` they are called 0, 1, …",
            )
    labels: np.ndarray | None = None
    if path := find_file(folder, "labels.csv"):
        column: Any = _read_csv(path, ("label",))
        if "node" in column:
            strange = column["node"][~column["node"].isin(row) | column["node"].duplicated()]
            if len(strange):
                remedy = "label each node once; a node has a row in the features"
                raise Problem(f"{strange.iloc[0]!r} is no node, or is labelled twice", folder / "labels.csv", remedy)
            column = column.set_index("node").reindex(names)
        if bool(column["label"].isna().any()):
            raise Problem("a node has no label", folder / "labels.csv", "give every node one, or none at all")
        labels = np.unique(column["label"], return_inverse=True)[1]
    elif path := find_file(folder, "labels.npy"):
        labels = load_npy(path)
    adjacency = _from_edges(ends["src"], ends["dst"], len(features))
    return make_graph(folder.resolve().name, adjacency, features, labels, nodes, where=folder)


def _from_edges(src: np.ndarray, dst: np.ndarray, size: int) -> sparse.csr_array:
    """Symmetric 0/1 adjacency of a list of edges; duplicates count once."""
    ones = np.ones(2 * len(src))
    both = sparse.csr_array((ones, (np.r_[src, dst], np.r_[dst, src])), shape=(size, size))
    both.data[:] = 1.0
    return both


def _read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    table = without_index(read_table(path, columns, dtype={"src": str, "dst": str, "node": str}), path)
    for column in ("src", "dst", "node"):
        if column in table and bool(table[column].isna().any()):
            line = int(table[column].isna().argmax()) + 2
            raise Problem(f"{column} is empty on line {line}", path, "give every line its nodes")
    return table


# -- writing ----------------------------------------------------------------------------------------


def write_triplet(folder: Path, graph: Graph) -> None:
    """Write `<name>_adj.npy` (int32 if unweighted), `<name>_feat.npy` (float64) and `<name>_label.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    unweighted = bool((graph.adjacency.data == 1).all())
    adjacency = graph.adjacency.toarray().astype(np.int32 if unweighted else np.float64)
    np.save(folder / f"{graph.name}_adj.npy", adjacency)
    np.save(folder / f"{graph.name}_feat.npy", graph.features.astype(np.float64))
    if graph.labels is not None:
        np.save(folder / f"{graph.name}_label.npy", graph.labels)


def write_planetoid(folder: Path, graph: Graph, rng: np.random.Generator) -> None:
    """Write `ind.<name>.*` as its owners do: the last third of the nodes is the test part, in shuffled order.

    Raises:
        ValueError: the graph has no labels, which the format requires, or is weighted.
    """
    if graph.labels is None or (graph.adjacency.data != 1).any():
        raise ValueError("the planetoid format needs labels and an unweighted graph")
    folder.mkdir(parents=True, exist_ok=True)
    known = graph.size - graph.size // 3
    test = known + rng.permutation(graph.size - known)
    features = sparse.csr_matrix(graph.features.astype(np.float32))
    onehot = np.eye(graph.labels.max() + 1, dtype=np.int32)[graph.labels]
    labelled = min(known, 20 * onehot.shape[1])
    starts, near = graph.adjacency.indptr, graph.adjacency.indices
    parts = {
        "x": features[:labelled],
        "tx": features[test],
        "allx": features[:known],
        "y": onehot[:labelled],
        "ty": onehot[test],
        "ally": onehot[:known],
        "graph": {node: near[starts[node] : starts[node + 1]].tolist() for node in range(graph.size)},
    }
    for part in PLANETOID_PARTS:
        (folder / f"ind.{graph.name}.{part}").write_bytes(_old_pickle(parts[part]))
    (folder / f"ind.{graph.name}.test.index").write_text("".join(f"{node}\n" for node in test), encoding="ascii")


def _old_pickle(content: Any) -> bytes:
    """Pickle under the class paths of the time of Python 2, which today's NumPy and SciPy write otherwise."""
    buffer = io.BytesIO()
    pickle.dump(content, buffer, protocol=2)
    return (
        buffer.getvalue()
        .replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        .replace(b"cscipy.sparse._csr\n", b"cscipy.sparse.csr\n")
    )


# -- a generated graph ------------------------------------------------------------------------------


def block_graph(
    rng: np.random.Generator,
    nodes: int = 300,
    shares: Sequence[float] = (0.4, 0.3, 0.2, 0.1),
    mean_degree: float = 6.0,
    odds: float = 5.0,
    words: int = 200,
    words_per_node: int = 15,
    shared_words: float = 0.4,
    wrong_words: float = 0.1,
    name: str = "blocks",
) -> Graph:
    """Degree-corrected stochastic block model with bag-of-words features.

    An edge i-j has probability min(1, c θ_i θ_j w), with w = `odds` within a group and 1 between groups, θ a
    power law (exponent 3, mean 1) and c such that the mean degree comes out. Each group has a topic: Dirichlet
    weights over words of its own and over the words that all groups share.

    Args:
        rng: source of all randomness.
        nodes: number of nodes n.
        shares: group sizes as fractions of n.
        mean_degree: expected edges per node.
        odds: within a group to between groups.
        words: size d of the vocabulary.
        words_per_node: words drawn for each node.
        shared_words: fraction of the vocabulary that all groups use.
        wrong_words: fraction of the nodes whose words come from another group's topic.
        name: of the data set.

    Returns:
        n nodes, (n, d) word counts, and the groups as labels; nodes are in random order.
    """
    groups = len(shares)
    sizes = np.floor(np.cumsum(shares) / np.sum(shares) * nodes + 0.5).astype(int)
    labels = rng.permutation(np.searchsorted(sizes, np.arange(nodes), side="right"))

    theta = 1 + rng.pareto(2.0, nodes)
    theta /= theta.mean()
    weight = np.triu(np.outer(theta, theta) * np.where(labels[:, None] == labels, odds, 1.0), k=1)
    chance = np.minimum(1.0, weight * (mean_degree * nodes / 2 / weight.sum()))
    for _ in range(20):  # what the cut at 1 took away is given to the others
        chance = np.minimum(1.0, chance * (mean_degree * nodes / 2 / chance.sum()))
    upper = sparse.csr_array(rng.random((nodes, nodes)) < chance, dtype=np.float64)

    common = round(shared_words * words)
    owner = rng.permutation(np.r_[np.full(common, -1), np.arange(words - common) % groups])
    topics = np.stack([(np.isin(owner, (-1, g))) * rng.gamma(1.0, size=words) for g in range(groups)])
    topics /= topics.sum(axis=1, keepdims=True)
    topic_of = labels.copy()
    strays = rng.choice(nodes, round(wrong_words * nodes), replace=False)
    topic_of[strays] = (labels[strays] + rng.integers(1, groups, len(strays))) % groups
    features = rng.multinomial(words_per_node, topics[topic_of]).astype(np.float64)
    return Graph(name, sparse.csr_array(upper + upper.T), features, labels)
