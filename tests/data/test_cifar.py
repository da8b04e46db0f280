"""CIFAR's format: what is written is read, by the owners' snippet and by torchvision too; damage is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from repertory.core.problem import Problem
from repertory.data import cifar

NAMES = ("airplane", "automobile", "bird")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(256, size=(count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cifar.write_cifar10(tmp_path, (images(10), [0, 1] * 5), (images(4), [2, 1, 0, 2]), NAMES)
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert cifar.is_cifar(folder)
    train, test = cifar.read_cifar(folder)
    assert (len(train), len(test), train.classes) == (10, 4, NAMES)
    assert test.labels == (2, 1, 0, 2)
    assert all((np.asarray(train.image(i)) == images(10)[i]).all() for i in range(10))


@pytest.mark.parametrize("encoding", ["bytes", "latin1"])
def test_pickles_are_those_of_python_2(folder: Path, encoding: str) -> None:
    content = (folder / "cifar-10-batches-py" / "data_batch_1").read_bytes()
    loaded = pickle.loads(content, encoding=encoding)  # the snippet on CIFAR's page
    key: Any = b"data" if encoding == "bytes" else "data"
    assert loaded[key].shape == (2, 3072)
    assert loaded[key][0, 0] == images(10)[0, 0, 0, 0]  # red, first row


def test_torchvision_reads_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    theirs = CIFAR10(str(folder), train=False)
    assert theirs.classes == list(NAMES)
    assert (np.asarray(theirs[1][0]) == images(4)[1]).all()


def test_cifar100(tmp_path: Path) -> None:
    target = tmp_path / "cifar-100-python"
    target.mkdir()
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 2], b"coarse_labels": [0, 0]}
    other = {**batch, b"data": np.ones((2, 3072), np.uint8)}
    for name, content in (("train", batch), ("test", other), ("meta", {b"fine_label_names": list(NAMES)})):
        (target / name).write_bytes(pickle.dumps(content, protocol=2))
    train, test = cifar.read_cifar(tmp_path)
    assert (train.labels, test.labels, train.classes) == ((0, 2), (0, 2), NAMES)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": np.zeros((2, 3000), np.uint8)}, r"'data' is uint8 \(2, 3000\), not uint8 \(n, 3072\)"),
        ({"data": np.zeros((2, 3072))}, "'data' is float64"),
        ({"labels": [0]}, "'labels' has 1 entries for 2 images"),
        ({"labels": [0, 3]}, "image 1 has the label 3, but there are 3 classes"),
        ({"labels": [0, -1]}, "image 1 has the label -1"),
        ({"labels": None}, "'labels' has NoneType entries"),
    ],
)
def test_wrong_contents_are_named(folder: Path, change: dict[str, Any], what: str) -> None:
    file = folder / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], **change}))
    with pytest.raises(Problem, match=what) as caught:
        cifar.read_cifar(folder)
    assert "data_batch_3" in caught.value.where


def test_missing_and_hostile_files_are_refused(folder: Path) -> None:
    archive = folder / "cifar-10-batches-py"
    (archive / "test_batch").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(Problem, match="test_batch"):
        cifar.read_cifar(folder)
    (archive / "batches.meta").write_bytes(pickle.dumps({"label_names": []}))
    with pytest.raises(Problem, match="no list 'label_names'"):
        cifar.read_cifar(folder)
    (archive / "batches.meta").write_bytes(pickle.dumps([1]))
    with pytest.raises(Problem, match="holds no dictionary"):
        cifar.read_cifar(folder)
    (archive / "batches.meta").unlink()
    with pytest.raises(Problem, match=r"batches\.meta is missing"):
        cifar.read_cifar(folder)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_3"])
def test_a_test_batch_that_is_a_copy_is_refused(folder: Path, name: str) -> None:
    batches = folder / "cifar-10-batches-py"
    (batches / "test_batch").write_bytes((batches / name).read_bytes())
    with pytest.raises(Problem, match=f"test_batch is a copy of {name}"):
        cifar.read_cifar(folder)
