"""A sampling step beside diffusers' DiT, a training step beside timm's ViT.

    PYTHONPATH=... python benchmarks/ascend.py [--threads 1] [--batch 4] [--rounds 9] [--output FILE.json]

Contestants alternate on one batch of 32 x 32 images; results are medians of the paired ratios, time of the peer over
time of ours (above 1: ours is faster). One JSON line a race.

- sampler: steps of the Euler ODE through U-ViT-S/2, against steps of DDIM through diffusers' DiTTransformer2DModel of
  the same width, heads, patches and blocks: 256 tokens, ours 2 more. A DiT has modulation in every block, U-ViT long
  skips; their parameters differ (74 and 44 million) and are given on the line.
- training: forward, backward and AdamW of the plain ViT of 13 blocks and width 512, against timm's VisionTransformer of
  as many blocks and tokens with a linear layer back to pixels.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from repertory.core.files import write_json
from repertory.core.timing import race_line
from repertory.papers.ascend import SCHEDULES, VARIANTS, DiffusionViT, UViT, euler, vit

SIZE = VARIANTS["uvit_s2_cifar10"]
STEPS = 2
"""Of a sampler, a round."""


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def our_sampler(model: DiffusionViT, batch: int) -> Callable[[], object]:
    x = torch.randn(batch, 3, 32, 32)

    @torch.no_grad()
    def run() -> object:
        steps = euler(lambda x, t: model(x, 999 * t.expand(len(x))), x, STEPS, SCHEDULES["linear"], ode=True)
        return list(steps)

    return run


def their_sampler(batch: int) -> tuple[Callable[[], object], int]:
    """DDIM of diffusers, through its DiT."""
    diffusers: Any = importlib.import_module("diffusers")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=8, attention_head_dim=64, in_channels=3, num_layers=13, sample_size=32, patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    noise, labels = torch.randn(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.long)

    @torch.no_grad()
    def run() -> object:
        x = noise
        for t in scheduler.timesteps:
            predicted = model(x, timestep=t.expand(batch), class_labels=labels).sample
            x = scheduler.step(predicted, t, x).prev_sample
        return x

    return run, parameters(model)


def training_step(model: nn.Module, predict: Callable[[Tensor], Tensor], batch: int) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(batch, 3, 32, 32)

    def run() -> None:
        optimizer.zero_grad()
        predict(x).square().mean().backward()
        optimizer.step()

    return run


def their_training(batch: int) -> tuple[Callable[[], object], int]:
    network = VisionTransformer(
        img_size=32, patch_size=2, embed_dim=512, depth=13, num_heads=8, num_classes=0, global_pool="", qkv_bias=False
    )
    model = nn.Sequential(network, nn.Linear(512, 12))
    return training_step(model, model, batch), parameters(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9, help="pairs that count")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    network = UViT(**SIZE).eval()
    peer, size = their_sampler(arguments.batch)
    line = race_line("sampler over diffusers' DiT", our_sampler(network, arguments.batch), peer, arguments.rounds)
    lines = [{**line, "steps": STEPS, "ours_parameters": parameters(network), "peer_parameters": size}]
    print(json.dumps(lines[-1]), flush=True)

    model = vit(**SIZE)
    times = torch.rand(arguments.batch) * 999
    ours = training_step(model, lambda x: model(x, times), arguments.batch)
    peer, size = their_training(arguments.batch)
    line = race_line("training step over timm's ViT", ours, peer, arguments.rounds)
    lines.append({**line, "ours_parameters": parameters(model), "peer_parameters": size})
    print(json.dumps(lines[-1]), flush=True)
    if arguments.output:
        write_json(arguments.output, lines)


if __name__ == "__main__":
    main()
