"""Speed and memory of RevCol.

    python benchmarks/revcol.py

- inference, training: batches of 224-pixel images; a step is forward and backward, without optimizer. Ours keeps all
  maps in training. Peer: timm's ConvNeXt with nearly as many multiply-accumulates: 4.5 G both for T; 9.0 G and 8.7 G
  for S.
- reversible: a training step of T-wide columns that recomputes its maps. Peer: the same network, which keeps them; its
  memory grows with the number of columns. Weights' gradients are part of the memory of both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.bench import Race, bench
from repertory.papers.revcol import VARIANTS, RevCol

PEERS = {"revcol_tiny": "convnext_tiny", "revcol_small": "convnext_small"}


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224)


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward and backward pass, with newly allocated gradients."""

    def step() -> None:
        model.train().zero_grad(set_to_none=True)
        F.cross_entropy(model(x), torch.arange(len(x))).backward()

    return step


def inference(name: str, batch: int) -> Race:
    x, ours, theirs = images(batch), timm.create_model(name).eval(), timm.create_model(PEERS[name]).eval()
    run = torch.inference_mode()
    return Race(
        run(lambda: ours(x)), {f"timm {PEERS[name]}": run(lambda: theirs(x))}, memory=False, facts={"batch": batch}
    )


def training(name: str, batch: int) -> Race:
    x, ours, theirs = images(batch), timm.create_model(name, reversible=False), timm.create_model(PEERS[name])
    return Race(training_step(ours, x), {f"timm {PEERS[name]}": training_step(theirs, x)}, facts={"batch": batch})


def reversible(columns: int, batch: int = 1) -> Race:
    x, arguments = images(batch), {**VARIANTS["revcol_tiny"], "columns": columns}
    ours, plain = (RevCol(**arguments, reversible=choice) for choice in (True, False))
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    peers: dict[str, Any] = {"all maps kept": training_step(plain, x)}
    return Race(training_step(ours, x), peers, goal=0.625, facts={"batch": batch, "columns": columns})


if __name__ == "__main__":
    bench(
        __doc__,
        {
            "inference, T, batch 1": partial(inference, "revcol_tiny", 1),
            "inference, T, batch 8": partial(inference, "revcol_tiny", 8),
            "inference, S, batch 1": partial(inference, "revcol_small", 1),
            "training, T": partial(training, "revcol_tiny", 2),
            **{f"reversible, {columns} columns": partial(reversible, columns) for columns in (4, 8)},
        },
    )
