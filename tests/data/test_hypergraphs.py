"""Hypergraphs on disk: five formats, read as they are distributed and refused where they are broken."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import io, sparse

from repertory.core.problem import Problem
from repertory.data import hypergraphs
from repertory.data.hypergraphs import UNLABELLED, Hypergraph, make_hypergraph, read_hypergraph


@pytest.fixture
def papers() -> Hypergraph:
    return hypergraphs.citation_hypergraph(np.random.default_rng(1), vertices=60, hyperedges=40, words=30, splits=2)


def dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def assert_same(a: Hypergraph, b: Hypergraph) -> None:
    np.testing.assert_array_equal(dense(a.features), dense(b.features))
    np.testing.assert_array_equal(dense(a.incidence), dense(b.incidence))
    np.testing.assert_array_equal(a.labels, b.labels)
    for ours, theirs in zip(a.splits, b.splits, strict=True):
        for ids, others in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(ids, others)


# -- generators ---------------------------------------------------------------------------------------


def test_generated_papers_are_what_was_asked_for() -> None:
    papers = hypergraphs.citation_hypergraph(np.random.default_rng(0))
    assert papers.incidence is not None
    assert papers.incidence.shape == (400, 300)
    sizes = dense(papers.incidence).sum(axis=0)
    assert sizes.min() >= 2
    assert sizes.max() <= 12
    assert sizes.mean() == pytest.approx(3.5, abs=0.3)
    assert (dense(papers.incidence).sum(axis=1) == 0).mean() == pytest.approx(0.2, abs=0.08)
    onehot = np.eye(4)[papers.labels]
    shares = (onehot.T @ dense(papers.incidence)).max(axis=0) / sizes
    assert shares.mean() == pytest.approx(0.78, abs=0.06)  # 75 % by intention, the rest by chance
    assert len(papers.splits) == 10
    for train, test in papers.splits:
        assert np.bincount(papers.labels[train]).tolist() == [10] * 4
        assert len(train) + len(test) == 400
    assert set(dense(papers.features).ravel()) == {0.0, 1.0}


def test_generated_objects_have_two_views_and_no_hyperedges() -> None:
    objects = hypergraphs.visual_objects(np.random.default_rng(0))
    assert {view: np.shape(array) for view, array in objects.views.items()} == {"mvcnn": (240, 16), "gvcnn": (240, 12)}
    assert objects.incidence is None
    assert np.shape(objects.features) == (240, 28)
    assert len(objects.classes) == 6


def test_generators_are_functions_of_their_seed() -> None:
    a, b, c = (hypergraphs.citation_hypergraph(np.random.default_rng(seed), vertices=60) for seed in (0, 0, 1))
    assert_same(a, b)
    assert (dense(a.incidence) != dense(c.incidence)).any()


# -- round trips ----------------------------------------------------------------------------------------


def test_hypergcn_gives_the_hypergraph_back(tmp_path: Path, papers: Hypergraph) -> None:
    folder = tmp_path / "coauthorship" / "mine"
    hypergraphs.write_hypergcn(folder, papers)
    for source in (folder, tmp_path, folder / "features.pickle"):
        read = read_hypergraph(source)
        assert_same(read, papers)
    assert read.name == "coauthorship-mine"
    assert sparse.issparse(read.features)


def test_mat_gives_the_objects_back(tmp_path: Path) -> None:
    objects = hypergraphs.visual_objects(np.random.default_rng(0))
    hypergraphs.write_mat(tmp_path / "objects.mat", objects)
    read = read_hypergraph(tmp_path)
    for view, features in objects.views.items():
        np.testing.assert_array_equal(read.views[view], features)
    np.testing.assert_array_equal(read.labels, objects.labels)
    np.testing.assert_array_equal(read.splits[0][0], objects.splits[0][0])
    assert read.incidence is None
    content = io.loadmat(tmp_path / "objects.mat")  # the layout that the authors' code indexes
    assert content["X"][0].item().shape == (240, 16)
    assert content["X"][1].item().shape == (240, 12)
    assert content["Y"].min() == 1
    assert set(np.unique(content["indices"].item())) == {0, 1}


def test_author_names_lists_and_numpy_ids_are_read(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "features": sparse.csr_matrix(np.eye(4, dtype=np.float32)),
        "labels": [np.int64(k % 2) for k in range(4)],
        "hypergraph": {"B. Author": [np.int64(3), 1, 1], "A. Author": {0, 1}},
    }
    for name, content in parts.items():
        data = pickle.dumps(content, protocol=2)
        # Class paths of the time when the real files were written.
        data = data.replace(b"cscipy.sparse._csr\n", b"cscipy.sparse.csr\n")
        (tmp_path / f"{name}.pickle").write_bytes(data.replace(b"cnumpy._core", b"cnumpy.core"))
    read = read_hypergraph(tmp_path)
    np.testing.assert_array_equal(dense(read.incidence), [[0, 1], [1, 1], [0, 0], [1, 0]])  # in the dict's order
    assert read.splits == ()


def test_le_format(tmp_path: Path) -> None:
    (tmp_path / "zoo.content").write_text("0 1 0 2 bird\n1 0 1 4 fish\n2 0 0 4 fish\n")
    (tmp_path / "zoo.edges").write_text("0 3\n1 3\n1 4\n2 4\n")
    read = read_hypergraph(tmp_path)
    np.testing.assert_array_equal(dense(read.incidence), [[1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(dense(read.features), [[1, 0, 2], [0, 1, 4], [0, 0, 4]])
    assert (read.classes, read.labels.tolist()) == (("bird", "fish"), [0, 1, 1])


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "features.csv").write_text("vertex,a,b\nx,1,2\ny,3,4\nz,5,6\n")
    (tmp_path / "incidence.csv").write_text("vertex,hyperedge,weight\nz,e2,0.5\nx,e1,1\nz,e1,2\n")
    (tmp_path / "labels.csv").write_text("vertex,label\nz,cat\nx,\ny,dog\n")
    (tmp_path / "weights.csv").write_text("hyperedge,weight\ne1,3\n")
    read = read_hypergraph(tmp_path)
    np.testing.assert_array_equal(dense(read.incidence), [[0, 1], [0, 0], [0.5, 2]])
    assert read.weights is not None
    assert read.weights.tolist() == [1, 3]
    assert (read.labels.tolist(), read.classes) == ([UNLABELLED, 1, 0], ("cat", "dog"))
    assert read.vertices is not None
    assert read.vertices.tolist() == ["x", "y", "z"]


def test_tables_without_hyperedges_labels_or_names(tmp_path: Path) -> None:
    (tmp_path / "features.csv").write_text("a,b\n1,2\n3,4\n")
    read = read_hypergraph(tmp_path)
    assert read.incidence is None
    assert read.labels.tolist() == [UNLABELLED] * 2
    assert read.vertices is None


def test_pyg_data(tmp_path: Path) -> None:
    data_module = pytest.importorskip("torch_geometric.data")
    data = data_module.Data(
        x=torch.eye(3),
        hyperedge_index=torch.tensor([[0, 1, 2], [0, 0, 1]]),
        hyperedge_attr=torch.tensor([0.5, 1.0, 2.0]),
        hyperedge_weight=torch.tensor([1.0, 4.0]),
        y=torch.tensor([5, 7, -1]),
        train_mask=torch.tensor([True, False, False]),
        test_mask=torch.tensor([False, True, False]),
    )
    torch.save(data, tmp_path / "mine.pt")
    with pytest.warns(UserWarning, match="renumbered: 5 -> 0, 7 -> 1"):
        read = read_hypergraph(tmp_path)
    np.testing.assert_array_equal(dense(read.incidence), [[0.5, 0], [1, 0], [0, 2]])
    assert read.weights is not None
    assert read.weights.tolist() == [1, 4]
    assert (read.labels.tolist(), read.classes) == ([0, 1, UNLABELLED], ("5", "7"))
    assert [ids.tolist() for ids in read.splits[0]] == [[0], [1]]


@pytest.mark.parametrize("shape", [(4, 2), (4, 3), (4, 1)])
def test_attributes_of_hyperedges_are_no_weights_of_vertices(tmp_path: Path, shape: tuple[int, int]) -> None:
    data_module = pytest.importorskip("torch_geometric.data")
    index = torch.tensor([list(range(12)), [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3])
    if shape == (4, 1):
        index = index[:, ::3]  # as many incidences as hyperedges: nothing tells which of them is meant
    data = data_module.Data(x=torch.ones(12, 5), hyperedge_index=index, hyperedge_attr=torch.rand(shape))
    torch.save(data, tmp_path / "mine.pt")
    with pytest.warns(UserWarning, match=r"hyperedge_attr \(4, \d\) is left out"):
        read = read_hypergraph(tmp_path)
    assert read.incidence is not None
    assert set(read.incidence.data.tolist()) == {1.0}


def test_a_pt_file_that_holds_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"x": os.getcwd}, tmp_path / "bad.pt")
    with pytest.raises(Problem, match="not a Data with x and hyperedge_index"):
        read_hypergraph(tmp_path)


# -- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "labels", "hypergraph", "splits/1"])
def test_a_pickle_that_is_cut_short_is_told_from_a_wrong_one(tmp_path: Path, papers: Hypergraph, name: str) -> None:
    hypergraphs.write_hypergcn(tmp_path, papers)
    path = tmp_path / f"{name}.pickle"
    whole = path.read_bytes()
    for length in (len(whole) // 2, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(Problem, match=r"cut short[\s\S]*download it again"):
            read_hypergraph(tmp_path)


def test_a_pickle_that_names_foreign_code_is_not_opened(tmp_path: Path, papers: Hypergraph) -> None:
    hypergraphs.write_hypergcn(tmp_path, papers)
    (tmp_path / "labels.pickle").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(Problem, match="can run code"):
        read_hypergraph(tmp_path)


def test_a_hyperedge_with_an_unknown_vertex_is_named(tmp_path: Path, papers: Hypergraph) -> None:
    hypergraphs.write_hypergcn(tmp_path, papers)
    (tmp_path / "hypergraph.pickle").write_bytes(pickle.dumps({"fine": {1, 2}, "A. Stray": {3, 60}}))
    with pytest.raises(Problem, match=r"hyperedge 'A\. Stray' holds vertex 60, the vertices are 0 … 59"):
        read_hypergraph(tmp_path)


def test_empty_hyperedges_are_dropped_with_a_warning() -> None:
    incidence = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    with pytest.warns(UserWarning, match=r"1 empty hyperedges are dropped \(first: lone\)"):
        made = make_hypergraph(
            "own", {"f": np.eye(2)}, incidence, weights=[1, 2, 3], hyperedges=["first", "lone", "last"]
        )
    assert made.incidence is not None
    assert made.incidence.shape == (2, 2)
    assert made.weights is not None
    assert made.weights.tolist() == [1, 3]


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_vertex_weights_must_be_finite_and_not_negative(wrong: float) -> None:
    with pytest.raises(Problem, match="vertex weights must be finite and ≥ 0"):
        make_hypergraph("own", {"f": np.eye(2)}, np.array([[1.0], [wrong]]))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [1, 2], "train and split 1, test share 1 of 2 ids"),
        ([0, 0], [1], "split 1, train lists 0 2 times"),
        ([0], [3], "names 3, the data have 0 … 2"),
        ([-1], [1], "names -1"),
        ([0.5], [1], "not whole numbers"),
    ],
)
def test_splits_that_cannot_be_are_refused(train: list[Any], test: list[Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        make_hypergraph("own", {"f": np.eye(3)}, None, [0, 1, 0], [(train, test)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": {"f": np.eye(3)}, "incidence": np.ones((2, 1))}, "do not go together"),
        ({"views": {"f": np.array([[1.0], [np.nan]])}}, "NaN or infinity"),
        ({"views": {"f": np.array([["a"], ["b"]])}}, "not a table of numbers"),
        ({"views": {"f": np.eye(3), "g": np.eye(2)}}, "one row a vertex"),
        ({"views": {"f": np.eye(2)}, "labels": [0.5, 1]}, "not whole numbers"),
        ({"views": {"f": np.eye(2)}, "labels": [0]}, "1 labels for 2 vertices"),
        ({"views": {"f": np.eye(2)}, "incidence": np.ones((2, 1)), "weights": [0.0]}, "hyperedge weights"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        make_hypergraph("own", **arguments)


def test_labels_are_renumbered_and_that_is_reported() -> None:
    with pytest.warns(UserWarning, match="renumbered: 3 -> 0, 9 -> 1"):
        made = make_hypergraph("own", {"f": np.eye(3)}, labels=[9, 3, 9])
    assert (made.labels.tolist(), made.classes) == ([1, 0, 1], ("3", "9"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_hypergraph("own", {"f": np.eye(3)}, labels=[0, 1, 0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"features.csv": "a\n1\n2\n", "incidence.csv": "vertex,edge\n0,e\n"}, "no column 'hyperedge'"),
        ({"features.csv": "a\n1\n2\n", "incidence.csv": "vertex,hyperedge\n2,e\n"}, "hyperedge 'e' holds '2'"),
        ({"features.csv": "a\n1\nx\n"}, "not a number"),
        ({"features.csv": "vertex,a\nx,1\nx,2\n"}, "listed twice"),
        ({"features.csv": "a\n1\n2\n", "incidence.csv": "vertex,hyperedge,weight\n0,e,-1\n"}, "finite and ≥ 0"),
        ({"features.csv": "vertex,a\nx,1\n", "labels.csv": "vertex,label\ny,1\n"}, "'y' is labelled but is no vertex"),
        ({"zoo.content": "0 1 a\n", "zoo.edges": "5 6\n"}, "which is no vertex"),
        ({"broken.mat": "no matlab"}, "cannot be read"),
        ({}, "no hypergraph here"),
        ({"a.mat": "", "b.mat": ""}, "2 hypergraphs"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(Problem, match=message):
        read_hypergraph(tmp_path)


def test_a_mat_file_without_a_split_is_refused(tmp_path: Path) -> None:
    io.savemat(tmp_path / "half.mat", {"X": np.eye(2), "Y": np.array([1, 2])})
    with pytest.raises(Problem, match="has no indices"):
        read_hypergraph(tmp_path)


@pytest.mark.realdata
def test_cocitation_cora(real_data: Callable[[str], Path]) -> None:
    cora = read_hypergraph(real_data("cocitation-cora"))
    assert cora.incidence is not None
    sizes = dense(cora.incidence).sum(axis=0)
    assert (cora.name, cora.size, cora.features.shape) == ("cocitation-cora", 2708, (2708, 1433))
    assert (len(sizes), sizes.min(), sizes.max()) == (1579, 2, 5)
    assert sizes.mean() == pytest.approx(3.03, abs=0.005)
    assert (dense(cora.incidence).sum(axis=1) == 0).sum() == 1274
    assert len(cora.classes) == 7
    assert [len(train) for train, _ in cora.splits] == [140] * 10
