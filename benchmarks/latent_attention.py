"""Latent attention beside its peers: the p×p form against the L×L solve, and softmax attention against torch's.

    python benchmarks/latent_attention.py [--part solve softmax kernels] [--rounds 9] [--threads 1] [--output FILE.json]

solve: CME attention with a linear kernel, d = 16, by the p×p form that the module takes and by the Cholesky factor of
the L×L Gram matrix. kernels: the Gaussian kernel with its L×L solve, beside random features of the exponential kernel
(256) and scikit-learn's KernelRidge, one fit a sequence. softmax: our module beside torch's
scaled_dot_product_attention itself, with as many queries as keys. A ratio above 1: ours is faster. One JSON line a
race.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repertory.core.files import write_json
from repertory.core.timing import high_water, race, ratio
from repertory.papers.latent_attention import CMEAttention, SoftmaxAttention

BATCH, DIM, VALUES = 8, 16, 16
LENGTHS = (128, 512, 2048)


def drawn(batch: int, queries: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = (F.normalize(torch.randn(batch, n, DIM, generator=generator), dim=-1) for n in (queries, length))
    return q, k, torch.randn(batch, length, VALUES, generator=generator)


def line(name: str, contestants: dict[str, Callable[[], Any]], rounds: int, **about: Any) -> dict[str, Any]:
    """The first contestant is ours."""
    times = race(contestants, range(rounds + 1))
    ours = next(iter(contestants))
    found: dict[str, Any] = {"race": name, **about, "ours": ours}
    for peer in list(contestants)[1:]:
        spread = np.quantile(times[peer] / times[ours], [0.25, 0.75])
        found[f"ratio to {peer}"] = round(ratio(times, ours, peer), 2)
        found[f"quartiles, {peer}"] = [round(float(x), 2) for x in spread]
    found["ms"] = {who: round(1000 * float(np.median(seconds)), 3) for who, seconds in times.items()}
    return {**found, "rounds": rounds, "peak MiB": round(high_water(), 1)}


@torch.no_grad()
def solve(rounds: int) -> list[dict[str, Any]]:
    found = []
    attention = CMEAttention(DIM, VALUES, kernel="linear", ridge=0.25)
    for length in LENGTHS:
        q, k, v = drawn(BATCH, 1, length)

        def gram(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return attention.weights(q, k) @ v

        contestants = {"p×p form": lambda q=q, k=k, v=v: attention(q, k, v), "L×L solve": gram}
        found.append(line(f"linear kernel, L = {length}", contestants, rounds, batch=BATCH, d=DIM))
    return found


@torch.no_grad()
def kernels(rounds: int) -> list[dict[str, Any]]:
    from sklearn.kernel_ridge import KernelRidge

    found = []
    rbf = CMEAttention(DIM, VALUES, kernel="rbf", ridge=0.25)
    features = CMEAttention(DIM, VALUES, kernel="features", ridge=0.25, features=256)
    for length in LENGTHS[:2]:
        q, k, v = drawn(BATCH, 1, length)

        def sklearn(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
            for one in range(BATCH):
                ridge = KernelRidge(kernel="rbf", gamma=1.0).set_params(alpha=0.25)  # γ = κ / 2
                ridge.fit(k[one].numpy(), v[one].numpy()).predict(q[one].numpy())

        contestants = {
            "Gaussian kernel": lambda q=q, k=k, v=v: rbf(q, k, v),
            "random features": lambda q=q, k=k, v=v: features(q, k, v),
            "KernelRidge": sklearn,
        }
        found.append(line(f"Gaussian kernel, L = {length}", contestants, rounds, batch=BATCH, d=DIM))
    return found


@torch.no_grad()
def softmax(rounds: int) -> list[dict[str, Any]]:
    found = []
    attention = SoftmaxAttention(DIM, VALUES, kappa=2.0)
    for length in LENGTHS[:2]:
        q, k, v = drawn(BATCH, length, length)
        contestants = {
            "SoftmaxAttention": lambda q=q, k=k, v=v: attention(q, k, v),
            "torch": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, scale=2.0),
        }
        found.append(line(f"softmax attention, L = {length}", contestants, rounds, batch=BATCH, d=DIM))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"solve": solve, "kernels": kernels, "softmax": softmax}
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = []
    for part in given.part:
        for result in parts[part](given.rounds):
            found.append({**result, "threads": given.threads})
            print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    if given.output:
        write_json(given.output, found)


if __name__ == "__main__":
    main()
