"""Where a figure comes from: date, versions, commit, machine."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Date, versions, commit and machine, as results carry them."""
    names = ("repertory", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "scipy", "scikit-learn")
    versions = {name: importlib.metadata.version(name) for name in names}
    cores = os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {cores} cores"
    return {
        "date": now(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": commit(),
        "machine": device,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str:
    """The commit of the checkout that this package is imported from, with "+" if it is changed; "" outside one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}+" if head and git("status", "--porcelain", "--", str(here)) else head
    except OSError:  # no git here
        return ""
