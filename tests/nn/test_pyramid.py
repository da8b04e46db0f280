"""Pyramid pooling."""

from __future__ import annotations

import pytest
import torch

from repertory.nn.pyramid import PyramidPooling


@pytest.mark.parametrize(("part", "bins"), list(enumerate((1, 2, 3, 6))))
def test_pyramid_pooling_takes_means_over_parts(part: int, bins: int) -> None:
    pooling = PyramidPooling(5, 256).eval()
    x = torch.rand(2, 5, 12, 12)
    outputs = pooling(x)
    assert outputs.shape == (2, 5 + 4 * 256, 12, 12)
    assert torch.equal(outputs[:, :5], x)
    # What lies in one of the parts does not matter where the mean of that part has no weight: the opposite corner.
    changed = x.clone()
    changed[:, :, -1, -1] += 1
    difference = (pooling(changed) - outputs)[:, 5 + 256 * part : 5 + 256 * (part + 1), 0, 0].abs().max()
    assert (difference > 0) == (bins == 1)
