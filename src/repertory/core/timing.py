"""Racing alternatives on the machine at hand; where the time goes, and how much memory a process took."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def race(contestants: Mapping[str, Callable[[], object]], rounds: Iterable[int]) -> dict[str, NDArray[np.float64]]:
    """Seconds of each contestant in each round; they take turns.

    A machine's pace changes with what else it does: only times of the same round go together, see `ratio`.
    The first round warms up and is not counted.
    """
    times = [[_seconds(run) for run in contestants.values()] for _ in rounds]
    return dict(zip(contestants, np.array(times)[1:].T, strict=True))


def ratio(times: Mapping[str, NDArray[np.float64]], one: str, peer: str) -> float:
    """How many times faster `one` is than `peer`: the median over rounds.

    Example:
        >>> ratio({"ours": np.array([1.0, 2.0]), "theirs": np.array([3.0, 6.0])}, "ours", "theirs")
        3.0
    """
    return float(np.median(times[peer] / times[one]))


def where_the_time_goes(run: Callable[[], object], rows: int = 8) -> dict[str, float]:
    """Shares of a run, per cent, of the torch operators that take most time by themselves."""
    from torch.profiler import ProfilerActivity, profile  # here: whoever only races does not wait for torch

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: 100 * event.self_cpu_time_total / total for event in events[:rows]}


def high_water() -> float:
    """Largest resident memory of this process so far, MiB; NaN where the system does not tell (it is Linux that does).

    Example:
        >>> high_water() > 10 or math.isnan(high_water())
        True
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(found[1]) / 1024 if found else math.nan


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
