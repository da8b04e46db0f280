"""Every reader on damaged samples: a Problem, or read; never another exception, a crash, a hang or much memory."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.data import mutations
from tests.data.corpus import SAMPLES


def corpus(*options: str, seconds: int) -> str:
    """Output of the corpus, in a process of its own; the test fails where an answer was wrong."""
    names = [name for name, sample in SAMPLES.items() if not sample.needs or importlib.util.find_spec(sample.needs)]
    if "--quick" in options:
        names = [name for name in names if SAMPLES[name].quick]
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.corpus", *names, *options],
        capture_output=True, text=True, timeout=seconds, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def test_damaged_files_give_a_problem_or_are_read() -> None:
    corpus("--count", "1", "--quick", seconds=300)


@pytest.mark.slow
def test_the_whole_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    figures = corpus("--count", "20", seconds=3600)
    with capsys.disabled():
        print("", figures, sep="\n")


# -- the corpus itself --------------------------------------------------------------------------


def test_the_corpus_notices_other_values_and_other_types(tmp_path: Path) -> None:
    seen = [np.arange(3), np.arange(3.0), np.arange(3)[None], np.array([0, 1, 3]), [0, 1, 2], "012", None]
    assert len({mutations.content_of(value) for value in seen}) == len(seen)
    assert mutations.content_of({"a": 1, "b": tmp_path / "X"}) == mutations.content_of({"b": Path("/x"), "a": 1})


@pytest.mark.parametrize("name", ["planetoid", "ogb", "svhn", "event h5", "checkpoints", "idx", "triplet", "own npz"])
def test_altered_arrays_differ(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    if sample.needs:
        pytest.importorskip(sample.needs)
    SAMPLES[name].write(tmp_path)
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        before, changed = path.read_bytes(), set[bytes]()
        for seed in range(8):
            path.write_bytes(before)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert mutations.alter(path, np.random.default_rng(seed)) or path.suffix == ".gz"
            changed.add(path.read_bytes())
        assert len(changed - {before}) > 2 or path.suffix == ".gz"
