"""Ground-truth sampling: objects of other frames, pasted into point cloud and images alike (Yan et al., SECOND)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repertory.data.boxes3d import corners, inside, moved, overlapping
from repertory.papers.cmt.augmentation import Scene
from repertory.papers.cmt.items import FrameSet

Array = NDArray[np.float64]

COUNTS: Mapping[str, int] = {
    "car": 2, "truck": 3, "construction_vehicle": 7, "bus": 4, "trailer": 6, "barrier": 2, "motorcycle": 6,
    "bicycle": 6, "pedestrian": 2, "traffic_cone": 2,
}  # fmt: skip
"""Objects of a class that a frame is filled up to, as published."""
LEAST_POINTS = 5
MIXED = 0.5
"""Share of the pasted crop in the pixels of its rectangle."""
NEAR = 0.3


class Paster:
    """Fill up a scene with objects of other frames, at the places that they have there.

    Objects that would overlap are left out. Points within a pasted box are replaced by the object's. In each image the
    object's rectangle is mixed with the one that it had in its own frame, from far to near.

    Args:
        source: training frames; they are read when an object is taken from them.
        counts: class -> objects to fill up to.
    """

    def __init__(self, source: FrameSet, counts: Mapping[str, int] = COUNTS) -> None:
        self.source, self.counts = source, counts
        self.places: dict[str, list[tuple[int, int]]] = {name: [] for name in source.classes}
        for number, frame in enumerate(source.frames):
            seen = np.flatnonzero((frame.lidar_points > 0) & np.isin(frame.truth.name, source.classes))
            for row, kept in enumerate(seen):
                if frame.lidar_points[kept] >= LEAST_POINTS:
                    self.places[str(frame.truth.name[kept])].append((number, row))

    def __call__(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The scene with pasted objects."""
        drawn: list[tuple[Scene, int]] = []
        boxes = scene.boxes
        for label, name in enumerate(self.source.classes):
            missing = self.counts.get(name, 0) - int((scene.labels == label).sum())
            for place in rng.permutation(len(self.places[name]))[: max(0, missing)]:
                number, row = self.places[name][place]
                other = self.source.scene(self.source.frames[number])
                if len(boxes) and overlapping(other.boxes[row : row + 1], boxes).any():
                    continue
                boxes = np.concatenate([boxes, other.boxes[row : row + 1]])
                drawn.append((other, row))
        return self._pasted(scene, drawn) if drawn else scene

    def _pasted(self, scene: Scene, drawn: Sequence[tuple[Scene, int]]) -> Scene:
        drawn = sorted(drawn, key=lambda one: -float(np.linalg.norm(one[0].boxes[one[1], :2])))
        images = [image.copy() for image in scene.images]
        points = scene.points
        for other, row in drawn:
            box = other.boxes[row : row + 1]
            own = other.points[inside(other.points[:, :3].astype(float), box)[0]]
            points = np.concatenate([points[~inside(points[:, :3].astype(float), box)[0]], own])
            for view, image in enumerate(images):
                target = rectangle(box, scene.from_lidar[view], scene.intrinsics[view], image.shape[:2])
                crop = rectangle(box, other.from_lidar[view], other.intrinsics[view], other.images[view].shape[:2])
                if target is not None and crop is not None:
                    _mix(image, target, other.images[view], crop)
        return replace(
            scene,
            images=tuple(images),
            points=points,
            boxes=np.concatenate([scene.boxes, *(other.boxes[row : row + 1] for other, row in drawn)]),
            labels=np.concatenate([scene.labels, [other.labels[row] for other, row in drawn]]).astype(np.int64),
        )


def rectangle(
    box: Array, from_lidar: Array, intrinsic: Array, image: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Left, upper, right, lower pixel of the rectangle around a projected box (1, 7 or more); None: not seen."""
    places = moved(corners(box)[0], from_lidar)
    if places[:, 2].min() < NEAR:
        return None
    pixels = places @ intrinsic.T
    u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    left, right = (int(np.clip(x, 0, image[1])) for x in (np.floor(u.min()), np.ceil(u.max())))
    upper, lower = (int(np.clip(y, 0, image[0])) for y in (np.floor(v.min()), np.ceil(v.max())))
    return (left, upper, right, lower) if right > left and lower > upper else None


def _mix(
    image: NDArray[np.uint8],
    target: tuple[int, int, int, int],
    other: NDArray[np.uint8],
    crop: tuple[int, int, int, int],
) -> None:
    """Mix the crop of another image, resized by nearest neighbours, into a rectangle of an image, in place."""
    left, upper, right, lower = target
    rows = crop[1] + np.arange(lower - upper) * (crop[3] - crop[1]) // (lower - upper)
    columns = crop[0] + np.arange(right - left) * (crop[2] - crop[0]) // (right - left)
    part = image[upper:lower, left:right].astype(float)
    image[upper:lower, left:right] = ((1 - MIXED) * part + MIXED * other[rows][:, columns]).astype(np.uint8)
