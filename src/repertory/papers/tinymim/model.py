"""TinyMIM: distil the attention relations of a masked-image-modelling teacher (Ren et al., CVPR 2023).

A small plain ViT learns, without labels, to have the token relations softmax(Q Kᵀ / √d) and softmax(V Vᵀ / √d) of one
block of a frozen ViT that masked image modelling (MAE) has trained. All other targets that the paper studies are here
too: class token, features of a block, Q/K/V features, other relations, masked input, an added reconstruction loss.

    student = TinyMIM(**VARIANTS["tiny"])                    # any VisionTransformer of timm
    teacher = Teacher(timm.create_model("vit_base_patch16_224.mae", pretrained=True), block=12)
    loss = Distillation(student, teacher)(student_view, teacher(teacher_view))["loss"]

B images, P prefix tokens (the class token), N patches, T = P + N tokens, D channels, M heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import DropPath, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from repertory.core.arguments import check_choice, check_rates, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import build, check_images
from repertory.nn.imagenet import IMAGENET

CFG: dict[str, Any] = {**IMAGENET, "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head"}

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 6, "last_heads": 12},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "last_heads": 12},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "last_heads": 16},
}
"""The published students in pre-training; patches of 16 pixels."""

TEACHERS: dict[str, dict[str, Any]] = {
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
"""The teachers of the paper: plain ViTs that MAE has trained."""

HEADS = {"tiny": 3, "small": 6, "base": 12}
"""Heads of all blocks in fine-tuning, as in DeiT."""


# -- the backbone -------------------------------------------------------------------------------


def sincos_position(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed 2-D position embedding of the class token (zeros) and the patches, row by row.

    The first half of the channels encodes the column of a patch, the second its row, each as sines then cosines of
    frequencies 10000^(-4 k / dim).

    Args:
        dim: D, a multiple of 4.
        grid: rows and columns of patches.

    Returns:
        (1, 1 + N, D), float32, computed in float64.
    """
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim // 4))
    rows, columns = (torch.arange(size, dtype=torch.float64, device="cpu") for size in grid)
    halves = [
        place.flatten()[:, None] * frequencies  # (N, D / 4)
        for place in reversed(torch.meshgrid(rows, columns, indexing="ij"))
    ]
    patches = torch.cat([wave for half in halves for wave in (half.sin(), half.cos())], dim=1)
    return F.pad(patches, (0, 0, 1, 0)).float()[None]


POOLS = ("", "avg", "avgmax", "max", "token", "map")
"""How timm's ViT pools its tokens; "": not at all."""


class TinyMIM(VisionTransformer, PyTorchModelHubMixin, library_name="repertory"):
    """timm's plain ViT with sine-cosine positions, whose last block may have another number of heads (section 3.2).

    The tensors do not depend on the numbers of heads, and their names are those of timm: the weights load into
    `timm.create_model("vit_tiny_patch16_224")`.

    Args:
        img_size: height and width of the images.
        patch_size: height and width of a patch.
        in_chans: channels of the images.
        embed_dim: D, a multiple of 4.
        depth: number of blocks.
        num_heads: heads of the blocks.
        last_heads: heads of the last block: those of the teacher's target block. None: `num_heads`.
        num_classes: 0: no head, as in pre-training.
        global_pool: "token": the class token, after the final norm; "avg": mean of the patches, then `fc_norm`; or
            another of `POOLS`, see timm's `VisionTransformer`.
        drop_path_rate: rate of the last block; it grows linearly from 0.
        drop_rate: dropout before the head.
        pretrained_cfg: preprocessing with timm's keys, and `label_names`.
        **options: further arguments of timm's `VisionTransformer`.

    Shape:
        (B, in_chans, img_size, img_size) -> logits (B, num_classes).

    Raises:
        Problem: the images do not divide into patches, or the channels into heads; names both numbers.

    Example:
        >>> student = TinyMIM(**VARIANTS["tiny"])
        >>> sum(p.numel() for p in student.parameters())
        5524416
        >>> student.blocks[-1].attn.num_heads
        12
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 6,
        last_heads: int | None = None,
        num_classes: int = 0,
        global_pool: str = "token",
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        pretrained_cfg: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_whole("TinyMIM", img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        check_whole("TinyMIM", depth=depth, num_heads=num_heads)
        check_whole("TinyMIM", 0, num_classes=num_classes)
        check_choice("TinyMIM", POOLS, global_pool=global_pool)
        check_shapes(img_size, patch_size, embed_dim, num_heads)
        check_rates("TinyMIM", drop_path_rate=drop_path_rate, drop_rate=drop_rate)
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=num_classes,
            global_pool=cast(Any, global_pool),
            drop_path_rate=drop_path_rate,
            drop_rate=drop_rate,
            weight_init="skip",
            **options,
        )
        self.pretrained_cfg = {
            **CFG,
            "num_classes": num_classes,
            "input_size": (in_chans, img_size, img_size),
            **(pretrained_cfg or {}),
        }
        if last_heads is not None:
            set_heads(self.blocks[-1], last_heads)
        self._initialise()

    def _initialise(self) -> None:
        """As in MAE: positions, class token, and Xavier-uniform matrices."""
        if self.pos_embed is not None and self.has_class_token:
            self.pos_embed.data.copy_(sincos_position(self.embed_dim, self.patch_embed.grid_size))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))  # a view: in place
        for block in self.blocks:
            initialise_linear(block)
        self._initialise_head()

    def _initialise_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=2e-5)
            nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images (B, in_chans, img_size, img_size) -> tokens (B, P + N, D)."""
        size = None if self.dynamic_img_size else cast("tuple[int, int] | None", self.patch_embed.img_size)
        return super().forward_features(check_images(x, self.in_chans, "TinyMIM", size=size), attn_mask, is_causal)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0: none."""
        check_whole("TinyMIM", 0, num_classes=num_classes)
        if global_pool is not None:
            check_choice("TinyMIM", POOLS, global_pool=global_pool)
        super().reset_classifier(num_classes, cast(Any, global_pool))
        self._initialise_head()


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases in all linear layers below a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def set_heads(block: Any, heads: int) -> None:
    """Give a block another number of heads; its parameters stay (the adaptive block, section 3.2).

    Raises:
        Problem: the channels do not divide by the heads.
    """
    attn = block.attn
    dim = attn.proj.in_features
    check_heads(dim, heads)
    attn.num_heads, attn.head_dim = heads, dim // heads
    attn.scale = attn.head_dim**-0.5


def last_block(model: VisionTransformer) -> Any:
    """The last block of a ViT."""
    return model.blocks[-1]


def check_heads(dim: int, heads: int, whose: str = "") -> None:
    """Raises `Problem` where `dim` channels do not divide into `heads`; names both."""
    if heads < 1 or dim % heads:
        divisors = ", ".join(str(k) for k in range(1, min(dim, 64) + 1) if dim % k == 0)
        raise Problem(f"{dim} channels do not divide into {heads} heads", whose or "ViT", f"choose from {divisors}")


def check_shapes(img_size: int, patch_size: int, embed_dim: int, num_heads: int) -> None:
    """Raises `Problem` where images do not divide into patches, or channels into heads and four parts."""
    where = "TinyMIM"
    if img_size % patch_size:
        remedy = f"choose a multiple of {patch_size}"
        raise Problem(f"images of {img_size} pixels do not divide into patches of {patch_size}", where, remedy)
    if embed_dim % 4:
        raise Problem(f"embed_dim {embed_dim} is not a multiple of 4", where, "positions need four equal parts")
    check_heads(embed_dim, num_heads, where)


# -- taps ---------------------------------------------------------------------------------------

TargetName = Literal[
    "cls", "output", "ffn", "ffn_res", "attn", "attn_res", "qkv",
    "qk_vv", "qq_kk_vv", "qk_vv_raw", "qq_kk_vv_raw",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What of a block is distilled, and how.

    Attributes:
        kind: "class": the class token; "feature": all tokens; "relation": of the tokens, per head.
        parts: the tensors: names of taps, or pairs of q, k, v.
        softmax: relations only: KL of their softmax; False: smooth L1 of the scaled products.
        unused: modules of the block that come after the tap and get no gradient.
        last: the target block is the teacher's last one by default, whatever the depths.
    """

    kind: Literal["class", "feature", "relation"]
    parts: tuple[str, ...]
    softmax: bool = True
    unused: tuple[str, ...] = ()
    last: bool = False


_AFTER_QKV = ("attn.proj", "ls1", "norm2", "mlp", "ls2")
_AFTER_ATTENTION = ("norm2", "mlp", "ls2")

TARGETS: Mapping[str, Target] = {
    "cls": Target("class", ("ffn_res",)),
    "output": Target("feature", ("ffn_res",), last=True),
    "ffn": Target("feature", ("ffn",)),
    "ffn_res": Target("feature", ("ffn_res",)),
    "attn": Target("feature", ("attn",), unused=_AFTER_ATTENTION),
    "attn_res": Target("feature", ("attn_res",), unused=_AFTER_ATTENTION),
    "qkv": Target("feature", ("q", "k", "v"), unused=_AFTER_QKV),
    "qk_vv": Target("relation", ("qk", "vv"), unused=_AFTER_QKV),
    "qq_kk_vv": Target("relation", ("qq", "kk", "vv"), unused=_AFTER_QKV),
    "qk_vv_raw": Target("relation", ("qk", "vv"), softmax=False, unused=_AFTER_QKV),
    "qq_kk_vv_raw": Target("relation", ("qq", "kk", "vv"), softmax=False, unused=_AFTER_QKV),
}
"""Every target of the paper's study (tables 5 to 7). `qk_vv` is TinyMIM."""

SMOOTH_BETA = 2.0


def embed(model: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Images (B, C, H, W) -> tokens with positions (B, P + N, D), or (B, P + K, D) of the patches `keep` (B, K)."""
    x = model._pos_embed(model.patch_embed(images))
    if keep is not None:
        prefix, patches = x.tensor_split([model.num_prefix_tokens], dim=1)
        seen = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1]))  # (B, K, D)
        x = torch.cat([prefix, seen], dim=1)
    return model.norm_pre(x)


def queries_keys_values(block: Any, x: Tensor) -> dict[str, Tensor]:
    """q, k, v of a block's input (B, T, D), each (B, M, T, D / M)."""
    attn, normed = block.attn, block.norm1(x)
    q, k, v = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return {"q": attn.q_norm(q), "k": attn.k_norm(k), "v": v}


def products(block: Any, x: Tensor, pairs: Sequence[str]) -> dict[str, Tensor]:
    """Scaled products of each pair of q, k, v: logits of the relations of equation 4.

    Args:
        block: of a ViT.
        x: its input (B, T, D).
        pairs: of "qk", "vv", "qq", "kk".

    Returns:
        pair -> (B, M, T, T), float32.
    """
    parts = queries_keys_values(block, x)
    scale = block.attn.scale
    return {
        pair: ((parts[pair[0]] * scale) @ parts[pair[1]].transpose(-2, -1)).float()  # of half precision, too
        for pair in pairs
    }


def relations(
    model: VisionTransformer, images: Tensor, block: int, pairs: Sequence[str] = ("qk", "vv")
) -> list[Tensor]:
    """Relations R = softmax(X Yᵀ / √(D / M)) of a block (equation 4); the class token is included.

    Args:
        model: any ViT of timm.
        images: (B, C, H, W).
        block: number of the block, from 1; the following ones are not run.
        pairs: which relations.

    Returns:
        For each pair (B, M, T, T); rows sum to 1.

    Example:
        >>> qk, vv = relations(TinyMIM(**VARIANTS["tiny"], img_size=32), torch.zeros(2, 3, 32, 32), block=12)
        >>> qk.shape
        torch.Size([2, 12, 5, 5])
    """
    x = embed(model, images)
    for earlier in model.blocks[: block - 1]:
        x = earlier(x)
    return [logits.softmax(-1) for logits in products(model.blocks[block - 1], x, pairs).values()]


def tap(block: Any, x: Tensor, target: Target) -> dict[str, Tensor]:
    """The tensors of a target from a block's input (B, T, D); nothing of the block after them is computed.

    Returns:
        Of a relation: pair -> products (B, M, T, T); of a feature: part -> (B, T, D); of the class token: (B, D).
    """
    if target.kind == "relation":
        return products(block, x, target.parts)
    if "q" in target.parts:
        parts = queries_keys_values(block, x)
        return {name: parts[name].transpose(1, 2).flatten(2) for name in target.parts}  # (B, T, D)
    (name,) = target.parts
    attention = block.drop_path1(block.ls1(block.attn(block.norm1(x))))  # H
    if name == "attn":
        return {name: attention}
    after = x + attention  # Ĥ
    if name == "attn_res":
        return {name: after}
    ffn = block.drop_path2(block.ls2(block.mlp(block.norm2(after))))  # H̃
    features = ffn if name == "ffn" else after + ffn  # F
    return {name: features[:, 0] if target.kind == "class" else features}


# -- losses -------------------------------------------------------------------------------------


def relation_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of relations (equation 9): summed over keys, mean over images, heads and queries.

    Args:
        student: products (B, M, T, T).
        teacher: logarithms of the teacher's relations, same shape.
    """
    total = F.kl_div(student.log_softmax(-1), teacher, reduction="sum", log_target=True)
    return total / student.shape[:-1].numel()


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 with beta 2 (equation 8), mean over all elements."""
    return F.smooth_l1_loss(student.float(), teacher, beta=SMOOTH_BETA)


def prepared(signals: Mapping[str, Tensor], target: Target) -> dict[str, Tensor]:
    """The teacher's tensors as its losses take them: logarithms of relations, normalised features; float32."""
    if target.kind == "class" or (target.kind == "relation" and target.softmax):
        return {name: signal.float().log_softmax(-1) for name, signal in signals.items()}
    if target.kind == "relation":
        return {name: signal.float() for name, signal in signals.items()}
    return {name: F.layer_norm(signal.float(), signal.shape[-1:]) for name, signal in signals.items()}


# -- teacher and student ------------------------------------------------------------------------


class Teacher(nn.Module):
    """A frozen ViT up to its target block.

    Args:
        network: any ViT of timm; blocks after the target block are dropped from it.
        block: number of the target block, from 1; 0: the last.
        target: a key of `TARGETS`.
        heads: heads of the target block; None: its own. A teacher that is a TinyMIM student has those of its own
            teacher there.
        drop_path: rate in all blocks before the target block (the paper's ablation; 0 is best).

    Raises:
        Problem: there is no such block, or its channels do not divide into the heads.
    """

    def __init__(
        self,
        network: VisionTransformer,
        block: int = 0,
        target: TargetName = "qk_vv",
        heads: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        depth = len(network.blocks)
        block = block or depth
        if not 1 <= block <= depth:
            raise Problem(f"the teacher has no block {block}", "target_block", f"choose from 1 to {depth}")
        self.target = TARGETS[target]
        network.blocks = network.blocks[:block]
        if heads is not None:
            set_heads(network.blocks[-1], heads)
        constant_drop_path(network, drop_path)
        self.network = network.eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, DropPath):
                module.train()

    @property
    def heads(self) -> int:
        """Heads of the target block."""
        return last_block(self.network).attn.num_heads

    @torch.no_grad()
    def forward(self, images: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
        """Images (B, C, H, W) -> what the student is to match, see `prepared`; `keep` as in `embed`."""
        x = embed(self.network, images, keep)
        for block in self.network.blocks[:-1]:
            x = block(x)
        return prepared(tap(self.network.blocks[-1], x, self.target), self.target)


class Distillation(nn.Module):
    """A student in pre-training: its losses against a teacher's signals.

    The student's last block takes the heads of the teacher's target block, without drop path, and only what the target
    needs of it is computed. Positions are fixed, and parameters that get no gradient are frozen; `finished` restores
    that.

    Args:
        student: changed in place.
        teacher: its target, width and heads are read; it does not become a part.
        drop_path: rate in all blocks of the student but the last.
        decoder: adds MAE's reconstruction loss, weight 1; the input is masked then.

    Raises:
        Problem: numbers of tokens differ, or the student's channels do not divide into the teacher's heads.

    Example:
        >>> student = TinyMIM(img_size=32, embed_dim=24, depth=2, num_heads=2)
        >>> teacher = Teacher(TinyMIM(img_size=32, embed_dim=32, depth=4, num_heads=4), block=3)
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> sorted(Distillation(student, teacher)(images, teacher(images)))
        ['loss', 'qk', 'vv']
    """

    def __init__(
        self,
        student: VisionTransformer,
        teacher: Teacher,
        drop_path: float = 0.1,
        decoder: Decoder | None = None,
    ) -> None:
        super().__init__()
        check_tokens(student, teacher.network)
        self.target, self.student, self.decoder = teacher.target, student, decoder
        if self.target.kind == "relation":
            check_heads(student.embed_dim, teacher.heads, "the student's last block, which takes the teacher's heads")
            set_heads(student.blocks[-1], teacher.heads)
        constant_drop_path(student, drop_path)
        widths = student.embed_dim, teacher.network.embed_dim
        matched = () if self.target.kind == "relation" else self.target.parts
        self.project = nn.ModuleDict({name: nn.Linear(*widths) for name in matched})
        initialise_linear(self.project)
        self._freeze()

    def _freeze(self) -> None:
        frozen = [self.student.pos_embed] if self.student.pos_embed is not None else []
        if self.decoder is None:
            last = self.student.blocks[-1]
            after = [last.get_submodule(name) for name in self.target.unused]
            frozen += [p for module in (*after, self.student.norm) for p in module.parameters()]
        for parameter in frozen:
            parameter.requires_grad_(False)

    def forward(self, images: Tensor, signals: Mapping[str, Tensor], keep: Tensor | None = None) -> dict[str, Tensor]:
        """Losses: "loss" is their sum (relations) or mean (features), plus "reconstruction".

        Args:
            images: the student's view (B, C, H, W).
            signals: the teacher's, of its view.
            keep: patches that both see (B, K); None: all.
        """
        x = embed(self.student, images, keep)
        for block in self.student.blocks[:-1]:
            x = block(x)
        own = tap(self.student.blocks[-1], x, self.target)
        losses = {name: self._loss(name, own[name], signals[name]) for name in signals}
        total = torch.stack([*losses.values()])
        losses["loss"] = total.sum() if self.target.kind == "relation" else total.mean()
        if self.decoder is not None:
            assert keep is not None
            tokens = self.student.norm(self.student.blocks[-1](x))
            losses["reconstruction"] = self.decoder(tokens, keep, images)
            losses["loss"] = losses["loss"] + losses["reconstruction"]
        return losses

    def _loss(self, name: str, own: Tensor, signal: Tensor) -> Tensor:
        if self.target.kind == "relation":
            return relation_kl(own, signal) if self.target.softmax else smooth_l1(own, signal)
        own = self.project[name](own)
        # Derived: the paper states a KL divergence of class tokens (equations 5 and 6), not over what.
        return relation_kl(own.float(), signal) if self.target.kind == "class" else smooth_l1(own, signal)

    def finished(self) -> VisionTransformer:
        """The student, all of its parameters trainable."""
        constant_drop_path(self.student, 0.0)
        return self.student.requires_grad_(True).eval()


def default_block(teacher_depth: int, student_depth: int, target: TargetName = "qk_vv") -> int:
    """The target block, from 1: the last of equal depths, else three quarters up (18 of 24, section 4).

    Example:
        >>> default_block(24, 12), default_block(12, 12), default_block(24, 12, "output")
        (18, 12, 24)
    """
    last = TARGETS[target].last or teacher_depth == student_depth
    return teacher_depth if last else max(1, round(0.75 * teacher_depth))


def constant_drop_path(model: VisionTransformer, rate: float) -> None:
    """The same drop-path rate in all blocks but the last, which has none."""
    for number, block in enumerate(model.blocks, start=1):
        here = rate if number < len(model.blocks) else 0.0
        block.drop_path1, block.drop_path2 = (DropPath(here) if here else nn.Identity() for _ in range(2))


def check_tokens(student: VisionTransformer, teacher: VisionTransformer) -> None:
    """Raises `Problem` where two networks have different numbers of tokens; names both."""
    counts = [m.num_prefix_tokens + m.patch_embed.num_patches for m in (student, teacher)]
    if counts[0] != counts[1] or student.num_prefix_tokens != teacher.num_prefix_tokens:
        prefix = f"{student.num_prefix_tokens} and {teacher.num_prefix_tokens} of them are no patches"
        raise Problem(
            f"the student has {counts[0]} tokens, the teacher {counts[1]}; {prefix}",
            "teacher",
            "choose image and patch sizes that give both the same grid, and a teacher with a class token alone",
        )


# -- masked image modelling ---------------------------------------------------------------------


def random_patches(images: int, patches: int, ratio: float, device: torch.device) -> Tensor:
    """The patches that stay visible, (B, K), in random order; K = patches (1 - ratio), rounded down, at least 1."""
    return torch.rand(images, patches, device=device).argsort(1)[:, : max(1, int(patches * (1 - ratio)))]


class Decoder(nn.Module):
    """MAE's decoder and its loss: mean squared error of the masked patches, each patch normalised.

    Args:
        encoder: gives grid, patch size and width.
        dim: channels of the decoder, a multiple of 4.
        depth: blocks.
        heads: of the blocks.
    """

    def __init__(self, encoder: VisionTransformer, dim: int = 512, depth: int = 8, heads: int = 16) -> None:
        super().__init__()
        check_heads(dim, heads, "the decoder")
        self.grid, (self.patch, _) = encoder.patch_embed.grid_size, encoder.patch_embed.patch_size
        self.embed = nn.Linear(encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(sincos_position(dim, self.grid), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pixels = nn.Linear(dim, self.patch**2 * encoder.in_chans)
        nn.init.normal_(self.mask_token, std=0.02)
        initialise_linear(self)

    def forward(self, tokens: Tensor, keep: Tensor, images: Tensor) -> Tensor:
        """Loss of the encoder's output (B, 1 + K, D) for the visible patches `keep` (B, K) of images (B, C, H, W)."""
        places = keep[..., None]
        x = self.embed(tokens)
        patches = self.mask_token.to(x).expand(len(x), math.prod(self.grid), -1)
        patches = patches.scatter(1, places.expand(-1, -1, x.shape[-1]), x[:, 1:])
        x = torch.cat([x[:, :1], patches], dim=1) + self.position
        predicted = self.pixels(self.norm(self.blocks(x)))[:, 1:].float()  # (B, N, p p C)
        pixels = patchify(images, self.patch).float()
        pixels = (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()
        masked = torch.ones(pixels.shape[:2], device=x.device).scatter(1, keep, 0.0)
        return ((predicted - pixels).square().mean(-1) * masked).sum() / masked.sum().clamp(min=1)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p p C), patches row by row, channels last in each."""
    x = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, rows, p, columns, p)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class MaskedAutoencoder(nn.Module):
    """MAE (He et al., CVPR 2022): the pre-training of the teacher, and the baseline of the student.

    Args:
        encoder: trained in place.
        decoder: see `Decoder`.
        mask_ratio: share of the patches that are hidden from the encoder.
    """

    def __init__(self, encoder: VisionTransformer, decoder: Decoder, mask_ratio: float = 0.75) -> None:
        super().__init__()
        self.encoder, self.decoder, self.mask_ratio = encoder, decoder, mask_ratio
        if encoder.pos_embed is not None:
            encoder.pos_embed.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, C, H, W) -> the loss under a random mask."""
        keep = random_patches(len(images), self.encoder.patch_embed.num_patches, self.mask_ratio, images.device)
        x = embed(self.encoder, images, keep)
        for block in self.encoder.blocks:
            x = block(x)
        return {"loss": self.decoder(self.encoder.norm(x), keep, images)}

    def finished(self) -> VisionTransformer:
        """The encoder, all of its parameters trainable."""
        return self.encoder.requires_grad_(True).eval()


# -- the published students, in timm's registry -------------------------------------------------

default_cfgs = generate_default_cfgs({f"tinymim_vit_{name}_patch16": CFG for name in VARIANTS})


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> TinyMIM:
    arguments = {**VARIANTS[variant], **kwargs}
    return build(
        TinyMIM,
        "tinymim",
        f"tinymim_vit_{variant}_patch16",
        pretrained,
        arguments,
        levels=arguments["depth"],
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
    )


@register_model
def tinymim_vit_tiny_patch16(pretrained: bool = False, **kwargs: Any) -> TinyMIM:
    """5.5 M parameters; published top-1 75.8 after fine-tuning."""
    return _create("tiny", pretrained, **kwargs)


@register_model
def tinymim_vit_small_patch16(pretrained: bool = False, **kwargs: Any) -> TinyMIM:
    """21.7 M parameters; published top-1 83.0 after fine-tuning."""
    return _create("small", pretrained, **kwargs)


@register_model
def tinymim_vit_base_patch16(pretrained: bool = False, **kwargs: Any) -> TinyMIM:
    """85.8 M parameters; published top-1 85.0 after fine-tuning."""
    return _create("base", pretrained, **kwargs)
