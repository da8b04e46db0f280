"""Speed of svPN, of covariance pooling, of the head and of whole networks.

    python benchmarks/sot.py

- svPN: normalisation of square matrices, forward and backward. Peers: torch's SVD; our exact power; and, at 38 x 38,
  svPN through whole matrices of zeros, as the authors' code has it.
- covariance: 1,024 tokens of 128 channels, forward and backward, centred by subtraction. Peer: by a centring matrix.
- network: inference at 224 pixels. SoT-Tiny, and DeiT-Tiny with our head. Peer: timm's DeiT-Tiny, which has as many
  tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from repertory.core.bench import Race, bench
from repertory.nn.second_order import covariance
from repertory.papers.sot import TimmClassifier, fast_singular_power
from repertory.papers.sot.study import decompositions

TOKENS, CHANNELS, BATCH = 1024, 128, 4
DEIT = "deit_tiny_patch16_224"


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Forward and backward."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).square().sum(), leaf)[0]


def normalisation(size: int) -> Race:
    ours, *peers = decompositions(size).items()
    return Race(ours[1], dict(peers), goal=5)


def with_zeros(start: Tensor, x: Tensor) -> Tensor:
    """svPN with one singular vector, through whole matrices U, S, V of zeros."""
    u = F.normalize(x @ start[:, None], dim=-2)
    v = F.normalize(x.mT @ u, dim=-2)
    s = u.mT @ x @ v
    wide = [torch.zeros_like(x) for _ in range(3)]
    wide[0][..., :, :1], wide[1][..., :1, :1], wide[2][..., :, :1] = u, s.sqrt(), v
    return wide[0] @ wide[1] @ wide[2].mT + (x - s * u @ v.mT) / (s.sqrt() + 1e-5)


def zeros(size: int = 38) -> Race:
    x, start = torch.randn(6 * BATCH, size, size), torch.randn(size)
    ours, peer = lambda m: fast_singular_power(m, start), partial(with_zeros, start)
    torch.testing.assert_close(ours(x), peer(x), rtol=1e-4, atol=1e-4)
    return Race(partial(gradient, ours, x), {"matrices of zeros": partial(gradient, peer, x)})


def by_centring_matrix(x: Tensor) -> Tensor:
    """Covariance (B, N, d) -> (B, d, d) as the authors' code of second-order pooling writes it."""
    n = x.shape[1]
    centring = (torch.eye(n) - torch.full((n, n), 1 / n)) / n
    return x.mT @ centring.expand(len(x), n, n) @ x


def pooling() -> Race:
    x = torch.randn(BATCH, TOKENS, CHANNELS)
    ours, peer = partial(gradient, covariance, x), partial(gradient, by_centring_matrix, x)
    torch.testing.assert_close(ours(), peer(), rtol=1e-3, atol=1e-6)
    return Race(ours, {"centring matrix": peer}, goal=6)


def network(make: Callable[[], Any]) -> Race:
    x, ours, theirs = torch.randn(BATCH, 3, 224, 224), make().eval(), timm.create_model(DEIT).eval()
    run = torch.inference_mode()
    return Race(run(lambda: ours(x)), {"timm DeiT-Tiny": run(lambda: theirs(x))}, goal=0.9, facts={"batch": BATCH})


if __name__ == "__main__":
    head = {"heads": 6, "w_dim": 14}
    bench(
        __doc__,
        {
            **{f"svPN, {size} x {size}": partial(normalisation, size) for size in (24, 38)},
            "svPN, zeros": zeros,
            "covariance": pooling,
            "network, SoT-Tiny": partial(network, lambda: timm.create_model("sot_tiny")),
            "network, DeiT-Tiny with our head": partial(network, lambda: TimmClassifier(DEIT, head=head)),
        },
    )
