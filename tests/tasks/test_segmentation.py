"""Segmentation: scores, groups of classes, augmentation, pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from repertory.data import ade20k
from repertory.tasks import segmentation as seg


def test_scores_are_torchmetrics_and_leave_out_what_is_ignored_or_absent() -> None:
    torch.manual_seed(0)
    predicted, annotated = torch.randint(4, (2, 6, 6)), torch.randint(4, (2, 6, 6))
    annotated[:, 0] = 255
    matrix, mean = seg.confusion(6, 255), ade20k.mean_iou(6)
    for metric in (matrix, mean):
        metric.update(predicted, annotated)
    scores = seg.segmentation_scores(matrix.compute())
    assert scores["mIoU"] == pytest.approx(100 * mean.compute().item())
    valid = annotated != 255
    assert scores["pixel_accuracy"] == pytest.approx(100 * (predicted[valid] == annotated[valid]).float().mean().item())
    ious = seg.class_ious(matrix.compute())
    assert np.isnan(ious[4:]).all()
    for k in range(4):
        p, a = (predicted == k) & valid, annotated == k
        assert ious[k] == pytest.approx(((p & a).sum() / (p | a).sum()).item())


def test_points_may_be_ignored_by_a_negative_label() -> None:
    matrix = seg.confusion(2, -1)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, -1]))
    assert seg.segmentation_scores(matrix.compute())["pixel_accuracy"] == 100


def test_groups_are_thirds_by_frequency() -> None:
    sizes = {name: len(members) for name, members in seg.frequency_groups(np.arange(200)).items()}
    assert sizes == {"head": 66, "common": 68, "tail": 66}
    assert seg.frequency_groups([3, 3, 3]) == {"head": [0], "common": [1], "tail": [2]}
    assert seg.frequency_groups([3, 1]) == {}
    matrix = torch.tensor([[4, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]])
    scores = seg.group_scores(matrix, {"head": [0, 1], "tail": [2], "none": [3]})
    assert scores == {"mIoU_head": pytest.approx(100 * (4 / 6 + 2 / 4) / 2), "mIoU_tail": 0.0, "mIoU_none": 0.0}
    assert "mIoU_none" not in seg.group_scores(torch.eye(4)[:3].T @ torch.eye(4)[:3], {"none": [3]})


def scene(height: int, width: int) -> tuple[Any, Any]:
    image = tv_tensors.Image(torch.randint(256, (3, height, width), dtype=torch.uint8))
    return image, tv_tensors.Mask(torch.zeros(height, width, dtype=torch.uint8))


def test_resizing_keeps_proportions_within_the_box() -> None:
    torch.manual_seed(0)
    image, mask = seg.RandomRatioResize((2048, 512), (1.0, 1.0))(*scene(100, 150))
    assert image.shape[1:] == mask.shape == (512, 768)
    image, _ = seg.RandomRatioResize((200, 100), (1.0, 1.0))(*scene(50, 400))
    assert image.shape[1:] == (25, 200)
    sizes = {seg.RandomRatioResize((96, 96), (0.5, 2.0))(*scene(48, 48))[1].shape[0] for _ in range(20)}
    assert 48 <= min(sizes) < 80 < max(sizes) <= 192


def test_crops_avoid_a_single_class_and_fill_up_with_the_ignored_label() -> None:
    torch.manual_seed(0)
    image, mask = scene(64, 64)
    mask[:, 32:] = 1
    for _ in range(10):
        _, seen = seg.BalancedCrop(40, 0.75, 255)(image, mask)
        assert seen.shape == (40, 40)
        assert (seen == 0).float().mean() < 0.75 > (seen == 1).float().mean()
    padded, seen = seg.BalancedCrop(80, 1.0, 255)(image, mask)
    assert padded.shape == (3, 80, 80)
    assert (seen[64:] == 255).all()
    assert (padded[:, 64:] == 0).all()
    assert torch.equal(seen[:64, :64].as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor))


def test_overlay_colours_classes_and_nothing_else() -> None:
    image, ids = np.full((2, 2, 3), 200, np.uint8), np.array([[0, 1], [255, 1]])
    colours = seg.palette(2)
    shown = seg.overlay(image, ids, colours, alpha=0.5)
    assert shown[0, 0].tolist() == (100 + colours[0] / 2).round().astype(np.uint8).tolist()
    assert shown[1, 0].tolist() == [200, 200, 200]
    assert image.max() == image.min() == 200


def test_pictures_have_legends_of_names_and_shares() -> None:
    ids = np.arange(30).reshape(5, 6) % 25
    names = [f"$class_{k}" for k in range(25)]
    figure = seg.overlay_picture(np.zeros((5, 6, 3), np.uint8), ids, names, "a_$")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == r"\$class_0  6.7 %"
    assert texts[-1] == "and 5 more"
    bars = seg.iou_picture(np.array([0.5, math.nan, 0.25]), ["a", "b", "c"], [1, 2, 3]).axes[0]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["c", "a"]


@pytest.mark.parametrize("largest", [7, 300])
def test_class_maps_are_written_whole(largest: int, tmp_path: Path) -> None:
    ids = np.array([[0, largest]])
    seg.write_ids(tmp_path / "a.png", ids)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array(image).tolist() == ids.tolist()
