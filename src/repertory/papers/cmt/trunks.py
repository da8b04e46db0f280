"""What makes tokens of raw data: image networks with a feature pyramid, pillars of points with a 2D network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from repertory.core.arguments import check_choice, check_whole
from repertory.core.problem import Problem, require
from repertory.papers.cmt.encoding import Bounds

TINY = "tiny"
"""The image network of the sample: three convolutions of stride 2."""
POINT_VALUES = 5
"""x, y, z in metres, intensity, time in seconds."""
POINT_FEATURES = 10
"""A point's values, its offset from the mean of its pillar (3) and from the pillar's centre (2)."""
SECOND_CHANNELS = (128, 256)
SECOND_LAYERS = 5
NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}
"""Of batch norms in the LiDAR networks."""


# -- cameras ------------------------------------------------------------------------------------


class CPFPN(nn.Module):
    """A feature pyramid that convolves its finest level alone; neither norm nor activation.

    Args:
        channels: of the levels, from fine to coarse.
        dim: C, of the outputs.

    Shape:
        maps (N, channels[i], h_i, w_i) -> maps (N, C, h_i, w_i).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.fpn_conv = nn.Conv2d(dim, dim, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """See the class."""
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], levels[fine].shape[-2:], mode="nearest")
        return [self.fpn_conv(levels[0]), *levels[1:]]


class ImageTrunk(nn.Module):
    """Images -> one feature map: strides 16 and 32 of a network of timm joined by CPFPN, or a small network.

    The batch norms of a timm network keep their statistics in training (`norm_eval`).

    Args:
        arch: name of a network in timm (`resnet50`, `ese_vovnet99b`), or "tiny".
        dim: C.
        checkpointing: recompute the network's stages in the backward pass, where timm can.

    Shape:
        (N, 3, H, W) -> (N, C, H / 16, W / 16); "tiny": (N, C, H / 8, W / 8).
    """

    def __init__(self, arch: str = "resnet50", dim: int = 256, *, checkpointing: bool = False) -> None:
        check_whole("ImageTrunk", dim=dim)
        super().__init__()
        self.arch = arch
        if arch == TINY:
            widths = (3, max(8, dim // 4), max(8, dim // 2), dim)
            self.backbone = nn.Sequential(*(Conv2dNormActivation(a, b, 3, 2) for a, b in itertools.pairwise(widths)))
            self.neck = None
            self.stride = 8
            return
        if arch not in timm.list_models():
            raise Problem(f"timm has no network {arch!r}", "image_arch", "resnet50 and ese_vovnet99b are published")
        self.backbone = timm.create_model(arch, features_only=True, out_indices=(3, 4))
        if checkpointing:
            self.backbone.set_grad_checkpointing()  # pyright: ignore[reportCallIssue]
        self.neck = CPFPN(self.backbone.feature_info.channels(), dim)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
        self.stride = 16

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.backbone(images) if self.neck is None else self.neck(self.backbone(images))[0]

    def train(self, mode: bool = True) -> ImageTrunk:
        """Batch norms of a timm network stay in evaluation mode."""
        super().train(mode)
        if self.neck is not None:
            for layer in self.backbone.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self


# -- LiDAR --------------------------------------------------------------------------------------


class Pillars(NamedTuple):
    """Points that are within the scene, with the pillar that each is in; see `assign`."""

    features: Tensor
    """(N, 10): a point's values, its offset from the mean of its pillar and from the pillar's centre."""
    cell: Tensor
    """(N,), number of the pillar: (sample * grid + row) * grid + column."""
    counts: Tensor
    """(B,), points of each sample."""


def assign(points: Sequence[Tensor], bounds: Bounds, grid: int) -> Pillars:
    """Find the pillars of points; has no weights, and shapes that depend on the data.

    Args:
        points: of each sample, (N, 5): x, y, z in metres, intensity, time in seconds.
        bounds: of the scene; points outside are left out.
        grid: pillars along x and along y.
    """
    device = points[0].device
    sample = torch.repeat_interleave(
        torch.arange(len(points), device=device), torch.tensor([len(one) for one in points], device=device)
    )
    every = torch.cat(list(points)).float()
    low, high = every.new_tensor(bounds[:3]), every.new_tensor(bounds[3:])
    inside = ((every[:, :3] >= low) & (every[:, :3] < high)).all(1)
    every, sample = every[inside], sample[inside]
    side = (high - low)[:2] / grid
    column, row = ((every[:, :2] - low[:2]) / side).long().clamp(max=grid - 1).unbind(1)
    _, index, count = (cell := (sample * grid + row) * grid + column).unique(return_inverse=True, return_counts=True)
    mean = every.new_zeros(len(count), 3).index_add(0, index, every[:, :3]) / count[:, None]
    centre = low[:2] + (torch.stack([column, row], 1) + 0.5) * side
    features = torch.cat([every, every[:, :3] - mean[index], every[:, :2] - centre], 1)
    return Pillars(features, cell, torch.bincount(sample, minlength=len(points)))


class PillarEncoder(nn.Module):
    """Points -> a map of pillars: a linear layer for each point, the maximum over the points of a pillar.

    Lang et al., PointPillars, CVPR 2019; without limits on the numbers of points and pillars.

    Args:
        grid: pillars along x and along y.
        dim: channels of the map.
    """

    def __init__(self, grid: int, dim: int = 64) -> None:
        check_whole("PillarEncoder", grid=grid, dim=dim)
        super().__init__()
        self.grid, self.dim = grid, dim
        self.linear = nn.Linear(POINT_FEATURES, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim, **NORM)

    def forward(self, pillars: Pillars) -> Tensor:
        """Points with their pillars -> (B, dim, grid, grid), rows along y; empty pillars are 0."""
        features = F.relu(self._normed(self.linear(pillars.features)))
        canvas = features.new_zeros(len(pillars.counts) * self.grid**2, self.dim)
        # ReLU makes all values at least 0, so the zeros of the canvas change no maximum.
        canvas = canvas.scatter_reduce(0, pillars.cell[:, None].expand_as(features), features, "amax")
        return canvas.view(-1, self.grid, self.grid, self.dim).permute(0, 3, 1, 2)

    def _normed(self, x: Tensor) -> Tensor:
        """Batch norm; of a single point or none the running statistics."""
        if not self.training or len(x) > 1:
            return self.norm(x)
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)


def _convs(channels: int, out: int, stride: int, layers: int) -> nn.Sequential:
    """A strided convolution and `layers` more, each with batch norm and ReLU."""
    parts = []
    for index in range(1 + layers):
        parts += [
            nn.Conv2d(channels if index == 0 else out, out, 3, stride if index == 0 else 1, 1, bias=False),
            nn.BatchNorm2d(out, **NORM),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*parts)


class SECOND(nn.Module):
    """Two stages of 3 x 3 convolutions, the second at half the resolution; their outputs, at that of the first, joined.

    Yan et al., SECOND, Sensors 2018, with its pyramid neck.

    Args:
        channels: of the input.
        stride: of the first stage, a power of two; above 2, convolutions of stride 2 come before it.
        stages: channels of the stages.
        layers: convolutions of a stage after its first.

    Shape:
        (B, channels, H, W) -> (B, 2 stages[1], H / stride, W / stride).
    """

    def __init__(
        self, channels: int, stride: int = 1, stages: tuple[int, int] = SECOND_CHANNELS, layers: int = SECOND_LAYERS
    ) -> None:
        super().__init__()
        if stride < 1 or stride & (stride - 1):
            raise Problem(f"a stride of {stride}", "SECOND", "give a power of two: downsample must be one")
        first, second = stages
        halvings = max(0, int(math.log2(stride)) - 1)
        self.stem = nn.Sequential(*(_convs(channels, channels, 2, 0) for _ in range(halvings)))
        self.blocks = nn.ModuleList([_convs(channels, first, min(stride, 2), layers), _convs(first, second, 2, layers)])
        up = nn.ConvTranspose2d(second, second, 2, 2, bias=False)
        self.deblocks = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(second, **NORM), nn.ReLU(inplace=True))
            for conv in (nn.Conv2d(first, second, 1, bias=False), up)
        )
        self.out_channels = 2 * second

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        fine = self.blocks[0](self.stem(x))
        coarse = self.blocks[1](fine)
        return torch.cat([self.deblocks[0](fine), self.deblocks[1](coarse)], 1)


class PillarTrunk(nn.Module):
    """Points -> BEV map, in plain PyTorch: pillars, then SECOND.

    Args:
        bounds: of the scene.
        grid: pillars along x and y; a multiple of 2 `downsample`.
        downsample: pillars along each side of a cell of the BEV map, a power of two.
        width: channels of a pillar.
        stages: channels of SECOND.
        layers: of its stages.
    """

    def __init__(
        self,
        bounds: Bounds,
        grid: int = 544,
        downsample: int = 4,
        width: int = 64,
        stages: tuple[int, int] = SECOND_CHANNELS,
        layers: int = SECOND_LAYERS,
    ) -> None:
        super().__init__()
        self.bounds, self.grid = bounds, grid
        self.pillars = PillarEncoder(grid, width)
        self.second = SECOND(width, downsample, stages, layers)
        self.out_channels = self.second.out_channels
        if grid % (2 * downsample):
            raise Problem(f"grid={grid}, downsample={downsample}", "PillarTrunk", "give a multiple of 2 downsample")

    def forward(self, points: Sequence[Tensor] | Pillars) -> Tensor:
        """Points of each sample, (N, 5), or their pillars -> (B, out_channels, ny, nx), both grid / downsample."""
        pillars = points if isinstance(points, Pillars) else assign(points, self.bounds, self.grid)
        return self.second(self.pillars(pillars))


class VoxelTrunk(nn.Module):
    """Points -> BEV map as published: voxel means, a sparse 3D encoder of spconv, then SECOND.

    The layout of the encoder follows mmdetection3d's SparseEncoder with basic blocks, from memory.

    Args:
        bounds: of the scene.
        grid: voxels along x and y: 1440 of 0.075 m, or 1024 of 0.1 m as published for 0.1 m.
        height: voxels along z, of 0.2 m.

    Raises:
        Problem: spconv is not installed.
    """

    CHANNELS = ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128))
    MOST_POINTS = 10
    """Points of a voxel that count, the first ones."""

    def __init__(self, bounds: Bounds, grid: int = 1440, height: int = 40) -> None:
        super().__init__()
        try:
            sparse = require("spconv.pytorch", "driving")
        except Problem as problem:
            raise Problem(
                "the voxel backbone needs spconv, which is not installed",
                problem.where,
                "pip install spconv-cu120 (or the build of your CUDA version), or set lidar_backbone=pillar",
            ) from problem
        self.sparse = sparse
        self.bounds, self.shape = bounds, (height + 1, grid, grid)
        self.voxel = tuple((bounds[3 + i] - bounds[i]) / count for i, count in enumerate((grid, grid, height)))
        self.conv_input = self._layer(sparse.SubMConv3d(POINT_VALUES, 16, 3, padding=1, bias=False, indice_key="subm1"))
        stages, width = [], 16
        for stage, channels in enumerate(self.CHANNELS):
            layers: list[nn.Module] = []
            for position, out in enumerate(channels):
                last = position == len(channels) - 1
                if last and stage < len(self.CHANNELS) - 1:
                    padding = (0, 1, 1) if stage == 2 else 1
                    conv = sparse.SparseConv3d(width, out, 3, 2, padding, bias=False, indice_key=f"spconv{stage + 1}")
                    layers.append(self._layer(conv))
                else:
                    layers.append(_SparseBlock(sparse, out, f"block{stage + 1}"))
                width = out
            stages.append(sparse.SparseSequential(*layers))
        self.encoder_layers = nn.ModuleList(stages)
        out = sparse.SparseConv3d(width, width, (3, 1, 1), (2, 1, 1), bias=False, indice_key="spconv_down2")
        self.conv_out = self._layer(out)
        self.second = SECOND(2 * width)
        self.out_channels = self.second.out_channels

    def _layer(self, conv: nn.Module) -> nn.Module:
        return self.sparse.SparseSequential(conv, nn.BatchNorm1d(conv.out_channels, **NORM), nn.ReLU(inplace=True))  # pyright: ignore[reportArgumentType]

    def voxels(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Means of the points' values (N, 5) and coordinates (sample, z, y, x) of the voxels, (N, 4)."""
        means, places = [], []
        for sample, one in enumerate(points):
            size = one.new_tensor(self.voxel)
            cell = ((one[:, :3] - one.new_tensor(self.bounds[:3])) / size).floor().long()
            counts = torch.tensor([self.shape[1], self.shape[2], self.shape[0] - 1], device=one.device)
            inside = ((cell >= 0) & (cell < counts)).all(1)
            one, cell = one[inside], cell[inside]
            unique, index = cell.unique(dim=0, return_inverse=True)
            order = index.argsort(stable=True)
            rank = torch.empty_like(index)
            starts = torch.bincount(index, minlength=len(unique)).cumsum(0).roll(1)
            if len(starts):
                starts[0] = 0
            rank[order] = torch.arange(len(index), device=one.device) - starts[index[order]]
            first = rank < self.MOST_POINTS
            total = one.new_zeros(len(unique), POINT_VALUES).index_add(0, index[first], one[first])
            means.append(total / torch.bincount(index[first], minlength=len(unique))[:, None])
            places.append(F.pad(unique.flip(1), (1, 0), value=sample))
        return torch.cat(means), torch.cat(places).int()

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """Points of each sample, (N, 5) -> (B, out_channels, grid / 8, grid / 8)."""
        features, places = self.voxels(points)
        x = self.conv_input(self.sparse.SparseConvTensor(features, places, list(self.shape), len(points)))
        for stage in self.encoder_layers:
            x = stage(x)
        return self.second(self.conv_out(x).dense().flatten(1, 2))


class _SparseBlock(nn.Module):
    """A residual block of two submanifold convolutions."""

    def __init__(self, sparse: Any, width: int, key: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            sparse.SubMConv3d(width, width, 3, padding=1, bias=False, indice_key=key) for _ in range(2)
        )
        self.bn1, self.bn2 = (nn.BatchNorm1d(width, **NORM) for _ in range(2))

    def forward(self, x: Any) -> Any:
        out = self.conv1(x)
        out = self.conv2(out.replace_feature(F.relu(self.bn1(out.features))))
        return out.replace_feature(F.relu(self.bn2(out.features) + x.features))


def lidar_trunk(kind: str, bounds: Bounds, grid: int, **options: Any) -> PillarTrunk | VoxelTrunk:
    """The LiDAR network: "pillar", or "voxel" where spconv is installed.

    Raises:
        Problem: another kind, or spconv is missing.
    """
    check_choice("lidar_backbone", ("pillar", "voxel"), kind=kind)
    return VoxelTrunk(bounds, grid) if kind == "voxel" else PillarTrunk(bounds, grid, **options)
