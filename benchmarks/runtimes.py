"""Image networks in PyTorch, compiled and by ONNX Runtime, beside a peer.

    python benchmarks/runtimes.py [NETWORK ...] [--rounds 9] [--threads 1] [--size 224]

One JSON line for each network and batch: median milliseconds of a batch, and how much faster than plain PyTorch each
way is. "fused" has its batch norms folded; the peer is in channels-last memory. A way that a package or a compiler is
missing for is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor

import repertory.papers.eca.model
import repertory.papers.emo.model
import repertory.papers.revcol.model
import repertory.papers.vgnet.model  # noqa: F401  the imports register the networks
from repertory.core.problem import Problem, reason
from repertory.core.timing import race, ratio
from repertory.execution.onnx import Runtime, export

PEERS = {
    "emo_1m": "edgenext_xx_small", "vgnetg_1_0mp": "mobilenetv2_100", "eca_resnet18": "resnet18",
    "revcol_tiny": "convnext_tiny",
}  # fmt: skip


def ways(name: str, size: int, folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Eager, fused, compiled, ONNX, of one network; the network itself first."""
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    fused = reparameterize_model(net)
    x = torch.randn(2, 3, size, size)
    found: dict[str, Callable[[Tensor], Tensor]] = {"eager": net, "fused": fused}
    try:
        compiled = torch.compile(fused, dynamic=False)
        compiled(x[:1])
        found["compiled"] = compiled
    except Exception as error:  # no compiler for C++, or a graph that it cannot take
        print(f"{name}: not compiled, {reason(error)}", file=sys.stderr)
    try:
        found["onnx"] = Runtime(export(fused, {"images": x}, folder / f"{name}.onnx").path)
    except Problem as problem:
        print(f"{name}: no ONNX, {problem.what}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in given.networks:
            contestants = ways(name, given.size, Path(folder))
            if name in PEERS:
                peer = timm.create_model(PEERS[name]).eval()
                contestants["peer"] = peer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            for batch in (1, 8):
                x = torch.randn(batch, 3, given.size, given.size)
                times = race({way: partial(run, x) for way, run in contestants.items()}, range(1 + given.rounds))
                print(
                    json.dumps(
                        {
                            "network": name,
                            "peer": PEERS.get(name, ""),
                            "batch": batch,
                            "ms": {way: round(1000 * float(np.median(t)), 2) for way, t in times.items()},
                            "speed": {way: round(ratio(times, way, "eager"), 2) for way in times},
                            "threads": given.threads,
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
