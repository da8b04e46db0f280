"""EMO-1M compared with a straightforward implementation and with timm's EdgeNeXt-XXS.

    python benchmarks/emo.py [--threads 1] [--batches 1 4 8] [--rounds 9] [--output FILE.json]

The contestants alternate on one batch of 224-pixel images; results are medians of the paired ratios (above 1: ours is
faster). "Straightforward" implements the equations directly: channels-first maps, 1x1 convolutions as convolutions,
LayerNorm with two permutations, windows gathered separately for q, k and u, explicit softmax. Before the race its
outputs are compared with ours.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import race, ratio
from repertory.papers.emo import EMO, VARIANTS
from repertory.papers.emo.model import iRMB


class Straightforward(nn.Module):
    """The same network and weights, without optimisations."""

    def __init__(self, model: EMO) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        x = model.stem[1](model.stem[0](x))
        x = self.block(model.stem[2], x)
        for stage in model.stages:
            for block in stage.children():
                x = self.block(block, x)
        return model.head(normed(model.norm, x).mean((2, 3)))

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(block, iRMB)
        u = normed(block.norm, x)
        y = self.attend(block, u) if block.attn_s else u
        if isinstance(block.v, nn.Sequential):
            y = block.v[1](convolved(block.v[0], y))
        assert block.local is not None
        z = block.local(y)
        o = convolved(block.proj, y + z if block.skip else z)
        return x + o if block.skip else o

    def attend(self, block: iRMB, u: Tensor) -> Tensor:
        n, c, height, width = u.shape
        w, h = block.window_size, block.heads
        u = F.pad(u, (0, -width % w, 0, -height % w))
        n1, n2 = u.shape[2] // w, u.shape[3] // w
        q, k = convolved(block.qk, u).chunk(2, dim=1)

        def windows(t: Tensor) -> Tensor:
            t = t.reshape(n, h, c // h, w, n1, w, n2).permute(0, 4, 6, 1, 3, 5, 2)
            return t.reshape(n * n1 * n2, h, w * w, c // h).contiguous()

        a = (windows(q) @ windows(k).transpose(-2, -1) * (c // h) ** -0.5).softmax(dim=-1)
        y = (a @ windows(u)).reshape(n, n1, n2, h, w, w, c // h).permute(0, 3, 6, 4, 1, 5, 2)
        return y.reshape(n, c, n1 * w, n2 * w)[:, :, :height, :width].contiguous()


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution as a convolution."""
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, conv.bias)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm, or LayerNorm over channels; output in channels-first memory."""
    return norm(x).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count; at least 7")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    ours = EMO(**VARIANTS["emo_1m"]).eval()
    fused = EMO(**VARIANTS["emo_1m"])
    fused.load_state_dict(ours.state_dict())
    models = {
        "ours": ours,
        "ours, fused": fused.eval().fuse(),
        "straightforward": Straightforward(ours),
        "edgenext_xx_small": timm.create_model("edgenext_xx_small"),
    }
    peers = ("straightforward", "edgenext_xx_small")
    found: dict[str, dict[str, float]] = {}
    for batch in arguments.batches:
        x = torch.randn(batch, 3, 224, 224)
        contestants = {name: partial(model.eval(), x) for name, model in models.items()}
        with torch.inference_mode():
            torch.testing.assert_close(contestants["straightforward"](), ours(x), rtol=1e-4, atol=1e-5)
            times = race(contestants, range(1 + max(7, arguments.rounds)))
        row = {f"{name}, images/s": batch / float(np.median(times[name])) for name in models}
        row |= {f"{name} over {peer}": ratio(times, name, peer) for name in ("ours", "ours, fused") for peer in peers}
        found[f"batch {batch}"] = row
        print(f"batch {batch}, {arguments.threads} thread(s)")
        for name, value in row.items():
            print(f"  {name:42s} {value:8.2f}")
    if arguments.output:
        write_json(arguments.output, {"threads": arguments.threads, **found})


if __name__ == "__main__":
    main()
