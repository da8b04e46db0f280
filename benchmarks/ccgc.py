"""CCGC's hot spots beside straightforward versions and scikit-learn.

    python benchmarks/ccgc.py [--threads 1] [--pairs 15] [--output FILE.json]

A ratio is measured in one run: ours and the other take turns, and the median of the paired ratios counts (above 1:
ours is faster). Sizes are those of BAT and Cora; the points are random, with K loose groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from repertory.core.files import write_json
from repertory.core.timing import race, ratio
from repertory.papers.ccgc import CCGC, kmeans, warmup_loss
from repertory.papers.ccgc.loop import confident_members, guided_loss
from repertory.papers.ccgc.settings import SETTINGS, CCGCConfig

HIDDEN = 500
SIZES = ("bat", "cora")


def straightforward_kmeans(points: Tensor, centres: Tensor) -> Tensor:
    """Lloyd's algorithm over an n × K × d tensor of differences, with the stopping rule of the paper's code."""
    while True:
        labels = (points[:, None] - centres[None]).square().sum(dim=2).argmin(dim=1)
        moved = torch.stack([points[labels == k].mean(dim=0) for k in range(len(centres))])
        if (moved - centres).norm(dim=1).sum() ** 2 < 1e-4:
            return labels
        centres = moved


def straightforward_warmup(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared error against an n × n identity."""
    return F.mse_loss(z1 @ z2.T, torch.eye(len(z1)))


def compare(ours: Callable[[], object], other: Callable[[], object], pairs: int) -> dict[str, float]:
    """Medians of the times in milliseconds, and of the paired ratios."""
    times = race({"ours": ours, "other": other}, range(1 + pairs))
    medians = {f"{name}_ms": 1e3 * float(np.median(taken)) for name, taken in times.items()}
    return {**medians, "ratio": ratio(times, "ours", "other")}


def points_of(n: int, clusters: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(clusters, HIDDEN, generator=generator)[torch.arange(n) % clusters]
    return F.normalize(groups + 1.5 * torch.randn(n, HIDDEN, generator=generator), dim=1)


def backward(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Callable[[], None]:
    def work() -> None:
        leaf = z.clone().requires_grad_()
        loss(leaf, leaf.flip(0)).backward()

    return work


def epoch(data: str, stage: str) -> Callable[[], None]:
    """One step of training: forward, loss, backward, Adam."""
    known, config = SETTINGS[data], CCGCConfig(seeds=1)
    x = torch.randn(known.nodes, known.features, generator=torch.Generator().manual_seed(0))
    encoder = CCGC(known.features, HIDDEN)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=known.lr, fused=True)
    generator = torch.Generator().manual_seed(0)
    members = confident_members(kmeans(points_of(known.nodes, known.clusters), known.clusters, generator), config)
    assert members is not None
    nodes, labels = members

    def work() -> None:
        z1, z2 = encoder(x)
        if stage == "guided":
            loss = guided_loss(z1, z2, nodes, labels, known.clusters, config, generator)
        else:
            loss = warmup_loss(z1, z2)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work


def races(data: str, pairs: int) -> dict[str, dict[str, float]]:
    """K-means and the warm-up loss at the size of one data set."""
    known = SETTINGS[data]
    points = points_of(known.nodes, known.clusters)
    start = points[: known.clusters]
    array, first = points.double().numpy(), start.double().numpy()
    sklearn_kmeans: Any = KMeans  # its annotations admit neither an array as init nor a number as n_init
    peer = sklearn_kmeans(known.clusters, init=first, n_init=1, algorithm="lloyd", tol=1e-6)

    def ours() -> object:
        return kmeans(points, len(start), centres=start)

    return {
        f"K-means, {data}: straightforward": compare(ours, lambda: straightforward_kmeans(points, start), pairs),
        f"K-means, {data}: scikit-learn": compare(ours, lambda: peer.fit(array), pairs),
        f"warm-up loss and gradient, {data}: straightforward": compare(
            backward(warmup_loss, points), backward(straightforward_warmup, points), pairs
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of CCGC's hot spots")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    results: dict[str, dict[str, float]] = {}
    for data in SIZES:
        results |= races(data, options.pairs)
        for stage in ("warm-up", "guided"):
            step = epoch(data, stage)
            times = race({"ours": step}, range(1 + options.pairs))
            results[f"epoch, {data}, {stage}"] = {"ours_ms": 1e3 * float(np.median(times["ours"]))}
    for name, result in results.items():
        other = f"{result['other_ms']:9.2f} ms   ratio {result['ratio']:5.2f}" if "ratio" in result else ""
        print(f"{name:54s} {result['ours_ms']:9.2f} ms {other}")
    if options.output:
        write_json(options.output, {"threads": options.threads, "torch": torch.__version__, "results": results})


if __name__ == "__main__":
    main()
