"""Speed of a pre-training step.

    python benchmarks/tinymim.py

224-pixel images. Ours: the teacher up to its target block, the student, KL of two relations, backward, AdamW. Peers: a
forward pass of timm's teacher plus a training step of timm's student with a mean-square loss of its output; the teacher
whole, or cut behind the same block. Ours may take 25 % longer. The relations of ours are compared with the softmax of
timm's own q, k and v.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from repertory.core.bench import Race, bench
from repertory.papers.tinymim import Distillation, Teacher, TinyMIM, relations
from repertory.papers.tinymim.model import TEACHERS, VARIANTS, default_block

TIMM = {size: f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
GOAL = 0.8


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


def their_step(teacher_name: str, student_name: str, depth: int, x: Tensor) -> Callable[[], None]:
    """timm's teacher of so many blocks, without gradients; timm's student, backward, AdamW."""
    teacher: Any = timm.create_model(TIMM[teacher_name], num_classes=0, depth=depth).eval()
    student: Any = timm.create_model(TIMM[student_name], num_classes=0).train()
    optimizer = optimizer_of(student)

    def step() -> None:
        with torch.no_grad():
            teacher(x)
        optimizer.zero_grad()
        student(x).square().mean().backward()
        optimizer.step()

    return step


def step(teacher_name: str, student_name: str, batch: int) -> Race:
    x = torch.randn(batch, 3, 224, 224)
    check_relations(x[:1])
    depth = TEACHERS[teacher_name]["depth"]
    block = default_block(depth, VARIANTS[student_name]["depth"])
    teacher = Teacher(TinyMIM(**TEACHERS[teacher_name]), block)
    model = Distillation(TinyMIM(**VARIANTS[student_name]), teacher, drop_path=0).train()
    optimizer = optimizer_of(model)

    def ours() -> None:
        optimizer.zero_grad()
        model(x, teacher(x))["loss"].backward()
        optimizer.step()

    depths = {"timm, whole teacher": depth, "timm, teacher cut": block}
    peers = {name: their_step(teacher_name, student_name, blocks, x) for name, blocks in depths.items()}
    return Race(ours, peers, goal=GOAL, memory=False, facts={"batch": batch, "block": block})


if __name__ == "__main__":
    bench(
        __doc__,
        {"base to small": partial(step, "base", "small", 1), "small to tiny": partial(step, "small", "tiny", 2)},
    )
