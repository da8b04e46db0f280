"""ADE20K: reading, mean intersection over union, the sample, and bad input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from repertory.core.problem import Problem
from repertory.data import ade20k
from repertory.data.ade20k import IGNORE


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ade20k")
    ade20k.write_sample(folder, train=6, val=3)
    return folder


def test_the_sample_is_read_back(sample: Path) -> None:
    train, val = ade20k.read_split(sample, "train"), ade20k.read_split(sample, "val")
    assert (len(train), len(val)) == (6, 3)
    assert (len(train.classes), train.classes[:4], train.classes[149]) == (
        150,
        ("photograph", "disc", "square", "4"),
        "triangle",
    )
    seen = set()
    for i, path in enumerate(train.annotations):
        image, classes = train[i]
        assert (image.shape, image.dtype, classes.dtype) == ((3, 128, 128), torch.float32, torch.int64)
        raw = torch.from_numpy(np.array(Image.open(path))).long()
        assert torch.equal(classes, torch.where(raw == 0, IGNORE, raw - 1))
        seen |= set(classes.unique().tolist())
    assert seen == {0, 1, 2, 149, IGNORE}


def test_the_sample_is_the_same_each_time(sample: Path, tmp_path: Path) -> None:
    ade20k.write_sample(tmp_path, train=6, val=3)
    files = [path.relative_to(sample) for path in sorted(sample.rglob("*")) if path.is_file()]
    assert len(files) == 2 * 9 + 1
    assert all((sample / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)


def test_the_archive_is_read_as_it_unpacks_and_names_are_optional(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "ADEChallengeData2016")
    (tmp_path / "ADEChallengeData2016" / ade20k.NAMES).unlink()
    data = ade20k.read_split(tmp_path, "val")
    assert (len(data), data.classes) == (3, tuple(str(k) for k in range(1, 151)))


def test_transforms_move_image_and_classes_together(sample: Path) -> None:
    data = ade20k.read_split(sample, "train")
    image, classes = data[2]
    mirrored, moved = data.with_transform(v2.RandomHorizontalFlip(1.0))[2]
    assert torch.equal(mirrored, image.flip(-1))
    assert torch.equal(moved, classes.flip(-1))
    fill: Any = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    padded, filled = data.with_transform(v2.Pad(4, fill=fill))[2]
    assert padded.shape == (3, 136, 136)
    assert (filled[:4] == IGNORE).all()
    assert torch.equal(filled[4:-4, 4:-4], classes)


def test_mean_iou(sample: Path) -> None:
    data = ade20k.read_split(sample, "train")
    for change, expected in ((lambda x: x, 1.0), (lambda x: (x + 5) % 150, 0.0)):
        metric = ade20k.mean_iou()
        for i in range(len(data)):
            classes = data[i][1][None]
            metric.update(change(classes.clamp(max=149)), classes)
        assert metric.compute() == expected


def test_mean_iou_counts_all_pixels_together_and_no_unlabelled_ones() -> None:
    metric = ade20k.mean_iou(4)  # class 3 is nowhere, and does not count
    metric.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, IGNORE]]]))
    metric.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    # class 0: 2 right, 1 too many, 1 missed; class 1: 1 right, 1 too many, 1 missed
    assert metric.compute().item() == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_own_classes_and_ids_from_0(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    (tmp_path / "data" / ade20k.OWN_NAMES).write_text("wall\nfloor\n\n")
    for path in (tmp_path / "data" / "annotations" / "validation").iterdir():
        Image.fromarray(np.array([[0, 1], [255, 1]], np.uint8).repeat(64, 0).repeat(64, 1)).save(path)
    data = ade20k.read_split(tmp_path / "data", "val", None, zero_is_ignore=False)
    assert data.classes == ("wall", "floor")
    assert data[0][1].unique().tolist() == [0, 1, IGNORE]
    assert ade20k.read_split(sample, "val", None).classes[-1] == "triangle"
    assert len(data.subset([2])) == 1


def test_frequency_of_classes_is_counted_once_and_kept(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    shutil.copytree(sample, tmp_path / "data")
    data = ade20k.read_split(tmp_path / "data", "train")
    counts = ade20k.class_frequency(data, tmp_path / "data")
    assert counts["image"][0] == len(data)
    maps = [data[i][1] for i in range(len(data))]
    assert counts["pixel"] == [sum(int((m == k).sum()) for m in maps) for k in range(150)]
    monkeypatch.setattr(ade20k.SceneSet, "masks", lambda _: pytest.fail("counted again"))
    assert ade20k.class_frequency(data, tmp_path / "data") == counts
    (tmp_path / "data" / ade20k.STATS).write_text("7\n" * 150)
    assert ade20k.class_frequency(data, tmp_path / "data")["image"] == [7] * 150
    (tmp_path / "data" / ade20k.STATS).write_text("7\n" * 149)
    with pytest.raises(Problem, match="149 counts for 150 classes"):
        ade20k.class_frequency(data, tmp_path / "data")
    (tmp_path / "data" / ade20k.STATS).write_text("7\n" * 149 + "many")
    with pytest.raises(Problem, match="line 150 is not a count: 'many'"):
        ade20k.class_frequency(data, tmp_path / "data")


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: Image.new("L", (128, 128), 151).save(path), "class 151 of 150"),
        (lambda path: Image.new("RGB", (128, 128)).save(path), "not one byte a pixel"),
        (lambda path: Image.new("L", (64, 128), 1).save(path), r"\(128, 128\) pixels, its annotation \(128, 64\)"),
        (lambda path: path.write_bytes(b"no"), "cannot be read"),
    ],
)
def test_a_broken_annotation_is_named(change: Any, message: str, sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    data = ade20k.read_split(tmp_path / "data", "val")
    change(data.annotations[1])
    data[0]
    with pytest.raises(Problem, match=message) as caught:
        data[1]
    assert caught.value.where == str(data.annotations[1])


def test_remedies_for_ids_that_count_otherwise(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "data")
    data = ade20k.read_split(tmp_path / "data", "val", 149, zero_is_ignore=False)
    Image.new("L", (128, 128), 149).save(data.annotations[0])
    with pytest.raises(Problem, match="class 149 of 149") as caught:
        data[0]
    assert "zero_is_ignore=true" in caught.value.remedy
    Image.new("RGB", (128, 128)).save(data.annotations[1])
    with pytest.raises(Problem, match="not one byte") as caught:
        data[1]
    assert "palette or colour-coded; expected class ids" in caught.value.remedy
    Image.fromarray(np.array([[200, 220], [0, 3]], np.uint8).repeat(64, 0).repeat(64, 1)).save(data.annotations[2])
    with pytest.raises(Problem, match="class 200, 220 of 149"):
        data[2]
    (tmp_path / "data" / ade20k.OWN_NAMES).write_text("a\n" * 255)
    with pytest.raises(Problem, match="255 classes, and a byte holds 254"):
        ade20k.read_split(tmp_path / "data", "val", None)


def test_missing_files_are_named(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no images here") as caught:
        ade20k.read_split(tmp_path, "train")
    assert caught.value.where == str(tmp_path / "images" / "training")
    shutil.copytree(sample, tmp_path / "data")
    lost = sorted((tmp_path / "data" / "annotations" / "training").iterdir())[3]
    lost.unlink()
    with pytest.raises(Problem, match="1 of 6 images have no annotation") as caught:
        ade20k.read_split(tmp_path / "data", "train")
    assert caught.value.where == str(lost)
