"""Benchmarks: lines of races and growth, peers that are absent, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.bench import Growth, Race, run
from repertory.core.problem import require

SCRIPT = """
import numpy as np
from repertory.core.bench import Race, bench

def add():
    return Race(lambda: np.ones(10), {"large": lambda: np.ones(4_000_000)}, facts={"batch": 1})

bench("Adds.", {"add": add, "never": lambda: 1 / 0})
"""


def test_a_race_tells_ratio_goal_and_facts() -> None:
    small, large = np.ones(1000), np.ones(3_000_000)
    (line,) = run("sum", lambda: Race(small.sum, {"large": large.sum}, facts={"batch": 2}), rounds=5)
    assert (line["race"], line["peer"], line["batch"], line["goal"], line["clock"]) == ("sum", "large", 2, 1.0, "cpu")
    assert line["quartiles"][0] <= line["ratio"] <= line["quartiles"][1]
    assert line["ratio"] > 1


def test_one_line_a_peer() -> None:
    lines = list(run("sum", lambda: Race(lambda: sum(range(10**5)), dict.fromkeys("ab", lambda: sum(range(10**5)))), 3))
    assert [line["peer"] for line in lines] == ["a", "b"]


def test_growth_fits_the_slope_of_the_upper_sizes() -> None:
    def work(size: int) -> Any:
        return lambda: sum(range(size))

    (line,) = run("count", lambda: Growth(work, [10**4, 10**5, 10**6, 4 * 10**6], "numbers"), rounds=1)
    assert line["sizes"] == [10**4, 10**5, 10**6, 4 * 10**6]
    assert line["slope"] == pytest.approx(1, abs=0.5)


def test_an_absent_peer_is_told() -> None:
    def make() -> Race:
        require("no_such_package_at_all", "peers")
        raise AssertionError

    (line,) = run("race", make, rounds=1)
    assert line == {"race": "race", "skipped": "this needs the package no_such_package_at_all, which is not installed"}


def test_a_script_prints_json_lines_and_measures_memory(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "toy.py"), "--only", "add", "--rounds", "2", "--output", "lines.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    line = json.loads(done.stdout)
    assert (line["paper"], line["race"]) == ("toy", "add")
    if "peer_mib" in line:  # Linux
        assert line["peer_mib"] > 20 > line["ours_mib"]
    assert json.loads((tmp_path / "lines.json").read_text(encoding="utf-8"))["lines"] == [line]


def test_an_unknown_race_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "toy.py"), "--only", "ad"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no race 'ad'" in done.stderr
    assert "add" in done.stderr


def test_files_of_a_benchmark_go_with_the_process() -> None:
    code = "from repertory.core.bench import scratch\nf = scratch()\n(f / 'a').write_text('x')\nprint(f)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()
