"""IDX files, as MNIST and its successors are distributed: big-endian arrays, plain or gzipped.

train-images-idx3-ubyte[.gz]   magic 2051, count, rows, columns, then one byte a pixel
train-labels-idx1-ubyte[.gz]   magic 2049, count, then one byte a label
t10k-images-idx3-ubyte[.gz]    t10k-labels-idx1-ubyte[.gz]
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repertory.core.problem import Problem
from repertory.data.arrays import read_bytes

LAYOUT = """\
train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]
t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]"""
PARTS = {"train": "train", "test": "t10k"}
TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Third byte of the magic number -> kind of number."""
MOST_AXES = 8


@dataclass(frozen=True)
class Labelled:
    """Images (n, H, W) uint8 and labels (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def find(folder: Path, part: str, what: str) -> Path | None:
    """The file of one part ("train", "test") and one kind ("images", "labels"), by either of its two usual names."""
    axes = {"images": 3, "labels": 1}[what]
    names = (f"{PARTS[part]}-{what}{dot}idx{axes}-ubyte{end}" for dot in ("-", ".") for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_array(path: Path) -> NDArray[np.generic]:
    """Read one IDX file.

    Raises:
        Problem: unreadable, damaged, too large when unpacked, a wrong magic number, or another length than the head
            says.
    """
    content = read_bytes(path)
    head = struct.unpack(">HBB", content[:4]) if len(content) >= 4 else (1, 0, 0)
    zero, kind, axes = head
    if zero or kind not in TYPES or not 1 <= axes <= MOST_AXES or len(content) < 4 + 4 * axes:
        magic = int.from_bytes(content[:4])
        raise Problem(f"not an IDX file: its magic number is {magic}", path, "images have 2051, labels 2049")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    dtype = np.dtype(TYPES[kind])
    wanted, found = math.prod(shape) * dtype.itemsize, len(content) - 4 - 4 * axes
    if wanted != found or not found:
        raise Problem(f"{found} bytes of numbers, its head says {wanted} (shape {shape})", path, "download it again")
    return np.frombuffer(content, dtype, offset=4 + 4 * axes).reshape(shape).astype(dtype.newbyteorder("="))


def write_array(path: Path, array: NDArray[np.uint8]) -> None:
    """Write bytes of any shape as an IDX file; gzipped if the name ends in .gz.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a-idx1-ubyte.gz"
        ...     write_array(path, np.arange(3, dtype=np.uint8))
        ...     read_array(path)
        array([0, 1, 2], dtype=uint8)
    """
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_part(folder: Path, part: str) -> Labelled:
    """Images and labels of "train" or "test".

    Raises:
        Problem: a file is missing or damaged, or the two do not belong together.
    """
    paths = [find(folder, part, what) for what in ("images", "labels")]
    if None in paths:
        raise Problem(f"no IDX files of the {part} part", folder, f"expected: {'; '.join(LAYOUT.splitlines())}")
    images, labels = (read_array(path) for path in paths if path is not None)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
        raise Problem(f"images of {images.shape}, labels of {labels.shape}", folder, "give (n, H, W) and (n,), n > 0")
    with np.errstate(invalid="ignore"):  # NaN; refused below
        pixels, numbers = images.astype(np.uint8), labels.astype(np.int64)
    if (pixels != images).any() or (numbers != labels).any() or (numbers < 0).any():
        what = f"pixels from {images.min():g} to {images.max():g}, labels from {labels.min():g} to {labels.max():g}"
        raise Problem(what, folder, "give whole pixels from 0 to 255 and whole labels from 0")
    return Labelled(pixels, numbers)


def read_parts(folder: Path) -> tuple[Labelled, Labelled]:
    """The training and the test part.

    Raises:
        Problem: see `read_part`; or the two hold the same images.
    """
    train, test = (read_part(folder, part) for part in PARTS)
    if np.array_equal(train.images, test.images):
        raise Problem("the test images are the training images", folder, "give images that are not trained on")
    return train, test


def write_part(folder: Path, part: str, data: Labelled) -> None:
    """Write images and labels under their usual names, gzipped."""
    write_array(folder / f"{PARTS[part]}-images-idx3-ubyte.gz", data.images)
    write_array(folder / f"{PARTS[part]}-labels-idx1-ubyte.gz", data.labels.astype(np.uint8))


def digits(size: int = 16) -> tuple[Labelled, Labelled]:
    """scikit-learn's 1797 handwritten digits, enlarged to `size`: 1347 to train, 450 to test, stratified."""
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    found: Any = load_digits()
    pixels = np.round(found.images / 16 * 255).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR)) for p in pixels])
    train, test = train_test_split(np.arange(len(images)), test_size=450, stratify=found.target, random_state=0)
    labels = found.target.astype(np.int64)
    return Labelled(images[train], labels[train]), Labelled(images[test], labels[test])


def write_sample(folder: Path, size: int = 16) -> None:
    """Write the digits as IDX files, as MNIST's owners distribute theirs."""
    for part, data in zip(PARTS, digits(size), strict=True):
        write_part(folder, part, data)
