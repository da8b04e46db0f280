"""Check splits that come from files: every id is there, and no two parts share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from repertory.core.problem import Problem


def part_ids(content: Any, size: int, part: str, where: object = "") -> np.ndarray:
    """Ids (k,) int64 of one part of a split, in the order of the file.

    Args:
        content: (k,) whole numbers from 0 to size - 1, each once; or a mask, (size,) booleans.
        size: number of examples.
        part: train, val, test: for messages.
        where: file that a Problem names.

    Raises:
        Problem: another shape, ids that are not whole numbers, out of range or repeated; a mask of another length.

    Example:
        >>> part_ids([True, False, True], 3, "train"), part_ids([2.0, 0.0], 3, "train")
        (array([0, 2]), array([2, 0]))
    """
    ids = np.asarray(content)
    if ids.ndim != 1:
        raise Problem(f"the {part} ids have the shape {ids.shape}", where, "give one row of ids")
    if ids.dtype == np.bool_:
        if len(ids) != size:
            raise Problem(f"the {part} mask has {len(ids)} entries for {size} examples", where, "give one for each")
        return np.flatnonzero(ids)
    if ids.size and (ids.dtype.kind not in "iuf" or not np.isfinite(ids).all() or (ids % 1).any()):
        raise Problem(f"the {part} ids are not whole numbers", where, "give row numbers, counted from 0")
    outside = (ids < 0) | (ids >= size)
    if outside.any():
        wrong = f"{ids[outside][0]:g}"
        raise Problem(f"{part} names {wrong}, the data have 0 … {size - 1}", where, "correct or remove the split")
    numbers, counts = np.unique(ids.astype(np.int64), return_counts=True)
    if (counts > 1).any():
        k = int(counts.argmax())
        raise Problem(
            f"{part} lists {numbers[k]} {counts[k]} times",
            where,
            "list each id once; if this is a mask, save np.flatnonzero(mask)",
        )
    return ids.astype(np.int64)


def check_disjoint(parts: Mapping[str, np.ndarray], where: object = "") -> None:
    """Raise `Problem` if two parts share ids: results on examples that were trained on say nothing."""
    for (one, these), (other, those) in combinations(parts.items(), 2):
        both = np.intersect1d(these, those)
        if len(both):
            first = ", ".join(map(str, both[:3].tolist())) + (", …" if len(both) > 3 else "")
            raise Problem(
                f"{one} and {other} share {len(both)} of {min(len(these), len(those))} ids (first: {first})",
                where,
                "give each example to one part only",
            )


def check_distinct_files(parts: Mapping[str, Sequence[Path]], where: object = "") -> None:
    """Raise `Problem` if a file is in two parts, under whatever names and links."""
    # A file that cannot be reached is reported by whoever reads it.
    found = {part: {_identity(path): path for path in paths} for part, paths in parts.items()}
    for (one, these), (other, those) in combinations(found.items(), 2):
        both = these.keys() & those.keys() - {None}
        if both:
            first = min((these[key], those[key]) for key in both)
            raise Problem(
                f"{one} and {other} share {len(both)} of {min(len(these), len(those))} files "
                f"(first: {first[0]}, {first[1]})",
                where,
                "give each file to one part only; links to one file or folder count as one",
            )


def check_distinct_samples(train: np.ndarray, test: np.ndarray, where: object = "") -> None:
    """Raise `Problem` if the samples (n, …) of the two parts are the same: one file was copied over the other."""
    if np.array_equal(train, test):
        raise Problem(
            f"the {len(test)} test samples are training samples", where, "give samples that are not trained on"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
