"""ADE20K, the scene-parsing version: photographs and a class for every pixel.

    images/{training,validation}/ADE_*.jpg
    annotations/{training,validation}/ADE_*.png     8 bits: 0 unlabelled, 1 to 150 classes
    objectInfo150.txt                               names of the classes (optional)

In samples the classes are 0 to 149, and unlabelled pixels are `IGNORE`. Class maps are given for the pixels as they are
stored: photographs are not turned by their EXIF orientation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from repertory.core.problem import Problem
from repertory.data.arrays import file_size, reason
from repertory.data.images import image_files, read_image
from repertory.data.scenes import CORNERS, draw_scenes
from repertory.data.splits import check_distinct_files

CLASSES = 150
IGNORE = 255
"""Class of pixels that have none; losses and metrics leave them out."""
SPLITS = {"train": "training", "val": "validation"}
LAYOUT = """\
images/{training,validation}/*.jpg
annotations/{training,validation}/*.png of the same names, 8 bits, 0 unlabelled, 1 to 150 classes"""
UNPACKED = "ADEChallengeData2016"
"""The folder in its owners' archive."""
NAMES = "objectInfo150.txt"


@dataclass(frozen=True)
class SceneSet(Dataset[tuple[Tensor, Tensor]]):
    """Photographs and classes of their pixels.

    `self[i]` is an image, (3, H, W) from 0 to 1, and its classes, (H, W) int64: 0 to 149, or `IGNORE`.

    Args:
        images: the photographs.
        annotations: their class maps.
        classes: names of the classes.
        transform: (image, classes) -> (image, classes), on torchvision's `tv_tensors.Image` of 8 bits and
            `tv_tensors.Mask`: any of `torchvision.transforms.v2`. What it fills up should be `IGNORE`.
    """

    images: tuple[Path, ...]
    annotations: tuple[Path, ...]
    classes: tuple[str, ...]
    transform: Callable[[Any, Any], Any] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image: Any = tv_tensors.Image(TF.pil_to_tensor(read_image(self.images[index], upright=False)))
        mask: Any = tv_tensors.Mask(self._mask(self.annotations[index]))
        if image.shape[1:] != mask.shape:
            raise Problem(
                f"the image has {tuple(image.shape[1:])} pixels, its annotation {tuple(mask.shape)}",
                self.annotations[index],
                "replace one of them",
            )
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        image = TF.to_dtype(image, torch.float32, scale=True)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()

    def with_transform(self, transform: Callable[[Any, Any], Any] | None) -> SceneSet:
        """The same photographs, transformed."""
        return replace(self, transform=transform)

    def _mask(self, path: Path) -> Tensor:
        """(H, W) uint8; 0 wraps round to `IGNORE`.

        Raises:
            Problem: not a map of classes; names the file.
        """
        file_size(path)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                values = np.array(image)
        except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
            raise Problem(f"the annotation cannot be read: {reason(error)}", path, "replace the file") from error
        if values.ndim != 2 or values.dtype != np.uint8:
            raise Problem(
                f"the annotation is {values.dtype} of shape {values.shape}, not one byte a pixel",
                path,
                "use the scene-parsing version of ADE20K, not the full one",
            )
        if values.max(initial=0) > len(self.classes):
            raise Problem(
                f"the annotation holds class {values.max()} of {len(self.classes)}",
                path,
                "0 is unlabelled, 1 the first",
            )
        return torch.from_numpy(values - np.uint8(1))


def read_split(folder: Path, split: Literal["train", "val"], classes: int = CLASSES) -> SceneSet:
    """One part of ADE20K, or of other data in its layout.

    Args:
        folder: holds images/ and annotations/, or ADEChallengeData2016/ with them.
        split: "train" or "val".
        classes: how many there are; at most 254.

    Raises:
        Problem: no images, one without annotation, or one that is in both parts.
    """
    if (folder / UNPACKED).is_dir():
        folder = folder / UNPACKED
    part = folder / "images" / SPLITS[split]
    images = image_files(part) if part.is_dir() else []
    if not images:
        raise Problem("no images here", part, f"expected: {'; '.join(LAYOUT.splitlines())}")
    annotations = [
        folder / "annotations" / SPLITS[split] / path.relative_to(part).with_suffix(".png") for path in images
    ]
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise Problem(f"{len(missing)} of {len(images)} images have no annotation", missing[0], "add the missing files")
    parts = {name: folder / "images" / name for name in SPLITS.values()}
    check_distinct_files({name: image_files(path) for name, path in parts.items() if path.is_dir()}, folder)
    return SceneSet(tuple(images), tuple(annotations), _names(folder / NAMES, classes))


def _names(file: Path, classes: int) -> tuple[str, ...]:
    """Names from a table (Idx, Ratio, Train, Val, Stuff, Name; tabs between), or numbers where it has none."""
    named = {}
    if os.path.lexists(file):
        file_size(file)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"{file.name} cannot be read: {reason(error)}", file, "give text in UTF-8") from error
        for line in lines[1:]:
            cells = line.split("\t")
            if cells[0].strip().isdigit():
                named[int(cells[0])] = cells[-1].strip()
    return tuple(named.get(k, str(k)) for k in range(1, classes + 1))


def mean_iou(classes: int = CLASSES) -> MulticlassJaccardIndex:
    """Mean intersection over union, from 0 to 1, over the classes that are in the annotations or the predictions.

    A torchmetrics object: `update(predicted, annotated)` with classes (N, H, W) for each batch, then `compute()`. All
    pixels of all images are counted together, and `IGNORE` not at all.
    """
    return MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE, validate_args=False)


def write_sample(folder: Path, train: int = 24, val: int = 12, size: int = 128) -> None:
    """Shapes on photographs in ADE20K's layout; their outlines are unlabelled.

    Args:
        folder: images/ and annotations/ are made in it.
        train: number of images to train on.
        val: number of images held out, from other photographs.
        size: height and width in pixels.
    """
    numbers = dict(zip(CORNERS, (2, 3, CLASSES), strict=True))  # the photograph is 1
    for split, count in (("train", train), ("val", val)):
        images, annotations = (folder / kind / SPLITS[split] for kind in ("images", "annotations"))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for number, (image, shapes) in enumerate(draw_scenes(split, count, size), 1):
            mask = Image.new("L", (size, size), 1)
            for shape in shapes:
                ImageDraw.Draw(mask).polygon(shape.corners, fill=numbers[shape.kind], outline=0, width=2)
            image.save(images / f"ADE_{split}_{number:08d}.jpg", quality=95)
            mask.save(annotations / f"ADE_{split}_{number:08d}.png")
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.8\t1\t1\t1\tphotograph"]
    rows += [f"{number}\t0.05\t1\t1\t0\t{kind}" for kind, number in numbers.items()]
    (folder / NAMES).write_text("\n".join(rows) + "\n", encoding="utf-8")
