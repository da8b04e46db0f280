"""Torture, in minutes: `kill -9`, a full disk, read-only folders, damaged files, two runs in one folder.

    make test-slow, or: pytest -m slow -s tests/torture

Each test prints its figures; README's paragraph on reliability rests on them. REPERTORY_TORTURE sets how often each
command is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from repertory import cli
from repertory.papers.emo import EMO
from repertory.papers.emo.model import VARIANTS

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("REPERTORY_TORTURE", "3"))
EXPECTED = {0, 1, 2}
"""Done, done but for failed trials, and a Problem."""
VOLATILE = {"seconds", "date", "commit", "versions", "card", "machine"}
"""What two equal runs may differ in."""
CHECKOUT = Path(__file__).parents[2]
FORKS = multiprocessing.get_context("forkserver")
"""Commands are forked from one process that has imported all they need: kills hit the work, not the imports."""
FORKS.set_forkserver_preload(
    [
        "repertory.cli",
        "repertory.execution.experiment",
        *(f"repertory.papers.{paper}.study" for paper in ("ccgc", "emo", "gapgc", "ghsc", "reliant")),
    ]
)

COMMANDS: dict[str, list[str]] = {
    "run emo": ["run", "emo", "--scale", "smoke", "--arms", "both,neither", "--out", "out"],
    "run ccgc": ["run", "ccgc", "--scale", "smoke", "--out", "out"],
    "run ghsc, 2 jobs": ["run", "ghsc", "--scale", "smoke", "--jobs", "2", "--out", "out"],
    "run reliant": ["run", "reliant", "--scale", "smoke", "--arms", "cpf+reliant,akd", "--out", "out"],
    "train emo": ["train", "emo", "--scale", "smoke", "--out", "out"],
    "train gapgc": ["train", "gapgc", "--scale", "smoke", "--out", "out"],
    "record ccgc": ["record", "ccgc", "--scale", "smoke", "--max-seeds", "5", "--budget", "10h"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of samples for all commands."""
    return tmp_path_factory.mktemp("cache")


def unlimited() -> None:
    """What a command is prepared with: nothing."""


class Command:
    """`repertory WORDS` in a folder, in a process group of its own."""

    def __init__(self, words: list[str], folder: Path, cache: Path, prepare: Callable[[], None] = unlimited) -> None:
        descriptor, name = tempfile.mkstemp(suffix=".err", dir=cache.parent)
        os.close(descriptor)
        self.log = Path(name)
        self.process = FORKS.Process(target=_command, args=(words, folder, cache, self.log, prepare))
        self.process.start()

    def kill(self) -> bool:
        """Kill it with all that it started; False if it has ended before."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it said on standard error."""
        self.process.join(900)
        code = self.process.exitcode
        assert code is not None, f"it hangs: {self.log.read_text()}"
        return code, self.log.read_text()


def _command(words: list[str], folder: Path, cache: Path, log: Path, prepare: Callable[[], None]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(REPERTORY_CACHE=str(cache), REPERTORY_KEEP_SECONDS="0", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    for stream, path in ((sys.stdout, os.devnull), (sys.stderr, log)):
        with Path(path).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    prepare()
    sys.argv = ["repertory", *words]
    try:
        cli.main()
    finally:
        atexit._run_exitfuncs()


def finished(words: list[str], folder: Path, cache: Path, prepare: Callable[[], None] = unlimited) -> tuple[int, str]:
    return Command(words, folder, cache, prepare).end()


def figures(folder: Path) -> dict[str, object]:
    """Metrics and weights of every trial, model directory and recording below a folder, without what may differ."""

    def kept(value: object) -> object:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if k not in VOLATILE}
        return [kept(v) for v in value] if isinstance(value, list) else value

    patterns = ("result.json", "metrics.json", "metrics.jsonl", "*.safetensors", "results/*.json")
    found: dict[str, object] = {}
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
        name = path.relative_to(folder).as_posix()
        found[name] = kept(json.loads(path.read_text())) if path.suffix == ".json" else hash(path.read_bytes())
    return found


def names(folder: Path) -> set[str]:
    """Files below a folder; records of TensorBoard, whose names hold the time, are one a trial."""
    return {path.relative_to(folder).as_posix().partition(".tfevents.")[0] for path in folder.rglob("*")}


def here_is_the_checkout() -> None:
    """`record` writes into the folder that it runs in."""
    cli._checkout = Path.cwd


def begun(folder: Path, words: list[str]) -> Path:
    """A folder to run a command in; for `record` with what it changes in a checkout."""
    folder.mkdir()
    if words[0] == "record":
        for name in ("README.md", "pyproject.toml"):
            shutil.copy(CHECKOUT / name, folder)
        for name in ("docs", "results"):
            shutil.copytree(CHECKOUT / name, folder / name)
    return folder


@pytest.mark.parametrize("what", COMMANDS)
def test_killed_at_random_moments_it_ends_with_the_same_figures(what: str, tmp_path: Path, cache: Path) -> None:
    words = COMMANDS[what]
    prepare = here_is_the_checkout if words[0] == "record" else unlimited
    finished(words, begun(tmp_path / "first", words), cache, prepare)  # writes the sample
    whole = begun(tmp_path / "whole", words)
    start = time.monotonic()
    code, errors = finished(words, whole, cache, prepare)
    duration = time.monotonic() - start
    assert code in {0, 1}, errors
    expected = figures(whole)
    assert expected
    rng = np.random.default_rng(0)
    killed = leftovers = 0
    for attempt in range(KILLS):
        here = begun(tmp_path / f"killed-{attempt}", words)
        for _ in range(3):
            command = Command(words, here, cache, prepare)
            time.sleep(float(rng.uniform(0.1, 0.9)) * duration)
            killed += command.kill()
        code, errors = finished(words, here, cache, prepare)
        done = code == 2 and "there is a model already" in errors  # it was complete when it was killed
        assert code in {0, 1} or done, errors
        assert "Traceback" not in errors, errors
        assert figures(here) == expected, what
        left = names(here) - names(whole)
        leftovers += len(left)
        assert not left, sorted(left)
    print(
        f"\n{what}: {killed} kills, {KILLS} ends, all with the same figures ({len(expected)} files); "
        f"{leftovers} files left over"
    )


def full(limit: int, prepare: Callable[[], None]) -> None:
    """No file may grow beyond `limit` bytes: writing fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    prepare()


def unprivileged() -> None:
    """The superuser may write everywhere; without two of Linux's capabilities it may not."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


def test_a_model_is_converted_whole_or_not_at_all(tmp_path: Path, cache: Path) -> None:
    torch.save(EMO(**VARIANTS["emo_1m"]).state_dict(), tmp_path / "net.pth")
    words = ["convert", "emo", "net.pth", "model"]
    finished([*words[:-1], "first"], tmp_path, cache)
    start = time.monotonic()
    assert finished(words, tmp_path, cache)[0] == 0
    duration = time.monotonic() - start
    complete, expected = names(tmp_path / "model"), figures(tmp_path / "model")
    rng = np.random.default_rng(1)
    killed = 0
    for _ in range(3 * KILLS):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        command = Command(words, tmp_path, cache)
        time.sleep(float(rng.uniform(0.1, 1.0)) * duration)
        killed += command.kill()
        assert not (tmp_path / "model").exists() or names(tmp_path / "model") == complete
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        assert finished(words, tmp_path, cache)[0] == 0
        assert figures(tmp_path / "model") == expected
    others = {path.name for path in tmp_path.iterdir()} - {"first", "model", "net.pth"}
    assert not others, others
    print(f"\nconvert emo: {killed} kills, nothing half made; {len(others)} files left over")


@pytest.mark.parametrize("what", ["run ccgc", "train emo", "record ccgc"])
@pytest.mark.parametrize("limit", [2_000, 40_000, 200_000])
def test_a_full_disk_is_a_problem_and_leaves_what_was_there(limit: int, what: str, tmp_path: Path, cache: Path) -> None:
    words = COMMANDS[what]
    prepare = here_is_the_checkout if words[0] == "record" else unlimited
    whole = begun(tmp_path / "whole", words)
    assert finished(words, whole, cache, prepare)[0] in {0, 1}  # the sample is cached now
    here = begun(tmp_path / "here", words)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, errors = finished(words, here, cache, functools.partial(full, limit, prepare))
    assert code in EXPECTED
    assert "Traceback" not in errors, errors
    if code == 2:
        assert {path: path.read_bytes() for path in before} == before
    again, errors = finished(words, here, cache, prepare)
    assert again in {0, 1}, errors
    assert figures(here) == figures(whole)
    assert not names(here) - names(whole)
    print(f"\n{what}, full disk at {limit} bytes a file: exit status {code}; with space again it ends")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "ccgc", "--scale", "smoke", "--out"],
        ["train", "emo", "--scale", "smoke", "--out"],
        ["sample", "ccgc"],
        ["convert", "emo", "../net.pth"],
    ],
    ids=lambda words: words[0],
)
def test_a_read_only_folder_is_a_problem_before_any_work(words: list[str], tmp_path: Path, cache: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    torch.save({}, tmp_path / "net.pth")
    code, errors = finished([*words, "out"], tmp_path / "locked", cache, unprivileged)
    assert (code, "Traceback" in errors) == (2, False), errors
    assert "locked" in errors, errors
    assert not list((tmp_path / "locked").iterdir())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "junk": lambda content: b"\x00\xff junk \x80" * 7,
    "braces": lambda content: b"{}",
    "brackets": lambda content: b"[]",
}
DAMAGED: dict[str, list[str]] = {
    "ccgc": ["run", "ccgc", "--scale", "smoke", "--arms", "ccgc,kmeans-raw", "--out", "out"],
    "emo": ["run", "emo", "--scale", "smoke", "--arms", "both", "--out", "out"],
    "gapgc": ["run", "gapgc", "--scale", "smoke", "--arms", "gapgc", "--out", "out"],
}


@pytest.mark.parametrize("paper", DAMAGED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_a_problem_or_made_anew(
    damage: str, paper: str, tmp_path: Path, cache: Path
) -> None:
    words, out, good = DAMAGED[paper], tmp_path / "out", tmp_path / "good"
    assert finished(words, tmp_path, cache)[0] in {0, 1}
    expected = figures(out)
    out.rename(good)
    files = [path for path in sorted(good.rglob("*")) if path.is_file()]
    answers = {"a Problem": 0, "made anew": 0, "as it was": 0}
    for path in files:
        name = path.relative_to(good)
        shutil.copytree(good, out)
        damaged = DAMAGES[damage](path.read_bytes())
        (out / name).write_bytes(damaged)
        code, errors = finished(words, tmp_path, cache)
        assert code in EXPECTED, errors
        assert "Traceback" not in errors, f"{name}: {errors}"
        if code == 2:
            answers["a Problem"] += 1
        else:
            kept = (out / name).read_bytes() == damaged  # nobody needed it
            answers["as it was" if kept else "made anew"] += 1
            found = figures(out)
            differing = {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
            assert differing <= ({name.as_posix()} if kept else set()), name
        shutil.rmtree(out)
    print(f"\n{paper}, {damage}: {len(files)} files of a run, {answers}")


def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path, cache: Path) -> None:
    words = COMMANDS["run ccgc"]
    both = [Command(words, tmp_path, cache) for _ in range(2)]
    ends = [command.end() for command in both]
    assert all(code in EXPECTED for code, _ in ends), ends
    assert not any("Traceback" in errors for _, errors in ends), ends
    code, errors = finished(words, tmp_path, cache)
    assert code in {0, 1}, errors
    alone = begun(tmp_path / "alone", words)
    finished(words, alone, cache)
    assert figures(tmp_path / "out") == figures(alone / "out")
    print(f"\ntwo runs in one folder: exit statuses {sorted(code for code, _ in ends)}, one set of figures")
