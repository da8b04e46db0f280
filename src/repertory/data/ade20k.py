"""ADE20K, the scene-parsing version: photographs and a class for every pixel.

    images/{training,validation}/ADE_*.jpg
    annotations/{training,validation}/ADE_*.png     8 bits: 0 unlabelled, 1 to 150 classes
    objectInfo150.txt                               names of the classes (optional)

In samples the classes are 0 to 149, and unlabelled pixels are `IGNORE`. Class maps are given for the pixels as they are
stored: photographs are not turned by their EXIF orientation.

Other data in this layout may name their classes in classes.txt, one a line, and may count them from 0, with 255 for
unlabelled pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
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

from repertory.core.files import cache_dir, write_text
from repertory.core.problem import Problem, reason
from repertory.data.arrays import file_size, find_file, read_lines
from repertory.data.images import CACHE_BYTES, image_files, read_image
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
OWN_NAMES = "classes.txt"
STATS = "image_label_stats.txt"
"""How many training images hold each class, one number a line."""


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
        zero_is_ignore: 0 in the files is unlabelled and 1 the first class; else 0 is the first and 255 unlabelled.
    """

    images: tuple[Path, ...]
    annotations: tuple[Path, ...]
    classes: tuple[str, ...]
    transform: Callable[[Any, Any], Any] | None = None
    zero_is_ignore: bool = True
    _decoded: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.transform is not None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self._pair(index)
        if self.transform is not None:
            image, mask = self.transform(image, mask)
        image = TF.to_dtype(image, torch.float32, scale=True)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()

    def with_transform(self, transform: Callable[[Any, Any], Any] | None) -> SceneSet:
        """The same photographs, transformed."""
        return replace(self, transform=transform)

    def subset(self, indices: Iterable[int]) -> SceneSet:
        """Some of the photographs."""
        chosen = list(indices)
        images, annotations = (tuple(files[i] for i in chosen) for files in (self.images, self.annotations))
        return replace(self, images=images, annotations=annotations, _decoded={})

    def masks(self) -> Iterator[Tensor]:
        """The class maps (H, W) uint8, without the photographs."""
        return (self._mask(path) for path in self.annotations)

    def _pair(self, index: int) -> tuple[Any, Any]:
        """Image and class map, decoded or remembered."""
        if index in self._decoded:
            return self._decoded[index]
        image: Any = tv_tensors.Image(TF.pil_to_tensor(read_image(self.images[index], upright=False)))
        mask: Any = tv_tensors.Mask(self._mask(self.annotations[index]))
        if image.shape[1:] != mask.shape:
            raise Problem(
                f"the image has {tuple(image.shape[1:])} pixels, its annotation {tuple(mask.shape)}",
                self.annotations[index],
                "replace one of them",
            )
        # Supposing that the others are as large as this one.
        if (len(self._decoded) + 1) * 4 * mask.numel() <= CACHE_BYTES:
            self._decoded[index] = image, mask
        return image, mask

    def _mask(self, path: Path) -> Tensor:
        """(H, W) uint8; 0 wraps round to `IGNORE` where it is unlabelled.

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
            coloured = "it is palette or colour-coded; expected class ids: convert the colours to numbers"
            raise Problem(
                f"the annotation is {values.dtype} of shape {values.shape}, not one byte a pixel",
                path,
                coloured if values.ndim == 3 else "use the scene-parsing version of ADE20K, not the full one",
            )
        if self.zero_is_ignore:
            wrong = values > len(self.classes)
            remedy = "0 is unlabelled, 1 the first; ids from 0 to 255 need zero_is_ignore=false"
        else:
            wrong = (values >= len(self.classes)) & (values != IGNORE)
            remedy = "0 is the first, 255 unlabelled"
            if wrong.any() and values[wrong].max() == len(self.classes):
                remedy += "; where 0 is unlabelled and 1 the first, as in ADE20K, set zero_is_ignore=true"
        if wrong.any():
            found = np.unique(values[wrong]).tolist()
            listed = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
            raise Problem(f"the annotation holds class {listed} of {len(self.classes)}", path, remedy)
        return torch.from_numpy(values - np.uint8(1) if self.zero_is_ignore else values)


def read_split(
    folder: Path, split: Literal["train", "val"], classes: int | None = CLASSES, zero_is_ignore: bool = True
) -> SceneSet:
    """One part of ADE20K, or of other data in its layout.

    Args:
        folder: holds images/ and annotations/, or ADEChallengeData2016/ with them.
        split: "train" or "val".
        classes: how many there are; at most 254. None: as many as classes.txt or objectInfo150.txt names, else 150.
        zero_is_ignore: see `SceneSet`.

    Raises:
        Problem: no images, one without annotation, or one that is in both parts.
    """
    folder = unpacked(folder)
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
    return SceneSet(tuple(images), tuple(annotations), _names(folder, classes), zero_is_ignore=zero_is_ignore)


def unpacked(folder: Path) -> Path:
    """The folder that holds images/ and annotations/."""
    return folder / UNPACKED if (folder / UNPACKED).is_dir() else folder


def _names(folder: Path, classes: int | None) -> tuple[str, ...]:
    """Names from classes.txt, or objectInfo150.txt (Idx, Ratio, Train, Val, Stuff, Name); numbers where it has none.

    Raises:
        Problem: no text, or more than 254 classes.
    """
    named: dict[int, str] = {}
    if path := find_file(folder, OWN_NAMES):
        listed = [line.strip() for line in read_lines(path)]
        named = {number: name for number, name in enumerate(listed, 1) if name}
    elif path := find_file(folder, NAMES):
        cells = (line.split("\t") for line in read_lines(path)[1:])
        named = {int(row[0]): row[-1].strip() for row in cells if row[0].strip().isdecimal()}
    count = classes or max(named, default=CLASSES)
    if count >= IGNORE:
        raise Problem(f"{count} classes, and a byte holds {IGNORE - 1}", folder, "join or leave out some classes")
    return tuple(named.get(k, str(k)) for k in range(1, count + 1))


def class_frequency(
    data: SceneSet, folder: Path, progress: Callable[[Iterable[Any], str], Iterable[Any]] | None = None
) -> dict[str, list[int]]:
    """How many images and how many pixels hold each class.

    Images are taken from image_label_stats.txt where the folder has one. Else the annotations are counted in one pass,
    which is kept in the cache until they change.

    Args:
        data: the training images.
        folder: holds images/ and annotations/.
        progress: (items, label) -> items, to show progress.

    Returns:
        "image" and "pixel": (K,) counts, in the order of the classes.

    Raises:
        Problem: the file has another number of lines than there are classes, or not whole numbers.
    """
    # Built anew where a file was written since: names, sizes and times stand for the contents.
    seen = [(str(p), s.st_size, s.st_mtime_ns) for p in data.annotations for s in (p.stat(),)]
    key = sha256(repr((len(data.classes), data.zero_is_ignore, seen)).encode()).hexdigest()[:16]
    kept = cache_dir() / "label-stats" / key
    files = {"image": kept / STATS, "pixel": kept / "pixel_label_stats.txt"}
    if not all(file.exists() for file in files.values()):
        images, pixels = (np.zeros(len(data.classes), np.int64) for _ in range(2))
        for mask in progress(data.masks(), "count classes") if progress else data.masks():
            counts = torch.bincount(mask.flatten(), minlength=IGNORE + 1)[: len(images)].numpy()
            images += counts > 0
            pixels += counts
        for file, numbers in zip(files.values(), (images, pixels), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(f"{number}\n" for number in numbers.tolist()))
    if path := find_file(folder, STATS):
        files["image"] = path
    return {kind: read_frequency(file, len(data.classes)) for kind, file in files.items()}


def read_frequency(file: Path, classes: int) -> list[int]:
    """Counts of the classes, one whole number a line, in their order.

    Raises:
        Problem: another number of lines than classes, or a line that is no whole number of 0 or more; names it.
    """
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    if len(lines) != classes:
        raise Problem(
            f"{len(lines)} counts for {classes} classes", file, "give one whole number a line, a line a class"
        )
    for number, line in enumerate(lines, 1):
        if not line.isdecimal():
            raise Problem(f"line {number} is not a count: {line!r}", file, "give whole numbers of 0 or more")
    return [int(line) for line in lines]


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
