"""EMO as the backbone of detectors and segmenters, with the sizes and recipes of the authors' configurations.

    model = ssdlite("emo_1m")                                   # torchvision's SSD; published AP 22.0
    train, val = (coco.read_split(folder, split) for split in ("train", "val"))
    train = train.with_objects().with_transform(AUGMENTATION["ssdlite"])
    fit(session, model, train, RECIPES["ssdlite"], detection_loss, collate=coco.collate)  # of tasks.detection
    evaluate_detector(session, model, val)                      # {"AP": …, "AP50": …, …}

The heads are torchvision's. All models take images from 0 to 1 and normalise them with EMO's statistics. The backbone
is given by the name of a size, with new weights, or as a trained module. Stages are numbered from 1, as in the paper.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms import v2

from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.core.training import Recipe, loader
from repertory.data import ade20k, coco
from repertory.data.ade20k import IGNORE, SceneSet
from repertory.data.coco import CocoSet
from repertory.nn.pyramid import PyramidPooling
from repertory.papers.emo.model import EMO, VARIANTS, iRMB
from repertory.tasks.detection import average_precision

SSD_SIZE = 320
"""Height and width of SSDLite's input."""
SSD_WIDTHS = (512, 256, 256, 128)
"""Channels of the levels above the backbone."""
SSD_MIN_SIZES = (48, 100, 150, 202, 253, 304)
"""Side of the default boxes of each level, in pixels; the largest side of a level is the smallest of the next one."""
SSD_RATIOS = (2, 3)
FPN_WIDTH = 256
HEAD_WIDTH = 256
"""Channels of the segmentation heads."""
AUX_WEIGHT = 0.4
"""Weight of the auxiliary loss, from PSPNet."""
SEGMENT_SIZE = 512


class Backbone(nn.Module):
    """Feature maps of some of EMO's stages, by name.

    Args:
        emo: name of a published size, for new weights; or a trained EMO, which is copied.
        window: height and width of an attention window; no weight depends on it.
        names: stage (1 to 4) -> name of its map; stages after the last one are removed.
        norm_eval: batch norms use their stored statistics in training: batches of detectors are small.
        frozen: number of stages that are not trained; if above 0, the stem is not trained either.

    Shape:
        (N, 3, H, W) -> maps (N, dims[i - 1], H / 2^(i + 1), W / 2^(i + 1)) of stages i.

    Raises:
        Problem: no such size.
    """

    def __init__(
        self, emo: str | EMO, window: int, names: Mapping[int, str], norm_eval: bool = False, frozen: int = 0
    ) -> None:
        super().__init__()
        if isinstance(emo, str):
            if emo not in VARIANTS:
                raise Problem(
                    f"no size {emo!r} of EMO", "downstream", f"choose from {', '.join(VARIANTS)}, or give one"
                )
            emo = EMO(**VARIANTS[emo])
        self.emo = deepcopy(emo)
        self.stages = [stage - 1 for stage in names]
        self.names = list(names.values())
        self.widths = [self.emo.feature_info[i]["num_chs"] for i in self.stages]
        self.emo.prune_intermediate_layers(self.stages, prune_norm=True)
        for block in self.emo.modules():
            if isinstance(block, iRMB):
                block.window_size = window

        frozen_part = [self.emo.stem, *self.emo.stages[:frozen]] if frozen else []
        for module in frozen_part:
            module.requires_grad_(False)
        norms = [module for module in self.emo.modules() if isinstance(module, nn.BatchNorm2d)] if norm_eval else []
        self._always_eval = [*frozen_part, *norms]  # a plain list: do not register these modules twice

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._always_eval:
            module.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """See the class."""
        _, maps = self.emo.forward_intermediates(images, indices=self.stages)
        return OrderedDict(zip(self.names, maps, strict=True))

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """Mean and standard deviation of the images that the weights were trained on."""
        return {f"image_{name}": list(self.emo.pretrained_cfg[name]) for name in ("mean", "std")}


# -- detection ----------------------------------------------------------------------------------


def ssdlite(emo: str | EMO = "emo_1m", num_classes: int = 81, window: int = 10, **options: Any) -> SSD:
    """SSDLite at 320 x 320: single-shot detector with depth-wise heads on six levels.

    Published COCO AP: 22.0 / 25.2 / 27.9 with 1M / 2M / 5M; recipe `RECIPES["ssdlite"]`.

    Args:
        emo: see `Backbone`.
        num_classes: with the background, as torchvision counts.
        window: of attention; 10 divides the maps of stages 3 and 4 at 320 pixels.
        options: passed to torchvision's `SSD`, e.g. `score_thresh`.

    Returns:
        A module: in training (images, targets) -> losses; in evaluation images -> boxes, labels, scores.

    Example:
        >>> model = ssdlite("emo_1m", num_classes=4).eval()
        >>> sum(p.numel() for p in model.parameters()) < 2e6
        True
    """
    levels = SSDLevels(Backbone(emo, window, {3: "3", 4: "4"}, norm_eval=True))
    boxes = DefaultBoxGenerator(
        [list(SSD_RATIOS) for _ in SSD_MIN_SIZES], scales=[side / SSD_SIZE for side in (*SSD_MIN_SIZES, SSD_SIZE)]
    )
    head = SSDLiteHead(levels.out_channels, boxes.num_anchors_per_location(), num_classes, _norm)
    settings: dict[str, Any] = {"nms_thresh": 0.45, "detections_per_img": 200, **levels.backbone.normalisation}
    return SSD(levels, boxes, (SSD_SIZE, SSD_SIZE), num_classes, head=head, **{**settings, **options})


class SSDLevels(nn.Module):
    """Two maps of the backbone and four further ones, each of half the size: at 320 pixels sides 20, 10, 5, 3, 2, 1."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = [*backbone.widths, *SSD_WIDTHS]
        layer = partial(Conv2dNormActivation, norm_layer=_norm, activation_layer=nn.ReLU6)
        self.extra = nn.ModuleList(
            nn.Sequential(
                layer(dim_in, dim // 2, 1),
                layer(dim // 2, dim // 2, 3, stride=2, groups=dim // 2),
                layer(dim // 2, dim, 1),
            )
            for dim_in, dim in zip(self.out_channels[1:-1], SSD_WIDTHS, strict=True)
        )
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)  # as torchvision's heads

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> six maps."""
        levels = self.backbone(images)  # (N, C3, H / 16, W / 16), (N, C4, H / 32, W / 32)
        x = next(reversed(levels.values()))
        for number, extra in enumerate(self.extra, 5):
            levels[str(number)] = x = extra(x)
        return levels


def _norm(dim: int) -> nn.BatchNorm2d:
    """As in torchvision's SSDLite."""
    return nn.BatchNorm2d(dim, eps=0.001, momentum=0.03)


def retinanet(emo: str | EMO = "emo_1m", num_classes: int = 81, window: int = 10, **options: Any) -> RetinaNet:
    """RetinaNet: dense detection on a feature pyramid at strides 8 to 128.

    Published COCO AP: 34.4 / 36.2 / 38.9 with 1M / 2M / 5M; recipe `RECIPES["retinanet"]`. The pyramid uses stages 2
    to 4; its two coarsest maps are computed from stage 4 itself ("on input"). The stem and stage 1 are frozen: start
    from trained weights.

    Args:
        emo: see `Backbone`.
        num_classes: with the background, as torchvision counts.
        window: of attention.
        options: passed to torchvision's `RetinaNet`, e.g. `min_size` and `max_size` (800 and 1333).

    Returns:
        A module: in training (images, targets) -> losses; in evaluation images -> boxes, labels, scores.
    """
    backbone = Backbone(emo, window, {2: "2", 3: "3", 4: "4"}, norm_eval=True, frozen=1)
    settings: dict[str, Any] = {"detections_per_img": 100, **backbone.normalisation}  # COCO counts 100
    return RetinaNet(Pyramid(backbone), num_classes, **{**settings, **options})


class Pyramid(nn.Module):
    """A feature pyramid on the maps of a backbone, with two additional coarse maps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = FPN_WIDTH
        coarsest = LastLevelP6P7(backbone.widths[-1], FPN_WIDTH)
        coarsest.use_P5 = False  # torchvision sets True if backbone and pyramid have equal widths
        self.fpn = FeaturePyramidNetwork(backbone.widths, FPN_WIDTH, extra_blocks=coarsest)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> five maps (N, 256, H / s, W / s), s = 8, 16, 32, 64, 128."""
        return self.fpn(self.backbone(images))


def evaluate_detector(session: Session, model: nn.Module, data: CocoSet, batch_size: int = 8) -> dict[str, float]:
    """COCO's average precision of boxes in per cent, on untransformed images; see `CocoSet.evaluate`."""
    plain = data.with_transform(None)
    return average_precision(model, plain, loader(session, plain, batch_size, collate=coco.collate))


# -- segmentation -------------------------------------------------------------------------------


def deeplabv3(emo: str | EMO = "emo_1m", num_classes: int = 150, window: int = 16) -> DeepLabV3:
    """DeepLabv3: atrous convolutions of several rates on the last map, and an auxiliary head on stage 3.

    Published ADE20K mIoU: 33.5 / 35.3 / 37.8 with 1M / 2M / 5M; recipe `RECIPES["deeplabv3"]`. EMO keeps its
    strides: at 512 pixels the last map has 16 x 16 pixels, one window.

    Args:
        emo: see `Backbone`.
        num_classes: without the ignored class.
        window: of attention.

    Returns:
        A module: images (N, 3, H, W) from 0 to 1 -> logits "out" and "aux", (N, num_classes, H, W).
    """
    backbone = Backbone(emo, window, {3: "aux", 4: "out"})
    auxiliary, last = backbone.widths
    return DeepLabV3(_normalised(backbone), DeepLabHead(last, num_classes), _classifier(auxiliary, num_classes))


def pspnet(emo: str | EMO = "emo_1m", num_classes: int = 150, window: int = 16) -> FCN:
    """PSPNet: the last map concatenated with its pyramid pooling, and an auxiliary head on stage 3.

    Published ADE20K mIoU: 33.2 / 34.5 / 38.2 with 1M / 2M / 5M; recipe `RECIPES["pspnet"]`. Arguments and result
    as for `deeplabv3`.
    """
    backbone = Backbone(emo, window, {3: "aux", 4: "out"})
    auxiliary, last = backbone.widths
    pooled = PyramidPooling(last, HEAD_WIDTH)
    head = nn.Sequential(pooled, _classifier(pooled.out_channels, num_classes))
    return FCN(_normalised(backbone), head, _classifier(auxiliary, num_classes))


def _classifier(dim: int, num_classes: int) -> nn.Sequential:
    """(N, dim, H, W) -> (N, num_classes, H, W)."""
    return nn.Sequential(
        Conv2dNormActivation(dim, HEAD_WIDTH, 3), nn.Dropout(0.1), nn.Conv2d(HEAD_WIDTH, num_classes, 1)
    )


def _normalised(backbone: Backbone) -> nn.Sequential:
    mean, std = backbone.normalisation.values()
    return nn.Sequential(v2.Normalize(mean, std), backbone)


def segmentation_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Loss for `fit`: cross-entropy per labelled pixel of both heads.

    Raises:
        Problem: a batch of one image.
    """
    images, classes = batch
    if len(images) < 2:
        raise Problem("a batch of one image", "segmentation", "set batch_size to 2 or more: a pooled map has one pixel")
    labelled = (classes != IGNORE).sum().clamp(min=1)
    losses = {
        name: F.cross_entropy(logits, classes, ignore_index=IGNORE, reduction="sum") / labelled
        for name, logits in model(images).items()
    }
    return {"loss": losses["out"] + AUX_WEIGHT * losses["aux"], **losses}


@torch.no_grad()
def evaluate_segmenter(
    session: Session, model: nn.Module, data: SceneSet, size: int = SEGMENT_SIZE
) -> dict[str, float]:
    """Mean intersection over union in per cent, at the size of the annotations.

    Args:
        session: device and progress.
        model: of this module.
        data: validation images.
        size: shorter side of the model's input, in pixels.
    """
    model.eval()
    metric = ade20k.mean_iou(len(data.classes)).to(session.fabric.device)
    for images, classes in loader(session, data.with_transform(None), 1, shard=True):  # their sizes differ
        logits = model(v2.functional.resize(images, [size]))["out"]
        metric.update(
            F.interpolate(logits, classes.shape[-2:], mode="bilinear", align_corners=False).argmax(1), classes
        )
    return {"mIoU": 100 * float(metric.compute())}


# -- recipes ------------------------------------------------------------------------------------

COCO_IMAGES, ADE_IMAGES = 118_287, 20_210

# 80,000 steps of 8 x 4 images.
_SEGMENTATION = Recipe(
    epochs=round(80_000 / (ADE_IMAGES // 32)),
    batch_size=4,
    lr=1.2e-4,
    weight_decay=0.01,
    schedule="poly",
    power=0.9,
    eval_every=10,
)
RECIPES: dict[str, Recipe] = {
    # 120 epochs of 5 passes each; linear warm-up over 500 steps of 8 x 24 images.
    "ssdlite": Recipe(
        epochs=120 * 5,
        batch_size=24,
        lr=1.2e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=500 * 8 * 24 / COCO_IMAGES,
        eval_every=10,
    ),
    # "1x" is 12 epochs.
    "retinanet": Recipe(epochs=12, batch_size=4, lr=2e-4, weight_decay=0.05, schedule="cosine"),
    "deeplabv3": _SEGMENTATION,
    "pspnet": _SEGMENTATION,
}
"""The authors' configurations: AdamW, 8 processes with `batch_size` images each. With fewer, raise `accumulate`."""

MEAN_COLOUR = (124, 116, 104)
"""Mean colour of ImageNet; normalised to 0."""
_SCENE = v2.Compose(
    [
        v2.RandomShortestSize(list(range(SEGMENT_SIZE // 2, 2 * SEGMENT_SIZE + 1, 32)), max_size=4 * SEGMENT_SIZE),
        v2.RandomCrop(SEGMENT_SIZE, pad_if_needed=True, fill={tv_tensors.Image: MEAN_COLOUR, tv_tensors.Mask: IGNORE}),
        v2.RandomHorizontalFlip(),
        v2.RandomPhotometricDistort(),
    ]
)
AUGMENTATION: dict[str, v2.Transform] = {
    "ssdlite": v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut({tv_tensors.Image: MEAN_COLOUR, "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.SanitizeBoundingBoxes(),
        ]
    ),
    "retinanet": v2.RandomHorizontalFlip(),
    "deeplabv3": _SCENE,
    "pspnet": _SCENE,
}
"""Usual augmentation of these methods (the sources give only the sizes), for a data set's `with_transform`."""
