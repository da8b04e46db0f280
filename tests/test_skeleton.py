"""What `repertory new` writes passes every gate as it stands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repertory import contract
from repertory.core.problem import Problem
from repertory.skeleton import TASKS, write_skeleton
from tests import toy

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with a room of each kind, and a package of each kind beside it."""
    root = tmp_path_factory.mktemp("written")
    shutil.copytree(
        REPOSITORY / "src" / "repertory",
        root / "checkout" / "src" / "repertory",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(REPOSITORY / "pyproject.toml", root / "checkout")
    for task in TASKS:
        write_skeleton(f"some_{task}", root / "checkout", task)
        write_skeleton(f"other_{task}", root, task, package=f"package_of_{task}")
    return root


def ours(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.py") if "some_" in str(path) or "package_of_" in str(path)]


def test_rooms_and_packages_are_linted_and_formatted(written: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    projects = [written / "checkout", *written.glob("package_of_*")]
    assert len(projects) == 1 + len(TASKS)
    for project in projects:
        files = [path.relative_to(project) for path in ours(project)]
        assert len(files) >= 4
        for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            done = subprocess.run([*ruff, *command, *files], cwd=project, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def test_rooms_and_packages_are_typed(written: Path) -> None:
    config = {
        "typeCheckingMode": "standard",
        "include": [str(path) for path in ours(written)],
        "extraPaths": [str(path) for path in [written / "checkout" / "src", *written.glob("package_of_*/src")]],
    }
    (written / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "basedpyright", "-p", str(written), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(
    params=["plain", pytest.param("images", marks=pytest.mark.slow), pytest.param("graphs", marks=pytest.mark.slow)]
)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A package of each kind, as if installed."""
    package = f"installed_{request.param}"
    write_skeleton(f"my_{request.param}", tmp_path, request.param, package)
    site = tmp_path / package / "src"
    toy.register(site, package, f"my_{request.param}")
    with toy.importable(site):
        yield f"my_{request.param}"


def test_packages_keep_the_contract(installed: str) -> None:
    findings = list(contract.check_paper(installed, slow=True))
    assert [finding.check for finding in findings] == contract.checks(slow=True)
    assert [finding for finding in findings if finding.error] == []


@pytest.mark.parametrize(
    ("paper", "package", "complaint"),
    [
        ("Bad Name", "", "not an identifier"),
        ("class", "", "not an identifier"),
        ("none", "", "would hide the name None"),
        ("tensor", "", "would hide the name Tensor"),
        ("baseline", "", "would hide"),
        ("emo", "", "is there already"),
        ("my_paper", "lambda", "not an identifier"),
        ("my_paper", "my-package", "not an identifier"),
        ("my_paper", "json", "there is a module json already"),
        ("my_paper", "torch", "there is a module torch already"),
        ("my_paper", "", "not a checkout"),
    ],
)
def test_names_that_are_taken_or_no_names_are_refused(paper: str, package: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=complaint):
        write_skeleton(paper, tmp_path, package=package)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_skeleton("my_paper", tmp_path, package="my_package")
    with pytest.raises(Problem, match="the folder is there already"):
        write_skeleton("other_paper", tmp_path, package="my_package")
    (tmp_path / "src" / "repertory" / "papers").mkdir(parents=True)
    (tmp_path / "tests" / "papers").mkdir(parents=True)
    (tmp_path / "tests" / "papers" / "test_my_paper.py").write_text("mine")
    with pytest.raises(Problem, match="is there already"):
        write_skeleton("my_paper", tmp_path)


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no task 'video'"):
        write_skeleton("my_paper", tmp_path, "video")
