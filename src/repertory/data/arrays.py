"""Load arrays from files that nobody vouches for: NumPy, pickles, compressed files, sparse matrices.

A damaged or hostile file gives a `Problem` that names it. It never runs code, writes outside an array, or takes more
memory than `LARGEST` or its own size on disk, whichever is larger.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import os
import pickle
import pickletools
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from scipy import io as matlab
from scipy import sparse

from repertory.core.problem import Problem, reason

LARGEST = 4 << 30
"""Bytes that a smaller file may unpack to, or claim to hold."""
UNKNOWN = 1 << 30
"""Bytes that a file may unpack to where its head does not tell: they are in memory before they are too many."""
CHUNK = 1 << 20

OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def file_size(path: Path) -> int:
    """Size in bytes.

    Raises:
        Problem: missing, unreachable (a loop of links, no permission), or no regular file: reading a pipe or a
            device would never end.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "is missing"
        raise Problem(f"{path.name} {what}", path, "check the path; all parts of a data set belong together") from error
    except OSError as error:
        raise Problem(f"{path.name} cannot be read: {error.strerror}", path, "replace the file") from error
    if not stat.S_ISREG(found.st_mode):
        raise Problem(f"{path.name} is not a regular file", path, "give a file, not a folder, a pipe or a device")
    return found.st_size


def find_file(folder: Path, name: str) -> Path | None:
    """The file of a name, or the one whose name differs in case alone; None: neither. A broken link is a file too."""
    if os.path.lexists(folder / name):
        return folder / name
    others = sorted(folder.iterdir()) if folder.is_dir() else []
    return next((path for path in others if path.name.lower() == name.lower()), None)


def check_claim(claimed: int, path: Path, most: int | None = None) -> None:
    """Raise `Problem` if a file claims to hold more bytes than `most` (None: `LARGEST`) and than it has on disk."""
    most = LARGEST if most is None else most
    if claimed > max(most, file_size(path)):
        raise Problem(
            f"{path.name} claims to hold {claimed / 1e9:.1f} GB, and has {file_size(path):,} bytes",
            path,
            f"if that is right, save it uncompressed: a compressed file may hold {most / 1e9:.1f} GB",
        )


def read_bytes(path: Path) -> bytes:
    """Content of a file; `.gz`, `.bz2`, `.xz` and `.zip` (one member) are unpacked.

    Raises:
        Problem: missing, damaged, or more than `UNKNOWN` when unpacked.
    """
    file_size(path)
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                (member,) = archive.infolist()
                with archive.open(member) as file:
                    return _bounded(file, path)
        if path.suffix in OPENERS:
            with OPENERS[path.suffix](path, "rb") as file:
                return _bounded(file, path)
        return path.read_bytes()
    except Problem:
        raise
    except Exception as error:  # zlib, lzma and zipfile raise many kinds on a damaged file
        raise Problem(f"{path.name} cannot be read: {reason(error)}", path, "fetch it again") from error


def _bounded(file: IO[bytes], path: Path) -> bytes:
    chunks, total = [], 0
    while chunk := file.read(CHUNK):
        chunks.append(chunk)
        total += len(chunk)
        check_claim(total, path, UNKNOWN)
    return b"".join(chunks)


def read_text(path: Path) -> str:
    """Content of a file of text in UTF-8, with or without a byte-order mark; unpacked as by `read_bytes`.

    Raises:
        Problem: as `read_bytes`, or no UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(f"{path.name} is not in UTF-8: {error.reason}", path, "save it as text in UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a file of text as an editor counts them: they end in \\n or \\r\\n, and in no other sign.

    Raises:
        Problem: as `read_text`.
    """
    return read_text(path).replace("\r\n", "\n").split("\n")


def _inflate(content: bytes, path: Path, before: int) -> bytes:
    """Unpack a zlib stream of a file, from which `before` bytes have been unpacked already.

    Raises:
        zlib.error: damaged.
        Problem: more than `UNKNOWN` when unpacked.
    """
    stream, chunks, total = zlib.decompressobj(), [], before
    while content and not stream.eof:
        chunks.append(stream.decompress(content, CHUNK))
        total += len(chunks[-1])
        check_claim(total, path, UNKNOWN)
        content = stream.unconsumed_tail
    return b"".join(chunks) + stream.flush()


# -- NumPy ------------------------------------------------------------------------------------------


def load_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """Load an `.npy` of numbers or strings; `mapped`: leave it on disk, read-only.

    Raises:
        Problem: missing, truncated, damaged, or it holds Python objects.
    """
    file_size(path)
    try:
        # A mapping never allocates what the header claims; one longer than the file is refused.
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive (.npz)")
        return array if mapped else _valid(np.array(array))
    except Exception as error:  # NumPy raises many kinds on a damaged header
        raise _damaged(path, error) from error


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Load all arrays of an `.npz`.

    Raises:
        Problem: missing, truncated, damaged, larger than `LARGEST` when unpacked, or it holds Python objects.
    """
    file_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            check_claim(sum(member.file_size for member in members), path)
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                    while file.read(CHUNK):  # the checksum is compared at the end of the member
                        pass
                arrays[member.filename.removesuffix(".npy")] = _valid(array)
            return arrays
    except Problem:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> Problem:
    with path.open("rb") as file:
        head = file.read(6)
    pickled = "Object arrays" in str(error) or "Python objects" in str(error) or head[:1] == b"\x80"
    if pickled:
        remedy = "resave it with a number dtype, for example np.save(path, array.astype(float))"
        return Problem(f"{path.name} holds pickled Python objects", path, remedy)
    if path.suffix == ".npy" and head != b"\x93NUMPY":
        error = ValueError("it does not begin as one")
    return Problem(
        f"{path.name} is not a readable {path.suffix}: {reason(error)}", path, "it may be cut short: fetch it again"
    )


def _valid(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; booleans are 0 or 1 and text is Unicode.

    NumPy and Python rely on the latter, and files may hold any byte; SciPy and torch rely on the byte order.
    """
    if (
        array.dtype.kind == "U"
        and np.ascontiguousarray(array).view(array.dtype.byteorder + "u4").max(initial=0) > 0x10FFFF
    ):
        raise ValueError("its text is not Unicode")
    if array.dtype == np.bool_:
        return array.view(np.uint8) != 0
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# -- MATLAB -----------------------------------------------------------------------------------------


def load_mat(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a MATLAB file up to version 7.2.

    Args:
        path: the file.
        names: of the variables; None: all.

    Raises:
        Problem: missing, damaged, of another version, a variable is absent, or more than `UNKNOWN` when unpacked.
    """
    file_size(path)
    try:
        found = matlab.loadmat(_unpacked_mat(path), variable_names=names)
    except Problem:
        raise
    except Exception as error:  # SciPy raises many kinds on a damaged file
        raise Problem(f"{path.name} cannot be read: {reason(error)}", path, "fetch it again") from error
    absent = [name for name in names or () if name not in found]
    if absent:
        has = ", ".join(name for name in found if not name.startswith("__")) or "nothing"
        raise Problem(f"{path.name} has no {absent[0]}", path, f"give the file of the release; this one holds {has}")
    return found


def _unpacked_mat(path: Path) -> io.BytesIO:
    """A MATLAB file of version 5 with its compressed variables unpacked, up to a bound; others as they are.

    The file is a head of 128 bytes, then variables: type (15: compressed) and length, uint32 each, and the content.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        return io.BytesIO(content)
    parts, place, total = [content[:128]], 128, 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        variable = content[place : place + 8 + length]
        parts.append(_inflate(variable[8:], path, total) if kind == 15 else variable)
        total += len(parts[-1])
        place += 8 + length
    return io.BytesIO(b"".join(parts))


# -- sparse matrices --------------------------------------------------------------------------------


def check_sparse(matrix: Any, where: object) -> Any:
    """The same CSR or CSC matrix; others are returned unchecked, since SciPy checks their indices itself.

    Raises:
        Problem: indices or pointers that are not whole, out of bounds or out of order, which SciPy's compiled
            routines would follow into foreign memory; values that are not numbers.
    """
    try:
        if matrix.dtype.kind not in "biufc":
            raise ValueError(f"its values are {matrix.dtype}")
        if matrix.format in ("csr", "csc"):
            if not matrix.indices.dtype.kind == matrix.indptr.dtype.kind == "i":
                raise ValueError("its indices are not whole numbers")
            matrix.check_format(full_check=True)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise Problem(f"a damaged sparse matrix: {reason(error)}", where, "save or fetch the file again") from error
    return matrix


def to_dense(matrix: Any, where: object) -> np.ndarray:
    """The dense array of a sparse matrix.

    Raises:
        Problem: damaged (see `check_sparse`), or larger than `LARGEST`.
    """
    size = math.prod(matrix.shape) * matrix.dtype.itemsize
    if size > LARGEST:
        raise Problem(
            f"a matrix of {matrix.shape} takes {size / 1e9:.0f} GB when dense", where, "check its shape; use fewer"
        )
    return check_sparse(matrix, where).toarray()


# -- pickles ----------------------------------------------------------------------------------------

KINDS = "biufcSUO"
"""Kinds of dtype that pickles may hold; objects as a list of scalars only, never as memory."""
SPARSE = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}
LONGEST_RANGE = 1 << 26


class _Dtype:
    """Stands in for `numpy.dtype`, whose `__setstate__` would take sizes and flags from the file unchecked."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.dtype = np.dtype(code)
        if not isinstance(code, str) or self.dtype.kind not in KINDS or self.dtype.fields or self.dtype.subdtype:
            raise pickle.UnpicklingError(f"it holds arrays of {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subdtype, names, fields, *_ = state
        if subdtype is not None or names or fields:
            raise pickle.UnpicklingError("it holds structured arrays")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for `numpy.ndarray` until the pickle is loaded."""

    def __init__(self) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, fortran, raw = state
        self.array = _as_array(raw, dtype, shape, "F" if fortran else "C")


def _as_array(raw: Any, dtype: _Dtype, shape: Any, order: Any) -> np.ndarray:
    if dtype.dtype.hasobject:
        if not isinstance(raw, list) or not all(item is None or np.isscalar(item) for item in raw):
            raise pickle.UnpicklingError("it holds arrays of Python objects")
        flat = np.array([*raw, None], dtype=object)[:-1]
    else:
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        flat = np.frombuffer(content, dtype.dtype) if content else np.empty(0, dtype.dtype)
    return _valid(flat.reshape(shape, order=order).copy(order="K"))


class _Sparse:
    """Stands in for a SciPy matrix until its parts are there and checked."""

    kind: type

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)

    def matrix(self, where: object) -> Any:
        parts = {name: self.state[name] for name in ("data", "indices", "indptr")}
        if not all(isinstance(part, _Array) for part in parts.values()):
            raise pickle.UnpicklingError("a sparse matrix without its arrays")
        data, indices, indptr = (part.array for part in parts.values())
        if not indices.dtype.kind == indptr.dtype.kind == "i":
            raise pickle.UnpicklingError("a sparse matrix whose indices are not whole numbers")
        shape = self.state["_shape"] if "_shape" in self.state else self.state["shape"]
        return check_sparse(self.kind((data, indices, indptr), shape=tuple(shape)), where)


_SPARSE = {name: type(f"_{name}", (_Sparse,), {"kind": kind}) for name, kind in SPARSE.items()}
_INERT = object()
"""Stands in for what pickles name but have no need to call."""


class _ArraysOnly(pickle.Unpickler):
    """Knows arrays, matrices and containers by name; what it calls for them is written here.

    Functions are handed out as bound methods, which a pickle cannot change.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module.replace('numpy._core', 'numpy.core').replace('__builtin__', 'builtins')}.{name}"
        if name in SPARSE and module.startswith("scipy.sparse."):
            return _SPARSE[name]
        if known in ("numpy.ndarray", *(f"builtins.{k}" for k in ("object", "int", "float", "str", "list", "tuple"))):
            return _INERT
        call = {
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "builtins.complex": complex,
            "builtins.dict": self._mapping,
            "builtins.range": self._range,
            "builtins.xrange": self._range,
            "builtins.bytes": self._bytes,
            "builtins.bytearray": self._bytes,
            "collections.OrderedDict": self._mapping,
            "collections.defaultdict": self._mapping,
            "_codecs.encode": self._bytes,
            "copyreg._reconstructor": self._instance,
            "copy_reg._reconstructor": self._instance,
            "numpy.dtype": _Dtype,
            "numpy.core.multiarray._reconstruct": self._empty,
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._frombuffer,
        }.get(known)
        if call is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return call

    def _mapping(self, *arguments: Any) -> dict[Any, Any]:
        return dict(arguments[0]) if arguments and isinstance(arguments[0], list) else {}

    def _range(self, *bounds: int) -> list[int]:
        numbers = range(*bounds)
        if len(numbers) > LONGEST_RANGE:
            raise pickle.UnpicklingError(f"it names a range of {len(numbers)} numbers")
        return list(numbers)

    def _bytes(self, content: str | bytes = b"", encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1") or not isinstance(content, str | bytes):
            raise pickle.UnpicklingError("it holds text of an unknown encoding")
        return content.encode("latin1") if isinstance(content, str) else content

    def _instance(self, kind: Any, base: Any, state: Any) -> Any:
        if kind not in _SPARSE.values() or base is not _INERT or state is not None:
            raise pickle.UnpicklingError("it builds an unknown object")
        return kind()

    def _empty(self, kind: Any, shape: Any, dtype: Any) -> _Array:
        if kind is not _INERT:
            raise pickle.UnpicklingError("it builds an unknown array")
        return _Array()

    def _scalar(self, dtype: _Dtype, raw: Any) -> Any:
        return _as_array(raw, dtype, (), "C")[()]

    def _frombuffer(self, raw: Any, dtype: _Dtype, shape: Any, order: str, axes: Any = None) -> _Array:
        made = _Array()
        made.array = _as_array(raw, dtype, shape, "C" if order == "K" else order)
        if order == "K" and axes is not None:
            made.array = made.array.transpose(axes)
        return made


def load_pickle(path: Path) -> Any:
    """Load a pickle (of Python 2 or 3) that holds NumPy arrays, SciPy CSR and CSC matrices and built-in containers.

    Raises:
        Problem: missing, damaged, or it names anything else, which unpickling would import and run.
    """
    file_size(path)
    try:
        content = path.read_bytes()
        _check_memo(content)
        loaded = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        return _resolved(loaded, {}, path)
    except Problem:
        raise
    except EOFError as error:
        raise Problem(f"{path.name} is cut short", path, "download it again") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise Problem(
            f"{path.name} is not a pickle of arrays and containers: {reason(error)}",
            path,
            "fetch the file anew; pickles that name other classes are not opened, for they can run code",
        ) from error


_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}


def _check_memo(content: bytes) -> None:
    """Refuse a memo index beyond the number of operations: the unpickler would allocate a table of that length.

    Raises:
        EOFError: the pickle is cut short.
    """
    stream = cast(IO[bytes], io.BytesIO(content))
    for count, code in enumerate(iter(lambda: stream.read(1), b"")):
        operation = _OPERATIONS.get(code.decode("latin1"))
        if operation is None:
            raise pickle.UnpicklingError("it is damaged")
        if operation.name == "STOP":
            return
        if operation.name == "STRING":  # pickletools takes ASCII alone here; Python 2 wrote any byte
            stream.readline()
        elif operation.arg is not None:
            argument = _argument(operation, stream)
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
                raise pickle.UnpicklingError("it is damaged: a memo index is out of range")
    raise EOFError


def _argument(operation: pickletools.OpcodeInfo, stream: IO[bytes]) -> Any:
    assert operation.arg is not None
    try:
        return operation.arg.reader(stream)
    except ValueError as error:
        if stream.read(1) == b"":
            raise EOFError from error
        raise


def _resolved(value: Any, done: dict[int, Any], where: Path) -> Any:
    """Arrays and matrices in the place of what stood in for them; each object is resolved once."""
    if not isinstance(value, dict | list | tuple | _Array | _Sparse):
        return value
    if id(value) not in done:
        if isinstance(value, _Array):
            found: Any = value.array
        elif isinstance(value, _Sparse):
            found = value.matrix(where)
        elif isinstance(value, dict):
            found = {key: _resolved(item, done, where) for key, item in value.items()}
        else:
            found = type(value)([_resolved(item, done, where) for item in value])
        done[id(value)] = found
    return done[id(value)]
