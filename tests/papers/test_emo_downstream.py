"""EMO below detectors and segmenters: sizes, what is trained and what is frozen, training and evaluation on samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.core.training import Recipe, fit
from repertory.data import ade20k, coco
from repertory.nn.macs import count_macs
from repertory.papers.emo.downstream import (
    AUGMENTATION,
    RECIPES,
    Backbone,
    deeplabv3,
    evaluate_detector,
    evaluate_segmenter,
    pspnet,
    retinanet,
    segmentation_loss,
    ssdlite,
)
from repertory.papers.emo.model import EMO, iRMB
from repertory.tasks.detection import detection_loss

DETECTORS: list[Callable[..., nn.Module]] = [ssdlite, retinanet]
SEGMENTERS: list[Callable[..., nn.Module]] = [deeplabv3, pspnet]


def tiny(**changes: Any) -> EMO:
    """A trained EMO, as far as these tests care."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"depths": (1, 1, 2, 2), "dims": (8, 16, 16, 24), "exp_ratios": (2.0,) * 4}
    return EMO(**{**arguments, "dim_heads": (8, 8, 8, 12), "num_classes": 5, "drop_path_rate": 0.5, **changes})


def small(build: Callable[..., nn.Module], num_classes: int, **options: Any) -> nn.Module:
    """One of the four on `tiny`, for small images."""
    if build is retinanet:
        options = {"min_size": 96, "max_size": 96, **options}
    return build(tiny(), num_classes=num_classes, **options)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    coco.write_sample(folder, train=6, val=3)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ade20k")
    ade20k.write_sample(folder, train=5, val=2, size=96)
    return folder


def box_batch(folder: Path) -> tuple[list[Tensor], list[dict[str, Any]]]:
    data = coco.read_split(folder, "train").with_objects()
    return coco.collate([data[0], data[1]])


def scene_batch(folder: Path) -> tuple[Tensor, Tensor]:
    data = ade20k.read_split(folder, "train")
    images, classes = zip(data[1], data[2], strict=True)
    return torch.stack(images), torch.stack(classes)


# -- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "millions", "giga"), [("emo_1m", 2.3, 0.6), ("emo_2m", 3.3, 0.9), ("emo_5m", 6.0, 1.8)]
)
def test_ssdlite_has_the_published_parameters_and_macs(size: str, millions: float, giga: float) -> None:
    model = ssdlite(size).eval()

    class Network(nn.Module):
        """Without the boxes."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat(list(model.head(list(model.backbone(images).values())).values()), -1)

    # Published parameters are cut after the first decimal. The multiply-accumulates fit all three sizes as 2^30 only.
    assert sum(p.numel() for p in model.parameters()) // 1e5 / 10 == millions
    assert round(count_macs(Network(), torch.zeros(1, 3, 320, 320)) / 2**30, 1) == giga


def test_levels_and_default_boxes_of_ssdlite() -> None:
    model = ssdlite("emo_1m").eval()
    levels = list(model.backbone(torch.zeros(1, 3, 320, 320)).values())
    assert [tuple(x.shape[1:]) for x in levels] == [
        (80, 20, 20), (168, 10, 10), (512, 5, 5), (256, 3, 3), (256, 2, 2), (128, 1, 1)
    ]  # fmt: skip
    outputs = model.head(levels)
    count = 6 * (400 + 100 + 25 + 9 + 4 + 1)  # two squares and two ratios, both ways, at each pixel
    assert outputs["cls_logits"].shape == (1, count, 81)
    assert outputs["bbox_regression"].shape == (1, count, 4)

    images, _ = model.transform([torch.zeros(3, 100, 200)])
    (anchors,) = model.anchor_generator(images, levels)
    assert anchors.shape == (count, 4)
    sides = (anchors[:, 2:] - anchors[:, :2]).split([6 * n for n in (400, 100, 25, 9, 4, 1)])
    least, most = [48, 100, 150, 202, 253, 304], [100, 150, 202, 253, 304, 320]
    for level, a, b in zip(sides, least, most, strict=True):
        expected = [[a, a], [(a * b) ** 0.5] * 2]
        for ratio in (2, 3):
            expected += [[a * ratio**0.5, a / ratio**0.5], [a / ratio**0.5, a * ratio**0.5]]
        torch.testing.assert_close(level[:6], torch.tensor(expected).clamp(max=320), rtol=1e-4, atol=1e-3)
    assert (
        anchors[:6].view(6, 2, 2).mean(1).tolist() == [pytest.approx([8, 8], abs=1e-4)] * 6
    )  # the first pixel's middle
    assert (model.nms_thresh, model.detections_per_img) == (0.45, 200)
    assert all(len(output["boxes"]) <= 200 for output in model([torch.rand(3, 100, 200)]))


def test_depthwise_heads() -> None:
    head: Any = ssdlite("emo_1m").head
    for part in (head.classification_head, head.regression_head):
        for level in part.module_list:
            depthwise, pointwise = level[0][0], level[1]
            assert depthwise.groups == depthwise.in_channels == pointwise.in_channels
            assert (depthwise.kernel_size, pointwise.kernel_size) == ((3, 3), (1, 1))


def test_levels_and_anchors_of_retinanet() -> None:
    model = retinanet("emo_1m").eval()
    levels = list(model.backbone(torch.zeros(1, 3, 256, 320)).values())
    sizes = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]
    assert [tuple(x.shape[1:]) for x in levels] == [(256, *size) for size in sizes]
    assert model.backbone.fpn.extra_blocks.p6.in_channels == 168  # "on input": from stage 4 itself
    images, _ = model.transform([torch.zeros(3, 100, 100)])
    (anchors,) = model.anchor_generator(images, levels)
    assert anchors.shape == (9 * sum(a * b for a, b in sizes), 4)
    assert (model.transform.min_size, model.transform.max_size) == ((800,), 1333)


def test_the_pyramid_starts_from_stage_4_even_where_that_is_as_wide() -> None:
    model: Any = retinanet(tiny(dims=(8, 16, 16, 256), dim_heads=(8, 8, 8, 16)))
    maps = model.backbone.backbone(torch.rand(1, 3, 64, 64))
    expected = model.backbone.fpn.extra_blocks.p6(maps["4"])
    assert torch.equal(model.backbone.fpn(maps)["p6"], expected)


@pytest.mark.parametrize("build", SEGMENTERS)
def test_segmenters_give_logits_for_every_pixel(build: Callable[..., nn.Module]) -> None:
    model = build("emo_1m", num_classes=150).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 128, 160))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == dict.fromkeys(("out", "aux"), (1, 150, 128, 160))


def test_the_window_is_set_and_the_given_module_left_alone() -> None:
    emo = tiny()
    before = {name: tensor.clone() for name, tensor in emo.state_dict().items()}
    windows = {
        build: {block.window_size for block in small(build, 4).modules() if isinstance(block, iRMB)}
        for build in (*DETECTORS, *SEGMENTERS)
    }
    assert windows == {ssdlite: {10}, retinanet: {10}, deeplabv3: {16}, pspnet: {16}}
    backbone = Backbone(emo, 4, {3: "x"})
    assert {block.window_size for block in backbone.modules() if isinstance(block, iRMB)} == {4}
    assert {block.window_size for block in emo.modules() if isinstance(block, iRMB)} == {7}
    backbone.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in backbone.state_dict().items()})
    assert all(torch.equal(tensor, before[name]) for name, tensor in emo.state_dict().items())


def test_the_maps_are_those_of_the_classifier_stages() -> None:
    emo = tiny().eval()
    x = torch.rand(1, 3, 64, 64)
    expected: Any = emo.forward_intermediates(x, intermediates_only=True)
    maps = Backbone(emo, 7, {2: "b", 4: "d"}).eval()(x)
    assert list(maps) == ["b", "d"]
    assert torch.equal(maps["b"], expected[1])
    assert torch.equal(maps["d"], expected[3])


@pytest.mark.parametrize("build", [*DETECTORS, *SEGMENTERS])
def test_images_are_normalised_as_the_weights_want_it(build: Callable[..., nn.Module]) -> None:
    emo = tiny(pretrained_cfg={"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)})
    model = build(emo, num_classes=4).eval()
    seen = []
    next(m for m in model.modules() if isinstance(m, Backbone)).register_forward_pre_hook(
        lambda _, x: seen.append(x[0])
    )
    image = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(3, 64, 64) + torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    with torch.no_grad():
        model([image] if build in DETECTORS else image[None])
    torch.testing.assert_close(seen[0], torch.ones_like(seen[0]))


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [*DETECTORS, *SEGMENTERS])
def test_a_step_lowers_the_loss_and_trains_what_is_not_frozen(
    build: Callable[..., nn.Module], boxes: Path, scenes: Path
) -> None:
    model = small(build, 4 if build in DETECTORS else 150).train()
    loss: Callable[[nn.Module, Any], dict[str, Tensor]] = detection_loss if build in DETECTORS else segmentation_loss
    batch: Any = box_batch(boxes) if build in DETECTORS else scene_batch(scenes)
    backbone = next(m for m in model.modules() if isinstance(m, Backbone))
    statistics = {name: b.clone() for name, b in backbone.named_buffers() if "running" in name}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    values = []
    for _ in range(2):
        torch.manual_seed(0)  # the same blocks are dropped
        parts = loss(model, batch)
        assert all(part.isfinite() for part in parts.values())
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        values.append(parts["loss"].item())
    assert values[1] < values[0]

    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {name for name, p in model.named_parameters() if not p.requires_grad}
    stages = {name.split("emo.")[1].split(".")[0] + name.split("emo.")[1].split(".")[1] for name in frozen}
    assert stages == ({"stem0", "stem1", "stem2", "stages0"} if build is retinanet else set())
    changed = [name for name, b in backbone.named_buffers() if "running" in name and not b.equal(statistics[name])]
    assert len(changed) == (0 if build in DETECTORS else len(statistics))


def test_what_is_frozen_has_no_chance_in_training() -> None:
    backbone = Backbone(tiny(), 7, {1: "1"}, norm_eval=True, frozen=1).train()
    x = torch.rand(8, 3, 32, 32)
    assert torch.equal(backbone(x)["1"], backbone(x)["1"])
    assert backbone.training
    assert not backbone.emo.stem.training


def test_unlabelled_pixels_do_not_count(scenes: Path) -> None:
    images, classes = scene_batch(scenes)
    model = small(deeplabv3, 150).eval()
    classes[:, :, 48:] = ade20k.IGNORE
    with torch.no_grad():
        parts = segmentation_loss(model, (images, classes))
        logits = model(images)["out"][..., :48]
        nothing = segmentation_loss(model, (images, torch.full_like(classes, ade20k.IGNORE)))
    labelled = classes[:, :, :48] != ade20k.IGNORE
    expected = nn.functional.cross_entropy(logits.permute(0, 2, 3, 1)[labelled], classes[:, :, :48][labelled])
    torch.testing.assert_close(parts["out"], expected)
    torch.testing.assert_close(parts["loss"], parts["out"] + 0.4 * parts["aux"])
    assert nothing["loss"] == 0


@pytest.mark.parametrize("build", DETECTORS)
def test_fit_and_evaluate_a_detector(build: Callable[..., nn.Module], boxes: Path, tmp_path: Path) -> None:
    name = build.__name__
    train = coco.read_split(boxes, "train").with_objects().with_transform(AUGMENTATION[name])
    recipe = RECIPES[name].model_copy(update={"epochs": 1, "batch_size": 2})
    session = Session(0, tmp_path)
    session.reseed()
    model = small(build, 4, score_thresh=0.0)
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    model = fit(session, model, train.subset(range(4)), recipe, detection_loss, collate=coco.collate)
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    metrics = evaluate_detector(session, model, coco.read_split(boxes, "val"), batch_size=2)
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 100


@pytest.mark.parametrize("build", SEGMENTERS)
def test_fit_and_evaluate_a_segmenter(build: Callable[..., nn.Module], scenes: Path, tmp_path: Path) -> None:
    name = build.__name__
    train = ade20k.read_split(scenes, "train")
    assert [tuple(x.shape) for x in train.with_transform(AUGMENTATION[name])[0]] == [(3, 512, 512), (512, 512)]
    recipe = RECIPES[name].model_copy(update={"epochs": 1, "batch_size": 2})
    session = Session(0, tmp_path)
    session.reseed()
    model = fit(session, small(build, 150), train, recipe, segmentation_loss)
    metrics = evaluate_segmenter(session, model, ade20k.read_split(scenes, "val"), size=64)
    assert 0 <= metrics["mIoU"] <= 100


def test_a_perfect_segmenter_has_100_and_a_perfect_detector_too(boxes: Path, scenes: Path, tmp_path: Path) -> None:
    session, answers = Session(0, tmp_path), ade20k.read_split(scenes, "val")
    truth = iter([answers[i][1] for i in range(len(answers))])

    class Segmenter(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            one_hot = nn.functional.one_hot(next(truth).clamp(max=149), 150).permute(2, 0, 1)[None].float()
            return {"out": one_hot}

    assert evaluate_segmenter(session, Segmenter(), answers) == {"mIoU": 100.0}

    data = coco.read_split(boxes, "val")
    targets = iter([data[i][1] for i in range(len(data))])

    class Detector(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{**target, "scores": torch.ones(len(target["labels"]))} for _, target in zip(images, targets)]  # noqa: B905

    assert evaluate_detector(session, Detector(), data, batch_size=1)["AP"] == pytest.approx(100)


def test_augmentation_copes_with_images_without_objects_and_keeps_masks_apart(boxes: Path) -> None:
    data = coco.read_split(boxes, "train", masks=True).with_transform(AUGMENTATION["ssdlite"])
    for seed in range(20):
        torch.manual_seed(seed)
        image, target = data[seed % len(data)]
        assert image.dtype == torch.float32
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert set(target["masks"].unique().tolist()) <= {0, 1}


def test_recipes_are_the_published_ones() -> None:
    expected = {"ssdlite": (1.2e-3, 0.05, "cosine", 24), "retinanet": (2e-4, 0.05, "cosine", 4),
                "deeplabv3": (1.2e-4, 0.01, "poly", 4), "pspnet": (1.2e-4, 0.01, "poly", 4)}  # fmt: skip
    assert {k: (r.lr, r.weight_decay, r.schedule, r.batch_size) for k, r in RECIPES.items()} == expected
    assert all(isinstance(r, Recipe) and r.optimizer == "adamw" for r in RECIPES.values())
    assert RECIPES["ssdlite"].warmup_epochs * (118_287 / 192) == pytest.approx(500)
    assert RECIPES["deeplabv3"].epochs * (20_210 // 32) == pytest.approx(80_000, rel=0.005)
    assert list(AUGMENTATION) == list(RECIPES)


# -- bad input ----------------------------------------------------------------------------------


def test_an_unknown_size_is_named() -> None:
    with pytest.raises(Problem, match="no size 'emo_9m'") as caught:
        ssdlite("emo_9m")
    assert "emo_1m" in caught.value.remedy


def test_one_image_is_no_batch_for_a_segmenter(scenes: Path) -> None:
    images, classes = scene_batch(scenes)
    with pytest.raises(Problem, match="batch of one image"):
        segmentation_loss(small(pspnet, 150), (images[:1], classes[:1]))
