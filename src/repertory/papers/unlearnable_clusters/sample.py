"""The sample: handwritten digits of an owner, held-out ones, and public ones for the surrogate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 32
"""Height and width, enlarged bilinearly from 8 x 8."""
CONTRAST, BRIGHTNESS = 0.6, 0.2
"""Values become 0.6 v + 0.2, so that noise is not clipped away."""


def write_digits(folder: Path, train: int, public: int, test: int, seed: int) -> None:
    """Some of scikit-learn's 1797 digits in RGB, dealt out at random.

    Args:
        folder: train/<digit>/, val/<digit>/ and public/ are made in it.
        train: images of the owner.
        public: images that belong to nobody; they have no labels.
        test: held-out images.
        seed: other seeds deal out other digits.
    """
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(pixels))
    parts = np.split(order[: train + public + test], [train, train + public])
    for part, numbers in zip(("train", "public", "val"), parts, strict=True):
        for number in numbers:
            place = folder / part / ("" if part == "public" else str(labels[number]))
            place.mkdir(parents=True, exist_ok=True)
            values = 255 * (CONTRAST * pixels[number].reshape(8, 8) / 16 + BRIGHTNESS)
            scan = Image.fromarray(np.rint(values).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            scan.convert("RGB").save(place / f"{number:04d}.png")
