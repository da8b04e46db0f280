"""L2W-DEN: the meta gradient beside double backward, and the exported early-exiting model beside all exits.

    python benchmarks/l2w_den.py [--threads 1] [--rounds 9] [--half 32] [--archs msdnet_cifar …] [--output FOLDER]
    python benchmarks/l2w_den.py --model my_model/ --data cifar/       # accuracy of the early exits too, and a picture

One JSON line per race. The contestants alternate; `ratio` is the median of the paired ratios ours / peer (below 1: ours
is faster), `spread` its quartiles. Peak memory is that of a process of its own, above what it held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repertory.core import checkpoint
from repertory.core.files import write_json
from repertory.core.timing import high_water, race
from repertory.data import cifar
from repertory.papers.l2w_den import EarlyExit, ExportedEarlyExit, build, export_early
from repertory.papers.l2w_den.pictures import timing_picture
from repertory.papers.l2w_den.protocols import ALWAYS, NEVER
from repertory.papers.l2w_den.weighting import (
    MetaObjective,
    PseudoStep,
    WeightPredictionNetwork,
    confidence,
    meta_gradient,
    meta_gradient_by_double_backward,
    target_shares,
)
from repertory.tasks.images import preprocessing

METHODS: dict[str, Callable[..., Any]] = {"ours": meta_gradient, "peer": meta_gradient_by_double_backward}
TIMED_INDICES = (1, 8, 14, 20, 26, 32, 39)


def meta_step(method: str, arch: str, half: int) -> Callable[[], Any]:
    """One meta gradient with halves of `half` CIFAR images, in the memory format that training uses."""
    torch.manual_seed(0)
    network = build(arch, 100).train().to(memory_format=torch.channels_last)
    exits = len(network.exits)
    x, y = torch.randn(2 * half, 3, 32, 32).to(memory_format=torch.channels_last), torch.arange(2 * half) % 100
    buffers = {name: 0.01 * torch.randn_like(p) for name, p in network.named_parameters()}
    halves = (x[:half], y[:half]), (x[half:], y[half:])
    objective, step = MetaObjective(target_shares(15, exits)), PseudoStep(0.8, 0.9, 1e-4)
    return partial(METHODS[method], network, WeightPredictionNetwork(exits), *halves, objective, step, buffers)


def compared(title: str, ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Medians in seconds, the paired ratio and its quartiles."""
    times = race({"ours": ours, "peer": peer}, range(1 + rounds))
    ratios = times["ours"] / times["peer"]
    return {
        "race": title,
        "ours_seconds": float(np.median(times["ours"])),
        "peer_seconds": float(np.median(times["peer"])),
        "ratio": float(np.median(ratios)),
        "spread": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "threads": torch.get_num_threads(),
    }


def peak_memory(method: str, arch: str, half: int, threads: int) -> float:
    """MiB that two meta gradients take, in a process of their own."""
    one = ["--one", method, "--archs", arch, "--half", str(half), "--threads", str(threads)]
    return float(subprocess.check_output([sys.executable, __file__, *one], text=True).split()[-1])


def print_peak(method: str, arch: str, half: int) -> None:
    """Measure in this process; weights, images and libraries do not count."""
    for warm in METHODS:
        meta_step(warm, "msdnet_mini", 4)()
    work = meta_step(method, arch, half)
    before = high_water()
    work()
    work()
    print(high_water() - before)


def early_exits(rounds: int) -> dict[str, Any]:
    """The exported model on 40 images, one by one: a quarter leave at each exit, and all at the last."""
    torch.manual_seed(0)
    network = build("msdnet_mini", 10).eval()
    x = torch.randn(40, 3, 32, 32)
    with torch.no_grad():
        ranked = confidence(network(x))
    left, thresholds = torch.ones(40, dtype=torch.bool), torch.full((4,), ALWAYS)
    for k in range(3):
        thresholds[k] = ranked[left, k].sort(descending=True).values[9:11].mean()
        left &= ranked[:, k] < thresholds[k]
    with tempfile.TemporaryDirectory() as folder:
        models = {
            name: ExportedEarlyExit(export_early(EarlyExit(network, chosen), Path(folder) / name, 32))
            for name, chosen in (("early", thresholds), ("all", torch.tensor([NEVER] * 3 + [ALWAYS])))
        }
        return compared(
            "exported msdnet_mini, one image at a time: early exits over all exits",
            lambda: [models["early"](x[i : i + 1]) for i in range(40)],
            lambda: [models["all"](x[i : i + 1]) for i in range(40)],
            rounds,
        )


def time_against_accuracy(model_dir: Path, data: Path, images: int, output: Path) -> None:
    """Measured time and accuracy of the exported model at several target shares: one JSON line each, and a picture."""
    model = checkpoint.load(model_dir)
    size = model.pretrained_cfg["input_size"][-1]
    test = cifar.read_cifar(data)[1].with_transform(preprocessing(model))
    samples = [test[i] for i in range(min(images, len(test)))]
    points = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = {0: model.thresholds_for(0), **{i: model.thresholds[i - 1] for i in TIMED_INDICES}}
        for index, thresholds in chosen.items():
            early = ExportedEarlyExit(export_early(EarlyExit(model.network, thresholds), Path(folder) / "early", size))
            right = [int(early(x[None])[0].argmax()) == y for x, y in samples]
            seconds = race({"early": lambda run=early: [run(x[None]) for x, _ in samples]}, range(4))["early"]
            points[index] = 1000 * float(np.median(seconds)) / len(samples), 100 * float(np.mean(right))
            ms, accuracy = points[index]
            print(json.dumps({"target_index": index or "all exits", "ms": ms, "accuracy": accuracy}))
    output.mkdir(parents=True, exist_ok=True)
    whole = points.pop(0)
    timing_picture(list(points.values()), whole).savefig(output / "l2w_den-time-vs-accuracy.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--half", type=int, default=32, help="images in each half of a batch")
    parser.add_argument("--archs", nargs="+", default=["msdnet_cifar", "ranet_cifar"])
    parser.add_argument("--model", type=Path, help="trained model directory")
    parser.add_argument("--data", type=Path, help="CIFAR folder for --model")
    parser.add_argument("--images", type=int, default=200, help="test images for --model")
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print_peak(options.one, options.archs[0], options.half)
        return
    if options.model:
        time_against_accuracy(options.model, options.data, options.images, options.output)
        return

    rounds, lines = max(7, options.rounds), []
    for arch in options.archs:
        ours, peer = (meta_step(method, arch, options.half) for method in METHODS)
        line = compared(f"meta gradient over double backward, {arch}, halves of {options.half}", ours, peer, rounds)
        memory = {name: peak_memory(name, arch, options.half, options.threads) for name in METHODS}
        line |= {f"{name}_peak_mib": mib for name, mib in memory.items()}
        lines.append({**line, "memory_ratio": memory["ours"] / memory["peer"]})
        print(json.dumps(lines[-1]), flush=True)
    lines.append(early_exits(rounds))
    print(json.dumps(lines[-1]))
    if options.output != Path():
        options.output.mkdir(parents=True, exist_ok=True)
        write_json(options.output / "l2w_den.json", lines)


if __name__ == "__main__":
    main()
