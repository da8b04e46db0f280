"""Boxes and poses in space: quaternions, rigid transforms, corners, points inside.

A box is x, y, z of its centre, dx (along its heading), dy, dz in metres and yaw, its angle from +x around z in radians.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repertory.core.problem import Problem

Array = NDArray[np.float64]

CORNERS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (-1, 1)]) / 2
"""Corners of a unit box: front left, front right, rear left, rear right; the lower one of each first."""
EDGES = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (2, 6), (6, 4), (4, 0), (1, 3), (3, 7), (7, 5), (5, 1))
"""Pairs of corners that an edge joins."""


def rotation(quaternion: Sequence[float], where: object = "") -> Array:
    """The rotation matrix (3, 3) of a quaternion w, x, y, z; a length other than 1 is normalised, with a warning.

    Raises:
        Problem: it is no four finite numbers, or all are 0.

    Example:
        >>> rotation([1, 0, 0, 0]).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    try:
        q = np.array(quaternion, np.float64)
        length = float(np.linalg.norm(q))
    except (TypeError, ValueError):
        q, length = np.zeros(0), math.nan
    if q.shape != (4,) or not math.isfinite(length) or length == 0:
        raise Problem(f"no quaternion: {quaternion}", where, "give w, x, y, z of length 1")
    if abs(length - 1) > 1e-3:
        warnings.warn(f"{where}: a quaternion of length {length:.4g} is normalised", stacklevel=2)
    w, x, y, z = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(matrix: Array) -> list[float]:
    """w, x, y, z of a rotation matrix (3, 3), w at least 0.

    Example:
        >>> quaternion(rotation([0.5, 0.5, -0.5, 0.5]))
        [0.5, 0.5, -0.5, 0.5]
    """
    from scipy.spatial.transform import Rotation  # here: reading needs none

    x, y, z, w = Rotation.from_matrix(matrix).as_quat(canonical=True).tolist()
    return [w, x, y, z]


def about_z(yaw: float) -> Array:
    """The rotation matrix (3, 3) of an angle around z."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def yaw_of(matrix: Array) -> float:
    """The angle of a rotation's x axis around z."""
    return math.atan2(matrix[1, 0], matrix[0, 0])


def pose(matrix: Array, translation: Sequence[float] | Array) -> Array:
    """A rigid transform (4, 4)."""
    full = np.eye(4)
    full[:3, :3], full[:3, 3] = matrix, translation
    return full


def inverse(transform: Array) -> Array:
    """The inverse of a rigid transform (4, 4)."""
    matrix = transform[:3, :3].T
    return pose(matrix, -matrix @ transform[:3, 3])


def moved(points: Array, transform: Array) -> Array:
    """Points (..., 3) under a transform (4, 4)."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def corners(boxes: Array) -> Array:
    """Corners (n, 8, 3) of boxes (n, 7 or more), in the order of `CORNERS`.

    Example:
        >>> corners(np.array([[0, 0, 0, 4, 2, 1, 0.0]]))[0, 0].tolist()
        [2.0, 1.0, -0.5]
    """
    local = CORNERS * boxes[:, None, 3:6]  # (n, 8, 3)
    c, s = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    turned = [c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]]
    return np.stack(turned, -1) + boxes[:, None, :3]


def inside(points: Array, boxes: Array) -> NDArray[np.bool_]:
    """Which points (N, 3) are within which boxes (n, 7 or more), (n, N).

    Example:
        >>> inside(np.zeros((1, 3)), np.array([[0, 0, 0, 4, 2, 1, 0.3]])).tolist()
        [[True]]
    """
    offset = points[None] - boxes[:, None, :3]
    c, s = np.cos(boxes[:, 6, None]), np.sin(boxes[:, 6, None])
    along = c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0], offset[..., 2]
    return np.all(np.abs(np.stack(along, -1)) <= boxes[:, None, 3:6] / 2, axis=-1)


def overlapping(first: Array, second: Array) -> NDArray[np.bool_]:
    """Which boxes (n, 7 or more) overlap which (m, 7 or more) seen from above, (n, m), by separating axes.

    Example:
        >>> a = np.array([[0, 0, 0, 4, 2, 1, 0.0]])
        >>> overlapping(a, a + np.array([[3, 0, 0, 0, 0, 0, 1.0]])).tolist()
        [[True]]
    """
    outlines = [corners(boxes)[:, (0, 2, 6, 4), :2] for boxes in (first, second)]  # (n, 4, 2)
    apart = np.zeros((len(first), len(second)), bool)
    for boxes, axis in ((first, 0), (second, 1)):
        for turn in (0.0, math.pi / 2):
            direction = np.stack([np.cos(boxes[:, 6] + turn), np.sin(boxes[:, 6] + turn)], -1)  # (k, 2)
            spans = []
            for outline, own in zip(outlines, (axis == 0, axis == 1), strict=True):
                if own:
                    along = np.einsum("kcd,kd->kc", outline, direction)
                    along = along[:, None] if axis == 0 else along[None]
                else:
                    along = np.einsum("mcd,kd->kmc", outline, direction)
                    along = along if axis == 0 else along.swapaxes(0, 1)
                spans.append((along.min(-1), along.max(-1)))
            apart |= (spans[0][1] < spans[1][0]) | (spans[1][1] < spans[0][0])
    return ~apart
