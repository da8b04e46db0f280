"""Open HDF5 files that may be damaged: no hang, and no allocation of what a file merely claims."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.problem import Problem, reason, require
from repertory.data.arrays import check_claim, file_size

HEAP = b"GCOL\x01\x00\x00\x00"
"""A global heap collection, version 1: arrays of variable length lie in these."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An `h5py.File` to read; whatever HDF5 or NumPy raise while it is open becomes a `Problem`.

    Raises:
        Problem: h5py is not installed; missing, damaged, or not HDF5.
    """
    h5py = require("h5py", extra="spiking")
    file_size(path)
    try:
        _check_heaps(path)
        with h5py.File(path, "r") as file:
            yield file
    except Problem:
        raise
    except Exception as error:  # h5py raises many kinds on a damaged file
        raise Problem(f"the HDF5 file cannot be read: {reason(error)}", path, "fetch it again") from error


def read_dataset(item: Any, path: Path) -> np.ndarray:
    """A whole data set.

    Raises:
        Problem: no data set but a group, or it claims to be larger than `arrays.LARGEST`.
    """
    h5py = require("h5py", extra="spiking")
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        raise Problem(f"{getattr(item, 'name', item)} is no array", path, "save it as a data set")
    check_claim(int(item.size) * item.dtype.itemsize, path)
    return np.asarray(item[()])


def _check_heaps(path: Path) -> None:
    """Refuse a heap with an object of no length: HDF5 would look for the next one at the same place for ever.

    A collection is a head of 16 bytes (the last 8: its length), then objects: number, references, 4 bytes, and the
    length as uint64; the contents follow, up to a multiple of 8. Number 0 is the free rest, its head included.
    """
    if not file_size(path):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(HEAP)
        while start >= 0:
            length = int.from_bytes(content[start + 8 : start + 16], "little")
            place, end = start + 16, min(start + length, len(content))
            while place + 16 <= end:
                number, _, _, size = struct.unpack_from("<HHIQ", content, place)
                step = 16 + -(-size // 8) * 8 if number else size
                if step < 16:
                    raise Problem(
                        f"{path.name} is damaged: an object without length at byte {place}", path, "fetch it again"
                    )
                place += step
            start = content.find(HEAP, start + 8)
