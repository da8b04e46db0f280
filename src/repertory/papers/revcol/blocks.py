"""Parts of a column: blocks, fusions, levels (section "Modules" of the paper).

Maps are (N, C, H, W) in channels-last memory: a 1x1 convolution is then a matrix product, and LayerNorm over the
channels of a pixel reads contiguous memory. Parameter names are those of the authors' released files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
ALPHA = 0.5
"""Initial factor of a shortcut between columns."""
ALPHA_MIN = 1e-3
"""Smallest magnitude of that factor: the inverse divides by it."""

LARGE, CACHED = 16 << 20, 4 << 20
"""In inference on a CPU: bytes of a hidden layer above which a batch is split, and bytes of each part."""


class Block(nn.Module):
    r"""ConvNeXt's block with a small kernel.

    .. math:: y = x + \mathrm{DropPath}(\gamma \odot W_2 \, \mathrm{GELU}(W_1 \, \mathrm{LN}(\mathrm{DW}(x))))

    Args:
        dim: channels C.
        kernel_size: of the depth-wise convolution, odd.
        drop_path: rate at which the residual branch is dropped.
        layer_scale: initial gamma.
        expansion: the hidden layer has expansion * C channels.

    Shape:
        (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(
        self, dim: int, kernel_size: int = 3, drop_path: float = 0.0, layer_scale: float = 1e-6, expansion: int = 4
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.pwconv1 = nn.Linear(dim, expansion * dim)
        self.pwconv2 = nn.Linear(expansion * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            size = self.pwconv1.out_features * x.shape[2] * x.shape[3] * x.element_size()  # of an image's hidden layer
            if len(x) * size > LARGE:  # in chunks of a few images, so that their hidden layers fit the cache
                return torch.cat([self.block(part) for part in x.split(max(1, CACHED // size))])
        return self.block(x)

    def block(self, x: Tensor) -> Tensor:
        """The equation."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (N, H, W, C)
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        # DropPath acts on gamma per image, a small tensor; one addcmul then scales and adds the branch.
        gamma = self.drop_path(self.gamma.expand(x.shape[0], 1, 1, -1))
        return torch.addcmul(x.permute(0, 2, 3, 1), y, gamma).permute(0, 3, 1, 2)


class Up(nn.Module):
    """Coarse map -> channels and size of a finer one: linear per pixel, LayerNorm, nearest neighbour.

    Shape:
        (N, dim_in, h, w) -> (N, dim_out, H, W); H and W need not be multiples of h and w.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.channel_reschedule = nn.Sequential(nn.Linear(dim_in, dim_out), nn.LayerNorm(dim_out, eps=EPS))

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """See the class; `size` is (H, W)."""
        y = self.channel_reschedule(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.interpolate(y, size=list(size), mode="nearest")


class Fusion(nn.Module):
    """Sum of the downsampled level below and upsampled levels of the previous column.

    Args:
        channels: of the four levels.
        level: 0 (finest) to 3.
        links: levels of the previous column: none in the first column, otherwise the next higher one; level 0 of the
            huge model also gets level 3.
    """

    def __init__(self, channels: Sequence[int], level: int, links: Sequence[int]) -> None:
        super().__init__()
        dim = channels[level]
        self.down = (
            nn.Sequential(nn.Conv2d(channels[level - 1], dim, 2, 2), LayerNorm2d(dim, eps=EPS))
            if level
            else nn.Identity()
        )
        for name, link in zip(("up", "up2"), links, strict=False):
            self.add_module(name, Up(channels[link], dim))

    def forward(self, below: Tensor, *above: Tensor) -> Tensor:
        """c(t-1, i) and the linked c(., i-1) -> (N, C_t, H_t, W_t)."""
        y = self.down(below)
        for up, feature in zip((m for m in self.children() if isinstance(m, Up)), above, strict=True):
            y = y + up(feature, y.shape[-2:])
        return y


class Level(nn.Module):
    """F(t, i): fusion and blocks."""

    def __init__(
        self,
        channels: Sequence[int],
        level: int,
        links: Sequence[int],
        rates: Sequence[float],
        kernel_size: int,
        layer_scale: float,
    ) -> None:
        super().__init__()
        self.fusion = Fusion(channels, level, links)
        self.blocks = nn.Sequential(*(Block(channels[level], kernel_size, rate, layer_scale) for rate in rates))

    def forward(self, below: Tensor, *above: Tensor) -> Tensor:
        """As `Fusion.forward`."""
        return self.blocks(self.fusion(below, *above))


class Column(nn.Module):
    r"""One pyramid network, linked to the previous one by invertible shortcuts.

    .. math:: c(t, i) = F_{t,i}[\,c(t-1, i),\; c(t+1, i-1)\,] + a_{t,i} \odot c(t, i-1), \qquad t = 0, 1, 2, 3

    Each |a| counts as 1e-3 or more, as in the authors' code.

    Args:
        channels: of the four levels.
        layers: blocks of each level.
        first: the first column. Its a are unused and untrained, but present as in the released weights.
        top_link: level 0 also gets level 3 of the previous column (the huge model).
        kernel_size: of the blocks' depth-wise convolutions.
        drop_path_rate: of the last block; it grows linearly from 0.
        layer_scale: initial gamma of the blocks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        first: bool,
        top_link: bool = False,
        kernel_size: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        self.first, self.depth = first, len(channels)
        top = self.depth - 1
        self.links: list[list[int]] = [[] if first or t == top else [t + 1] for t in range(self.depth)]
        if top_link and not first:
            self.links[0].append(top)
        rates = torch.linspace(0, drop_path_rate, sum(layers), device="cpu").split(list(layers))
        for t, dim in enumerate(channels):
            level = Level(channels, t, self.links[t], rates[t].tolist(), kernel_size, layer_scale)
            alpha = nn.Parameter(torch.full((1, dim, 1, 1), ALPHA), requires_grad=not first)
            self.add_module(f"level{t}", level)
            self.register_parameter(f"alpha{t}", alpha)

    def level(self, t: int) -> Level:
        """F(t, i)."""
        return self.get_submodule(f"level{t}")  # pyright: ignore[reportReturnType]

    def alpha(self, t: int) -> nn.Parameter:
        """a(t, i), (1, C_t, 1, 1)."""
        return getattr(self, f"alpha{t}")  # `get_parameter` refuses the plain tensors of torch.func

    def function(self, t: int, below: Tensor, previous: Sequence[Tensor]) -> Tensor:
        """F(t, i) of c(t-1, i) and the maps of the previous column, in the dtype of a (under autocast too)."""
        return self.level(t)(below, *(previous[link] for link in self.links[t])).to(self.alpha(t).dtype)

    def forward(self, x: Tensor, previous: Sequence[Tensor] = ()) -> list[Tensor]:
        """Stem (N, C_0, H, W) and the four maps of the previous column -> the maps of this one."""
        features: list[Tensor] = []
        for t in range(self.depth):
            y = self.function(t, features[-1] if t else x, previous)
            features.append(y if self.first else torch.addcmul(y, bounded(self.alpha(t)), previous[t]))
        return features

    def cut(self, depth: int) -> None:
        """Remove the levels from `depth` on."""
        for t in range(depth, self.depth):
            delattr(self, f"level{t}")
            delattr(self, f"alpha{t}")
        self.depth = depth

    @torch.no_grad()
    def bound_alphas(self) -> None:
        """Write `bounded` values to the a: reversible training divides by them.

        Writes through `.data`, so that autograd does not count a second forward pass before the backward pass as an
        in-place modification: the values are the same.
        """
        for t in range(self.depth):
            a = self.alpha(t)
            a.data.copy_(bounded(a))


def bounded(a: Tensor) -> Tensor:
    """The same values with a magnitude of at least 1e-3 and the sign kept (0 counts as positive).

    The gradient passes unchanged.
    """
    with torch.no_grad():
        change = torch.where(a < 0, a.clamp(max=-ALPHA_MIN), a.clamp(min=ALPHA_MIN)) - a
    return a + change
