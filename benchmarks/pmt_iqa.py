"""A training step of PMT-IQA raced against one of the same ResNet in timm.

    python benchmarks/pmt_iqa.py [--threads 1] [--images 2] [--patches 2] [--rounds 9] [--output FILE.json]

Both take the same patches of 224 pixels, forward, backward and a step of Adam. Ours has the branches, the trunk, both
heads and the multi-task loss; the peer is timm's ResNet-50 (or 18) with 10 classes and cross entropy. "loading" races
patches cut from an image that is decoded once against decoding it for every patch, as the authors' readers do. One JSON
line a race: medians in milliseconds, the ratio (above 1: ours is faster), its quartiles, MiB that each adds to the peak
memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio
from repertory.data.images import read_image
from repertory.papers.pmt_iqa import PMTIQA, multi_task_loss
from repertory.papers.pmt_iqa.patches import corners_of, cut, prepared

SIZE, LEVELS = 224, 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOGRAPH = (768, 1024)
"""Height and width of the image in the race of loading: those of KonIQ-10k."""


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[Any], Tensor], x: Tensor) -> None:
    """One training step."""
    loss(model(x)).backward()
    optimizer.step()
    optimizer.zero_grad()


def training_race(backbone: str, images: int, patches: int, rounds: int) -> dict[str, Any]:
    """PMT-IQA and timm's network of the same backbone."""
    x = torch.randn(images * patches, 3, SIZE, SIZE)
    scores = torch.rand(len(x)) * 100
    levels = (scores / 10).long()
    networks: dict[str, tuple[nn.Module, Callable[[Any], Tensor]]] = {
        "ours": (
            PMTIQA(backbone, LEVELS),
            lambda quality: multi_task_loss(quality, scores, levels, (0.5, 0.5))["loss"],
        ),
        "timm": (timm.create_model(backbone, num_classes=LEVELS), lambda logits: F.cross_entropy(logits, levels)),
    }
    steps: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for name, (model, loss) in networks.items():
        start = high_water()
        optimizer = torch.optim.Adam(model.train().parameters(), 1e-4, weight_decay=5e-4)
        steps[name] = partial(step, model, optimizer, loss, x)
        steps[name]()
        peaks[name] = high_water() - start
    return {**raced(f"training step, {backbone}, {len(x)} patches", steps, "timm", rounds), "peak, MiB": peaks}


def loading_race(patches: int, rounds: int) -> dict[str, Any]:
    """Patches of one photograph: decoded once, or for each patch."""
    pixels = np.random.default_rng(0).integers(0, 256, (*(length // 8 for length in PHOTOGRAPH), 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photograph.jpg"
        height, width = PHOTOGRAPH
        Image.fromarray(pixels).resize((width, height)).save(path, quality=90)

        def patches_of(count: int) -> Tensor:
            image = prepared(read_image(path), SIZE)
            return cut(image, corners_of(image, SIZE, count, "random"), SIZE, MEAN, STD)

        contestants = {
            "ours": partial(patches_of, patches),
            "once per patch": lambda: [patches_of(1) for _ in range(patches)],
        }
        return raced(
            f"loading, {patches} patches of {PHOTOGRAPH[1]} x {PHOTOGRAPH[0]}", contestants, "once per patch", rounds
        )


def raced(title: str, contestants: Mapping[str, Callable[[], object]], peer: str, rounds: int) -> dict[str, Any]:
    """One race, as a JSON line."""
    times = race(contestants, range(1 + rounds))
    speeds = times[peer] / times["ours"]
    return {
        "race": title,
        **{f"{name}, ms": round(1000 * float(np.median(seconds)), 2) for name, seconds in times.items()},
        "ratio": round(ratio(times, "ours", peer), 3),
        "quartiles": [round(float(q), 3) for q in np.quantile(speeds, [0.25, 0.75])],
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--patches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rounds = max(7, arguments.rounds)
    found = []
    for backbone in arguments.backbones:
        found.append(training_race(backbone, arguments.images, arguments.patches, rounds))
        print(json.dumps(found[-1]), flush=True)
    found.append(loading_race(4, rounds))
    print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
