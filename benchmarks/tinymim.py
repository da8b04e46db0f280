"""A pre-training step of TinyMIM compared with a forward pass of timm's teacher plus a training step of timm's student.

    python benchmarks/tinymim.py [--threads 1] [--batch 4] [--rounds 7] [--pairs base-small] [--output FILE.json]

Contestants alternate on one batch of 224-pixel images; results are medians of the paired ratios, time of ours over time
of the peers (below 1: ours is faster). Ours: the teacher up to its target block, the student, KL of two relations,
backward, AdamW. The peers: timm's whole teacher without gradients, or timm's teacher cut behind the same block; and
timm's student with a mean-square loss of its output, backward, AdamW. One JSON line a race. Before the race the
relations of ours are compared with the softmax of timm's own q, k and v.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio, where_the_time_goes
from repertory.papers.tinymim import Distillation, Teacher, TinyMIM, relations
from repertory.papers.tinymim.model import TEACHERS, VARIANTS, default_block

TIMM = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
}


def check_relations(x: Tensor) -> None:
    """Ours, against timm's network with the same weights, head by head."""
    ours = TinyMIM(**TEACHERS["small"]).eval()
    theirs: Any = timm.create_model(TIMM["small"], num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict())
    seen: list[Tensor] = []
    theirs.blocks[-1].attn.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        theirs(x)
        q, k, v = seen[0].unflatten(-1, (3, 6, 64)).permute(2, 0, 3, 1, 4)
        expected = [(a @ b.mT / 8).softmax(-1) for a, b in ((q, k), (v, v))]
        for found, one in zip(relations(ours, x, 12), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def contestants(teacher_name: str, student_name: str, x: Tensor) -> dict[str, Callable[[], object]]:
    """The three parts of the race; they share no network."""
    depth = TEACHERS[teacher_name]["depth"]
    block = default_block(depth, VARIANTS[student_name]["depth"])
    teacher = Teacher(TinyMIM(**TEACHERS[teacher_name]), block)
    ours = Distillation(TinyMIM(**VARIANTS[student_name]), teacher, drop_path=0).train()
    our_optimizer = optimizer_of(ours)

    whole: Any = timm.create_model(TIMM[teacher_name], num_classes=0).eval()
    cut: Any = timm.create_model(TIMM[teacher_name], num_classes=0, depth=block).eval()
    theirs: Any = timm.create_model(TIMM[student_name], num_classes=0).train()
    their_optimizer = optimizer_of(theirs)

    def step() -> None:
        our_optimizer.zero_grad()
        ours(x, teacher(x))["loss"].backward()
        our_optimizer.step()

    def student_step() -> None:
        their_optimizer.zero_grad()
        theirs(x).square().mean().backward()
        their_optimizer.step()

    def forward(network: nn.Module) -> None:
        with torch.no_grad():
            network(x)

    return {
        "ours": step,
        "timm's teacher": partial(forward, whole),
        "timm's teacher, cut": partial(forward, cut),
        "timm's student": student_step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7, help="pairs that count; at least 7")
    parser.add_argument("--pairs", nargs="+", default=["base-small"], help="teacher-student: large-base, small-tiny, …")
    parser.add_argument("--profile", action="store_true", help="add the operators in which the time goes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    x = torch.randn(arguments.batch, 3, 224, 224)
    check_relations(x[:1])
    found = []
    for pair in arguments.pairs:
        teacher, student = pair.split("-")
        runs = contestants(teacher, student, x)
        times = race(runs, range(1 + max(7, arguments.rounds)))
        times["peers"] = times["timm's teacher"] + times["timm's student"]
        times["peers, cut"] = times["timm's teacher, cut"] + times["timm's student"]
        ratios = times["ours"] / times["peers"]
        row: dict[str, Any] = {
            "race": f"pre-training step, {teacher} to {student}",
            "ours_s": float(np.median(times["ours"])),
            "teacher_s": float(np.median(times["timm's teacher"])),
            "student_step_s": float(np.median(times["timm's student"])),
            "ours_over_peers": 1 / ratio(times, "ours", "peers"),
            "ours_over_peers_with_cut_teacher": 1 / ratio(times, "ours", "peers, cut"),
            "spread": [float(value) for value in np.quantile(ratios, (0.25, 0.75))],
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
