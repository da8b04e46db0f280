"""Images to learn to generate: CIFAR, class folders, CelebA, CUB-200-2011, COCO's captions, or a folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.files import write_json
from repertory.core.problem import Problem, reason
from repertory.core.training import draws
from repertory.data import images
from repertory.data.arrays import file_size, read_lines
from repertory.data.cifar import is_cifar, read_cifar
from repertory.data.images import ImageSet
from repertory.data.splits import check_distinct_files

LAYOUT = """\
cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}
or train/<class>/*.png and val/<class>/*.png, or <class>/*.png, or *.png
or img_align_celeba/*.jpg and list_eval_partition.txt (CelebA)
or images/<class>/*.jpg, images.txt and train_test_split.txt (CUB-200-2011)
or, with condition=text, annotations/captions_train2014.json and train2014/ (COCO), and the same of val"""
CELEBA_CENTRE, CELEBA_SIDE = (89, 121), 128
"""Column and row, and the side of the square that is cut out, as is usual for CelebA at 64 x 64."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THIN, THICK = 4.61, 5.14
"""Terciles of the mean grey value of scikit-learn's digits (of 16): what captions call thin and thick."""


@dataclass(frozen=True)
class Data:
    """Training and held-out images; with captions, those of each image."""

    train: ImageSet
    test: ImageSet
    captions: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)
    crop: tuple[int, int, int] | None = None
    """Column, row and side of the square that is cut out of every image; None: the largest one in the middle."""


def read(folder: Path, text: bool, seed: int) -> Data | None:
    """The images of a folder in one of the layouts; None: in none of them.

    Where nothing is held out, a fifth is, drawn by `seed`.

    Raises:
        Problem: a damaged file; an image in both parts; no captions where `text` asks for them.
    """
    if text:
        return _read_captions(folder)
    if is_cifar(folder):
        return Data(*read_cifar(folder))
    for root in (folder, folder / "celeba"):
        if (root / "img_align_celeba").is_dir():
            return _read_celeba(root)
    for root in (folder, folder / "CUB_200_2011"):
        if (root / "train_test_split.txt").is_file():
            return _read_cub(root)
    if images.is_labelled(folder):
        return Data(*images.read_splits(folder, seed))
    paths = images.image_files(folder)
    if len(paths) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(paths))
    whole = ImageSet(tuple(paths), (0,) * len(paths), ("image",))
    held_out = max(1, len(paths) // 5)
    return Data(whole.subset(np.sort(order[held_out:]).tolist()), whole.subset(np.sort(order[:held_out]).tolist()))


def _read_celeba(root: Path) -> Data:
    """CelebA's aligned faces: parts 0 (train) and 2 (test); 1 (validation) is not used."""
    rows = _table(root / "list_eval_partition.txt", 2)
    parts: dict[str, list[Path]] = {"0": [], "1": [], "2": []}
    for number, (name, part) in enumerate(rows, start=1):
        if part not in parts:
            raise Problem(f"part {part!r} in row {number}", root / "list_eval_partition.txt", "parts are 0, 1 and 2")
        parts[part].append(_there(root / "img_align_celeba" / name, "list_eval_partition.txt", number))
    train, test = (ImageSet(tuple(parts[part]), (0,) * len(parts[part]), ("face",)) for part in ("0", "2"))
    return Data(train, test, crop=(*CELEBA_CENTRE, CELEBA_SIDE))


def _read_cub(root: Path) -> Data:
    """CUB-200-2011 by its own split; 1 in train_test_split.txt is for training."""
    names = {row[0]: row[1] for row in _table(root / "images.txt", 2)}
    parts: dict[str, list[Path]] = {"1": [], "0": []}
    for row, (number, part) in enumerate(_table(root / "train_test_split.txt", 2), start=1):
        if number not in names or part not in parts:
            raise Problem(
                f"row {row}: {number} {part}", root / "train_test_split.txt", "rows are: number in images.txt, 0 or 1"
            )
        parts[part].append(_there(root / "images" / names[number], "images.txt", row))
    classes = tuple(sorted({path.parent.name for paths in parts.values() for path in paths}))
    train, test = (
        ImageSet(tuple(paths), tuple(classes.index(path.parent.name) for path in paths), classes)
        for paths in parts.values()
    )
    return Data(train, test)


def _table(path: Path, columns: int) -> list[list[str]]:
    if not path.is_file():
        raise Problem("a file of the data set is missing", path, "unpack the data set again")
    rows = [line.split() for line in read_lines(path) if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise Problem(f"row {number} has {len(row)} columns: {' '.join(row)[:60]!r}", path, f"{columns} are needed")
    return rows


def _there(path: Path, listed: str, row: int) -> Path:
    if not path.is_file():
        raise Problem(f"row {row} of {listed} names an image that is not there", path, "unpack the images again")
    return path


# -- captions -----------------------------------------------------------------------------------


def _read_captions(folder: Path) -> Data:
    """COCO's captions_train*.json and captions_val*.json, with the folders of images that are called like them."""
    parts, captions = [], dict[Path, tuple[str, ...]]()
    for split in ("train", "val"):
        found = sorted((folder / "annotations").glob(f"captions_{split}*.json"))
        if len(found) != 1:
            raise Problem(
                f"{len(found)} files of captions for {split!r}",
                folder / "annotations",
                "give one captions_train*.json and one captions_val*.json, or leave out condition=text",
            )
        own = _captions_of(found[0], folder / found[0].stem.removeprefix("captions_"))
        captions |= own
        parts.append(ImageSet(tuple(own), (0,) * len(own), ("image",)))
    check_distinct_files({"train": parts[0].paths, "val": parts[1].paths}, folder)
    return Data(parts[0], parts[1], captions)


def _captions_of(file: Path, root: Path) -> dict[Path, tuple[str, ...]]:
    """Image -> its captions, in the order of the file.

    Raises:
        Problem: not in COCO's format; an image that is not there or has no caption; a caption of no image.
    """
    file_size(file)
    try:
        content = json.loads(file.read_bytes())
        paths = {int(row["id"]): root / str(row["file_name"]) for row in content["images"]}
        texts = [(int(row["image_id"]), str(row["caption"]).strip()) for row in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"not in COCO's format of captions: {reason(error)}"
        raise Problem(what, file, "needed: images (id, file_name) and annotations (image_id, caption)") from error
    if len(paths) < len(content["images"]):
        raise Problem("two images have the same id", file, "give each image an id of its own")
    captions: dict[int, list[str]] = {number: [] for number in paths}
    for number, text in texts:
        if number not in captions or not text:
            raise Problem(f"a caption of image {number}: {text[:40]!r}", file, "caption the images that are listed")
        captions[number].append(text)
    for number, path in paths.items():
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            raise Problem(f"image {number} is not there", path, f"put the images into {root.name}/")
        if not captions[number]:
            raise Problem(f"image {number} has no caption", file, "caption it, or take it out of images")
    return {path: tuple(captions[number]) for number, path in paths.items()}


# -- tensors ------------------------------------------------------------------------------------


def transform(size: int, channels: int, crop: tuple[int, int, int] | None) -> Callable[[Image.Image], Tensor]:
    """PIL image -> (channels, size, size) in [-1, 1]: the middle square, resized where it has another size."""

    def apply(image: Image.Image) -> Tensor:
        column, row, side = crop or (image.width // 2, image.height // 2, min(image.size))
        left, top = max(0, column - side // 2), max(0, row - side // 2)
        square = image.crop((left, top, left + side, top + side))
        if side != size:
            square = square.resize((size, size), Image.Resampling.BICUBIC)
        values = np.asarray(square.convert("L" if channels == 1 else "RGB"), dtype=np.float32).reshape(size, size, -1)
        return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1)

    return apply


def are_grey(images: ImageSet, most: int = 32) -> bool:
    """Whether the first images have equal red, green and blue."""
    arrays = (np.asarray(images.image(i)) for i in range(min(most, len(images))))
    return all((array == array[..., :1]).all() for array in arrays)


class Conditioned(Dataset[tuple[Tensor, Tensor]]):
    """Images (C, H, W) with their condition: a label (), numbers of words (T,); without one, 0.

    Args:
        images: with their transform.
        conditions: of each image, one or several to draw from.
        flip: probability of mirroring.
    """

    def __init__(self, images: ImageSet, conditions: list[Tensor], flip: float = 0.0) -> None:
        self.images, self.conditions, self.flip = images, conditions, flip

    def __len__(self) -> int:
        return len(self.images)

    @property
    def draws(self) -> bool:
        """Whether samples are random."""
        return self.flip > 0 or any(len(choices) > 1 for choices in self.conditions) or draws(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, choices = self.images[index][0], self.conditions[index]
        condition = choices[int(torch.randint(len(choices), ()))] if len(choices) > 1 else choices[0]
        return (x.flip(-1) if self.flip and torch.rand(()) < self.flip else x), condition


# -- the sample ---------------------------------------------------------------------------------


def write_sample(folder: Path, train: int) -> None:
    """scikit-learn's digits, 8 x 8, in class folders, with captions in COCO's format ("a thin seven").

    Args:
        folder: train/<digit>/, val/<digit>/ and annotations/ are made in it.
        train: images of each digit to train on; the last 29 of each, at most as many, are held out.
    """
    held_out = min(29, train)
    images.write_digits(folder, size=8, train=train, val=held_out)
    from sklearn.datasets import load_digits  # slow to import

    pixels, labels = load_digits(return_X_y=True)
    for part, chosen in (("train", slice(None, train)), ("val", slice(-held_out, None))):
        listed, said = [], []
        for digit in range(10):
            for number, scan in enumerate(pixels[labels == digit][chosen]):
                k = len(listed)
                listed.append({"id": k, "file_name": f"{digit}/{number:04d}.png", "height": 8, "width": 8})
                said.append({"id": k, "image_id": k, "caption": caption(scan, digit)})
        (folder / "annotations").mkdir(exist_ok=True)
        write_json(folder / "annotations" / f"captions_{part}.json", {"images": listed, "annotations": said})


def caption(scan: NDArray[Any], digit: int) -> str:
    """What a digit looks like, by its ink.

    Example:
        >>> caption(np.full(64, 2.0), 7)
        'a thin seven'
    """
    ink = float(scan.mean())
    stroke = "thin" if ink < THIN else "thick" if ink > THICK else ""
    article = "an" if not stroke and digit == 8 else "a"
    return " ".join(word for word in (article, stroke, DIGITS[digit]) if word)


def drawn(data: Data, share: float, rng: np.random.Generator) -> Data:
    """A share of the training images."""
    rows = np.sort(rng.permutation(len(data.train))[: max(1, round(share * len(data.train)))])
    return replace(data, train=data.train.subset(rows.tolist()))
