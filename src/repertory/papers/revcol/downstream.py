"""RevCol as the backbone of detectors and segmenters, with the sizes and recipes of the authors' configurations.

    model = mask_rcnn("revcol_tiny", num_classes=81)
    fit(session, model, train, RECIPES["coco_tiny"], detection_loss, collate=coco.collate)

The authors use Cascade Mask R-CNN and UPerNet, which torchvision does not have; this module provides a feature pyramid
and Mask R-CNN. For other frameworks use `timm.create_model(name, features_only=True)`. Recipes are the published ones.
As in the authors' configurations, activations are stored (`reversible=True` saves memory here too).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from repertory.core.problem import Problem
from repertory.core.training import Recipe
from repertory.papers.revcol.model import LEVELS, VARIANTS, RevCol

WIDTH = 256
"""Channels of the pyramid."""

COCO_DROP_PATH = {"revcol_tiny": 0.3, "revcol_base": 0.4}
ADE20K_IMAGES = 20_210

# 8 processes of 2 images. The authors' files do not give the number of processes; 8 is usual.
_COCO = Recipe(epochs=36, batch_size=2, weight_decay=0.05, schedule="step", milestones=(27, 33))
RECIPES: dict[str, Recipe] = {
    "coco_tiny": _COCO.model_copy(update={"lr": 2e-4, "layer_decay": 0.85}),
    "coco_base": _COCO.model_copy(update={"lr": 1e-4, "layer_decay": 0.9}),
    # 160,000 steps, of which 1,500 warm up.
    "ade20k_tiny": Recipe(
        epochs=round(160_000 * 16 / ADE20K_IMAGES), batch_size=2, lr=6e-5, weight_decay=0.01, schedule="poly",
        power=1.0, warmup_epochs=1_500 * 16 / ADE20K_IMAGES,
    ),
}  # fmt: skip
"""Published recipes of Cascade Mask R-CNN and of UPerNet; drop-path rates are in `COCO_DROP_PATH`."""


class Pyramid(nn.Module):
    """A feature pyramid on the four maps of the last column.

    Args:
        revcol: name of a published size, for new weights; or a trained model, which is copied.
        drop_path_rate: with new weights only; None: as in classification.
        reversible: store only the last column's maps for the backward pass.

    Shape:
        (N, 3, H, W), any size from 32 -> five maps (N, 256, …), strides 4, 8, 16, 32 and 64.

    Raises:
        Problem: no such size.

    Example:
        >>> import torch
        >>> small = RevCol((8, 16, 24, 32), (1, 1, 1, 1), columns=2)
        >>> [tuple(x.shape) for x in Pyramid(small)(torch.zeros(1, 3, 70, 90)).values()]
        [(1, 256, 17, 22), (1, 256, 8, 11), (1, 256, 4, 5), (1, 256, 2, 2), (1, 256, 1, 1)]
    """

    def __init__(self, revcol: str | RevCol, drop_path_rate: float | None = None, reversible: bool = False) -> None:
        super().__init__()
        if isinstance(revcol, str):
            if revcol not in VARIANTS:
                raise Problem(f"no size {revcol!r} of RevCol", "downstream", f"choose from {', '.join(VARIANTS)}")
            own = {} if drop_path_rate is None else {"drop_path_rate": drop_path_rate}
            revcol = RevCol(**{**VARIANTS[revcol], **own})
        self.body = deepcopy(revcol)
        self.body.reversible = reversible
        self.body.prune_intermediate_layers(LEVELS)
        self.fpn = FeaturePyramidNetwork([i["num_chs"] for i in revcol.feature_info], WIDTH, LastLevelMaxPool())
        self.out_channels = WIDTH

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See the class."""
        _, maps = self.body.forward_intermediates(images)
        return self.fpn(OrderedDict((str(t), feature) for t, feature in enumerate(maps)))


class RevColMaskRCNN(MaskRCNN):
    """torchvision's Mask R-CNN with a `group_matcher` for layer-wise learning-rate decay."""

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """As `RevCol.group_matcher`; pyramid and heads have the largest depth."""
        depth = cast(Pyramid, self.backbone).body.group_matcher(coarse)
        return lambda name: depth(name.removeprefix("backbone.body."))


def mask_rcnn(revcol: str | RevCol, num_classes: int = 81, reversible: bool = False, **options: Any) -> RevColMaskRCNN:
    """torchvision's Mask R-CNN on a RevCol.

    Args:
        revcol: see `Pyramid`; new weights use the drop-path rate of the COCO recipe.
        num_classes: with the background, as torchvision counts.
        reversible: see `Pyramid`.
        options: passed to torchvision's `MaskRCNN`, e.g. `min_size`.

    Returns:
        A module: in training (images from 0 to 1, targets) -> losses; in evaluation images -> boxes, labels, masks.
    """
    rate = COCO_DROP_PATH.get(revcol) if isinstance(revcol, str) else None
    backbone = Pyramid(revcol, rate, reversible)
    settings = {f"image_{name}": list(backbone.body.pretrained_cfg[name]) for name in ("mean", "std")}
    return RevColMaskRCNN(backbone, num_classes, **{**settings, **options})
