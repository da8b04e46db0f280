"""EMO-1M beside a straightforward implementation and timm's EdgeNeXt-XXS: inference on one image and on a batch of 8.

    python benchmarks/emo.py

- eager, fused (`fuse` folds batch norms): 224 pixels. Peers: "straightforward" implements the equations directly
  (channels-first maps, 1x1 convolutions as convolutions, LayerNorm with two permutations, windows gathered separately
  for q, k and u, explicit softmax) with the same weights and outputs; EdgeNeXt-XXS at 224 pixels, and at 256, as the
  published figures have it.
"""

from __future__ import annotations

from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.core.bench import Race, bench
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


def inference(batch: int, fused: bool) -> Race:
    x = torch.randn(batch, 3, 224, 224)
    plain = EMO(**VARIANTS["emo_1m"]).eval()
    ours = EMO(**VARIANTS["emo_1m"]).eval()
    ours.load_state_dict(plain.state_dict())
    ours = ours.fuse() if fused else ours
    peer = timm.create_model("edgenext_xx_small").eval()
    run = torch.inference_mode()(lambda model, x: model(x))
    peers = {
        "straightforward": partial(run, Straightforward(plain), x),
        "EdgeNeXt-XXS": partial(run, peer, x),
        "EdgeNeXt-XXS, 256 px": partial(run, peer, torch.randn(batch, 3, 256, 256)),
    }
    torch.testing.assert_close(peers["straightforward"](), run(ours, x), rtol=1e-3, atol=1e-4)
    facts = {"batch": batch}
    return Race(partial(run, ours, x), peers, repeat=max(1, 4 // batch), memory=batch > 1 and not fused, facts=facts)


if __name__ == "__main__":
    bench(
        __doc__,
        {
            f"{'fused' if fused else 'eager'}, batch {batch}": partial(inference, batch, fused)
            for batch in (1, 8)
            for fused in (False, True)
        },
    )
