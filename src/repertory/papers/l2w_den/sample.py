"""A small CIFAR-10: handwritten digits of varying difficulty, in colour, before flat to cluttered backgrounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate, zoom
from sklearn.datasets import load_digits

from repertory.data.cifar import SIDE, write_cifar10

HELD_OUT = 70
"""Last scans of each digit, from other writers, for the test images."""
MAX_LINES, MAX_FRAGMENTS = 4, 3
MAX_NOISE, MAX_BLUR, MAX_OCCLUSION = 0.12, 0.9, 9
MAX_TURN = 20
"""In degrees."""


def write_cluttered_digits(folder: Path, batch: int, test: int) -> None:
    """scikit-learn's digits at 20 to 28 pixels in CIFAR-10's layout and format.

    Each image draws a difficulty from 0 to 1, more often a low one, that scales its clutter, noise, blur, occlusion and
    lack of contrast.

    Args:
        folder: an empty folder.
        batch: images in each of the five training files.
        test: test images; their digits come from scans that no training image uses.
    """
    pixels, labels = load_digits(return_X_y=True)
    scans = pixels.reshape(-1, 8, 8) / 16
    of_digit = [scans[labels == digit] for digit in range(10)]
    pools = {"train": [found[:-HELD_OUT] for found in of_digit], "test": [found[-HELD_OUT:] for found in of_digit]}
    parts = {}
    for number, (part, count) in enumerate({"train": 5 * batch, "test": test}.items()):
        rng = np.random.default_rng([0, number])
        digits = rng.permutation(np.arange(count) % 10)
        parts[part] = np.stack([_picture(pools[part], digit, rng) for digit in digits]), digits.tolist()
    write_cifar10(folder, parts["train"], parts["test"], [str(digit) for digit in range(10)])


def _picture(pool: list[NDArray[np.float64]], digit: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(32, 32, 3)."""
    difficulty = rng.triangular(0, 0, 1)
    ink, paper = _colours(rng, difficulty)
    image = np.broadcast_to(paper, (SIDE, SIDE, 3)).copy()
    for _ in range(rng.binomial(MAX_LINES, difficulty)):
        _blend(image, _line(rng), rng.uniform(0, 0.8, 3), 0.6)
    for _ in range(rng.binomial(MAX_FRAGMENTS, difficulty)):
        other = pool[rng.integers(10)]
        fragment = _scan(other[rng.integers(len(other))], rng, 10)
        row, column = rng.integers(2, size=2)
        half = len(fragment) // 2
        part = fragment[row * half : (row + 1) * half, column * half : (column + 1) * half]
        _blend(image, _placed(part, rng), rng.uniform(0, 0.8, 3), 0.6)
    own = pool[digit]
    _blend(image, _placed(_scan(own[rng.integers(len(own))], rng, int(rng.integers(20, 29))), rng), ink, 1.0)
    side = int(difficulty * rng.integers(MAX_OCCLUSION + 1))
    top, left = rng.integers(SIDE - side + 1, size=2)
    image[top : top + side, left : left + side] = rng.uniform(0, 1, 3)
    image = gaussian_filter(image, (MAX_BLUR * difficulty, MAX_BLUR * difficulty, 0))
    image += rng.normal(0, MAX_NOISE * difficulty, image.shape)
    return (255 * image.clip(0, 1)).astype(np.uint8)


def _colours(rng: np.random.Generator, difficulty: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the bright digit and of the dark background; their contrast is less where the image is difficult."""
    paper = rng.uniform(0, 0.4, 3)
    ink = rng.uniform(0.6, 1, 3)
    return paper + (ink - paper) * (1 - 0.5 * difficulty), paper


def _scan(scan: NDArray[np.float64], rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    turned = rotate(scan, rng.uniform(-MAX_TURN, MAX_TURN), reshape=False, order=1)
    return np.asarray(zoom(turned, side / 8, order=1)).clip(0, 1)


def _placed(mask: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A mask somewhere in an empty image."""
    placed = np.zeros((SIDE, SIDE))
    row, column = (int(rng.integers(SIDE - extent + 1)) for extent in mask.shape)
    placed[row : row + mask.shape[0], column : column + mask.shape[1]] = mask
    return placed


def _line(rng: np.random.Generator) -> NDArray[np.float64]:
    """A straight stroke of one or two pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    angle, (row, column) = rng.uniform(0, np.pi), rng.uniform(0, SIDE, 2)
    distance = np.abs((rows - row) * np.cos(angle) + (columns - column) * np.sin(angle))
    return (distance < rng.uniform(0.5, 1.2)).astype(float)


def _blend(image: NDArray[np.float64], mask: NDArray[np.float64], colour: NDArray[np.float64], opacity: float) -> None:
    image += opacity * mask[..., None] * (colour - image)
