"""Covariance pooling without a centring matrix, raced against the explicit form.

    python benchmarks/tcp.py [--threads 1] [--videos 4] [--sides 8 14] [--rounds 9] [--output FILE.json]

A contestant turns maps (videos of 8 frames, 128 channels, side x side places) into covariance, square root (three
Newton-Schulz steps) and upper triangle, forward and backward. The peer multiplies by a centring matrix for each video,
as the authors' code does: it has (8 side^2)^2 entries. "covariance alone" leaves root and triangle out. Both give the
same values and gradients, which is checked first. One JSON line a race: medians in milliseconds, the ratio (above 1:
ours is faster), its quartiles, MiB that each adds to the peak memory.

Sides: 14 is that of the published networks at 224 pixels; 8 has 64 places.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio
from repertory.nn.second_order import UpperTriangle, covariance, newton_schulz_sqrt
from repertory.papers.tcp.study import covariance_by_matrix

CHANNELS, FRAMES = 128, 8


def observations(x: Tensor) -> Tensor:
    """Maps (B T, d, h, w) -> (B, d, T h w)."""
    return x.unflatten(0, (-1, FRAMES)).transpose(1, 2).flatten(2)


def ours(x: Tensor) -> Tensor:
    """Maps (B T, d, h, w) -> (B, d, d)."""
    return covariance(observations(x).mT)


def explicit(x: Tensor) -> Tensor:
    """As `ours`, with a centring matrix."""
    return covariance_by_matrix(observations(x))


def step(form: Callable[[Tensor], Tensor], finish: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Forward and backward; the gradient."""
    x.grad = None
    finish(form(x)).square().sum().backward()
    assert x.grad is not None
    return x.grad


def compare(title: str, finish: Callable[[Tensor], Tensor], x: Tensor, rounds: int, threads: int) -> dict[str, Any]:
    """One race, as a JSON line."""
    forms = {"ours": ours, "centring matrix": explicit}
    start, peaks, gradients = high_water(), dict[str, float](), list[Tensor]()
    for name, form in forms.items():
        gradients.append(step(form, finish, x))
        peaks[name] = high_water() - start
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))
    times = race({name: partial(step, form, finish, x) for name, form in forms.items()}, range(1 + rounds))
    speeds = times["centring matrix"] / times["ours"]
    return {
        "race": title,
        "shape": list(x.shape),
        **{f"{name}, ms": round(1000 * float(np.median(seconds)), 2) for name, seconds in times.items()},
        "ratio": round(ratio(times, "ours", "centring matrix"), 2),
        "quartiles": [round(float(q), 2) for q in np.quantile(speeds, [0.25, 0.75])],
        "peak, MiB": {name: round(value, 1) for name, value in peaks.items()},
        "rounds": rounds,
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 14])
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    triangle = UpperTriangle(CHANNELS)
    works: dict[str, Callable[[Tensor], Tensor]] = {
        "covariance alone": lambda p: p,
        "covariance, root and triangle": lambda p: triangle(newton_schulz_sqrt(p)),
    }
    found: list[dict[str, Any]] = []
    for side in arguments.sides:
        x = torch.randn(arguments.videos * FRAMES, CHANNELS, side, side, requires_grad=True)
        for title, finish in works.items():
            named = f"{title}, {FRAMES} frames of {side} x {side}"
            found.append(compare(named, finish, x, max(7, arguments.rounds), arguments.threads))
            print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
