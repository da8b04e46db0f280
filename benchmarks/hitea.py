"""HiTeA's pooled attention, raced against a plain statement of what the released code does.

    python benchmarks/hitea.py [--threads 1] [--blocks 0 2 10] [--rounds 9] [--backward] [--output FILE.json]

A contestant is the attention layer of one block of the published MViTv2-B: 16 frames of 224 x 224 pixels, one clip.
Block 0 has 25,089 queries and 1,569 keys, block 2 strides its queries, block 10 stands for the 16 blocks of the widest
stage. The peer follows the described code step by step: logits, terms of relative positions and their sums are whole
tensors. Ours appends the position terms to queries and keys, and never stores the logits. Both give the same values,
which is checked first. With --backward, forward and backward.

One JSON line a race: medians in seconds, the ratio (above 1: ours is faster), its spread, threads, peak memory of the
process so far; before it what each adds to that peak, ours first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repertory.core.files import write_json
from repertory.core.timing import high_water, race_line
from repertory.papers.hitea.race import BLOCKS, contestants


def step(run: Callable[[], Tensor]) -> Tensor:
    """Forward and backward."""
    out = run()
    out.square().mean().backward()
    return out.detach()


def compare(block: int, rounds: int, backward: bool) -> dict[str, Any]:
    """One race, as a JSON line."""
    runs = contestants(block, torch.Generator().manual_seed(0), backward=backward)
    if backward:
        runs = {name: partial(step, run) for name, run in runs.items()}
    found: dict[str, Tensor] = {}
    added: dict[str, float] = {}
    for name, run in runs.items():  # ours first: a peak never falls
        start = high_water()
        found[name] = run()
        added[name] = round(high_water() - start)
    torch.testing.assert_close(found["ours"], found["plain"], rtol=1e-4, atol=1e-5)
    t, h, w = BLOCKS[block]
    what = "forward and backward" if backward else "forward"
    title = f"pooled attention of block {block}, {t} x {h} x {w} places, {what}"
    line = race_line(title, runs["ours"], runs["plain"], rounds)
    return {**line, "added_mib": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, nargs="+", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--backward", action="store_true", help="time forward and backward")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found: list[dict[str, Any]] = []
    for block in arguments.blocks:
        found.append(compare(block, max(7, arguments.rounds), arguments.backward))
        print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, found)


if __name__ == "__main__":
    main()
