"""Key frames as tensors for the network: read, augmented, put into batches."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from repertory.core.problem import Problem
from repertory.data.images import CACHE_BYTES, read_image
from repertory.data.nuscenes import Frame
from repertory.papers.cmt.augmentation import (
    Scene,
    crop_of,
    fit_image,
    grid_mask,
    modal_mask,
    move,
    normalised,
    random_motion,
)
from repertory.papers.cmt.encoding import Bounds

SIZES_SEEN = 0.1
"""Metres: smallest side of a box that can be learnt, since its logarithm is."""


class Batch(NamedTuple):
    """Frames for `CMT.forward`."""

    images: Tensor
    """(B, V, 3, H, W)"""
    lidar2img: Tensor
    """(B, V, 4, 4)"""
    points: list[Tensor]
    """(N, 5) each"""
    boxes: list[Tensor]
    """(n, 9) each"""
    labels: list[Tensor]
    """(n,) each"""


class Item(NamedTuple):
    """One frame of a batch, see `Batch`."""

    images: Tensor
    lidar2img: Tensor
    points: Tensor
    boxes: Tensor
    labels: Tensor


def collate(items: Sequence[Item]) -> Batch:
    """Frames -> a batch."""
    images, lidar2img, points, boxes, labels = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.stack(lidar2img), list(points), list(boxes), list(labels))


@dataclass(frozen=True)
class Augmentation:
    """What training changes at random; the defaults change nothing."""

    masked: bool = False
    """Masked-modal training."""
    turn: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    image_flip: float = 0.0
    grid_mask: float = 0.0
    """Probability of GridMask."""
    paste: Callable[[Scene, np.random.Generator], Scene] | None = field(default=None, compare=False)
    """Ground-truth sampling."""


class FrameSet(Dataset[Item]):
    """Key frames as items of the network.

    Images and points of a small data set are kept in memory.

    Args:
        frames: key frames.
        classes: names; boxes of others are left out.
        cameras: names of the views, in order; a view that a frame lacks is black.
        size: height and width of the images.
        bounds: of the scene; boxes with centres outside, in x and y, are left out.
        sweeps: LiDAR sweeps.
        augmentation: None: evaluation, with all boxes.
        sensor: changes the scene before anything else: a dead sensor.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        classes: Sequence[str],
        cameras: Sequence[str],
        size: tuple[int, int],
        bounds: Bounds,
        sweeps: int,
        augmentation: Augmentation | None = None,
        sensor: Callable[[Scene], Scene] | None = None,
    ) -> None:
        self.frames, self.classes, self.cameras = list(frames), list(classes), tuple(cameras)
        self.size, self.bounds, self.sweeps = size, bounds, sweeps
        self.augmentation, self.sensor = augmentation, sensor
        self.kept: dict[str, Scene] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def with_changes(
        self, augmentation: Augmentation | None = None, sensor: Callable[[Scene], Scene] | None = None
    ) -> FrameSet:
        """The same frames, and what is kept of them in memory, with another augmentation or a dead sensor."""
        changed = copy.copy(self)
        changed.augmentation, changed.sensor = augmentation, sensor
        return changed

    def of_rows(self, rows: Sequence[int]) -> FrameSet:
        """The frames of some rows, which may repeat."""
        changed = copy.copy(self)
        changed.frames = [self.frames[row] for row in rows]
        return changed

    def scene(self, frame: Frame) -> Scene:
        """A frame as arrays, with boxes that have LiDAR points."""
        if frame.token in self.kept:
            return self.kept[frame.token]
        found = {camera.channel: camera for camera in frame.cameras}
        images, intrinsics, projections = [], [], []
        for channel in self.cameras:
            camera = found.get(channel)
            if camera is None:
                images.append(np.zeros((*self.size, 3), np.uint8))
                intrinsics.append(np.array([[1.0, 0, self.size[1] / 2], [0, 1, self.size[0] / 2], [0, 0, 1]]))
                projections.append(_nowhere())
            else:
                images.append(np.array(read_image(camera.path, upright=False)))
                intrinsics.append(camera.intrinsic)
                projections.append(camera.from_lidar)
        kept = np.flatnonzero((frame.lidar_points > 0) & np.isin(frame.truth.name, self.classes))
        labels = np.array([self.classes.index(name) for name in frame.truth.name[kept].tolist()], np.int64)
        points = frame.points(self.sweeps)
        if not np.isfinite(points).all():
            finite = np.isfinite(points).all(1)
            warnings.warn(
                f"frame {frame.token}: {int((~finite).sum())} points are not finite and are dropped", stacklevel=2
            )
            points = points[finite]
        scene = Scene(
            tuple(images),
            np.array(intrinsics).reshape(-1, 3, 3),
            np.array(projections).reshape(-1, 4, 4),
            points,
            np.nan_to_num(frame.boxes[kept]),
            labels,
        )
        weight = scene.points.nbytes + sum(image.nbytes for image in scene.images)
        if weight * len(self.frames) <= CACHE_BYTES:
            self.kept[frame.token] = scene
        return scene

    def __getitem__(self, index: int) -> Item:
        scene = self.scene(self.frames[index])
        if self.sensor is not None:
            scene = self.sensor(scene)
        rng = None
        chosen = self.augmentation
        if chosen is not None:
            rng = np.random.default_rng(int(torch.randint(2**31, ())))
            if chosen.paste is not None:
                scene = chosen.paste(scene, rng)
            if chosen.masked:
                scene = modal_mask(scene, rng)
            scene = move(scene, random_motion(rng, chosen.turn, chosen.scale, chosen.shift, chosen.flip))
            scene = within(scene, self.bounds)
        images, projections = self._images(scene, rng, chosen or Augmentation())
        return Item(
            images,
            projections,
            torch.from_numpy(scene.points),
            torch.from_numpy(scene.boxes).float(),
            torch.from_numpy(scene.labels),
        )

    def _images(self, scene: Scene, rng: np.random.Generator | None, chosen: Augmentation) -> tuple[Tensor, Tensor]:
        """Images (V, 3, H, W) and projections (V, 4, 4); a crop of its own for each view, mirrored or not together."""
        views, projections = [], []
        flip = 0.0 if rng is None else float(rng.random() < chosen.image_flip)
        for image, intrinsic, from_lidar in zip(scene.images, scene.intrinsics, scene.from_lidar, strict=True):
            crop = crop_of((image.shape[0], image.shape[1]), self.size, rng, chosen.zoom, flip)
            pixels, matrix = fit_image(image, self.size, crop)
            full = np.eye(4)
            full[:3, :3] = matrix @ intrinsic
            views.append(pixels)
            projections.append(full @ from_lidar)
        if not views:
            return torch.zeros(0, 3, *self.size), torch.zeros(0, 4, 4)
        images = normalised(torch.stack(views))
        if rng is not None and rng.random() < chosen.grid_mask:
            images = images * grid_mask((images.shape[-2], images.shape[-1]), rng)
        return images, torch.from_numpy(np.stack(projections)).float()


def within(scene: Scene, bounds: Bounds) -> Scene:
    """The scene with the boxes whose centres are within the bounds, in x and y."""
    x0, y0, _, x1, y1, _ = bounds
    x, y = scene.boxes[:, 0], scene.boxes[:, 1]
    kept = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return Scene(scene.images, scene.intrinsics, scene.from_lidar, scene.points, scene.boxes[kept], scene.labels[kept])


def _nowhere() -> np.ndarray:
    """LiDAR -> a camera that looks straight down from far above, for a view that a frame lacks: it sees no object."""
    return np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, -1000], [0, 0, 0, 1]])


def class_balanced(frames: Sequence[Frame], classes: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Rows of frames drawn with replacement so that all classes are in equally many: CBGS (Zhu et al., 2019).

    For each class as many frames are drawn from those that hold it as an equal share of all (frame, class) pairs; from
    memory of mmdetection3d.

    Raises:
        Problem: no frame holds any of the classes.
    """
    holding = [[row for row, frame in enumerate(frames) if name in frame.truth.name] for name in classes]
    holding = [rows for rows in holding if rows]
    if not holding:
        raise Problem("no frame has a box of the classes", "training data", f"classes: {', '.join(classes)}")
    share = math.ceil(sum(map(len, holding)) / len(holding))
    return [int(row) for rows in holding for row in rng.choice(rows, share)]
