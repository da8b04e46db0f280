"""ECA below detectors: sizes, what is frozen, backbones from files, training and evaluation on a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.data import coco
from repertory.papers.eca import detector, network
from repertory.papers.eca.detection import COCO_IMAGES, DETECTORS, KERNELS, RECIPE, evaluate, finetune
from repertory.papers.eca.model import ECAResNet
from repertory.papers.eca.study import trained_parameters
from repertory.papers.eca.weights import kernels_of
from repertory.tasks.detection import average_precision, detection_loss


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    coco.write_sample(folder, train=5, val=2)
    return folder


def trained() -> ECAResNet:
    """A small trained backbone, as far as these tests care."""
    torch.manual_seed(0)
    net = ECAResNet("basic", (1, 1, 1, 1), widths=(8, 8, 16, 16), num_classes=5, kernel_sizes=3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # pyright: ignore[reportOptionalMemberAccess]
    return net


def small(kind: str, **options: Any) -> Any:
    """A detector for small images that looks at few regions."""
    few = {f"rpn_{when}_nms_top_n_{mode}": 16 for when in ("pre", "post") for mode in ("train", "test")}
    usual = {"num_classes": 4, "min_size": 64, "max_size": 64}
    usual |= {} if kind == "retinanet" else {**few, "box_batch_size_per_image": 16}
    return detector(kind, trained(), **{**usual, **options})


# -- structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "millions"), [("eca", 41.53), ("none", 41.53), ("se", 44.02)])
def test_faster_rcnn_has_the_published_parameters(attention: str, millions: float) -> None:
    with torch.device("meta"):
        model = detector("faster_rcnn", "eca_resnet50", attention=attention)
    # SE's published parameters leave out its biases, which ours has: 14,000.
    assert trained_parameters(model) / 1e6 == pytest.approx(millions, abs=0.02 if attention == "se" else 0.005)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("backbone", ["eca_resnet50", "eca_resnet101"])
def test_backbones_have_the_released_kernels_and_are_frozen_below(kind: str, backbone: str) -> None:
    with torch.device("meta"):
        model: Any = detector(kind, backbone)
    body = model.backbone.body
    assert kernels_of(body.state_dict()) == KERNELS[kind, backbone]
    frozen = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad} == {
        "layer2",
        "layer3",
        "layer4",
    }
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    assert isinstance(body["bn1"], FrozenBatchNorm2d)
    assert (model.transform.min_size, model.transform.max_size) == ((800,), 1333)


@pytest.mark.parametrize(("layers", "frozen"), [(0, 6), (2, 4), (4, 2), (5, 0)])
def test_any_number_of_stages_is_trained(layers: int, frozen: int) -> None:
    body = small("faster_rcnn", trainable_layers=layers).backbone.body
    names = [name for name, _ in body.named_children() if name not in ("relu", "maxpool")]
    still = [name for name in names if not any(p.requires_grad for p in body[name].parameters())]
    assert still == names[:frozen] or (layers == 5 and still == ["bn1"])  # frozen norms have no parameters
    with pytest.raises(Problem, match="trainable_layers=6"):
        small("faster_rcnn", trainable_layers=6)


def test_pyramids() -> None:
    x = torch.zeros(1, 3, 128, 192)
    for kind in ("faster_rcnn", "mask_rcnn"):
        maps = small(kind).backbone(x)
        assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == {
            "0": (256, 32, 48), "1": (256, 16, 24), "2": (256, 8, 12), "3": (256, 4, 6), "pool": (256, 2, 3),
        }  # fmt: skip
    model = small("retinanet")
    maps = model.backbone(x)
    assert [tuple(v.shape[2:]) for v in maps.values()] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    assert model.backbone.fpn.extra_blocks.p6.in_channels == 16, "the coarsest maps are made from the last stage"
    assert model.detections_per_img == 100


def test_the_maps_are_those_of_the_given_network_which_is_left_alone() -> None:
    net = trained().eval()
    model: Any = detector("faster_rcnn", net, num_classes=4).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone.body(x)["3"], net.forward_features(x))
    assert all(p.requires_grad for p in net.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_images_are_normalised_as_the_weights_want_it() -> None:
    net = trained()
    net.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    model = detector("retinanet", net, num_classes=4)
    assert (model.transform.image_mean, model.transform.image_std) == ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])


@pytest.mark.parametrize("wrap", ["module.", "backbone."])
def test_backbones_come_from_files(wrap: str, tmp_path: Path) -> None:
    source = network("eca_resnet18", kernel_sizes=(5, 5, 3, 3))
    state = {f"{wrap}{name}": tensor for name, tensor in source.state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": state}, path)
    checkpoint.save(source, tmp_path / "model")
    for given in (path, str(path), tmp_path / "model"):
        body: Any = detector("retinanet", given, num_classes=4).backbone.body
        assert torch.equal(body.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])
        assert kernels_of(body.state_dict()) == (5, 5, 3, 3)


# -- training and evaluation --------------------------------------------------------------------


@pytest.mark.parametrize("kind", DETECTORS)
def test_finetune_and_evaluate(kind: str, folder: Path, tmp_path: Path) -> None:
    session = Session(0, tmp_path)
    session.reseed()
    model = small(kind, score_thresh=0.0) if kind == "retinanet" else small(kind, box_score_thresh=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = RECIPE.model_copy(update={"epochs": 1})
    assert finetune(session, model, folder, recipe) is model
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed <= trainable
    assert any(".eca." in name for name in changed)
    assert any("layer4" in name for name in changed)
    metrics = evaluate(session, model, folder)
    assert 0 <= metrics["AP"] <= metrics["AP50"] <= 100
    assert ("mask_AP50" in metrics) == (kind == "mask_rcnn")


@pytest.mark.parametrize("kind", DETECTORS)
def test_steps_lower_the_loss(kind: str, folder: Path) -> None:
    data = coco.read_split(folder, "train", masks=kind == "mask_rcnn").with_objects()
    model = small(kind).train()
    batch = coco.collate([data[0], data[1]])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    values = []
    for _ in range(3):
        torch.manual_seed(0)  # the same regions are drawn
        parts = detection_loss(model, batch)
        assert torch.allclose(parts["loss"], sum(v for k, v in parts.items() if k != "loss") + torch.zeros(()))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        values.append(parts["loss"].item())
    assert values[-1] < values[0]


def test_a_perfect_detector_has_100(folder: Path) -> None:
    data = coco.read_split(folder, "val", masks=True)
    samples = [data[i] for i in range(len(data))]
    answers = iter(samples)

    class Perfect(nn.Module):
        def forward(self, images: list[Any]) -> list[dict[str, Any]]:
            targets = [next(answers)[1] for _ in images]
            scores = [torch.ones(len(t["labels"])) for t in targets]
            masks = [t["masks"][:, None].float() for t in targets]
            return [{**t, "scores": s, "masks": m} for t, s, m in zip(targets, scores, masks, strict=True)]

    found = average_precision(Perfect(), data, [coco.collate([sample]) for sample in samples])
    assert found["AP"] == pytest.approx(100)
    assert found["mask_AP"] == pytest.approx(100)


def test_the_recipe_is_mmdetections() -> None:
    assert (RECIPE.optimizer, RECIPE.lr, RECIPE.momentum, RECIPE.weight_decay) == ("momentum", 0.01, 0.9, 1e-4)
    assert (RECIPE.epochs, RECIPE.batch_size, RECIPE.schedule, RECIPE.decay_rate) == (12, 2, "step", 0.1)
    assert RECIPE.milestones == (8, 11)
    assert RECIPE.warmup_epochs * (COCO_IMAGES / 8) == pytest.approx(500)


# -- bad input ----------------------------------------------------------------------------------


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no detector 'yolo'"):
        detector("yolo")
    with pytest.raises(Problem, match="no backbone 'eca_resnet20'") as caught:
        detector("faster_rcnn", "eca_resnet20")
    assert "eca_resnet50" in caught.value.remedy
    for net in (network("eca_mobilenet_v2"), network("mini")):
        with pytest.raises(Problem, match="not an ECA-ResNet with four stages"):
            detector("faster_rcnn", net)  # pyright: ignore[reportArgumentType]
    checkpoint.save(network("mini"), tmp_path / "mini")
    with pytest.raises(Problem, match="not an ECA-ResNet with four stages"):
        detector("faster_rcnn", tmp_path / "mini")


def test_more_classes_than_the_detector_knows(folder: Path, tmp_path: Path) -> None:
    for kind in ("faster_rcnn", "retinanet"):
        with pytest.raises(Problem, match="3 classes, but the detector has 2") as caught:
            finetune(Session(0, tmp_path), small(kind, num_classes=3), folder)
        assert "num_classes=4" in caught.value.remedy


def test_fresh_frozen_weights_are_warned_of(folder: Path, tmp_path: Path) -> None:
    model = detector("retinanet", ECAResNet("basic", (1, 1, 1, 1), widths=(8, 8, 16, 16)), num_classes=4, min_size=64)
    with pytest.warns(UserWarning, match="untrained weights and frozen norms"):
        finetune(Session(0, tmp_path, dry_run=True), model, folder, RECIPE.model_copy(update={"epochs": 1}))
