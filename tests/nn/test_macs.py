"""Counting multiply-accumulates."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repertory.nn.macs import count_macs


class Attention(nn.Module):
    """The same attention, by the fused function or by its formula."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("value_channels", [8, 12])
def test_fused_attention_counts_like_its_formula(value_channels: int) -> None:
    q, k, v = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, value_channels)
    by_hand = 2 * 3 * 5 * 7 * (8 + value_channels)
    assert count_macs(Attention(True), q, k, v) == count_macs(Attention(False), q, k, v) == by_hand


def test_convolutions_and_norms_count_and_activations_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    convolutions = 8 * 3 * 9 * 16 * 16 + 8 * 9 * 16 * 16
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == convolutions + 2 * 8 * 16 * 16


def test_it_scales_with_the_batch_and_leaves_the_mode_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[2].eval()
    one, three = (count_macs(model, torch.zeros(n, 4)) for n in (1, 3))
    assert three == 3 * one
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert model[1].num_batches_tracked == 0
