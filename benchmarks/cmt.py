"""CMT's kept encodings, query encoding and decoding, raced against plain forms and a peer.

    python benchmarks/cmt.py [--threads 1] [--rounds 9] [--output FILE.json]

- image encoding: positions of 6 x 20 x 50 image tokens; `detect` keeps them, so a second call looks them up.
- camera head: the camera head on these tokens (one decoder layer), positions computed or kept.
- query encoding: 900 queries in 6 views, 64 depths; as one product, or with all positions formed.
- decoding: 300 boxes of 900 queries and 10 classes without NMS; the peer is transformers' post-processing of Deformable
  DETR, which also takes the top 300 of queries x classes, in two dimensions.

One JSON line a race: medians in milliseconds, ratio of the second to the first, its quartiles. Outputs are equal.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repertory.core.files import write_json
from repertory.core.timing import high_water, race
from repertory.papers.cmt.encoding import query_rays
from repertory.papers.cmt.heads import CMTHead, decode, inverted

IMAGE, SIZE = (320, 800), (20, 50)


def cameras() -> torch.Tensor:
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


def line(title: str, contestants: Mapping[str, Callable[[], object]], rounds: int, threads: int) -> dict[str, Any]:
    """One race of two, as a JSON line."""
    times = race(contestants, range(1 + rounds))
    first, second = contestants
    ratios = times[second] / times[first]
    return {
        "race": title,
        **{f"{name}, ms": round(1000 * float(np.median(seconds)), 3) for name, seconds in times.items()},
        "ratio": round(float(np.median(ratios)), 2),
        "quartiles": [round(float(q), 2) for q in np.quantile(ratios, [0.25, 0.75])],
        "peak, MiB": round(high_water(), 1),
        "rounds": rounds,
        "threads": threads,
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    head = CMTHead(lidar=False, layers=1).eval()
    projections = cameras()
    features = torch.rand(1, 6, 256, *SIZE)
    back = inverted(projections)
    kept = head.image_encoding(back, SIZE, IMAGE)
    points = torch.rand(1, 900, 3)
    metres = points * 108 - 54
    ray = head.rv_embedding

    def literal() -> torch.Tensor:
        direction, origin, seen = query_rays(metres, projections, back, IMAGE)
        return torch.where(seen[..., None], ray(ray.positions(direction, origin)), 0.0).sum(1)

    def folded() -> torch.Tensor:
        direction, origin, seen = query_rays(metres, projections, back, IMAGE)
        return ray.embed_sum(direction, origin, seen)

    torch.testing.assert_close(folded(), literal(), rtol=1e-3, atol=1e-4)
    predictions = head(None, features, projections, IMAGE, encoding=kept)
    beyond = (-1e9, -1e9, -1e9, 1e9, 1e9, 1e9)
    races: dict[str, dict[str, Callable[[], object]]] = {
        "image encoding": {
            "kept": lambda: torch.equal(projections, projections) and kept,
            "computed": lambda: head.image_encoding(inverted(projections), SIZE, IMAGE),
        },
        "camera head, one layer": {
            "kept": lambda: head(None, features, projections, IMAGE, encoding=kept),
            "computed": lambda: head(None, features, projections, IMAGE),
        },
        "query encoding": {"one product": folded, "all positions": literal},
    }
    try:
        peer = importlib.import_module("transformers.models.deformable_detr.image_processing_deformable_detr")
        outputs = importlib.import_module("transformers.models.deformable_detr.modeling_deformable_detr")
    except ImportError:
        print(json.dumps({"race": "decoding", "skipped": "transformers is not installed"}))
    else:
        processor = peer.DeformableDetrImageProcessor()
        output = outputs.DeformableDetrObjectDetectionOutput(
            logits=predictions["cls_logits"][-1].contiguous(), pred_boxes=torch.rand(1, 900, 4)
        )
        sizes = torch.tensor([[320, 800]])
        theirs = processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes, top_k=300)
        torch.testing.assert_close(theirs[0]["scores"], decode(predictions, 300, beyond)[0][1])
        races["decoding 300 boxes"] = {
            "ours": lambda: decode(predictions, 300, beyond),
            "peer": lambda: processor.post_process_object_detection(
                output, threshold=0.0, target_sizes=sizes, top_k=300
            ),
        }
    found = []
    for title, contestants in races.items():
        found.append(line(title, contestants, max(7, arguments.rounds), arguments.threads))
        print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
