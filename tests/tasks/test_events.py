"""Classification of event streams: reading, tensors, loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repertory.core.problem import Problem
from repertory.data.events import EventSet, make_events, write_atis
from repertory.nn.spiking import tet_loss
from repertory.tasks.events import EventRecipe, Streams, classification_loss, read_options, read_splits, unlabelled


def write_streams(folder: Path, seeds: dict[str, int]) -> Path:
    """One stream of a 12 x 10 sensor for each name, from the seed given."""
    for name, seed in seeds.items():
        rng = np.random.default_rng(seed)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        t = np.sort(rng.integers(50_000, size=20))
        write_atis(path, make_events(rng.integers(12, size=20), rng.integers(10, size=20), t, rng.integers(2, size=20)))
    return folder


def test_the_recipe_says_how_files_are_read(tmp_path: Path) -> None:
    recipe = EventRecipe(sensor="12x10", time_unit="ms", upright=True, dvs_scale=4)
    assert read_options(recipe) == {"size": (10, 12), "unit": "ms", "upright": True, "scale": 4}
    assert read_options(EventRecipe())["size"] is None
    names = ["left", "right"]
    data = unlabelled(write_streams(tmp_path, {"2.bin": 2, "deep/1.bin": 1}), names, (10, 12), recipe)
    assert ([path.name for path in data.paths], data.labels, data.names) == (["2.bin", "1.bin"], (0, 0), tuple(names))
    assert (data.size, data.unit, data.upright) == ((10, 12), "ms", True)
    (tmp_path / "none").mkdir()
    with pytest.raises(Problem, match="no streams here"):
        unlabelled(tmp_path / "none", names, (10, 12), recipe)


@pytest.mark.parametrize("sensor", ["big", "12", "0x5", "12x-3"])
def test_a_sensor_without_a_size_is_refused(sensor: str) -> None:
    with pytest.raises(ValueError, match=f"not the size of a sensor: '{sensor}'; give WIDTHxHEIGHT"):
        EventRecipe(sensor=sensor)


def test_streams_in_both_parts_are_named(tmp_path: Path) -> None:
    recipe = EventRecipe(sensor="12x10")
    parts = {"train/a/0.bin": 0, "train/b/0.bin": 1, "test/a/0.bin": 2, "test/b/0.bin": 3}
    train, test = read_splits(write_streams(tmp_path / "fair", parts), recipe)
    assert (len(train), len(test)) == (2, 2)
    with pytest.warns(UserWarning, match=r"1 test streams are training streams too, .*train.a.0.bin and .*test.b.0"):
        read_splits(write_streams(tmp_path / "leaky", {**parts, "test/b/0.bin": 0}), recipe)


def test_streams_apply_their_steps_in_order(tmp_path: Path) -> None:
    paths = tuple(write_streams(tmp_path, {"0.bin": 0, "1.bin": 1}) / f"{k}.bin" for k in range(2))
    data = EventSet(paths, (1, 0), ("a", "b"), (10, 12))
    streams = Streams(data, lambda events: events["x"][:3], torch.from_numpy, lambda x: 2 * x)
    x, label = streams[1]
    assert (len(streams), label, x.tolist()) == (2, 0, (2 * data.events(1)["x"][:3]).tolist())


def test_the_loss_of_spiking_and_other_networks() -> None:
    logits, y = torch.arange(24.0).view(4, 2, 3).sin(), torch.tensor([2, 0])
    network = nn.Identity()
    assert classification_loss(network, (logits[0], y)) == F.cross_entropy(logits[0], y)
    assert classification_loss(network, (logits, y)) == F.cross_entropy(logits.mean(0), y)
    assert classification_loss(network, (logits, y), tet=True) == tet_loss(logits, y)
