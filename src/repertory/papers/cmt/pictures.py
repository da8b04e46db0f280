"""Pictures of detections: boxes on the images of all cameras, above the scene from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from repertory.core.printing import figure_text
from repertory.core.problem import Problem
from repertory.data.boxes3d import EDGES, corners, moved
from repertory.data.images import read_image
from repertory.data.nuscenes import CAMERAS, CLASSES, Camera

Array = NDArray[np.float64]

ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
"""As they are shown: left to right, front above."""
COLOURS = {name: matplotlib.colormaps["tab10"](number) for number, name in enumerate(CLASSES)}
NEAR = 0.1
"""Metres in front of a camera at which edges are cut."""
FRONT = (0, 1, 3, 2)
"""Corners of the front face, around it."""
POINTS = 40_000
"""Points in the picture, at most."""


@dataclass(frozen=True)
class Drawn:
    """Boxes to draw, in LiDAR coordinates."""

    boxes: Array
    """(n, 7 or more)"""
    names: Sequence[str]


def edges_in_image(boxes: Array, from_lidar: Array, intrinsic: Array) -> list[Array]:
    """Edges of boxes in pixels, of each box (edges, 2, 2), cut at the camera's plane; behind it there are none."""
    found = []
    for places in moved(corners(boxes), from_lidar):
        lines = []
        for a, b in EDGES:
            p, q = places[a], places[b]
            if max(p[2], q[2]) <= NEAR:
                continue
            if p[2] < NEAR:
                p = p + (NEAR - p[2]) / (q[2] - p[2]) * (q - p)
            elif q[2] < NEAR:
                q = q + (NEAR - q[2]) / (p[2] - q[2]) * (p - q)
            pixels = np.stack([p, q]) @ intrinsic.T
            lines.append(pixels[:, :2] / pixels[:, 2:])
        found.append(np.array(lines).reshape(-1, 2, 2))
    return found


def detection_picture(
    cameras: Sequence[Camera],
    points: NDArray[np.float32],
    found: Drawn,
    truth: Drawn | None,
    reach: tuple[float, float, float, float],
    title: str,
    colours: Mapping[str, Any] | None = None,
) -> Figure:
    """The images with detected boxes, above points and boxes from above: detected solid, true dashed, a tick ahead.

    An image that cannot be read is left blank, with the reason.

    Args:
        cameras: of the frame.
        points: (N, 5), in LiDAR coordinates.
        found: detections.
        truth: true boxes, if known.
        reach: x0, y0, x1, y1 in metres of the view from above.
        title: escaped for matplotlib.
        colours: name of a class -> colour; default: those of nuScenes' classes.
    """
    table = {**COLOURS, **(colours or {})}
    views = {camera.channel: camera for camera in cameras}
    channels = [c for c in (*ORDER, *CAMERAS) if c in views]
    channels = list(dict.fromkeys([*channels, *views]))
    columns = max(1, min(3, len(channels)))
    rows = -(-len(channels) // columns)
    figure = Figure(figsize=(10, 1.9 * rows + 7.2), layout="constrained")
    figure.suptitle(figure_text(title), fontsize=10)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[1.0] * rows, 3.6])
    for place, channel in enumerate(channels):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _draw_view(axes, views[channel], found, table)
    _draw_bird(figure.add_subplot(grid[rows, :]), points, found, truth, reach, table)
    return figure


def _draw_view(axes: Axes, camera: Camera, found: Drawn, table: Mapping[str, Any]) -> None:
    axes.set_title(figure_text(camera.channel), fontsize=7)
    axes.set_axis_off()
    try:
        image = np.array(read_image(camera.path, upright=False))
    except Problem as problem:
        axes.text(0.5, 0.5, figure_text(problem.what), ha="center", fontsize=7, wrap=True)
        return
    axes.imshow(image)
    for lines, name in zip(edges_in_image(found.boxes, camera.from_lidar, camera.intrinsic), found.names, strict=True):
        axes.add_collection(LineCollection(list(lines), colors=[table.get(name, "red")], linewidths=1.2))
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _draw_bird(
    axes: Axes,
    points: NDArray[np.float32],
    found: Drawn,
    truth: Drawn | None,
    reach: tuple[float, float, float, float],
    table: Mapping[str, Any],
) -> None:
    step = max(1, len(points) // POINTS)
    axes.scatter(points[::step, 0], points[::step, 1], s=0.3, c="0.6", linewidths=0, rasterized=True)
    axes.plot(0, 0, "k^", markersize=6)
    for drawn, style in ((truth, "--"), (found, "-")):
        if drawn is None:
            continue
        for box, name in zip(drawn.boxes, drawn.names, strict=True):
            place = corners(box[None])[0]
            outline = place[[1, 3, 7, 5, 1], :2]
            colour = "black" if style == "--" else table.get(name, "red")
            axes.plot(*outline.T, style, color=colour, linewidth=1.2)
            ahead = np.stack([box[:2], place[list(FRONT), :2].mean(0)])
            axes.plot(*ahead.T, style, color=colour, linewidth=1.2)
    names = list(dict.fromkeys(found.names))
    handles = [Line2D([], [], color=table.get(name, "red"), label=figure_text(name)) for name in names]
    if truth is not None:
        handles.append(Line2D([], [], color="black", linestyle="--", label="true box"))
    handles.append(Line2D([], [], color="black", marker="^", linestyle="", label="LiDAR"))
    axes.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.set_xlim(reach[0], reach[2])
    axes.set_ylim(reach[1], reach[3])
    axes.set_aspect("equal")
    axes.set_xlabel("x, to the right, m", fontsize=8)
    axes.set_ylabel("y, ahead, m", fontsize=8)


def class_picture(tables: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Average precision of each class in per cent, a bar for each condition.

    Args:
        tables: condition -> class -> average precision.
        title: of the picture.
    """
    conditions = list(tables)
    names = list(tables[conditions[0]])
    figure = Figure(figsize=(1.8 + 1.1 * len(names), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        places = np.arange(len(names)) + (number - (len(conditions) - 1) / 2) * width
        axes.bar(places, [tables[condition][name] for name in names], width, label=condition)
    axes.set_xticks(range(len(names)), [figure_text(name) for name in names])
    axes.set_ylabel("average precision, %")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, frameon=False)
    return figure
