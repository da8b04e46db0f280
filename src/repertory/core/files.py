"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import glob
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from repertory.core.problem import Damaged, Problem, system_problem

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

YOUNG = 60.0
"""Seconds for which an empty temporary folder may belong to a process that has not locked it yet."""


# -- text and JSON ------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json_text(content) + "\n")


def json_text(content: Any) -> str:
    """Indented JSON; NaN and infinities become null, and bytes of undecodable file names become escapes."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content - content != 0:  # NaN or infinite
        return None
    return content


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object that we wrote.

    Args:
        path: the file.
        remedy: what the user can do if it is damaged.

    Raises:
        Damaged: not a JSON object.
        Problem: not readable.
        FileNotFoundError: absent.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device would never end
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise system_problem(error, path) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise Damaged(f"{path.name} is damaged: {reason}", path, remedy) from error
    if not isinstance(content, dict):
        raise Damaged(f"{path.name} is damaged: it holds no JSON object", path, remedy)
    return content


# -- folders ------------------------------------------------------------------------------------


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new folder `.name.*.new` in `parent`, and remove it afterwards.

    Those of the same name that killed processes left are removed first: a living one holds a lock on its folder.
    """
    for left in parent.glob(f".{glob.escape(name)}.*.new"):
        if _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".new", dir=parent))
    lock = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl and lock is not None:
            with suppress(OSError):  # a file system without locks: nothing will be collected there
                fcntl.flock(lock, fcntl.LOCK_EX)
        folder.chmod(0o777 & ~_umask())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _abandoned(folder: Path) -> bool:
    if not fcntl:
        return False
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return any(folder.iterdir()) or time.time() - folder.stat().st_mtime > YOUNG
        finally:
            os.close(lock)
    except OSError:  # held, gone, or somebody else's
        return False


def scratch_folder() -> AbstractContextManager[Path]:
    """A temporary folder for what nobody keeps."""
    return temporary_folder(Path(tempfile.gettempdir()), "repertory")


@contextmanager
def replace_folder(folder: Path, *, empty: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes its place, on error it vanishes.

    Args:
        folder: the place to take.
        empty: replace nothing but an empty folder; for places that users name.

    Raises:
        Problem: `empty`, and the folder has been filled meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        _put_back(old)
    with temporary_folder(folder.parent, folder.name) as fresh:
        yield fresh
        if not empty and folder.exists():  # aside first: removing takes longer than renaming, and may be interrupted
            old = fresh.with_suffix(".old")
            folder.replace(old)
            fresh.replace(folder)
            shutil.rmtree(old)
            return
        try:
            fresh.replace(folder)
        except OSError as error:
            if folder.is_dir() and any(folder.iterdir()):
                raise Problem("the folder is no longer empty", folder, "empty it, or choose another") from error
            raise


def _put_back(old: Path) -> None:
    """Undo a replacement that was killed between its two renamings; remove what a later one left."""
    folder = old.with_name(old.name[1:].rsplit(".", 2)[0])
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.replace(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporaries of killed processes below a folder that this process alone writes to."""
    for path in sorted(folder.rglob(".*.old")):
        _put_back(path)
    for path in sorted(folder.rglob(".*.new")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free of NAME.damaged1, NAME.damaged2, ...; return the new path."""
    numbered = (path.with_name(f"{path.name}.damaged{number}") for number in itertools.count(1))
    return path.rename(next(free for free in numbered if not free.exists()))


def check_output(folder: Path, *, empty: bool = False, remedy: str = "choose another --out") -> None:
    """Refuse an output folder that cannot be written to, before any work is done.

    Tries what will be done later: makes the folders that are missing and a temporary one, and removes them again.

    Args:
        folder: where results will go; absent, or a folder.
        empty: it must be absent or empty, since it is replaced as a whole.
        remedy: what the user can do.

    Raises:
        Problem: a file, below a file, not writable, a name too long, not empty.
    """
    made: list[Path] = []
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise Problem("a file is in the place of the output folder", folder, remedy)
        if empty and folder.is_dir() and any(folder.iterdir()):
            raise Problem("the folder is not empty", folder, remedy)
        if empty and folder.is_mount():
            raise Problem("a mount point cannot be replaced", folder, "name a folder below it")
        place = folder.parent if empty else folder
        for missing in reversed([place, *place.parents]):
            if not missing.exists():
                missing.mkdir(exist_ok=True)
                made.append(missing)
        with temporary_folder(place, folder.name):
            pass
    except OSError as error:
        raise system_problem(error, folder.absolute(), remedy) from error
    finally:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()


def give_default_mode(folder: Path) -> None:
    """Give the files of a folder the mode of new files: some libraries write files for their owner alone."""
    mode = 0o666 & ~_umask()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_dir() -> Path:
    """Where samples and parsed cards are cached: $REPERTORY_CACHE, or the user's cache directory."""
    return Path(os.environ.get("REPERTORY_CACHE") or platformdirs.user_cache_dir("repertory"))
