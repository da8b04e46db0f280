"""Graphs of people: the formats, their preparation, splits, and bad files."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from repertory.core.problem import Problem
from repertory.data.fair_graphs import (
    Encoding,
    biased_graph,
    draw_split,
    read_fair_graph,
    write_npz,
)


def people(folder: Path, name: str = "staff", edges: str = "0 1\n1 2\n4.0e+00 5.0e+00\n", **columns: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = {"HIRED": [0, 1] * 6, "SEX": ["m", "m", "f", "f"] * 3, "AGE": list(range(20, 32)), **columns}
    pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    if edges:
        (folder / f"{name}_edges.txt").write_text(edges)
    return folder


def test_an_own_table(tmp_path: Path) -> None:
    graph = read_fair_graph(people(tmp_path), "HIRED", "SEX")
    assert graph.encoding == Encoding(["AGE"], {"AGE": [20.0, 31.0]})
    assert graph.features[:, 0] == pytest.approx(np.linspace(-1, 1, 12))
    assert graph.labels is not None
    assert graph.sensitive is not None
    assert graph.labels.tolist() == [0, 1] * 6
    assert graph.sensitive.tolist() == [1, 1, 0, 0] * 3
    pairs = set(map(tuple, graph.edges.T.tolist()))
    both = {(0, 1), (1, 0), (1, 2), (2, 1), (4, 5), (5, 4)}
    assert pairs == both | {(i, i) for i in range(12)}
    assert sorted(pairs) == list(map(tuple, graph.edges.T.tolist()))


def test_new_people_are_read_as_the_training_table_was_without_labels_and_groups(tmp_path: Path) -> None:
    encoding = read_fair_graph(people(tmp_path / "a"), "HIRED", "SEX").encoding
    table = pd.DataFrame({"AGE": [25.5, 42.0]})
    (tmp_path / "b").mkdir()
    table.to_csv(tmp_path / "b" / "new.csv", index=False)
    (tmp_path / "b" / "edges.csv").write_text("src,dst\n0,1\n")
    graph = read_fair_graph(tmp_path / "b", encoding=Encoding(**encoding.__dict__))
    assert graph.features[:, 0] == pytest.approx([0, 3])
    assert graph.labels is None
    assert graph.sensitive is None
    assert graph.edges.shape == (2, 4)
    table.rename(columns={"AGE": "YEARS"}).to_csv(tmp_path / "b" / "new.csv", index=False)
    with pytest.raises(Problem, match="'AGE' is missing"):
        read_fair_graph(tmp_path / "b", encoding=encoding)


def test_recidivism_is_row_normalised_and_joins_people_who_are_alike(tmp_path: Path) -> None:
    (tmp_path / "bail").mkdir()
    table = pd.DataFrame({"WHITE": [0, 1, 0, 1] * 3, "AGE": [1, 1, 9, 9] * 3, "RECID": [0, 0, 1, 1] * 3})
    table.to_csv(tmp_path / "bail" / "bail.csv", index=False)
    graph = read_fair_graph(tmp_path)
    assert graph.features.sum(1) == pytest.approx(np.ones(12))
    assert graph.encoding.columns == ["WHITE", "AGE"]
    raw = table[["WHITE", "AGE"]].to_numpy(float)
    similar = 1 / (1 + np.linalg.norm(raw[:, None] - raw[None], axis=2))
    second = np.sort(similar, axis=1)[:, -2:-1]
    joined = similar > 0.6 * second
    expected = joined | joined.T
    found = np.zeros((12, 12), dtype=bool)
    found[tuple(graph.edges)] = True
    assert (found == expected).all()


def test_a_table_without_edges_is_asked_about(tmp_path: Path) -> None:
    people(tmp_path / "staff", edges="")
    with pytest.raises(Problem, match=r"no edges beside the table[\s\S]*join_similar=true"):
        read_fair_graph(tmp_path / "staff", "HIRED", "SEX")
    with pytest.warns(UserWarning, match=r"no edges; \d+ pairs of people who are alike are joined \(\d+.\d% of all\)"):
        graph = read_fair_graph(tmp_path / "staff", "HIRED", "SEX", similar=True)
    with pytest.warns(UserWarning, match="no edges"):  # the model remembers what its edges were
        again = read_fair_graph(tmp_path / "staff", encoding=Encoding(**graph.encoding.__dict__))
    assert np.array_equal(graph.edges, again.edges)


def test_distances_are_taken_in_double_precision(tmp_path: Path) -> None:
    (tmp_path / "bail").mkdir()
    far = 3e7 + np.array([0, 1, 2, 3, 5, 8] * 2)  # float32 cannot tell neighbours apart here
    table = pd.DataFrame({"WHITE": [0, 1] * 6, "FILE": far, "RECID": [0, 0, 1, 1] * 3})
    table.to_csv(tmp_path / "bail" / "bail.csv", index=False)
    graph = read_fair_graph(tmp_path)
    raw = table[["WHITE", "FILE"]].to_numpy(float)
    similar = 1 / (1 + np.linalg.norm(raw[:, None] - raw[None], axis=2))
    joined = similar > 0.6 * np.sort(similar, axis=1)[:, -2:-1]
    assert graph.edges.shape[1] == (joined | joined.T | np.eye(12, dtype=bool)).sum()


def test_other_people_are_encoded_as_those_of_training(tmp_path: Path) -> None:
    first = read_fair_graph(people(tmp_path / "a", PAY=[float(k * k) for k in range(12)]), "HIRED", "SEX")
    table = pd.read_csv(tmp_path / "a" / "staff.csv").filter(["PAY", "SEX", "AGE", "HIRED"]).iloc[::-1]
    (tmp_path / "b").mkdir()
    table.iloc[:8].to_csv(tmp_path / "b" / "staff.csv", index=False)
    (tmp_path / "b" / "edges.csv").write_text("0,1\n")
    other = read_fair_graph(tmp_path / "b", "HIRED", "SEX").encoded(first.encoding)
    assert other.features == pytest.approx(first.features[::-1][:8])
    assert other.encoding == first.encoding
    with pytest.raises(Problem, match="'PAY' is missing"):
        read_fair_graph(people(tmp_path / "c"), "HIRED", "SEX").encoded(first.encoding)


def test_credit_is_binary_zipped_and_its_largest_component(tmp_path: Path) -> None:
    n = 20
    table = pd.DataFrame({"NoDefaultNextMonth": [0, 1] * 10, "Married": [0, 0, 1, 1] * 5, "Age": [0, 1, 1, 0] * 5})
    table["Bill"] = [0, 7, 3000, 0] * 5
    table.to_csv(tmp_path / "credit.csv", index=False)
    with zipfile.ZipFile(tmp_path / "credit_edges.txt.zip", "w") as archive:
        lines = "".join(f"{i:.1e} {i + 1:.1e}\n" for i in range(n - 5))
        archive.writestr("credit_edges.txt", lines)
    graph = read_fair_graph(tmp_path)
    assert graph.size == n - 4
    assert set(np.unique(graph.features)) == {0.0, 1.0}
    assert graph.features[2].tolist() == [1, 1, 1]
    assert graph.edges.max() == n - 5


def test_dblp_round_trip(tmp_path: Path) -> None:
    graph = biased_graph(np.random.default_rng(0), 100)
    assert graph.labels is not None
    split = draw_split(graph.labels, 3)
    write_npz(tmp_path, graph, split)
    found = read_fair_graph(tmp_path)
    for name in ("features", "edges", "labels", "sensitive"):
        assert np.array_equal(getattr(found, name), getattr(graph, name)), name
    assert all(np.array_equal(found.split[part], split[part]) for part in split)
    assert np.load(tmp_path / "split" / "train_split.npy").dtype == np.float64


def test_the_generated_graph_is_biased_in_words_and_edges() -> None:
    graph = biased_graph(np.random.default_rng(1), 800)
    s, y = graph.sensitive, graph.labels
    assert s is not None
    assert y is not None
    assert s.mean() == pytest.approx(0.6, abs=0.05)
    assert [y[s == k].mean() for k in (0, 1)] == pytest.approx([0.35, 0.6], abs=0.07)
    u, v = graph.edges[:, graph.edges[0] < graph.edges[1]]
    assert len(u) == pytest.approx(8 * 800 / 2, rel=0.1)
    assert (s[u] == s[v]).mean() > 0.65
    assert graph.features[s == 1, :10].mean() > 1.5 * graph.features[s == 0, :10].mean()


def test_the_split_is_pythons(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1] * 1000)
    split = draw_split(labels, seed=0)
    random.seed(0)
    zero, one = (np.flatnonzero(labels == k).tolist() for k in (0, 1))
    random.shuffle(zero)
    random.shuffle(one)
    assert split["train"].tolist() == zero[:500] + one[:500]
    assert split["val"].tolist() == zero[500:750] + one[1000:1500]
    assert len(split["test"]) == 250 + 500


@pytest.mark.realdata
def test_german_credit(real_data: Callable[[str], Path]) -> None:
    graph = read_fair_graph(real_data("german-credit"))
    assert graph.features.shape == (1000, 27)
    assert graph.edges.shape == (2, 2 * 21742 + 1000)
    assert graph.labels is not None
    assert graph.sensitive is not None
    assert (graph.labels.mean(), graph.sensitive.mean()) == (0.7, 0.31)
    column = graph.features[:, graph.encoding.columns.index("LoanAmount")]
    assert (column.min(), column.max()) == (-1, 1)
    assert {part: len(ids) for part, ids in graph.split.items()} == {"train": 500, "val": 250, "test": 250}


@pytest.mark.parametrize(
    ("columns", "settings", "edges", "message"),
    [
        ({}, ("HIRED", "SEXX"), "0 1\n", r"no sensitive column 'SEXX'"),
        ({}, ("JOB", "SEX"), "0 1\n", r"no label column 'JOB'"),
        ({}, ("", ""), "0 1\n", "label and sensitive attribute of staff.csv are not known"),
        ({"SEX": ["m", "f", "x"] * 4}, ("HIRED", "SEX"), "0 1\n", "sensitive attribute SEX is not binary: f, m, x"),
        ({"HIRED": [0, 1, 2] * 4}, ("HIRED", "SEX"), "0 1\n", "label HIRED is not binary: 0, 1, 2"),
        ({}, ("HIRED", "SEX"), "0 1\n3 12\n", r"the edge \(3.0, 12.0\) leads to nobody"),
        ({}, ("HIRED", "SEX"), "0 1\na b\n", "not a number"),
        ({"CITY": ["Rome"] * 12}, ("HIRED", "SEX"), "0 1\n", "the column 'CITY' holds text"),
        ({"PAY": [None, *range(11)]}, ("HIRED", "SEX"), "0 1\n", "the column 'PAY' has no number in row 0"),
        ({"SEX": ["m"] * 11 + ["f"]}, ("HIRED", "SEX"), "0 1\n", "only one group has members in"),
    ],
)
def test_bad_tables(tmp_path: Path, columns: dict, settings: tuple[str, str], edges: str, message: str) -> None:
    with pytest.raises(Problem, match=message):
        read_fair_graph(people(tmp_path, edges=edges, **columns), *settings)


def test_bad_folders(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Problem, match="no graph of people here"):
            read_fair_graph(folder)
    graph = biased_graph(np.random.default_rng(0), 60)
    write_npz(tmp_path, graph, {"train": np.array([0, 60])})
    with pytest.raises(Problem, match="train names 60, the data have 0 … 59"):
        read_fair_graph(tmp_path)
    (tmp_path / "labels.txt").write_text("0\t3\n")
    with pytest.raises(Problem, match=r"labels.txt does not name each of the 60 nodes once"):
        read_fair_graph(tmp_path)
    (tmp_path / "X.npz").write_bytes(b"no")
    with pytest.raises(Problem, match=r"X.npz is not a readable .npz"):
        read_fair_graph(tmp_path)
