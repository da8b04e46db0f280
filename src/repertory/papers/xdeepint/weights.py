"""Models that users trained with the authors' TensorFlow code, as a .npz file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repertory.core.problem import Problem
from repertory.data import clicks
from repertory.data.arrays import load_npz
from repertory.papers.xdeepint.model import XDeepInt

EXPORT = (
    'where TensorFlow is: r = tf.train.load_checkpoint(DIR); np.savez("model.npz", **{n: r.get_tensor(n) for n in '
    'r.get_variable_to_shape_map()}, **{f"vocabulary/{c}": np.array(open(f"VOCABULARIES/{c}").read().splitlines()) '
    "for c in COLUMNS})"
)
"""The authors released no weights, and a TensorFlow checkpoint can be read by TensorFlow alone."""

TABLE = re.compile(r"(?:^|/)([^/]+?)_embedding/embedding_weights$")
KERNEL = re.compile(r"(?:^|/)(?:[^/]*?_)?(\d*)/?kernel$")
VOCABULARY = "vocabulary/"


def from_tensorflow(path: Path, activation: str = "linear") -> XDeepInt:
    """Build a model from the variables of a TensorFlow checkpoint and its vocabularies, see `EXPORT`.

    Tables are called .../FIELD_embedding/embedding_weights, (vocabulary, K); fields stand in alphabetical order, as in
    the TensorFlow graph. Kernels are (in, out) and are transposed; sizes follow from the shapes. Optimiser slots are
    ignored. A column with a vocabulary is categorical; another is numeric and has 64 rows.

    Raises:
        Problem: unreadable, no tables, kernels of other shapes, or a vocabulary of another length than its table.
    """
    arrays = load_npz(path)
    tables = {found[1]: array for name, array in arrays.items() if (found := TABLE.search(name))}
    if not tables:
        raise Problem("no tables FIELD_embedding/embedding_weights", path, EXPORT)
    fields = sorted(tables)
    dims = {array.shape[1] if array.ndim == 2 else 0 for array in tables.values()}
    squares, outputs = _kernels(arrays, len(fields))
    biases = [array for name, array in arrays.items() if re.search(r"(?:^|/)bias$", name) and array.shape == (1,)]
    width = squares[0].shape[0] if squares else 0
    if len(dims) != 1 or width % len(fields) or not squares or len(outputs) != 1 or len(biases) != 1:
        raise Problem(
            f"{len(tables)} tables, {len(squares)} square kernels, {len(outputs)} kernels ({len(fields)}, 1) and "
            f"{len(biases)} biases (1,): no residual xDeepInt",
            path,
            EXPORT,
        )
    vocabularies = {n.removeprefix(VOCABULARY): a.tolist() for n, a in arrays.items() if n.startswith(VOCABULARY)}
    schema = _schema(fields, tables, vocabularies, path)
    (dim,) = dims
    model = XDeepInt(schema.sizes, dim, width // len(fields), len(squares), activation, schema=schema.to_json())
    with torch.no_grad():
        model.tables.weight[1:] = torch.from_numpy(np.concatenate([tables[name] for name in fields]))
        for weight, kernel in zip(model.pins()[0].matrices, squares, strict=True):
            weight.copy_(torch.from_numpy(kernel.T.copy()))
        model.output.linear.weight.copy_(torch.from_numpy(outputs[0].T.copy()))
        model.output.linear.bias.copy_(torch.from_numpy(biases[0]))
    return model.eval()


def _kernels(arrays: Mapping[str, np.ndarray], fields: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Square kernels in the order of their numbers (dense, dense_1, ...), and those of the output, (F, 1)."""
    found = sorted((int(m[1] or 0), name) for name in arrays if (m := KERNEL.search(name)))
    kernels = [arrays[name] for _, name in found]
    squares = [k for k in kernels if k.ndim == 2 and k.shape[0] == k.shape[1] > 1]
    return squares, [k for k in kernels if k.shape == (fields, 1)]


def _schema(
    fields: list[str], tables: Mapping[str, np.ndarray], vocabularies: Mapping[str, Any], path: Path
) -> clicks.Schema:
    """The columns of Criteo in the order of the tables; "I1_bin" is column I1."""
    names = {field: re.sub(r"_(bin|bucketized|identity)$", "", field) for field in fields}
    for field in fields:
        rows, levels = len(tables[field]), vocabularies.get(names[field])
        expected = clicks.BUCKETS if levels is None else len(levels)
        if rows != expected:
            what = f"{field} has {rows} rows, and {'no vocabulary' if levels is None else f'{expected} levels'}"
            raise Problem(what, path, f"store the levels of {names[field]} as vocabulary/{names[field]}")
    known = [*clicks.CRITEO_NUMBERS, *clicks.CRITEO_CATEGORIES]
    of_criteo = set(names.values()) <= set(known)
    numeric = frozenset(names[field] for field in fields if names[field] not in vocabularies)
    return clicks.Schema(
        "criteo" if of_criteo else "table", "label", tuple(names.values()), numeric, dict(vocabularies)
    )
