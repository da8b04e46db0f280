"""A training step of Unlearnable Clusters' generator, compared with the loop that the authors' code describes.

    python benchmarks/unlearnable_clusters.py [--threads 1] [--batch 4] [--rounds 7] [--size 224] [--output FILE.json]

Contestants alternate on one batch of images; results are medians of the paired ratios, time of the peer over time of
ours (above 1: ours is faster). Ours: one pass of the generator for the whole batch, a frozen surrogate, Adam. The
peers: the same step with a surrogate whose weights ask for gradients (`reference`), and one that also runs the
generator once for each image (`per image`). One JSON line a race. Before the race the gradients of all are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio, where_the_time_goes
from repertory.papers.unlearnable_clusters import Generator, Surrogate, centre_loss, perturbation

EPS = 16 / 255


class Step:
    """One step of one contestant, with a generator, a surrogate and an optimizer of its own."""

    def __init__(self, surrogate: str, x: Tensor, target: Tensor, *, frozen: bool, per_image: bool) -> None:
        torch.manual_seed(0)
        self.generator, self.surrogate, self.per_image = Generator(), Surrogate(surrogate), per_image
        self.surrogate.requires_grad_(not frozen)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4, weight_decay=5e-4)
        self.noise = torch.rand(1, 3, *x.shape[2:], generator=torch.Generator().manual_seed(0))
        self.x, self.target = x, target

    def backward(self) -> None:
        self.generator.zero_grad()
        self.surrogate.zero_grad()
        one = [perturbation(self.generator, self.noise, EPS) for _ in range(len(self.x) if self.per_image else 1)]
        features = self.surrogate((self.x + torch.cat(one)).clamp(0, 1))
        centre_loss(features, self.target).backward()

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()

    def gradient(self) -> Tensor:
        self.backward()
        return torch.cat([p.grad.flatten() for p in self.generator.parameters() if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7, help="pairs that count; at least 7")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--surrogates", nargs="+", default=["rn50"], help="rn50, clip_rn50, …")
    parser.add_argument("--profile", action="store_true", help="add the operators in which the time goes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    x = torch.rand(arguments.batch, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(1))
    found = []
    for surrogate in arguments.surrogates:
        with torch.no_grad():
            target = Surrogate(surrogate)(x[:1])[0]
        runs: dict[str, Callable[[], Any]] = {
            "ours": Step(surrogate, x, target, frozen=True, per_image=False),
            "reference": Step(surrogate, x, target, frozen=False, per_image=False),
            "per image": Step(surrogate, x, target, frozen=False, per_image=True),
        }
        ours, *others = (step.gradient() for step in runs.values() if isinstance(step, Step))
        for other in others:
            assert (other - ours).norm() <= 1e-3 * ours.norm()
        times = race(runs, range(1 + max(7, arguments.rounds)))
        for peer in ("reference", "per image"):
            row: dict[str, Any] = {
                "race": f"generator step, {surrogate}, {arguments.size} px, against {peer}",
                "ours_s": float(np.median(times["ours"])),
                "peer_s": float(np.median(times[peer])),
                "ratio": ratio(times, "ours", peer),
                "spread": [float(value) for value in np.quantile(times[peer] / times["ours"], (0.25, 0.75))],
                "peak_mib": high_water(),
                "batch": arguments.batch,
                "threads": arguments.threads,
            }
            if arguments.profile:
                row["where_the_time_goes_percent"] = where_the_time_goes(runs["ours"])
            print(json.dumps(row))
            found.append(row)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
