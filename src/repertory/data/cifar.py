"""CIFAR-10 and CIFAR-100 as their owners distribute them: pickles of Python 2, images in rows of 3072 bytes.

    cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}
    cifar-100-python/{train,test,meta}

The reader takes any data in this format, not only the published files; nothing in them is run.
"""

from __future__ import annotations

import filecmp
import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repertory.core.problem import Problem
from repertory.data.arrays import load_pickle
from repertory.data.images import ImageSet

SIDE = 32
BYTES = 3 * SIDE * SIDE
LAYOUT = """\
cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta} (CIFAR-10)
cifar-100-python/{train,test,meta} (CIFAR-100)"""
BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))


def is_cifar(folder: Path) -> bool:
    """Whether the folder holds one of the two layouts."""
    return any((folder / name).is_dir() for name in ("cifar-10-batches-py", "cifar-100-python"))


def read_cifar(folder: Path) -> tuple[ImageSet, ImageSet]:
    """The training and the test images of a folder in one of the two layouts.

    Raises:
        Problem: a file is missing or damaged, an image has another size, a label is out of range; names the file.
    """
    ten = folder / "cifar-10-batches-py"
    if ten.is_dir():
        names = _names(ten / "batches.meta", "label_names")
        return _read_parts([ten / name for name in BATCHES], ten / "test_batch", "labels", names)
    hundred = folder / "cifar-100-python"
    names = _names(hundred / "meta", "fine_label_names")
    return _read_parts([hundred / "train"], hundred / "test", "fine_labels", names)


def _entries(path: Path) -> Mapping[str, Any]:
    """The dict of a file; its keys are text, whichever Python wrote them."""
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise Problem(f"{path.name} holds no dictionary", path, "unpack the archive again")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _names(path: Path, key: str) -> tuple[str, ...]:
    names = _entries(path).get(key)
    if not isinstance(names, list) or not names:
        raise Problem(f"{path.name} has no list {key!r}", path, "unpack the archive again")
    return tuple(_text(name) for name in names)


def _read_parts(train: Sequence[Path], test: Path, key: str, names: tuple[str, ...]) -> tuple[ImageSet, ImageSet]:
    parts = _read(train, key, names), _read([test], key, names)
    for file in train:
        if filecmp.cmp(file, test, shallow=False):
            raise Problem(f"{test.name} is a copy of {file.name}", test, "unpack the archive again")
    return parts


def _read(files: Sequence[Path], key: str, names: tuple[str, ...]) -> ImageSet:
    paths, labels, decoded = list[Path](), list[int](), dict[Path, Image.Image]()
    for file in files:
        entries = _entries(file)
        data, found = entries.get("data"), entries.get(key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != BYTES:
            has = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise Problem(f"{file.name}: 'data' is {has}, not uint8 (n, {BYTES})", file, "unpack the archive again")
        if not isinstance(found, list) or len(found) != len(data):
            has = len(found) if isinstance(found, list) else type(found).__name__
            raise Problem(f"{file.name}: {key!r} has {has} entries for {len(data)} images", file, "give one for each")
        for row, label in enumerate(found):
            if not isinstance(label, int) or not 0 <= label < len(names):
                what = f"{file.name}: image {row} has the label {label!r}, but there are {len(names)} classes"
                raise Problem(what, file, "labels are numbers from 0")
        pixels = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        new = [file.parent / f"{file.name}-{row:05d}" for row in range(len(data))]
        decoded |= {path: Image.fromarray(np.ascontiguousarray(image)) for path, image in zip(new, pixels, strict=True)}
        paths += new
        labels += found
    return ImageSet(tuple(paths), tuple(labels), names, _decoded=decoded)


def write_cifar10(
    folder: Path,
    train: tuple[NDArray[np.uint8], Sequence[int]],
    test: tuple[NDArray[np.uint8], Sequence[int]],
    names: Sequence[str],
) -> None:
    """Write images in CIFAR-10's layout, in pickles as Python 2 wrote them.

    Args:
        folder: `cifar-10-batches-py` is made in it.
        train: images (n, 32, 32, 3) and labels; dealt out to the five files in order.
        test: images and labels.
        names: of the classes.
    """
    target = folder / "cifar-10-batches-py"
    target.mkdir(parents=True)
    parts = zip(np.array_split(train[0], len(BATCHES)), np.array_split(np.array(train[1]), len(BATCHES)), strict=True)
    for name, (images, labels) in zip([*BATCHES, "test_batch"], [*parts, test], strict=True):
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(-1, BYTES)
        files = [f"{name}_{row:05d}.png".encode() for row in range(len(rows))]
        entries = {b"batch_label": name.encode(), b"labels": [int(label) for label in labels], b"data": rows}
        (target / name).write_bytes(_python2_pickle({**entries, b"filenames": files}))
    meta = {b"num_cases_per_batch": len(train[0]) // len(BATCHES), b"num_vis": BYTES}
    (target / "batches.meta").write_bytes(_python2_pickle({**meta, b"label_names": [name.encode() for name in names]}))


_Pickler: Any = pickle._Pickler  # the pickler that is written in Python: its types can be told how they are stored


class _Python2Pickler(_Pickler):
    """Writes bytes as Python 2 wrote its strings: `encoding="bytes"` and `encoding="latin1"` both load them."""

    def save_string(self, content: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch = {**_Pickler.dispatch, bytes: save_string}


def _python2_pickle(content: object) -> bytes:
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
