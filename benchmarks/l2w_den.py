"""L2W-DEN: the meta gradient beside double backward, and the exported early-exiting model beside all exits.

    python benchmarks/l2w_den.py

- meta gradient: halves of 8 CIFAR images, in the memory format that training uses. Peer: double backward, which gives
  the same gradient.
- early exits: the exported model on 40 images, one by one; a quarter leave at each exit. Peer: all leave at the last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from repertory.core.bench import Race, bench, scratch
from repertory.papers.l2w_den import EarlyExit, ExportedEarlyExit, build, export_early
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

HALF = 8


def meta(arch: str) -> Race:
    network = build(arch, 100).train().to(memory_format=torch.channels_last)
    exits = len(network.exits)
    x = torch.randn(2 * HALF, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.arange(2 * HALF) % 100
    buffers = {name: 0.01 * torch.randn_like(p) for name, p in network.named_parameters()}
    halves = (x[:HALF], y[:HALF]), (x[HALF:], y[HALF:])
    objective, step = MetaObjective(target_shares(15, exits)), PseudoStep(0.8, 0.9, 1e-4)
    weights = WeightPredictionNetwork(exits)
    ours, peer = (
        partial(method, network, weights, *halves, objective, step, buffers)
        for method in (meta_gradient, meta_gradient_by_double_backward)
    )
    torch.testing.assert_close(ours(), peer(), rtol=1e-2, atol=1e-5)
    return Race(ours, {"double backward": peer}, facts={"half": HALF})


def early_exits() -> Race:
    network = build("msdnet_mini", 10).eval()
    x = torch.randn(40, 3, 32, 32)
    with torch.inference_mode():
        ranked = confidence(network(x))
    left, thresholds = torch.ones(40, dtype=torch.bool), torch.full((4,), ALWAYS)
    for k in range(3):
        thresholds[k] = ranked[left, k].sort(descending=True).values[9:11].mean()
        left &= ranked[:, k] < thresholds[k]

    def exported(name: str, chosen: torch.Tensor) -> Callable[[], list[Any]]:
        model = ExportedEarlyExit(export_early(EarlyExit(network, chosen), scratch() / name, 32))
        return lambda: [model(x[i : i + 1]) for i in range(40)]

    all_exits = exported("all", torch.tensor([NEVER] * 3 + [ALWAYS]))
    return Race(exported("early", thresholds), {"all exits": all_exits}, memory=False, facts={"images": 40})


if __name__ == "__main__":
    archs = {f"meta gradient, {arch}": partial(meta, arch) for arch in ("msdnet_cifar", "ranet_cifar")}
    bench(__doc__, {**archs, "early exits": early_exits})
