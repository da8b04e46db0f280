"""Speed of covariance pooling without a centring matrix.

    python benchmarks/tcp.py

Maps of four videos (8 frames, 128 channels) to covariance matrices, forward and backward: alone, or with square root
(three Newton-Schulz steps) and upper triangle. Peer: with a centring matrix for each video, as the authors' code has
it; at 14 x 14 places, those of the published networks at 224 pixels, it has 1,568 rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from repertory.core.bench import Race, bench
from repertory.nn.second_order import UpperTriangle, covariance, newton_schulz_sqrt
from repertory.papers.tcp.study import covariance_by_matrix

VIDEOS, CHANNELS, FRAMES = 4, 128, 8


def gradient(form: Callable[[Tensor], Tensor], finish: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Forward and backward from maps (B T, d, h, w), through their observations (B, d, T h w)."""
    leaf = x.clone().requires_grad_()
    observations = leaf.unflatten(0, (-1, FRAMES)).transpose(1, 2).flatten(2)
    return torch.autograd.grad(finish(form(observations)).square().sum(), leaf)[0]


def pooling(side: int, finish: Callable[[Tensor], Tensor]) -> Race:
    x = torch.randn(VIDEOS * FRAMES, CHANNELS, side, side)
    ours, peer = (
        partial(gradient, form, finish, x) for form in (lambda maps: covariance(maps.mT), covariance_by_matrix)
    )
    expected = peer()
    torch.testing.assert_close(ours(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    return Race(ours, {"centring matrix": peer}, goal=6, facts={"videos": VIDEOS, "places": FRAMES * side**2})


if __name__ == "__main__":
    triangle = UpperTriangle(CHANNELS)
    works: dict[str, Callable[[Tensor], Tensor]] = {
        "covariance": lambda p: p,
        "covariance, root, triangle": lambda p: triangle(newton_schulz_sqrt(p)),
    }
    bench(
        __doc__,
        {f"{name}, {side} x {side}": partial(pooling, side, work) for side in (8, 14) for name, work in works.items()},
    )
