"""VGNet compared with the networks of timm with the nearest number of multiply-accumulates.

    python benchmarks/vgnet.py [--threads 1] [--batch 8] [--rounds 9] [--sizes vgnetg_1_0mp …] [--output FILE.json]

Inference and a training step (forward, backward, SGD) on 224-pixel images. The contestants alternate on one batch;
results are medians of the paired ratios (above 1: ours is faster). Where ours is slower, its operators are listed by
time. "fused" has folded batch norms; "plain" is the same network with concatenations, 1x1 convolutions and
channels-first maps; its outputs are compared with ours before the race.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import race, ratio, where_the_time_goes
from repertory.papers.vgnet import VGNet
from repertory.papers.vgnet.model import Downsampling, HalfIdentity, Pointwise

PEERS = {
    "vgnetg_1_0mp": ("ghostnet_100", "mobilenetv2_050"),
    "vgnetg_1_5mp": ("mobilenetv4_conv_small",),
    "vgnetg_2_0mp": ("efficientvit_m4", "mobilenetv2_100"),
    "vgnetg_2_5mp": ("regnetx_004",),
    "vgnetg_5_0mp": ("regnetx_006",),
    "vgnetg_1_0mp_se": ("ghostnet_100",),
    "vgnetc_1_0mp": ("ghostnet_100",),
    "vgnetf_1_5mp": ("mobilenetv4_conv_small",),
}
"""The nearest of timm's networks for 224 pixels in multiply-accumulates, then the nearest MobileNetV2 if different."""


class Plain(nn.Module):
    """The same network and weights, implemented directly."""

    def __init__(self, model: VGNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        x = self.model.stem(x)
        for stage in self.model.stages:
            for layer in stage.children():
                if isinstance(layer, Downsampling):
                    y = layer.filter(x)
                    x = torch.cat([y[:, y.shape[1] - layer.kept :], self.pointwise(layer.pw, y)], 1)
                elif isinstance(layer, HalfIdentity):
                    a, b = x.chunk(2, 1)
                    new = self.pointwise(layer.pw, torch.cat([a, layer.kernel(b)], 1))
                    x = torch.cat([b, new], 1)
        tail = self.model.tail
        assert not isinstance(tail, nn.Identity)
        x = self.pointwise(tail.pw, tail.kernel(x))
        return self.model.head(self.model.drop(x.mean((2, 3))))

    def pointwise(self, pw: Pointwise, x: Tensor) -> Tensor:
        return pw.se(pw.norm(pw.act(pw.conv(x))))


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Forward, backward, and a step of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--sizes", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rounds = range(1 + max(7, arguments.rounds))
    x, y = torch.randn(arguments.batch, 3, 224, 224), torch.randint(1000, (arguments.batch,))
    found: dict[str, dict[str, float]] = {}
    slow: dict[str, Callable[[], object]] = {}
    print(f"batch {arguments.batch}, {arguments.threads} thread(s); ms of ours; above 1: ours is faster")
    for name in arguments.sizes:
        ours = timm.create_model(name).eval()
        assert isinstance(ours, VGNet)
        models: dict[str, nn.Module] = {name: ours, "fused": copy.deepcopy(ours).fuse(), "plain": Plain(ours)}
        models |= {peer: timm.create_model(peer).eval() for peer in PEERS[name]}
        with torch.inference_mode():
            torch.testing.assert_close(models["plain"](x), ours(x), rtol=1e-3, atol=1e-5)
            times = {"inference": race({key: partial(model, x) for key, model in models.items()}, rounds)}
        del models["fused"]
        models["plain"] = Plain(copy.deepcopy(ours))
        steps = {key: training_step(model, x, y) for key, model in models.items()}
        times["training"] = race(steps, rounds)
        for task, seconds in times.items():
            row = {"ms": 1e3 * float(np.median(seconds[name]))}
            row |= {f"over {peer}": ratio(seconds, name, peer) for peer in seconds if peer not in (name, "fused")}
            if "fused" in seconds:
                row["fused over unfused"] = ratio(seconds, "fused", name)
            found[f"{name}, {task}"] = row
            print(f"{name:16s} {task:9s} " + "  ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
            if any(row[f"over {peer}"] < 1 for peer in PEERS[name]):
                slow[f"{name}, {task}"] = steps[name] if task == "training" else partial(_infer, ours, x)
    for label, run in slow.items():
        print(f"{label}: " + ", ".join(f"{key} {share:.0f} %" for key, share in where_the_time_goes(run, 6).items()))
    if arguments.output:
        write_json(arguments.output, {"threads": arguments.threads, "batch": arguments.batch, **found})


def _infer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(x)


if __name__ == "__main__":
    main()
