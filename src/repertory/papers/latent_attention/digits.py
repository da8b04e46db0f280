"""Handwritten digits of scikit-learn as exchangeable sequences: a token is a pixel, its key the position."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from repertory.papers.latent_attention.generators import Array, Sequences

SIDE = 8


def position_keys() -> Array:
    """Keys (64, 4) of the pixels: cosine and sine of π row / 8 and π column / 8, scaled to norm 1."""
    angle = np.pi * np.arange(SIDE) / SIDE
    row, column = (grid.ravel() for grid in np.meshgrid(angle, angle, indexing="ij"))
    return np.stack([np.cos(row), np.sin(row), np.cos(column), np.sin(column)], 1) / 2**0.5


def digit_images(rng: np.random.Generator, count: int) -> tuple[Array, float]:
    """`count` held-out images (count, 64) with intensities from 0 to 1, and the mean intensity of all others."""
    found: Any = load_digits()
    images = found.data[rng.permutation(len(found.data))] / 16
    return images[:count], float(images[count:].mean())


def visible_pixels(rng: np.random.Generator, images: Array, centre: float, length: int) -> Sequences:
    """L visible pixels of each image and one masked pixel as query; values are intensities minus `centre`."""
    order = rng.permuted(np.tile(np.arange(SIDE**2), (len(images), 1)), axis=1)
    seen, masked = order[:, :length], order[:, length]
    keys, rows = position_keys(), np.arange(len(images))
    values = images - centre
    target = values[rows, masked][:, None]
    return Sequences(keys[seen], np.take_along_axis(values, seen, 1)[..., None], keys[masked], target, mean=target)
