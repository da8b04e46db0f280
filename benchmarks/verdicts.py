"""How often repeated looks end in a wrong verdict, and how often they reach one: simulated paired studies.

    python benchmarks/verdicts.py              # errors at the margin, power
    python benchmarks/verdicts.py calibrate    # the critical values of repertory.verdicts.sequential

Prints one JSON line a simulation.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from repertory.verdicts import sequential
from repertory.verdicts.sequential import ERROR, LOOKS, anytime_critical

Array = NDArray[np.float64]


def t_paths(rng: np.random.Generator, paths: int, effect: float = 0.0) -> Array:
    """t statistics (paths, 30) of the first 1 to 30 of normal differences with standard deviation 1; the first is 0."""
    x = rng.normal(effect, 1, (paths, LOOKS[-1]))
    n = np.arange(1, LOOKS[-1] + 1)
    mean, square = np.cumsum(x, 1) / n, np.cumsum(x * x, 1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean * np.sqrt((n - 1) / np.maximum(square - mean**2, 0))
    t[:, 0] = 0
    return t


def critical_values(paths: int, seed: int = 0) -> dict[int, float]:
    """|t| at each look such that looks up to n seeds have spent ERROR * n / 30 together."""
    t = np.abs(t_paths(np.random.default_rng(seed), paths))
    undecided, found = np.ones(paths, dtype=bool), {}
    for n in LOOKS:
        spend = round(paths * ERROR * n / LOOKS[-1]) - int((~undecided).sum())
        found[n] = float(np.sort(t[undecided, n - 1])[-spend])
        undecided &= t[:, n - 1] < found[n]
    return found


def stopping_errors(paths: int = 100_000) -> dict[str, float]:
    """Share of studies that end on one wrong side, per cent, with the true effect on the margin; nominal 2.5."""
    t = t_paths(np.random.default_rng(1), paths)
    n = np.arange(1, LOOKS[-1] + 1)
    naive = stats.t.ppf(1 - ERROR / 2, np.maximum(n - 1, 1))
    anytime = np.array([anytime_critical(int(k)) for k in n])
    group = np.array([sequential.CRITICAL.get(int(k), np.inf) for k in n])
    every = slice(2, None)  # from 3 seeds on, a look after each
    return {
        name: round(100 * float((t[:, every] > limit[every]).any(1).mean()), 2)
        for name, limit in (("naive", naive), ("group_sequential", group), ("anytime_valid", anytime))
    }


def power(effects: tuple[float, ...] = (0.5, 1.0, 2.0), paths: int = 20_000) -> dict[str, dict[str, float]]:
    """Share of studies that end with "holds" by each look, per cent, at true effects in standard deviations."""
    rng, found = np.random.default_rng(2), {}
    for effect in effects:
        t = t_paths(rng, paths, effect)
        reached = np.cumsum([t[:, n - 1] > sequential.CRITICAL[n] for n in LOOKS], axis=0) > 0
        found[f"{effect:g} sd"] = {str(n): round(100 * float(reached[k].mean()), 1) for k, n in enumerate(LOOKS)}
    return found


def main() -> None:
    if sys.argv[1:] == ["calibrate"]:
        print(json.dumps({"critical": {n: round(c, 3) for n, c in critical_values(4_000_000).items()}}))
        return
    for name, simulate in (
        ("wrong at the margin, looks at 3 to 30 seeds, %", stopping_errors),
        ("holds by look, %", power),
    ):
        print(json.dumps({name: simulate()}), flush=True)


if __name__ == "__main__":
    main()
