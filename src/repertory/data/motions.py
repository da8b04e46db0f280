"""A sample of videos: photographs' textures that move, as folders of frames with lists.

    frames/<class>/<video>/img_00001.jpg    train.txt, val.txt, category.txt

Two to eight classes are motions; the two of a pair (left and right, …) have the same frames in opposite order. Four
are textures, moved in any way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from repertory.data.images import read_image
from repertory.data.videos import write_list

SIZE = 64
FRAMES = (12, 24)
"""Least and largest number of frames."""
QUALITY = 85
"""Of the JPEG files."""
SCENERY = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png")
"""Grey photographs: behind, and of the patches of the motion classes."""
TEXTURES = {"coffee": "coffee.png", "fur": "chelsea.png", "rocket": "rocket.jpg", "tissue": "ihc.png"}
"""Photographs in colour, of the patches of the texture classes."""
CONTRAST = 0.5
"""Of the picture behind."""

State = tuple[float, float, float, float]
"""x, y in pixels from the centre, zoom, angle in radians."""
Motion = Callable[[float, float], State]
"""(time from -1 to 1, strength from 0.6 to 1) -> change of the patch."""

MOTIONS: dict[str, Motion] = {
    "move_right": lambda u, s: (20 * s * u, 0.0, 1.0, 0.0),
    "move_left": lambda u, s: (-20 * s * u, 0.0, 1.0, 0.0),
    "zoom_in": lambda u, s: (0.0, 0.0, 2.0 ** (0.8 * s * u), 0.0),
    "zoom_out": lambda u, s: (0.0, 0.0, 2.0 ** (-0.8 * s * u), 0.0),
    "move_down": lambda u, s: (0.0, 20 * s * u, 1.0, 0.0),
    "move_up": lambda u, s: (0.0, -20 * s * u, 1.0, 0.0),
    "rotate_clockwise": lambda u, s: (0.0, 0.0, 1.0, 1.2 * s * u),
    "rotate_counterclockwise": lambda u, s: (0.0, 0.0, 1.0, -1.2 * s * u),
}
PARTS = {"train": (0.0, 0.6), "val": (0.6, 1.0)}
"""Rows of the photographs, as shares of the height: no texture is in both parts."""


def write_motions(folder: Path, train: int, val: int, motions: int = 4) -> None:
    """Write the sample; the same arguments always give the same files.

    Args:
        folder: empty.
        train: training videos of each class.
        val: held-out videos of each class.
        motions: classes that are motions, the first so many of `MOTIONS`.
    """
    classes = [*list(MOTIONS)[:motions], *TEXTURES]
    (folder / "category.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    for part, count in (("train", train), ("val", val)):
        write_list(folder / f"{part}.txt", _write_part(folder / "frames", classes, part, count))


def _write_part(folder: Path, classes: list[str], part: str, count: int) -> Iterator[tuple[str, int, int]]:
    photographs = {name: _photograph(name, *PARTS[part]) for name in (*SCENERY, *TEXTURES.values())}
    for label, name in enumerate(classes):
        for number in range(count):
            rng = np.random.default_rng([list(PARTS).index(part), label, number])
            target = folder / name / f"{part}_{number:03d}"
            target.mkdir(parents=True)
            total = 0
            for total, frame in enumerate(_video(name, photographs, rng), start=1):
                frame.save(target / f"img_{total:05d}.jpg", quality=QUALITY)
            yield f"{name}/{target.name}", total, label


def _video(name: str, photographs: dict[str, Image.Image], rng: np.random.Generator) -> Iterator[Image.Image]:
    scenery = list(SCENERY)
    behind = ImageEnhance.Contrast(_crop(photographs[scenery[rng.integers(len(scenery))]], SIZE, rng)).enhance(CONTRAST)
    front = photographs[TEXTURES.get(name) or scenery[rng.integers(len(scenery))]]
    patch = _crop(front, 2 * SIZE, rng)
    motion = MOTIONS.get(name) or list(MOTIONS.values())[rng.integers(len(MOTIONS))]
    count = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    strength, corners = rng.uniform(0.6, 1.0), int(rng.choice([3, 4, 5, 24]))
    x, y, radius, angle = *rng.uniform(-8, 8, 2), rng.uniform(12, 20), rng.uniform(0, 2 * math.pi)
    drift, shift = rng.uniform(-0.25, 0.25), rng.uniform(0.8, 1.2)
    for u in np.linspace(-1, 1, count):
        dx, dy, zoom, turn = motion(float(u), strength)
        frame = _paste(behind, patch, (x + dx, y + dy, radius * zoom, angle + turn), corners)
        yield ImageEnhance.Brightness(frame).enhance(shift + drift * float(u))


def _paste(behind: Image.Image, patch: Image.Image, state: State, corners: int) -> Image.Image:
    """A regular polygon of the patch, its texture moved with it, on the picture behind."""
    x, y, radius, angle = state
    cos, sin = math.cos(angle) * SIZE / 2 / radius, math.sin(angle) * SIZE / 2 / radius
    cx, cy = SIZE / 2 + x, SIZE / 2 + y
    coefficients = (cos, sin, SIZE - cos * cx - sin * cy, -sin, cos, SIZE + sin * cx - cos * cy)
    moved = patch.transform(behind.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    angles = angle + np.arange(corners) * (2 * math.pi / corners)
    mask = Image.new("L", behind.size)
    outline = [(float(cx + radius * math.cos(a)), float(cy + radius * math.sin(a))) for a in angles]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return Image.composite(moved, behind, mask)


def _photograph(name: str, top: float, bottom: float) -> Image.Image:
    with as_file(files("skimage") / "data" / name) as path:
        photograph = read_image(path)
    return photograph.crop((0, round(top * photograph.height), photograph.width, round(bottom * photograph.height)))


def _crop(photograph: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    side = rng.uniform(0.3, 0.9) * min(photograph.size)
    x, y = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
    return photograph.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
