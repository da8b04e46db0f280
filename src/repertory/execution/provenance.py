"""Where a figure comes from: date, versions, commit, machine, data."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from repertory import catalog

MANY_FILES = 1000
"""Data sets with more files are described by folder."""
HASHED_BYTES = 64 * 2**20
"""Data sets up to this size are described by their content, larger ones by names and sizes."""


def provenance() -> dict[str, Any]:
    """Date, versions, commit and machine, as results carry them."""
    host = f"{platform.machine()}, {os.cpu_count()} cores"
    machine = f"{torch.cuda.get_device_name()}, {host}" if torch.cuda.is_available() else host
    return {"date": now(), "versions": versions(), "commit": commit(), "machine": machine}


def origin(paper: str) -> dict[str, Any]:
    """What a trial of a paper ran under: commit, versions, digest of the card, date."""
    return {"commit": commit(), "versions": versions(), "card": card_digest(paper), "date": now()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def versions() -> dict[str, str]:
    """Of Python, this package, and the libraries that figures depend on."""
    names = ("repertory", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def card_digest(paper: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a paper's card.toml."""
    return hashlib.sha256((catalog.folder(paper) / "card.toml").read_bytes()).hexdigest()[:12]


@functools.cache
def commit() -> str:
    """The commit of the checkout that this package is imported from, with "+" if it is changed; "" outside one."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}+" if head and git("status", "--porcelain", "--", str(here)) else head
    except OSError:  # no git here
        return ""


def describe_data(source: Path, apart_from: Path) -> dict[str, str]:
    """What identifies a data set: a digest for each of its files, or for each folder where there are many files.

    Hidden files, run directories and model directories are no data.

    Args:
        source: a file, or a folder.
        apart_from: a folder to leave out: where the results go, should it lie within the data.

    Returns:
        Path below `source` -> size or number of files, and digest of names, sizes and (of small data sets) contents.
    """
    files = sorted(_data_files(source, apart_from))
    sizes = {path: path.stat().st_size for path in files}
    hashed = sum(sizes.values()) <= HASHED_BYTES

    def digest(path: Path) -> bytes:
        return hashlib.sha256(path.read_bytes()).digest() if hashed else b""

    def name(path: Path) -> str:
        return path.relative_to(source).as_posix() if path != source else path.name

    if len(files) <= MANY_FILES:
        return {name(path): f"{sizes[path]} bytes {digest(path).hex()[:12]}".strip() for path in files}
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    described = {}
    for folder, members in by_folder.items():
        total = hashlib.sha256()
        for path in members:
            total.update(f"{path.name}\0{sizes[path]}\0".encode("utf-8", "surrogateescape") + digest(path))
        described[name(folder) + "/"] = f"{len(members)} files {total.hexdigest()[:12]}"
    return described


def _data_files(source: Path, apart_from: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    seen: set[str] = set()
    for folder, names, files in os.walk(source, followlinks=True):
        here = Path(folder)
        if (real := os.path.realpath(folder)) in seen:  # links may go in circles
            names.clear()
            continue
        seen.add(real)
        made_by_us = "repertory.json" in files or ("config.json" in files and "trials" in names)
        if here == apart_from or made_by_us:
            names.clear()
            continue
        names[:] = sorted(name for name in names if not name.startswith("."))
        for file in files:
            if not file.startswith(".") and (here / file).is_file():
                yield here / file


def data_difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between two descriptions of data, in words; "" if nothing does."""
    kinds = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
    }
    return ", ".join(
        f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})" for kind, names in kinds.items() if names
    )
