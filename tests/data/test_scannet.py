"""ScanNet: PLY, labels, splits, the sample, and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repertory.core.problem import Problem
from repertory.data import scannet
from repertory.data.scannet import GROUPS, IDS, IGNORE, LABELS, PLY, SEGMENTS


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scannet")
    scannet.write_sample(folder, train=3, val=2, points=400)
    return folder


def test_the_sample_is_read_as_it_was_written(sample: Path) -> None:
    train, val = scannet.read_split(sample, "train"), scannet.read_split(sample, "val")
    assert (len(train), len(val)) == (3, 2)
    assert train.classes == val.classes == scannet.SAMPLE_CLASSES
    places, colours, labels = train[0]
    assert places.shape == colours.shape == (400, 3)
    assert places.min() > -0.1
    assert (places.amax(0) < torch.tensor([4.1, 3.1, 2.6])).all()
    assert 0 <= colours.min() < colours.max() <= 1
    floor = places[labels == 0]
    assert len(floor) > 20
    assert floor[:, 2].abs().max() < 0.05
    assert labels.min() >= 0


def test_samples_are_the_same_for_a_seed_and_differ_between_seeds(sample: Path, tmp_path: Path) -> None:
    for seed, name in ((0, "same"), (1, "other")):
        (tmp_path / name).mkdir()
        scannet.write_sample(tmp_path / name, train=3, val=2, points=400, seed=seed)
    places = [scannet.read_split(folder, "val")[1][0] for folder in (sample, tmp_path / "same", tmp_path / "other")]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


def test_ply_with_other_properties_and_faces(tmp_path: Path) -> None:
    fields = [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("n", "<i2"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.array([(1, 2, 3, -4, 255, 0, 51)], fields)
    header = "ply\nformat binary_little_endian 1.0\ncomment a\nelement vertex 1\n"
    header += "".join(f"property double {axis}\n" for axis in "xyz") + "property short n\n"
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_bytes(header.encode() + vertices.tobytes() + b"\x03" + bytes(12))
    places, colours = scannet.read_points(tmp_path / "a.ply")
    assert places.tolist() == [[1, 2, 3]]
    assert colours[0].tolist() == pytest.approx([1, 0, 0.2])


def test_categories_of_one_number_share_a_class_and_others_have_none(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    (tmp_path / "data" / LABELS).write_text("id\traw_category\n7\tchair\n7\toffice chair\n8\tfloor\n9\twall\n")
    (tmp_path / "data" / IDS).write_text("8\n7\n")
    data = scannet.read_split(tmp_path / "data", "train")
    assert data.classes == ("floor", "chair")
    assert data.numbers == {"chair": 1, "office chair": 1, "floor": 0}
    assert {IGNORE, 0} <= set(data[0][2].tolist()) <= {IGNORE, 0, 1}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def ascii_format(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"binary_little_endian", b"ascii"))


def short(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "segIndices": content["segIndices"][1:]}))


SCENE = "scans/scene0000_00/scene0000_00"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (SCENE + PLY, cut, "cut short"),
        (SCENE + PLY, ascii_format, "not binary little-endian"),
        (SCENE + PLY, lambda path: path.write_bytes(b"solid"), "not a PLY file"),
        (SCENE + SEGMENTS, short, "399 segments for 400 points"),
        (SCENE + SEGMENTS, lambda path: path.write_text("{}"), "no list segIndices"),
        (SCENE + GROUPS, lambda path: path.write_text("[1"), "is not JSON"),
        (SCENE + GROUPS, lambda path: path.unlink(), "is missing"),
        (IDS, lambda path: path.write_text("1\nchair\n"), "not the number of a class: 'chair'"),
        (LABELS, lambda path: path.write_text("id,raw_category\n"), "no columns id and raw_category"),
        ("scannetv2_val.txt", lambda path: path.write_text("scene0000_00\n"), "share 1 scenes"),
        ("scannetv2_val.txt", lambda path: path.write_text("../secret\n"), "not the name of a scene"),
        ("scannetv2_train.txt", lambda path: path.write_text("scene0707_00\n"), "1 of 1 scenes of train are missing"),
    ],
)
def test_damage_is_named(file: str, change: Callable[[Path], Any], message: str, sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    change(tmp_path / "data" / file)
    with pytest.raises(Problem, match=message):
        scannet.read_split(tmp_path / "data", "train")[0]
