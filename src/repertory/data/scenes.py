"""Small scenes for samples of detection and segmentation: shapes pasted on photographs that scikit-image ships."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files

import numpy as np
from PIL import Image, ImageDraw

from repertory.data.images import read_image

PHOTOGRAPHS = {
    "train": ("astronaut.png", "brick.png", "coffee.png", "gravel.png", "rocket.jpg"),
    "val": ("chelsea.png", "grass.png", "ihc.png", "motorcycle_left.png"),
}
CORNERS = {"disc": 24, "square": 4, "triangle": 3}
"""What is pasted, each a regular polygon."""
PLACES = 20
"""Places tried for a shape before it is left out."""


@dataclass(frozen=True)
class Shape:
    """Something pasted; no two of a scene touch."""

    kind: str
    corners: tuple[tuple[float, float], ...]
    """x, y in pixels"""

    def mask(self, size: int) -> Image.Image:
        """Where it is: 255 within, 0 without."""
        mask = Image.new("L", (size, size))
        ImageDraw.Draw(mask).polygon(self.corners, fill=255)
        return mask


def draw_scenes(split: str, count: int, size: int) -> Iterator[tuple[Image.Image, list[Shape]]]:
    """Square RGB pictures of `size` pixels with one to four shapes; the first picture has none.

    The splits, "train" and "val", share no photograph. The same arguments always give the same scenes.
    """
    rng = np.random.default_rng(list(PHOTOGRAPHS).index(split))
    photographs = []
    for name in PHOTOGRAPHS[split]:
        with as_file(files("skimage") / "data" / name) as path:
            photographs.append(read_image(path))
    for number in range(count):
        image = _crop(photographs, size, rng)
        shapes = _place(size, int(rng.integers(1, 5)), rng) if number else []
        for shape in shapes:
            colour = Image.new("RGB", (size, size), tuple(rng.integers(0, 256, 3).tolist()))
            image.paste(Image.blend(_crop(photographs, size, rng), colour, 0.6), mask=shape.mask(size))
        yield image, shapes


def _crop(photographs: list[Image.Image], size: int, rng: np.random.Generator) -> Image.Image:
    photograph = photographs[rng.integers(len(photographs))]
    side = rng.uniform(0.4, 1.0) * min(photograph.size)
    x, y = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
    return photograph.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))


def _place(size: int, count: int, rng: np.random.Generator) -> list[Shape]:
    circles: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _ in range(PLACES):
            radius = rng.uniform(0.08, 0.25) * size
            x, y = rng.uniform(radius, size - 1 - radius, 2)
            if all(math.hypot(x - u, y - v) > radius + r + 2 for u, v, r in circles):
                circles.append((x, y, radius))
                break
    shapes = []
    for x, y, radius in circles:
        kind = str(rng.choice(list(CORNERS)))
        angles = rng.uniform(0, 2 * math.pi) + np.arange(CORNERS[kind]) * (2 * math.pi / CORNERS[kind])
        corners = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).round(2)
        shapes.append(Shape(kind, tuple((u, v) for u, v in corners.tolist())))
    return shapes
