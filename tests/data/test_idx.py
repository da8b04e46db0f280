"""IDX files: round trips, plain and gzipped, and damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import idx


def test_the_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    idx.write_sample(tmp_path)
    train, test = (idx.read_part(tmp_path, part) for part in idx.PARTS)
    assert train.images.shape == (1347, 16, 16)
    assert test.images.shape == (450, 16, 16)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    wanted = idx.digits()
    assert np.array_equal(train.images, wanted[0].images)
    assert np.array_equal(test.labels, wanted[1].labels)
    counts = np.bincount(test.labels)
    assert counts.max() - counts.min() <= 3, "stratified"


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"])
def test_both_spellings_plain_and_gzipped(name: str, tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    idx.write_array(tmp_path / name, array)
    found = idx.find(tmp_path, "train", "images")
    assert found is not None
    assert np.array_equal(idx.read_array(found), array)
    if not name.endswith(".gz"):
        assert found.read_bytes()[:8] == struct.pack(">II", 2051, 2)


def test_other_kinds_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(struct.pack(">HBBI", 0, 13, 1, 2) + struct.pack(">ff", 1.5, -2.0))
    assert idx.read_array(tmp_path / "f").tolist() == [1.5, -2.0]


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    for content, complaint in (
        (b"PNG!" + bytes(20), "its magic number is"),
        (b"\x00", "its magic number is"),
        (struct.pack(">IIII", 2051, 2, 3, 4) + bytes(23), "23 bytes of numbers, its head says 24"),
    ):
        path.write_bytes(content)
        with pytest.raises(Problem, match=complaint):
            idx.read_array(path)
    gzipped = tmp_path / "x.gz"
    gzipped.write_bytes(b"not gzip")
    with pytest.raises(Problem, match=r"x\.gz cannot be read"):
        idx.read_array(gzipped)
    with pytest.raises(Problem, match="no IDX files of the test part"):
        idx.read_part(tmp_path, "test")
    idx.write_array(path, np.zeros((2, 3, 4), np.uint8))
    idx.write_array(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(Problem, match=r"images of \(2, 3, 4\), labels of \(3,\)"):
        idx.read_part(tmp_path, "train")
