"""COCO: reading, masks, evaluation beside pycocotools itself, the sample, and bad input."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from repertory.core.problem import Problem
from repertory.data import coco
from repertory.data.coco import CocoSet

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    coco.write_sample(folder, train=12, val=5)
    return folder


@pytest.fixture(scope="module")
def train(sample: Path) -> CocoSet:
    return coco.read_split(sample, "train", masks=True)


def perfect(data: CocoSet) -> list[dict[str, Any]]:
    """The annotations as if they had been found."""
    found = []
    for _, target in data:  # pyright: ignore[reportGeneralTypeIssues]
        output = {**target, "scores": torch.ones(len(target["labels"]))}
        if "masks" in target:
            output["masks"] = target["masks"][:, None].float()
        found += data.results(target["image_id"], output)
    return found


def content_of(sample: Path) -> dict[str, Any]:
    return json.loads((sample / "annotations" / "instances_train2017.json").read_text())


def write(folder: Path, content: Any) -> Path:
    """`content` as the annotations of one grey image, img/a.png of 40 x 30 pixels."""
    (folder / "img").mkdir(exist_ok=True)
    Image.new("L", (40, 30), 128).save(folder / "img" / "a.png")
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one_image(*rows: dict[str, Any]) -> dict[str, Any]:
    """Annotations on one image, of the categories 7 and 90."""
    box = [[2.0, 3, 12, 3, 12, 13, 2, 13]]
    basis = {"image_id": 5, "category_id": 7, "bbox": [2, 3, 10, 10], "area": 100, "iscrowd": 0, "segmentation": box}
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": 30, "width": 40}],
        "annotations": [{**basis, "id": k, **row} for k, row in enumerate(rows)],
        "categories": [{"id": 90, "name": "brush"}, {"id": 7, "name": "train"}],
    }


# -- reading ------------------------------------------------------------------------------------


def test_the_sample_is_read_back(sample: Path, train: CocoSet) -> None:
    content = content_of(sample)
    assert len(train) == 12
    assert (train.classes, train.category_ids) == (("disc", "square", "triangle"), (1, 3, 18))
    for i, info in enumerate(content["images"]):
        rows = [row for row in content["annotations"] if row["image_id"] == info["id"] and not row["iscrowd"]]
        image, target = train[i]
        assert (image.shape, image.dtype) == ((3, 128, 128), torch.float32)
        assert 0 <= image.min() <= image.max() <= 1
        assert target["image_id"] == info["id"]
        assert [train.category_ids[k - 1] for k in target["labels"]] == [row["category_id"] for row in rows]
        expected = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)])
        torch.testing.assert_close(target["boxes"], expected.view(-1, 4), atol=1e-3, rtol=0)
        for mask, row in zip(target["masks"], rows, strict=True):
            assert mask.sum().item() == pytest.approx(row["area"], rel=0.15)
            x, y, w, h = row["bbox"]
            inside = mask[math.floor(y) : math.ceil(y + h) + 1, math.floor(x) : math.ceil(x + w) + 1]
            assert inside.sum() == mask.sum()


def test_the_sample_has_crowds_and_an_image_without_objects(sample: Path, train: CocoSet) -> None:
    crowds = [row for row in content_of(sample)["annotations"] if row["iscrowd"]]
    assert len(crowds) == 3
    for row in crowds:
        runs = coco._run_lengths(row["segmentation"], 128, 128)
        assert coco.require("pycocotools.mask", "detection").area(runs) == row["area"]
    image, target = train[0]
    assert image.shape == (3, 128, 128)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 128, 128)
    assert all(len(train.with_objects()[i][1]["labels"]) for i in range(len(train.with_objects())))
    assert 0 < len(train.with_objects()) < 12


def test_the_sample_is_the_same_each_time(sample: Path, tmp_path: Path) -> None:
    coco.write_sample(tmp_path, train=12, val=5)
    files = [path.relative_to(sample) for path in sorted(sample.rglob("*")) if path.is_file()]
    assert len(files) == 12 + 5 + 2
    assert all((sample / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)


def test_boxes_are_cut_at_the_border_and_those_without_area_left_out(tmp_path: Path) -> None:
    rows = [{"bbox": [30, 20, 20, 20]}, {"bbox": [5, 5, 0, 8]}, {"bbox": [50, 5, 3, 3]}, {"iscrowd": 1}, {}]
    data = coco.read(write(tmp_path, one_image(*rows)), tmp_path / "img")
    assert data[0][1]["boxes"].tolist() == [[30, 20, 40, 30], [2, 3, 12, 13]]
    assert data[0][1]["labels"].tolist() == [1, 1]
    assert data.classes == ("train", "brush")
    assert len(coco.read(write(tmp_path, one_image(*rows[1:4])), tmp_path / "img").with_objects()) == 0


@pytest.mark.parametrize("form", ["polygons", "run lengths", "packed"])
def test_every_form_of_segmentation_gives_the_same_mask(form: str, tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[3:13, 2:12] = True
    unpacked = coco.unpacked(mask)
    packed = coco._run_lengths(unpacked, 30, 40)
    forms: dict[str, Any] = {
        "polygons": [[2, 3, 7, 3, 7, 13, 2, 13], [7, 3, 12, 3, 12, 13, 7, 13]],
        "run lengths": unpacked,
        "packed": {"size": packed["size"], "counts": packed["counts"].decode()},
    }
    data = coco.read(write(tmp_path, one_image({"segmentation": forms[form]})), tmp_path / "img", masks=True)
    assert (data[0][1]["masks"].numpy() == mask).all()


def test_transforms_move_image_boxes_and_masks_together(train: CocoSet) -> None:
    index = next(i for i in range(12) if len(train[i][1]["labels"]))
    image, target = train[index]
    mirrored, moved = train.with_transform(v2.RandomHorizontalFlip(1.0))[index]
    assert torch.equal(mirrored, image.flip(-1))
    torch.testing.assert_close(moved["boxes"][:, [2, 0]], 128 - target["boxes"][:, [0, 2]])
    assert torch.equal(moved["masks"], target["masks"].flip(-1))
    assert all(type(value) is torch.Tensor for value in (mirrored, moved["boxes"], moved["masks"]))
    assert moved["image_id"] == target["image_id"]


def test_boxes_are_of_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    path = write(tmp_path, one_image({}))
    image = Image.open(tmp_path / "img" / "a.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "img" / "a.png", exif=exif)
    assert coco.read(path, tmp_path / "img")[0][0].shape == (3, 30, 40)


def test_several_years_need_the_year(sample: Path, tmp_path: Path) -> None:
    for year in (2014, 2017):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        text = (sample / "annotations" / "instances_val2017.json").read_text()
        (tmp_path / "annotations" / f"instances_val{year}.json").write_text(text)
        (tmp_path / f"val{year}").mkdir()
    with pytest.raises(Problem, match="2 files of annotations for 'val'"):
        coco.read_split(tmp_path, "val")
    assert coco.read_split(tmp_path, "val2014").root == tmp_path / "val2014"


# -- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_results_have_ap_100_and_none_have_0(kind: Any, train: CocoSet) -> None:
    found = json.loads(json.dumps(perfect(train)))  # they are JSON as they stand
    for results, expected in ((found, 100.0), ([], 0.0)):
        metrics = train.evaluate(results, kind)
        assert list(metrics) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
        assert math.isnan(metrics.pop("APl"))  # the sample has no objects above 96 x 96
        assert metrics == pytest.approx(dict.fromkeys(metrics, expected))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_scores_are_those_of_pycocotools_on_the_file(kind: Any, sample: Path, train: CocoSet) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    found = [dict(row) for row in perfect(train) for _ in range(2) if rng.random() < 0.8]
    for row in found:
        row["score"] = float(rng.random())
        row["bbox"] = (np.array(row["bbox"]) + rng.normal(0, 3, 4)).clip(1).tolist()
        if rng.random() < 0.2:
            row["category_id"] = 3
        if kind == "segm":
            del row["bbox"]
    with redirect_stdout(io.StringIO()):
        official: Any = COCO(str(sample / "annotations" / "instances_train2017.json"))
        judge = COCOeval(official, official.loadRes([dict(row) for row in found]), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    metrics = train.evaluate(found, kind)
    assert 5 < metrics["AP"] < 95
    assert [metrics[name] for name in ("AP", "AP50", "AP75", "APs", "APm")] == pytest.approx(100 * judge.stats[:5])


def test_annotations_counted_from_0_can_be_found(tmp_path: Path) -> None:
    data = coco.read(write(tmp_path, one_image({"id": 0})), tmp_path / "img")
    assert data.evaluate(perfect(data))["AP"] == pytest.approx(100)


def test_a_subset_is_judged_on_its_own_images(train: CocoSet) -> None:
    found = perfect(train)
    part = train.subset([1, 2])
    assert part.evaluate([row for row in found if row["image_id"] in (2, 3)])["AP"] == pytest.approx(100)
    with pytest.raises(Problem, match="a result is of image 4"):
        part.evaluate([{**found[0], "image_id": 4}])


def test_what_is_found_on_a_crowd_is_not_wrong(tmp_path: Path) -> None:
    crowd = {"iscrowd": 1, "bbox": [20, 10, 15, 15], "area": 225, "segmentation": {"size": [30, 40], "counts": [1200]}}
    content = one_image({}, crowd)
    data = coco.read(write(tmp_path, content), tmp_path / "img")
    extra = {"image_id": 5, "category_id": 7, "bbox": [22, 12, 8, 8], "score": 2.0}
    assert data.evaluate([*perfect(data), extra])["AP"] == pytest.approx(100)
    assert data.evaluate([*perfect(data), {**extra, "bbox": [0, 20, 8, 8]}])["AP"] < 60


def test_the_background_is_not_a_result(train: CocoSet) -> None:
    output = {"boxes": torch.ones(2, 4), "labels": torch.tensor([0, 3]), "scores": torch.ones(2)}
    assert [row["category_id"] for row in train.results(1, output)] == [18]


def test_masks_that_were_not_read_cannot_be_judged(sample: Path) -> None:
    with pytest.raises(Problem, match="read without masks"):
        coco.read_split(sample, "val").evaluate([], "segm")


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", "not in COCO's format"),
        ({"images": [], "annotations": []}, "not in COCO's format"),
        (one_image({"image_id": 6}), "annotation 0 is of image 6"),
        (one_image({}, {"category_id": 8}), "annotation 1 is of category 8"),
        (one_image({"bbox": [1, 2, 3]}), r"annotation 0 has the box \[1, 2, 3\]"),
        (one_image({"bbox": [1, 2, 3, float("nan")]}), "annotation 0 has the box"),
        (one_image({"bbox": None}), "annotation 0 has the box None"),
        (one_image({"segmentation": []}), "annotation 0 has no segmentation"),
        (one_image({"segmentation": [[1, 2, 3, 4]]}), "fewer than three corners"),
    ],
)
def test_broken_annotations_are_named(content: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(Problem, match=message) as caught:
        coco.read(path, tmp_path / "img", masks=True)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.unlink(), "is missing"),
        (lambda image: image.write_bytes(b"no"), "not an image"),
        (
            lambda image: Image.new("L", (30, 40)).save(image),
            r"has \(40, 30\) pixels, but \(30, 40\) in the annotations",
        ),
    ],
)
def test_a_broken_image_is_named(change: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    data = coco.read(write(tmp_path, one_image({})), tmp_path / "img")
    change(tmp_path / "img" / "a.png")
    with pytest.raises(Problem, match=message) as caught:
        data[0]
    assert caught.value.where == str(tmp_path / "img" / "a.png")


def test_checks_by_columns_and_by_rows_read_the_same(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of(sample)
    for number, row in enumerate(content["annotations"]):
        row.pop(("area", "iscrowd")[number % 2])
    content["annotations"].reverse()
    read = [coco.from_content(content, sample / "a.json", sample, masks=True)]
    monkeypatch.setattr(coco, "_sound_columns", lambda *_: None)
    read.append(coco.from_content(content, sample / "a.json", sample, masks=True))
    assert read[0].images == read[1].images
    for one, other in zip(*(data.objects for data in read), strict=True):
        np.testing.assert_array_equal(np.array(one, object), np.array(other, object))


def test_missing_files_are_named(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="0 files of annotations") as caught:
        coco.read_split(tmp_path, "train")
    assert caught.value.where == str(tmp_path / "annotations")
    with pytest.raises(Problem, match="no folder of images"):
        coco.read(sample / "annotations" / "instances_train2017.json", tmp_path / "none")
    with pytest.raises(Problem, match="is missing"):
        coco.read(tmp_path / "none.json", sample / "train2017")


# -- classes, recall, boxes as masks ------------------------------------------------------------


def restricted(data: CocoSet, results: list[dict[str, Any]], names: set[str]) -> float:
    """AP in percent by COCOeval with `catIds`."""
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        truth = data._truth()
        judged = COCOeval(truth, truth.loadRes([{**row} for row in results]), "segm")
        judged.params.catIds = [k for k, name in zip(data.category_ids, data.classes, strict=True) if name in names]
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return 100 * float(judged.stats[0])


def test_precision_of_classes_is_that_of_restricted_categories(train: CocoSet) -> None:
    results = perfect(train)
    for k, row in enumerate(results):
        row["score"] = 1 - k / len(results)
        if k % 3 == 0:
            row["category_id"] = 18
    results = [{key: value for key, value in row.items() if key != "bbox"} for row in results]
    by_class = train.class_precision(results, "segm")
    assert list(by_class) == list(train.classes)
    assert 0 < min(by_class.values()) < 100
    for names in ({"disc"}, {"disc", "triangle"}, set(train.classes)):
        mean = float(np.mean([by_class[name] for name in names]))
        assert mean == pytest.approx(restricted(train, results, names), abs=1e-9)
    assert train.evaluate(results, "segm")["AP"] == pytest.approx(np.mean(list(by_class.values())))


def test_recall_does_not_ask_for_the_class(train: CocoSet) -> None:
    results = [{**row, "category_id": 3} for row in perfect(train)]
    assert train.recall(results, "segm") == pytest.approx(100)
    assert train.recall(results[:1], "segm") < 50
    assert math.isnan(train.only(np.zeros(len(train.objects.labels), bool)).recall([], "segm"))


def test_some_objects_of_the_same_images(train: CocoSet) -> None:
    kept = train.objects.labels == 2
    squares = train.only(kept)
    assert len(squares) == len(train)
    assert set(squares.objects.labels) == {2}
    for (_, some), (_, every) in zip(squares, train, strict=True):  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(some["masks"], every["masks"][every["labels"] == 2])


def test_a_box_is_the_mask_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, one_image({"segmentation": None, "bbox": [4, 6, 10, 8]}, {}))
    with pytest.raises(Problem, match=r"annotation 0 has no segmentation[\s\S]*boxes_as_masks"):
        coco.read(path, tmp_path / "img", masks=True)
    with pytest.warns(UserWarning, match="1 annotations have no segmentation"):
        data = coco.read(path, tmp_path / "img", masks=True, boxes_as_masks=True)
    mask = data[0][1]["masks"][0]
    assert mask[6:14, 4:14].all()
    assert mask.sum() == 80
