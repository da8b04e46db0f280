"""The race of the pooled attention against a plain statement of what the released code does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repertory.core.timing import race
from repertory.papers.hitea.video import Grid, PooledAttention, relative_table, stages

BLOCKS: dict[int, Grid] = {0: (8, 56, 56), 2: (8, 56, 56), 10: (8, 14, 14)}
"""Blocks of the published network that are raced, with their grids at 224 pixels and 16 frames."""


def plain_attention(attention: PooledAttention, x: Tensor, grid: Grid) -> Tensor:
    """The same layer as the released code computes it, step by step: (B, 1 + N, dim) -> (B, 1 + N', dim_out).

    Heads are copied into the batch for the convolutions; logits, position terms and their sum are whole tensors
    (B, heads, 1 + N', 1 + N).
    """
    batch, count, _ = x.shape
    heads = attention.heads
    qkv = attention.qkv(x).reshape(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
    pooled: list[tuple[Tensor, Grid]] = []
    for y, conv, norm in zip(
        qkv,
        (attention.pool_q, attention.pool_k, attention.pool_v),
        (attention.norm_q, attention.norm_k, attention.norm_v),
        strict=True,
    ):
        token, places = y[:, :, :1], y[:, :, 1:]
        maps = places.reshape(batch * heads, *grid, -1).permute(0, 4, 1, 2, 3).contiguous()
        maps = conv(maps)
        t, h, w = maps.shape[2:]
        tokens = maps.reshape(batch, heads, -1, t * h * w).transpose(2, 3)
        pooled.append((norm(torch.cat([token, tokens], 2)), (t, h, w)))
    (q, q_grid), (k, k_grid), (v, _) = pooled
    logits = (q * attention.scale) @ k.transpose(2, 3)
    places = q[:, :, 1:].reshape(batch, heads, *q_grid, -1)
    rt, rh, rw = (
        relative_table(table, i, j)
        for table, i, j in zip(
            (attention.rel_pos_t, attention.rel_pos_h, attention.rel_pos_w), q_grid, k_grid, strict=True
        )
    )
    along_h = torch.einsum("bnthwd,hkd->bnthwk", places, rh)
    along_w = torch.einsum("bnthwd,wkd->bnthwk", places, rw)
    along_t = torch.einsum("bnthwd,tkd->bnthwk", places, rt)
    queries, keys = q_grid[0] * q_grid[1] * q_grid[2], k_grid[0] * k_grid[1] * k_grid[2]
    logits[:, :, 1:, 1:] = (
        logits[:, :, 1:, 1:].reshape(batch, heads, *q_grid, *k_grid)
        + along_h[:, :, :, :, :, None, :, None]
        + along_w[:, :, :, :, :, None, None, :]
    ).reshape(batch, heads, queries, keys)
    logits[:, :, 1:, 1:] = (
        logits[:, :, 1:, 1:].reshape(batch, heads, *q_grid, *k_grid) + along_t[:, :, :, :, :, :, None, None]
    ).reshape(batch, heads, queries, keys)
    out = logits.softmax(-1) @ v
    out[:, :, 1:] += q[:, :, 1:]
    return attention.proj(out.transpose(1, 2).reshape(batch, 1 + queries, -1))


def contestants(block: int, generator: torch.Generator, backward: bool = False) -> dict[str, Callable[[], Tensor]]:
    """Ours and the plain form, at one block of the published network, for one clip.

    Args:
        block: one of `BLOCKS`.
        generator: draws the input.
        backward: keep what a backward pass needs.
    """
    grid = BLOCKS[block]
    stage = stages(24, 96, 1, (2, 5, 21), 4)[block]
    attention = PooledAttention(stage, grid).eval()
    x = torch.randn(1, 1 + grid[0] * grid[1] * grid[2], stage.dim, generator=generator)

    def run(ours: bool) -> Tensor:
        with torch.set_grad_enabled(backward):
            return attention(x, grid)[0] if ours else plain_attention(attention, x, grid)

    return {"ours": partial(run, True), "plain": partial(run, False)}


def race_attention(block: int, rounds: Iterable[int], generator: torch.Generator) -> dict[str, NDArray[np.float64]]:
    """Seconds of both in each round, forward."""
    return race(contestants(block, generator), rounds)
