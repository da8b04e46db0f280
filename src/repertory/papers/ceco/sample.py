"""A small long-tailed sample in ADE20K's layout: textured shapes in scenes of sky, wall, ground.

Objects are a shape in a texture. The frequent half has one texture for each shape, the rare half the same shapes in
another one, so that each rare class has a frequent double; rare objects are smaller too, and each class prefers one
kind of scene. A shape has a hue of its own, of a range that overlaps with the next ones; doubles share it.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repertory.data import ade20k

SIZE = 48
SHAPES = ("disc", "square", "triangle", "ring", "star", "cross", "bar")
FREQUENT, RARE = "plain", "striped"
STUFF = ("sky", "grass", "wall", "floor", "water", "sand")
SCENES = (("sky", "grass"), ("wall", "floor"), ("sky", "water", "sand"), ("wall", "sand"))
"""Bands of each kind of scene, from the top."""
OBJECTS = tuple(f"{texture} {shape}" for texture in (FREQUENT, RARE) for shape in SHAPES)
CLASSES = (*STUFF, *OBJECTS)
HUES = {"sky": 0.58, "grass": 0.3, "wall": 0.08, "floor": 0.06, "water": 0.52, "sand": 0.12}
DECAY = 0.85
"""Frequency of an object class relative to the next more frequent one."""
LARGEST, SMALLEST = 10.0, 7.0
"""Mean radius in pixels of the most frequent and the rarest class."""
HUE_SPREAD = 0.08
"""Standard deviation of an object's hue; those of two shapes are at least 0.14 apart."""
AT_LEAST = 4
"""Held-out objects of each class."""
AT_HOME = 4.0
"""Odds of an object in the kind of scene that its class prefers, against another one."""


@dataclass
class Plan:
    """What an image will show."""

    scene: int
    objects: list[int]


def write_ade_tiny(folder: Path, train: int, val: int, seed: int) -> None:
    """Write images/, annotations/ and objectInfo150.txt; other seeds draw other images.

    Args:
        folder: empty.
        train: training images.
        val: held-out images; each class has at least 4 objects in them.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    seen = np.zeros((2, len(CLASSES)), int)
    pixels = np.zeros(len(CLASSES))
    for row, (split, count) in enumerate((("train", train), ("val", val))):
        plans = [_plan(rng) for _ in range(count)]
        if split == "val":
            _complete(plans, rng)
        images, annotations = (folder / kind / ade20k.SPLITS[split] for kind in ("images", "annotations"))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for number, plan in enumerate(plans, 1):
            picture, ids = _draw(plan, rng)
            Image.fromarray(picture).save(images / f"ADE_{split}_{number:08d}.jpg", quality=92)
            Image.fromarray(ids).save(annotations / f"ADE_{split}_{number:08d}.png")
            counts = np.bincount(ids.ravel(), minlength=len(CLASSES) + 1)[1:]
            seen[row] += counts > 0
            pixels += counts
    shares = pixels / max(1, pixels.sum())
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [
        f"{k + 1}\t{shares[k]:.4f}\t{seen[0, k]}\t{seen[1, k]}\t{int(name in STUFF)}\t{name}"
        for k, name in enumerate(CLASSES)
    ]
    (folder / ade20k.NAMES).write_text("\n".join(rows) + "\n", encoding="utf-8")


def _plan(rng: np.random.Generator) -> Plan:
    """A scene, and two to four objects by frequency and preference."""
    weights = DECAY ** np.arange(len(OBJECTS))
    scene = int(rng.integers(len(SCENES)))
    weights = weights * np.where(np.arange(len(OBJECTS)) % len(SCENES) == scene, AT_HOME, 1.0)
    count = int(rng.integers(2, 5))
    return Plan(scene, rng.choice(len(OBJECTS), count, p=weights / weights.sum()).tolist())


def _complete(plans: list[Plan], rng: np.random.Generator) -> None:
    """Add objects, each to another image, until every class has `AT_LEAST`; they are drawn last, in front."""
    hosts = iter(rng.permutation(len(plans)).tolist() * len(OBJECTS))
    for k in range(len(OBJECTS)):
        missing = AT_LEAST - sum(plan.objects.count(k) for plan in plans)
        for _ in range(min(missing, len(plans))):
            plans[next(hosts)].objects.append(k)


def _draw(plan: Plan, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (48, 48, 3) and annotation (48, 48): 0 unlabelled, 1 the first class."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    picture, ids = np.empty((SIZE, SIZE, 3)), np.empty((SIZE, SIZE), np.uint8)
    bands = SCENES[plan.scene]
    edges = [0.0, *(SIZE * (k + rng.uniform(-0.25, 0.25)) / len(bands) for k in range(1, len(bands)))]
    for name, edge in zip(bands, edges, strict=True):
        below = y >= edge + rng.uniform(-0.06, 0.06) * (x - SIZE / 2)
        below |= edge == 0
        colour = _colour(HUES[name] + rng.normal(0, 0.04), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.9))
        grain = 1 + 0.04 * rng.standard_normal((SIZE, SIZE))
        picture[below], ids[below] = (colour * grain[..., None])[below], CLASSES.index(name) + 1
    for k in plan.objects:
        rank = k / (len(OBJECTS) - 1)
        radius = (LARGEST + (SMALLEST - LARGEST) * rank) * rng.uniform(0.8, 1.25)
        centre = rng.uniform(0.6 * radius, SIZE - 0.6 * radius, 2)
        angle = rng.uniform(0, 2 * np.pi)
        u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
        u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        inside = _inside(SHAPES[k % len(SHAPES)], u, v)
        hue = k % len(SHAPES) / len(SHAPES) + rng.normal(0, HUE_SPREAD)
        colour = _colour(hue, rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95))
        striped = k >= len(SHAPES)
        shade = 0.75 + 0.25 * np.sign(np.sin(u * radius * 2 * np.pi / 4)) if striped else np.ones_like(u)
        picture[inside] = (colour * shade[..., None])[inside]
        if rng.uniform() < 0.1:
            ids[_grown(inside)] = 0
        ids[inside] = len(STUFF) + k + 1
    light = 1 + rng.uniform(-0.25, 0.25) * (x / SIZE - 0.5) + rng.uniform(-0.25, 0.25) * (y / SIZE - 0.5)
    picture = picture * light[..., None] + rng.normal(0, 0.02, picture.shape)
    return (255 * picture.clip(0, 1)).round().astype(np.uint8), ids


def _colour(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a shape of radius 1 is, in its own coordinates."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    largest = np.maximum(abs(u), abs(v))
    match shape:
        case "disc":
            return r < 0.95
        case "square":
            return largest < 0.85
        case "triangle":
            return r * np.cos((angle + np.pi / 3) % (2 * np.pi / 3) - np.pi / 3) < 0.55
        case "ring":
            return (r < 1) & (r > 0.5)
        case "star":
            return r < 0.72 + 0.34 * np.cos(5 * angle)
        case "cross":
            return (largest < 1) & (np.minimum(abs(u), abs(v)) < 0.33)
        case _:
            return (abs(u) < 1.15) & (abs(v) < 0.4)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbours of 1 pixel."""
    padded = np.pad(mask, 1)
    return np.logical_or.reduce(
        [padded[1 + dy : SIZE + 1 + dy, 1 + dx : SIZE + 1 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    )
