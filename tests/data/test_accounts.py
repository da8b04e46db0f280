"""Graphs of accounts: all layouts, the generator, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repertory.core.problem import Problem
from repertory.data.accounts import (
    BOOLEAN,
    NUMERIC,
    RELATIONS,
    TASKS,
    AccountGraph,
    edge_blocks,
    generated_accounts,
    read_accounts,
    write_large,
    write_mgtab,
)


@pytest.fixture
def graph() -> AccountGraph:
    return generated_accounts(np.random.default_rng(0), 60)


def write_cresci(folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    files = {
        "cat_properties_tensor": torch.tensor([[0.0, 1], [1, 0], [1, 1], [0, 0]]),
        "num_properties_tensor": torch.rand(4, 3),
        "des_tensor": torch.rand(4, 5),
        "tweets_tensor": torch.rand(4, 5),
        "edge_index": torch.tensor([[0, 1, 2], [1, 2, 3]]),
        "edge_type": torch.tensor([0, 1, 0]),
        "label": torch.tensor([0, 1, 1, 0]),
        "train_idx": torch.tensor([0, 1]),
        "val_idx": torch.tensor([2]),
        "test_idx": torch.tensor([3]),
    }
    for name, tensor in files.items():
        torch.save(tensor, folder / f"{name}.pt")
    return files


def write_csv(folder: Path, accounts: str, edges: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "accounts.csv").write_text(accounts)
    (folder / "edges.csv").write_text(edges)


# -- layouts ------------------------------------------------------------------------------------


def test_mgtab_there_and_back(tmp_path: Path, graph: AccountGraph) -> None:
    write_mgtab(tmp_path / "MGTAB", graph)
    assert {path.name for path in (tmp_path / "MGTAB").iterdir()} == {
        "features.pt", "edge_index.pt", "edge_type.pt", "edge_weight.pt", "labels_bot.pt", "labels_stance.pt",
    }  # fmt: skip
    found = read_accounts(tmp_path / "MGTAB")
    assert torch.equal(found.features, graph.features)
    assert list(found.edges) == list(RELATIONS)
    for name, edges in graph.edges.items():
        assert torch.equal(found.edges[name], edges)
    assert torch.equal(found.labels["stance"], graph.labels["stance"])
    assert dict(found.class_names) == dict(TASKS)
    assert (list(found.groups["numeric"]), list(found.groups["boolean"])) == (list(NUMERIC), list(BOOLEAN))
    assert not found.large


def test_the_large_layout_is_mapped(tmp_path: Path) -> None:
    graph = generated_accounts(np.random.default_rng(0), 60, unlabelled=30)
    write_large(tmp_path, graph)
    found = read_accounts(tmp_path)
    assert found.large
    assert found.size == 90
    assert found.labelled("bot").tolist() == list(range(60))
    assert torch.equal(found.features, graph.features)
    assert [number for number, _ in edge_blocks(found, ["url", "reply"])] == [0, 1]
    (tmp_path / "large_edge_index3.pt").unlink()
    with pytest.raises(Problem, match=r"large_edge_index4\.pt does not follow"):
        read_accounts(tmp_path)


def test_cresci_columns_and_split(tmp_path: Path) -> None:
    files = write_cresci(tmp_path / "Cresci-15")
    found = read_accounts(tmp_path / "Cresci-15")
    assert found.features.shape == (4, 15)
    assert torch.equal(found.features[:, 2:5], files["num_properties_tensor"])
    assert {group: list(columns) for group, columns in found.groups.items()} == {
        "boolean": [0, 1], "numeric": [2, 3, 4], "tweets": list(range(5, 15)),
    }  # fmt: skip
    assert list(found.edges) == ["followers", "friends"]
    assert found.split["val"].tolist() == [2]  # the official loader swaps val and test
    assert found.split["test"].tolist() == [3]
    assert found.class_names["bot"] == ("human", "bot")


def test_tables(tmp_path: Path) -> None:
    write_csv(
        tmp_path,
        "id,age,verified,label\na,0.5,1,spam\nb,2,0,ham\nc,3,1,\nd,4,0,spam\n",
        "source,target,relation\na,b,likes\nb,c,followers\nd,a,likes\n",
    )
    found = read_accounts(tmp_path)
    assert found.ids == ["a", "b", "c", "d"]
    assert found.labels["label"].tolist() == [1, 0, -1, 1]
    assert found.class_names["label"] == ["ham", "spam"]
    assert {name: edges.T.tolist() for name, edges in found.edges.items()} == {
        "followers": [[1, 2]], "likes": [[0, 1], [3, 0]],
    }  # fmt: skip
    assert found.groups == {"numeric": [0], "boolean": [1]}
    write_mgtab(tmp_path / "tensors", found)
    again = read_accounts(tmp_path / "tensors")
    assert torch.equal(again.features, found.features)
    assert torch.equal(again.labels["label"], found.labels["label"])


def test_numbers_of_classes_and_edges_without_relation(tmp_path: Path) -> None:
    write_csv(tmp_path, "id,x,label_bot\n1,0.5,0\n2,2,1\n3,3,-1\n", "source,target\n1,2\n3,2\n")
    found = read_accounts(tmp_path)
    assert found.labels["bot"].tolist() == [0, 1, -1]
    assert list(found.class_names["bot"]) == ["human", "bot"]
    assert found.edges["edge"].tolist() == [[0, 2], [1, 1]]


def test_negative_and_missing_labels_are_unlabelled(tmp_path: Path, graph: AccountGraph) -> None:
    write_mgtab(tmp_path, graph)
    labels = graph.labels["bot"].double()
    labels[3], labels[4] = -1, float("nan")
    torch.save(labels, tmp_path / "labels_bot.pt")
    found = read_accounts(tmp_path)
    assert found.labels["bot"][[3, 4]].tolist() == [-1, -1]
    assert len(found.labelled("bot")) == 58


# -- the generator ------------------------------------------------------------------------------


def test_the_sample_is_what_it_says() -> None:
    graph = generated_accounts(np.random.default_rng(0), 2000)
    assert graph.features.shape == (2000, 788)
    assert graph.features[:, list(BOOLEAN)].unique().tolist() == [0, 1]
    assert float(graph.features[:, :20].min()) >= 0
    assert float(graph.features[:, :20].max()) <= 1
    torch.testing.assert_close(graph.features[:, 20:].norm(dim=1), torch.ones(2000))
    assert graph.edges["followers"].shape == (2, 6000)
    assert graph.edges["url"].shape == (2, 10_000)  # both directions
    assert all((edges[0] != edges[1]).all() for edges in graph.edges.values())
    shares = torch.stack([graph.labels["stance"] == k for k in range(3)]).float().mean(1)
    torch.testing.assert_close(shares, torch.tensor([0.37, 0.357, 0.273]), atol=0.05, rtol=0)
    assert graph.homophily("hashtag", "stance") > graph.homophily("followers", "stance") > float(shares.square().sum())
    assert graph.homophily("url", "bot") > graph.homophily("hashtag", "bot")


# -- bad input ----------------------------------------------------------------------------------


def changed(name: str, change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.save(change(torch.load(folder / name, weights_only=True)), folder / name)

    return write


def put(x: torch.Tensor, place: Any, value: float) -> torch.Tensor:
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (changed("features.pt", lambda x: put(x, (7, 2), float("nan"))), "row 7 holds NaN"),
        (changed("features.pt", lambda x: x.flatten()), r"features\.pt has the shape"),
        (changed("features.pt", lambda x: {"x": x}), "no single dense tensor"),
        (changed("features.pt", lambda x: x.to_sparse()), "features"),
        (changed("edge_index.pt", lambda x: put(x, (1, 5), 60)), r"edge 5 joins \[\d+, 60\]"),
        (changed("edge_index.pt", lambda x: put(x, (0, 0), -1)), r"edge 0 joins \[-1"),
        (changed("edge_index.pt", lambda x: x.T), "transpose it"),
        (changed("edge_index.pt", lambda x: x + 0.5), "whole numbers"),
        (changed("edge_type.pt", lambda x: x[:-1]), "entries for"),
        (changed("edge_type.pt", lambda x: put(x, 0, 10**12)), "edge_type.pt holds 1000000000000"),
        (changed("edge_type.pt", lambda x: put(x, 0, -1)), "edge_type.pt holds -1"),
        (changed("labels_bot.pt", lambda x: x[:-1]), "for 60 accounts"),
        (changed("labels_bot.pt", lambda x: put(x, 0, 10**9)), "holds 1000000000"),
        (changed("labels_bot.pt", lambda x: x + 0.5), "whole numbers"),
        (changed("labels_bot.pt", lambda x: put(x.float(), 0, float("inf"))), r"labels_bot\.pt holds inf"),
        (changed("labels_bot.pt", lambda x: put(x.double(), 0, 1e19)), r"labels_bot\.pt holds 1e\+19"),
        (changed("features.pt", lambda x: put(x.double(), (7, 2), 1e300)), "row 7 holds NaN or infinity"),
        (changed("edge_index.pt", lambda x: x > 3), r"edge_index\.pt holds booleans"),
        (
            changed("edge_index.pt", lambda x: put(x, (0, 0), 2050).half()),
            "holds 2050, and torch.float16 is exact to 2048",
        ),
        (changed("edge_type.pt", lambda x: x > 3), r"edge_type\.pt holds booleans"),
        (changed("edge_type.pt", lambda x: x[: len(x) // 2 * 2].reshape(2, -1)), "one type an edge"),
        (lambda folder: (folder / "edge_type.pt").unlink(), r"edge_type\.pt is missing"),
        (lambda folder: (folder / "edge_index.pt").write_bytes(b"PK\x03\x04cut"), "damaged"),
        (lambda folder: (folder / "features.pt").unlink(), "no graph of accounts"),
        (lambda folder: torch.save(torch.tensor([0]), folder / "train_idx.pt"), r"val_idx\.pt is missing"),
    ],
)
def test_damaged_tensors_are_refused(
    tmp_path: Path, graph: AccountGraph, spoil: Callable[[Path], None], match: str
) -> None:
    write_mgtab(tmp_path, graph)
    spoil(tmp_path)
    with pytest.raises(Problem, match=match):
        read_accounts(tmp_path)


@pytest.mark.parametrize(
    ("accounts", "edges", "match"),
    [
        ("id,x\na,1\na,2\n", "source,target\n", "'a' in row 3 is empty or repeated"),
        ("id,x\na,1\nb,\n", "source,target\n", "x has no number in row 3"),
        ("id,x\na,1\nb,two\n", "source,target\n", "not a number"),
        ("id,label\na,1\n", "source,target\n", "no features"),
        ("name,x\na,1\n", "source,target\n", "no column 'id'"),
        ("id,x\na,1\n", "source,target\na,z\n", "row 2 names 'z'"),
        ("id,x\na,1\n", "source,target,relation\na,a,\n", "row 2 has no relation"),
        ("id,x\na,1\n", "from,to\na,a\n", "no column 'source'"),
        ("id,x\na,1e300\n", "source,target\n", "x has no number in row 2"),
        ("id,x,label\na,1,2,0\nb,2,3,1\n", "source,target\n", "more cells than its first line"),
        ("id,x,label\na,1,0\nb,2,1\nc,3,human\n", "source,target\n", "row 4 has the label 'human'"),
        ("id,x,label\na,1,0\nb,2,0.5\n", "source,target\n", "row 3 has the label '?0.5"),
        ("id,x,label\na,1,0\nb,2,5000\n", "source,target\n", "row 3 has the label '?5000"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, accounts: str, edges: str, match: str) -> None:
    write_csv(tmp_path, accounts, edges)
    with pytest.raises(Problem, match=match):
        read_accounts(tmp_path)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, graph: AccountGraph) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return __import__("os").system, ("true",)

    write_mgtab(tmp_path, graph)
    torch.save(Harm(), tmp_path / "features.pt")
    with pytest.raises(Problem, match="a way to run programs"):
        read_accounts(tmp_path)


def test_a_split_that_shares_accounts_is_refused(tmp_path: Path) -> None:
    write_cresci(tmp_path / "c")
    torch.save(torch.tensor([0]), tmp_path / "c" / "test_idx.pt")
    with pytest.raises(Problem, match="train and test share"):
        read_accounts(tmp_path / "c")


def test_a_split_may_hold_floats_that_numpy_lacks(tmp_path: Path) -> None:
    tmp_path /= "c"
    write_cresci(tmp_path)
    clean = read_accounts(tmp_path).split
    torch.save(torch.load(tmp_path / "val_idx.pt", weights_only=True).bfloat16(), tmp_path / "val_idx.pt")
    assert all((ids == clean[part]).all() for part, ids in read_accounts(tmp_path).split.items())


def test_labels_under_an_upper_case_suffix_are_labels(tmp_path: Path, graph: AccountGraph) -> None:
    write_mgtab(tmp_path, graph)
    (tmp_path / "labels_bot.pt").rename(tmp_path / "labels_bot.PT")
    assert set(read_accounts(tmp_path).labels) == set(graph.labels)


def test_spaces_around_a_relation_make_no_other_one(tmp_path: Path) -> None:
    write_csv(tmp_path, "id,x\na,1\nb,2\n", "source,target,relation\na,b,url\nb,a,url \n")
    assert {name: edges.shape[1] for name, edges in read_accounts(tmp_path).edges.items()} == {"url": 2}
