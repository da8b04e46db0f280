"""Fixtures that tests of several modules use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from repertory.data import images
from repertory.skeleton import write_skeleton
from tests import toy as toy_paper

# Hooks of this plugin; pytest finds them here.
from tests.costs import *  # noqa: F403

torch.set_num_threads(1)  # tests run two at a time


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Samples are written once a session, never into the user's cache; nothing is asked of a hub."""
    with pytest.MonkeyPatch.context() as patch:
        if "REPERTORY_CACHE" not in os.environ:
            patch.setenv("REPERTORY_CACHE", str(tmp_path_factory.getbasetemp().parent / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five handwritten digits of each kind, as class folders below train and val."""
    folder = tmp_path_factory.mktemp("digits")
    images.write_digits(folder, train=3, val=2)
    return folder


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """`real_data("bat")` is the folder of a real data set; a test that asks for one that is absent is skipped."""

    def folder(name: str) -> Path:
        found = Path(os.environ.get("REPERTORY_DATA", "")) / name
        if not os.environ.get("REPERTORY_DATA") or not found.exists():
            pytest.skip(f"needs {name} under $REPERTORY_DATA")
        return found

    return folder


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy paper, registered by a distribution of its own; its sample is cached below tmp_path.

    Returns the folder of its package.
    """
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    room = toy_paper.install(tmp_path / "site")
    with toy_paper.importable(tmp_path / "site"):
        yield room


@pytest.fixture(scope="module")
def toy_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The package that `repertory new --package` writes, as if installed.

    A real paper in all respects (two arms, `fit`, a sample on disk), also for new processes.
    """
    projects = tmp_path_factory.mktemp("projects")
    write_skeleton("toy_net", projects, package="toy_package")
    site = projects / "toy_package" / "src"
    toy_paper.register(site, "toy_package", "toy_net")
    with toy_paper.importable(site):
        yield "toy_net"
