"""Augmentation of a frame, after the authors' pipeline: dead sensors, motions of the scene, crops, GridMask."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float64]

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of red, green and blue, from 0 to 255."""
PAD = 32
"""Sides of images are padded to a multiple."""
MASKED = 0.25
"""Probability that training sees no images, and that it sees no points."""


@dataclass(frozen=True)
class Scene:
    """A frame as arrays."""

    images: tuple[NDArray[np.uint8], ...]
    """Of each view, (h, w, 3)."""
    intrinsics: Array
    """(V, 3, 3), of the images as they are."""
    from_lidar: Array
    """(V, 4, 4), LiDAR -> camera; with scaling and mirroring, once the scene is moved."""
    points: NDArray[np.float32]
    """(N, 5)."""
    boxes: Array
    """(n, 9), see `repertory.data.nuscenes.Frame.boxes`."""
    labels: NDArray[np.int64]


def without_points(scene: Scene) -> Scene:
    """A dead LiDAR: all values of all points are 0, as in the authors' code, so a single pillar is left."""
    return replace(scene, points=scene.points * 0)


def without_images(scene: Scene) -> Scene:
    """Dead cameras: black images, before they are normalised."""
    return replace(scene, images=tuple(image * 0 for image in scene.images))


def modal_mask(scene: Scene, rng: np.random.Generator) -> Scene:
    """Masked-modal training: no images with probability 1/4, no points with probability 1/4 (paper, section 3.5)."""
    draw = rng.random()
    if draw > 1 - MASKED:
        return without_images(scene)
    return without_points(scene) if draw > 1 - 2 * MASKED else scene


def move(scene: Scene, motion: Array) -> Scene:
    """The scene under a similarity (4, 4) of rotation around z, scale, translation and mirroring along x or y.

    Points, boxes and velocities move; projections give the same pixels as before.
    """
    linear = motion[:3, :3]
    scale = float(np.linalg.norm(linear[:, 2]))
    points = scene.points.copy()
    points[:, :3] = points[:, :3] @ linear.T + motion[:3, 3]
    boxes = scene.boxes.copy()
    boxes[:, :3] = boxes[:, :3] @ linear.T + motion[:3, 3]
    boxes[:, 3:6] *= scale
    heading = np.column_stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])]) @ linear[:2, :2].T
    boxes[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    boxes[:, 7:9] = boxes[:, 7:9] @ linear[:2, :2].T
    return replace(scene, points=points, boxes=boxes, from_lidar=scene.from_lidar @ np.linalg.inv(motion))


def random_motion(
    rng: np.random.Generator, turn: float = 0.785, scale: float = 0.1, shift: float = 0.5, flip: float = 0.5
) -> Array:
    """A random similarity (4, 4) for `move`.

    Args:
        rng: draws it.
        turn: largest rotation around z in radians.
        scale: largest relative change of scale.
        shift: standard deviation of the translation along each axis, in metres.
        flip: probability of mirroring along x, and along y.
    """
    yaw, factor = rng.uniform(-turn, turn), rng.uniform(1 - scale, 1 + scale)
    c, s = math.cos(yaw), math.sin(yaw)
    motion = np.eye(4)
    motion[:2, :2] = [[c, -s], [s, c]]
    motion[:3, :3] *= factor
    motion[:3, 3] = rng.normal(0, shift, 3)
    mirror = np.where(rng.random(2) < flip, -1.0, 1.0)
    return np.diag([*mirror, 1.0, 1.0]) @ motion


def crop_of(
    image: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator | None,
    zoom: tuple[float, float],
    flip: float,
) -> tuple[float, int, int, bool]:
    """Factor, left and upper side of the crop in resized pixels, and whether the image is mirrored.

    The crop is at the bottom. Without `rng` the image is resized to cover the crop, and cropped in the middle.

    Args:
        image: height, width.
        size: of the crop.
        rng: draws it.
        zoom: range of the factor relative to that which covers the crop.
        flip: probability of mirroring.
    """
    cover = max(size[0] / image[0], size[1] / image[1])
    factor = cover if rng is None else cover * rng.uniform(*zoom)
    height, width = round(image[0] * factor), round(image[1] * factor)
    spare = max(0, width - size[1])
    left = spare // 2 if rng is None else int(rng.uniform(0, spare)) if spare else 0
    return factor, left, height - size[0], rng is not None and rng.random() < flip


def fit_image(
    image: NDArray[np.uint8], size: tuple[int, int], crop: tuple[float, int, int, bool]
) -> tuple[Tensor, Array]:
    """Resize, crop and mirror an image; what the crop has beyond it is black.

    Args:
        image: (h, w, 3).
        size: height and width of the result.
        crop: see `crop_of`.

    Returns:
        (3, H, W), 0 to 255, and the matrix (3, 3) that maps pixels of the image to those of the result.
    """
    factor, left, top, mirrored = crop
    height, width = round(image.shape[0] * factor), round(image.shape[1] * factor)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if (height, width) != image.shape[:2]:
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    pixels = F.pad(pixels[0], (-left, size[1] + left - width, -top, size[0] + top - height))
    matrix = np.array([[factor, 0, -left], [0, factor, -top], [0, 0, 1.0]])
    if mirrored:
        pixels = pixels.flip(-1)
        matrix = np.array([[-1.0, 0, size[1]], [0, 1, 0], [0, 0, 1]]) @ matrix
    return pixels, matrix


def normalised(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) from 0 to 255, normalised, then padded with zeros to multiples of 32 (at the right, below).

    Sizes that are a multiple of 8 and below 128, those of the sample's network, stay as they are.
    """
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    pixels = (pixels - mean) / std
    height, width = pixels.shape[-2:]
    if height < 4 * PAD and height % 8 == 0 and width % 8 == 0:
        return pixels
    return F.pad(pixels, (0, -width % PAD, 0, -height % PAD))


def grid_mask(size: tuple[int, int], rng: np.random.Generator, ratio: float = 0.5) -> Tensor:
    """A mask (H, W) of 0 and 1 that keeps stripes and hides the squares between them, for all views of a frame.

    GridMask (Chen et al., arXiv 2001.04086) with the authors' mode 1.

    Args:
        size: height, width.
        rng: draws period and offsets.
        ratio: width of a stripe relative to the period.
    """
    period = int(rng.integers(2, max(3, size[0])))
    length = min(max(int(ratio * period + 0.5), 1), max(1, period - 1))
    offset_row, offset_column = rng.integers(period, size=2)
    row = (np.arange(size[0]) - offset_row) % period >= length
    column = (np.arange(size[1]) - offset_column) % period >= length
    return torch.from_numpy(~(row[:, None] & column)).float()
