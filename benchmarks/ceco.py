"""A training step with CeCo's branch, raced against the same step without it; and inference.

    python benchmarks/ceco.py [--threads 1] [--rounds 9] [--output FILE.json]

A step is forward, losses and backward of a batch, the optimizer left out. Networks: the sample's at 48 pixels (batch
12, 20 classes), UPerNet with ResNet-18 and torchvision's DeepLabv3 on MobileNetV3 at 64 pixels (batch 2, 150 classes).
"literal" is the branch as the authors compute it: the map is reduced, upsampled to the labels and averaged. One JSON
line a race: medians in milliseconds, the ratio to the step without branch (1.15: 15 % slower), its quartiles, MiB that
each adds to the peak memory. Both forms of the branch give the same loss, which is checked first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repertory.core.files import write_json
from repertory.core.timing import high_water, race
from repertory.papers.ceco import CeCoLoss, CeCoNet
from repertory.papers.ceco.hosts import DEEPLABS

NETWORKS: dict[str, tuple[str, int, int, int]] = {
    "sample's network": ("mini", 12, 48, 20),
    "UPerNet, ResNet-18": ("resnet18", 2, 64, 150),
    "DeepLabv3, MobileNetV3": (DEEPLABS[0], 2, 64, 150),
}
"""Title -> network, batch, side of the images, classes."""


class Literal(CeCoLoss):
    """The branch on the upsampled map."""

    def centres(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert self.reduce is not None
        assert self.norm is not None
        x = self.norm(self.reduce(features))
        x = F.interpolate(x, labels.shape[-2:], mode="bilinear", align_corners=True).movedim(1, -1).flatten(0, -2)
        flat = labels.flatten()
        count = torch.bincount(flat, minlength=self.num_classes)
        return x.new_zeros(self.num_classes, x.shape[1]).index_add(0, flat, x) / count.clamp(min=1)[:, None], count


def blobs(images: int, side: int, classes: int) -> Tensor:
    """Labels (B, side, side) in blobs of 8 pixels."""
    return torch.randint(classes, (images, side // 8, side // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)


def step(network: CeCoNet, images: Tensor, labels: Tensor) -> None:
    """Forward, losses and backward."""
    network(images, labels)["loss"].backward()
    for parameter in network.parameters():
        parameter.grad = None


def line(
    title: str, contestants: Mapping[str, Callable[[], object]], base: str, rounds: int, threads: int
) -> dict[str, Any]:
    """One race, as a JSON line."""
    start, peaks = high_water(), dict[str, float]()
    for name, run in contestants.items():
        run()
        peaks[name] = high_water() - start
    times = race(contestants, range(1 + rounds))
    slower = {name: times[name] / times[base] for name in contestants if name != base}
    return {
        "race": title,
        **{f"{name}, ms": round(1000 * float(np.median(seconds)), 2) for name, seconds in times.items()},
        "ratio": {name: round(float(np.median(ratios)), 3) for name, ratios in slower.items()},
        "quartiles": {
            name: [round(float(q), 3) for q in np.quantile(ratios, [0.25, 0.75])] for name, ratios in slower.items()
        },
        "peak, MiB": {name: round(value, 1) for name, value in peaks.items()},
        "rounds": rounds,
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = max(7, arguments.rounds)
    found: list[dict[str, Any]] = []
    for title, (arch, batch, side, classes) in NETWORKS.items():
        torch.manual_seed(0)
        images, labels = torch.rand(batch, 3, side, side), blobs(batch, side, classes)
        networks = {name: CeCoNet(arch, classes, options) for name, options in (("plain", None), ("ceco", {}))}
        networks["literal"] = CeCoNet(arch, classes, {})
        literal = Literal(classes, networks["literal"].host.num_features)
        branch = networks["ceco"].branch
        assert branch is not None
        literal.load_state_dict(branch.state_dict())
        networks["literal"].branch = literal
        branch.dropout.p = literal.dropout.p = 0.0
        features = torch.rand(batch, networks["ceco"].host.num_features, side // 4, side // 4)
        losses = [one(features, labels) for one in (branch, literal)]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
        training = {name: partial(step, network, images, labels) for name, network in networks.items()}
        found.append(line(f"training step, {title}", training, "plain", rounds, arguments.threads))
        print(json.dumps(found[-1]), flush=True)
        inference = {name: partial(torch.inference_mode()(networks[name].eval()), images) for name in ("plain", "ceco")}
        found.append(line(f"inference, {title}", inference, "plain", rounds, arguments.threads))
        print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
