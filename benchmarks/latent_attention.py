"""Latent attention beside its peers: the p x p form and the L x L solve, the Gaussian kernel, softmax attention.

    python benchmarks/latent_attention.py

8 sequences of L tokens, d = 16, values of width 16.

- linear: CME attention with a linear kernel, by the p x p form that the module takes. Peer: the Cholesky factor of the
  L x L Gram matrix.
- Gaussian: the Gaussian kernel with its L x L solve. Peers: scikit-learn's KernelRidge, one fit a sequence, which gives
  the same values; random features (256) of the exponential kernel, our own, without goal in a line of its own.
- softmax: our module, with as many queries as keys. Peer: torch's scaled_dot_product_attention itself.
- growth: the p x p form and the random features by L.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor
from torch.nn import functional as F

from repertory.core.bench import Growth, Race, Run, bench
from repertory.papers.latent_attention import CMEAttention, SoftmaxAttention

BATCH, DIM, VALUES = 8, 16, 16


def drawn(queries: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k = (F.normalize(torch.randn(BATCH, n, DIM), dim=-1) for n in (queries, length))
    return q, k, torch.randn(BATCH, length, VALUES)


def cme(kernel: Any, **options: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return torch.inference_mode()(CMEAttention(DIM, VALUES, kernel=kernel, ridge=0.25, **options))


def linear(length: int) -> Race:
    attention = CMEAttention(DIM, VALUES, kernel="linear", ridge=0.25)
    q, k, v = drawn(1, length)
    ours: Callable[[], Tensor] = torch.inference_mode()(partial(attention, q, k, v))
    gram: Callable[[], Tensor] = torch.inference_mode()(lambda: attention.weights(q, k) @ v)
    torch.testing.assert_close(ours(), gram(), rtol=1e-3, atol=1e-3)
    return Race(ours, {"L x L solve": gram}, repeat=max(1, 1_000 // length), memory=length == 2048)


def gaussian(length: int) -> Race:
    q, k, v = drawn(1, length)

    def sklearn() -> list[Any]:
        ridge = KernelRidge(kernel="rbf", gamma=1.0).set_params(alpha=0.25)  # gamma is kappa / 2
        return [ridge.fit(b.numpy(), c.numpy()).predict(a.numpy()) for a, b, c in zip(q, k, v, strict=True)]

    ours = partial(cme("rbf"), q, k, v)
    torch.testing.assert_close(ours(), torch.from_numpy(np.stack(sklearn())), rtol=1e-3, atol=1e-3)
    return Race(ours, {"KernelRidge": sklearn}, memory=False)


def features(length: int) -> Race:
    inputs = drawn(1, length)
    rbf, random = cme("rbf"), cme("features", features=256)
    return Race(partial(random, *inputs), {"Gaussian kernel": partial(rbf, *inputs)}, goal=None, memory=False)


def softmax(length: int) -> Race:
    q, k, v = drawn(length, length)
    ours = partial(torch.inference_mode()(SoftmaxAttention(DIM, VALUES, kappa=2.0)), q, k, v)
    theirs = torch.inference_mode()(partial(F.scaled_dot_product_attention, q, k, v, scale=2.0))
    torch.testing.assert_close(ours(), theirs())
    return Race(ours, {"torch": theirs}, repeat=max(1, 1_000 // length), memory=length == 512)


def growing(kernel: str, length: int, **options: int) -> Run:
    return partial(cme(kernel, **options), *drawn(1, length))


LENGTHS = (100, 1_000, 10_000, 100_000)

if __name__ == "__main__":
    bench(
        __doc__,
        {
            **{f"linear, L = {length}": partial(linear, length) for length in (128, 512, 2048)},
            **{f"Gaussian, L = {length}": partial(gaussian, length) for length in (128, 512)},
            **{f"random features, L = {length}": partial(features, length) for length in (128, 512)},
            **{f"softmax, L = {length}": partial(softmax, length) for length in (128, 512)},
            "growth, p x p form": lambda: Growth(partial(growing, "linear"), LENGTHS, "tokens"),
            "growth, random features": lambda: Growth(partial(growing, "features", features=256), LENGTHS, "tokens"),
        },
    )
