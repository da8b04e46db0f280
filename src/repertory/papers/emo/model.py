"""EMO: an efficient model of inverted residual mobile blocks, iRMB (Zhang et al., ICCV 2023).

One block combines both parts of a light backbone: window attention for long-range and a depth-wise convolution for
local interactions, inside the expanded space of an inverted residual. The whole network consists of this block.

    model = timm.create_model("emo_1m")     # after `import repertory.papers.emo`; 71.5 % top-1 on ImageNet as published

Images are (N, C, H, W), internally in channels-last memory: a 1x1 convolution is then a matrix product, LayerNorm reads
contiguous memory, and grouping windows takes one copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import DropPath, LayerNorm2d, SEModule, get_act_layer, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from repertory.core.arguments import check_choice, check_lengths, check_range, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import StagedBackbone, build, channels_last, check_images, dilate, eager_on_cpu
from repertory.nn.imagenet import IMAGENET
from repertory.papers.emo import inference
from repertory.papers.emo.inference import Pointwise
from repertory.papers.emo.settings import MIN_SIZE
from repertory.papers.emo.weights import accept_authors_names, with_our_names

WindowMode = Literal["strided", "contiguous"]

EPS = 1e-6
NORMS = {"bn_2d": nn.BatchNorm2d, "ln_2d": LayerNorm2d}
"""`ln_2d`: LayerNorm over the channels of each pixel."""
CACHE_BYTES = 4 << 20
"""On a CPU, larger expanded maps are computed in parts."""

VARIANTS: dict[str, dict[str, Any]] = {
    "emo_1m": {
        "depths": (2, 2, 8, 3),
        "dims": (32, 48, 80, 168),
        "exp_ratios": (2.0, 2.5, 3.0, 3.5),
        "dim_heads": (16, 16, 20, 21),
        "drop_path_rate": 0.04036,
    },
    "emo_2m": {
        "depths": (3, 3, 9, 3),
        "dims": (32, 48, 120, 200),
        "exp_ratios": (2.0, 2.5, 3.0, 3.5),
        "dim_heads": (16, 16, 20, 20),
        "drop_path_rate": 0.05,
    },
    "emo_5m": {
        "depths": (3, 3, 9, 3),
        "dims": (48, 72, 160, 288),
        "exp_ratios": (2.0, 3.0, 4.0, 4.0),
        "dim_heads": (24, 24, 32, 32),
        "drop_path_rate": 0.05,
    },
    "emo_6m": {
        "depths": (3, 3, 9, 3),
        "dims": (48, 72, 160, 320),
        "exp_ratios": (2.0, 3.0, 4.0, 5.0),
        "dim_heads": (16, 24, 20, 32),
        "drop_path_rate": 0.05,
    },
}
"""Arguments of the four published sizes."""


class iRMB(nn.Module):
    r"""Inverted residual mobile block.

    .. math:: y = \mathrm{act}(W_v \, A u), \quad z = y + \mathrm{SiLU}(\mathrm{BN}(\mathrm{DW}(y))), \quad
              x' = x + W_o z, \qquad u = \mathrm{norm}(x), \; A = \mathrm{softmax}(q k^\top / \sqrt{d})

    Attention runs inside windows. With `window_mode` "strided" (the authors' code) a window is a dilated grid over the
    whole map: with n1 x n2 windows, pixel (r, c) belongs to window (r mod n1, c mod n2). With "contiguous" a window is
    a tile.

    Args:
        dim_in: input channels; with attention, a multiple of `dim_head`.
        dim_out: output channels.
        norm_in: normalise the input.
        has_skip: add the input to the output if their shapes are equal.
        exp_ratio: the expanded space has int(dim_in * exp_ratio) channels.
        norm_layer: norm of the input, "bn_2d" or "ln_2d".
        act_layer: activation of the expansion, a name in timm.
        v_proj: apply the expansion; False: the expanded space is the input itself (without attention only).
        dw_ks: kernel of the depth-wise convolution; 0: no convolution (an ablation).
        stride: of the depth-wise convolution.
        dilation: of the depth-wise convolution.
        se_ratio: hidden channels of squeeze-and-excitation, relative to the expanded space; 0: none.
        dim_head: channels of a head.
        window_size: height and width of an attention window; 0 or less: the whole map.
        attn_s: use attention.
        qkv_bias: biases of the 1x1 convolutions.
        attn_drop: dropout of attention weights.
        drop: dropout before the last projection.
        drop_path: rate at which the residual branch is dropped.
        v_group: expand each head separately.
        attn_pre: attention before expansion (all published sizes); False: expansion first.
        window_mode: "strided" or "contiguous".
        mask_padding: mask the zero padding of maps that windows do not divide. The authors' code and released weights
            attend to the padding.

    Shape:
        (N, dim_in, H, W) -> (N, dim_out, H / stride, W / stride), rounded up.

    Raises:
        Problem: dim_in is not a multiple of dim_head, window_size is not an int, an unknown norm or window mode.

    Example:
        >>> iRMB(40, 40, exp_ratio=3.0, dim_head=20, norm_layer="ln_2d")(torch.zeros(2, 40, 10, 13)).shape
        torch.Size([2, 40, 10, 13])
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        norm_in: bool = True,
        has_skip: bool = True,
        exp_ratio: float = 1.0,
        norm_layer: str = "bn_2d",
        act_layer: str = "silu",
        v_proj: bool = True,
        dw_ks: int = 3,
        stride: int = 1,
        dilation: int = 1,
        se_ratio: float = 0.0,
        dim_head: int = 16,
        window_size: int = 7,
        attn_s: bool = True,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        v_group: bool = False,
        attn_pre: bool = True,
        window_mode: WindowMode = "strided",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        where = f"iRMB({dim_in}, {dim_out})"
        check_whole(where, dim_in=dim_in, dim_out=dim_out, stride=stride, dilation=dilation, dim_head=dim_head)
        if norm_layer not in NORMS:
            raise Problem(f"unknown norm_layer {norm_layer!r}", where, f"choose from {', '.join(NORMS)}")
        if window_mode not in ("strided", "contiguous"):
            raise Problem(f"unknown window_mode {window_mode!r}", where, "choose strided or contiguous")
        if isinstance(window_size, bool) or not isinstance(window_size, int):
            raise Problem(f"window_size is not an int: {window_size!r}", where, "give one int; 0 is the whole map")
        if attn_s and dim_in % dim_head:
            raise Problem(
                f"dim_in {dim_in} is not divisible by dim_head {dim_head}", where, "choose dim_head from its divisors"
            )
        check_range(where, 0, math.inf, exp_ratio=exp_ratio)
        dim_mid = int(dim_in * exp_ratio)
        if attn_s and (v_group or not attn_pre) and dim_mid % (dim_in // dim_head):
            raise Problem(
                f"the expanded {dim_mid} channels do not divide into {dim_in // dim_head} heads",
                where,
                "choose another exp_ratio or dim_head, or attn_pre without v_group",
            )
        check_whole(where, expanded=dim_mid)
        check_whole(where, 0, dw_ks=dw_ks)
        check_range(where, 0, math.inf, se_ratio=se_ratio)
        check_rates(where, attn_drop=attn_drop, drop=drop, drop_path=drop_path)
        try:
            act = cast(type[nn.Module], get_act_layer(act_layer))
        except KeyError as error:
            raise Problem(f"unknown activation {act_layer!r}", where, "give a name of timm, such as silu") from error
        self.skip = has_skip and dim_in == dim_out and stride == 1
        self.dim_in, self.attn_s, self.attn_pre, self.attn_drop = dim_in, attn_s, attn_pre, attn_drop
        self.heads = dim_in // dim_head if attn_s else 1
        self.window_size, self.mask_padding = window_size, mask_padding
        self.window_mode: WindowMode = window_mode

        self.norm = NORMS[norm_layer](dim_in, eps=EPS) if norm_in else nn.Identity()
        if attn_s:
            self.qk = Pointwise(dim_in, 2 * dim_in, 1, bias=qkv_bias)
        expand = Pointwise(dim_in, dim_mid, 1, bias=qkv_bias, groups=self.heads if v_group else 1)
        self.v = nn.Sequential(expand, act(inplace=True)) if v_proj or attn_s else nn.Identity()
        self.local = depthwise(dim_mid, dw_ks, stride, dilation, se_ratio, act) if dw_ks else None
        self.drop = nn.Dropout(drop)
        self.proj = Pointwise(dim_mid, dim_out, 1, bias=False)
        self.drop_path = DropPath(drop_path)
        # What `inference` knows.
        windows = norm_in and norm_layer == "ln_2d" and window_mode == "strided" and window_size > 0
        self.published = bool(dw_ks) and qkv_bias and attn_pre and not v_group and (windows or not attn_s)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H / stride, W / stride)."""
        check_images(x, self.dim_in, "iRMB")
        if self.training or not eager_on_cpu(x):  # parts would freeze the batch size of a graph
            return self.block(x)
        run = partial(inference.run, self) if inference.applies(self, x) else self.block
        # In chunks of a few images, so that the expanded maps fit the cache.
        images = max(1, CACHE_BYTES // (self.proj.in_channels * x.shape[2] * x.shape[3] * x.element_size()))
        return run(x) if images >= x.shape[0] else torch.cat([run(part) for part in x.split(images)])

    def block(self, x: Tensor) -> Tensor:
        """The equations of the class."""
        u = self.norm(x)
        y = self.attend(u) if self.attn_s else self.v(u)  # (N, dim_mid, H, W)
        z = y
        if self.local is not None:
            z = self.local(y)
            z = z.add_(y) if self.skip else z
        o = self.proj(self.drop(z))
        return self.drop_path(o).add_(x) if self.skip else o

    def attend(self, u: Tensor) -> Tensor:
        """Window attention and expansion: (N, dim_in, H, W) -> (N, dim_mid, H, W)."""
        height, width = u.shape[-2:]
        u, mask = self._padded(u)
        grid = self._grid(u)
        tokens = group(u, grid, self.window_mode)  # (N', L, C), N' = N windows, L pixels of a window
        q, k = self._queries_keys(tokens)
        v = tokens if self.attn_pre else group(self.v(u), grid, self.window_mode)
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N', h, L, C / h)
        y = F.scaled_dot_product_attention(q, k, v, mask, self.attn_drop if self.training else 0.0)
        y = ungroup(y.transpose(1, 2).flatten(2), grid, (u.shape[2], u.shape[3]), self.window_mode)
        y = _cropped(y, height, width)
        return self.v(y) if self.attn_pre else y

    def attention(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Attention weights on a normalised input (N, dim_in, H, W), for inspection.

        Returns:
            The weights A (N windows, heads, L, L), and row and column of each pixel of a window (windows, L, 2); those
            at or beyond H or W are padding.
        """
        u, mask = self._padded(u)
        grid = self._grid(u)
        q, k = self._queries_keys(group(u, grid, self.window_mode))
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        weights = (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1)
        rows, columns = (torch.arange(size, device=u.device) for size in u.shape[-2:])
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
        return weights, group(places, grid, self.window_mode)

    def _queries_keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N', L, C) -> queries and keys (N', h, L, d), from the first and the last C output channels."""
        qk = F.linear(tokens, self.qk.weight.flatten(1), self.qk.bias)
        q, k = qk.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k

    def _grid(self, u: Tensor) -> tuple[int, int]:
        """Numbers of windows (n1, n2) along height and width of a padded map."""
        height, width = u.shape[-2:]
        return (height // self.window_size, width // self.window_size) if self.window_size > 0 else (1, 1)

    def _padded(self, u: Tensor) -> tuple[Tensor, Tensor | None]:
        """Zero-pad right and below to whole windows; with `mask_padding`, also the mask of real keys (N', 1, 1, L)."""
        height, width = u.shape[-2:]
        # As torch.export can follow: whole windows less the map, instead of a remainder.
        window = self.window_size
        # No -side // window: ONNX divides integers towards zero.
        below, right = ((side + window - 1) // window * window - side if window > 0 else 0 for side in (height, width))
        symbolic = not (isinstance(height, int) and isinstance(width, int))  # torch.export: no question may be asked
        if not symbolic and not right and not below:
            return u, None
        real = u.new_ones(1, 1, height, width)
        u, real = (F.pad(part, (0, right, 0, below)) for part in (u, real))
        if not self.mask_padding:
            return u, None
        mask = group(real, self._grid(u), self.window_mode).bool()  # (windows, L, 1)
        return u, mask.repeat(len(u), 1, 1)[:, None].transpose(-2, -1)

    @torch.no_grad()
    def fuse(self) -> iRMB:
        """Fold the batch norms into adjacent convolutions, in place: same outputs, faster inference.

        `timm.models.reparameterize_model(model)` does this for a whole model.
        """
        norm, expand = self.norm, self.v[0] if isinstance(self.v, nn.Sequential) else None
        if isinstance(norm, nn.BatchNorm2d) and isinstance(expand, Pointwise) and not self.attn_s:
            # A 1x1 convolution of a * x + b has no padding, so the bias b can be folded too.
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            bias = expand.weight.flatten(1) @ (norm.bias - norm.running_mean * scale)
            expand.bias = nn.Parameter(bias if expand.bias is None else bias + expand.bias)
            expand.weight = nn.Parameter(expand.weight * scale[:, None, None])
            self.norm = nn.Identity()
        if self.local is not None:
            _fold_norm(self.local)
        return self


def _fold_norm(layers: nn.Sequential) -> None:
    """Fold the second layer, a batch norm, into the first, a convolution."""
    conv, norm = layers[0], layers[1]
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        layers[0], layers[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def depthwise(
    dim: int, kernel: int, stride: int, dilation: int, se_ratio: float, act: type[nn.Module]
) -> nn.Sequential:
    """Depth-wise convolution, BN, SiLU, and squeeze-and-excitation if `se_ratio` > 0."""
    padding = math.ceil((dilation * (kernel - 1) + 1 - stride) / 2)
    conv = nn.Conv2d(dim, dim, kernel, stride, padding, dilation, groups=dim, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(dim, eps=EPS), nn.SiLU(inplace=True)]
    if se_ratio > 0:
        layers.append(SEModule(dim, rd_channels=round(dim * se_ratio), act_layer=act))
    return nn.Sequential(*layers)


def group(x: Tensor, grid: tuple[int, int], mode: WindowMode = "strided") -> Tensor:
    """Gather the pixels of each window: (N, C, H, W) -> (N n1 n2, H W / (n1 n2), C).

    Args:
        x: H is a multiple of n1, W of n2.
        grid: numbers of windows n1, n2.
        mode: see `iRMB`.

    Example: a row of six pixels and two windows:

        >>> pixels = torch.arange(6.0).view(1, 1, 1, 6)
        >>> group(pixels, (1, 2), "strided")[..., 0].tolist(), group(pixels, (1, 2), "contiguous")[..., 0].tolist()
        ([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    """
    n1, n2 = grid
    x = x.permute(0, 2, 3, 1)
    if mode == "strided":
        x = _rows_of(_rows_of(x, 2, n2), 1, n1).permute(0, 2, 4, 1, 3, 5)  # (N, n1, n2, H/n1, W/n2, C)
    else:
        x = x.unflatten(2, (n2, -1)).unflatten(1, (n1, -1)).permute(0, 1, 3, 2, 4, 5)
    return x.flatten(3, 4).flatten(0, 2)


def _rows_of(x: Tensor, dim: int, length: int) -> Tensor:
    """`x.unflatten(dim, (-1, length))`; a symbolic length is cut, since a view would ask whether it fills the axis."""
    if isinstance(length, int):
        return x.unflatten(dim, (-1, length))
    return torch.stack(x.split(length, dim), dim)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The first rows and columns; symbolic ones are gathered, since a view would ask whether any are cut off."""
    if isinstance(height, int) and isinstance(width, int):
        return x[:, :, :height, :width]
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    return x.index_select(2, rows).index_select(3, columns)


def ungroup(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int], mode: WindowMode = "strided") -> Tensor:
    """Inverse of `group`: (N n1 n2, H W / (n1 n2), C) -> (N, C, H, W).

    Args:
        tokens: output of `group`, with any number of channels.
        grid: numbers of windows n1, n2.
        size: H, W.
        mode: see `iRMB`.
    """
    (n1, n2), (height, width) = grid, size
    x = tokens.unflatten(1, (height // n1, width // n2)).unflatten(0, (-1, n1, n2))
    x = x.permute(0, 3, 1, 4, 2, 5) if mode == "strided" else x.permute(0, 1, 3, 2, 4, 5)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class EMO(StagedBackbone, PyTorchModelHubMixin, library_name="repertory"):
    """Backbone and classifier: stem, four stages of iRMB at strides 4, 8, 16, 32, linear head.

    The first block of a stage has stride 2, twice the expansion and no attention. `VARIANTS` holds the arguments of
    the published sizes.

    Args:
        depths: blocks of each stage.
        dims: channels of each stage.
        exp_ratios: expansion of each stage.
        dim_heads: channels of an attention head in each stage.
        num_classes: number of classes; 0: no head, the output is the pooled features.
        in_chans: channels of the images.
        global_pool: one of `repertory.nn.backbone.POOLS`; "" with num_classes=0: the output is the last map.
        output_stride: 8, 16 or 32: the stages beyond it are dilated instead of strided.
        drop_path_rate: rate of the last block; it grows linearly from 0.
        drop_rate: dropout before the last projection of each block.
        attn_drop_rate: dropout of attention weights.
        stem_dim: channels of the stem.
        norm_layers, act_layers, dw_kernels, attn_s: of each stage, see `iRMB`.
        skip_dw: blocks with a skip have a depth-wise convolution; False is an ablation.
        window_size, window_mode, mask_padding, qkv_bias, v_group, attn_pre: see `iRMB`.
        pretrained_cfg: preprocessing of the training data, with timm's keys: `input_size`, `mean`, `std`, `crop_pct`,
            `interpolation` (read by `timm.data.resolve_data_config`), and `label_names`.

    Shape:
        (N, in_chans, H, W), H and W at least 32 -> logits (N, num_classes).

    `torch.export` with dynamic height and width needs `32 * Dim(...)` or `Dim.AUTO` and an example of 256 pixels or
    more a side, and the program takes such sizes: with one attention window a side it makes another graph. Smaller
    sizes are exported as they are.

    Raises:
        Problem: see `iRMB`; in `forward`, an image smaller than 32 pixels.

    Example:
        >>> model = EMO(**VARIANTS["emo_1m"])
        >>> sum(p.numel() for p in model.parameters())
        1361168
        >>> [tuple(x.shape) for x in model.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)]
        [(1, 32, 16, 16), (1, 48, 8, 8), (1, 80, 4, 4), (1, 168, 2, 2)]
    """

    post_stage = "norm"

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        exp_ratios: Sequence[float],
        dim_heads: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "fastavg",
        output_stride: int = 32,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        stem_dim: int = 24,
        norm_layers: Sequence[str] = ("bn_2d", "bn_2d", "ln_2d", "ln_2d"),
        act_layers: Sequence[str] = ("silu", "silu", "gelu", "gelu"),
        dw_kernels: Sequence[int] = (3, 3, 5, 5),
        attn_s: Sequence[bool] = (False, False, True, True),
        skip_dw: bool = True,
        window_size: int = 7,
        window_mode: WindowMode = "strided",
        mask_padding: bool = False,
        qkv_bias: bool = True,
        v_group: bool = False,
        attn_pre: bool = True,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        where = "EMO"
        check_lengths(where, depths=depths, dims=dims, exp_ratios=exp_ratios, dim_heads=dim_heads)
        check_whole(where, depths=depths, dims=dims, dim_heads=dim_heads, in_chans=in_chans, stem_dim=stem_dim)
        check_whole(where, 0, num_classes=num_classes, dw_kernels=dw_kernels)
        check_rates(where, drop_path_rate=drop_path_rate, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.pretrained_cfg = {**CFG, "num_classes": num_classes, **(pretrained_cfg or {})}
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 << i, "module": f"stages.{i}"} for i, dim in enumerate(dims)
        ]

        check_choice("EMO, norm_layers", NORMS, **{f"stage{i}": name for i, name in enumerate(norm_layers)})
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, stem_dim, 3, 2, 1),
            NORMS[norm_layers[0]](stem_dim, eps=EPS),
            iRMB(
                stem_dim, stem_dim, norm_in=False, has_skip=False, act_layer=act_layers[0], v_proj=False,
                dw_ks=dw_kernels[0], se_ratio=1.0, attn_s=False,
            ),
        )  # fmt: skip

        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        dim_in = stem_dim
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                first = j == 0
                block = iRMB(
                    dim_in,
                    dims[i],
                    has_skip=not first,
                    exp_ratio=exp_ratios[i] * (2 if first else 1),
                    norm_layer=norm_layers[i],
                    act_layer=act_layers[i],
                    dw_ks=dw_kernels[i] if first or skip_dw else 0,
                    stride=2 if first else 1,
                    dim_head=dim_heads[i],
                    window_size=window_size,
                    attn_s=attn_s[i] and not first,
                    qkv_bias=qkv_bias,
                    attn_drop=attn_drop_rate,
                    drop=drop_rate,
                    drop_path=next(rates),
                    v_group=v_group,
                    attn_pre=attn_pre,
                    window_mode=window_mode,
                    mask_padding=mask_padding,
                )
                blocks.append(block)
                dim_in = dims[i]
            self.stages.append(nn.Sequential(*blocks))
        self.norm = LayerNorm2d(dims[-1], eps=EPS)
        self.reset_classifier(num_classes, global_pool)
        dilate(([stage] for stage in self.stages), self.feature_info, output_stride, "EMO")
        self.register_load_state_dict_pre_hook(accept_authors_names)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last feature map -> logits (N, num_classes), or pooled features (N, dims[3])."""
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def initialise_head(self, head: nn.Linear) -> nn.Linear:
        """Initialise a new head in place."""
        trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's grouping of parameters into layers, for layer-wise learning-rate decay."""
        layers = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(layers, None), (r"^norm", (99999,))]}

    @torch.no_grad()
    def fuse(self) -> EMO:
        """Fold every batch norm into the adjacent convolution, in place: same outputs, faster inference."""
        _fold_norm(self.stem)
        for module in self.modules():
            if isinstance(module, iRMB):
                module.fuse()
        return self

    def checked(self, x: Tensor) -> Tensor:
        """Images in channels-last memory.

        Raises:
            Problem: images of another shape, or too small.
        """
        return channels_last(check_images(x, self.in_chans, "EMO", MIN_SIZE))


# -- the published sizes, in timm's registry ----------------------------------------------------

CFG: dict[str, Any] = {**IMAGENET, "first_conv": "stem.0", "classifier": "head"}

default_cfgs = generate_default_cfgs(dict.fromkeys(VARIANTS, CFG))


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> EMO:
    return build(
        EMO,
        "emo",
        variant,
        pretrained,
        {**VARIANTS[variant], **kwargs},
        levels=4,
        dilated=True,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        pretrained_filter_fn=lambda state, _: with_our_names(state),
    )


@register_model
def emo_1m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """1.36 M parameters, 261 M multiply-accumulates; published top-1 71.5."""
    return _create("emo_1m", pretrained, **kwargs)


@register_model
def emo_2m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """2.38 M parameters, 439 M multiply-accumulates; published top-1 75.1."""
    return _create("emo_2m", pretrained, **kwargs)


@register_model
def emo_5m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """5.11 M parameters, 903 M multiply-accumulates; published top-1 78.4."""
    return _create("emo_5m", pretrained, **kwargs)


@register_model
def emo_6m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """6.17 M parameters, 961 M multiply-accumulates; published top-1 79.0."""
    return _create("emo_6m", pretrained, **kwargs)
