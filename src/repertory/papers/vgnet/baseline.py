"""The baseline MobileNetV2: timm's, and a small one of the same blocks for small images."""

from __future__ import annotations

from typing import Any

import timm
import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from repertory.nn.imagenet import IMAGENET

MINI = [["ds_r1_k3_s1_c8"], ["ir_r2_k3_s2_e6_c16"], ["ir_r3_k3_s2_e6_c24"], ["ir_r2_k3_s2_e6_c32"]]
"""The published pattern (expansion 1 in the first block, 6 in the others), with widths such that parameters and MACs
are within 5 % of those of the mini VGNet."""


class MobileNetV2(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """Classifier of inverted residual blocks.

    Args:
        arch: a MobileNetV2 of timm, or "mini": strides 1, 1, 2, 2, 2.
        num_classes: outputs.
        pretrained_cfg: see `VGNet`.

    Shape:
        (N, 3, H, W) -> logits (N, num_classes).
    """

    def __init__(
        self, arch: str = "mini", num_classes: int = 1000, pretrained_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pretrained_cfg = {**IMAGENET, "num_classes": num_classes, **(pretrained_cfg or {})}
        self.net = _mini(num_classes) if arch == "mini" else timm.create_model(arch, num_classes=num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits (N, num_classes)."""
        return self.net(x.contiguous(memory_format=torch.channels_last))


def _mini(num_classes: int) -> nn.Module:
    net = EfficientNet(decode_arch_def(MINI), num_classes, 128, stem_size=16, fix_stem=True, act_layer=nn.ReLU6)
    assert isinstance(net.conv_stem, nn.Conv2d)
    net.conv_stem.stride = (1, 1)
    return net
