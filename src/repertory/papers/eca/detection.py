"""Detection and instance segmentation with an ECA backbone: torchvision's detectors on a feature pyramid.

model = detector("mask_rcnn", "mask_rcnn_r50_k3377.pth", num_classes=81)   # backbone from the authors' file
model = finetune(session, model, Path("coco"))                             # on 4 processes of 2 images, 12 epochs
evaluate(session, model, Path("coco"))          # {"AP": …, "mask_AP": …}; published 39.0 and 35.6
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from timm.layers import freeze_batch_norm_2d
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms import v2

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.core.training import Recipe, fit, loader
from repertory.data import coco
from repertory.papers.eca.model import RESNETS, ECAResNet, Kernels, load_network, network
from repertory.tasks.detection import average_precision, detection_loss

DETECTORS: dict[str, type[FasterRCNN | RetinaNet]] = {
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "retinanet": RetinaNet,
}
KERNELS: dict[tuple[str, str], tuple[int, ...]] = {
    ("faster_rcnn", "eca_resnet50"): (5, 5, 5, 5),
    ("mask_rcnn", "eca_resnet50"): (3, 3, 7, 7),
    ("retinanet", "eca_resnet50"): (3, 3, 7, 7),
    **{(kind, "eca_resnet101"): (3, 3, 5, 7) for kind in DETECTORS},
}
"""Kernels of the released detectors; they differ from those of the released classifiers."""
PYRAMID_WIDTH = 256
STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def detector(
    kind: str,
    backbone: str | Path | ECAResNet = "eca_resnet50",
    num_classes: int = 81,
    *,
    attention: str = "eca",
    kernel_sizes: Kernels = None,
    trainable_layers: int = 3,
    **options: Any,
) -> FasterRCNN | RetinaNet:
    """A torchvision detector with a feature pyramid on an ECA-ResNet.

    Norms, stem and first stage are frozen: start from trained weights. RetinaNet's pyramid uses stages 2 to 4 and two
    coarser maps computed from the last stage.

    Args:
        kind: "faster_rcnn", "mask_rcnn" or "retinanet".
        backbone: name of a size, for new weights; a file of the authors or of an MMDetection detector; a model
            directory; or a module, which is copied.
        num_classes: with the background, as torchvision counts; 81 for COCO's 80.
        attention: with new weights only, see `channel_attention`.
        kernel_sizes: with new weights only; None: as in the released detectors.
        trainable_layers: number of stages that are trained, counted from the last; 5: the stem too.
        options: passed to torchvision's class, e.g. `min_size` and `max_size` (800 and 1333).

    Returns:
        A module: in training (images, targets) -> losses; in evaluation images -> boxes, labels, scores (and masks).

    Raises:
        Problem: no such detector or size, or the weights are not those of a ResNet.

    Example:
        >>> model = detector("retinanet", "eca_resnet18", num_classes=4)
        >>> [name for name in model.backbone.body]
        ['conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    if kind not in DETECTORS:
        raise Problem(f"no detector {kind!r}", "detector", f"choose from {', '.join(DETECTORS)}")
    if not 0 <= trainable_layers <= 5:
        raise Problem(f"trainable_layers={trainable_layers}", "detector", "choose 0 to 5")
    if isinstance(backbone, str) and backbone in RESNETS:
        kernels = kernel_sizes or KERNELS.get((kind, backbone), RESNETS[backbone]["kernel_sizes"])
        net = network(backbone, attention=attention, kernel_sizes=kernels, num_classes=0)
    else:
        net = _load_backbone(backbone)
    if not isinstance(net, ECAResNet) or net.stages != 4:
        what = f"the backbone is a {type(net).__name__}, not an ECA-ResNet with four stages"
        raise Problem(what, "detector", f"give one of {', '.join(RESNETS)}")

    frozen = STAGES[: max(0, len(STAGES) - trainable_layers)] if trainable_layers < 5 else ()
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    net = cast(ECAResNet, freeze_batch_norm_2d(net))
    first = 2 if kind == "retinanet" else 1
    widths = [info["num_chs"] for info in net.feature_info[first:]]
    pyramid = BackboneWithFPN(
        net,
        {f"layer{i}": str(i - first) for i in range(first, 5)},
        widths,
        PYRAMID_WIDTH,
        LastLevelP6P7(widths[-1], PYRAMID_WIDTH) if kind == "retinanet" else None,
    )
    settings: dict[str, Any] = {f"image_{name}": list(net.pretrained_cfg[name]) for name in ("mean", "std")}
    if kind == "retinanet":
        settings["detections_per_img"] = 100  # COCO evaluates 100
    return DETECTORS[kind](pyramid, num_classes, **{**settings, **options})


def _load_backbone(backbone: str | Path | nn.Module) -> nn.Module:
    """A copy of a module, or a network from a file or a model directory."""
    if isinstance(backbone, nn.Module):
        return deepcopy(backbone)
    source = Path(backbone)
    if not source.exists():
        raise Problem(f"no backbone {str(backbone)!r}", "detector", f"choose from {', '.join(RESNETS)}, or give a file")
    return checkpoint.load(source) if source.is_dir() else load_network(source)


# 4 processes of 2 images; MMDetection warms up linearly over 500 steps from a third of the learning rate.
COCO_IMAGES = 118_287
RECIPE = Recipe(
    epochs=12,
    batch_size=2,
    optimizer="momentum",
    lr=0.01,
    weight_decay=1e-4,
    decay_all=True,
    schedule="step",
    milestones=(8, 11),
    warmup_epochs=500 * 8 / COCO_IMAGES,
    warmup_lr=0.01 / 3,
)
"""MMDetection's "1x" for 8 images per step. With fewer processes, raise `accumulate`."""


def finetune(session: Session, model: nn.Module, folder: Path, recipe: Recipe = RECIPE) -> nn.Module:
    """Train a detector on the training images of COCO, or of data in its layout, with random mirroring.

    Args:
        session: seed, device, progress, resume points; a second run resumes.
        model: of `detector`, trained in place. Mask R-CNN needs masks in the annotations.
        folder: see `coco.read_split`.
        recipe: see `RECIPE`.

    Raises:
        Problem: the data cannot be read, or have more classes than the model.
    """
    train = _split(folder, "train", model).with_objects().with_transform(v2.RandomHorizontalFlip())
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    if norms and not any(norm.get_buffer("running_mean").any() for norm in norms):
        warnings.warn(
            "the backbone has untrained weights and frozen norms: give `detector` a file of trained weights",
            stacklevel=2,
        )
    return fit(session, model, train, recipe, detection_loss, collate=coco.collate)


def evaluate(session: Session, model: nn.Module, folder: Path, batch_size: int = 2) -> dict[str, float]:
    """COCO's average precision on the held-out images in per cent: of boxes, and for Mask R-CNN of masks.

    Args:
        session: device and progress.
        model: of `detector`.
        folder: see `coco.read_split`.
        batch_size: images per batch.

    Raises:
        Problem: the data cannot be read, or have more classes than the model.
    """
    data = _split(folder, "val", model)
    return average_precision(model, data, loader(session, data, batch_size, collate=coco.collate))


def _split(folder: Path, split: str, model: nn.Module) -> coco.CocoSet:
    data = coco.read_split(folder, split, masks=isinstance(model, MaskRCNN))
    if isinstance(model, RetinaNet):
        outputs = model.head.classification_head.num_classes
    else:
        outputs = cast(Any, model).roi_heads.box_predictor.cls_score.out_features
    if len(data.classes) >= outputs:
        raise Problem(
            f"{len(data.classes)} classes, but the detector has {outputs - 1}",
            folder,
            f"build it with num_classes={len(data.classes) + 1}, which includes the background",
        )
    return data
