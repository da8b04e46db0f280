"""Benchmarks: what a script in `benchmarks/` declares, and how its races run; one JSON line a race.

    def attention() -> Race:
        ...
        return Race(ours=lambda: ours(x), peers={"timm": lambda: theirs(x)})

    if __name__ == "__main__":
        bench(__doc__, {"attention": attention})

A figure that is worth repeating is a ratio from one run: the contestants alternate, and the median of the paired ratios
counts. By default CPU time is compared, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from repertory.core.allocator import VARIABLE, keep_memory, release_memory
from repertory.core.files import write_json
from repertory.core.problem import Problem, reason, suggest
from repertory.core.timing import high_water, race

Run = Callable[[], object]
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
MEMORY = 8 * 1024.0
"""MiB that a size of `Growth` may take at most; larger ones are left out."""


@dataclass(frozen=True)
class Race:
    """The same work done by this package and by others.

    The function that makes it checks that all of them give the same outputs, wherever they can.
    """

    ours: Run
    peers: Mapping[str, Run]
    """Who they are -> what they do; a line each."""
    goal: float | None = 1.0
    """Speed relative to the peers that is wanted; None: the line only tells how two things compare."""
    clock: Literal["cpu", "wall"] = "cpu"
    """"wall" where the work is done by processes of its own or by a GPU."""
    repeat: int = 1
    """Calls in a round; several where one takes less than about 10 ms. The line gives the time of one."""
    memory: bool = True
    """Measure what each contestant adds to the peak memory, in a process of its own."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a reader must know to compare: batch, parameters, differences of the outputs."""


@dataclass(frozen=True)
class Growth:
    """The same work at growing sizes."""

    work: Callable[[int], Run]
    """Size -> what is timed; its data are made before."""
    sizes: Sequence[int]
    """Ascending, over three decades; those that would need more than `MEMORY` are left out."""
    unit: str
    """What a size counts: "edges", "events"."""
    slope: float = 1.0
    """Exponent of the growth that the method promises."""


Benchmarks = Mapping[str, Callable[[], Race | Growth]]


def bench(description: str | None, benchmarks: Benchmarks) -> None:
    """The command line of a script in `benchmarks/`.

    Args:
        description: the script's docstring.
        benchmarks: name -> makes the race. One whose peer is not installed raises a `Problem`, and is told as skipped.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; one more warms up")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(benchmarks)}")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory: a process for each contestant")
    parser.add_argument("--output", type=Path, help="also write the lines to this JSON file, after each race")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        print(_peak_here(benchmarks, *given.peak))
        return
    for name in given.only or ():
        if name not in benchmarks:
            parser.error(f"no race {name!r}{suggest(name, benchmarks)}")
    paper = Path(sys.argv[0]).stem
    lines: list[dict[str, Any]] = []
    for name in given.only or benchmarks:
        for line in run(name, benchmarks[name], given.rounds, memory=not given.no_memory):
            lines.append({"paper": paper, **line})
            print(json.dumps(lines[-1], ensure_ascii=False), flush=True)
        if given.output:
            write_json(given.output, {**environment(), "lines": lines})


def run(name: str, make: Callable[[], Race | Growth], rounds: int, *, memory: bool = False) -> Iterator[dict[str, Any]]:
    """The lines of one benchmark: one for each peer, or one of its growth.

    Args:
        name: of the benchmark.
        make: makes it.
        rounds: pairs that count.
        memory: measure peak memory, too; for scripts that call `bench`.
    """
    torch.manual_seed(0)
    try:
        made = make()
    except Problem as problem:
        yield {"race": name, "skipped": reason(problem)}
        return
    if isinstance(made, Growth):
        yield {"race": name, **_grown(made)}
        return
    runs = {who: partial(_repeated, work, made.repeat) for who, work in {"": made.ours, **made.peers}.items()}
    times = {who: taken / made.repeat for who, taken in race(runs, range(1 + rounds), CLOCKS[made.clock]).items()}
    ours_mib = _peak(name, "") if memory and made.memory else math.nan
    for peer in made.peers:
        ratios = times[peer] / times[""]
        peer_mib = _peak(name, peer) if memory and made.memory else math.nan
        yield {
            "race": name,
            "peer": peer,
            "ratio": _rounded(float(np.median(ratios))),
            "quartiles": [_rounded(float(value)) for value in np.quantile(ratios, [0.25, 0.75])],
            "goal": made.goal,
            "ours_ms": _rounded(1000 * float(np.median(times[""]))),
            "peer_ms": _rounded(1000 * float(np.median(times[peer]))),
            "clock": made.clock,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "keeps_memory": keep_memory(),
            **({} if math.isnan(peer_mib) else {"ours_mib": round(ours_mib, 1), "peer_mib": round(peer_mib, 1)}),
            **made.facts,
        }


def _repeated(work: Run, times: int) -> None:
    for _ in range(times):
        work()


def scratch() -> Path:
    """A new folder for the files that a benchmark reads; it goes when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def environment() -> dict[str, Any]:
    """Date, machine, how busy it is, and versions, for a file of figures."""
    packages = ("torch", "numpy", "scipy", "timm", "torch-geometric", "transformers")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _grown(growth: Growth) -> dict[str, Any]:
    """Seconds at every size that fits, and the slope of their logarithms over the upper half of the sizes."""
    seconds: list[float] = []
    for size in growth.sizes:
        work = growth.work(size)
        before = high_water()
        seconds.append(float(np.median(race({"": work}, range(1 + 3), CLOCKS["cpu"])[""])))
        following = growth.sizes[len(seconds) : len(seconds) + 1]
        if following and (high_water() - before) * following[0] / size > MEMORY:
            break
    sizes = list(growth.sizes[: len(seconds)])
    upper = slice(len(sizes) // 2 - 1, None)
    slope = float(np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0])
    return {
        "unit": growth.unit,
        "sizes": sizes,
        "seconds": [_rounded(value) for value in seconds],
        "slope": _rounded(slope),
        "goal": growth.slope,
        "threads": torch.get_num_threads(),
        "keeps_memory": keep_memory(),
        "peak_mib": round(high_water()),
    }


def _peak(name: str, contestant: str) -> float:
    """MiB that a contestant adds to the peak of a new process of this script, whose malloc gives memory back."""
    command = [sys.executable, sys.argv[0], "--threads", str(torch.get_num_threads()), "--peak", name, contestant]
    environment = {**os.environ, VARIABLE: "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def _peak_here(benchmarks: Benchmarks, name: str, contestant: str) -> float:
    """MiB that two runs of one contestant add to what this process holds; its data and libraries do not count."""
    torch.manual_seed(0)
    made = benchmarks[name]()
    assert isinstance(made, Race)
    work = made.peers[contestant] if contestant else made.ours
    gc.collect()
    release_memory()  # what the checks of the outputs have freed would hide what the work takes
    refs = Path("/proc/self/clear_refs")
    if not refs.exists():
        return math.nan
    refs.write_text("5", encoding="ascii")  # the peak is forgotten: begin with what is resident now
    before = high_water()
    for _ in range(2):
        work()
    return high_water() - before


def _rounded(value: float) -> float:
    """Three significant digits.

    Example:
        >>> _rounded(0.0123456), _rounded(1234.5)
        (0.0123, 1230.0)
    """
    return float(f"{value:.3g}")
