"""ECA beside timm: whole networks at 224 pixels and single attention layers; and the cost of reading COCO.

    python benchmarks/eca.py

- networks, inference and training (forward and backward, no optimizer): ECA-ResNet-50, 2 images in inference and 1 in
  training. Peers: timm's resnet50 with its ECA, with its SE, and without attention, which has less to do.
  ECA-MobileNetV2, 4 images. Peer: timm's mobilenetv2_100, which has no attention.
- fused: batch norms folded into the convolutions by `fuse`. Peers: timm's networks, which have no such form.
- layer: our ECA on the outputs of ResNet-50's first and last stage, forward and backward. Peer: timm's EcaModule, with
  the same weights and outputs.
- growth, COCO: reading a file of boxes.
- COCO: the same at 40,000 annotations, without masks and with. Peer: pycocotools, which checks nothing.

Networks have other weights than timm's; their outputs are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import EcaModule
from torch import Tensor, nn

from repertory.core.bench import Growth, Race, Run, bench, scratch
from repertory.core.problem import require
from repertory.data import coco
from repertory.papers.eca import channel_attention, network

PEERS: dict[str, dict[str, dict[str, Any]]] = {
    "resnet50": {"with ECA": {"block_args": {"attn_layer": "eca"}}, "with SE": {"block_args": {"attn_layer": "se"}},
                 "without attention": {}},
    "mobilenetv2_100": {"without attention": {}},
}  # fmt: skip
"""Network of timm -> what its contestants are called -> settings."""
OURS = {"resnet50": "eca_resnet50", "mobilenetv2_100": "eca_mobilenet_v2"}


def inference(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def training(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    out.sum().backward()
    return out.detach()


def networks(name: str, work: Callable[[nn.Module, Tensor], Tensor], batch: int, fused: bool = False) -> Race:
    x = torch.randn(batch, 3, 224, 224)
    ours: Any = network(OURS[name]).train(work is training)
    theirs = {title: timm.create_model(name, **settings) for title, settings in PEERS[name].items()}
    return Race(
        partial(work, ours.fuse() if fused else ours, x),
        {f"timm's {name} {title}": partial(work, model.train(work is training), x) for title, model in theirs.items()},
        memory=False,
        facts={"batch": batch},
    )


def layer(channels: int, size: int) -> Race:
    x = torch.randn(8, channels, size, size, requires_grad=True)
    ours, theirs = channel_attention("eca", channels), EcaModule(channels)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    torch.testing.assert_close(ours(x), theirs(x))
    return Race(
        partial(training, ours, x), {"timm": partial(training, theirs, x)}, memory=size == 56, facts={"batch": 8}
    )


# -- COCO ---------------------------------------------------------------------------------------------


def annotated(count: int) -> Path:
    """A file with boxes and polygons of COCO's size: 7 to an image, 80 categories."""
    rng = np.random.default_rng(0)
    images = max(1, count // 7)
    owner, label = rng.integers(images, size=count).tolist(), rng.integers(80, size=count).tolist()
    boxes = np.round(rng.uniform(1, 200, size=(count, 4)), 2)
    corners = (boxes[:, [0, 1, 0, 1, 0, 1]] + boxes[:, [2, 2, 3, 3, 2, 3]] * [0, 1, 1, 0, 1, 1]).round(2).tolist()
    file = scratch() / "instances_train2017.json"
    content = {
        "images": [{"id": k, "file_name": f"{k:012d}.jpg", "height": 480, "width": 640} for k in range(images)],
        "annotations": [
            {"id": k, "image_id": owner[k], "category_id": label[k], "bbox": box, "area": box[2] * box[3],
             "iscrowd": 0, "segmentation": [corners[k]]}
            for k, box in enumerate(boxes.tolist())
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(80)],
    }  # fmt: skip
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def reading(count: int) -> Run:
    file = annotated(count)
    return lambda: coco.read(file, file.parent)


def beside_pycocotools(masks: bool) -> Race:
    peer = require("pycocotools.coco", "detection").COCO
    file = annotated(40_000)

    def theirs() -> None:
        with redirect_stdout(StringIO()):
            peer(str(file))

    facts = {"annotations": 40_000}
    return Race(lambda: coco.read(file, file.parent, masks), {"pycocotools": theirs}, memory=masks, facts=facts)


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "ResNet-50, inference": partial(networks, "resnet50", inference, 2),
            "ResNet-50, fused": partial(networks, "resnet50", inference, 2, fused=True),
            "ResNet-50, training": partial(networks, "resnet50", training, 1),
            "MobileNetV2, inference": partial(networks, "mobilenetv2_100", inference, 4),
            "MobileNetV2, fused": partial(networks, "mobilenetv2_100", inference, 4, fused=True),
            "MobileNetV2, training": partial(networks, "mobilenetv2_100", training, 4),
            "layer, first stage": partial(layer, 256, 56),
            "layer, last stage": partial(layer, 2048, 7),
            "COCO, boxes": partial(beside_pycocotools, masks=False),
            "COCO, masks": partial(beside_pycocotools, masks=True),
            "growth, COCO": lambda: Growth(reading, (300, 3_000, 30_000, 300_000), "annotations"),
        },
    )
