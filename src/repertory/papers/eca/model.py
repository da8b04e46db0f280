"""The paper's networks: channel attention at the end of every residual branch (Wang et al., CVPR 2020).

    model = timm.create_model("eca_resnet50")    # after `import repertory.papers.eca`; 80 parameters more than plain
    model = add_channel_attention(torchvision.models.resnet50(weights="DEFAULT"), "eca", (3, 5, 5, 7))

Module names are those of torchvision and of the authors' released weights: attention is `eca`, in MobileNetV2 the last
index of a block.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck as TimmBottleneck
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from repertory.core import checkpoint
from repertory.core.arguments import check_choice, check_lengths, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import PooledNetwork, build, channels_last, check_format, check_images, dilate
from repertory.nn.imagenet import IMAGENET, label_names
from repertory.papers.eca.layers import WITH_KERNEL, WITH_REDUCTION, Gate, canonical, channel_attention
from repertory.papers.eca.weights import accept_released_weights, kernels_of, read_weights, structure_of

Kernels = str | int | Sequence[int] | None
"""Kernel of each stage, as 3,5,5,7 or "3557"; one for all; "adaptive" or None: equation 12 of the output width."""

RESNETS: dict[str, dict[str, Any]] = {
    "eca_resnet18": {"block": "basic", "depths": (2, 2, 2, 2), "kernel_sizes": (3, 5, 7, 7)},
    "eca_resnet34": {"block": "basic", "depths": (3, 4, 6, 3), "kernel_sizes": (3, 3, 5, 7)},
    "eca_resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3), "kernel_sizes": (3, 5, 5, 7)},
    "eca_resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3), "kernel_sizes": (3, 3, 5, 7)},
    "eca_resnet152": {"block": "bottleneck", "depths": (3, 8, 36, 3), "kernel_sizes": (3, 3, 5, 7)},
}
"""Published depths. The kernels are those of the released weights; the authors tuned them."""
MOBILENETS: dict[str, dict[str, Any]] = {"eca_mobilenet_v2": {"kernel_sizes": (1, 1, 1, 1, 3, 3, 3)}}
"""A kernel of 1 below 96 channels is a single gain."""
VARIANTS = RESNETS | MOBILENETS
MINI: dict[str, Any] = {
    "block": "basic",
    "depths": (1, 1, 1),
    "widths": (16, 32, 64),
    "small_stem": True,
    "kernel_sizes": "adaptive",
}
"""For small images: 78 thousand parameters."""
RESNET_HEAD, MOBILENET_HEAD = "fc", "classifier.1"


# -- attention in residual blocks ---------------------------------------------------------------


def gated_sum(shortcut: Tensor, x: Tensor, attention: nn.Module, drop_path: nn.Module) -> Tensor:
    """shortcut + drop_path(attention(x)), on maps (N, C, H, W); x may be overwritten."""
    if isinstance(attention, Gate):  # weights and drop_path scale whole channels: one pass over the maps
        return torch.addcmul(shortcut, x, drop_path(attention.weights(x)))
    return drop_path(attention(x)).add_(shortcut)


class GatedBasicBlock(BasicBlock):
    """Two 3x3 convolutions, attention, shortcut."""

    eca: nn.Module
    drop_path: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(gated_sum(shortcut, out, self.eca, self.drop_path))


class GatedBottleneck(Bottleneck):
    """1x1, 3x3 and 1x1 convolutions, attention, shortcut."""

    eca: nn.Module
    drop_path: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(gated_sum(shortcut, out, self.eca, self.drop_path))


class GatedInvertedResidual(InvertedResidual):
    """MobileNetV2's block with attention as its last layer, with or without a shortcut."""

    drop_path: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        if not self.use_res_connect:
            return self.conv(x)
        *layers, attention = self.conv
        out = x
        for layer in layers:
            out = layer(out)
        return gated_sum(x, out, attention, self.drop_path)


GATED: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: GatedBasicBlock,
    Bottleneck: GatedBottleneck,
    InvertedResidual: GatedInvertedResidual,
}


def add_channel_attention(
    model: nn.Module, kind: str = "eca", kernel_sizes: Kernels = None, **options: Any
) -> nn.Module:
    """Add newly initialised channel attention after the last norm of every residual branch, in place.

    The other weights do not change. A second call replaces the attention. In timm's ResNets it becomes `se`.

    Args:
        model: a ResNet of torchvision, timm or this module, or a MobileNetV2 of torchvision.
        kind: see `channel_attention`.
        kernel_sizes: of eca and eca_ns, see `Kernels`. The stages of MobileNetV2 are its seven widths.
        options: passed to `channel_attention`, e.g. `reduction`.

    Returns:
        `model`.

    Raises:
        Problem: another kind of network, or kernels that do not match its stages.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = add_channel_attention(resnet18(), "eca", (3, 5, 7, 7))
        >>> sum(p.numel() for name, p in model.named_parameters() if ".eca." in name)
        44
    """
    kind, stages = canonical(kind), stages_of(model)
    kernels = kernels_of_stages(kernel_sizes, len(stages)) if kind in WITH_KERNEL else [None] * len(stages)
    for kernel, blocks in zip(kernels, stages, strict=True):
        chosen = {**options, "kernel_size": kernel} if kernel else options
        for block in blocks:
            layer, weight = channel_attention(kind, width_of(block), **chosen), next(block.parameters())
            _set_attention(block, layer.to(weight.device, weight.dtype).train(block.training))
    return model


def _set_attention(block: Any, layer: nn.Module) -> None:
    if isinstance(block, TimmBasicBlock | TimmBottleneck):
        block.se = None if isinstance(layer, nn.Identity) else layer
        return
    if type(block) in GATED:
        # Changing the class keeps weights, names and hooks of the block.
        block.__class__ = GATED[type(block)]
        block.drop_path = nn.Identity().train(block.training)
        if isinstance(block, InvertedResidual):
            block.conv.append(nn.Identity())
    if isinstance(block, InvertedResidual):
        block.conv[-1] = layer
    else:
        block.eca = layer


def _set_drop_path(model: nn.Module, rate: float) -> None:
    """Set drop-path rates that grow linearly from 0 in the first block to `rate` in the last."""
    blocks: list[Any] = [block for stage in stages_of(model) for block in stage]
    for block, block_rate in zip(blocks, torch.linspace(0, rate, len(blocks), device="cpu").tolist(), strict=True):
        block.drop_path = DropPath(block_rate) if block_rate else nn.Identity()


def stages_of(model: nn.Module) -> list[list[nn.Module]]:
    """Residual blocks of a ResNet or MobileNetV2 by stage.

    Raises:
        Problem: another kind of network.
    """
    if isinstance(model, MobileNetV2):
        blocks = [block for block in model.features if isinstance(block, InvertedResidual)]
        return [list(of_width) for _, of_width in groupby(blocks, width_of)]
    known = (BasicBlock, Bottleneck, TimmBasicBlock, TimmBottleneck)
    stages = [list(getattr(model, name)) for name, _ in model.named_children() if re.fullmatch(r"layer\d", name)]
    if not stages or not all(isinstance(block, known) for stage in stages for block in stage):
        raise Problem(
            f"cannot add channel attention to a {type(model).__name__}",
            "add_channel_attention",
            "give a ResNet of torchvision or timm, or a MobileNetV2 of torchvision",
        )
    return stages


def width_of(block: nn.Module) -> int:
    """Output channels of a residual block."""
    if isinstance(block, InvertedResidual):
        return block.out_channels
    return cast(nn.BatchNorm2d, getattr(block, "bn3", block.bn2)).num_features


def kernels_of_stages(kernel_sizes: Kernels, stages: int) -> list[int | None]:
    """One kernel per stage; None: the adaptive rule.

    Raises:
        Problem: not numbers, or not one per stage.

    Example:
        >>> [kernels_of_stages(given, 4) for given in ("3,5,5,7", "3557", (3, 5, 5, 7), 9, "adaptive")]
        [[3, 5, 5, 7], [3, 5, 5, 7], [3, 5, 5, 7], [9, 9, 9, 9], [None, None, None, None]]
    """
    if kernel_sizes is None or kernel_sizes == "adaptive":
        return [None] * stages
    if isinstance(kernel_sizes, str | int):
        text = str(kernel_sizes)
        parts = re.split(r"[,\s]+", text.strip("()[] "))
        if len(parts) == 1 and len(text) > 2:  # "3557" is four kernels
            parts = list(text)
    else:
        parts = [str(kernel) for kernel in kernel_sizes]
    if len(parts) == 1:
        parts *= stages
    if len(parts) != stages or not all(part.isdecimal() for part in parts):
        raise Problem(
            f"kernel_sizes={kernel_sizes!r} for {stages} stages",
            "kernel_sizes",
            f'give {stages} odd numbers, as "{",".join("3" * stages)}" or "{"3" * stages}", or one, or "adaptive"',
        )
    return [int(part) for part in parts]


# -- networks -----------------------------------------------------------------------------------


class Classifier(PooledNetwork):
    """Base of both networks: input check, timm's model interface.

    Subclasses name the modules that lead to each map of `feature_info` in `sections`, and those after the last map in
    `final`.
    """

    in_chans: int
    drop_rate: float
    feature_info: list[dict[str, Any]]
    sections: list[list[str]]
    final: list[str]

    def along(self, names: Sequence[str], x: Tensor) -> Tensor:
        """Output of modules, one after the other."""
        for name in names:
            module = self.get_submodule(name)
            blocks = name.startswith("layer") or isinstance(module, InvertedResidual)
            x = self.through(module, x) if blocks else module(x)
        return x

    def maps(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H / 32, W / 32)."""
        for names in (*self.sections, self.final):
            x = self.along(names, x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> the last map (N, num_features, H / 32, W / 32)."""
        return self.maps(prepared(x, self.in_chans))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps, for detection and segmentation.

        Args:
            x: images (N, in_chans, H, W).
            indices: of `feature_info`, from 0; an int n: the last n; None: all.
            norm: no effect: every map is normalised.
            stop_early: skip what follows the last of `indices`.
            output_fmt: "NCHW".
            intermediates_only: return only the list of maps.

        Returns:
            (output of `forward_features`, maps), or the maps.

        Raises:
            Problem: another `output_fmt`.
        """
        check_format(output_fmt)
        wanted, last = feature_take_indices(len(self.sections), indices)
        x, maps = prepared(x, self.in_chans), []
        for i, names in enumerate(self.sections[: last + 1] if stop_early or intermediates_only else self.sections):
            x = self.along(names, x)
            if i in wanted:
                maps.append(x)
        return maps if intermediates_only else (self.along(self.final, x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the modules that the maps `indices` do not need; returns the absolute indices."""
        wanted, last = feature_take_indices(len(self.sections), indices)
        unneeded = [*self.sections[last + 1 :], *([self.final] if last + 1 < len(self.sections) or prune_head else [])]
        for name in (name for names in unneeded for name in names):
            self.set_submodule(name, nn.Identity())
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last feature map -> logits (N, num_classes), or pooled features (N, num_features)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    @torch.no_grad()
    def fuse(self) -> Classifier:
        """Fold every batch norm into the preceding convolution, in place: same outputs, faster inference.

        The attention follows the norms and does not change.
        """
        for module in list(cast(nn.Module, self).modules()):
            names = list(module._modules)
            for first, second in pairwise(names):
                conv, norm = module._modules[first], module._modules[second]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module._modules[first], module._modules[second] = fuse_conv_bn_eval(conv, norm), nn.Identity()
        return self


@torch.fx.wrap  # pyright: ignore[reportPrivateImportUsage]  shape checks break symbolic tracing
def prepared(x: Tensor, channels: int) -> Tensor:
    """Checked images in channels-last memory: 1.1 times faster on a CPU in ResNet-50, 1.25 times in MobileNetV2.

    Raises:
        Problem: the images are empty, or have another number of channels.
    """
    return channels_last(check_images(x, channels, "ECA"))


class ECAResNet(Classifier, PyTorchModelHubMixin, library_name="repertory"):
    """torchvision's ResNet (stride in the 3x3 convolution) with channel attention in every block.

    Args:
        block: "basic" or "bottleneck".
        depths: blocks of each stage.
        attention: see `channel_attention`; "none": the plain network.
        kernel_sizes: of eca and eca_ns, see `Kernels`.
        reduction: of se and cbam.
        widths: planes of each stage.
        small_stem: a 3x3 convolution without pooling, for small images.
        num_classes: number of classes; 0: no classification layer, the output is the pooled features.
        in_chans: channels of the images.
        global_pool: one of `repertory.nn.backbone.POOLS`; "" with num_classes=0: the output is the last map.
        output_stride: 8, 16 or 32: the stages beyond it are dilated instead of strided.
        drop_rate: dropout before the classification layer.
        drop_path_rate: rate of the last block; it grows linearly from 0.
        pretrained_cfg: preprocessing of the training data, with timm's keys, and `label_names`.

    Shape:
        (N, in_chans, H, W) -> logits (N, num_classes).

    Raises:
        Problem: see `add_channel_attention`; in `forward`, images of another shape.

    Example:
        >>> model = ECAResNet(**VARIANTS["eca_resnet50"])
        >>> sum(p.numel() for p in model.parameters())
        25557112
        >>> sum(p.numel() for name, p in model.named_parameters() if ".eca." in name)
        80
    """

    head_name = RESNET_HEAD

    def __init__(
        self,
        block: str = "bottleneck",
        depths: Sequence[int] = (3, 4, 6, 3),
        attention: str = "eca",
        kernel_sizes: Kernels = "adaptive",
        reduction: int = 16,
        widths: Sequence[int] = (64, 128, 256, 512),
        small_stem: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_lengths("ECAResNet", depths=depths, widths=widths)
        check_whole("ECAResNet", depths=depths, widths=widths, in_chans=in_chans, reduction=reduction)
        check_whole("ECAResNet", 0, num_classes=num_classes)
        check_rates("ECAResNet", drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        if block not in BLOCKS:
            raise Problem(f"no block {block!r}", "ECAResNet", f"choose from {', '.join(BLOCKS)}")
        self.in_chans, self.drop_rate, self.stages = in_chans, drop_rate, len(depths)
        self.pretrained_cfg = {**PREPROCESSING, "num_classes": num_classes, **(pretrained_cfg or {})}

        dim, kernel = widths[0], 3 if small_stem else 7
        self.conv1 = nn.Conv2d(in_chans, dim, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        reduction_of_map = 2 if small_stem else 4
        self.feature_info = [{"num_chs": dim, "reduction": 2, "module": "relu"}]
        for i, (planes, depth) in enumerate(zip(widths, depths, strict=True)):
            stage = resnet_stage(BLOCKS[block], dim, planes, depth, stride=2 if i else 1)
            dim = planes * BLOCKS[block].expansion
            self.add_module(f"layer{i + 1}", stage)
            info = {"num_chs": dim, "reduction": reduction_of_map << i, "module": f"layer{i + 1}"}
            self.feature_info.append(info)
        self.num_features = self.head_hidden_size = dim
        self.sections = [["conv1", "bn1", "relu"], ["maxpool", "layer1"]]
        self.sections += [[f"layer{i + 1}"] for i in range(1, len(depths))]
        self.final = []
        self.fc: nn.Module = nn.Identity()
        self.reset_classifier(num_classes, global_pool)
        dilate(
            ([self.get_submodule(name) for name in names] for names in self.sections),
            self.feature_info,
            output_stride,
            "ECAResNet",
        )

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        options = {"reduction": reduction} if canonical(attention) in WITH_REDUCTION else {}
        add_channel_attention(self, attention, kernel_sizes, **options)
        _set_drop_path(self, drop_path_rate)
        self.register_load_state_dict_pre_hook(accept_released_weights)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's grouping of parameters into layers."""
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def resnet_stage(
    block: type[BasicBlock | Bottleneck], dim_in: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """Residual blocks; the first has the stride, and a convolution on its shortcut if the shape changes."""
    dim = planes * block.expansion
    shortcut = None
    if stride != 1 or dim_in != dim:
        shortcut = nn.Sequential(conv1x1(dim_in, dim, stride), nn.BatchNorm2d(dim))
    first = block(dim_in, planes, stride, shortcut)
    return nn.Sequential(first, *(block(dim, planes) for _ in range(depth - 1)))


class ECAMobileNetV2(Classifier, MobileNetV2, PyTorchModelHubMixin, library_name="repertory"):
    """torchvision's MobileNetV2 with channel attention as the last layer of every block.

    Args:
        attention, reduction, num_classes, in_chans, global_pool, output_stride, drop_rate, drop_path_rate,
        pretrained_cfg: see `ECAResNet`.
        kernel_sizes: of the seven widths 16, 24, 32, 64, 96, 160, 320; see `Kernels`.

    Shape:
        (N, in_chans, H, W) -> logits (N, num_classes).

    Example:
        >>> sum(p.numel() for p in ECAMobileNetV2(**VARIANTS["eca_mobilenet_v2"]).parameters())
        3504903
    """

    head_name = MOBILENET_HEAD

    def __init__(
        self,
        attention: str = "eca",
        kernel_sizes: Kernels = "adaptive",
        reduction: int = 8,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "fastavg",
        output_stride: int = 32,
        drop_rate: float = 0.25,
        drop_path_rate: float = 0.0,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        check_whole("ECAMobileNetV2", in_chans=in_chans, reduction=reduction)
        check_whole("ECAMobileNetV2", 0, num_classes=num_classes)
        check_rates("ECAMobileNetV2", drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        super().__init__(dropout=drop_rate)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = self.last_channel
        self.pretrained_cfg = {**PREPROCESSING, "num_classes": num_classes, **(pretrained_cfg or {})}
        self.feature_info = [
            {"num_chs": dim, "reduction": 2 << i, "module": f"features.{k}"}
            for i, (k, dim) in enumerate({1: 16, 3: 24, 6: 32, 13: 96, 17: 320}.items())
        ]
        if in_chans != 3:
            conv = nn.Conv2d(in_chans, 32, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            self.set_submodule("features.0.0", conv)
        ends = [info["module"].removeprefix("features.") for info in self.feature_info]
        starts = [0, *(int(end) + 1 for end in ends)]
        self.sections = [
            [f"features.{k}" for k in range(start, int(end) + 1)] for start, end in zip(starts, ends, strict=False)
        ]
        self.final = ["features.18"]
        self.reset_classifier(num_classes, global_pool)
        dilate(
            ([self.get_submodule(name) for name in names] for names in self.sections),
            self.feature_info,
            output_stride,
            "ECAMobileNetV2",
        )
        options = {"reduction": reduction} if canonical(attention) in WITH_REDUCTION else {}
        add_channel_attention(self, attention, kernel_sizes, **options)
        _set_drop_path(self, drop_path_rate)
        self.register_load_state_dict_pre_hook(accept_released_weights)

    def maps(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, 1280, H / 32, W / 32)."""
        return self.through(self.features, x)

    def initialise_head(self, head: nn.Linear) -> nn.Linear:
        """Initialise a new layer in place, as the authors do."""
        nn.init.normal_(head.weight, 0, 0.01)
        nn.init.zeros_(head.bias)
        return head

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's grouping of parameters into layers."""
        return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"}


# -- the published networks, in timm's registry -------------------------------------------------

PREPROCESSING: dict[str, Any] = {**IMAGENET, "interpolation": "bilinear"}
"""Test preprocessing: short side to 256 (bilinear), central 224 x 224."""

RESNET_CFG: dict[str, Any] = {**PREPROCESSING, "first_conv": "conv1", "classifier": RESNET_HEAD}
MOBILENET_CFG: dict[str, Any] = {**PREPROCESSING, "first_conv": "features.0.0", "classifier": MOBILENET_HEAD}
default_cfgs = generate_default_cfgs({name: MOBILENET_CFG if name in MOBILENETS else RESNET_CFG for name in VARIANTS})


def network(name: str, **changes: Any) -> ECAResNet | ECAMobileNetV2:
    """A network of `VARIANTS`, or "mini", with changed arguments.

    Example:
        >>> network("mini", attention="se", num_classes=10)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    check_choice("network", ["mini", *VARIANTS], name=name)
    build = ECAMobileNetV2 if name in MOBILENETS else ECAResNet
    return build(**{**(MINI if name == "mini" else VARIANTS[name]), **changes})


def _create(variant: str, pretrained: bool, changes: Mapping[str, Any]) -> Any:
    return build(
        partial(network, variant),
        "eca",
        variant,
        pretrained,
        changes,
        levels=5 if variant in MOBILENETS else 1 + len(changes.get("depths", RESNETS[variant]["depths"])),
        dilated=True,
        feature_cfg={"flatten_sequential": variant in MOBILENETS},
    )


@register_model
def eca_resnet18(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """11,689,556 parameters; published top-1 70.92."""
    return _create("eca_resnet18", pretrained, kwargs)


@register_model
def eca_resnet34(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """21,797,744 parameters; published top-1 74.21."""
    return _create("eca_resnet34", pretrained, kwargs)


@register_model
def eca_resnet50(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """25,557,112 parameters, 80 of them in the attention; published top-1 77.48, of the released file 77.42."""
    return _create("eca_resnet50", pretrained, kwargs)


@register_model
def eca_resnet101(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """44,549,317 parameters; published top-1 78.65."""
    return _create("eca_resnet101", pretrained, kwargs)


@register_model
def eca_resnet152(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """60,193,042 parameters; published top-1 78.92."""
    return _create("eca_resnet152", pretrained, kwargs)


@register_model
def eca_mobilenet_v2(pretrained: bool = False, **kwargs: Any) -> ECAMobileNetV2:
    """3,504,903 parameters; published top-1 72.56."""
    return _create("eca_mobilenet_v2", pretrained, kwargs)


# -- released weights ---------------------------------------------------------------------------


def fitting(state: Mapping[str, Tensor]) -> str:
    """The name in `VARIANTS` (or "mini") of the network with these blocks; "" if there is none."""
    if "features.0.0.weight" in state:
        return "eca_mobilenet_v2"
    structure = structure_of(state)
    variants = {"mini": MINI, **RESNETS}
    return next((name for name, v in variants.items() if v.items() >= structure.items()), "") if structure else ""


def load_network(source: Path, variant: str = "") -> ECAResNet | ECAMobileNetV2:
    """A network from a file of the authors, or of an MMDetection detector. Kernels are read from the tensors.

    Args:
        source: see `weights.read_weights`. A file without ECA gives the plain network.
        variant: one of `VARIANTS`; empty: the one whose blocks fit.

    Raises:
        Problem: unknown variant, or weights of another one; names the one that fits.
    """
    if variant and variant not in VARIANTS:
        raise Problem(f"no variant {variant!r}", "--variant", f"choose from {', '.join(VARIANTS)}")
    state = read_weights(source)
    fits = fitting(state)
    if not fits or (variant and variant != fits):
        remedy = f"--variant {fits}: its blocks fit" if fits else "they fit none of the published networks"
        raise Problem(f"these are not the weights of {variant or 'a published network'}", source, remedy)
    kernels = kernels_of(state)
    head = MOBILENET_HEAD if fits in MOBILENETS else RESNET_HEAD
    classes = len(state.get(f"{head}.weight", torch.empty(1000, 0)))
    model = network(
        fits,
        attention="eca" if kernels else "none",
        kernel_sizes=kernels,
        num_classes=classes,
        pretrained_cfg=label_names(classes),
    )
    left = checkpoint.fit_weights(model, state, source, spare=() if f"{head}.weight" in state else (f"{head}.",))
    if left:
        warnings.warn(f"{source}: no classifier in the file; it is newly initialised", stacklevel=2)
    return model.eval()
