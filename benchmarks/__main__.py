"""All races of all papers, one script after the other, into results/benchmarks.json.

    python benchmarks [PAPER ...] [--jobs 1] [--rounds 9] [--output results/benchmarks.json]

Each script runs twice: with memory that is freed kept (see repertory.core.allocator), and with glibc's own allocator,
whose ratio is added to the line as `system_ratio`. A script's lines replace those it had in the file, so that an
interrupted run goes on with the papers that are left. Every script runs on one core of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.progress import track

from repertory.core.bench import environment
from repertory.core.files import read_json, write_json
from repertory.core.problem import suggest

HERE = Path(__file__).parent
SCRIPTS = sorted(path.stem for path in HERE.glob("*.py") if "core.bench import" in path.read_text(encoding="utf-8"))


def lines_of(paper: str, rounds: int, core: int) -> list[dict[str, Any]]:
    """What the script of a paper prints, with the ratios of both allocators.

    Raises:
        CalledProcessError: it failed; its messages are on stderr.
    """
    command = [sys.executable, str(HERE / f"{paper}.py"), "--rounds", str(rounds)]

    def run(mode: str, *more: str) -> list[dict[str, Any]]:
        variables = {**os.environ, "REPERTORY_MALLOC": mode, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *more], stdout=subprocess.PIPE, text=True, check=True, env=variables,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    system = {(line["race"], line.get("peer")): line for line in run("system", "--no-memory")}
    lines = run("keep")
    for line in lines:
        if "ratio" in line:
            line["system_ratio"] = system[line["race"], line["peer"]]["ratio"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", nargs="*", metavar="PAPER", help="default: those that have no lines in the file yet")
    parser.add_argument("--jobs", type=int, default=1, help="scripts at a time; 1 on a machine that others use")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "benchmarks.json")
    given = parser.parse_args()
    for paper in given.papers:
        if paper not in SCRIPTS:
            parser.error(f"no benchmark {paper!r}{suggest(paper, SCRIPTS)}")
    found: dict[str, Any] = {}
    if given.output.exists():
        found = read_json(given.output, "delete it")["papers"]
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def work(paper: str) -> list[dict[str, Any]]:
        core = cores.get()
        try:
            return lines_of(paper, given.rounds, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(given.jobs) as pool:
        asked = given.papers or [paper for paper in SCRIPTS if paper not in found]
        running = {pool.submit(work, paper): paper for paper in asked}
        for done in track(as_completed(running), "races", total=len(running)):
            try:
                lines = done.result()
            except subprocess.CalledProcessError as error:
                print(f"{running[done]}: {error}", file=sys.stderr)
                continue
            found[running[done]] = {**environment(), "lines": lines}
            write_json(given.output, {"papers": dict(sorted(found.items()))})
    sys.exit(0 if all(paper in found for paper in asked) else 1)


if __name__ == "__main__":
    main()
