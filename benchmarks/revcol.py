"""RevCol compared with timm's ConvNeXt of similar multiply-accumulates; reversible compared with plain training.

    python benchmarks/revcol.py [--threads 1] [--batch 8] [--rounds 7] [--parts speed memory] [--output FILE.json]

Speed: contestants alternate on one batch of 224-pixel images, inference and a training step (forward and backward, no
optimizer); results are medians of the paired ratios (above 1: ours is faster). RevCol and its ConvNeXt have similar
multiply-accumulates: T 4.5 G and T 4.5 G, S 9.0 G and S 8.7 G, B 16.6 G and B 15.4 G.

Memory: peak of a new process that runs one training step of T-wide columns, minus the memory after building the model
and allocating its gradients; it includes buffers inside kernels. Blocks above 64 kB get their own mapping (glibc's
MALLOC_MMAP_THRESHOLD_): otherwise heap fragmentation, which grows with the number of gradients (75 MB per column,
reversible), is measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio, where_the_time_goes
from repertory.papers.revcol import VARIANTS, RevCol

PAIRS = {"revcol_tiny": "convnext_tiny", "revcol_small": "convnext_small", "revcol_base": "convnext_base"}
COLUMNS = (2, 4, 8, 16)


def training_step(model: nn.Module, x: Tensor) -> None:
    """Forward and backward pass, with newly allocated gradients."""
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), torch.arange(len(x))).backward()


def speed(ours: str, x: Tensor, rounds: int) -> dict[str, float]:
    """Speed of one size relative to its peer, and of reversible relative to plain training."""
    peer = PAIRS[ours]
    plain, theirs = timm.create_model(ours, reversible=False), timm.create_model(peer)
    with torch.inference_mode():
        contestants = {name: partial(model.eval(), x) for name, model in ((ours, plain), (peer, theirs))}
        inference = race(contestants, range(1 + rounds))
    reversible = timm.create_model(ours)
    steps: dict[str, Callable[[], object]] = {
        name: partial(training_step, model.train(), x)
        for name, model in (("plain", plain), ("reversible", reversible), (peer, theirs))
    }
    training = race(steps, range(1 + rounds))
    return {
        f"{ours}, inference, s": float(np.median(inference[ours])),
        f"{peer}, inference, s": float(np.median(inference[peer])),
        f"{ours} over {peer}, inference": ratio(inference, ours, peer),
        f"{ours} plain, training step, s": float(np.median(training["plain"])),
        f"{ours} reversible, training step, s": float(np.median(training["reversible"])),
        f"{peer}, training step, s": float(np.median(training[peer])),
        f"{ours} plain over {peer}, training": ratio(training, "plain", peer),
        f"{ours} reversible over {peer}, training": ratio(training, "reversible", peer),
        f"{ours} reversible over plain, training": ratio(training, "reversible", "plain"),
    }


def peak_here(columns: int, reversible: bool, batch: int) -> float:
    """MB that a training step needs beyond weights and gradients; call it in a new process."""
    model = RevCol(**{**VARIANTS["revcol_tiny"], "columns": columns}, reversible=reversible).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = high_water()
    model.zero_grad(set_to_none=True)  # frees the memory that the gradients of the step will use
    F.cross_entropy(model(torch.randn(batch, 3, 224, 224)), torch.arange(batch)).backward()
    return high_water() - before


def memory(batch: int) -> dict[str, float]:
    """Peak memory of plain and reversible training against columns."""
    found: dict[str, float] = {}
    for columns in COLUMNS:
        for name in ("plain", "reversible"):
            words = [sys.executable, __file__, "--peak", str(columns), name, "--batch", str(batch)]
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
            done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
            found[f"{name}, {columns} columns, MB"] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="pairs that count; at least 7")
    parser.add_argument("--models", nargs="+", default=["revcol_tiny", "revcol_small"], choices=list(PAIRS))
    parser.add_argument("--parts", nargs="+", default=["speed", "memory"], choices=["speed", "memory"])
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.peak:
        columns, name = arguments.peak
        print(peak_here(int(columns), name == "reversible", arguments.batch))
        return

    found: dict[str, dict[str, float]] = {}
    if "speed" in arguments.parts:
        x = torch.randn(arguments.batch, 3, 224, 224)
        for ours in arguments.models:
            found[ours] = speed(ours, x, max(7, arguments.rounds))
        for name in ("revcol_tiny", PAIRS["revcol_tiny"]):
            model = timm.create_model(name).eval()
            with torch.inference_mode():
                found[f"where the time of {name} goes, inference, %"] = where_the_time_goes(partial(model, x))
        step = partial(training_step, timm.create_model("revcol_tiny").train(), x)
        found["where the time of a reversible step goes, %"] = where_the_time_goes(step)
    if "memory" in arguments.parts:
        found["peak beyond weights and gradients"] = memory(arguments.batch)
    print(f"batch {arguments.batch}, 224 pixels, {arguments.threads} thread(s)")
    for title, rows in found.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:52s} {value:8.2f}")
    if arguments.output:
        write_json(arguments.output, {"threads": arguments.threads, "batch": arguments.batch, **found})


if __name__ == "__main__":
    main()
