"""COCO detection and instance segmentation, as its owners distribute it.

    annotations/instances_{train,val}2017.json
    {train,val}2017/*.jpg

Samples are what torchvision's detectors take; scores are those of pycocotools.

What the annotations hold and samples do not: crowds (regions with uncounted objects; in the evaluation nothing found
there counts as wrong) and boxes without area. Labels are 1, 2, ... in the order of the category numbers, which have
gaps; 0 is the background.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from repertory.core.files import write_json
from repertory.core.problem import Problem, require
from repertory.data.images import read_image
from repertory.data.scenes import draw_scenes

LAYOUT = """\
annotations/instances_{train,val}2017.json
{train,val}2017/*.jpg"""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class CocoImage(NamedTuple):
    """One image, and where its objects stand in `Objects`."""

    id: int
    file_name: str
    height: int
    width: int
    objects: slice


class Objects(NamedTuple):
    """All annotations, image by image."""

    boxes: NDArray[np.float64]
    """(M, 4): x, y, width, height in pixels, as in the file"""
    labels: NDArray[np.int64]
    """(M,) from 1"""
    area: NDArray[np.float64]
    """(M,) in pixels, of the mask"""
    crowd: NDArray[np.bool_]
    """(M,)"""
    segmentations: list[Any]
    """polygons or run lengths; empty, where masks were not asked for"""


@dataclass(frozen=True, eq=False)  # arrays do not compare
class CocoSet(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images and the objects on them.

    `self[i]` is an image, (3, H, W) from 0 to 1, and a dict with `boxes` (n, 4) as x1, y1, x2, y2 in pixels, within
    the image, `labels` (n,) int64 from 1, `image_id`, and, if asked for, `masks` (n, H, W) uint8.

    Args:
        root: folder of the images.
        images: what the file says about them.
        objects: what the file says about all objects.
        classes: name of label 1, 2, ...
        category_ids: number of label 1, 2, ... in the file.
        masks: samples have masks.
        transform: (image, target) -> (image, target), on torchvision's `tv_tensors`, the image of 8 bits: any of
            `torchvision.transforms.v2`. After random crops put `SanitizeBoundingBoxes`.
    """

    root: Path
    images: tuple[CocoImage, ...]
    objects: Objects
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    masks: bool = False
    transform: Callable[[Any, Any], Any] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        info = self.images[index]
        canvas = (info.height, info.width)
        image: Any = tv_tensors.Image(TF.pil_to_tensor(read_image(self.root / info.file_name)))
        if image.shape[1:] != canvas:
            raise Problem(
                f"the image has {tuple(image.shape[1:])} pixels, but {canvas} in the annotations",
                self.root / info.file_name,
                "use the images that were annotated",
            )
        boxes, sound = self._corners(info)
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]
                torch.from_numpy(boxes[sound]).float(), format="XYXY", canvas_size=canvas
            ),
            "labels": torch.from_numpy(self.objects.labels[info.objects][sound]),
            "image_id": info.id,
        }
        if self.masks:
            wanted = np.arange(len(self.objects.labels))[info.objects][sound]
            target["masks"] = tv_tensors.Mask(self._decoded(info, wanted))
        if self.transform is not None:
            image, target = self.transform(image, target)
        image = TF.to_dtype(image, torch.float32, scale=True).as_subclass(Tensor)
        return image, {k: v.as_subclass(Tensor) if isinstance(v, Tensor) else v for k, v in target.items()}

    def _corners(self, info: CocoImage) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Boxes (n, 4) as x1, y1, x2, y2, cut at the border of the image, and which of them belong into a sample."""
        x, y, w, h = self.objects.boxes[info.objects].T
        limit = (info.width, info.height, info.width, info.height)
        boxes = np.stack([x, y, x + w, y + h], 1).clip(0, limit)
        return boxes, (boxes[:, 2:] > boxes[:, :2]).all(1) & ~self.objects.crowd[info.objects]

    def _decoded(self, info: CocoImage, numbers: NDArray[np.intp]) -> Tensor:
        """Masks (n, H, W) uint8 of objects."""
        coder = require("pycocotools.mask", "detection")
        runs = [_run_lengths(self.objects.segmentations[k], info.height, info.width) for k in numbers]
        if not runs:
            return torch.zeros(0, info.height, info.width, dtype=torch.uint8)
        return torch.from_numpy(np.ascontiguousarray(coder.decode(runs).transpose(2, 0, 1)))

    def with_transform(self, transform: Callable[[Any, Any], Any] | None) -> CocoSet:
        """The same images, transformed."""
        return replace(self, transform=transform)

    def subset(self, indices: Sequence[int]) -> CocoSet:
        """Some of the images."""
        return replace(self, images=tuple(self.images[i] for i in indices))

    def with_objects(self) -> CocoSet:
        """Only the images whose sample has an object: those to train on."""
        return replace(self, images=tuple(info for info in self.images if self._corners(info)[1].any()))

    # -- evaluation -----------------------------------------------------------------------------

    def results(self, image_id: int, output: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """What a detector found on one image, in COCO's results format (it goes into JSON as it stands).

        Args:
            image_id: `image_id` of the sample.
            output: of a torchvision detector: `boxes` (n, 4), `labels` (n,), `scores` (n,) and perhaps
                `masks` (n, 1, H, W), probabilities; in pixels of the image as it lies on disk.
        """
        found = output["labels"] > 0  # RetinaNet may name the background
        boxes = output["boxes"][found].double().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        rows: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": self.category_ids[label - 1], "bbox": box, "score": score}
            for box, label, score in zip(
                boxes.tolist(), output["labels"][found].tolist(), output["scores"][found].tolist(), strict=True
            )
        ]
        if "masks" in output and rows:
            coder = require("pycocotools.mask", "detection")
            masks = (output["masks"][found][:, 0] > 0.5).byte().permute(1, 2, 0).cpu().numpy()  # (H, W, n)
            for row, run in zip(rows, coder.encode(np.asfortranarray(masks)), strict=True):
                row["segmentation"] = {"size": run["size"], "counts": run["counts"].decode("ascii")}
        return rows

    def evaluate(
        self, results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"] = "bbox"
    ) -> dict[str, float]:
        """COCO's average precision, in percent: mean over IoU 0.50 to 0.95 and over classes, by pycocotools.

        Args:
            results: of all images, see `results`.
            kind: overlap of boxes or of masks.

        Returns:
            AP, AP50, AP75, and APs, APm, APl for objects below 32², 96² pixels and above; NaN where there are none.

        Raises:
            Problem: pycocotools is not installed, a result is of an image that is not among these, or masks are
                to be judged and the set was read without.
        """
        if kind == "segm" and not self.masks:
            raise Problem("the data set was read without masks", self.root, "read_split(..., masks=True)")
        known = {info.id for info in self.images}
        strange = next((row["image_id"] for row in results if row["image_id"] not in known), None)
        if strange is not None:
            raise Problem(f"a result is of image {strange}", self.root, "give results of these images only")

        judge = require("pycocotools.cocoeval", "detection").COCOeval
        other = "segmentation" if kind == "bbox" else "bbox"
        rows = [{k: v for k, v in row.items() if k != other} for row in results]
        with redirect_stdout(StringIO()):  # it prints
            truth = self._truth()
            judged = judge(truth, truth.loadRes(rows) if rows else _index({}), kind)
            judged.params.imgIds = sorted(known)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return {
            name: 100 * float(value) if value >= 0 else float("nan")
            for name, value in zip(METRICS, judged.stats, strict=False)
        }

    def _truth(self) -> Any:
        """The annotations of these images, as pycocotools wants them."""
        columns = self.objects
        annotations = []
        for info in self.images:
            for k in range(info.objects.start, info.objects.stop):
                row = {
                    "id": k + 1,  # to pycocotools 0 means "unmatched", and many files count from 0
                    "image_id": info.id,
                    "category_id": self.category_ids[columns.labels[k] - 1],
                    "bbox": columns.boxes[k].tolist(),
                    "area": float(columns.area[k]),
                    "iscrowd": int(columns.crowd[k]),
                }
                if self.masks:
                    row["segmentation"] = columns.segmentations[k]
                annotations.append(row)
        return _index(
            {
                "images": [{"id": info.id, "height": info.height, "width": info.width} for info in self.images],
                "annotations": annotations,
                "categories": [
                    {"id": k, "name": name} for k, name in zip(self.category_ids, self.classes, strict=True)
                ],
            }
        )


def collate(samples: list[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Samples -> the lists of images and of targets that torchvision's detectors take."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


# -- reading ------------------------------------------------------------------------------------


def read_split(folder: Path, split: str, masks: bool = False) -> CocoSet:
    """One part of COCO, or of other data in its layout, of any year (or none: instances_train.json, train/).

    Args:
        folder: holds annotations/ and the folders of images.
        split: "train" or "val"; with the year, where there are several.
        masks: samples have masks too; needs pycocotools.

    Raises:
        Problem: no such files, or see `read`.
    """
    found = sorted((folder / "annotations").glob(f"instances_{split}*.json"))
    if len(found) != 1:
        what = f"{len(found)} files of annotations for {split!r}"
        raise Problem(what, folder / "annotations", f"expected: {'; '.join(LAYOUT.splitlines())}")
    return read(found[0], folder / found[0].stem.removeprefix("instances_"), masks)


def read(annotations: Path, images: Path, masks: bool = False) -> CocoSet:
    """A data set in COCO's format.

    Args:
        annotations: the JSON file.
        images: the folder that its `file_name`s are in.
        masks: samples have masks too; needs pycocotools.

    Raises:
        Problem: a file or folder is not there, is not of this format, or an annotation names an image or a category
            that the file does not have, or has no box; names it.
    """
    if masks:
        require("pycocotools.mask", "detection")
    if not images.is_dir():
        raise Problem("no folder of images here", images, f"expected: {'; '.join(LAYOUT.splitlines())}")
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        infos = sorted(content["images"], key=lambda info: info["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        rows = content["annotations"]
        place = {info["id"]: i for i, info in enumerate(infos)}
        label = {category["id"]: k for k, category in enumerate(categories, 1)}
        sizes = [(str(info["file_name"]), int(info["height"]), int(info["width"])) for info in infos]
        classes = tuple(str(category["name"]) for category in categories)
        for row in rows:
            _check(row, place, label, masks, annotations)
    except OSError as error:
        raise Problem(
            f"the annotations cannot be read: {error}", annotations, "give COCO's instances_*.json"
        ) from error
    except ValueError as error:
        raise Problem(f"not a JSON file: {error}", annotations, "download it again") from error
    except (KeyError, TypeError) as error:
        what = f"not in COCO's format: {type(error).__name__} {error}"
        raise Problem(what, annotations, "needed: images, annotations and categories with their fields") from error

    rows.sort(key=lambda row: place[row["image_id"]])
    owners = np.array([place[row["image_id"]] for row in rows], dtype=np.int64)
    first = np.searchsorted(owners, np.arange(len(infos) + 1)).tolist()
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    objects = Objects(
        boxes,
        np.array([label[row["category_id"]] for row in rows], dtype=np.int64),
        # Files of other owners often lack these two.
        np.array([row.get("area", row["bbox"][2] * row["bbox"][3]) for row in rows], dtype=np.float64),
        np.array([row.get("iscrowd", 0) for row in rows], dtype=np.bool_),
        [row["segmentation"] for row in rows] if masks else [],
    )
    found = [CocoImage(info["id"], *sizes[i], slice(first[i], first[i + 1])) for i, info in enumerate(infos)]
    return CocoSet(images, tuple(found), objects, classes, tuple(label), masks)


def _check(row: Any, images: Any, labels: Any, masks: bool, file: Path) -> None:
    """Raise a Problem that names an unusable annotation; KeyError and TypeError where fields are missing."""
    what = ""
    if row["image_id"] not in images:
        what = f"is of image {row['image_id']}, which the file does not list"
    elif row["category_id"] not in labels:
        what = f"is of category {row['category_id']}, which the file does not list"
    elif len(row["bbox"]) != 4 or not all(-1e6 < float(x) < 1e6 for x in row["bbox"]):
        what = f"has the box {row['bbox']}"
    elif masks and not row.get("segmentation"):
        what = "has no segmentation"
    elif masks and isinstance(row["segmentation"], list) and min(map(len, row["segmentation"])) < 6:
        what = "has a polygon with fewer than three corners"
    if what:
        raise Problem(f"annotation {row.get('id', '?')} {what}", file, "correct or remove it; a box is x, y, w, h")


def _run_lengths(segmentation: Any, height: int, width: int) -> Any:
    """Polygons, or run lengths packed or not -> packed run lengths."""
    coder = require("pycocotools.mask", "detection")
    if isinstance(segmentation, list):
        return coder.merge(coder.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coder.frPyObjects(segmentation, height, width)
    return segmentation


def _index(content: dict[str, Any]) -> Any:
    coco = require("pycocotools.coco", "detection").COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


# -- sample -------------------------------------------------------------------------------------

CATEGORIES = {"disc": 1, "square": 3, "triangle": 18}
"""With gaps, as COCO's have."""
CROWD_EVERY = 4
"""In every fourth image the first shape is declared a crowd."""


def write_sample(folder: Path, train: int = 24, val: int = 12, size: int = 128) -> None:
    """Shapes on photographs in COCO's layout: three categories, polygons, some crowds, and an image without objects.

    Args:
        folder: annotations/, train2017/ and val2017/ are made in it.
        train: number of images to train on.
        val: number of images held out, from other photographs.
        size: height and width in pixels.
    """
    for split, count in (("train", train), ("val", val)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        part = folder / f"{split}2017"
        part.mkdir(parents=True)
        for number, (image, shapes) in enumerate(draw_scenes(split, count, size), 1):
            name = f"{number:012d}.jpg"
            image.save(part / name, quality=95)
            images.append({"id": number, "file_name": name, "height": size, "width": size, "license": 1})
            for k, shape in enumerate(shapes):
                x, y = np.array(shape.corners).T
                mask = np.asarray(shape.mask(size)) > 0
                crowd = number % CROWD_EVERY == 0 and k == 0
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": CATEGORIES[shape.kind],
                        "bbox": [round(float(v), 2) for v in (x.min(), y.min(), np.ptp(x), np.ptp(y))],
                        "area": float(mask.sum()),
                        "iscrowd": int(crowd),
                        "segmentation": _unpacked(mask) if crowd else [[v for corner in shape.corners for v in corner]],
                    }
                )
        content = {
            "info": {"description": "Shapes on photographs", "version": "1.0", "year": 2017},
            "licenses": [{"id": 1, "name": "CC0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": name, "supercategory": "shape"} for name, k in CATEGORIES.items()],
        }
        write_json(folder / "annotations" / f"instances_{split}2017.json", content)


def _unpacked(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths down the columns, zeros first, as COCO writes crowds."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0, append=mask.size).tolist()}
