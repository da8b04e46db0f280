"""Graphs on disk: three formats, read as they are distributed and refused where they are broken."""

from __future__ import annotations

import os
import pickle
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from repertory.core.problem import Problem
from repertory.data import arrays, graphs
from repertory.data.graphs import Graph


@pytest.fixture
def graph() -> Graph:
    return graphs.block_graph(np.random.default_rng(1), nodes=60, words=30)


def labels_of(graph: Graph) -> np.ndarray:
    assert graph.labels is not None
    return graph.labels


def assert_same(a: Graph, b: Graph) -> None:
    np.testing.assert_array_equal(a.adjacency.toarray(), b.adjacency.toarray())
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(labels_of(a), labels_of(b))


# -- the generator ------------------------------------------------------------------------------------


def test_the_generated_graph_is_what_was_asked_for() -> None:
    sample = [graphs.block_graph(np.random.default_rng(seed)) for seed in range(5)]
    degrees = [g.adjacency.nnz / g.size for g in sample]
    assert np.mean(degrees) == pytest.approx(6, rel=0.1)
    for g in sample:
        assert sorted(np.bincount(labels_of(g))) == [30, 60, 90, 120]
        np.testing.assert_array_equal(g.adjacency.toarray(), g.adjacency.toarray().T)
        assert not g.adjacency.diagonal().any()
        assert set(g.features.sum(axis=1)) == {15}
        assert (np.diff(labels_of(g)) != 0).mean() > 0.5  # nodes are not sorted by group


def test_edges_within_groups_have_the_odds_asked_for() -> None:
    within, pairs = np.zeros(2), np.zeros(2)
    for seed in range(5):
        g = graphs.block_graph(np.random.default_rng(seed), shares=(1, 1), odds=5.0)
        same = np.equal.outer(labels_of(g), labels_of(g))
        other = ~same
        np.fill_diagonal(same, False)
        dense = g.adjacency.toarray()
        within += dense[same].sum(), dense[other].sum()
        pairs += same.sum(), other.sum()
    rates = within / pairs
    assert rates[0] / rates[1] == pytest.approx(5, rel=0.15)


def test_the_generator_is_a_function_of_its_seed() -> None:
    a, b, c = (graphs.block_graph(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert_same(a, b)
    assert (a.adjacency.toarray() != c.adjacency.toarray()).any()


# -- round trips ----------------------------------------------------------------------------------------


def test_both_formats_give_the_graph_back(tmp_path: Path, graph: Graph) -> None:
    graphs.write_triplet(tmp_path / "npy", graph)
    graphs.write_planetoid(tmp_path / "planetoid", graph, np.random.default_rng(0))
    for folder in ("npy", "planetoid"):
        read = graphs.read_graph(tmp_path / folder)
        assert_same(read, graph)
        assert read.name == "blocks"


def test_a_graph_is_found_one_folder_down_and_by_its_file(tmp_path: Path, graph: Graph) -> None:
    graphs.write_triplet(tmp_path / "blocks", graph)
    assert_same(graphs.read_graph(tmp_path), graph)
    assert_same(graphs.read_graph(tmp_path / "blocks" / "blocks_adj.npy"), graph)
    graphs.write_planetoid(tmp_path / "blocks", graph, np.random.default_rng(0))
    with pytest.raises(Problem, match=r"2 graphs: blocks_adj\.npy, ind\.blocks\.graph"):
        graphs.read_graph(tmp_path)
    assert_same(graphs.read_graph(tmp_path / "blocks" / "ind.blocks.graph"), graph)
    with pytest.raises(Problem, match="no graph here"):
        graphs.read_graph(tmp_path / "blocks" / "blocks_feat.npy")


def test_large_adjacencies_are_read_by_blocks(tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.write_triplet(tmp_path, graph)
    monkeypatch.setattr(graphs, "BLOCK_BYTES", 7 * graph.size * 8)  # 7 rows of float64
    assert_same(graphs.read_graph(tmp_path), graph)


def test_weights_are_kept_and_labels_may_be_absent(tmp_path: Path, graph: Graph) -> None:
    weighted = Graph("w", graph.adjacency * 0.5, graph.features)
    graphs.write_triplet(tmp_path, weighted)
    read = graphs.read_graph(tmp_path)
    assert read.labels is None
    np.testing.assert_array_equal(read.adjacency.data, 0.5)
    with pytest.raises(ValueError, match="needs labels and an unweighted graph"):
        graphs.write_planetoid(tmp_path, weighted, np.random.default_rng(0))


# -- planetoid --------------------------------------------------------------------------------------------


def parts_of(folder: Path, name: str = "blocks") -> dict[str, Any]:
    return {part: arrays.load_pickle(folder / f"ind.{name}.{part}") for part in graphs.PLANETOID_PARTS}


def test_the_writer_keeps_to_the_layout_of_its_owners(tmp_path: Path, graph: Graph) -> None:
    graphs.write_planetoid(tmp_path, graph, np.random.default_rng(0))
    parts = parts_of(tmp_path)
    assert sparse.isspmatrix_csr(parts["allx"])
    assert parts["allx"].dtype == np.float32
    assert (parts["x"] != parts["allx"][: parts["x"].shape[0]]).nnz == 0
    assert (parts["ally"].sum(axis=1) == 1).all()
    index = np.loadtxt(tmp_path / "ind.blocks.test.index", dtype=int)
    assert sorted(index) == list(range(40, 60))
    assert list(index) != sorted(index)
    blob = (tmp_path / "ind.blocks.allx").read_bytes()
    assert blob[:2] == b"\x80\x02"  # protocol 2: Python 2 reads it
    assert b"numpy.core.multiarray" in blob
    assert b"scipy.sparse.csr\n" in blob


def test_missing_test_nodes_get_zero_rows(tmp_path: Path) -> None:
    """As in Citeseer: ids between the least and the greatest of test.index that no row belongs to."""
    features = sparse.csr_matrix(np.arange(1, 13, dtype=np.float32).reshape(4, 3))
    onehot = np.eye(2, dtype=np.int32)[[1, 1, 1, 1]]
    parts = {
        "x": features[:1], "tx": features[2:], "allx": features[:2],
        "y": onehot[:1], "ty": onehot[2:], "ally": onehot[:2],
        "graph": {0: [1, 5], 1: [0, 0], 5: [3, 5], 3: []},
    }  # fmt: skip
    for part, content in parts.items():
        (tmp_path / f"ind.c.{part}").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "ind.c.test.index").write_text("5\n3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the lists may name an edge once: that is no directed graph
        warnings.filterwarnings("ignore", ".*have no label")
        read = graphs.read_graph(tmp_path)
    expected = np.zeros((6, 3))
    expected[[0, 1, 5, 3]] = features.toarray()
    np.testing.assert_array_equal(read.features, expected)
    np.testing.assert_array_equal(read.labels, [1, 1, 0, 1, 0, 1])
    edges = {(int(a), int(b)) for a, b in zip(*read.adjacency.nonzero(), strict=True) if a < b}
    assert edges == {(0, 1), (0, 5), (3, 5)}
    assert set(read.adjacency.data) == {1.0}


@pytest.mark.parametrize(
    ("part", "content", "match"),
    [
        ("allx", None, "is missing"),
        ("allx", b"\x80\x02garbage", "is not a pickle of arrays|cut short"),
        ("graph", b"", "is not a pickle of arrays|cut short"),
        ("test.index", None, "is missing"),
        ("test.index", b"forty\n", "no list of node numbers"),
        ("test.index", b"40\n40\n", "do not fit together"),
        ("test.index", b"3\n41\n", "do not fit together"),
        ("test.index", b"40\n41\n", "do not fit together"),
        ("graph", pickle.dumps({0: [10**6]}), "do not fit together"),
        ("graph", pickle.dumps([1, 2]), "not a dict of neighbours"),
        ("ally", pickle.dumps(np.eye(3)), "do not fit together"),
    ],
)
def test_broken_parts_are_refused(tmp_path: Path, graph: Graph, part: str, content: bytes | None, match: str) -> None:
    graphs.write_planetoid(tmp_path, graph, np.random.default_rng(0))
    path = tmp_path / f"ind.blocks.{part}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(Problem, match=match):
        graphs.read_planetoid(tmp_path, "blocks")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_output, (["touch", "trapped"],)


@pytest.mark.parametrize(
    "content",
    [Trap(), [Trap()], eval, os.system, pickle.Unpickler, np.load, np.testing.assert_equal],
    ids=["reduce", "nested", "eval", "system", "pickle", "np.load", "np.testing"],
)
def test_pickles_that_name_anything_else_are_not_opened(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        (tmp_path / "x").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(Problem, match="is not a pickle of arrays and containers: it names"):
            arrays.load_pickle(tmp_path / "x")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_and_containers_are_opened(tmp_path: Path, protocol: int) -> None:
    content = {"a": np.arange(3.0), "b": [1, (2.5, "x"), {3}], "c": sparse.csr_matrix(np.eye(2)), "d": np.float32(1)}
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol=protocol))
    read = arrays.load_pickle(tmp_path / "x")
    np.testing.assert_array_equal(read["a"], content["a"])
    assert read["b"] == content["b"]
    np.testing.assert_array_equal(read["c"].toarray(), np.eye(2))


# -- npy triplet --------------------------------------------------------------------------------------------


def write(folder: Path, **arrays: np.ndarray) -> Path:
    for part, array in arrays.items():
        np.save(folder / f"g_{part}.npy", array, allow_pickle=True)
    return folder


def test_self_loops_are_removed_and_a_directed_graph_warns(tmp_path: Path) -> None:
    write(tmp_path, adj=np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]]), feat=np.eye(3))
    with pytest.warns(UserWarning, match="directed"):
        read = graphs.read_graph(tmp_path)
    np.testing.assert_array_equal(read.adjacency.toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"adj": np.ones((3, 2)), "feat": np.eye(3)}, r"not square: \(3, 2\)"),
        ({"adj": np.ones(3), "feat": np.eye(3)}, "not square"),
        ({"adj": np.ones((3, 3)), "feat": np.ones((4, 2))}, r"\(3, 3\) and features \(4, 2\) do not go together"),
        ({"adj": np.ones((3, 3)), "feat": np.ones(3)}, "do not go together"),
        ({"adj": np.ones((3, 3)), "feat": np.eye(3), "label": np.zeros(4)}, r"labels \(4,\) do not go together"),
        ({"adj": np.ones((3, 3)), "feat": np.array([[1], [np.nan], [1]])}, r"NaN or infinity \(first in row 1\)"),
        ({"adj": np.ones((3, 3)), "feat": np.zeros((3, 2))}, "all zero"),
        ({"adj": -np.ones((3, 3)), "feat": np.eye(3)}, "negative or non-finite"),
        ({"adj": np.full((3, 3), np.nan), "feat": np.eye(3)}, "negative or non-finite"),
        ({"adj": np.ones((3, 3)), "feat": np.array([["a"], ["b"], ["c"]])}, "not numbers"),
        ({"adj": np.ones((3, 3)), "feat": np.eye(3), "label": np.array([0, 0.5, 1])}, "not whole numbers"),
        ({"adj": np.ones((3, 3)), "feat": np.eye(3).astype(object)}, "resave it with a number dtype"),
        ({"adj": np.ones((3, 3)).astype(object), "feat": np.eye(3)}, "resave it with a number dtype"),
        ({"adj": np.ones((3, 3))}, r"g_feat\.npy is missing"),
    ],
)
def test_broken_triplets_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(Problem, match=match):
        graphs.read_graph(write(tmp_path, **arrays))


@pytest.mark.parametrize("kind", [">i4", ">f4", ">f8", "f2", "u8", "g"])
def test_every_dtype_and_byte_order_of_numbers_is_read(tmp_path: Path, graph: Graph, kind: str) -> None:
    graphs.write_triplet(tmp_path, graph)
    for path in tmp_path.glob("*.npy"):
        np.save(path, np.load(path).astype(kind))
    found = graphs.read_graph(tmp_path)
    np.testing.assert_array_equal(found.adjacency.toarray(), graph.adjacency.toarray())
    np.testing.assert_array_equal(found.labels, graph.labels)
    dtype = np.float32 if kind in (">f4", "f2") else np.float64
    assert found.features.dtype == dtype
    np.testing.assert_array_equal(found.features, graph.features.astype(kind).astype(dtype))


def test_a_truncated_file_is_refused(tmp_path: Path, graph: Graph) -> None:
    graphs.write_triplet(tmp_path, graph)
    path = tmp_path / "blocks_feat.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Problem, match=r"not a readable \.npy"):
        graphs.read_graph(tmp_path)


# -- tables ----------------------------------------------------------------------------------------------------


def tables(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_named_nodes_and_labels_in_words(tmp_path: Path) -> None:
    tables(
        tmp_path,
        edges="src,dst\nann,bob\nbob,ann\nbob,007\nann,bob\n",
        features="node,w1,w2\nann,1,0\nbob,0,1\n007,1,1\n",
        labels="node,label\n007,spy\nbob,clerk\nann,clerk\n",
    )
    read = graphs.read_graph(tmp_path)
    np.testing.assert_array_equal(read.nodes, ["ann", "bob", "007"])
    np.testing.assert_array_equal(read.labels, [0, 0, 1])
    np.testing.assert_array_equal(read.adjacency.toarray(), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(read.features, [[1, 0], [0, 1], [1, 1]])


def test_numbered_nodes_with_features_from_npy(tmp_path: Path) -> None:
    tables(tmp_path, edges="src,dst,weight\n0,1,7\n2,1,9\n")
    np.save(tmp_path / "features.npy", np.eye(3, dtype=np.float32))
    np.save(tmp_path / "labels.npy", np.array([1, 0, 1]))
    read = graphs.read_graph(tmp_path / "edges.csv")
    assert read.nodes is None
    assert read.name == tmp_path.name
    np.testing.assert_array_equal(read.labels, [1, 0, 1])
    np.testing.assert_array_equal(read.adjacency.toarray(), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"edges": "a,b\n0,1\n"}, "no column 'src'"),
        ({"edges": ""}, r"cannot read edges\.csv"),
        ({"edges": "src,dst\n0,9\n"}, "dst '9' on line 2 is not a node"),
        ({"edges": "src,dst\n0,1\n1,\n"}, "dst is empty on line 3"),
        ({"features": "node,w\nx,1\nx,2\n"}, "node 'x' is listed twice"),
        ({"features": "w\n1\ntwo\n"}, "not a number"),
        ({"features": "w\n1\n\n"}, r"src '1' on line 3|dst '1' on line 2"),
        ({"features": "w\n1\nNaN\n"}, "NaN or infinity"),
        ({"labels": "class\n0\n1\n"}, "no column 'label'"),
        ({"labels": "node,label\n0,a\n1,\n"}, "a node has no label"),
        ({"labels": "label\na\n"}, "labels .* do not go together"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, files: dict[str, str], match: str) -> None:
    good = {"edges": "src,dst\n0,1\n", "features": "w\n1\n2\n"}
    with pytest.raises(Problem, match=match):
        graphs.read_graph(tables(tmp_path, **{**good, **files}))


# -- real data ------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_bat_as_its_owners_distribute_it(real_data: Callable[[str], Path]) -> None:
    bat = graphs.read_graph(real_data("bat"))
    assert bat.name == "bat"
    assert (bat.size, bat.features.shape[1], bat.adjacency.nnz // 2) == (131, 81, 1003)
    np.testing.assert_array_equal(np.bincount(labels_of(bat)), [32, 32, 32, 35])
    np.testing.assert_array_equal(bat.features.sum(axis=1), 1)


@pytest.mark.realdata
def test_a_pickle_of_the_time_of_python_2(real_data: Callable[[str], Path]) -> None:
    folder = real_data("cocitation-cora") / "cocitation" / "cora"
    features = arrays.load_pickle(folder / "features.pickle")
    assert features.shape == (2708, 1433)
    assert features.sum() == 49216
