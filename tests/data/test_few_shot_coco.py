"""Few-shot files in COCO's format: both layouts, shots by file and drawn, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repertory.core.problem import Problem
from repertory.data import coco
from repertory.data.coco import CocoSet
from repertory.data.few_shot_coco import COCO_NOVEL, FewShotData, draw_shots, read_few_shot, shot_file, write_shots

pytest.importorskip("pycocotools")

NAMES = ("bolt", "cog", "nut")
IDS = {"bolt": 4, "cog": 9, "nut": 11}


def content(counts: list[dict[str, int]], first: int = 1, names: dict[str, int] | None = None) -> dict[str, Any]:
    """Annotations on grey images, by the number of objects of each class on each image."""
    ids = names or IDS
    images, rows = [], []
    for number, objects in enumerate(counts, first):
        images.append({"id": number, "file_name": f"{number}.png", "height": 20, "width": 30})
        for name, count in objects.items():
            for _ in range(count):
                x, y = 2 * (len(rows) % 9), len(rows) % 7
                box = [x, y, 4, 5]
                outline = [[x, y, x + 4, y, x + 4, y + 5, x, y + 5]]
                rows.append(
                    {
                        "id": 100 + len(rows), "image_id": number, "category_id": ids[name], "bbox": box, "area": 20,
                        "iscrowd": 0, "segmentation": outline,
                    }
                )  # fmt: skip
    categories = [{"id": k, "name": name, "supercategory": "part"} for name, k in ids.items()]
    return {"images": images, "annotations": rows, "categories": categories}


def write(folder: Path, file: str, annotations: dict[str, Any], part: str = "images") -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    for image in annotations["images"]:
        Image.new("L", (30, 20), 128).save(folder / part / image["file_name"])
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(annotations))


TRAIN: list[dict[str, int]] = [
    {"bolt": 1, "cog": 1}, {"bolt": 2}, {"nut": 3}, {"cog": 1, "nut": 1}, {"nut": 1}, {"cog": 2}, {"bolt": 1},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "annotations/instances_train.json", content(TRAIN))
    write(tmp_path, "annotations/instances_val.json", content([{"bolt": 1, "nut": 1}], 50))
    (tmp_path / "novel_classes.txt").write_text("nut\n\n")
    return tmp_path


def read(folder: Path, count: int = 2, seed: int = 0, **options: Any) -> FewShotData:
    return read_few_shot(folder, count, seed, np.random.default_rng(0), **options)


def counts(data: CocoSet) -> dict[str, int]:
    return {name: int((data.objects.labels == k).sum()) for k, name in enumerate(data.classes, 1)}


def test_novel_objects_lose_their_annotations_and_images_stay(folder: Path) -> None:
    data = read(folder)
    assert (data.base, data.novel, data.count) == (("bolt", "cog"), ("nut",), 2)
    assert counts(data.train) == {"bolt": 4, "cog": 4, "nut": 0}
    assert len(data.train) == len(TRAIN)
    assert counts(data.test) == {"bolt": 1, "cog": 0, "nut": 1}
    assert data.train.category_ids == (4, 9, 11)


def test_shots_without_files_are_drawn(folder: Path) -> None:
    data = read(folder)
    assert counts(data.shots) == {"bolt": 2, "cog": 2, "nut": 2}
    assert all(info.objects.stop > info.objects.start for info in data.shots.images)
    with pytest.raises(Problem, match="class 'nut' has 5 instances: no images hold exactly 6"):
        read(folder, 6)
    assert counts(read(folder, 5).shots)["bolt"] == 0  # a rare base class has none


def test_larger_numbers_of_shots_extend_smaller_ones(folder: Path) -> None:
    data = coco.read(folder / "annotations" / "instances_train.json", folder / "images", masks=True)
    found = {}
    for seed in range(5):
        shots = draw_shots(data, "nut", (4, 1), np.random.default_rng(seed))
        assert [len(shots[k]) for k in (1, 4)] == [1, 4]
        assert {*shots[1]} <= {*shots[4]}
        assert {*data.objects.labels[shots[4]]} == {3}
        found[tuple(shots[1])] = seed
    assert len(found) > 1


def test_written_files_hold_exactly_k_instances_and_are_read_back(folder: Path) -> None:
    annotations = content(TRAIN)
    data = coco.from_content(annotations, folder, folder / "images", masks=True)
    write_shots(folder, annotations, data, (0, 1), (1, 2))
    for seed in (0, 1):
        for name in NAMES:
            for count in (1, 2):
                path = shot_file(folder, seed, count, name)
                told = json.loads(path.read_text())
                assert [row["category_id"] for row in told["annotations"]] == [IDS[name]] * count
                assert {row["image_id"] for row in told["annotations"]} == {row["id"] for row in told["images"]}
                assert len(told["categories"]) == 3
    given = [read(folder, 2, seed).shots for seed in (0, 1, 2)]
    for shots in given:
        assert counts(shots) == {"bolt": 2, "cog": 2, "nut": 2}
    names = [[info.file_name for info in shots.images] for shots in given]
    assert names[0] == names[2]  # seeds count modulo those that are there
    boxes = {tuple(row["bbox"]) for row in json.loads(shot_file(folder, 1, 2, "nut").read_text())["annotations"]}
    assert boxes == {tuple(box) for box in given[1].objects.boxes[given[1].objects.labels == 3]}


def test_files_of_seed_0_may_lie_above(folder: Path) -> None:
    annotations = content(TRAIN)
    data = coco.from_content(annotations, folder, folder / "images", masks=True)
    write_shots(folder, annotations, data, (0,), (2,))
    for path in (folder / "cocosplit" / "seed0").iterdir():
        path.rename(folder / "cocosplit" / path.name)
    assert shot_file(folder, 0, 2, "nut").parent.name == "cocosplit"
    assert counts(read(folder).shots) == {"bolt": 2, "cog": 2, "nut": 2}


def test_the_layout_of_coco(tmp_path: Path) -> None:
    ids = {name: 2 * k + 1 for k, name in enumerate([*COCO_NOVEL, "kite", "spoon"])}
    shown = [{"kite": 1, "dog": 1}, {"spoon": 1}, {"dog": 1}, *({name: 1} for name in COCO_NOVEL)]
    write(tmp_path, "cocosplit/datasplit/trainvalno5k.json", content(shown, names=ids), "train2014")
    (tmp_path / "val2014").mkdir()
    for name in ("2.png", "3.png"):  # the larger training set takes images of both folders
        (tmp_path / "train2014" / name).rename(tmp_path / "val2014" / name)
    write(tmp_path, "cocosplit/datasplit/5k.json", content([{"dog": 1}], 900, ids), "val2014")
    data = read(tmp_path, 1)
    assert data.novel == COCO_NOVEL
    assert data.base == ("kite", "spoon")
    assert data.train.images[1].file_name == "val2014/2.png"
    assert counts(data.train)["dog"] == 0
    image, target = data.shots[0]
    assert image.shape == (3, 20, 30)
    assert len(target["labels"])


def test_two_files_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, "base.json", content([{"bolt": 1, "cog": 1}] * 5))
    write(tmp_path, "shots.json", content([{"nut": 2}, {"nut": 1}], 30))
    data = read(tmp_path, base_json="base.json", shots_json="shots.json")
    assert data.novel == ("nut",)
    assert counts(data.shots) == {"bolt": 2, "cog": 2, "nut": 2}  # the first K
    assert (len(data.train), len(data.test)) == (4, 1)
    with pytest.raises(Problem, match="class 'nut' has 3 instances, fewer than the 4 shots"):
        read(tmp_path, 4, base_json="base.json", shots_json="shots.json")
    write(tmp_path, "base.json", content([{"bolt": 1, "nut": 1}] * 5))
    with pytest.raises(Problem, match="class 'nut' is novel and has annotations in the base file too"):
        read(tmp_path, base_json="base.json", shots_json="shots.json")


def test_boxes_may_stand_for_masks(folder: Path) -> None:
    path = folder / "annotations" / "instances_train.json"
    annotations = json.loads(path.read_text())
    del annotations["annotations"][0]["segmentation"]
    path.write_text(json.dumps(annotations))
    with pytest.raises(Problem, match=r"annotation 100 has no segmentation[\s\S]*boxes_as_masks"):
        read(folder)
    with pytest.warns(UserWarning, match="1 annotations have no segmentation"):
        assert read(folder, boxes_as_masks=True).train[0][1]["masks"].sum(-1).sum(-1).tolist() == [20, 20]


def test_missing_images_are_named(folder: Path) -> None:
    for number in range(1, 8):
        (folder / "images" / f"{number}.png").unlink()
    with pytest.raises(Problem, match=r"7 images are missing \(first: 1.png, 2.png, 3.png, 4.png, 5.png\)"):
        read(folder)


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="the novel class 'nutt' is no category: did you mean nut"):
        read(folder, novel=("nutt",))
    with pytest.raises(Problem, match="novel classes alone"):
        read(folder, novel=NAMES)
    path = shot_file(folder, 0, 2, "nut")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content([{"nut": 1}])))
    with pytest.raises(Problem, match=r"class 'nut' has 1 instances, fewer than the 2 shots\nwhere: .*2shot_nut"):
        read(folder)
    path.write_text(json.dumps(content([{"nut": 2, "cog": 1}])))
    with pytest.raises(Problem, match="annotations of 'cog' among the shots of 'nut'"):
        read(folder)
    path.unlink()
    (folder / "novel_classes.txt").unlink()
    with pytest.raises(Problem, match="which classes are novel"):
        read(folder)
    (folder / "novel_classes.txt").write_text("nut")
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content([{"nut": 1}])))
    with pytest.raises(Problem, match="1 images are both in training and held out"):
        read(folder)
    (folder / "annotations" / "instances_val.json").unlink()
    with pytest.raises(Problem, match=r"0 files annotations/instances_val\*.json"):
        read(folder)
