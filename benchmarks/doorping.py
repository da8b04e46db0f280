"""Trigger and image updates of DOORPING, raced with the loops that the authors' code is described to have.

    python benchmarks/doorping.py [--threads 1] [--rounds 7] [--networks mini convnet alexnet] [--output FILE.json]

Contestants alternate; results are medians of the paired ratios, time of the loop over time of ours (above 1: ours is
faster). The trigger's loop registers a new hook in each step, runs the whole network and takes the gradients of all
weights; 100 steps of at most 1000 are raced, which is kind to it. The image update is one step of gradient matching on
10 classes, with the published numbers of images for convnet and alexnet. One JSON line a race. Before the race the
results of both are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio, where_the_time_goes
from repertory.papers.doorping.race import SHAPES, STEPS, contestants

RACES = {
    "trigger": f"trigger update, {STEPS} steps",
    "matching": "image update of gradient matching, 10 classes",
}


def check(runs: dict[str, Callable[[], Any]]) -> None:
    """Ours against the loops."""
    torch.testing.assert_close(runs["trigger"]()[0], runs["trigger_loop"](), rtol=1e-2, atol=1e-2)  # after 100 steps
    torch.testing.assert_close(runs["matching"](), runs["matching_loop"](), rtol=1e-2, atol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="pairs that count; at least 7")
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--races", nargs="+", default=list(RACES), choices=list(RACES))
    parser.add_argument("--profile", action="store_true", help="add the operators in which the time goes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    found = []
    for name in arguments.networks:
        runs = contestants(name)
        check(runs)
        for kind in arguments.races:
            pair = {key: runs[key] for key in (kind, f"{kind}_loop")}
            times = race(pair, range(1 + max(7, arguments.rounds)))
            ratios = times[f"{kind}_loop"] / times[kind]
            row: dict[str, Any] = {
                "race": f"{RACES[kind]}, {name}",
                "ours_s": float(np.median(times[kind])),
                "loop_s": float(np.median(times[f"{kind}_loop"])),
                "loop_over_ours": ratio(times, kind, f"{kind}_loop"),
                "spread": [float(value) for value in np.quantile(ratios, (0.25, 0.75))],
                "peak_mib": high_water(),
                "threads": arguments.threads,
            }
            if arguments.profile:
                row["where_the_time_goes_percent"] = where_the_time_goes(runs[kind])
            print(json.dumps(row), flush=True)
            found.append(row)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
