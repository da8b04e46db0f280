"""HiTeA's pooled attention beside a plain statement of what the released code does.

    python benchmarks/hitea.py

A contestant is the attention layer of one block of the published MViTv2-B: 16 frames of 224 x 224 pixels, one clip.
Block 0 has 25,089 queries and 1,569 keys, block 2 strides its queries, block 10 stands for the 16 blocks of the widest
stage. The peer follows the described code step by step: logits, terms of relative positions and their sums are whole
tensors. Ours appends the position terms to queries and keys, and never stores the logits. Both give the same values.

- forward; training: forward and backward, of block 10.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.papers.hitea.race import BLOCKS, contestants


def step(run: Callable[[], Tensor]) -> None:
    """Forward and backward."""
    run().square().mean().backward()


def attention(block: int, backward: bool) -> Race:
    runs = contestants(block, torch.Generator().manual_seed(0), backward=backward)
    ours, plain = runs["ours"], runs["plain"]
    torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=1e-5)
    facts = {"places": "{} x {} x {}".format(*BLOCKS[block])}
    if backward:
        return Race(partial(step, ours), {"plain": partial(step, plain)}, facts=facts)
    return Race(ours, {"plain": plain}, memory=block == 2, facts=facts)


if __name__ == "__main__":
    bench(
        __doc__,
        {
            **{f"forward, block {block}": partial(attention, block, backward=False) for block in BLOCKS},
            "training, block 10": partial(attention, 10, backward=True),
        },
    )
