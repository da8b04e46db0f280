"""Mutations of files: bytes at random, arrays of a wrong kind, conventions of text, links, archives that grow.

A mutation changes one file in place. `content_of` reduces what a reader returns to a digest, so that an answer to a
changed file can be compared with the answer to the clean one.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import io as matlab
from scipy import sparse

from repertory.data.arrays import load_npz, load_pickle

Rng = np.random.Generator
Mutation = Callable[[Path, Rng], bool]
"""Changes a file in place; False: the file is of a kind that it does not apply to."""

WORDS = (b"nan", b"-1", b"0.5", b"1e24", b"x", b"", b"1 2 3", b"\n", b"null", b"[]", b'"', b"99999999999999999999")
TEXT = (
    ".csv",
    ".json",
    ".txt",
    ".tsv",
    ".index",
    ".content",
    ".edges",
    ".mha",
    ".mhd",
    ".edgelist",
    ".conllu",
    ".TransE",
)
NAMES = ("path_graph", "ent2ids", "relation2ids")
"""Files of text without a suffix."""
ROOT = "data"
"""Name of the folder of a data set; what readers call it must not depend on the test."""
BOMB = 5 << 30
"""Bytes that a bomb grows to."""


def is_text(path: Path) -> bool:
    """Whether a file is text by its name."""
    return path.suffix in TEXT or path.name in NAMES


# -- bytes --------------------------------------------------------------------------------------


def damaged(content: bytes, rng: Rng, text: bool) -> bytes:
    """The content with one mutation."""
    n = max(1, len(content))
    start, length = int(rng.integers(n)), int(rng.integers(1, max(2, 1 + n // 3)))
    other = int(rng.integers(n))
    kinds = ["cut", "flip", "zeros", "swap", "double", "empty", *(["word"] * 6 if text else ["flip", "flip"])]
    match str(rng.choice(kinds)):
        case "cut":
            return content[:start]
        case "flip":
            changed = bytearray(content)
            changed[start] ^= 1 << int(rng.integers(8))
            return bytes(changed)
        case "zeros":
            return content[:start] + bytes(min(length, n - start)) + content[start + length :]
        case "swap":
            first, second = sorted((start, other))
            return content[:first] + content[second:] + content[first:second]
        case "double":
            return content[:start] + content[start : start + length] + content[start:]
        case "empty":
            return b""
        case _:
            tokens = content.replace(b",", b" , ").split(b" ")
            tokens[int(rng.integers(len(tokens)))] = WORDS[int(rng.integers(len(WORDS)))]
            return b" ".join(tokens).replace(b" , ", b",")


def damage(path: Path, rng: Rng) -> bool:
    """Change bytes; of a gzipped file either those on disk or those inside."""
    content = path.read_bytes()
    if path.suffix == ".gz" and rng.random() < 0.5:
        path.write_bytes(gzip.compress(damaged(gzip.decompress(content), rng, path.suffixes[-2:-1] == [".csv"])))
    else:
        path.write_bytes(damaged(content, rng, is_text(path)))
    return True


# -- arrays -------------------------------------------------------------------------------------


def _with(value: Any, array: np.ndarray, rng: Rng) -> np.ndarray:
    changed = array.astype(np.float64).copy()
    changed.flat[int(rng.integers(changed.size))] = value
    return changed


ALTERED: Mapping[str, Callable[[np.ndarray, Rng], np.ndarray]] = {
    "text": lambda a, _: a.astype("U8"),
    "complex": lambda a, _: a.astype(np.complex128),
    "half": lambda a, _: a.astype(np.float16),
    "boolean": lambda a, _: a.astype(bool),
    "negative": lambda a, _: -a.astype(np.float64) - 1,
    "fractional": lambda a, _: a.astype(np.float64) + 0.5,
    "nan": lambda a, rng: _with(np.nan, a, rng),
    "infinite": lambda a, rng: _with(np.inf, a, rng),
    "large": lambda a, rng: _with(1e18, a, rng),
    "flat": lambda a, _: a.reshape(-1),
    "one axis more": lambda a, _: a[None],
    "scalar": lambda a, _: a.reshape(-1)[0],
    "none": lambda a, _: a[:0],
    "shorter": lambda a, _: a[:-1],
    "thrice": lambda a, _: np.concatenate([a, a, a]),
    "transposed": lambda a, _: a.T,
    "reversed": lambda a, _: a[::-1].copy(),
    "big-endian": lambda a, _: a.astype(a.dtype.newbyteorder(">")),
}
"""Name -> an array of another dtype, shape or content. "big-endian" and "reversed" are valid arrays."""


def _numbers(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.ndim > 0 and array.size > 0


def _alter(arrays: dict[str, Any], rng: Rng) -> bool:
    """Alter one array of numbers among some."""
    known = [name for name, array in arrays.items() if _numbers(array)]
    if not known:
        return False
    name = known[int(rng.integers(len(known)))]
    with np.errstate(all="ignore"):
        arrays[name] = list(ALTERED.values())[int(rng.integers(len(ALTERED)))](arrays[name], rng)
    return True


def _alter_npy(path: Path, rng: Rng) -> bool:
    found = {"": np.load(path)}
    if rng.random() < 0.1:
        _huge_head(path, found[""])
        return True
    done = _alter(found, rng)
    np.save(path, found[""])
    return done


def _huge_head(path: Path, array: np.ndarray) -> None:
    """An `.npy` whose head claims 10^11 rows."""
    head = io.BytesIO()
    shape = (10**11, *array.shape[1:])
    np.lib.format.write_array_header_1_0(head, {"descr": array.dtype.str, "fortran_order": False, "shape": shape})
    path.write_bytes(head.getvalue() + array.tobytes())


def _alter_npz(path: Path, rng: Rng) -> bool:
    arrays = load_npz(path)
    done = _alter(arrays, rng)
    np.savez_compressed(path, allow_pickle=True, **arrays)
    return done


def _alter_mat(path: Path, rng: Rng) -> bool:
    found = {name: value for name, value in matlab.loadmat(path).items() if not name.startswith("__")}
    done = _alter(found, rng)
    matlab.savemat(path, found, do_compression=bool(rng.random() < 0.5))
    return done


def _alter_h5(path: Path, rng: Rng) -> bool:
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[int(rng.integers(len(names)))]
        item: Any = file[name]
        array = item[()]
        del file[name]
        if rng.random() < 0.1:
            file.create_dataset(name, shape=(10**11,), dtype="i8", chunks=(1 << 10,))
        elif rng.random() < 0.1:
            file.create_group(name)
        else:
            found = {"": array}
            if not _alter(found, rng):
                return False
            new: Any = found[""]
            file[name] = new.astype("S8") if new.dtype.kind == "U" else new
    return True


def _alter_tensors(content: Any, rng: Rng) -> Any:
    """The content of a torch file with one tensor altered, or replaced by something else."""
    places: list[tuple[Any, Any]] = []

    def find(inside: Any) -> None:
        for key, item in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
            if isinstance(item, torch.Tensor):
                places.append((inside, key))
            elif isinstance(item, dict | list):
                find(item)

    find(content)
    inside, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        inside[key] = [3, "x", None, [], {}][int(rng.integers(5))]
        return content
    found = {"": inside[key].detach().numpy()}
    _alter(found, rng)
    array = np.array(found[""])
    if array.dtype.kind == "U" or not array.dtype.isnative:
        inside.pop(key)
    else:
        inside[key] = torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
    return content


def _alter_torch(path: Path, rng: Rng) -> bool:
    content = torch.load(path, weights_only=False)
    if isinstance(content, torch.Tensor):  # what no tensor can hold becomes a type that NumPy does not have
        torch.save(_alter_tensors({"": content}, rng).get("", content.bfloat16()), path)
        return True
    if not isinstance(content, dict):  # PyG's Data
        arrays = {name: value.numpy() for name, value in content.to_dict().items() if isinstance(value, torch.Tensor)}
        _alter(arrays, rng)
        for name, array in arrays.items():
            if array.dtype.kind != "U" and array.dtype.isnative:
                content[name] = torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
            else:
                content[name] = array.tolist()
        torch.save(content, path)
        return True
    torch.save(_alter_tensors(content, rng), path)
    return True


def _alter_safetensors(path: Path, rng: Rng) -> bool:
    if rng.random() < 0.2:  # a head of 2^60 bytes
        path.write_bytes(struct.pack("<Q", 1 << int(rng.integers(20, 62))) + path.read_bytes()[8:])
        return True
    tensors = _alter_tensors(dict(load_file(path)), rng)
    save_file({k: v.contiguous() for k, v in tensors.items() if isinstance(v, torch.Tensor)}, path)
    return True


def _alter_pickle(path: Path, rng: Rng) -> bool:
    content = load_pickle(path)
    others: list[Any] = [3, "x", None, [], {}, np.zeros(0), {0: [10**12]}]
    if rng.random() < 0.3:
        content = others[int(rng.integers(len(others)))]
    elif isinstance(content, dict):
        key = list(content)[int(rng.integers(len(content)))]
        found = {"": content[key]}
        content[key] = found[""] if _alter(found, rng) else others[int(rng.integers(len(others)))]
    elif isinstance(content, list):
        content[int(rng.integers(len(content)))] = others[int(rng.integers(len(others)))]
    elif sparse.issparse(content):
        which = ("data", "indices", "indptr")[int(rng.integers(3))]
        part = getattr(content, which)
        part[int(rng.integers(len(part)))] = (10**9, -(10**9))[int(rng.integers(2))]
    else:
        found = {"": content}
        _alter(found, rng)
        content = found[""]
    path.write_bytes(pickle.dumps(content, protocol=2))
    return True


def _alter_idx(path: Path, rng: Rng) -> bool:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4 + int(rng.integers(4 * content[3]))] = int(rng.integers(256))  # a length
    if rng.random() < 0.3:
        content[int(rng.integers(4))] = int(rng.integers(16))  # the magic number
    path.write_bytes(gzip.compress(bytes(content)))
    return True


BY_SUFFIX: Mapping[str, Mutation] = {
    ".npy": _alter_npy,
    ".npz": _alter_npz,
    ".mat": _alter_mat,
    ".h5": _alter_h5,
    ".pt": _alter_torch,
    ".pth": _alter_torch,
    ".tar": _alter_torch,
    ".safetensors": _alter_safetensors,
}


def alter(path: Path, rng: Rng) -> bool:
    """Alter dtype, shape or values of one array in a file of arrays, or what its head claims."""
    if path.suffix in BY_SUFFIX:
        return BY_SUFFIX[path.suffix](path, rng)
    if "-ubyte" in path.name:
        return _alter_idx(path, rng)
    if path.read_bytes()[:1] == pickle.PROTO:
        return _alter_pickle(path, rng)
    if is_text(path):
        path.write_bytes(damaged(path.read_bytes(), rng, True))
        return True
    return False


# -- text ---------------------------------------------------------------------------------------


def _bom(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text


def _crlf(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def _blank(text: bytes) -> bytes:
    return text.rstrip(b"\n") + b"\n\n\n"


def _no_end(text: bytes) -> bytes:
    return text.rstrip(b"\n")


def _tabs(text: bytes) -> bytes:
    return text.replace(b",", b"\t")


def _semicolons(text: bytes) -> bytes:
    return text.replace(b",", b";")


def _wide(text: bytes) -> bytes:
    return text.decode().encode("utf-16")


SPELLINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "byte-order mark": _bom,
    "CRLF": _crlf,
    "blank lines at the end": _blank,
    "no line end at the end": _no_end,
    "byte-order mark and CRLF": lambda text: _bom(_crlf(text)),
    "tabs for commas": _tabs,
    "semicolons for commas": _semicolons,
    "UTF-16": _wide,
}
"""Ways in which editors and spreadsheets write the same text."""
USUAL = ("byte-order mark", "CRLF", "blank lines at the end", "no line end at the end", "byte-order mark and CRLF")
"""Those that every tool writes: they are read, and rightly."""


def is_plain_text(path: Path) -> bool:
    """Whether a file is text throughout."""
    content = path.read_bytes()
    return is_text(path) and b"\x00" not in content and content.isascii()


# -- links and places ---------------------------------------------------------------------------


def root_of(path: Path) -> Path:
    """The data set that a file is part of."""
    return next(folder for folder in path.parents if folder.name == ROOT)


def _replace(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


def _link_to_copy(path: Path, _: Rng) -> bool:
    copy = Path(mkdtemp(dir=root_of(path).parents[1])) / path.name
    shutil.move(path, copy)
    path.symlink_to(copy)
    return True


def _link_loop(path: Path, _: Rng) -> bool:
    _replace(path, path.name)
    return True


def _dangling(path: Path, _: Rng) -> bool:
    _replace(path, "nothing-there")
    return True


def _device(path: Path, _: Rng) -> bool:
    _replace(path, "/dev/zero")
    return True


def _folder(path: Path, _: Rng) -> bool:
    path.unlink()
    path.mkdir()
    return True


def _pipe(path: Path, _: Rng) -> bool:
    path.unlink()
    os.mkfifo(path)
    return True


def _missing(path: Path, _: Rng) -> bool:
    path.unlink()
    return True


def _sibling(path: Path, rng: Rng) -> bool:
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if not others:
        return False
    shutil.copyfile(others[int(rng.integers(len(others)))], path)
    return True


def _upper(path: Path, _: Rng) -> bool:
    if path.suffix in ("", path.suffix.upper()):
        return False
    path.rename(path.with_suffix(path.suffix.upper()))
    return True


def bomb(path: Path, _: Rng) -> bool:
    """A small file that grows to `BOMB` bytes, in the file's own packing."""
    if path.suffix == ".gz":
        block = gzip.compress(bytes(1 << 26), 1)
        path.write_bytes(block * (BOMB >> 26))  # gzip members follow each other
        return True
    if path.suffix == ".npz":
        head = io.BytesIO()
        name = next(iter(load_npz(path)))
        layout = {"descr": "|u1", "fortran_order": False, "shape": (BOMB,)}
        np.lib.format.write_array_header_1_0(head, layout)
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(f"{name}.npy", "w", force_zip64=True) as file,
        ):
            file.write(head.getvalue())
            file.writelines(bytes(1 << 26) for _ in range(BOMB >> 26))
        return True
    if path.suffix == ".mat":
        head = path.read_bytes()[:128]
        if head[126:128] != b"IM":
            return False
        stream = zlib.compressobj(1)
        inner = struct.pack("<II", 14, min(BOMB, (1 << 32) - 8))
        packed = b"".join([stream.compress(inner), *(stream.compress(bytes(1 << 26)) for _ in range(BOMB >> 26))])
        packed += stream.flush()
        path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
        return True
    return False


PLACES: Mapping[str, Mutation] = {
    "link to the file": _link_to_copy,
    "link to itself": _link_loop,
    "link to nothing": _dangling,
    "link to /dev/zero": _device,
    "folder": _folder,
    "pipe": _pipe,
    "missing": _missing,
    "copy of a sibling": _sibling,
    "upper-case suffix": _upper,
}


# -- what was read ------------------------------------------------------------------------------


def content_of(value: Any) -> str:
    """A digest of arrays, tensors, images, data sets and containers of them; of paths only the names count."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    match value:
        case Path():
            _feed(digest, value.name.lower())
        case torch.Tensor():
            _feed(digest, value.detach().numpy())
        case np.ndarray() if value.dtype.names:  # field by field: what lies between them is arbitrary
            _feed(digest, {name: value[name] for name in value.dtype.names})
        case np.ndarray() if value.dtype.kind == "O":
            _feed(digest, value.tolist())
        case np.ndarray():
            digest.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        case Image.Image():
            digest.update(f"{value.mode}{value.size}".encode() + value.tobytes())
        case torch.nn.Module():
            _feed(digest, value.state_dict())
        case Mapping():
            for key in sorted(value, key=str):
                _feed(digest, (key, value[key]))
        case list() | tuple() | set() | frozenset():
            digest.update(f"[{len(value)}".encode())
            for item in sorted(value, key=str) if isinstance(value, set | frozenset) else value:
                _feed(digest, item)
        case _ if sparse.issparse(value):
            _feed(digest, (value.shape, *sparse.find(value)))
        case _ if dataclasses.is_dataclass(value):
            for part in dataclasses.fields(value):
                _feed(digest, getattr(value, part.name))
        case str() | bytes() | int() | float() | complex() | None | np.generic():
            digest.update(f"{type(value).__name__}{value!r};".encode())
        case _:
            digest.update(type(value).__name__.encode())
