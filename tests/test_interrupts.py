"""Ctrl-C, pressed at chosen moments: one line, exit status 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repertory.cli import GOES_ON
from repertory.interrupts import STATUS, interruptible

PRESS = """
import os, signal, sys
from importlib.abc import MetaPathFinder


class Press(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PRESS_AT_IMPORT"]:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # the handler runs between two instructions
                pass
        return None


if "PRESS_AT_IMPORT" in os.environ:
    sys.meta_path.insert(0, Press())
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("rich.console", "interrupted"),
        ("pydantic", "interrupted"),
        ("torch", "interrupted"),
        ("tensorboardX", GOES_ON),  # imported amid training, by the first record
    ],
)
def test_during_imports(tmp_path: Path, module: str, message: str) -> None:
    """The signal comes from inside the import, by way of a `sitecustomize`."""
    (tmp_path / "sitecustomize.py").write_text(PRESS)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "repertory", "run", "ccgc", "--scale", "smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PRESS_AT_IMPORT": module},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == STATUS, done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1] == message
    assert [line for line in lines[:-1] if not line.startswith("loading")] == []
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("caught", ["nothing", "turned into another error"])
def test_work_ends_in_one_line_and_status_130(capsys: pytest.CaptureFixture[str], caught: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if caught == "nothing":
                raise
            raise ImportError("a library turned it into this") from None
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended, interruptible("interrupted; goes on from here"):
        work()
    assert ended.value.code == STATUS
    assert cleaned, "work is unwound, not cut off"
    assert capsys.readouterr().err == "interrupted; goes on from here\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_in_a_destructor_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    went_on = []

    def work() -> None:
        Destroyed()
        for _ in range(500):
            time.sleep(0.01)
        went_on.append(True)

    with pytest.raises(SystemExit) as ended, interruptible():
        work()
    assert not went_on, "the interrupt was dropped"
    assert ended.value.code == STATUS
    assert capsys.readouterr().err == "interrupted\n"


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), interruptible():
        _ = 1 / 0
