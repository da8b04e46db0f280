"""Arrays from files that nobody vouches for."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from repertory.core.problem import Problem
from repertory.data import arrays
from repertory.data.arrays import check_sparse, load_npy, load_npz, load_pickle, read_bytes, to_dense

# -- files ------------------------------------------------------------------------------------------


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is missing"),
        (lambda path: path.symlink_to("gone"), "is a link to a file that is not there"),
        (link_to_itself, "cannot be read"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    ],
)
@pytest.mark.parametrize("read", [read_bytes, load_npy, load_npz, load_pickle])
def test_only_regular_files_are_read(
    make: Callable[[Path], Any], message: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    make(tmp_path / "x")
    with pytest.raises(Problem, match=f"x {message}"):
        read(tmp_path / "x")


def test_compressed_files_are_unpacked_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (tmp_path / f"a{suffix}").write_bytes(pack(content))
    for path in sorted(tmp_path.iterdir()):
        assert read_bytes(path) == content
    monkeypatch.setattr(arrays, "UNKNOWN", len(content) - 1)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(Problem, match="claims to hold"):
            read_bytes(path)
    with pytest.raises(Problem, match="claims to hold"):
        arrays._inflate(zlib.compress(content), tmp_path / "a.gz", 0)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:20] + b"\xff" * 20 + b[40:], lambda b: b"no"]
)
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_damaged_streams_are_a_problem(damage: Callable[[bytes], bytes], suffix: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(200)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": lambda _: buffer.getvalue()}
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damage(packed[suffix](content)))
    with pytest.raises(Problem, match=f"a{suffix} cannot be read"):
        read_bytes(path)


# -- npy and npz ------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def with_shape(shape: str) -> bytes:
    """An .npy of three numbers that claims another shape."""
    return npy(np.arange(3.0)).replace(b"(3,), }" + b" " * (len(shape) - 4), f"{shape}, }}".encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.arange(9.0))[:-8], "not a readable .npy"),
        (with_shape("(200000, 400000)"), "not a readable .npy"),
        (with_shape("(99999999999999999999999,)"), "not a readable .npy"),
        (with_shape("(4294967296, 4294967296)"), "not a readable .npy"),
        (with_shape("(-3,)"), "not a readable .npy"),
        (npy(np.arange(9.0)).replace(b"'<f8'", b"'<q8'"), "not a readable .npy"),
        (npy(np.arange(9.0)).replace(b"{", b"(((", 1), "not a readable .npy"),
        (npy(np.array([1, "a"], object)), "holds pickled Python objects"),
        (pickle.dumps([1]), "holds pickled Python objects"),
        (b"", "not a readable .npy"),
        (npy(np.array(["ab"])).replace(b"a\0\0\0", b"\xff" * 4), "its text is not Unicode"),
    ],
)
def test_damaged_npy(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(Problem, match=message):
        load_npy(tmp_path / "a.npy")


def test_sound_npy(tmp_path: Path) -> None:
    for k, array in enumerate((np.zeros((0, 3)), np.arange(6.0).reshape(2, 3).T, np.array(["a", "bc"]), np.array(3))):
        np.save(tmp_path / f"{k}.npy", array)
        found = load_npy(tmp_path / f"{k}.npy")
        np.testing.assert_array_equal(found, array)
        assert found.flags.f_contiguous == array.flags.f_contiguous
        np.savez_compressed(tmp_path / f"{k}.npz", a=array)
        np.testing.assert_array_equal(load_npz(tmp_path / f"{k}.npz")["a"], array)


def test_booleans_are_0_or_1(tmp_path: Path) -> None:
    content = npy(np.array([True, False, True]))
    (tmp_path / "a.npy").write_bytes(content[:-3] + b"\x02\x00\xff")
    assert load_npy(tmp_path / "a.npy").view(np.uint8).tolist() == [1, 0, 1]


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def with_bad_checksum() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(50))
    return buffer.getvalue().replace(np.arange(20, 22).tobytes(), np.arange(30, 32).tobytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(a=npy(np.arange(9)))[:-30], "not a readable .npz"),
        (b"no zip at all", "not a readable .npz"),
        (b"", "not a readable .npz"),
        (archive(a=npy(np.array([1, "a"], object))), "holds pickled Python objects"),
        (archive(a=with_shape("(200000, 400000)")), "not a readable .npz"),
        (archive(a=b"no array"), "not a readable .npz"),
        (with_bad_checksum(), "Bad CRC-32"),
    ],
    # Archives hold the time: as names, workers that start seconds apart would collect different tests.
    ids=["cut", "no zip", "empty", "objects", "huge", "no array", "bad checksum"],
)
def test_damaged_npz(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(Problem, match=message):
        load_npz(tmp_path / "a.npz")


def test_an_npz_unpacks_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10_000))
    monkeypatch.setattr(arrays, "LARGEST", 10_000)
    with pytest.raises(Problem, match="claims to hold"):
        load_npz(tmp_path / "a.npz")


# -- sparse matrices --------------------------------------------------------------------------------


def broken_csr(kind: Any = sparse.csr_matrix, **parts: Any) -> Any:
    matrix = kind(np.eye(4))
    for name, part in parts.items():
        setattr(matrix, name, np.asarray(part))
    return matrix


BROKEN: list[dict[str, Any]] = [
    {"indices": np.array([0, 1, 2, 10**9], np.int32)},
    {"indices": np.array([0, 1, 2, -1], np.int32)},
    {"indices": np.array([0, 1, 2, 3.5])},
    {"indices": np.zeros((2, 2), np.int32)},
    {"indptr": np.array([0, 1, 2, 3, 10**9], np.int32)},
    {"indptr": np.array([0, 4, 2, 3, 4], np.int32)},
    {"indptr": np.array([-5, 1, 2, 3, 4], np.int32)},
    {"indptr": np.array([0, 4], np.int32)},
    {"data": np.ones(2)},
    {"data": np.array(["a"] * 4)},
]


@pytest.mark.parametrize("parts", BROKEN, ids=str)
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_matrices_are_checked_before_they_are_used(parts: dict[str, Any], kind: Any, tmp_path: Path) -> None:
    matrix = broken_csr(kind, **parts)
    for use in (check_sparse, to_dense):
        with pytest.raises(Problem, match="a damaged sparse matrix"):
            use(matrix, "here")
    for protocol in (0, 2, 5):
        (tmp_path / "x").write_bytes(pickle.dumps([matrix], protocol=protocol))
        with pytest.raises(Problem, match=r"sparse matrix|not a pickle of arrays"):
            load_pickle(tmp_path / "x")


def test_a_sparse_matrix_that_is_too_large_when_dense() -> None:
    with pytest.raises(Problem, match=r"\(200000, 400000\) takes 640 GB"):
        to_dense(sparse.coo_array(([1.0], ([0], [0])), shape=(200_000, 400_000)), "here")


# -- pickles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_of_every_kind(protocol: int, tmp_path: Path) -> None:
    shared = np.arange(6, dtype=">i4").reshape(2, 3)
    content = {
        "plain": [1, 2.5, "é", b"\xff", None, True, 1j, (1, 2), {3}, frozenset([4]), bytearray(b"a"), b""],
        "more": [OrderedDict(a=1), defaultdict(list, {1: [2]}), range(3)],
        "arrays": [shared, shared, np.asfortranarray(shared), np.array(3.5), np.zeros((0, 2)), np.array([True, False])],
        "text": [np.array(["a", "bc"]), np.array([b"x"]), np.array(["a", 1, None], object)],
        "scalar": np.float32(2),
        "matrices": [sparse.csr_matrix(np.eye(3)), sparse.csc_matrix(np.eye(3, 2))],
    }
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_pickle(tmp_path / "x")
    assert found["plain"][:-2] == content["plain"][:-2]
    assert (found["plain"][-2], found["plain"][-1]) == (b"a", b"") or found["plain"][-2] == bytearray(b"a")
    assert found["more"] == [{"a": 1}, {1: [2]}, [0, 1, 2]]
    for one, other in zip(found["arrays"] + found["text"], content["arrays"] + content["text"], strict=True):
        np.testing.assert_array_equal(one, other)
        native = other.dtype.newbyteorder("=")
        assert (type(one), one.dtype, one.flags.f_contiguous) == (np.ndarray, native, other.flags.f_contiguous)
        assert one.flags.writeable
    assert found["arrays"][0] is found["arrays"][1]
    assert (found["scalar"], found["scalar"].dtype) == (2, np.float32)
    for one, other in zip(found["matrices"], content["matrices"], strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one.toarray(), other.toarray())


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


OBJECT = Call(np.dtype, "O8", False, True)
FLAGS = (3, "|", None, ("a",), {"a": (np.dtype(object), 0)}, 8, 1, 0)
HIDDEN = Call(np.dtype, "V8", False, True, state=FLAGS)
# What NumPy's own pickles call.
RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
SCALAR: Any = np.float64().__reduce__()[0]
ATTACKS = {
    "objects over a buffer": Call(np.ndarray, (2,), OBJECT, b"\x41" * 16),
    "an array over a buffer": Call(np.ndarray, (2,), np.dtype(float), b"\x41" * 16),
    "objects as memory": Call(RECONSTRUCT, np.ndarray, (0,), b"b",
                              state=(1, (2,), OBJECT, False, b"\x41" * 16)),
    "objects from a buffer": Call(FROM_BUFFER, b"\x41" * 16, np.dtype(object), (2,), "C"),
    "an object scalar": Call(SCALAR, OBJECT, b"\x41" * 8),
    "a dtype that hides objects": Call(SCALAR, HIDDEN, b"\x41" * 8),
    "too few bytes": Call(RECONSTRUCT, np.ndarray, (0,), b"b",
                          state=(1, (10**12,), np.dtype(float), False, b"\x41" * 16)),
    "a list of a range": Call(list, range(10**12)),
    "a range": range(10**12),
    "nested objects": Call(RECONSTRUCT, np.ndarray, (0,), b"b",
                           state=(1, (1,), OBJECT, False, [[1]])),
    "a codec": Call(__import__("_codecs").encode, "a", "zip"),
    "bytes of a length": Call(bytes, 10**12),
    "a bytearray of a length": Call(bytearray, 10**12),
}  # fmt: skip


def test_pickles_cannot_reach_into_memory(tmp_path: Path) -> None:
    """In a process of its own, which an attack would end."""
    for name, attack in ATTACKS.items():
        for protocol in (2, 4):
            (tmp_path / f"{name}, {protocol}").write_bytes(pickle.dumps(attack, protocol=protocol))
    code = f"""
        import resource
        from pathlib import Path
        from repertory.core.problem import Problem
        from repertory.data.arrays import load_pickle
        resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000, 4_000_000_000))
        for path in sorted(Path({str(tmp_path)!r}).iterdir()):
            print(path.name, end=": ", flush=True)
            try:
                print(load_pickle(path))
            except Problem:
                print("refused")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert [line for line in done.stdout.splitlines() if not line.endswith(": refused")] == []
    assert len(done.stdout.splitlines()) == 2 * len(ATTACKS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02]r\xff\xff\xff\x7f.", "a memo index is out of range"),
        (b"\x80\x02]", "is cut short"),
        (b"", "is cut short"),
        (b"\xee\xee", "it is damaged"),
        (b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".", "not a pickle of arrays"),
        (b"\x80\x02}q\x00K\x01h\x00s.", "not a pickle of arrays"),
        (b"\x80\x02cnumpy\ndtype\nU\x02f8\x89\x88\x87R(K\x03U\x01|NU\x01aNK\x08K\x01K\x00tb.", "structured arrays"),
    ],
)
def test_damaged_pickles(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(Problem, match=message):
        load_pickle(tmp_path / "x")
