"""Hitea: what is particular to it. The common contract is checked for all papers alike."""

from __future__ import annotations

import torch

from repertory.papers.hitea import Hitea


def test_gradients_reach_every_parameter() -> None:
    model = Hitea(features=8, classes=3)
    model(torch.rand(4, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
