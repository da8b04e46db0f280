"""The published image sets as their owners distribute them, and the user's class folders, as normalised tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from repertory.core.problem import Problem
from repertory.data import cifar, idx, images
from repertory.data.arrays import load_mat, read_bytes
from repertory.data.images import ImageSet
from repertory.data.splits import check_distinct_samples
from repertory.papers.doorping.model import Distiller

LAYOUT = f"""\
{images.LAYOUT}
{cifar.LAYOUT}
FashionMNIST/raw/, or the folder itself: {"; ".join(idx.LAYOUT.splitlines())}
train_32x32.mat, test_32x32.mat (SVHN)
stl10_binary/{{train,test}}_{{X,y}}.bin (STL-10)"""

Pixels = NDArray[np.uint8]
Part = tuple[Pixels, NDArray[np.int64]]
"""Images (N, S, S, C) and labels (N,)."""
Norms = tuple[tuple[float, ...], tuple[float, ...]]

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
NORMS: dict[str, dict[Distiller, Norms]] = {
    "cifar10": {
        "dc": (CIFAR_MEAN, (0.2023, 0.1994, 0.2010)),
        "dd": (CIFAR_MEAN, (0.247, 0.243, 0.261)),
    },
    "stl10": {
        "dc": (CIFAR_MEAN, (0.2023, 0.1994, 0.2010)),
        "dd": (CIFAR_MEAN, (0.247, 0.243, 0.261)),
    },
    "cifar100": {
        "dc": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "dd": ((0.5071, 0.4866, 0.4409), (0.247, 0.243, 0.261)),
    },
    "fmnist": dict.fromkeys(("dc", "dd"), ((0.2861,), (0.3530,))),
    "svhn": dict.fromkeys(("dc", "dd"), ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))),
}
"""Means and standard deviations of the reference; those of other data are measured on the training images."""


@dataclass(frozen=True)
class Data:
    """Normalised images (N, C, S, S) and labels (N,) of both parts."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(folder: Path, size: int, distiller: Distiller) -> Data | None:
    """The images of a folder, resized bilinearly; grey ones have one channel. None: in none of the layouts.

    Args:
        folder: see `LAYOUT`.
        size: height and width.
        distiller: chooses the published normalisation.

    Raises:
        Problem: a file is missing or damaged, or a class has no training images.
    """
    for name, found, reader in READERS:
        place = found(folder)
        if place is None:
            continue
        (train, test, classes) = reader(place, size)
        missing = sorted(set(range(len(classes))) - set(train[1].tolist()))
        if missing and len(train[1]):
            raise Problem(
                f"the class {classes[missing[0]]!r} has no training images", place, "add some, or remove the class"
            )
        if name == "cifar10" and len(classes) == 100:
            name = "cifar100"
        elif name == "idx" and "fashion" in str(place).lower():
            name = "fmnist"
        known = NORMS.get(name)
        mean, std = known[distiller] if known else _moments(train[0] if len(train[0]) else test[0])
        return Data(_tensors(train, mean, std), _tensors(test, mean, std), classes, mean, std)
    return None


def _tensors(part: Part, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    return normalised(part[0], mean, std), torch.from_numpy(part[1])


def normalised(pixels: Pixels, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(N, S, S, C) uint8 -> (N, C, S, S) float."""
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float().div_(255)
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return x.sub_(shift).div_(scale)


def _moments(pixels: Pixels) -> Norms:
    """Of each channel; the deviation of constant images counts as 1."""
    channels = pixels.reshape(-1, pixels.shape[-1]) / 255
    return tuple(channels.mean(0).tolist()), tuple(value or 1.0 for value in channels.std(0).tolist())


def resized(image: Image.Image, size: int) -> Pixels:
    """(S, S, 3) or, of a grey image file, (S, S)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR) if image.size != (size, size) else image)


def read_pixels(path: Path, size: int, channels: int) -> Pixels:
    """One image file, (S, S, C); colours become grey where C is 1.

    Raises:
        Problem: not a readable image.
    """
    image = images.read_image(path)
    return np.atleast_3d(resized(image.convert("L") if channels == 1 else image, size))


def write_sample(folder: Path, count: int = 1797, size: int = 16) -> None:
    """The first of scikit-learn's 1797 digits, enlarged by repeating pixels, in class folders train/ and test/.

    A fixed split; of all digits 497 are held out. Classes keep their frequencies.
    """
    found: Any = load_digits()
    scans = np.round(found.images[:count] * 255 / 16).astype(np.uint8)
    split = train_test_split(np.arange(count), test_size=round(count * 497 / 1797), random_state=0)
    for part, rows in zip(("train", "test"), split, strict=True):
        for row in rows:
            path = folder / part / str(found.target[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scans[row]).resize((size, size), Image.Resampling.NEAREST).save(path)


def pixels_of(data: ImageSet, size: int) -> Pixels:
    """All images, (N, S, S, 3)."""
    rows = [resized(data.image(i), size) for i in range(len(data))]
    return np.stack(rows) if rows else np.zeros((0, size, size, 3), np.uint8)


def is_grey(pixels: Pixels) -> bool:
    """Whether red, green and blue are the same everywhere."""
    return bool((pixels == pixels[..., :1]).all())


def _of_sets(parts: tuple[ImageSet, ImageSet], size: int) -> tuple[Part, Part, tuple[str, ...]]:
    pixels = [pixels_of(part, size) for part in parts]
    channels = 1 if all(map(is_grey, pixels)) else 3
    train, test = (
        (x[..., :channels], np.array(part.labels, dtype=np.int64)) for x, part in zip(pixels, parts, strict=True)
    )
    return train, test, parts[0].classes


def _folders(folder: Path, size: int) -> tuple[Part, Part, tuple[str, ...]]:
    return _of_sets(images.read_splits(folder), size)


def _cifar(folder: Path, size: int) -> tuple[Part, Part, tuple[str, ...]]:
    return _of_sets(cifar.read_cifar(folder), size)


def _idx(folder: Path, size: int) -> tuple[Part, Part, tuple[str, ...]]:
    parts = idx.read_parts(folder)
    classes = max(int(part.labels.max()) for part in parts) + 1
    train, test = (
        (np.stack([resized(Image.fromarray(image), size) for image in part.images])[..., None], part.labels)
        for part in parts
    )
    return train, test, tuple(map(str, range(classes)))


def _svhn(folder: Path, size: int) -> tuple[Part, Part, tuple[str, ...]]:
    parts = []
    for name in ("train_32x32.mat", "test_32x32.mat"):
        path = folder / name
        content = load_mat(path, ("X", "y"))
        x, y = np.asarray(content["X"]), np.asarray(content["y"]).ravel()
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != 3 or x.shape[3] != len(y) or not x.size:
            raise Problem(f"X is {x.dtype} {x.shape}, y {y.shape}", path, "X is uint8 (32, 32, 3, n), y (n, 1)")
        if y.dtype.kind not in "biuf" or not np.isin(y, np.arange(1, 11)).all():
            raise Problem("labels that are none of 1 to 10", path, "labels are 1 to 10; 10 means 0")
        rows = [resized(Image.fromarray(image), size) for image in x.transpose(3, 0, 1, 2)]
        parts.append((np.stack(rows), y.astype(np.int64) % 10))
    check_distinct_samples(parts[0][0], parts[1][0], folder)
    return parts[0], parts[1], tuple(map(str, range(10)))


STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def _stl10(folder: Path, size: int) -> tuple[Part, Part, tuple[str, ...]]:
    parts = []
    for part in ("train", "test"):
        path = folder / f"{part}_X.bin"
        x = np.frombuffer(read_bytes(path), np.uint8)
        labels = np.frombuffer(read_bytes(folder / f"{part}_y.bin"), np.uint8).astype(np.int64) - 1
        if not len(labels) or x.size != len(labels) * 3 * 96 * 96:
            raise Problem(f"{x.size} bytes of pixels for {len(labels)} labels", path, "3 x 96 x 96 bytes an image")
        if not ((labels >= 0) & (labels < 10)).all():
            raise Problem(f"labels from {labels.min() + 1} to {labels.max() + 1}", path, "labels are 1 to 10")
        rows = x.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # columns come first in the file
        parts.append((np.stack([resized(Image.fromarray(row), size) for row in rows]), labels))
    check_distinct_samples(parts[0][0], parts[1][0], folder)
    return parts[0], parts[1], STL10


def _place(folder: Path, *names: str) -> Path | None:
    """The folder that holds one of the files: the given one, or the usual place below it."""
    places = [folder, folder / "FashionMNIST" / "raw", folder / "raw", folder / "stl10_binary"]
    return next((place for place in places if any((place / name).is_file() for name in names)), None)


IDX = tuple(f"train-images{dot}idx3-ubyte{end}" for dot in "-." for end in ("", ".gz"))
Find = Callable[[Path], Path | None]
Reader = Callable[[Path, int], tuple[Part, Part, tuple[str, ...]]]
READERS: tuple[tuple[str, Find, Reader], ...] = (
    ("cifar10", lambda folder: folder if cifar.is_cifar(folder) else None, _cifar),
    ("svhn", lambda folder: _place(folder, "train_32x32.mat"), _svhn),
    ("stl10", lambda folder: _place(folder, "train_X.bin"), _stl10),
    ("idx", lambda folder: _place(folder, *IDX), _idx),
    ("folders", lambda folder: folder if any((folder / part).is_dir() for part in ("val", "test")) else None, _folders),
)
