"""COCO detection and instance segmentation, as its owners distribute it.

    annotations/instances_{train,val}2017.json
    {train,val}2017/*.jpg

Samples are what torchvision's detectors take; scores are those of pycocotools.

What the annotations hold and samples do not: crowds (regions with uncounted objects; in the evaluation nothing found
there counts as wrong) and boxes without area. Labels are 1, 2, ... in the order of the category numbers, which have
gaps; 0 is the background. Boxes and masks are given for the pixels as they are stored: images are not turned by their
EXIF orientation.
"""

from __future__ import annotations

import filecmp
import gc
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from repertory.core.files import write_json
from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import file_size
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

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.transform is not None

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        info = self.images[index]
        canvas = (info.height, info.width)
        image: Any = tv_tensors.Image(TF.pil_to_tensor(read_image(self.root / info.file_name, upright=False)))
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

    def sample_labels(self, index: int) -> NDArray[np.int64]:
        """Labels (n,) of the objects of sample `index`, before any transform, without reading the image."""
        info = self.images[index]
        return self.objects.labels[info.objects][self._corners(info)[1]]

    def with_transform(self, transform: Callable[[Any, Any], Any] | None) -> CocoSet:
        """The same images, transformed."""
        return replace(self, transform=transform)

    def subset(self, indices: Sequence[int]) -> CocoSet:
        """Some of the images."""
        return replace(self, images=tuple(self.images[i] for i in indices))

    def only(self, kept: NDArray[np.bool_]) -> CocoSet:
        """The same images with some of the objects.

        Args:
            kept: (M,), which of `objects`.
        """
        before = np.concatenate([[0], np.cumsum(kept)]).tolist()
        o = self.objects
        objects = Objects(
            o.boxes[kept], o.labels[kept], o.area[kept], o.crowd[kept],
            [o.segmentations[k] for k in np.flatnonzero(kept)] if self.masks else [],
        )  # fmt: skip
        infos = [
            info._replace(objects=slice(before[info.objects.start], before[info.objects.stop])) for info in self.images
        ]
        return replace(self, images=tuple(infos), objects=objects)

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
            runs = packed_masks(output["masks"][found][:, 0] > 0.5)
            for row, run in zip(rows, runs, strict=True):
                row["segmentation"] = run
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
        judged = self._judged(results, kind)
        with redirect_stdout(StringIO()):  # it prints
            judged.summarize()
        return {name: _per_cent(value) for name, value in zip(METRICS, judged.stats, strict=False)}

    def class_precision(
        self, results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"] = "bbox"
    ) -> dict[str, float]:
        """COCO's average precision of each class, in percent; NaN where these images have none of it.

        The mean over some of the classes is what COCOeval gives with `catIds` restricted to them.

        Args:
            results: see `evaluate`.
            kind: overlap of boxes or of masks.

        Raises:
            Problem: see `evaluate`.
        """
        precision = self._judged(results, kind).eval["precision"][..., 0, -1]  # (IoU, recall, class): all areas
        means = precision.mean((0, 1)).tolist()  # -1 throughout where there is no object
        return {name: _per_cent(value) for name, value in zip(self.classes, means, strict=True)}

    def recall(self, results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"] = "bbox") -> float:
        """COCO's average recall of 100 results an image, in percent, regardless of class; NaN without objects.

        Args:
            results: see `evaluate`.
            kind: overlap of boxes or of masks.

        Raises:
            Problem: see `evaluate`.
        """
        return _per_cent(self._judged(results, kind, by_class=False).eval["recall"][:, 0, 0, -1].mean())

    def _judged(
        self, results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"], by_class: bool = True
    ) -> Any:
        """A COCOeval that has counted hits; checks the results first."""
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
            judged.params.useCats = int(by_class)
            judged.evaluate()
            judged.accumulate()
        return judged

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


def packed_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (n, H, W) -> run lengths as results and annotations have them, packed into text."""
    if not len(masks):
        return []
    coder = require("pycocotools.mask", "detection")
    runs = coder.encode(np.asfortranarray(masks.byte().permute(1, 2, 0).cpu().numpy()))  # (H, W, n)
    return [{"size": run["size"], "counts": run["counts"].decode("ascii")} for run in runs]


def _per_cent(value: float) -> float:
    """pycocotools marks what does not exist by -1."""
    return 100 * float(value) if value >= 0 else float("nan")


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
    images = folder / found[0].stem.removeprefix("instances_")
    _check_apart(found[0], images)
    return read(found[0], images, masks)


def _check_apart(annotations: Path, images: Path) -> None:
    """Raise `Problem` if another split lists the same images.

    Only annotations that are equal, or whose images lie in the same folder, are compared: those of COCO take minutes.
    """
    for other in sorted(annotations.parent.glob("instances_*.json")):
        beside = images.with_name(other.stem.removeprefix("instances_"))
        if {_part(annotations), _part(other)} != {"train", "val"} or not beside.is_dir() or not images.is_dir():
            continue
        file_size(annotations)
        file_size(other)
        if beside.samefile(images) or filecmp.cmp(annotations, other, shallow=False):
            parts = (
                {_image(row, path)["file_name"] for row in load_content(path)["images"]}
                for path in (annotations, other)
            )
            both = set.intersection(*parts)
            if both:
                what = f"{annotations.name} and {other.name} share {len(both)} images (first: {min(both)})"
                raise Problem(what, annotations.parent, "give each image to one split only")


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection: half of the time it would walk through millions of new lists, none of them in a circle."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_without_collector()
def read(annotations: Path, images: Path, masks: bool = False, boxes_as_masks: bool = False) -> CocoSet:
    """A data set in COCO's format.

    Args:
        annotations: the JSON file.
        images: the folder that its `file_name`s are in.
        masks: samples have masks too; needs pycocotools.
        boxes_as_masks: where an annotation has no segmentation, its box is its mask; a warning counts them.

    Raises:
        Problem: a file or folder is not there, or is not of this format; two images or categories share an id; an
            annotation names an image or a category that the file does not list, or its box, area, iscrowd or (with
            `masks`) segmentation is unusable: the Problem gives its id.
    """
    if not images.is_dir():
        raise Problem("no folder of images here", images, f"expected: {'; '.join(LAYOUT.splitlines())}")
    return from_content(load_content(annotations), annotations, images, masks, boxes_as_masks)


def from_content(
    content: dict[str, Any], annotations: Path, images: Path, masks: bool = False, boxes_as_masks: bool = False
) -> CocoSet:
    """A data set from annotations in memory, in COCO's format; other arguments and errors are those of `read`."""
    if masks:
        require("pycocotools.mask", "detection")
    infos = _once([_image(row, annotations) for row in content["images"]], "image", annotations)
    categories = _once([_category(row, annotations) for row in content["categories"]], "category", annotations)
    place = {info["id"]: i for i, info in enumerate(infos)}
    label = {category["id"]: k for k, category in enumerate(categories, 1)}
    rows = content["annotations"]
    columns = _sound_columns(rows, place, label)
    boxed = 0
    for row in rows if masks or columns is None else ():
        if columns is None:
            what = _fault(row, infos, place, label, masks)
        else:
            info = infos[place[row["image_id"]]]
            what = _segmentation_fault(row.get("segmentation"), info["height"], info["width"])
        if what == NO_MASK and boxes_as_masks:
            row["segmentation"] = [_outline(row["bbox"])]
            boxed += 1
        elif what:
            name = row.get("id", "?") if isinstance(row, dict) else "?"
            remedy = "give it one, or take its box as the mask: boxes_as_masks" if what == NO_MASK else ""
            raise Problem(
                f"annotation {name} {what}", annotations, remedy or "correct or remove it; a box is x, y, w, h"
            )
    if boxed:
        warnings.warn(f"{annotations}: {boxed} annotations have no segmentation; their boxes are masks", stacklevel=2)

    owner, boxes, labels, area, crowd = _as_arrays(rows, place, label) if columns is None else columns
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(len(infos) + 1)).tolist()
    segmentations = [rows[k]["segmentation"] for k in order.tolist()] if masks else []
    objects = Objects(boxes[order], labels[order], area[order], crowd[order], segmentations)
    found = [CocoImage(**info, objects=slice(first[i], first[i + 1])) for i, info in enumerate(infos)]
    return CocoSet(images, tuple(found), objects, tuple(c["name"] for c in categories), tuple(label), masks)


def _outline(box: list[float]) -> list[float]:
    """The corners of a box as a polygon."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _part(annotations: Path) -> str:
    return annotations.stem.removeprefix("instances_").rstrip("0123456789")


# -- checks: whatever pycocotools or NumPy would stumble over later ---------------------------------

FIELDS = ("images", "annotations", "categories")
NO_MASK = "has no segmentation"
MOST_PIXELS = 1 << 28
"""Of an image; more than Pillow opens."""


@_without_collector()
def load_content(annotations: Path) -> dict[str, Any]:
    """The lists of a file in COCO's format; their rows are not checked.

    Raises:
        Problem: missing, not JSON, or without the lists.
    """
    file_size(annotations)
    try:
        content = json.loads(annotations.read_bytes())  # finds out UTF-8, with or without its mark, and UTF-16
    except (OSError, ValueError, RecursionError) as error:
        raise Problem(f"not a JSON file: {reason(error)}", annotations, "give COCO's instances_*.json") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in FIELDS):
        raise Problem("not in COCO's format", annotations, f"needed: the lists {', '.join(FIELDS)}")
    return content


def _image(row: Any, file: Path) -> dict[str, Any]:
    """id, file_name, height and width of an image."""
    if not isinstance(row, dict) or not _is_id(row.get("id")):
        raise Problem(f"an image has no id: {str(row)[:80]}", file, "give each an id, a number or a word")
    height, width = (_whole(row.get(name)) for name in ("height", "width"))
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise Problem(f"image {row['id']} has the file_name {name!r}", file, "name its file")
    if height is None or width is None or not 0 < height * width <= MOST_PIXELS or min(height, width) < 1:
        what = f"image {row['id']} has the height {row.get('height')!r} and the width {row.get('width')!r}"
        raise Problem(what, file, "give whole numbers of pixels")
    return {"id": row["id"], "file_name": name, "height": height, "width": width}


def _category(row: Any, file: Path) -> dict[str, Any]:
    """id and name of a category."""
    if not isinstance(row, dict) or not _is_id(row.get("id")) or not isinstance(row.get("name"), str | int):
        raise Problem(f"a category has no id or no name: {str(row)[:80]}", file, "give each an id and a name")
    return {"id": row["id"], "name": str(row["name"])}


def _once(rows: list[dict[str, Any]], what: str, file: Path) -> list[dict[str, Any]]:
    """The rows by id; of identical ones, one."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if found.setdefault(row["id"], row) != row:
            twins = f"{found[row['id']]} and {row}"
            raise Problem(f"two of {what} {row['id']}: {twins}", file, "give each an id of its own")
    try:
        return [found[key] for key in sorted(found)]
    except TypeError as error:
        raise Problem(f"the ids of the {what} list are numbers and words", file, "give numbers") from error


def _fault(row: Any, infos: list[dict[str, Any]], place: Any, label: Any, masks: bool) -> str:
    """What is wrong with an annotation; empty if nothing is."""
    if not isinstance(row, dict):
        return f"is no object: {str(row)[:80]}"
    owner, category, box = (row.get(name) for name in ("image_id", "category_id", "bbox"))
    if not _is_id(owner) or owner not in place:
        return f"is of image {owner!r}, which the file does not list"
    if not _is_id(category) or category not in label:
        return f"is of category {category!r}, which the file does not list"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(x, 1e6) for x in box) or min(box[2:]) < 0:
        return f"has the box {box!r}"
    area = row.get("area")
    if area is not None and not (_is_number(area, 1e12) and area >= 0):
        return f"has the area {area!r}"
    crowd = row.get("iscrowd")
    if crowd is not None and not (_is_number(crowd, 2) and crowd in (0, 1)) and not isinstance(crowd, bool):
        return f"has iscrowd {crowd!r}, expected 0 or 1"
    info = infos[place[owner]]
    return _segmentation_fault(row.get("segmentation"), info["height"], info["width"]) if masks else ""


class _Columns(NamedTuple):
    """The annotations in the file's order."""

    owner: NDArray[np.int64]
    """(M,) position of the image"""
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]


KEYS = ("image_id", "category_id", "bbox", "area", "iscrowd")


def _sound_columns(rows: list[Any], place: Mapping[Any, int], label: Mapping[Any, int]) -> _Columns | None:
    """Check annotations column by column, several times as fast as row by row; None: `_fault` may find one unusable."""
    if not set(map(type, rows)) <= {dict}:
        return None
    owners, categories, boxes, areas, crowds = ([row.get(key) for row in rows] for key in KEYS)
    if not set(map(type, owners)) | set(map(type, categories)) <= {int, str}:
        return None
    if not (set(owners) <= place.keys() and set(categories) <= label.keys()):
        return None
    if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
        return None
    given = [area for area in areas if area is not None]
    if not set(map(type, chain(chain.from_iterable(boxes), given))) <= {int, float}:
        return None
    if not set(map(type, crowds)) <= {int, float, bool, type(None)} or not set(crowds) <= {0, 1, None}:
        return None
    try:
        found = _as_arrays(rows, place, label)
    except OverflowError:  # whole numbers beyond float64
        return None
    # NaN compares as false.
    inside = (np.abs(found.boxes) < 1e6).all() and (found.boxes[:, 2:] >= 0).all()
    return found if inside and ((found.area >= 0) & (found.area < 1e12)).all() else None


def _as_arrays(rows: list[Any], place: Mapping[Any, int], label: Mapping[Any, int]) -> _Columns:
    count = len(rows)
    values = np.fromiter(chain.from_iterable(row["bbox"] for row in rows), np.float64, 4 * count)
    boxes = values.reshape(-1, 4)
    area = boxes[:, 2] * boxes[:, 3]
    # Files of other owners often lack area and iscrowd.
    known = [k for k, row in enumerate(rows) if row.get("area") is not None]
    area[known] = np.fromiter((rows[k]["area"] for k in known), np.float64, len(known))
    return _Columns(
        np.fromiter((place[row["image_id"]] for row in rows), np.int64, count),
        boxes,
        np.fromiter((label[row["category_id"]] for row in rows), np.int64, count),
        area,
        np.fromiter((row.get("iscrowd") or 0 for row in rows), np.bool_, count),
    )


def _segmentation_fault(segmentation: Any, height: int, width: int) -> str:
    if not segmentation:
        return NO_MASK
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6:
                return "has a polygon with fewer than three corners"
            if len(polygon) % 2:
                return f"has a polygon of {len(polygon)} numbers, an odd count"
            for corners, side in ((polygon[::2], width), (polygon[1::2], height)):
                if not _are_near(corners, side):
                    wrong = next(corner for corner in corners if not _are_near([corner], side))
                    return f"has a polygon with a corner at {wrong!r}, in an image of {width} x {height} pixels"
        return ""
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("size"), list):
        return f"has a segmentation that is neither polygons nor run lengths: {str(segmentation)[:80]}"
    if [_whole(side) for side in segmentation["size"]] != [height, width]:
        return f"has run lengths of size {segmentation['size']}, in an image of {[height, width]}"
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = _unpacked_counts(counts)
    else:
        runs = [_whole(run) for run in counts] if isinstance(counts, list) else None
    if not runs or any(run is None or run < 0 for run in runs) or sum(run or 0 for run in runs) != height * width:
        return f"has run lengths that do not add up to {height} x {width}"
    return ""


def _are_near(corners: list[Any], side: int) -> bool:
    """Whether all are numbers, and at most one side of the image away from it: a mask's memory grows with a polygon."""
    if not set(map(type, corners)) <= {int, float}:
        return False
    total = -side <= min(corners) and max(corners) <= 2 * side and sum(corners)
    return total is not False and total == total  # NaN equals nothing


def _unpacked_counts(text: str) -> list[int] | None:
    """Run lengths of COCO's packed text; None if it is damaged.

    Each is written in digits of 5 bits, lowest first, at 48 and up; 32 marks that more follow, 16 in the last a
    negative number. From the fourth on they are differences to the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode("latin-1", "replace"):
        digit = code - 48
        if not 0 <= digit < 64 or shift > 60:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16) and 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -limit < value < limit


def _whole(value: object) -> int | None:
    """A whole number as an int, also if it is written 128.0; else None."""
    return int(cast(float, value)) if _is_number(value, 1e12) and cast(float, value) % 1 == 0 else None


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
                        "segmentation": unpacked(mask) if crowd else [[v for corner in shape.corners for v in corner]],
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


def unpacked(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths down the columns, zeros first, as COCO writes crowds."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0, append=mask.size).tolist()}
