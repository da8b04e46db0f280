"""Spike trains in HDF5: round trips, counts in steps, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repertory.core.problem import Problem
from repertory.data import shd

h5py = pytest.importorskip("h5py")


def test_the_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    shd.write_sample(tmp_path, np.random.default_rng(0))
    found = {part: shd.find(tmp_path, part) for part in ("train", "test")}
    assert found["train"] is not None
    assert found["test"] is not None
    test = shd.read(found["test"])
    assert len(test) == 450
    assert test.names == tuple("0123456789")
    again = shd.scanned(shd.digits(8)[1], _after_train())
    for n in (0, 449):
        assert np.allclose(test.times[n], again.times[n], atol=1e-6)
        assert np.array_equal(test.units[n], again.units[n])
    assert (np.diff(test.times[3]) >= 0).all()
    with h5py.File(found["test"]) as file:
        assert set(file) == {"spikes", "labels", "extra"}
        assert file["spikes/times"][0].dtype == np.float32


def _after_train() -> np.random.Generator:
    """The generator as it is once the training part is written."""
    rng = np.random.default_rng(0)
    shd.scanned(shd.digits(8)[0], rng)
    return rng


def test_counts_in_steps() -> None:
    data = shd.Recordings([np.array([0.0, 0.0009, 0.0021, 0.5])], [np.array([1, 1, 3, 0])], np.array([0]), ("a",))
    counts = data.counts(0, 4, 1.0, 5)
    assert counts.shape == (4, 5)
    assert {(t, u): c for (t, u), c in np.ndenumerate(counts) if c} == {(0, 1): 2, (2, 3): 1}
    assert data.counts(0, 300, 2.0, 5)[250, 0] == 1


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "shd_train.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(Problem, match="the HDF5 file cannot be read"):
        shd.read(path)
    good = shd.Recordings([np.array([0.1])], [np.array([3])], np.array([0]), ())
    shd.write(path, good)
    assert shd.read(path).names == ("0",)
    with h5py.File(path, "a") as file:
        del file["labels"]
    with pytest.raises(Problem, match="not a file of spike trains"):
        shd.read(path)
    shd.write(path, shd.Recordings([np.array([0.1])], [np.array([701])], np.array([0]), ()))
    with pytest.raises(Problem, match="recording 0: 1 times, units 701 to 701"):
        shd.read(path)
    shd.write(path, shd.Recordings([np.array([0.1])] * 2, [np.array([1])] * 2, np.array([0]), ()))
    with pytest.raises(Problem, match="2 times, 2 units, 1 labels"):
        shd.read(path)
