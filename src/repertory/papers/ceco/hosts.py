"""Segmentation networks that the branch can train with: UPerNet on any encoder of timm, DeepLabv3, a small pyramid.

A host turns images (B, 3, H, W) into `forward_features`: the map that its `classifier` reads, (B, C, h, w), and the
map of its auxiliary head, if it has one. `host(images)` gives logits (B, K, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.ops import Conv2dNormActivation

from repertory.core.problem import Problem, suggest
from repertory.nn.pyramid import PyramidPooling

CHANNELS = 512
AUX_CHANNELS = 256
POOL_SCALES = (1, 2, 3, 6)
DEEPLABS = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet101", "deeplabv3_resnet50")
MINI_WIDTHS, MINI_CHANNELS = (32, 64, 96), 48


def pixel_classifier(dim: int, num_classes: int, drop_rate: float) -> nn.Sequential:
    """(B, dim, h, w) -> (B, K, h, w)."""
    return nn.Sequential(nn.Dropout2d(drop_rate), nn.Conv2d(dim, num_classes, 1))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another one, bilinear."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    """UPerNet's decoder: pyramid pooling of the top level, then a feature pyramid, all levels fused at the finest.

    Names follow mmsegmentation, whose checkpoints load: see `weights.py`.

    Args:
        in_channels: channels of the levels, finest first.
        num_classes: K.
        channels: of all maps in the decoder.
        pool_scales: bins of the pooling along height and width.
        drop_rate: dropout of whole channels in front of the classifier.

    Shape:
        levels (B, in_channels[i], h_i, w_i) -> logits (B, K, h_0, w_0).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = CHANNELS,
        pool_scales: Sequence[int] = POOL_SCALES,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        *lower, top = in_channels
        self.pooling = PyramidPooling(top, channels, pool_scales)
        self.bottleneck = Conv2dNormActivation(self.pooling.out_channels, channels, 3)
        self.laterals = nn.ModuleList(Conv2dNormActivation(dim, channels, 1) for dim in lower)
        self.smooth = nn.ModuleList(Conv2dNormActivation(channels, channels, 3) for _ in lower)
        self.fuse = Conv2dNormActivation(len(in_channels) * channels, channels, 3)
        self.classifier = pixel_classifier(channels, num_classes, drop_rate)

    def forward_features(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels -> the map in front of the classifier, (B, channels, h_0, w_0)."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, levels, strict=False)]
        maps.append(self.bottleneck(self.pooling(levels[-1])))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + resized(maps[i], maps[i - 1])
        maps = [*(smooth(x) for smooth, x in zip(self.smooth, maps, strict=False)), maps[-1]]
        return self.fuse(torch.cat([resized(x, maps[0]) for x in maps], 1))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """See the class."""
        return self.classifier(self.forward_features(levels))


class UPerNet(nn.Module):
    """UPerNet on the last four levels of an encoder of timm, with an auxiliary head on the third.

    Args:
        encoder: name in timm.
        num_classes: K.
        channels: of the decoder.
        drop_path: rate of the encoder, where it has one; None: its own default.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        channels: int = CHANNELS,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        self.name = encoder
        self.encoder, widths = timm_encoder(encoder, drop_path)
        # mmsegmentation normalises the maps of Swin, which come as (B, h, w, C).
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in widths if encoder.startswith("swin"))
        self.head = UPerHead(widths, num_classes, channels)
        self.auxiliary = nn.Sequential(
            Conv2dNormActivation(widths[-2], AUX_CHANNELS, 3), pixel_classifier(AUX_CHANNELS, num_classes, 0.1)
        )
        self.num_features = channels

    @property
    def classifier(self) -> nn.Module:
        """From the features to the logits."""
        return self.head.classifier

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """See the module's docstring."""
        levels: list[Tensor] = self.encoder(images)[-4:]
        if len(self.norms):
            levels = [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, levels, strict=True)]
        return self.head.forward_features(levels), levels[-2]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K, H / 4, W / 4)."""
        return self.classifier(self.forward_features(images)[0])


def timm_encoder(name: str, drop_path: float | None = None, pretrained: bool = False) -> tuple[nn.Module, list[int]]:
    """An encoder of timm that gives maps of several strides, and the channels of the last four.

    Raises:
        Problem: timm has no such model, or it gives fewer than four maps.
    """
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        close = suggest(plain, timm.list_models(), "; ")
        raise Problem(f"no network {name!r}{close}", "arch", f"mini, {', '.join(DEEPLABS)}, or a model of timm")
    options: dict[str, Any] = {"strict_img_size": False} if plain.startswith("swin") else {}
    options |= {"drop_path_rate": drop_path} if drop_path is not None else {}
    try:
        encoder = timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (RuntimeError, TypeError) as error:
        remedy = "choose a staged encoder of timm, such as resnet50 or swin_tiny_patch4_window7_224"
        raise Problem(f"{name} gives no maps here: {error}", "arch", remedy) from error
    if "strict_img_size" in options:
        patches: Any = encoder.patch_embed
        patches.dynamic_img_pad = True  # images whose sides are no multiples of a patch
    info: Any = encoder.feature_info
    strides = info.reduction()[-4:]
    if len(strides) < 4 or len(set(strides)) < 4:
        raise Problem(f"{name} gives maps of the strides {strides}", "arch", "UPerNet needs four different ones")
    return encoder, info.channels()[-4:]


class DeepLab(nn.Module):
    """torchvision's DeepLabv3 with its auxiliary head.

    Args:
        name: one of `DEEPLABS`.
        num_classes: K.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.name = name
        build = getattr(segmentation, name)
        network = build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)
        *decoder, self.classifier = network.classifier
        self.backbone, self.decoder, self.auxiliary = network.backbone, nn.Sequential(*decoder), network.aux_classifier
        self.num_features = self.classifier.in_channels

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """See the module's docstring."""
        maps = self.backbone(images)
        return self.decoder(maps["out"]), maps["aux"]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K, H / 8, W / 8)."""
        return self.classifier(self.forward_features(images)[0])


class MiniFPN(nn.Module):
    """A small feature pyramid for samples: strides 2, 4, 8 with 32, 64, 96 channels, fused at stride 2."""

    auxiliary: None = None

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (3, *MINI_WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Conv2dNormActivation(before, dim, 3, stride=2),
                *([Conv2dNormActivation(dim, dim, 3)] if k else []),
            )
            for k, (before, dim) in enumerate(zip(widths, MINI_WIDTHS, strict=False))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(dim, MINI_CHANNELS, 1) for dim in MINI_WIDTHS)
        self.fuse = Conv2dNormActivation(MINI_CHANNELS, MINI_CHANNELS, 3)
        self.classifier = nn.Conv2d(MINI_CHANNELS, num_classes, 1)
        self.num_features = MINI_CHANNELS
        self.to(memory_format=torch.channels_last)  # faster on CPUs

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """See the module's docstring."""
        maps, x = [], images
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        x = maps.pop()
        while maps:
            finer = maps.pop()
            x = finer + resized(x, finer)
        return self.fuse(x), None  # (B, 48, H / 2, W / 2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K, H / 2, W / 2)."""
        return self.classifier(self.forward_features(images)[0])


def make_host(
    arch: str, num_classes: int, channels: int = CHANNELS, drop_path: float | None = None
) -> UPerNet | DeepLab | MiniFPN:
    """A network by name: "mini", one of `DEEPLABS`, or an encoder of timm, which gets UPerNet's decoder."""
    if arch == "mini":
        return MiniFPN(num_classes)
    if arch in DEEPLABS:
        return DeepLab(arch, num_classes)
    return UPerNet(arch, num_classes, channels, drop_path)
