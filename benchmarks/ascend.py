"""Sampling steps beside diffusers' DiT, a training step beside timm's ViT.

    python benchmarks/ascend.py

- sampler: two steps of the Euler ODE through U-ViT-S/2, 2 images of 32 x 32. Peer: two steps of DDIM through
  diffusers' DiTTransformer2DModel of the same width, heads, patches and blocks: 256 tokens, ours 2 more. A DiT has
  modulation in every block, a U-ViT long skips; the line gives the parameters of both.
- training: forward, backward and AdamW of the plain ViT of 13 blocks and width 512, 2 images. Peer: timm's
  VisionTransformer of as many blocks and tokens, with a linear layer back to pixels.

The networks differ, so outputs are not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from repertory.core.bench import Race, bench
from repertory.core.problem import require
from repertory.papers.ascend import SCHEDULES, VARIANTS, UViT, euler, vit

SIZE = VARIANTS["uvit_s2_cifar10"]
BATCH = 2
STEPS = 2


def parameters(ours: nn.Module, peer: nn.Module) -> dict[str, int]:
    """For the facts of a race."""
    counts = (sum(p.numel() for p in model.parameters()) for model in (ours, peer))
    return {"batch": BATCH, **dict(zip(("ours_parameters", "peer_parameters"), counts, strict=True))}


def sampler() -> Race:
    diffusers: Any = require("diffusers", "peers")
    noise, labels = torch.randn(BATCH, 3, 32, 32), torch.zeros(BATCH, dtype=torch.long)
    ours = UViT(**SIZE).eval()
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=8, attention_head_dim=64, in_channels=3, num_layers=13, sample_size=32, patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)

    @torch.inference_mode()
    def sample() -> object:
        return list(euler(lambda x, t: ours(x, 999 * t.expand(BATCH)), noise, STEPS, SCHEDULES["linear"], ode=True))

    @torch.inference_mode()
    def ddim() -> object:
        x = noise
        for t in scheduler.timesteps:
            predicted = dit(x, timestep=t.expand(BATCH), class_labels=labels).sample
            x = scheduler.step(predicted, t, x).prev_sample
        return x

    return Race(sample, {"diffusers' DiT": ddim}, facts={**parameters(ours, dit), "steps": STEPS})


def training() -> Race:
    x, times = torch.randn(BATCH, 3, 32, 32), 999 * torch.rand(BATCH)
    ours = vit(**SIZE)
    network = VisionTransformer(
        img_size=32, patch_size=2, embed_dim=512, depth=13, num_heads=8, num_classes=0, global_pool="", qkv_bias=False
    )
    peer = nn.Sequential(network, nn.Linear(512, 12))

    def step(model: nn.Module, predict: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def run() -> None:
            optimizer.zero_grad()
            predict().square().mean().backward()
            optimizer.step()

        return run

    theirs = step(peer, lambda: peer(x))
    return Race(step(ours, lambda: ours(x, times)), {"timm's ViT": theirs}, facts=parameters(ours, peer))


if __name__ == "__main__":
    bench(__doc__, {"sampler": sampler, "training": training})
