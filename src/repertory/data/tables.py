"""Read tables of text: one way of naming what is wrong, and of telling what is missing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repertory.core.problem import Problem, reason
from repertory.data.arrays import OPENERS, file_size, read_bytes


def read_table(path: Path, columns: Sequence[str] = (), **options: Any) -> Any:
    """Read a table, compressed or not. Only an empty cell is missing: NA, null and nan are words.

    Args:
        path: the file.
        columns: those that must be there.
        options: of `pandas.read_csv`.

    Returns:
        A `pandas.DataFrame`.

    Raises:
        Problem: missing, damaged, no table, or without one of `columns`.
    """
    file_size(path)
    compressed = path.suffix == ".zip" or path.suffix in OPENERS
    source = BytesIO(read_bytes(path)) if compressed else path
    options = {"keep_default_na": False, "na_values": [""], "skipinitialspace": True, **options}
    try:
        table = pd.read_csv(source, compression=None, **options)
    except Exception as error:  # pandas and its engines raise many kinds
        raise Problem(f"cannot read {path.name}: {reason(error)}", path, "give a table of text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex) and "index_col" not in options:
        # Where rows have more cells than the first line has names, pandas shifts the columns.
        raise Problem(f"the rows of {path.name} have more cells than its first line", path, "name every column")
    missing = [column for column in columns if column not in table]
    if missing:
        raise Problem(f"{path.name} has no column {missing[0]!r}", path, f"it has: {', '.join(map(str, table))}")
    return table


def without_index(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table without the row numbers that `DataFrame.to_csv` writes first, under no name; warns if there are any.

    Raises:
        Problem: another column without a name.
    """
    while table.shape[1] and _is_unnamed(table.columns[0]):
        if table.iloc[:, 0].astype(str).tolist() != np.arange(len(table)).astype(str).tolist():
            break
        warnings.warn(f"{path}: the first column has no name and counts the rows; it is left out", stacklevel=3)
        table = table.iloc[:, 1:]
    unnamed = [k for k, name in enumerate(table.columns, 1) if _is_unnamed(name)]
    if unnamed:
        raise Problem(f"column {unnamed[0]} of {path.name} has no name", path, "name it in the first line, or drop it")
    return table


def _is_unnamed(name: object) -> bool:
    return re.fullmatch(r"Unnamed: \d+(\.\d+)?", str(name)) is not None


def to_numbers(table: Any, path: Path) -> np.ndarray:
    """Cells as float64; an empty one is NaN.

    Raises:
        Problem: a cell holds something else.
    """
    try:
        return table.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Problem(f"not a number: {reason(error)}", path, "give one number a cell") from error
