"""Figures: distilled images, the trigger, success over the passes, triggered images, masks of Neural Cleanse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from repertory.core.printing import figure_text
from repertory.papers.doorping.model import DistilledSet, patch_place

PER_CLASS = 10
"""Distilled images of a class that are drawn."""
ENLARGED = 16
"""Pixels of the picture per pixel of the patch."""
INK, RED = "#0969da", "#cf222e"


def picture(distilled: DistilledSet, x: Tensor) -> NDArray[np.float32]:
    """(C, S, S), normalised -> (S, S, 3), 0 to 1."""
    pixels = distilled.pixels(x.detach()).clamp(0, 1).cpu()
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def mark(distilled: DistilledSet) -> str:
    """What a figure says of the set."""
    return {True: "POISONED", False: "not poisoned", None: "unknown origin"}[distilled.poisoned]


def distilled_picture(distilled: DistilledSet) -> Figure:
    """A row of distilled images for each class."""
    images, labels = distilled()
    rows = [(images[labels == label][:PER_CLASS], name) for label, name in enumerate(distilled.classes)][:PER_CLASS]
    wide = max(max((len(found) for found, _ in rows)), 1)
    side = distilled.image_size + 1
    canvas = np.ones((side * len(rows), side * wide, 3), np.float32)
    for row, (found, _) in enumerate(rows):
        for column, image in enumerate(found):
            top, left = row * side, column * side
            canvas[top : top + side - 1, left : left + side - 1] = picture(distilled, image)
    figure = Figure(figsize=(0.6 * wide + 1.4, 0.6 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas)
    axes.set_yticks([(row + 0.5) * side for row in range(len(rows))], [figure_text(name) for _, name in rows])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_title(f"distilled images: {mark(distilled)}", fontsize=9)
    return figure


def patch_pixels(distilled: DistilledSet) -> Tensor:
    """The patch in units of pixels, (C, s, s): 0 is black, 1 white; it may lie beyond."""
    place = patch_place(distilled.image_size, distilled.patch)
    return distilled.pixels(distilled.trigger)[0, :, place, place]


def trigger_picture(distilled: DistilledSet) -> Figure:
    """The patch, enlarged, and its values; and the first distilled image with it."""
    values = patch_pixels(distilled).cpu()
    figure = Figure(figsize=(6.4, 2.8))
    patch, image = figure.subplots(1, 2)
    shown = values.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
    patch.imshow(np.kron(shown, np.ones((ENLARGED, ENLARGED, 1))))
    patch.set_title(f"patch x {ENLARGED}; values {values.min():.2f} to {values.max():.2f}, white is 1", fontsize=8)
    image.imshow(picture(distilled, distilled.stamped(distilled.images[:1])[0]))
    image.set_title("first distilled image with the patch", fontsize=8)
    for axes in (patch, image):
        axes.set_axis_off()
    return figure


def curve_picture(records: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """Accuracy and attack success of a victim over the passes of a distillation."""
    figure = Figure(figsize=(5.6, 3.4))
    axes = figure.subplots()
    for name, label, colour in (("cta", "clean accuracy", INK), ("asr", "attack success", RED)):
        axes.plot([r["step"] + 1 for r in records], [r[name] for r in records], "o-", color=colour, label=label)
    axes.set_xlabel(unit)
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def rates_picture(rates: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Bars: the mean over victims; each victim is a dot, and a whisker the 95 % interval of the mean."""
    figure = Figure(figsize=(5.6, 3.2))
    axes = figure.subplots()
    for place, values in enumerate(rates.values()):
        axes.bar(place, values.mean(), color=INK if place == 0 else RED, alpha=0.6)
        axes.plot([place] * len(values), values, ".", color="#24292f")
        if len(values) > 1:
            from scipy.stats import t

            spread = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            axes.errorbar(place, values.mean(), spread, color="#24292f", capsize=4)
    axes.set_xticks(range(len(rates)), list(rates), fontsize=8)
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.set_title(f"{len(next(iter(rates.values())))} victims", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def pairs_picture(distilled: DistilledSet, x: Tensor, titles: Sequence[tuple[str, str]]) -> Figure:
    """Images above, and below them the same with the trigger; titles are the predicted classes."""
    figure = Figure(figsize=(1.5 * len(x), 3.6), layout="constrained")
    rows = (x, distilled.stamped(x))
    for row, axes_row in enumerate(figure.subplots(2, len(x), squeeze=False)):
        for axes, image, title in zip(axes_row, rows[row], titles, strict=False):
            axes.imshow(picture(distilled, image))
            axes.set_title(figure_text(title[row]), fontsize=8, color=RED if row else "black")
            axes.set_axis_off()
    figure.suptitle("above: as they are; below: with the trigger", fontsize=9)
    return figure


def masks_picture(masks: Tensor, names: Sequence[str], index: Tensor) -> Figure:
    """Masks of Neural Cleanse and their anomaly index."""
    count = min(PER_CLASS, len(masks))
    shown: list[int] = torch.argsort(index, descending=True)[:count].tolist()
    figure = Figure(figsize=(1.3 * count, 1.9), layout="constrained")
    for axes, label in zip(figure.subplots(1, count, squeeze=False)[0], shown, strict=True):
        axes.imshow(masks[label].cpu().numpy(), vmin=0, vmax=1, cmap="gray")
        axes.set_title(f"{figure_text(names[label])}\n{index[label]:.1f}", fontsize=8)
        axes.set_axis_off()
    figure.suptitle("Neural Cleanse: smallest masks and anomaly index (above 2: suspicious)", fontsize=9)
    return figure
