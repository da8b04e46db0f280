"""Splits from files: ids are there and in one part only, in every reader that takes them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import ade20k, coco, events, fair_graphs, idx, images
from repertory.data.molecules import read_molecules
from repertory.data.splits import check_disjoint, check_distinct_files, check_distinct_samples, part_ids
from repertory.papers.spaic import sources


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array(3), "the train ids have the shape"),
        (np.zeros((2, 2), int), "the train ids have the shape"),
        ([0.0, 1.5], "not whole numbers"),
        ([0.0, np.nan], "not whole numbers"),
        (["a"], "not whole numbers"),
        ([0, 5], "train names 5, the data have 0 … 4"),
        ([1e300], "train names 1e"),
        ([0, 1, 1, 1], "train lists 1 3 times"),
        ([True, False], "the train mask has 2 entries for 5 examples"),
    ],
)
def test_ids_that_cannot_be(content: Any, message: str) -> None:
    with pytest.raises(Problem, match=message):
        part_ids(content, 5, "train")


def test_shared_ids_are_counted_and_named() -> None:
    with pytest.raises(Problem, match=r"val and test share 4 of 5 ids \(first: 2, 3, 4, …\)"):
        check_disjoint({"train": np.array([0]), "val": np.array([1, 2, 3, 4, 5]), "test": np.arange(2, 9)})


@pytest.mark.parametrize("link", [os.link, os.symlink, None])
def test_one_file_in_two_parts(link: Callable[[Path, Path], None] | None, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    if link is not None:
        link(tmp_path / "a", tmp_path / "c")
    other = tmp_path / ("a" if link is None else "c")
    with pytest.raises(Problem, match="train and val share 1 of 1 files"):
        check_distinct_files({"train": [tmp_path / "a", tmp_path / "b"], "val": [other]})
    check_distinct_files({"train": [tmp_path / "a"], "val": [tmp_path / "b", tmp_path / "gone"]})


# -- readers ----------------------------------------------------------------------------------------


def dblp(folder: Path, **parts: Any) -> Path:
    graph = fair_graphs.biased_graph(np.random.default_rng(0), 60)
    assert graph.labels is not None
    fair_graphs.write_npz(folder, graph, fair_graphs.draw_split(graph.labels, 0))
    for part, ids in parts.items():
        np.save(folder / "split" / f"{part}_split.npy", ids)
    return folder


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": np.arange(30), "test": np.arange(30)}, r"train and (val|test) share"),
        ({"train": np.array(3)}, "the train ids have the shape"),
        ({"val": np.zeros((2, 2))}, "the val ids have the shape"),
        ({"test": np.arange(5) + 0.5}, "not whole numbers"),
        ({"test": np.repeat(np.arange(5), 3)}, "test lists 0 3 times"),
        ({"test": np.zeros(0)}, "test is empty"),
        ({"test": np.array([0, 1] * 30)}, r"lists 0 30 times"),
    ],
)
def test_splits_of_people(parts: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=message):
        fair_graphs.read_fair_graph(dblp(tmp_path, **parts))


def test_masks_of_people(tmp_path: Path) -> None:
    order = np.arange(60) % 4
    masks = {"train": order < 2, "val": order == 2, "test": order == 3}
    graph = fair_graphs.read_fair_graph(dblp(tmp_path, **masks))
    assert all((graph.split[part] == np.flatnonzero(mask)).all() for part, mask in masks.items())


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("0\n1\n", "train and test share 2 of 2 ids"),
        ("3\n3\n", "test lists 3 2 times"),
        ("9\n", "test names 9, the data have 0 … 3"),
        ("2.5\n", "not whole numbers"),
        ("x\n", "not a number"),
    ],
)
def test_splits_of_molecules(test: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("rdkit", reason="the extra chem is not installed")
    (tmp_path / "mapping").mkdir()
    (tmp_path / "split" / "scaffold").mkdir(parents=True)
    table = tmp_path / "mapping" / "mol.csv.gz"
    table.write_bytes(gzip.compress(b"smiles,y\nCC,0\nCO,1\nCN,1\nCCC,0\n"))
    for part, rows in (("train", "0\n1\n"), ("valid", "2\n"), ("test", test)):
        (tmp_path / "split" / "scaffold" / f"{part}.csv.gz").write_bytes(gzip.compress(rows.encode()))
    with pytest.raises(Problem, match=message):
        read_molecules(table)


def test_folders_of_images(tmp_path: Path) -> None:
    images.write_digits(tmp_path, size=8, train=1, val=1)
    train, val = tmp_path / "train" / "3" / "0000.png", tmp_path / "val" / "3" / "0001.png"
    val.symlink_to(train)
    with pytest.raises(Problem, match="train and val share 1 of"):
        images.read_splits(tmp_path)
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(Problem, match="train and test share 10 of 10 files"):
        images.read_splits(tmp_path)


def test_folders_of_streams(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    stream = events.make_events(np.arange(9), 0, np.arange(9) * 10_000, 1)
    events.write_aedat(tmp_path / "train" / "a" / "1.aedat", stream)
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(Problem, match="train and test share 1 of 1 files"):
        events.read_splits(tmp_path)


def test_scenes(tmp_path: Path) -> None:
    ade20k.write_sample(tmp_path, 2, 1, 32)
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        first = min((tmp_path / kind / "training").glob(f"*.{suffix}"))
        os.link(first, tmp_path / kind / "validation" / first.name)
    with pytest.raises(Problem, match="training and validation share 1 of 2 files"):
        ade20k.read_split(tmp_path, "val")


def test_coco(tmp_path: Path) -> None:
    coco.write_sample(tmp_path, 3, 2, 32)
    coco.read_split(tmp_path, "val")
    lists = tmp_path / "annotations"
    whole = (lists / "instances_train2017.json").read_text()
    (lists / "instances_val2017.json").write_text(whole)
    with pytest.raises(Problem, match="share 3 images"):
        coco.read_split(tmp_path, "train")
    part = json.loads(whole)
    part["images"], part["annotations"] = part["images"][:1], []
    (lists / "instances_val2017.json").write_text(json.dumps(part))
    shutil.rmtree(tmp_path / "val2017")
    (tmp_path / "val2017").symlink_to("train2017")
    with pytest.raises(Problem, match="share 1 images"):
        coco.read_split(tmp_path, "val")


def test_arrays(tmp_path: Path) -> None:
    idx.write_sample(tmp_path, 4)
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / f"t10k-{kind}-ubyte.gz").unlink()
        (tmp_path / f"t10k-{kind}-ubyte.gz").symlink_to(f"train-{kind}-ubyte.gz")
    with pytest.raises(Problem, match="the test images are the training images"):
        sources.read(tmp_path, 10, 1.0)
    x, y = np.random.default_rng(0).random((8, 3)), np.arange(8) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(Problem, match="x_test is x_train"):
        sources.read(tmp_path / "own.npz", 10, 1.0)


def test_a_test_part_that_is_a_copy_is_refused() -> None:
    train = np.arange(12).reshape(4, 3)
    check_distinct_samples(train, train + 1)
    with pytest.raises(Problem, match="the 4 test samples are training samples"):
        check_distinct_samples(train, train.copy())
