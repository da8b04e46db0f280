"""The video encoder: MViTv2 over clips, whose attention pools queries, keys and values in space.

frames (B, T, 3, H, W) -> tokens (B, 1 + T/2 · H/32 · W/32, 768), the class token first
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from repertory.core.arguments import check_positive, check_rates, check_whole
from repertory.core.problem import Problem

Grid = tuple[int, int, int]
"""Tokens along time, height, width."""

EPS = 1e-6
PATCH_STRIDE: Grid = (2, 4, 4)


@dataclass(frozen=True)
class Stage:
    """Width, heads and strides of a block."""

    dim: int
    dim_out: int
    heads: int
    q_stride: int
    """In height and width; time keeps its length."""
    kv_stride: int


def stages(depth: int, dim: int, heads: int, widen_at: tuple[int, ...], kv_stride: int) -> list[Stage]:
    """The blocks: where the width doubles, heads double too, and queries have stride 2.

    Example:
        >>> stages(3, 96, 1, widen_at=(2,), kv_stride=4)[-1]
        Stage(dim=96, dim_out=192, heads=2, q_stride=2, kv_stride=2)
    """
    blocks: list[Stage] = []
    for i in range(depth):
        widens = i in widen_at
        dim_out, heads = (2 * dim, 2 * heads) if widens else (dim, heads)
        kv_stride = max(1, kv_stride // 2) if widens else kv_stride
        blocks.append(Stage(dim, dim_out, heads, 2 if widens else 1, kv_stride))
        dim = dim_out
    return blocks


class PooledAttention(nn.Module):
    """Attention of queries, keys and values that convolutions pool, with relative positions.

        logits = (q / sqrt(d)) k^T + q·R_t[t - t'] + q·R_h[h - h'] + q·R_w[w - w'],  out = softmax(logits) v + q

    The position terms need no (N, N') tensor: they are q·R of each of t', h', w', times the one-hot code of the key's
    place. Both are appended to queries and keys, and `scaled_dot_product_attention` sees one dot product.

    Args:
        stage: width, heads, strides.
        grid: tokens of the input, for the sizes of the tables; other grids interpolate them.

    Shape:
        x (B, 1 + N, dim) and its grid -> (B, 1 + N', dim_out) and theirs.
    """

    def __init__(self, stage: Stage, grid: Grid) -> None:
        super().__init__()
        self.heads, head = stage.heads, stage.dim_out // stage.heads
        self.scale = head**-0.5
        t, h, w = grid
        q, k = stage.q_stride, stage.kv_stride
        self.rel_pos_h = nn.Parameter(torch.empty(2 * max(h // q, h // k) - 1, head))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * max(w // q, w // k) - 1, head))
        self.rel_pos_t = nn.Parameter(torch.zeros(2 * t - 1, head))
        self.qkv = nn.Linear(stage.dim, 3 * stage.dim_out)
        self.proj = nn.Linear(stage.dim_out, stage.dim_out)
        self.pool_q, self.norm_q = pooling(head, q), nn.LayerNorm(head, EPS)
        self.pool_k, self.norm_k = pooling(head, k), nn.LayerNorm(head, EPS)
        self.pool_v, self.norm_v = pooling(head, k), nn.LayerNorm(head, EPS)
        nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
        nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, 1 + N, d)
        q, q_grid = pool(qkv[0], grid, self.pool_q, self.norm_q)
        k, k_grid = pool(qkv[1], grid, self.pool_k, self.norm_k)
        v, _ = pool(qkv[2], grid, self.pool_v, self.norm_v)
        out = self.attend(q, k, v, q_grid, k_grid)  # (B, heads, 1 + N', d)
        out = torch.cat([out[:, :, :1], out[:, :, 1:] + q[:, :, 1:]], 2)
        return self.proj(out.transpose(1, 2).flatten(2)), q_grid

    def attend(self, q: Tensor, k: Tensor, v: Tensor, q_grid: Grid, k_grid: Grid) -> Tensor:
        """softmax(logits) v, (B, heads, 1 + N', d)."""
        positions = torch.cat(self.position_terms(q, q_grid, k_grid), -1)  # (B, heads, N', t + h + w)
        q = torch.cat([q * self.scale, F.pad(positions, (0, 0, 1, 0))], -1)  # the class token has no place
        k = torch.cat([k, F.pad(place_codes(k_grid, k), (0, 0, 1, 0)).expand(*k.shape[:2], -1, -1)], -1)
        extra = k.shape[-1] - v.shape[-1]  # kernels want values as wide as keys
        return F.scaled_dot_product_attention(q, k, F.pad(v, (0, extra)), scale=1.0)[..., : v.shape[-1]]

    def position_terms(self, q: Tensor, q_grid: Grid, k_grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """q·R of all places of keys along time, height and width: (B, heads, N', t), (..., h), (..., w)."""
        rt, rh, rw = (
            relative_table(table, i, j)  # (i, j, d)
            for table, i, j in zip((self.rel_pos_t, self.rel_pos_h, self.rel_pos_w), q_grid, k_grid, strict=True)
        )
        places = q[:, :, 1:].unflatten(2, q_grid)  # (B, heads, T, H, W, d)
        return (
            torch.einsum("bnthwd,tkd->bnthwk", places, rt).flatten(2, 4),
            torch.einsum("bnthwd,hkd->bnthwk", places, rh).flatten(2, 4),
            torch.einsum("bnthwd,wkd->bnthwk", places, rw).flatten(2, 4),
        )


def pooling(dim: int, stride: int) -> nn.Conv3d:
    """A depth-wise convolution, shared by all heads."""
    return nn.Conv3d(dim, dim, 3, (1, stride, stride), padding=1, groups=dim, bias=False)


def pool(x: Tensor, grid: Grid, conv: nn.Conv3d, norm: nn.LayerNorm) -> tuple[Tensor, Grid]:
    """Pool the tokens of each head: (B, heads, 1 + N, d) -> (B, heads, 1 + N', d). The class token skips `conv`."""
    batch, heads = x.shape[:2]
    # A view of (B, N, heads, d) as channels-last maps: nothing is copied where heads = 1.
    maps = x[:, :, 1:].flatten(0, 1).unflatten(1, grid).permute(0, 4, 1, 2, 3)  # (B heads, d, T, H, W)
    maps = conv(maps)
    t, h, w = maps.shape[2:]
    tokens = maps.flatten(2).mT.unflatten(0, (batch, heads))
    return norm(torch.cat([x[:, :, :1], tokens], 2)), (t, h, w)


def relative_table(table: Tensor, queries: int, keys: int) -> Tensor:
    """Relative positions of each query and key along one axis: (2 S - 1, d) -> (queries, keys, d).

    Places are those of the finer of the two grids. A table of another size is interpolated.
    """
    span = 2 * max(queries, keys) - 1
    if len(table) != span:
        table = F.interpolate(table.T[None], size=span, mode="linear")[0].T
    i = torch.arange(queries, device=table.device)[:, None] * max(keys / queries, 1.0)
    j = torch.arange(keys, device=table.device)[None] * max(queries / keys, 1.0)
    return table[(i - j + (keys - 1) * max(queries / keys, 1.0)).long()]


def place_codes(grid: Grid, like: Tensor) -> Tensor:
    """One-hot codes of the places of a grid, along time, height, width: (N, t + h + w)."""
    t, h, w = (torch.eye(size, dtype=like.dtype, device=like.device) for size in grid)
    frames, height, width = grid
    return torch.cat(
        [
            t[:, None, None].expand(-1, height, width, -1),
            h[None, :, None].expand(frames, -1, width, -1),
            w[None, None].expand(frames, height, -1, -1),
        ],
        -1,
    ).flatten(0, 2)


class Block(nn.Module):
    """Pooled attention and MLP; the shortcut is widened and max-pooled where the attention is."""

    def __init__(self, stage: Stage, grid: Grid, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim, EPS)
        self.attn = PooledAttention(stage, grid)
        self.norm2 = nn.LayerNorm(stage.dim_out, EPS)
        self.mlp = Mlp(stage.dim_out, int(mlp_ratio * stage.dim_out))
        self.proj = nn.Linear(stage.dim, stage.dim_out) if stage.dim != stage.dim_out else None
        self.stride, self.drop_path = stage.q_stride, DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        y = self.norm1(x)
        attended, pooled = self.attn(y, grid)
        shortcut = x if self.proj is None else self.proj(y)  # of the normed input
        x = self.shortened(shortcut, grid) + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x))), pooled

    def shortened(self, x: Tensor, grid: Grid) -> Tensor:
        """Max-pool all tokens but the class token: (B, 1 + N, d) -> (B, 1 + N', d)."""
        if self.stride == 1:
            return x
        maps = x[:, 1:].mT.unflatten(2, grid)
        maps = F.max_pool3d(maps, (1, self.stride + 1, self.stride + 1), (1, self.stride, self.stride), (0, 1, 1))
        return torch.cat([x[:, :1], maps.flatten(2).mT], 1)


class PatchEmbed(nn.Module):
    """Overlapping patches of clips: (B, T, C, H, W) -> (B, N, dim) and their grid."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_chans, dim, (3, 7, 7), PATCH_STRIDE, (1, 3, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        maps = self.proj(x.transpose(1, 2))  # (B, dim, T/2, H/4, W/4)
        t, h, w = maps.shape[2:]
        return maps.flatten(2).mT, (t, h, w)


class MViT(nn.Module):
    """Multiscale vision transformer for clips (MViTv2-B by default).

    Args:
        img_size: height and width; a multiple of 4 · 2^(number of widenings).
        frames: T, even.
        embed_dim: width of the first block.
        depth: number of blocks.
        heads: of the first block.
        widen_at: blocks where width and heads double and height and width halve.
        kv_stride: of keys and values in the first block; halves with each widening.
        mlp_ratio: hidden width of the MLPs, relative to theirs.
        drop_path_rate: stochastic depth, the same for all blocks.
        in_chans: C.
        init_std: standard deviation of the initial weights of linear layers; narrow networks need more.

    Shape:
        (B, T, C, H, W) -> (B, 1 + T/2 · h · w, num_features), the class token first. Clips of another even T or size
        are taken too: the tables of relative positions are interpolated.

    Raises:
        Problem: sizes that do not fit together.
    """

    def __init__(
        self,
        img_size: int = 224,
        frames: int = 16,
        embed_dim: int = 96,
        depth: int = 24,
        heads: int = 1,
        widen_at: tuple[int, ...] = (2, 5, 21),
        kv_stride: int = 4,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        check_whole("MViT", img_size=img_size, frames=frames, embed_dim=embed_dim, depth=depth, heads=heads)
        check_whole("MViT", kv_stride=kv_stride, in_chans=in_chans)
        check_rates("MViT", drop_path_rate=drop_path_rate)
        check_positive("MViT", init_std=init_std)
        self.reduction = PATCH_STRIDE[1] * 2 ** len(widen_at)
        """Pixels along a side of a token of the output."""
        self.frames, self.img_size, self.grad_checkpointing = frames, img_size, False
        _check_clip(frames, img_size, img_size, self.reduction)
        self.patch_embed = PatchEmbed(in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        t, side = frames // PATCH_STRIDE[0], img_size // PATCH_STRIDE[1]
        self.blocks = nn.ModuleList()
        blocks = stages(depth, embed_dim, heads, tuple(widen_at), kv_stride)
        for stage in blocks:
            self.blocks.append(Block(stage, (t, side, side), mlp_ratio, drop_path_rate))
            side //= stage.q_stride
        self.num_features = blocks[-1].dim_out
        self.norm = nn.LayerNorm(self.num_features, EPS)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        _check_clip(x.shape[1], x.shape[3], x.shape[4], self.reduction)
        tokens, grid = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x, grid = checkpoint(block, x, grid, use_reentrant=False)
            else:
                x, grid = block(x, grid)
        return self.norm(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: blocks are computed again in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that published recipes do not decay."""
        names = {name for name, _ in self.named_parameters() if "rel_pos" in name}
        return {"cls_token", *names}


class FrameMean(nn.Module):
    """An encoder that is blind to the order of frames: each is encoded by itself, and the tokens are averaged.

    Shape:
        as of the `MViT` inside, with one step of time.
    """

    def __init__(self, inside: MViT) -> None:
        super().__init__()
        self.inside, self.num_features = inside, inside.num_features

    def forward(self, x: Tensor) -> Tensor:
        batch, count = x.shape[:2]
        still = x.flatten(0, 1)[:, None].expand(-1, PATCH_STRIDE[0], -1, -1, -1)  # (B T, 2, C, H, W)
        return self.inside(still).unflatten(0, (batch, count)).mean(1)


def _check_clip(frames: int, height: int, width: int, reduction: int) -> None:
    if frames % PATCH_STRIDE[0] or height % reduction or width % reduction or not frames:
        raise Problem(
            f"clips of {frames} frames of {height} x {width} pixels",
            "video encoder",
            f"give an even number of frames, and sides that are multiples of {reduction}",
        )
