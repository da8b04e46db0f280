"""The sample: scenes of twelve shapes in COCO's layout, eight base classes and four novel ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from repertory.core.files import write_json, write_text
from repertory.core.problem import require
from repertory.data import coco, few_shot_coco

SIZE = 64
"""Height and width of a scene in pixels."""
SIDES = (22, 38)
"""Smallest and largest diameter of a shape in pixels."""
TURN = 25
"""Largest rotation in degrees."""
MOST = 2
"""Objects of a scene."""
SEEN = 0.5
"""Share of a shape that others must not cover."""
CROWD_EVERY = 15
"""In every fifteenth held-out scene a cluster of small shapes is a crowd."""
SEEDS = (0, 1, 2)

Points = NDArray[np.float64]


def _arc(start: float, end: float, radius: float = 1.0, centre: float = 0.0, count: int = 24) -> Points:
    """Points on an arc around (centre, 0), degrees."""
    angles = np.radians(np.linspace(start, end, count))
    return np.stack([centre + radius * np.cos(angles), radius * np.sin(angles)], 1)


def _regular(count: int) -> Points:
    return _arc(-90, 270 - 360 / count, count=count)


def _star() -> Points:
    return np.stack([_regular(5), 0.42 * _arc(-54, 234, count=5)], 1).reshape(-1, 2)


def _plus() -> Points:
    a, b = 0.32, 1.0
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a)]
    return np.array([*corners, (-a, -a)])


def _crescent() -> Points:
    """A disc without a disc of 0.85 of its radius, 0.55 to the right."""
    reach = math.degrees(math.acos((1 + 0.55**2 - 0.85**2) / (2 * 0.55)))
    inner = math.degrees(math.atan2(math.sin(math.radians(reach)), math.cos(math.radians(reach)) - 0.55))
    return np.concatenate([_arc(reach, 360 - reach), _arc(360 - inner, inner, 0.85, 0.55)])


OUTLINES: Mapping[str, Callable[[], Points]] = {
    "disc": lambda: _arc(0, 345),
    "square": lambda: 0.8 * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]),
    "triangle": lambda: _regular(3),
    "ring": lambda: _arc(0, 345),
    "plus": _plus,
    "star": _star,
    "bar": lambda: np.array([[-1.0, -0.3], [1, -0.3], [1, 0.3], [-1, 0.3]]),
    "half-disc": lambda: _arc(0, 180),
    "diamond": lambda: np.array([[0.0, -1], [0.6, 0], [0, 1], [-0.6, 0]]),
    "pentagon": lambda: _regular(5),
    "crescent": _crescent,
    "arrow": lambda: np.array([[-1.0, -0.25], [0, -0.25], [0, -0.8], [1, 0], [0, 0.8], [0, 0.25], [-1, 0.25]]),
}
"""Class -> outline of radius 1 around the origin; a ring has a hole of half its radius."""
IDS = {name: 2 * number + 1 for number, name in enumerate(OUTLINES)}
"""With gaps, as COCO's have."""
NOVEL = ("star", "crescent", "arrow", "ring")


class Shape(NamedTuple):
    """One object of a scene."""

    kind: str
    outline: Points
    """(n, 2): x, y in pixels"""
    mask: NDArray[np.bool_]
    """what is seen of it"""
    whole: bool
    """nothing covers it"""


def _polygon_mask(outline: Points) -> NDArray[np.bool_]:
    coder = require("pycocotools.mask", "detection")
    runs = coder.frPyObjects([outline.ravel().tolist()], SIZE, SIZE)
    return coder.decode(runs)[..., 0].astype(bool)


def _drawn(rng: np.random.Generator, kind: str, low: float, high: float) -> tuple[Points, NDArray[np.bool_]]:
    """Outline and mask of a shape at a random place."""
    radius = rng.uniform(low, high) / 2
    turn = math.radians(rng.uniform(-TURN, TURN))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    outline = OUTLINES[kind]() @ rotation.T * radius + centre
    mask = _polygon_mask(outline)
    if kind == "ring":
        mask &= ~_polygon_mask((outline - centre) / 2 + centre)
    return outline.clip(0, SIZE).round(2), mask


def _shapes(rng: np.random.Generator) -> list[Shape]:
    """One or two shapes; the later one may cover the earlier one, in part."""
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        kind = str(rng.choice(list(OUTLINES)))
        outline, mask = _drawn(rng, kind, *SIDES)
        seen = [shape.mask & ~mask for shape in shapes]
        if any(left.sum() < SEEN * shape.mask.sum() for left, shape in zip(seen, shapes, strict=True)):
            continue
        covered = [bool((shape.mask & mask).any()) for shape in shapes]
        shapes = [
            shape._replace(mask=left, whole=shape.whole and not hit)
            for shape, left, hit in zip(shapes, seen, covered, strict=True)
        ]
        shapes.append(Shape(kind, outline, mask, kind != "ring"))
    return shapes


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour gradient, (H, W, 3) from 0 to 255."""
    start, end = rng.uniform(40, 215, (2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    share = (math.cos(angle) * x + math.sin(angle) * y) / math.sqrt(2) + 0.5
    return start + share[..., None] * (end - start)


def _painted(canvas: NDArray[np.float64], mask: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Fill a mask with a random colour that differs from what was there."""
    before = canvas[mask].mean(0) if mask.any() else np.zeros(3)
    colour = max((rng.uniform(0, 255, 3) for _ in range(4)), key=lambda c: float(np.abs(c - before).sum()))
    canvas[mask] = colour


def _scene(rng: np.random.Generator, crowd: bool) -> tuple[Image.Image, list[Shape], NDArray[np.bool_] | None]:
    """A picture, its objects, and the mask of a crowd of discs."""
    canvas, shapes, cluster = _background(rng), _shapes(rng), None
    if crowd:
        cluster = np.zeros((SIZE, SIZE), bool)
        for _ in range(6):
            cluster |= _drawn(rng, "disc", 5, 8)[1]
        for shape in shapes:
            cluster &= ~shape.mask
        _painted(canvas, cluster, rng)
    for shape in shapes:
        _painted(canvas, shape.mask, rng)
    canvas += rng.normal(0, 9, canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), shapes, cluster


def _row(number: int, image: int, kind: str, mask: NDArray[np.bool_], outline: Points | None) -> dict[str, Any]:
    """An annotation: a polygon where there is an outline, else run lengths, packed for odd numbers."""
    y, x = np.nonzero(mask)
    box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
    if outline is not None:
        segmentation: Any = [outline.ravel().tolist()]
    elif number % 2:
        (segmentation,) = coco.packed_masks(torch.from_numpy(mask)[None])
    else:
        segmentation = coco.unpacked(mask)
    return {
        "id": number, "image_id": image, "category_id": IDS[kind], "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
        "segmentation": segmentation,
    }  # fmt: skip


def write_sample(folder: Path, seed: int, train: int, val: int, shots: tuple[int, ...]) -> None:
    """Write scenes, annotations, and the files of shots for seeds 0 to 2.

    Args:
        folder: images/, annotations/, cocosplit/ and novel_classes.txt are made in it.
        seed: of all that is drawn.
        train: training scenes.
        val: held-out scenes.
        shots: K.
    """
    (folder / "images").mkdir(parents=True)
    categories = [
        {"id": k, "name": name, "supercategory": "novel" if name in NOVEL else "base"} for name, k in IDS.items()
    ]
    number = 0
    for part, count in (("train", train), ("val", val)):
        rng = np.random.default_rng([seed, count, part == "val"])
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        rows = content["annotations"]
        for place in range(count):
            number += 1
            image, shapes, cluster = _scene(rng, part == "val" and place % CROWD_EVERY == 0)
            name = f"{number:012d}.jpg"
            image.save(folder / "images" / name, quality=92)
            content["images"].append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
            for kind, outline, mask, whole in shapes:
                rows.append(_row(len(rows) + 1, number, kind, mask, outline if whole else None))
            if cluster is not None and cluster.any():
                rows.append({**_row(2 * len(rows), number, "disc", cluster, None), "id": len(rows) + 1, "iscrowd": 1})
        write_json(folder / "annotations" / f"instances_{part}.json", content)
        if part == "train":
            data = coco.from_content(content, folder, folder / "images", masks=True)
            few_shot_coco.write_shots(folder, content, data, SEEDS, shots)
    write_text(folder / few_shot_coco.NOVEL_FILE, "".join(f"{name}\n" for name in NOVEL))
