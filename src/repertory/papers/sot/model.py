"""SoT: a transformer whose classifier uses the word tokens too, by their second-order statistics (Xie et al., 2021).

    model = timm.create_model("sot_tiny")        # after `import repertory.papers.sot`; 80.3 % top-1 as published
    model = TimmClassifier("swin_tiny_patch4_window7_224", num_classes=10, head={"fusion": "words", "w_dim": 24})

`SoT` is timm's vision transformer with three changes: a DenseNet-like token embedding in place of patches, fixed
sinusoid positions, and a `TokenHead`. `TimmClassifier` puts the head on any backbone of timm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast, get_args

import timm
import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import PatchEmbed, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models.densenet import DenseBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from repertory.core.arguments import check_choice, check_range, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import build, check_images
from repertory.nn.imagenet import IMAGENET
from repertory.papers.sot.layers import TokenHead

Embedding = Literal["densenet", "patch"]

SIDE = 14
"""Token maps of the embedding are 14 x 14, whatever the image size."""
SIZES = (112, 224)
GROWTH, LAYERS, BOTTLENECK = 16, 6, 2
STEM, TRANSITION = 64, 128

VARIANTS: dict[str, dict[str, Any]] = {
    "sot_tiny": {
        "embed_dim": 240, "depth": 12, "num_heads": 4, "mlp_ratio": 2.5, "head": {"heads": 6, "w_dim": 14},
    },
    "sot_small": {
        "embed_dim": 384, "depth": 14, "num_heads": 6, "mlp_ratio": 3.5, "drop_rate": 0.5,
        "head": {"heads": 6, "w_dim": 24},
    },
    "sot_base": {
        "embed_dim": 528, "depth": 24, "num_heads": 8, "mlp_ratio": 3.0, "drop_rate": 0.7,
        "head": {"heads": 6, "w_dim": 38},
    },
}  # fmt: skip
"""Arguments of the three published sizes."""

OFFICIAL = {"visual_tokens.": "patch_embed.", "classifier.": "head."}
"""Prefixes of the authors' names -> ours."""


# -- tokens -------------------------------------------------------------------------------------


class TokenEmbedding(nn.Module):
    """Image -> 14 x 14 tokens, by three dense blocks instead of one linear map per patch.

    Args:
        img_size: 224 or 112; at 112 the last transition does not pool.
        in_chans: channels of the images.
        embed_dim: C, channels of a token.
        large_output: transitions 2 and 3 do not pool: 56 x 56 tokens at 224, for Swin.
        flatten: tokens as a sequence; False: as a map (B, H, W, C).
        timm: what timm gives to every embedding, and this one does not need.

    Shape:
        (B, in_chans, img_size, img_size) -> (B, 196, C).

    Raises:
        Problem: another image size.

    Example:
        >>> sum(p.numel() for p in TokenEmbedding(embed_dim=240).parameters())
        285648
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        embed_dim: int = 240,
        large_output: bool = False,
        flatten: bool = True,
        **timm: Any,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height != width or height not in SIZES:
            raise _wrong_size(height, width)
        pools = (True, not large_output, not large_output and height == 224)
        self.img_size, self.flatten = (height, width), flatten
        reduction = 4 << sum(pools[1:])
        self.patch_size = (reduction, reduction)
        self.grid_size = (height // reduction, width // reduction)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

        stem = nn.Sequential(nn.Conv2d(in_chans, STEM, 3, 1, 1), nn.MaxPool2d(3, 2, 1))
        stages: list[nn.Module] = []
        channels = STEM
        for pool in pools:
            stages.append(DenseBlock(LAYERS, channels, bn_size=BOTTLENECK, growth_rate=GROWTH))
            stages.append(transition(channels + LAYERS * GROWTH, pool))
            channels = TRANSITION
        self.tokens = nn.Sequential()
        self.tokens.add_module("stem", stem)
        self.tokens.add_module("stage", nn.Sequential(*stages))
        self.tokens.add_module("transition", nn.Conv2d(channels, embed_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.img_size:
            raise _wrong_size(*x.shape[-2:], expected=self.img_size[0])
        x = self.tokens(x.contiguous(memory_format=torch.channels_last))  # (B, C, H, W)
        return x.flatten(2).mT if self.flatten else x.permute(0, 2, 3, 1)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels of the image per token, as timm's embeddings tell it."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the token map, as timm's embeddings tell it."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]


def transition(channels: int, pool: bool) -> nn.Sequential:
    """BatchNorm without activation, 1x1 convolution, and pooling by 2."""
    layers = nn.Sequential()
    layers.add_module("norm", nn.BatchNorm2d(channels))
    layers.add_module("conv", nn.Conv2d(channels, TRANSITION, 1, bias=False))
    if pool:
        layers.add_module("pool", nn.AvgPool2d(2, 2))
    return layers


def sinusoids(length: int, dim: int) -> Tensor:
    """Fixed positions (1, length, dim): sine at even, cosine at odd channels j, of pos / 10000^(2 floor(j/2) / dim)."""
    position = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    channel = torch.arange(dim)
    angle = position / 10000 ** (2 * (channel // 2).double() / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float().unsqueeze(0)


def _wrong_size(height: int, width: int, expected: int | None = None) -> Problem:
    sizes = str(expected) if expected else " or ".join(map(str, SIZES))
    return Problem(
        f"an image of {height} x {width} pixels",
        "SoT",
        f"the token embedding takes squares of {sizes} pixels: resize, or set img_size; embedding='patch' takes others",
    )


# -- the networks -------------------------------------------------------------------------------


class SoT(VisionTransformer, PyTorchModelHubMixin, library_name="repertory"):
    """The vision family. `VARIANTS` holds the arguments of the published sizes.

    It has timm's interface of vision transformers: `features_only`, `forward_intermediates`, `group_matcher`, …

    Args:
        img_size: 224 or 112; any multiple of `patch_size` with embedding "patch".
        num_classes: number of classes; 0: no head, the output is the class token, or all tokens with global_pool "".
        in_chans: channels of the images.
        global_pool: "token", "avg" or "", for features without head.
        embed_dim, depth, num_heads, mlp_ratio: of the transformer.
        embedding: "densenet" (the paper's), or "patch": a linear map per patch.
        patch_size: of embedding "patch".
        drop_rate: dropout of the pooled words.
        drop_path_rate: of the last block; it grows linearly from 0.
        proj_drop_rate, attn_drop_rate, pos_drop_rate: further dropouts of timm's transformer.
        head: arguments of `TokenHead`.
        pretrained_cfg: preprocessing, with timm's keys, and `label_names`.

    Shape:
        (B, in_chans, img_size, img_size) -> logits (B, num_classes).

    Raises:
        Problem: see `TokenEmbedding` and `TokenHead`.

    Example:
        >>> model = SoT(**VARIANTS["sot_tiny"])
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        7989982
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: Literal["token", "avg", ""] = "token",
        embed_dim: int = 240,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 2.5,
        embedding: Embedding = "densenet",
        patch_size: int = 16,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        head: dict[str, Any] | None = None,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        check_whole(
            "SoT", in_chans=in_chans, embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_size=patch_size
        )
        check_whole("SoT", 0, num_classes=num_classes)
        check_range("SoT", math.ulp(0), math.inf, mlp_ratio=mlp_ratio)
        check_choice("SoT", get_args(Embedding), embedding=embedding)
        check_choice("SoT", ("token", "avg", ""), global_pool=global_pool)
        check_rates("SoT", drop_rate=drop_rate, drop_path_rate=drop_path_rate, proj_drop_rate=proj_drop_rate)
        check_rates("SoT", attn_drop_rate=attn_drop_rate, pos_drop_rate=pos_drop_rate)
        if embed_dim % num_heads:
            raise Problem(f"{embed_dim} channels do not divide into {num_heads} heads", "SoT", "change embed_dim")
        super().__init__(
            img_size=size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=0,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=False,
            fc_norm=False,
            drop_path_rate=drop_path_rate,
            proj_drop_rate=proj_drop_rate,
            attn_drop_rate=attn_drop_rate,
            pos_drop_rate=pos_drop_rate,
            embed_layer=TokenEmbedding if embedding == "densenet" else PatchEmbed,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
        )
        assert self.cls_token is not None
        assert self.pos_embed is not None
        trunc_normal_(self.cls_token, std=0.02)
        self.pos_embed = nn.Parameter(sinusoids(self.pos_embed.shape[1], embed_dim), requires_grad=False)
        self.head_arguments = {"drop": drop_rate, **(head or {})}
        self.reset_classifier(num_classes)
        self.pretrained_cfg = {
            **CFG,
            "input_size": (in_chans, *size),
            "num_classes": num_classes,
            **(pretrained_cfg or {}),
        }
        self.register_load_state_dict_pre_hook(accept_official_names)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, img_size, img_size) -> tokens (B, 1 + N, C)."""
        size = cast("tuple[int, int]", self.patch_embed.img_size)
        return super().forward_features(check_images(x, self.in_chans, "SoT", size=size), attn_mask, is_causal)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, 1 + N, C) -> logits, or features pooled by `global_pool`."""
        return super().forward_head(x, pre_logits=True) if pre_logits or not self.num_classes else self.head(x)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0: none. `global_pool` is for use without head."""
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        fresh = TokenHead(self.embed_dim, num_classes, **self.head_arguments) if num_classes else nn.Identity()
        self.head = fresh.to(next(self.parameters()).device).train(self.training)


class TimmClassifier(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A `TokenHead` on any backbone of timm that yields tokens or maps.

    Args:
        backbone: a model name of timm.
        num_classes: number of classes.
        head: arguments of `TokenHead`. Backbones without a class token (Swin, ConvNeXt) need fusion "words", their
            default.
        token_embedding: replace the patch embedding of a ViT, or of Swin, by the paper's `TokenEmbedding`.
        pretrained: load timm's weights of the backbone.
        options: further arguments of `timm.create_model`.
        pretrained_cfg: preprocessing, with timm's keys, and `label_names`; default: the backbone's.

    Shape:
        images (B, 3, H, W) -> logits (B, num_classes).

    Raises:
        Problem: timm has no such model; the backbone gives neither tokens nor maps.

    Example:
        >>> model = TimmClassifier("vit_tiny_patch16_224", num_classes=10, head={"heads": 6, "w_dim": 14})
        >>> model(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int = 1000,
        head: dict[str, Any] | None = None,
        token_embedding: bool = False,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
        pretrained_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            network = timm.create_model(backbone, pretrained=pretrained, num_classes=0, **(options or {}))
        except (RuntimeError, TypeError) as error:
            raise Problem(f"timm cannot build {backbone!r}: {error}", "backbone", "timm.list_models() tells") from error
        self.backbone: Any = network
        if token_embedding:
            self._embed_tokens()
        prefix = getattr(network, "num_prefix_tokens", 0)
        self.num_features: int = self.backbone.num_features
        self.head_arguments = {"prefix_tokens": prefix, **({} if prefix else {"fusion": "words"}), **(head or {})}
        self.reset_classifier(num_classes)
        self.pretrained_cfg = {**self.backbone.pretrained_cfg, "num_classes": num_classes, **(pretrained_cfg or {})}

    def _embed_tokens(self) -> None:
        replaced = getattr(self.backbone, "patch_embed", None)
        if not isinstance(replaced, PatchEmbed):
            raise Problem(
                f"{type(self.backbone).__name__} has no patch embedding to replace",
                "token_embedding",
                "leave it out, or choose a ViT or a Swin",
            )
        fresh = TokenEmbedding(
            cast(tuple[int, int], replaced.img_size),
            replaced.proj.in_channels,
            replaced.proj.out_channels,
            large_output=replaced.grid_size == (56, 56),
            flatten=replaced.flatten,
        )
        if fresh.grid_size != replaced.grid_size:
            raise Problem(
                f"the backbone takes {replaced.grid_size} tokens, the embedding gives {fresh.grid_size}",
                "token_embedding",
                "choose a backbone of 14 x 14 tokens (ViT), or of 56 x 56 (Swin)",
            )
        self.backbone.patch_embed = fresh

    def forward_features(self, x: Tensor) -> Tensor:
        """Images -> tokens (B, prefix + N, C); maps are flattened row by row."""
        features = self.backbone.forward_features(x)
        if features.ndim == 4:
            last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
            return features.flatten(1, 2) if last else features.flatten(2).mT
        if features.ndim != 3:
            raise Problem(
                f"the backbone gives features of shape {tuple(features.shape)}",
                type(self.backbone).__name__,
                "choose one that gives tokens (B, N, C) or maps",
            )
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """Tokens -> logits."""
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0: none, the output is the tokens."""
        self.num_classes = num_classes
        fresh = TokenHead(self.num_features, num_classes, **self.head_arguments) if num_classes else nn.Identity()
        self.head = fresh.to(next(self.backbone.parameters()).device).train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by depth, for layer-wise learning rates: those of the backbone."""
        return {name: _below_backbone(matcher) for name, matcher in self.backbone.group_matcher(coarse).items()}

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, as timm names them for the backbone."""
        return {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


def _below_backbone(matcher: Any) -> Any:
    """A pattern of timm's `group_matcher`, or a list or tuple of them, for names that begin with "backbone."."""
    if isinstance(matcher, str):
        unanchored = re.sub(r"(?<!\[)\^", "", matcher)
        return rf"^backbone\.(?:{unanchored})"
    if isinstance(matcher, list | tuple):
        return type(matcher)(
            _below_backbone(part) if isinstance(part, str | list | tuple) else part for part in matcher
        )
    return matcher


def accept_official_names(_module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """`load_state_dict` hook: the authors' names are translated."""
    for name in list(state):
        for theirs, ours in OFFICIAL.items():
            if name.startswith(prefix + theirs):
                state[prefix + ours + name[len(prefix + theirs) :]] = state.pop(name)


# -- the published sizes, in timm's registry ----------------------------------------------------

CFG: dict[str, Any] = {
    **IMAGENET,
    "pool_size": None,
    "fixed_input_size": True,
    "first_conv": "patch_embed.tokens.stem.0",
    "classifier": ("head.visual_fc", "head.cls_fc"),
}

default_cfgs = generate_default_cfgs(dict.fromkeys(VARIANTS, CFG))


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> SoT:
    arguments = {**VARIANTS[variant], **kwargs}
    return build(
        SoT,
        "sot",
        variant,
        pretrained,
        arguments,
        levels=arguments["depth"],
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
    )


@register_model
def sot_tiny(pretrained: bool = False, **kwargs: Any) -> SoT:
    """8.0 M parameters (7.7 M as published), 2.8 G multiply-accumulates; published top-1 80.3."""
    return _create("sot_tiny", pretrained, **kwargs)


@register_model
def sot_small(pretrained: bool = False, **kwargs: Any) -> SoT:
    """27.0 M parameters, 6.3 G multiply-accumulates; published top-1 82.7."""
    return _create("sot_small", pretrained, **kwargs)


@register_model
def sot_base(pretrained: bool = False, **kwargs: Any) -> SoT:
    """76.8 M parameters, 15.6 G multiply-accumulates; published top-1 83.5."""
    return _create("sot_base", pretrained, **kwargs)
