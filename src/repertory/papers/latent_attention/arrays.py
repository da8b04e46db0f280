"""Files of sequences, `.npz`: keys, values, query, target; or tokens with the probabilities of their world.

The generators write the format that users bring.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repertory.core.problem import Problem
from repertory.data.arrays import load_npz
from repertory.papers.latent_attention.generators import Sequences, TokenSequences, TokenWorld

LAYOUT = """
    my.npz: keys (n, L, d), values (n, L, m), query (n, d), target (n, m), finite numbers
    or a folder with such files (--set file=NAME picks one)
"""
SHAPES = {"keys": "nLd", "values": "nLm", "query": "nd", "target": "nm"}
REMEDY = "give keys (n, L, d), values (n, L, m), query (n, d) and target (n, m)"


def write_sequences(path: Path, data: Sequences) -> None:
    """Write sequences as float32, with `mean` and `latent` where they are known."""
    known = {name: array.astype(np.float32) for name, array in vars(data).items() if array is not None}
    np.savez_compressed(path, allow_pickle=False, **known)


def write_tokens(path: Path, data: TokenSequences) -> None:
    """Write sequences of tokens with the probabilities of their world."""
    world = {"emission": data.world.emission, "labels": data.world.labels}
    latent = {} if data.latent is None else {"latent": data.latent}
    np.savez_compressed(path, allow_pickle=False, tokens=data.tokens, label=data.label, **world, **latent)


def read_file(path: Path, *, need_target: bool = True) -> Sequences | TokenSequences:
    """Read one file.

    Args:
        path: the file.
        need_target: whether `target` must be there; else it is NaN where it is not.

    Raises:
        Problem: an array is missing, has another shape than the others imply, fewer than 2 tokens, or a value that is
            not finite (names its index).
    """
    arrays = load_npz(path)
    if "tokens" in arrays:
        return _tokens(path, arrays)
    needed = [name for name in SHAPES if need_target or name != "target"]
    if missing := [name for name in needed if name not in arrays]:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise Problem(f"{path.name} has no {missing[0]}; it holds {found}", path, REMEDY)
    names = [name for name in (*SHAPES, "mean", "latent") if name in arrays]
    given = {name: _numbers(path, name, arrays[name]) for name in names}
    sizes: dict[str, int] = {}
    for name, axes in SHAPES.items():
        if name not in given:
            continue
        shape = given[name].shape
        fits = len(shape) == len(axes) and all(
            sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True)
        )
        if not fits:
            shapes = ", ".join(f"{name} {given[name].shape}" for name in SHAPES if name in given)
            raise Problem(f"{path.name}: the shapes do not fit: {shapes}", path, REMEDY)
    if sizes["L"] < 2 or not sizes["n"]:
        what = f"{path.name} has {sizes['n']} sequences of {sizes['L']} tokens"
        raise Problem(what, path, "give at least one sequence, and 2 tokens in each")
    given.setdefault("target", np.full((sizes["n"], sizes["m"]), np.nan))
    if "mean" in given and given["mean"].shape != given["target"].shape:
        raise Problem(f"{path.name}: mean has the shape {given['mean'].shape}", path, "give (n, m), or leave it out")
    return Sequences(**given)


def _numbers(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise Problem(f"{path.name}: {name} holds {array.dtype}", path, "save numbers: array.astype(float)")
    wide = array.astype(np.float64)
    if len(wrong := np.argwhere(~np.isfinite(wide))):
        index = ", ".join(str(i) for i in wrong[0])
        raise Problem(
            f"{path.name}: {name}[{index}] is {wide[tuple(wrong[0])]}, and so are {len(wrong) - 1} more values"
            if len(wrong) > 1
            else f"{path.name}: {name}[{index}] is {wide[tuple(wrong[0])]}",
            path,
            "replace or drop the sequences with such values",
        )
    return wide


def _tokens(path: Path, arrays: dict[str, np.ndarray]) -> TokenSequences:
    remedy = "give tokens (n, L) of whole numbers, emission (C, W) and labels (C, Y) with rows of sum 1"
    for name in ("emission", "labels"):
        if name not in arrays:
            raise Problem(f"{path.name} has tokens, but no {name}", path, remedy)
        rows = _numbers(path, name, arrays[name])
        if rows.ndim != 2 or not rows.size or (rows < 0).any() or np.abs(rows.sum(1) - 1).max() > 1e-4:
            raise Problem(f"{path.name}: {name} {rows.shape} is no table of probabilities by row", path, remedy)
        arrays[name] = rows / rows.sum(1, keepdims=True)
    tokens, words = arrays["tokens"], arrays["emission"].shape[1]
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < 2 or not len(tokens):
        raise Problem(f"{path.name}: tokens {tokens.shape} of {tokens.dtype}", path, remedy)
    if len(arrays["labels"]) != len(arrays["emission"]):
        raise Problem(f"{path.name}: emission and labels are of different numbers of classes", path, remedy)
    if len(wrong := np.argwhere((tokens < 0) | (tokens >= words))):
        row, place = wrong[0]
        raise Problem(f"{path.name}: tokens[{row}, {place}] is {tokens[row, place]}, of {words} words", path, remedy)
    world = TokenWorld(arrays["emission"], arrays["labels"])
    label = arrays.get("label", np.full(len(tokens), -1))
    return TokenSequences(tokens.astype(np.int64), label.astype(np.int64), world, arrays.get("latent"))


def sequence_files(source: Path) -> list[Path]:
    """The `.npz` files of a folder, by name, without hidden ones; or the file itself."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.glob("*.npz") if not path.name.startswith("."))
