"""What RefT's references cost beside Mask2Former: inference, a training step, and the encoding of supports.

    python benchmarks/reft.py [--variant r50] [--size 256] [--classes 20] [--shots 5] [--rounds 9] [--output FILE.json]

The same network with and without references, in turn; supports are encoded beforehand, as they are after fine-tuning.
One JSON line a race: seconds of ours (with references) and of the peer (without), the ratio peer / ours and its spread,
"added" as the share of the peer's time that the references add, threads, peak memory.

    inference       forward of one image
    training step   forward, losses and backward of one image
    encoded         inference with kept supports against encoding a support set of the same size on the way
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from repertory.core.files import write_json
from repertory.core.timing import race_line
from repertory.papers.reft import VARIANTS, RefT, Supports
from repertory.papers.reft.episodes import SupportSet

OBJECTS = 4
"""Objects of the image in a training step."""


def support_set(classes: int, shots: int, size: int) -> SupportSet:
    """Random supports with a square object each."""
    labels = torch.arange(classes).repeat_interleave(shots)
    masks = torch.zeros(len(labels), 1, size, size)
    masks[..., size // 4 : size // 2, size // 4 : size // 2] = 1
    return SupportSet(torch.rand(len(labels), 3, size, size), masks, labels)


def infer(model: RefT, image: torch.Tensor, supports: Supports | None) -> Callable[[], None]:
    def run() -> None:
        model.eval()
        with torch.inference_mode():
            model(image, supports)

    return run


def train(model: RefT, image: torch.Tensor, supports: Supports | None) -> Callable[[], None]:
    masks = torch.zeros(OBJECTS, *image.shape[2:])
    masks[:, : image.shape[2] // 2, : image.shape[3] // 3] = 1
    labels = torch.arange(OBJECTS) % len(model.classes)

    def run() -> None:
        model.train()
        model.losses(model(image, supports), [masks], [labels])["loss"].backward()
        model.zero_grad()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="r50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    names = [f"class {k}" for k in range(arguments.classes)]
    model, plain = RefT(names, arguments.variant), RefT(names, arguments.variant, mdw=False, loq=False)
    image = torch.rand(1, 3, arguments.size, arguments.size)
    given = support_set(arguments.classes, arguments.shots, max(64, arguments.size // 4))
    supports = model.eval().encode_all(*given)

    def encoding() -> None:
        model.eval()
        with torch.inference_mode():
            model(image, model.encode_all(*given))

    races = {
        "inference": (infer(model, image, supports), infer(plain, image, None)),
        "training step": (train(model, image, supports), train(plain, image, None)),
        "encoded": (infer(model, image, supports), encoding),
    }
    found = []
    for name, (ours, peer) in races.items():
        line = race_line(f"{name}, {arguments.variant}, {arguments.size} pixels", ours, peer, arguments.rounds)
        line |= {"added": round(line["ours_s"] / line["peer_s"] - 1, 3)}
        print(json.dumps(line), flush=True)
        found.append(line)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
