"""Distances between sets of features, and the pictures of generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from matplotlib.figure import Figure

from repertory.core.problem import Problem
from repertory.tasks.generation import (
    Inception,
    frechet_distance,
    kernel_distance,
    pixels,
    sheet_picture,
    strip_picture,
)


def drawn(count: int, seed: int, mixing: int = 0) -> torch.Tensor:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x @ torch.randn(6, 6, generator=torch.Generator().manual_seed(mixing)) if mixing else x


def test_the_frechet_distance_is_that_of_the_formula() -> None:
    a, b = drawn(80, 0, mixing=5), drawn(60, 1, mixing=6) + 0.5
    means = [x.double().mean(0).numpy() for x in (a, b)]
    one, other = (np.cov(x.double().numpy(), rowvar=False) for x in (a, b))
    root = np.real(scipy.linalg.sqrtm(one @ other))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(one + other - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_with_fewer_images_than_features() -> None:
    a = drawn(4, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 1) == pytest.approx(6, rel=1e-6)


def test_the_kernel_distance_is_that_of_the_double_sum() -> None:
    a, b = drawn(7, 0), drawn(5, 1) + 0.3

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x.double() @ y.double() / 6 + 1) ** 3)

    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-9)


def test_the_kernel_distance_is_unbiased_and_the_frechet_distance_is_not() -> None:
    pairs = [(drawn(20, 2 * k), drawn(20, 2 * k + 1)) for k in range(40)]
    kernels = np.array([kernel_distance(*pair) for pair in pairs])
    assert abs(kernels.mean()) < 3 * kernels.std(ddof=1) / np.sqrt(40)
    assert min(frechet_distance(*pair) for pair in pairs) > 0


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_too_few_or_broken_features_are_refused(distance: object) -> None:
    assert callable(distance)
    with pytest.raises(Problem, match="1 images for a distance"):
        distance(drawn(1, 0), drawn(5, 0))
    with pytest.raises(Problem, match="not finite"):
        distance(drawn(5, 0), drawn(5, 0) / 0)


def test_pixels_are_cut_and_rounded() -> None:
    assert pixels(torch.tensor([-3.0, -1, 0, 1, 3]).view(1, 1, 1, 5)).tolist() == [[[0, 0, 128, 255, 255]]]
    assert pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def shown(figure: Figure) -> np.ndarray:
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


def test_sheets_and_strips_hold_every_image() -> None:
    sheet = shown(sheet_picture(-torch.ones(12, 1, 4, 4), "twelve", columns=5))
    assert sheet.shape == (14, 24)
    assert (sheet == 0).sum() == 12 * 16
    states = [torch.full((2, 3, 4, 4), value) for value in (-1.0, 0.0, 1.0)]
    figure = strip_picture(states, ["a", "b", "c"], "strip")
    strip = shown(figure)
    assert strip.shape == (9, 14, 3)
    assert strip[0, [0, 5, 10], 0].tolist() == [0, 128, 255]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]


def test_weights_of_another_network_are_not_inception(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(Problem, match="do not fit"):
        Inception(tmp_path / "other.pth")
