"""Tables of text: what is missing, what has no name, what is damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data.fair_graphs import read_fair_graph
from repertory.data.tables import read_table, to_numbers, without_index


def test_only_an_empty_cell_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,value\nNA,1\nnull,\nnan,3\n,4\n")
    table = read_table(path)
    assert table["name"].fillna("-").tolist() == ["NA", "null", "nan", "-"]
    assert np.isnan(to_numbers(table[["value"]], path)[:, 0]).tolist() == [False, True, False, False]


def test_row_numbers_without_a_name_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",a,b\n0,5,6\n1,7,8\n")
    with pytest.warns(UserWarning, match="counts the rows"):
        assert list(without_index(read_table(path), path)) == ["a", "b"]
    for text in (",a\n1,5\n0,7\n", "a,,b\n1,2,3\n"):
        path.write_text(text)
        with pytest.raises(Problem, match=r"column \d of a\.csv has no name"):
            without_index(read_table(path), path)


@pytest.mark.parametrize("content", [b"", b'a,b\n1,"2', b"a\n\xff\xfe", b"a,b\n1,2\n1,2,3\n"])
def test_what_is_no_table(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(Problem, match=r"cannot read a\.csv") as caught:
        read_table(tmp_path / "a.csv")
    assert len(str(caught.value).splitlines()) == 3


def test_a_compressed_table_that_is_cut_short(tmp_path: Path) -> None:
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 500)
    (tmp_path / "a.csv.gz").write_bytes(packed)
    assert read_table(tmp_path / "a.csv.gz").shape == (500, 2)
    (tmp_path / "a.csv.gz").write_bytes(packed[:-12])
    with pytest.raises(Problem, match=r"a\.csv\.gz cannot be read"):
        read_table(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("head", ["src,dst\n", ""])
def test_edges_of_people_with_and_without_a_header(head: str, tmp_path: Path) -> None:
    rows = "".join(f"{20 + k},{k % 2},{k // 2 % 2}\n" for k in range(8))
    (tmp_path / "people.csv").write_text("age,sex,y\n" + rows)
    (tmp_path / "edges.csv").write_text(head + "0,1\n2,3\n4,5\n")
    graph = read_fair_graph(tmp_path, "y", "sex", per_class=2)
    assert [(a, b) for a, b in graph.edges.T.tolist() if a < b] == [(0, 1), (2, 3), (4, 5)]
