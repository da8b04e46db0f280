"""Retrieval between clips and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

RANKS = (1, 5, 10)


def truth(captions: Sequence[Sequence[str]], texts: Sequence[str]) -> Tensor:
    """Which text describes which clip, (N, C): equal captions count as right."""
    return torch.tensor([[text in own for text in texts] for own in map(set, captions)])


def ranks(similarity: Tensor, right: Tensor) -> Tensor:
    """Rank of the best right column of each row, from 0: similarity (N, C), right (N, C) -> (N,).

    Among equal similarities the right one comes last.

    Example:
        >>> ranks(torch.tensor([[0.9, 0.5, 0.7]]), torch.tensor([[False, False, True]])).tolist()
        [1]
    """
    best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((similarity >= best) & ~right).sum(1)


def recalls(found: Tensor, prefix: str) -> dict[str, float]:
    """Share of the rows whose rank is below 1, 5 and 10, in per cent."""
    return {f"{prefix}_r{k}": 100 * float((found < k).float().mean()) for k in RANKS}


def shuffled(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """The frames of each clip (B, T, …) in a random order of its own."""
    order = rng.permuted(np.tile(np.arange(frames.shape[1]), (len(frames), 1)), axis=1)
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    return frames[rows, torch.from_numpy(order).to(frames.device)]


def reliance(ordered: float, out_of_order: float) -> dict[str, float]:
    """Temporal reliance: what a score loses where frames come in random order, in points and relative to it.

    Example:
        >>> reliance(50.0, 10.0)
        {'reliance': 40.0, 'reliance_relative': 80.0}
    """
    lost = ordered - out_of_order
    return {"reliance": lost, "reliance_relative": 100 * lost / ordered if ordered else 0.0}
