"""What references cost beside Mask2Former.

    python benchmarks/reft.py

One image of 192 pixels, ResNet-50, supports of 20 classes.

- inference, training step: with references whose supports are encoded beforehand, as they are after fine-tuning; the
  step is forward, losses, backward. Peer: the same network without references.
- kept supports: inference as above. Peer: supports are encoded on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.papers.reft import RefT, Supports
from repertory.papers.reft.episodes import SupportSet

CLASSES, SHOTS, SIZE, SUPPORT_SIZE, OBJECTS = 20, 1, 192, 64, 4
FACTS = {"size": SIZE, "classes": CLASSES, "shots": SHOTS}
GOAL = 0.83
"""References may add a fifth to Mask2Former's time."""


def network(**parts: Any) -> RefT:
    return RefT([f"class {k}" for k in range(CLASSES)], "r50", **parts)


def support_set() -> SupportSet:
    """Random supports with a square object each."""
    labels = torch.arange(CLASSES).repeat_interleave(SHOTS)
    masks = torch.zeros(len(labels), 1, SUPPORT_SIZE, SUPPORT_SIZE)
    masks[..., 16:32, 16:32] = 1
    return SupportSet(torch.rand(len(labels), 3, SUPPORT_SIZE, SUPPORT_SIZE), masks, labels)


def inferring(model: RefT, image: Tensor, supports: Supports | None) -> Callable[[], object]:
    return torch.inference_mode()(lambda: model.eval()(image, supports))


def training(model: RefT, image: Tensor, supports: Supports | None) -> Callable[[], None]:
    masks = torch.zeros(OBJECTS, SIZE, SIZE)
    masks[:, : SIZE // 2, : SIZE // 3] = 1
    labels = torch.arange(OBJECTS) % CLASSES

    def run() -> None:
        model.train()
        model.losses(model(image, supports), [masks], [labels])["loss"].backward()
        model.zero_grad()

    return run


def references(doing: Callable[[RefT, Tensor, Supports | None], Callable[[], object]]) -> Race:
    ours, plain, image = network(), network(mdw=False, loq=False), torch.rand(1, 3, SIZE, SIZE)
    supports = ours.eval().encode_all(*support_set())
    peers = {"Mask2Former": doing(plain, image, None)}
    return Race(doing(ours, image, supports), peers, goal=GOAL, memory=doing is training, facts=FACTS)


def kept_supports() -> Race:
    model, image, given = network().eval(), torch.rand(1, 3, SIZE, SIZE), support_set()
    encoding: Callable[[], Any] = torch.inference_mode()(lambda: model(image, model.encode_all(*given)))
    inference: Callable[[], Any] = inferring(model, image, model.encode_all(*given))
    torch.testing.assert_close(inference(), encoding())
    return Race(inference, {"encoded on the way": encoding}, memory=False, facts=FACTS)


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "inference": partial(references, inferring),
            "training step": partial(references, training),
            "kept supports": kept_supports,
        },
    )
