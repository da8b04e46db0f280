"""Torture, in minutes: `kill -9`, a full disk, read-only folders, damaged files, two runs in one folder.

    make test-slow, or: pytest -m slow -s tests/torture

Each test prints its figures; README's paragraph on reliability rests on them. REPERTORY_TORTURE sets how often each
command is killed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("REPERTORY_TORTURE", "3"))
EXPECTED = {0, 1, 2}
"""Done, done but for failed trials, and a Problem."""
VOLATILE = {"seconds", "date", "commit", "versions", "card"}
"""What two equal runs may differ in."""

COMMANDS: dict[str, list[str]] = {
    "run emo": ["run", "emo", "--scale", "smoke", "--arms", "both,neither", "--out", "OUT"],
    "run ccgc": ["run", "ccgc", "--scale", "smoke", "--out", "OUT"],
    "run ghsc, 2 jobs": ["run", "ghsc", "--scale", "smoke", "--jobs", "2", "--out", "OUT"],
    "run reliant": ["run", "reliant", "--scale", "smoke", "--arms", "cpf+reliant,akd", "--out", "OUT"],
    "train emo": ["train", "emo", "--scale", "smoke", "--out", "OUT"],
    "train gapgc": ["train", "gapgc", "--scale", "smoke", "--out", "OUT"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of samples for all commands."""
    return tmp_path_factory.mktemp("cache")


def started(words: list[str], cwd: Path, cache: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "repertory", *words],
        cwd=cwd,
        env={**os.environ, "REPERTORY_CACHE": str(cache), "REPERTORY_KEEP_SECONDS": "0", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finished(words: list[str], cwd: Path, cache: Path, **options: Any) -> tuple[int, str]:
    process = started(words, cwd, cache, **options)
    _, errors = process.communicate(timeout=900)
    return process.returncode, errors


def figures(folder: Path) -> dict[str, object]:
    """Metrics of every trial, or of a model directory, without what may differ."""

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in VOLATILE}
        return [kept(v) for v in value] if isinstance(value, list) else value

    files = [*folder.glob("trials/*/result.json"), *folder.glob("metrics.json*"), *folder.glob("*.safetensors")]
    found: dict[str, object] = {}
    for path in sorted(files):
        name = path.relative_to(folder).as_posix()
        found[name] = kept(json.loads(path.read_text())) if path.suffix == ".json" else hash(path.read_bytes())
    return found


def names(folder: Path) -> set[str]:
    """Files below a folder; records of TensorBoard, whose names hold the time, are one a trial."""
    return {path.relative_to(folder).as_posix().partition(".tfevents.")[0] for path in folder.rglob("*")}


@pytest.mark.parametrize("what", COMMANDS)
def test_killed_at_random_moments_it_ends_with_the_same_figures(what: str, tmp_path: Path, cache: Path) -> None:
    words = [word.replace("OUT", "out") for word in COMMANDS[what]]
    whole = tmp_path / "whole"
    whole.mkdir()
    begun = time.monotonic()
    code, errors = finished(words, whole, cache)
    duration = time.monotonic() - begun
    assert code in EXPECTED, errors
    expected = figures(whole / "out")
    assert expected
    rng = np.random.default_rng(0)
    killed = leftovers = 0
    for attempt in range(KILLS):
        here = tmp_path / f"killed-{attempt}"
        here.mkdir()
        for _ in range(3):  # the first kills hit the imports as often as the work
            process = started(words, here, cache)
            time.sleep(float(rng.uniform(0.2, 0.9)) * duration)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
        code, errors = finished(words, here, cache)
        done = code == 2 and "there is a model already" in errors  # it was complete when it was killed
        assert code in {0, 1} or done, errors
        assert "Traceback" not in errors, errors
        assert figures(here / "out") == expected, what
        left = names(here) - names(whole)
        leftovers += len(left)
        assert not left, sorted(left)
    print(f"\n{what}: {killed} kills, {KILLS} ends, all with the same figures; {leftovers} files left over")


def test_a_model_is_converted_whole_or_not_at_all(tmp_path: Path, cache: Path) -> None:
    make = (
        "import torch; from repertory.papers.emo import EMO; from repertory.papers.emo.model import VARIANTS; "
        "torch.save(EMO(**VARIANTS['emo_1m']).state_dict(), 'net.pth')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    words = ["convert", "emo", "net.pth", "model"]
    begun = time.monotonic()
    assert finished(words, tmp_path, cache)[0] == 0
    duration = time.monotonic() - begun
    complete = names(tmp_path / "model")
    rng = np.random.default_rng(1)
    for _ in range(2 * KILLS):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        process = started(words, tmp_path, cache)
        time.sleep(float(rng.uniform(0.5, 1.0)) * duration)
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
        assert not (tmp_path / "model").exists() or names(tmp_path / "model") == complete
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        assert finished(words, tmp_path, cache)[0] == 0
    others = {path.name for path in tmp_path.iterdir()} - {"model", "net.pth"}
    assert not others, others
    print(f"\nconvert emo: {2 * KILLS} kills, nothing half made, {len(others)} files left over")


@pytest.mark.parametrize("limit", [2_000, 40_000, 200_000])
def test_a_full_disk_is_a_problem_and_leaves_what_was_there(limit: int, tmp_path: Path, cache: Path) -> None:
    """No file may grow beyond `limit` bytes: writing fails as on a full disk."""
    words = ["run", "ccgc", "--scale", "smoke", "--out", "out"]
    finished(["sample", "ccgc", "sample"], tmp_path, cache)

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, errors = finished(words, tmp_path, cache, preexec_fn=small)
    assert code in EXPECTED
    assert "Traceback" not in errors, errors
    code, errors = finished(words, tmp_path, cache)
    assert code in {0, 1}, errors
    print(f"\nfull disk at {limit} bytes a file: a Problem; with space again it ends")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folders_are_a_problem_before_any_work(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    for words in (["run", "ccgc", "--out"], ["train", "emo", "--out"], ["sample", "ccgc"]):
        code, errors = finished([*words, "locked/out"], tmp_path, cache)
        assert (code, "Traceback" in errors) == (2, False), errors


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "junk": lambda content: b"\x00\xff junk \x80" * 7,
    "braces": lambda content: b"{}",
    "brackets": lambda content: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_a_problem_or_made_anew(damage: str, tmp_path: Path, cache: Path) -> None:
    words = ["run", "ccgc", "--scale", "smoke", "--arms", "ccgc,kmeans-raw", "--out", "out"]
    assert finished(words, tmp_path, cache)[0] in {0, 1}
    expected = figures(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "good")
    files = [path for path in sorted((tmp_path / "good").rglob("*")) if path.is_file()]
    answers = {"a Problem": 0, "made anew": 0}
    for path in files:
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "good", tmp_path / "out")
        (tmp_path / "out" / path.relative_to(tmp_path / "good")).write_bytes(DAMAGES[damage](path.read_bytes()))
        code, errors = finished(words, tmp_path, cache)
        assert code in EXPECTED, errors
        assert "Traceback" not in errors, f"{path.name}: {errors}"
        if code != 2:
            assert figures(tmp_path / "out") == expected, path.name
        answers["a Problem" if code == 2 else "made anew"] += 1
    print(f"\n{damage}: {len(files)} files of a run, {answers}")


def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path, cache: Path) -> None:
    words = ["run", "ccgc", "--scale", "smoke", "--out", "out"]
    both = [started(words, tmp_path, cache) for _ in range(2)]
    ends = [(process.communicate(timeout=900)[1], process.returncode) for process in both]
    assert all(code in EXPECTED for _, code in ends), ends
    assert not any("Traceback" in errors for errors, _ in ends), ends
    code, errors = finished(words, tmp_path, cache)
    assert code in {0, 1}, errors
    alone = tmp_path / "alone"
    alone.mkdir()
    finished(words, alone, cache)
    assert figures(tmp_path / "out") == figures(alone / "out")
    print(f"\ntwo runs in one folder: exit codes {sorted(code for _, code in ends)}, one set of figures")
