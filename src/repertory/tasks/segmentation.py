"""Segmentation: scores of class maps, groups of classes by frequency, augmentation, and pictures.

A class map holds the number of a class for each pixel, (H, W); an ignored label stands for pixels that have none.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from repertory.core.printing import figure_text
from repertory.core.study import Metric

PER_CENT: dict[str, Any] = {"unit": "%", "better": "higher", "decimals": 1}
GROUPS = ("head", "common", "tail")
CROP_TRIES = 10

SEGMENTATION_METRICS: Mapping[str, Metric] = {
    "mIoU": Metric("mean IoU", "平均交并比", **PER_CENT),
    "pixel_accuracy": Metric("pixel accuracy", "像素准确率", **PER_CENT),
    "mean_accuracy": Metric("mean class accuracy", "类别平均准确率", **PER_CENT),
    "mIoU_head": Metric("mean IoU, head classes", "头部类别的平均交并比", **PER_CENT, needs="3 classes or more"),
    "mIoU_common": Metric("mean IoU, common classes", "中部类别的平均交并比", **PER_CENT, needs="3 classes or more"),
    "mIoU_tail": Metric("mean IoU, tail classes", "尾部类别的平均交并比", **PER_CENT, needs="3 classes or more"),
    "iou_class_{x}": Metric("IoU, class {x}", "类别 {x} 的交并比", **PER_CENT),
}
"""What `segmentation_scores` and `group_scores` give."""


# -- scores -------------------------------------------------------------------------------------


def confusion(classes: int, ignore: int) -> MulticlassConfusionMatrix:
    """Counts of pixels, rows the annotated class, columns the predicted one.

    A torchmetrics object: `update(predicted, annotated)` with maps of any equal shape, then `compute()`. All pixels of
    all images are counted together; `ignore` is left out. It merges across processes.
    """
    return MulticlassConfusionMatrix(classes, ignore_index=ignore, validate_args=False)


def class_ious(matrix: Tensor) -> NDArray[np.float64]:
    """Intersection over union of each class, 0 to 1, from a confusion matrix (K, K).

    NaN: the class is neither annotated nor predicted.

    Example:
        >>> class_ious(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(2).tolist()
        [0.75, 0.8, nan]
    """
    m = matrix.double().cpu().numpy()
    hits = m.diagonal()
    return _share(hits, m.sum(0) + m.sum(1) - hits)


def segmentation_scores(matrix: Tensor) -> dict[str, float]:
    """Mean IoU, pixel accuracy and mean class accuracy in per cent; classes that are absent are left out.

    Args:
        matrix: (K, K), see `confusion`.

    Example:
        >>> segmentation_scores(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
        {'mIoU': 77.5, 'pixel_accuracy': 87.5, 'mean_accuracy': 87.5}
    """
    m = matrix.double().cpu().numpy()
    return {
        "mIoU": 100 * _mean(class_ious(matrix)),
        "pixel_accuracy": 100 * float(_share(m.diagonal().sum(), m.sum())),
        "mean_accuracy": 100 * _mean(_share(m.diagonal(), m.sum(1))),
    }


def frequency_groups(counts: Sequence[float] | NDArray[Any]) -> dict[str, list[int]]:
    """Classes in thirds by frequency: "head", "common", "tail", most frequent first; the middle one takes the rest.

    Ties keep the order of the classes. 200 classes give ScanNet200's 66, 68 and 66. Below 3 classes: no groups.

    Example:
        >>> frequency_groups([5, 90, 40, 1])
        {'head': [1], 'common': [2, 0], 'tail': [3]}
    """
    order = np.argsort(-np.asarray(counts, float), kind="stable").tolist()
    third = len(order) // 3
    if not third:
        return {}
    return {"head": order[:third], "common": order[third:-third], "tail": order[-third:]}


def group_scores(matrix: Tensor, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean IoU in per cent of each group of classes, as `mIoU_<group>`; of one whose classes are all absent: none."""
    ious = class_ious(matrix)
    found = {f"mIoU_{name}": 100 * _mean(ious[list(members)]) for name, members in groups.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _share(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


# -- augmentation -------------------------------------------------------------------------------


class RandomRatioResize(v2.Transform):
    """Resize to the largest size that fits into a box times a random ratio; the sides keep their proportion.

    Args:
        box: longer and shorter side in pixels.
        ratio: smallest and largest factor, drawn uniformly.
    """

    def __init__(self, box: tuple[int, int], ratio: tuple[float, float]) -> None:
        super().__init__()
        self.box, self.ratio = box, ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        factor = float(torch.empty(()).uniform_(*self.ratio))
        scale = factor * min(max(self.box) / max(height, width), min(self.box) / min(height, width))
        return {"size": [max(1, round(height * scale)), max(1, round(width * scale))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(TF.resize, inpt, params["size"], antialias=False)


class BalancedCrop(v2.Transform):
    """A random crop in which no class fills more than a share of the labelled pixels, if one of ten tries gives such.

    What lies outside the image is black, and `ignore` in the class map.

    Args:
        size: height and width in pixels.
        share: largest share of a class; 1: any crop.
        ignore: label of pixels that have no class.
    """

    def __init__(self, size: int, share: float, ignore: int) -> None:
        super().__init__()
        self.size, self.share, self.ignore = size, share, ignore

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        mask = next((x for x in flat_inputs if isinstance(x, tv_tensors.Mask)), None)
        place = {}
        for _ in range(CROP_TRIES):
            place = {
                "top": int(torch.randint(max(0, height - self.size) + 1, ())),
                "left": int(torch.randint(max(0, width - self.size) + 1, ())),
            }
            if mask is None or self.share >= 1:
                break
            seen = mask[..., place["top"] : place["top"] + self.size, place["left"] : place["left"] + self.size]
            counts = torch.bincount(seen[seen != self.ignore].flatten().long())
            if (counts > 0).sum() > 1 and counts.max() < self.share * counts.sum():
                break
        return place

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = v2.query_size([inpt])
        rows, columns = min(self.size, height), min(self.size, width)
        seen = self._call_kernel(TF.crop, inpt, params["top"], params["left"], rows, columns)
        fill = self.ignore if isinstance(inpt, tv_tensors.Mask) else 0
        return self._call_kernel(TF.pad, seen, [0, 0, self.size - columns, self.size - rows], fill=fill)


# -- pictures -----------------------------------------------------------------------------------


def palette(classes: int) -> NDArray[np.uint8]:
    """A colour for each class, (K, 3): hues by the golden ratio, in turn bright, pale and dark.

    Example:
        >>> len(set(map(tuple, palette(254).tolist())))
        254
    """
    tones = ((0.75, 0.95), (0.4, 1.0), (0.95, 0.6))
    colours = [colorsys.hsv_to_rgb(k * 0.61803398875 % 1, *tones[k % 3]) for k in range(classes)]
    return (255 * np.array(colours).reshape(-1, 3)).round().astype(np.uint8)


def overlay(
    image: NDArray[Any], ids: NDArray[Any], colours: NDArray[np.uint8], alpha: float = 0.6
) -> NDArray[np.uint8]:
    """An image under the colours of its classes.

    Args:
        image: (H, W, 3), 8 bits.
        ids: class map (H, W); numbers that have no colour leave the image as it is.
        colours: (K, 3).
        alpha: opacity of the colours.
    """
    known = (ids >= 0) & (ids < len(colours))
    mixed = (1 - alpha) * image[known] + alpha * colours[ids[known]]
    shown = image.astype(np.uint8).copy()
    shown[known] = mixed.round().astype(np.uint8)
    return shown


def shares(ids: NDArray[Any], classes: int) -> dict[int, float]:
    """Share of the labelled pixels of each class that a map holds, largest first.

    Example:
        >>> shares(np.array([[0, 2], [2, 255]]), 3)
        {2: 0.6666666666666666, 0: 0.3333333333333333}
    """
    counts = np.bincount(ids[(ids >= 0) & (ids < classes)].ravel(), minlength=classes)
    order = np.argsort(-counts, kind="stable")
    return {int(k): float(counts[k] / counts.sum()) for k in order if counts[k]}


def overlay_picture(
    image: NDArray[Any], ids: NDArray[Any], names: Sequence[str], title: str = "", most: int = 20
) -> Figure:
    """An image, and beside it its classes in colour, with a legend of names and shares.

    Args:
        image: (H, W, 3), 8 bits.
        ids: class map (H, W).
        names: of the classes.
        title: text from data; shown literally.
        most: classes in the legend; it says how many it leaves out.
    """
    colours = palette(len(names))
    height, width = ids.shape
    figure = Figure(figsize=(10, max(2.8, 3.4 * height / width)), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image)
    right.imshow(overlay(image, ids, colours))
    left.set_title(figure_text(title), fontsize=9)
    class_legend(figure, ids, names, most)
    for axes in (left, right):
        axes.set_axis_off()
    return figure


def class_legend(figure: Figure, ids: NDArray[Any], names: Sequence[str], most: int = 20) -> None:
    """Add a legend of the classes that a map holds, with their shares, largest first.

    Args:
        figure: gets the legend on its right.
        ids: classes of pixels or points, of any shape.
        names: of the classes.
        most: classes in the legend; it says how many it leaves out.
    """
    colours, found = palette(len(names)), shares(ids, len(names))
    handles = [
        Patch(color=colours[k] / 255, label=figure_text(f"{names[k]}  {100 * share:.1f} %"))
        for k, share in list(found.items())[:most]
    ]
    if len(found) > most:
        handles.append(Patch(color="none", label=f"and {len(found) - most} more"))
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)


def iou_picture(ious: NDArray[np.float64], names: Sequence[str], counts: Sequence[float], most: int = 60) -> Figure:
    """IoU of each class, most frequent first; at most `most` of them, evenly chosen by rank."""
    order = np.argsort(-np.asarray(counts, float), kind="stable")
    order = order[~np.isnan(ious[order])]
    if len(order) > most:
        order = order[np.linspace(0, len(order) - 1, most).round().astype(int)]
    figure = Figure(figsize=(max(5, 0.28 * len(order)), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(order)), 100 * ious[order], color=palette(len(names))[order] / 255)
    axes.set_xticks(range(len(order)), [figure_text(names[int(k)]) for k in order], rotation=90, fontsize=7)
    axes.set_ylabel("IoU, %")
    axes.set_xlabel("classes, most frequent in training first")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_ids(path: Path, ids: NDArray[Any]) -> None:
    """Write a class map as a grey PNG of 8 bits, or of 16 where a number exceeds 255."""
    wide = ids.max(initial=0) > 255
    Image.fromarray(ids.astype(np.uint16 if wide else np.uint8)).save(path, format="PNG")
