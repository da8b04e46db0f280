"""Timing: races between implementations, operator profiles, peak memory of this process."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repertory.core.allocator import keep_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def race(
    contestants: Mapping[str, Callable[[], object]],
    rounds: Iterable[int],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each contestant in each round; the contestants alternate.

    The load of the machine varies over time: compare only times of the same round, see `ratio`. The first round is a
    warm-up and is dropped. From here on the process keeps the memory that it frees, see `keep_memory`: whether it does
    can decide a race.

    Args:
        contestants: name -> what is timed.
        rounds: one value each; the first does not count.
        clock: `time.process_time` counts the CPU time of this process, on which other load has the least influence.
    """
    keep_memory()
    times = [[_seconds(run, clock) for run in contestants.values()] for _ in rounds]
    return dict(zip(contestants, np.array(times)[1:].T, strict=True))


def seconds_a_sample(loss: Callable[[], Tensor], samples: int, device: torch.device) -> float:
    """Time of a forward and backward pass by the number of its samples: the shorter of two, after one to warm up.

    Args:
        loss: gives a scalar; its network is thrown away afterwards.
        samples: of the batch that it sees.
        device: where the network is.
    """
    import torch  # here: the rest of this module needs none

    times = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.enable_grad():
            loss().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:]) / samples


def ratio(times: Mapping[str, NDArray[np.float64]], one: str, peer: str) -> float:
    """Speed of `one` relative to `peer`: the median over rounds of time(peer) / time(one).

    Example:
        >>> ratio({"ours": np.array([1.0, 2.0]), "theirs": np.array([3.0, 6.0])}, "ours", "theirs")
        3.0
    """
    return float(np.median(times[peer] / times[one]))


def medians(times: Mapping[str, NDArray[np.float64]], one: str, peer: str, count: int = 5) -> list[float]:
    """Speed of `one` relative to `peer`, `count` times: the rounds are dealt out in turn, a median for each hand.

    `Study.measure` gives these for a timing, so that its verdict has an interval. Of fewer rounds (a dry run) there are
    fewer medians, which decide nothing.

    Example:
        >>> medians({"ours": np.full(10, 1.0), "theirs": np.full(10, 3.0)}, "ours", "theirs")
        [3.0, 3.0, 3.0, 3.0, 3.0]
    """
    speeds = times[peer] / times[one]
    return [float(np.median(speeds[first::count])) for first in range(min(count, len(speeds)))]


def where_the_time_goes(run: Callable[[], object], rows: int = 8) -> dict[str, float]:
    """The torch operators with the most CPU time: name -> share of the run in per cent, largest first."""
    from torch.profiler import ProfilerActivity, profile  # a lazy import: races do not need torch

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: 100 * event.self_cpu_time_total / total for event in events[:rows]}


def high_water() -> float:
    """Peak resident memory of this process in MiB; NaN on systems other than Linux.

    Example:
        >>> high_water() > 10 or math.isnan(high_water())
        True
    """
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(match[1]) / 1024 if match else math.nan


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start
