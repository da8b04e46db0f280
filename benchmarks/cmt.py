"""CMT's kept encodings, query encoding and decoding, beside plain forms and transformers.

    python benchmarks/cmt.py

- image encoding: positions of 6 x 20 x 50 image tokens. `detect` keeps them. Peer: computed at every call; no goal, the
  ratio tells what a second frame of the same cameras saves.
- camera head: one decoder layer on these tokens, encodings kept. Peer: encodings computed at every call.
- query encoding: 900 queries in 6 views, 64 depths, as one product. Peer: all positions formed.
- decoding: 300 boxes of 900 queries and 10 classes without NMS. Peer: transformers' post-processing of Deformable DETR,
  which also takes the top 300 of queries x classes, in two dimensions.

Outputs are equal.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.core.problem import require
from repertory.papers.cmt.encoding import query_rays
from repertory.papers.cmt.heads import CMTHead, decode, inverted

IMAGE, SIZE = (320, 800), (20, 50)


def cameras() -> Tensor:
    """(1, 6, 4, 4): six views around the vehicle."""
    found = torch.zeros(1, 6, 4, 4)
    for view in range(6):
        a = 2 * math.pi * view / 6
        intrinsic = torch.tensor([[630.0, 0, 400], [0, 630, 160], [0, 0, 1]])
        turn = torch.tensor([[math.sin(a), -math.cos(a), 0], [0, 0, -1.0], [math.cos(a), math.sin(a), 0]])
        found[0, view, :3, :3] = intrinsic @ turn
        found[0, view, :3, 3] = intrinsic @ torch.tensor([0.0, 0.3, 0.5])
        found[0, view, 3, 3] = 1
    return found


class Scene(NamedTuple):
    """What all races share."""

    head: CMTHead
    projections: Tensor
    back: Tensor
    features: Tensor
    kept: Tensor


@torch.inference_mode()
def scene() -> Scene:
    head, projections = CMTHead(lidar=False, layers=1).eval(), cameras()
    back = inverted(projections)
    return Scene(head, projections, back, torch.rand(1, 6, 256, *SIZE), head.image_encoding(back, SIZE, IMAGE))


def image_encoding() -> Race:
    head, projections, _, _, kept = scene()

    @torch.inference_mode()
    def computed() -> Tensor:
        return head.image_encoding(inverted(projections), SIZE, IMAGE)

    torch.testing.assert_close(kept, computed())
    return Race(lambda: torch.equal(projections, projections) and kept, {"computed": computed}, goal=None, memory=False)


def camera_head() -> Race:
    head, projections, _, features, kept = scene()

    @torch.inference_mode()
    def ours() -> dict[str, Tensor]:
        return head(None, features, projections, IMAGE, encoding=kept)

    @torch.inference_mode()
    def computed() -> dict[str, Tensor]:
        return head(None, features, projections, IMAGE)

    torch.testing.assert_close(ours(), computed())
    return Race(ours, {"computed": computed})


def query_encoding() -> Race:
    head, projections, back, _, _ = scene()
    metres = torch.rand(1, 900, 3) * 108 - 54
    ray = head.rv_embedding

    @torch.inference_mode()
    def folded() -> Tensor:
        return ray.embed_sum(*query_rays(metres, projections, back, IMAGE))

    @torch.inference_mode()
    def literal() -> Tensor:
        direction, origin, seen = query_rays(metres, projections, back, IMAGE)
        return torch.where(seen[..., None], ray(ray.positions(direction, origin)), 0.0).sum(1)

    torch.testing.assert_close(folded(), literal(), rtol=1e-3, atol=1e-4)
    return Race(folded, {"all positions": literal})


def decoding() -> Race:
    name = "transformers.models.deformable_detr"
    processing = require(f"{name}.image_processing_deformable_detr", "language")
    modeling = require(f"{name}.modeling_deformable_detr", "language")
    head, projections, _, features, kept = scene()
    with torch.inference_mode():
        predictions = head(None, features, projections, IMAGE, encoding=kept)
    processor = processing.DeformableDetrImageProcessor()
    output = modeling.DeformableDetrObjectDetectionOutput(
        logits=predictions["cls_logits"][-1].contiguous(), pred_boxes=torch.rand(1, 900, 4)
    )
    sizes, beyond = torch.tensor([IMAGE]), (-1e9, -1e9, -1e9, 1e9, 1e9, 1e9)

    @torch.inference_mode()
    def ours() -> Any:
        return decode(predictions, 300, beyond)

    @torch.inference_mode()
    def theirs() -> Any:
        return processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes, top_k=300)

    torch.testing.assert_close(theirs()[0]["scores"], ours()[0][1])
    return Race(ours, {"Deformable DETR": theirs}, repeat=20, memory=False)


if __name__ == "__main__":
    races = (image_encoding, camera_head, query_encoding, decoding)
    bench(__doc__, {race.__name__.replace("_", " "): race for race in races})
