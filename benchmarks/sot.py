"""SoT compared with its peers: normalisation of covariances, covariance pooling, the head, whole networks.

    python benchmarks/sot.py [--threads 1] [--batch 4] [--rounds 9] [--output FILE.json]

The contestants alternate; a ratio is the median of the paired ratios (above 1: ours is faster). One JSON line a race:
ours, peer, ratio, its quartiles, milliseconds of ours and of the peer, threads.

    svPN        against torch's SVD and against our exact power, 24 x 24 and 38 x 38, forward and backward
    covariance  centring by subtraction against the centring matrix, 1024 tokens of 128 channels, forward and backward
    zeros       svPN against its form with matrices of zeros, as the authors' code has it, 38 x 38
    networks    SoT-Tiny against timm's DeiT-Tiny (both 196 tokens), inference at 224 pixels; DeiT-Tiny with our head

If SoT-Tiny is more than 10 % slower than DeiT-Tiny, the shares of its parts and its dearest operators are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from repertory.core.files import write_json
from repertory.core.timing import race, where_the_time_goes
from repertory.nn.second_order import covariance
from repertory.papers.sot import TimmClassifier, fast_singular_power
from repertory.papers.sot.study import decompositions

TOKENS, CHANNELS = 1024, 128


def by_centring_matrix(x: Tensor) -> Tensor:
    """Covariance (B, N, d) -> (B, d, d) as the authors' code of second-order pooling writes it."""
    n = x.shape[1]
    centring = (torch.eye(n) - torch.full((n, n), 1 / n)) / n
    return x.mT @ centring.expand(len(x), n, n) @ x


def covariances(batch: int) -> dict[str, Callable[[], None]]:
    x = torch.randn(batch, TOKENS, CHANNELS)

    def run(function: Callable[[Tensor], Tensor]) -> None:
        leaf = x.clone().requires_grad_()
        function(leaf).square().sum().backward()

    return {"ours": lambda: run(covariance), "centring matrix": lambda: run(by_centring_matrix)}


def with_zeros(x: Tensor, start: Tensor) -> Tensor:
    """svPN with one singular vector, through whole matrices U, S, V of zeros."""
    u = torch.nn.functional.normalize(x @ start[:, None], dim=-2)
    v = torch.nn.functional.normalize(x.mT @ u, dim=-2)
    s = u.mT @ x @ v
    wide = [torch.zeros_like(x) for _ in range(3)]
    wide[0][..., :, :1], wide[1][..., :1, :1], wide[2][..., :, :1] = u, s.sqrt(), v
    return wide[0] @ wide[1] @ wide[2].mT + (x - s * u @ v.mT) / (s.sqrt() + 1e-5)


def normalisations(batch: int) -> dict[str, Callable[[], None]]:
    x = torch.randn(6 * batch, 38, 38)
    start = torch.randn(38).requires_grad_()

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        leaf = x.clone().requires_grad_()
        function(leaf, start).square().sum().backward()

    return {"ours": lambda: run(fast_singular_power), "matrices of zeros": lambda: run(with_zeros)}


def networks(batch: int) -> dict[str, Callable[[], None]]:
    x = torch.randn(batch, 3, 224, 224)
    models = {
        "SoT-Tiny": timm.create_model("sot_tiny"),
        "DeiT-Tiny": timm.create_model("deit_tiny_patch16_224"),
        "DeiT-Tiny with our head": TimmClassifier("deit_tiny_patch16_224", head={"heads": 6, "w_dim": 14}),
    }

    def infer(model: Any) -> Callable[[], None]:
        model.eval()

        def run() -> None:
            with torch.inference_mode():
                model(x)

        return run

    return {name: infer(model) for name, model in models.items()}


def parts(batch: int) -> dict[str, float]:
    """Milliseconds of the parts of SoT-Tiny: token embedding, blocks, head."""
    model: Any = timm.create_model("sot_tiny").eval()
    x = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        embedded = model._pos_embed(model.patch_embed(x))
        tokens = model.norm(model.blocks(embedded))
        times = race(
            {
                "token embedding": lambda: model.patch_embed(x),
                "blocks": lambda: model.blocks(embedded),
                "head": lambda: model.head(tokens),
            },
            range(8),
        )
    return {name: 1000 * float(np.median(seconds)) for name, seconds in times.items()}


def line(title: str, times: Mapping[str, Any], ours: str, peer: str) -> dict[str, Any]:
    """One race as a record; it is printed as JSON."""
    low, middle, high = np.percentile(times[peer] / times[ours], (25, 50, 75))
    record = {
        "race": title,
        "ours": ours,
        "peer": peer,
        "ratio": round(float(middle), 3),
        "quartiles": [round(float(low), 3), round(float(high), 3)],
        "ours_ms": round(1000 * float(np.median(times[ours])), 3),
        "peer_ms": round(1000 * float(np.median(times[peer])), 3),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(record), flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rounds, found = max(7, arguments.rounds), list[dict[str, Any]]()

    for size in (24, 38):
        times = race(decompositions(size), range(1 + 3 * rounds))
        found += [
            line(f"svPN, {size} x {size}, forward and backward", times, "svPN", peer)
            for peer in ("torch SVD", "exact power")
        ]
    times = race(normalisations(arguments.batch), range(1 + 3 * rounds))
    found.append(line("svPN, 38 x 38, forward and backward", times, "ours", "matrices of zeros"))
    times = race(covariances(arguments.batch), range(1 + rounds))
    found.append(line(f"covariance, {TOKENS} x {CHANNELS}, forward and backward", times, "ours", "centring matrix"))
    contestants = networks(arguments.batch)
    times = race(contestants, range(1 + rounds))
    found += [
        line(f"inference, 224 pixels, batch {arguments.batch}", times, ours, "DeiT-Tiny")
        for ours in ("SoT-Tiny", "DeiT-Tiny with our head")
    ]
    if found[-2]["ratio"] < 0.9:
        profile = {
            "parts_ms": {name: round(value, 1) for name, value in parts(arguments.batch).items()},
            "operators_percent": {
                name: round(share, 1) for name, share in where_the_time_goes(contestants["SoT-Tiny"]).items()
            },
        }
        print(json.dumps({"profile of SoT-Tiny": profile}), flush=True)
        found.append(profile)
    if arguments.output:
        write_json(arguments.output, {"batch": arguments.batch, "races": found})


if __name__ == "__main__":
    main()
