"""Speed of VGNet beside the networks of timm with the nearest number of multiply-accumulates.

    python benchmarks/vgnet.py

- inference, training (forward, backward, SGD): 224-pixel images, batch 8, inference at batch 1 as well. Peers: the
  nearest network, and the nearest MobileNetV2 where it is another one, in the memory layout in which it is faster. Ours
  may be trained as it is, and is fused for inference.
- plain: the same network with concatenations, 1x1 convolutions and channels-first maps; outputs are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.bench import Race, bench
from repertory.papers.vgnet import VGNet
from repertory.papers.vgnet.model import Downsampling, HalfIdentity, Pointwise

PEERS = {
    "vgnetg_1_0mp": ("ghostnet_100", "mobilenetv2_050"),
    "vgnetg_1_5mp": ("mobilenetv4_conv_small",),
    "vgnetg_2_0mp": ("efficientvit_m4", "mobilenetv2_100"),
    "vgnetg_2_5mp": ("regnetx_004",),
    "vgnetg_5_0mp": ("regnetx_006",),
}
CHANNELS_LAST = ("mobilenetv2", "mobilenetv4", "regnetx")
"""Peers that are faster so."""


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


def network(name: str) -> VGNet:
    model = timm.create_model(name)
    assert isinstance(model, VGNet)
    return model


def peer(name: str) -> Any:
    model: Any = timm.create_model(name)
    return model.to(memory_format=torch.channels_last) if name.startswith(CHANNELS_LAST) else model


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, backward, and a step of SGD."""
    optimizer, y = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9), torch.arange(len(x))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def inference_of(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    model.eval()
    return torch.inference_mode()(lambda: model(x))


def inference(name: str, batch: int) -> Race:
    x = torch.randn(batch, 3, 224, 224)
    peers = {f"timm {other}": inference_of(peer(other), x) for other in PEERS[name]}
    ours = inference_of(network(name).eval().fuse(), x)
    return Race(ours, peers, memory=batch > 1, facts={"batch": batch})


def training(name: str, batch: int = 8) -> Race:
    x = torch.randn(batch, 3, 224, 224)
    peers = {f"timm {other}": training_step(peer(other), x) for other in PEERS[name]}
    return Race(training_step(network(name), x), peers, facts={"batch": batch})


def plain(name: str = "vgnetg_1_0mp", batch: int = 8) -> Race:
    x, ours = torch.randn(batch, 3, 224, 224), network(name)
    fused, direct = inference_of(copy.deepcopy(ours).eval().fuse(), x), inference_of(Plain(ours), x)
    torch.testing.assert_close(fused(), direct(), rtol=1e-3, atol=1e-4)
    return Race(fused, {"plain": direct}, facts={"batch": batch})


if __name__ == "__main__":
    bench(
        __doc__,
        {
            **{f"inference, {name}, batch 1": partial(inference, name, 1) for name in PEERS},
            **{f"inference, {name}, batch 8": partial(inference, name, 8) for name in list(PEERS)[:3]},
            "training, vgnetg_1_0mp": partial(training, "vgnetg_1_0mp"),
            "plain": plain,
        },
    )
