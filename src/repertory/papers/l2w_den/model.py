"""Networks with several exits: MSDNet (Huang et al., 2018), RANet (Yang et al., 2020), and backbones of timm.

    network = build("msdnet_cifar", num_classes=100)
    logits = network(torch.rand(2, 3, 32, 32))       # 5 tensors (2, 100), from the first exit to the last
    logits = next(network.walk(torch.rand(1, 3, 32, 32)))  # computes the first exit alone

A network is a row of `steps`, each followed by an exit. Steps pass a state on: lists of feature maps whose first
dimension is the batch, so that samples which have left can be dropped in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import timm
import torch
import torch.nn.functional as F
from timm.models._features import FeatureListNet
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_lengths, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images
from repertory.papers.l2w_den.settings import TIMM, VARIANTS

State = list[list[Tensor]]
Stem = Literal["cifar", "imagenet"]
Sizes = Sequence[int]

CIFAR_HEAD = 128
"""Channels of the convolutions before the classifiers of CIFAR networks."""


# -- units --------------------------------------------------------------------------------------


def conv_bn(dim_in: int, dim: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """(B, dim_in, H, W) -> (B, dim, H / stride, W / stride): convolution, batch norm, ReLU."""
    conv = nn.Conv2d(dim_in, dim, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU(inplace=True))


def bottleneck(dim_in: int, dim: int, width: int, stride: int = 1) -> nn.Sequential:
    """(B, dim_in, H, W) -> (B, dim, H / stride, W / stride) through min(dim_in, width * dim) channels."""
    inner = min(dim_in, width * dim)
    return nn.Sequential(*conv_bn(dim_in, inner, 1), *conv_bn(inner, dim, 3, stride, 1))


def imagenet_stem(dim_in: int, dim: int) -> nn.Sequential:
    """(B, dim_in, H, W) -> (B, dim, H / 4, W / 4)."""
    return nn.Sequential(
        nn.Conv2d(dim_in, dim, 7, 2, 3), nn.BatchNorm2d(dim), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )


def exit_head(dim_in: int, num_classes: int, stem: Stem) -> nn.Sequential:
    """(B, dim_in, h, w) -> (B, num_classes), for maps of 5 x 5 pixels or more."""
    dim = CIFAR_HEAD if stem == "cifar" else dim_in
    return nn.Sequential(
        conv_bn(dim_in, dim, 3, 2, 1), conv_bn(dim, dim, 3, 2, 1), nn.AvgPool2d(2), GlobalMean(),
        nn.Linear(dim, num_classes),
    )  # fmt: skip


class GlobalMean(nn.Module):
    """(B, C, h, w) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


# -- what all have in common --------------------------------------------------------------------


class MultiExitNetwork(nn.Module):
    """A row of steps with an exit after each.

    Subclasses fill `steps` (state -> state) and `exits` (last map of the state -> logits).

    Shape:
        (B, in_chans, H, W) -> K tensors (B, num_classes), from the first exit to the last.
    """

    steps: nn.ModuleList
    exits: nn.ModuleList
    num_classes: int
    in_chans: int
    min_size: int
    """Least height and width of an image."""

    def begin(self, x: Tensor) -> State:
        """The state before the first step.

        Raises:
            Problem: images of another shape, or too small.
        """
        check_images(x, self.in_chans, type(self).__name__)
        if min(x.shape[-2:]) < self.min_size:
            raise Problem(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels are too small for {type(self).__name__}",
                "input",
                f"give {self.min_size} x {self.min_size} or more: every exit halves the coarsest map three times",
            )
        return [[x]]

    def stage(self, k: int, state: State) -> tuple[Tensor, State]:
        """The logits of exit k, and the state after it; the first stage takes [[x]]."""
        if k == 0:
            state = self.begin(state[0][0])
        state = self.steps[k](state)
        return self.exits[k](state[-1][-1]), state

    def walk(self, x: Tensor) -> Iterator[Tensor]:
        """The logits of each exit, computed when they are asked for."""
        state: State = [[x]]
        for k in range(len(self.steps)):
            logits, state = self.stage(k, state)
            yield logits

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        return list(self.walk(x))

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The map that each exit reads: K tensors (B, C_k, h, w)."""
        state, maps = self.begin(x), []
        for step in self.steps:
            state = step(state)
            maps.append(state[-1][-1])
        return maps

    def get_classifier(self) -> list[nn.Linear]:
        """The linear layer of each exit."""
        return [head[-1] for head in self.exits]  # pyright: ignore[reportIndexIssue]

    def reset_classifier(self, num_classes: int) -> None:
        """New linear layers for other classes, with PyTorch's initialisation."""
        check_whole(type(self).__name__, num_classes=num_classes)
        self.num_classes = num_classes
        for head in self.exits:
            old = head[-1]  # pyright: ignore[reportIndexIssue]
            head[-1] = nn.Linear(old.in_features, num_classes).to(old.weight)  # pyright: ignore[reportIndexIssue]


def min_side(stem: Stem, scales: int) -> int:
    """Least side of an image whose coarsest map has 5 pixels a side: each stride-2 layer rounds up."""
    halvings = scales - 1 + (2 if stem == "imagenet" else 0)
    return 4 * 2**halvings + 1


# -- MSDNet -------------------------------------------------------------------------------------


class MSDNet(MultiExitNetwork):
    """Multi-scale dense network: maps at several resolutions are computed together, and exits read the coarsest.

    Args:
        n_exits: K, each after a block of layers.
        base: layers of the first block.
        step: layers of each further block; with "lin_grow", block i has step * i + 1.
        step_mode: "even" or "lin_grow".
        channels: C0, of the finest scale after the first layer.
        growth: g; layers add g * gr_factor[s] channels at scale s.
        gr_factor: width of each of the S scales relative to C0 and g, from fine to coarse.
        bn_factor: width of the bottlenecks at each scale relative to their output.
        prune: which layers drop the finest scale: "max" S - floor((n - 1) / interval) scales are left, "min" as few
            as the layers that follow need.
        reduction: share of the channels that a transition keeps; 0: no transitions.
        stem: "cifar" (stride 1) or "imagenet" (stride 4).
        num_classes: of the exits.
        in_chans: of the images.

    Convolutions and classifiers keep PyTorch's initialisation, which the released networks were trained from.

    Example:
        >>> network = MSDNet(n_exits=2, base=1, step=1, channels=8, growth=4, num_classes=10)
        >>> [tuple(logits.shape) for logits in network(torch.zeros(3, 3, 32, 32))]
        [(3, 10), (3, 10)]
    """

    def __init__(
        self,
        n_exits: int = 5,
        base: int = 1,
        step: int = 1,
        step_mode: Literal["even", "lin_grow"] = "lin_grow",
        channels: int = 16,
        growth: int = 6,
        gr_factor: Sizes = (1, 2, 4),
        bn_factor: Sizes = (1, 2, 4),
        prune: Literal["max", "min"] = "max",
        reduction: float = 0.5,
        stem: Stem = "cifar",
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        check_whole(
            "MSDNet", n_exits=n_exits, base=base, step=step, channels=channels, growth=growth, in_chans=in_chans
        )
        check_whole("MSDNet", gr_factor=gr_factor, bn_factor=bn_factor, num_classes=num_classes)
        check_lengths("MSDNet", gr_factor=gr_factor, bn_factor=bn_factor)
        check_rates("MSDNet", reduction=reduction)
        check_choice("MSDNet", ("even", "lin_grow"), step_mode=step_mode)
        check_choice("MSDNet", ("max", "min"), prune=prune)
        check_choice("MSDNet", get_args(Stem), stem=stem)
        depths = [base] + [step if step_mode == "even" else step * i + 1 for i in range(1, n_exits)]
        total, scales = sum(depths), len(gr_factor)
        self.num_classes, self.in_chans, self.min_size = num_classes, in_chans, min_side(stem, scales)

        self.steps, self.exits = nn.ModuleList(), nn.ModuleList()
        n, dim = 0, channels  # layers so far; channels of a scale with factor 1
        for block, depth in enumerate(depths):
            layers: list[nn.Module] = [FirstLayer(in_chans, channels, gr_factor, stem)] if block == 0 else []
            for _ in range(depth):
                n += 1
                before, after = scales_left(n, total, scales, prune)
                layers.append(MSDLayer(dim, growth, gr_factor, bn_factor, before, after))
                dim += growth
                dropping = before > after if prune == "max" else n in (total // 3, 2 * total // 3)
                if dropping and reduction > 0:
                    kept = math.floor(reduction * dim)
                    layers.append(Transition(dim, kept, gr_factor[scales - after :]))
                    dim = kept
            self.steps.append(MSDBlock(*layers))
            self.exits.append(exit_head(dim * gr_factor[-1], num_classes, stem))


def scales_left(n: int, total: int, scales: int, prune: str) -> tuple[int, int]:
    """Number of scales before and after layer n = 1 … total."""
    if prune == "min":
        return min(scales, total - n + 2), min(scales, total - n + 1)
    interval = math.ceil(total / scales)
    return scales - max(0, n - 2) // interval, scales - (n - 1) // interval


class FirstLayer(nn.Module):
    """[image (B, in_chans, H, W)] -> S maps, (B, C0 * factor, H / 2^s, W / 2^s), of a quarter the size for ImageNet."""

    def __init__(self, in_chans: int, channels: int, factors: Sizes, stem: Stem) -> None:
        super().__init__()
        dims = [channels * factor for factor in factors]
        first = conv_bn(in_chans, dims[0], 3, 1, 1) if stem == "cifar" else imagenet_stem(in_chans, dims[0])
        further = (conv_bn(a, b, 3, 2, 1) for a, b in pairwise(dims))
        self.layers = nn.ModuleList([first, *further])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """See the class."""
        maps = list(maps)
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class Unit(nn.Module):
    """A map x, concatenated with features of the finer map and of itself.

    Shape:
        x (B, C, h, w), finer (B, C', 2h, 2w) -> (B, C + dim, h, w).
    """

    def __init__(self, dim_in: int, dim: int, width: int, finer: tuple[int, int] | None = None) -> None:
        """`finer`: channels and bottleneck width of the finer map; None: it is not used."""
        super().__init__()
        self.down = bottleneck(finer[0], dim // 2, finer[1], stride=2) if finer else None
        self.normal = bottleneck(dim_in, dim // 2 if finer else dim, width)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """See the class."""
        if self.down is None:
            return torch.cat([x, self.normal(x)], 1)
        assert finer is not None
        return torch.cat([x, self.down(finer), self.normal(x)], 1)


class MSDLayer(nn.Module):
    """`before` maps -> `after` maps, the coarsest ones; each grows by growth * factor channels."""

    def __init__(self, dim: int, growth: int, factors: Sizes, widths: Sizes, before: int, after: int) -> None:
        super().__init__()
        finest = len(factors) - before  # scale of the first input
        self.offset = before - after
        self.layers = nn.ModuleList(
            Unit(
                dim * factors[s],
                growth * factors[s],
                widths[s],
                (dim * factors[s - 1], widths[s - 1]) if s > finest else None,
            )
            for s in range(len(factors) - after, len(factors))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """See the class."""
        return [unit(maps[i], maps[i - 1] if i > 0 else None) for i, unit in enumerate(self.layers, start=self.offset)]


class Transition(nn.Module):
    """Reduce the channels of every map by a 1x1 convolution."""

    def __init__(self, dim: int, kept: int, factors: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv_bn(dim * factor, kept * factor, 1) for factor in factors)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """S maps (B, dim * factor, h, w) -> (B, kept * factor, h, w)."""
        return [layer(x) for layer, x in zip(self.layers, maps, strict=True)]


class MSDBlock(nn.Sequential):
    """A step of MSDNet; its state is the list of scales."""

    def forward(self, state: State) -> State:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[maps] -> [maps]."""
        (maps,) = state
        for layer in self:
            maps = layer(maps)
        return [maps]


# -- RANet --------------------------------------------------------------------------------------


class RANet(MultiExitNetwork):
    """Resolution-adaptive network: sub-networks from the lowest resolution to the highest, each reusing the last one's.

    Args:
        n_blocks: blocks of the first sub-network, each with an exit.
        block_step: further blocks, and exits, of each further sub-network.
        step: layers of a block.
        step_mode: "even", or "lg": each block has `step` layers more than the last.
        scale_list: scale of the input of each sub-network, from the lowest resolution; equal ones share a resolution.
        gr_factor: width of each sub-network relative to C0 and g.
        bn_factor: width of its bottlenecks relative to their output.
        channels: C0.
        growth: g.
        compress: share of a fusion layer's new channels that come from the lower resolution.
        reduction: share of the channels that a transition keeps.
        stem: "cifar" or "imagenet".
        num_classes: of the exits.
        in_chans: of the images.

    Example:
        >>> network = RANet(n_blocks=1, block_step=1, step=2, channels=8, growth=4, num_classes=10)
        >>> len(network(torch.zeros(1, 3, 32, 32)))
        3
    """

    def __init__(
        self,
        n_blocks: int = 2,
        block_step: int = 2,
        step: int = 4,
        step_mode: Literal["even", "lg"] = "even",
        scale_list: Sizes = (1, 2, 3),
        gr_factor: Sizes = (4, 2, 1),
        bn_factor: Sizes = (4, 2, 1),
        channels: int = 16,
        growth: int = 6,
        compress: float = 0.25,
        reduction: float = 0.5,
        stem: Stem = "cifar",
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        check_whole("RANet", n_blocks=n_blocks, step=step, channels=channels, growth=growth, in_chans=in_chans)
        check_whole("RANet", scale_list=scale_list, gr_factor=gr_factor, bn_factor=bn_factor, num_classes=num_classes)
        check_whole("RANet", 0, block_step=block_step)
        check_lengths("RANet", scale_list=scale_list, gr_factor=gr_factor, bn_factor=bn_factor)
        check_rates("RANet", compress=compress, reduction=reduction)
        check_choice("RANet", ("even", "lg"), step_mode=step_mode)
        check_choice("RANet", get_args(Stem), stem=stem)
        self.num_classes, self.in_chans, self.min_size = num_classes, in_chans, min_side(stem, max(scale_list))
        self.pyramid = Pyramid(in_chans, [channels * factor for factor in gr_factor], scale_list, stem)

        blocks = [0] + [block_step * i + n_blocks for i in range(len(scale_list))]  # of each sub-network, from 1 on
        self.steps, self.exits = nn.ModuleList(), nn.ModuleList()
        low: list[list[int]] = []  # channels of the features of each block of the sub-network below
        for i, (scale, factor) in enumerate(zip(scale_list, gr_factor, strict=True), start=1):
            reduced = {j * blocks[i] // scale for j in range(1, scale)}
            downs = blocks[:i][-(scale - 1) :]
            dim, features, fusions = channels * factor, list[list[int]](), list[nn.Module]()
            for n in range(1, blocks[i] + 1):
                depth = step if step_mode == "even" else step * n
                dims = [dim + j * growth * factor for j in range(depth + 1)]
                features.append(dims)
                if n <= blocks[i - 1]:
                    widths = bn_factor[i - 2], bn_factor[i - 1]
                    block = FusionBlock(dims, low[n - 1], widths, compress, n in downs, reduction * (n in reduced))
                    fusions.append(block)
                else:
                    block = NormalBlock(dims, bn_factor[i - 1], reduction * (n in reduced))
                    self.steps.append(RANetStep(fusions, block, first=n == blocks[i - 1] + 1))
                    self.exits.append(exit_head(block.dim, num_classes, stem))
                    fusions = []
                dim = block.dim
            low = features

        for module in [*self.steps.modules(), *self.exits.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels)))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def begin(self, x: Tensor) -> State:
        """The maps that the sub-networks start from, and no features yet."""
        ((x,),) = super().begin(x)
        return [self.pyramid(x), [x]]


class Pyramid(nn.Module):
    """Image -> the input of each sub-network, from the lowest resolution; computed from the highest one down."""

    def __init__(self, in_chans: int, dims: list[int], scale_list: Sizes, stem: Stem) -> None:
        super().__init__()
        dims, scales = dims[::-1], list(scale_list)[::-1]
        first = conv_bn(in_chans, dims[0], 3, 1, 1) if stem == "cifar" else imagenet_stem(in_chans, dims[0])
        further = (
            conv_bn(dims[i - 1], dims[i], 3, 1 if scales[i] == scales[i - 1] else 2, 1) for i in range(1, len(dims))
        )
        self.layers = nn.ModuleList([first, *further])

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[:0:-1]


class NormalBlock(nn.Module):
    """A dense chain at one resolution.

    Shape:
        (B, dims[0], h, w) -> (B, dim, h, w), and all maps of the chain, (B, dims[j], h, w).
    """

    def __init__(self, dims: list[int], width: int, reduction: float) -> None:
        """`reduction` 0: no transition."""
        super().__init__()
        self.layers = nn.ModuleList(Unit(a, b - a, width) for a, b in pairwise(dims))
        self.dim = math.floor(reduction * dims[-1]) if reduction else dims[-1]
        self.transition = conv_bn(dims[-1], self.dim, 1) if reduction else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See the class."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return self.transition(maps[-1]), maps


class FusionBlock(nn.Module):
    """A dense chain that also reads the features of the same block at a lower resolution.

    Shape:
        x (B, dims[0], h, w), low maps (B, low[j], h', w') -> (B, dim, …), and all maps of the chain. If `down`, the
        last layer halves the resolution.
    """

    def __init__(
        self,
        dims: list[int],
        low: list[int],
        widths: tuple[int, int],
        compress: float,
        down: bool,
        reduction: float,
    ) -> None:
        super().__init__()
        last = len(dims) - 2
        self.layers = nn.ModuleList(
            FusionLayer(dims[j], low[j], dims[j + 1] - dims[j], widths, compress, down and j == last)
            for j in range(last + 1)
        )
        added = math.floor(compress * dims[-1])
        self.lift = conv_bn(low[-1], added, 1)
        dim = dims[-1] + added
        self.dim = math.floor(reduction * dim) if reduction else dim
        self.transition = conv_bn(dim, self.dim, 1) if reduction else nn.Identity()

    def forward(self, x: Tensor, low: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See the class."""
        maps = [x]
        for layer, lower in zip(self.layers, low, strict=False):
            maps.append(layer(maps[-1], lower))
        x = torch.cat([maps[-1], resize(self.lift(low[-1]), maps[-1])], 1)
        return self.transition(x), maps


class FusionLayer(nn.Module):
    """x, resized features of the lower resolution and its own features, concatenated."""

    def __init__(
        self, dim_in: int, low: int, growth: int, widths: tuple[int, int], compress: float, down: bool
    ) -> None:
        super().__init__()
        lifted = math.floor(growth * compress)
        self.up = bottleneck(low, lifted, widths[0])
        self.own = bottleneck(dim_in, growth - lifted, widths[1], stride=2 if down else 1)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """x (B, C, h, w), low (B, C', h', w') -> (B, C + growth, h, w), or of half the size."""
        own = self.own(x)
        return torch.cat([resize(x, own), resize(self.up(low), own), own], 1)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear interpolation to the height and width of another map, corners aligned."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


class RANetStep(nn.Module):
    """A block with an exit; the first one of a sub-network runs the fusion blocks before it too.

    The state is [inputs of the sub-networks to come, features of each block …, [what the exit reads]].
    """

    def __init__(self, fusions: list[nn.Module], block: NormalBlock, first: bool) -> None:
        super().__init__()
        self.fusions, self.block, self.first = nn.ModuleList(fusions), block, first

    def forward(self, state: State) -> State:
        """See the class."""
        inputs, *features, (x,) = state
        if self.first:
            x, inputs = inputs[0], inputs[1:]
            fused = []
            for block, low in zip(self.fusions, features, strict=True):
                x, maps = block(x, low)
                fused.append(maps)
            features = fused
        x, maps = self.block(x)
        return [inputs, *features, maps, [x]]


# -- backbones of timm ----------------------------------------------------------------------------


class MultiExit(MultiExitNetwork):
    """A convolutional backbone of timm with a linear exit after each of its stages.

    Args:
        name: of a network that timm can cut into a list of stages (`features_only=True`): ResNets, RegNets, VGGs, …
        num_classes: of the exits.
        in_chans: of the images.
        pretrained: download timm's weights of the backbone.

    Raises:
        Problem: no such network, or one that cannot be cut.

    Example:
        >>> len(MultiExit("resnet18", num_classes=10).exits)
        5
    """

    def __init__(self, name: str, num_classes: int = 1000, in_chans: int = 3, pretrained: bool = False) -> None:
        super().__init__()
        check_whole("MultiExit", num_classes=num_classes, in_chans=in_chans)
        remedy = "choose one with features_only=True, such as resnet18 or regnety_002"
        try:
            backbone = timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_chans)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise Problem(f"timm cannot build {name} with feature maps: {error}", "arch", remedy) from error
        if not isinstance(backbone, FeatureListNet):
            raise Problem(f"{name} cannot be cut into stages that run one by one", "arch", remedy)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.min_size = max(backbone.feature_info.reduction())
        self.steps, layers = nn.ModuleList(), list[nn.Module]()
        for layer_name, layer in backbone.items():
            layers.append(layer)
            if layer_name in backbone.return_layers:
                self.steps.append(TimmStage(*layers))
                layers = []
        self.exits = nn.ModuleList(
            nn.Sequential(GlobalMean(), nn.Linear(dim, num_classes)) for dim in backbone.feature_info.channels()
        )


class TimmStage(nn.Sequential):
    """A step of a backbone of timm; its state is one map."""

    def forward(self, state: State) -> State:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[[map]] -> [[map]]."""
        ((x,),) = state
        return [[super().forward(x)]]


def build(arch: str, num_classes: int, in_chans: int = 3, **changes: Any) -> MultiExitNetwork:
    """A network by name: one of `VARIANTS`, or "timm:NAME".

    Args:
        arch: the name.
        num_classes: of the exits.
        in_chans: of the images.
        changes: other arguments than those of the variant.

    Raises:
        Problem: no such network.

    Example:
        >>> sum(p.numel() for p in build("msdnet_cifar", 100).parameters())
        2078924
    """
    if arch.startswith(TIMM):
        return MultiExit(arch.removeprefix(TIMM), num_classes, in_chans, **changes)
    if arch not in VARIANTS:
        raise Problem(f"no network {arch!r}", "arch", f"choose from {', '.join(VARIANTS)}, or {TIMM}NAME")
    kind = RANet if arch.startswith("ranet") else MSDNet
    return kind(**{**VARIANTS[arch], **changes}, num_classes=num_classes, in_chans=in_chans)


# -- cost -----------------------------------------------------------------------------------------


@torch.no_grad()
def exit_costs(network: MultiExitNetwork, *, size: int, in_chans: int = 3) -> list[int]:
    """Operations up to and with each exit, as the authors of MSDNet count them.

    Convolutions: multiply-accumulates. ReLU: elements. Pooling: output elements times kernel size. Linear: weights and
    biases. Norms, sums and interpolation: 0.

    Args:
        network: unchanged.
        size: height and width of an image.
        in_chans: of the image.

    Example:
        >>> exit_costs(build("msdnet_cifar", 100), size=32)
        [6859876, 14350024, 27536684, 41714576, 58480628]
    """
    count = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        if isinstance(module, nn.Conv2d):
            count += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            count += sum(p.numel() for p in module.parameters())
        elif isinstance(module, nn.ReLU):
            count += output[0].numel()
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            kernel = module.kernel_size
            count += output[0].numel() * (kernel**2 if isinstance(kernel, int) else math.prod(kernel))

    handles = [module.register_forward_hook(hook) for module in network.modules() if not list(module.children())]
    modes = [(module, module.training) for module in network.modules()]
    device = next(network.parameters()).device
    costs = []
    try:
        for _ in network.eval().walk(torch.zeros(1, in_chans, size, size, device=device)):
            costs.append(count)
    finally:
        for module, training in modes:
            module.training = training
        for handle in handles:
            handle.remove()
    return costs
