"""Image networks compiled and by ONNX Runtime.

    python benchmarks/runtimes.py

224-pixel images, batch 1 and 8. Ours: plain PyTorch. Peers: the same network with its batch norms folded, compiled, and
by ONNX Runtime, both folded as well; and the nearest network of timm, in channels-last memory. No goal: a ratio below 1
tells how much faster that way is. A way for which a package or a compiler is missing is left out, and said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor

import repertory.papers.eca.model
import repertory.papers.emo.model
import repertory.papers.vgnet.model  # noqa: F401  the imports register the networks
from repertory.core.bench import Race, bench, scratch
from repertory.core.problem import Problem, reason
from repertory.execution.onnx import Runtime, export

PEERS = {"emo_1m": "edgenext_xx_small", "vgnetg_1_0mp": "mobilenetv2_100", "eca_resnet18": "resnet18"}
SIZE = 224


@cache
def ways(name: str) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Name -> a network: plain, folded, by ONNX Runtime, the peer."""
    torch.manual_seed(0)
    net: Any = timm.create_model(name).eval()
    fused = reparameterize_model(net)
    x = torch.randn(2, 3, SIZE, SIZE)
    theirs: Any = timm.create_model(PEERS[name]).eval()
    found: dict[str, Callable[[Tensor], Tensor]] = {"plain": net, "folded": fused}
    try:
        found["ONNX Runtime"] = Runtime(export(fused, {"images": x}, scratch() / f"{name}.onnx").path)
    except Problem as problem:
        warnings.warn(f"{name}: no ONNX, {problem.what}", stacklevel=2)
    return found | {f"timm {PEERS[name]}": theirs.to(memory_format=torch.channels_last)}


def inference(name: str, batch: int, *, compiled: bool) -> Race:
    x = torch.randn(batch, 3, SIZE, SIZE)
    found = dict(ways(name))
    if compiled:
        try:
            found["compiled"] = torch.compile(found["folded"], dynamic=False)
            with torch.inference_mode():
                found["compiled"](x)
        except Exception as error:  # no compiler for C++, or a graph that it cannot take
            warnings.warn(f"{name}: not compiled, {reason(error)}", stacklevel=2)
            del found["compiled"]
    runs = {way: torch.inference_mode()(partial(network, x)) for way, network in found.items()}
    outputs = {way: run() for way, run in runs.items() if not way.startswith("timm")}
    for output in outputs.values():
        torch.testing.assert_close(output, outputs["plain"], rtol=1e-3, atol=1e-3)
    return Race(runs.pop("plain"), runs, goal=None, memory=False, facts={"batch": batch})


if __name__ == "__main__":
    bench(
        __doc__,
        {
            f"{name}, batch {batch}": partial(inference, name, batch, compiled=batch == 1)
            for name in PEERS
            for batch in (1, 8)
        },
    )
