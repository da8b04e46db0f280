"""Pictures: instances on a photograph beside its supports, attention to class centres, precision by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from repertory.core.printing import figure_text
from repertory.papers.reft.model import Detections
from repertory.tasks.segmentation import overlay, palette

STRIP = 12
"""Supports that are shown; the picture says how many are left out."""
NAMED = 12
"""Instances that are named in a picture."""


def instance_picture(
    image: NDArray[np.uint8], found: Detections, names: Sequence[str], title: str, supports: NDArray[np.uint8],
    labels: Sequence[int],
) -> Figure:  # fmt: skip
    """A photograph, the same with coloured masks, names and scores, and a strip of supports with their outlines.

    Args:
        image: (H, W, 3).
        found: instances to show, best first.
        names: of the classes; a class has the same colour in masks and supports.
        title: text from data; shown literally.
        supports: (S, 4, h, w) of 8 bits, image and mask.
        labels: (S,) of the supports.
    """
    colours = palette(len(names))
    shown = min(len(supports), STRIP)
    height, width = image.shape[:2]
    rows = [max(2.4, 4.4 * height / width), *([1.1] if shown else [])]
    figure = Figure(figsize=(9.5, sum(rows) + 0.7), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    left, right = parts[0].subplots(1, 2)
    left.imshow(image)
    left.set_title(figure_text(title), fontsize=9)
    ids = np.full((height, width), -1)
    for mask, label in reversed(list(zip(found.masks.cpu().numpy(), found.labels.tolist(), strict=True))):
        ids[mask] = label
    right.imshow(overlay(image, ids, colours))
    rows_of = list(zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True))
    for (x1, y1, x2, y2), label, score in rows_of[:NAMED]:
        colour = colours[label] / 255
        right.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=1.2))
        text = figure_text(f"{names[label]} {score:.2f}")
        right.text(
            x1, y1, text, fontsize=7, color="white", va="top", clip_on=True,
            bbox={"facecolor": colour * 0.7, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    right.set_title("nothing found" if not len(rows_of) else f"{len(rows_of)} found", fontsize=9)
    for axes in (left, right):
        axes.set_axis_off()
    if shown:
        _strip(parts[1], supports, labels, names, shown)
    return figure


def _strip(
    figure: SubFigure, supports: NDArray[np.uint8], labels: Sequence[int], names: Sequence[str], shown: int
) -> None:
    """A row of supports, evenly over the classes, each with its mask in the colour of its class."""
    colours = palette(len(names))
    order = sorted(range(len(labels)), key=lambda k: (sum(label == labels[k] for label in labels[:k]), labels[k]))
    left_out = len(labels) - shown
    figure.suptitle("supports" + (f", {left_out} more are not shown" if left_out else ""), fontsize=8)
    for axes, k in zip(figure.subplots(1, max(shown, 8)), [*sorted(order[:shown]), *[None] * 8], strict=False):
        axes.set_axis_off()
        if k is not None:
            picture, mask = supports[k, :3].transpose(1, 2, 0), supports[k, 3] > 127
            axes.imshow(overlay(picture, np.where(mask, labels[k], -1), colours, alpha=0.5))
            axes.set_title(figure_text(names[labels[k]]), fontsize=7)


def attention_picture(image: NDArray[np.uint8], maps: NDArray[np.float64], names: Sequence[str], title: str) -> Figure:
    """Where the features of an image attend to each class centre, and to none of them.

    Args:
        image: (H, W, 3).
        maps: (n + 1, h, w), of the classes with supports, and "none" last.
        names: of these classes.
        title: text from data; shown literally.
    """
    count = len(maps) + 1
    columns = min(count, 5)
    figure = Figure(figsize=(2 * columns, 2.2 * -(-count // columns)), layout="constrained")
    cells = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    cells[0].imshow(image)
    cells[0].set_title(figure_text(title), fontsize=8)
    for axes, values, name in zip(cells[1:], maps, [*names, "none"], strict=False):
        axes.imshow(values, vmin=0, vmax=float(maps.max()), cmap="viridis")
        axes.set_title(figure_text(f"{name}, up to {values.max():.2f}"), fontsize=8)
    for axes in cells:
        axes.set_axis_off()
    return figure


def precision_picture(scores: Mapping[str, float], novel: Sequence[str], title: str) -> Figure:
    """Average precision of the masks of each class; novel classes in another colour."""
    known = {name: value for name, value in scores.items() if not np.isnan(value)}
    figure = Figure(figsize=(max(5, 0.32 * len(known)), 3.4), layout="constrained")
    axes = figure.subplots()
    for kind, colour in (("base", "tab:blue"), ("novel", "tab:orange")):
        places = [k for k, name in enumerate(known) if (name in novel) == (kind == "novel")]
        axes.bar(places, [list(known.values())[k] for k in places], color=colour, label=kind)
    axes.set_xticks(range(len(known)), [figure_text(name) for name in known], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("mask AP, %")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
