"""Trigger and image updates of DOORPING beside the loops that the authors' code is described to have.

    python benchmarks/doorping.py

- trigger: 100 steps of a trigger update, of at most 1000. Peer: a loop that registers a new hook in each step, runs the
  whole network, and takes the gradients of all weights.
- matching: one step of gradient matching on 10 classes; mini with the sample's numbers of images, convnet with 10
  distilled images of each class (as published) and 16 real ones (published: 256). Peer: class by class, gradients of
  all weights.

Results are compared before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from repertory.core.bench import Race, bench
from repertory.papers.doorping.networks import network
from repertory.papers.doorping.race import CLASSES, SHAPES, STEPS, contestants, matching_loop, matching_step


def trigger(name: str) -> Race:
    runs: dict[str, Any] = contestants(name)
    ours, loop = runs["trigger"], runs["trigger_loop"]
    torch.testing.assert_close(ours()[0], loop(), rtol=1e-2, atol=1e-2)  # after 100 steps
    return Race(ours, {"loop": loop}, memory=name == "convnet", facts={"steps": STEPS})


def matching(name: str, real_count: int, distilled: int) -> Race:
    channels, size, *_ = SHAPES[name]
    net = network(name, CLASSES, channels, size)
    real = [torch.randn(real_count, channels, size, size) for _ in range(CLASSES)]
    images = torch.randn(CLASSES, distilled, channels, size, size).requires_grad_()
    ours, loop = (partial(run, net, real, images) for run in (matching_step, matching_loop))
    torch.testing.assert_close(ours(), loop(), rtol=1e-2, atol=1e-4)
    return Race(ours, {"loop": loop}, memory=False, facts={"real images": real_count, "distilled": distilled})


if __name__ == "__main__":
    bench(
        __doc__,
        {
            **{f"trigger, {name}": partial(trigger, name) for name in SHAPES},
            "matching, mini": partial(matching, "mini", 64, 5),
            "matching, convnet": partial(matching, "convnet", 16, 10),
        },
    )
