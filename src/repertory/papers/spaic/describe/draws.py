"""Random numbers of a run: encoders, generators and actions draw them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draws = torch.Generator | Tensor | None
"""A generator; or a seed for each sample, (B,) int64: what a sample draws then depends neither on the rest of its batch
nor on the process; None: torch's global generator."""
SEED_STEP = 2_654_435_761


def uniform(like: Tensor, draws: Draws) -> Tensor:
    """Numbers in [0, 1) of the shape of `like`, (T, B, ...)."""
    if not isinstance(draws, Tensor):
        where = like.device if draws is None else draws.device
        return torch.rand(like.shape, generator=draws, device=where).to(like.device)
    rows = torch.empty(like.transpose(0, 1).shape, device=like.device)  # (B, T, ...)
    own = torch.Generator(like.device)
    for row, seed in zip(rows, draws.tolist(), strict=True):
        row.uniform_(generator=own.manual_seed(seed))
    return rows.transpose(0, 1).contiguous()


def by_sample(choose: Callable[[Tensor, torch.Generator | None], Tensor], scores: Tensor, draws: Draws) -> Tensor:
    """A random choice (B,) from scores (B, C)."""
    if not isinstance(draws, Tensor):
        return choose(scores, draws)
    own = torch.Generator(scores.device)
    return torch.cat(
        [choose(row[None], own.manual_seed(seed)) for row, seed in zip(scores, draws.tolist(), strict=True)]
    )


def branch(draws: Draws, number: int) -> Draws:
    """Draws of their own for one of several nodes: other seeds of the samples; a generator goes on by itself."""
    return draws + number * SEED_STEP if isinstance(draws, Tensor) else draws
