"""Plain vision transformers that predict the noise of an image: U-ViT, IU-ViT and ASCEND's encoder-decoder.

U-ViT (Bao et al., CVPR 2023) is exact: its tensors, names and outputs are those of the authors' code. What IU-ViT and
ASCEND (Cao et al., 2022) change is reconstructed from the abstract: see the notes of the card.

    UViT: x_t, 999 t -> [label,] time, patches -> in blocks -> middle -> out blocks with long skips -> noise
    ASCEND: E encoder blocks of width d_e, norm, Linear(d_e -> d_d), D decoder blocks of width d_d with skips

B images, C channels, L patches, N = L + extra tokens (time, label, text), d channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import Attention, Mlp, PatchEmbed, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repertory.core.arguments import check_positive, check_whole
from repertory.core.problem import Problem
from repertory.nn.backbone import check_images

TEXT_TOKENS, TEXT_DIM = 77, 768
"""Of CLIP's text encoder, which U-ViT's text-to-image models read."""

VARIANTS: dict[str, dict[str, Any]] = {
    "uvit_s2_cifar10": {"img_size": 32, "patch_size": 2, "embed_dim": 512, "depth": 12, "num_heads": 8},
    "uvit_s4_celeba64": {"img_size": 64, "patch_size": 4, "embed_dim": 512, "depth": 12, "num_heads": 8},
    "uvit_m4_imagenet64": {
        "img_size": 64, "patch_size": 4, "embed_dim": 768, "depth": 16, "num_heads": 12, "num_classes": 1000,
    },
}  # fmt: skip
"""U-ViT in pixel space, as released."""

PLAIN: Mapping[str, bool] = {"skip": False, "conv": False}
IMPROVEMENTS: Mapping[str, Mapping[str, bool]] = {
    "adaptive_norm": {"mlp_time_embed": True, "adaptive_norm": True},
    "overlap": {"overlap": True},
    "local_mlp": {"local_mlp": True},
    "qk_norm": {"qk_norm": True},
}
"""What IU-ViT adds to U-ViT here, each a switch: common improvements of the time, not known to be the paper's list."""


# -- tokens -------------------------------------------------------------------------------------


def time_sinusoid(times: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of times (B,) -> (B, dim): cosines, then sines, of frequencies 10000^(-k / (dim / 2))."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000) / half))
    angles = times[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class OverlappingPatches(PatchEmbed):
    """A 3 x 3 convolution before the patch embedding, so that neighbouring patches share pixels."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__(img_size, patch_size, max(1, embed_dim // 4), embed_dim)
        self.stem = nn.Sequential(nn.Conv2d(in_chans, max(1, embed_dim // 4), 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x))


# -- blocks -------------------------------------------------------------------------------------


class LocalMlp(Mlp):
    """An MLP with a depth-wise 3 x 3 convolution, added to the hidden layer of the patch tokens.

    Args:
        dim: d.
        hidden: channels of the hidden layer.
        grid: patches along a side; the L = grid^2 patch tokens are the last ones.
    """

    def __init__(self, dim: int, hidden: int, grid: int) -> None:
        super().__init__(dim, hidden)
        self.grid = grid
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)  # (B, N, hidden)
        patches = x[:, -(self.grid**2) :].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        patches = (patches + self.conv(patches)).flatten(2).transpose(1, 2)
        return self.fc2(self.act(torch.cat([x[:, : -(self.grid**2)], patches], dim=1)))


class Block(nn.Module):
    """x + Attn(LN(x)), then x + MLP(LN(x)); before them Linear([x, s]) where the block has a long skip.

    With `adaptive_norm`, the time embedding gives both norms a scale and a shift, and both residuals a gate that starts
    at 0.

    Args:
        dim: d.
        heads: of the attention.
        mlp_ratio: hidden channels of the MLP, over d.
        qkv_bias: whether queries, keys and values have a bias.
        skip_dim: channels of the skip; 0: none.
        time_dim: channels of the time embedding, with `adaptive_norm`; 0: none.
        local_grid: patches along a side, for a convolution in the MLP; 0: none.
        qk_norm: normalise queries and keys.

    Shape:
        (B, N, d), skip (B, N, skip_dim), time (B, time_dim) -> (B, N, d).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        skip_dim: int = 0,
        time_dim: int = 0,
        local_grid: int = 0,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, qkv_bias=qkv_bias, qk_norm=qk_norm, norm_layer=nn.LayerNorm)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LocalMlp(dim, hidden, local_grid) if local_grid else Mlp(dim, hidden)
        self.skip_linear = nn.Linear(dim + skip_dim, dim) if skip_dim else None
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 6 * dim)) if time_dim else None

    def forward(self, x: Tensor, skip: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, cast(Tensor, skip)], dim=-1))
        if self.modulation is None:
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


# -- the backbone -------------------------------------------------------------------------------


def skip_sources(encoder: int, decoder: int) -> list[int]:
    """The encoder block whose output each decoder block receives: from the deepest to the first, evenly.

    Example:
        >>> skip_sources(5, 3), skip_sources(2, 4), skip_sources(4, 1)
        ([4, 2, 0], [1, 1, 0, 0], [3])
    """
    if decoder == 1:
        return [encoder - 1]
    return [round((encoder - 1) * (1 - i / (decoder - 1))) for i in range(decoder)]


class DiffusionViT(nn.Module, PyTorchModelHubMixin, library_name="repertory"):
    """A ViT that predicts the noise of a noisy image, with independent switches; the defaults are U-ViT.

    Args:
        img_size: height and width of the images.
        patch_size: height and width of a patch.
        in_chans: C; 4 for latents of Stable Diffusion.
        embed_dim: d, of the encoder where there is a decoder.
        depth: U-ViT: depth // 2 blocks in, one in the middle, depth // 2 out. With `decoder_depth`: encoder blocks E.
        num_heads: heads of the attention.
        mlp_ratio: hidden channels of the MLP, over d.
        qkv_bias: whether queries, keys and values have a bias.
        mlp_time_embed: an MLP on the sinusoid of the time.
        num_classes: rows of the label embedding; below 1: no label token. For guidance, one row is the empty label.
        conv: a 3 x 3 convolution at the end.
        skip: long skips.
        text_dim: channels of text features; 0: no text tokens.
        text_tokens: their number.
        adaptive_norm: norms and residuals of all blocks modulated by the time embedding.
        overlap: a 3 x 3 convolution before the patch embedding.
        local_mlp: a depth-wise convolution in the MLPs.
        qk_norm: normalise queries and keys.
        decoder_depth: D, blocks of a decoder of its own (ASCEND); None: U-ViT's layout.
        decoder_dim: width of the decoder; None: embed_dim.
        decoder_heads: heads in the decoder; None: num_heads.
        decoder_text: the decoder sees the text tokens too.

    Shape:
        images (B, C, img_size, img_size) in [-1, 1] units, times (B,) in 0 to 999, labels (B,) or text features
        (B, text_tokens, text_dim) -> predicted noise, the shape of the images.

    Raises:
        Problem: an image side that the patch does not divide (names the nearest that it does), an odd embed_dim, or one
            that the heads do not divide.

    Example:
        >>> model = DiffusionViT(**VARIANTS["uvit_s2_cifar10"])
        >>> sum(p.numel() for p in model.parameters())
        44255328
    """

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 2,
        in_chans: int = 3,
        embed_dim: int = 512,
        depth: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        mlp_time_embed: bool = False,
        num_classes: int = -1,
        conv: bool = True,
        skip: bool = True,
        text_dim: int = 0,
        text_tokens: int = TEXT_TOKENS,
        adaptive_norm: bool = False,
        overlap: bool = False,
        local_mlp: bool = False,
        qk_norm: bool = False,
        decoder_depth: int | None = None,
        decoder_dim: int | None = None,
        decoder_heads: int | None = None,
        decoder_text: bool = False,
    ) -> None:
        dec_dim, dec_heads = decoder_dim or embed_dim, decoder_heads or num_heads
        check_whole("DiffusionViT", img_size=img_size, patch_size=patch_size, in_chans=in_chans, depth=depth)
        check_whole("DiffusionViT", num_heads=num_heads, decoder_heads=dec_heads, text_tokens=text_tokens)
        check_whole("DiffusionViT", 0, text_dim=text_dim)
        check_positive("DiffusionViT", mlp_ratio=mlp_ratio)
        _check_shapes(img_size, patch_size, {"embed_dim": (embed_dim, num_heads), "decoder_dim": (dec_dim, dec_heads)})
        if decoder_depth is not None:
            check_whole("DiffusionViT", decoder_depth=decoder_depth)
        elif (decoder_dim, decoder_heads, decoder_text) != (None, None, False):
            raise Problem("decoder_dim, decoder_heads or decoder_text without decoder_depth", "DiffusionViT",
                          "give decoder_depth, or leave them out")  # fmt: skip
        if num_classes > 0 and text_dim:
            raise Problem("labels and text at once", "DiffusionViT", "give num_classes or text_dim")
        super().__init__()
        self.img_size, self.patch_size, self.in_chans, self.embed_dim = img_size, patch_size, in_chans, embed_dim
        self.num_classes, self.text_dim, self.text_tokens = num_classes, text_dim, text_tokens
        self.grid = img_size // patch_size
        self.labelled = num_classes > 0
        self.extras = 1 + self.labelled + (text_tokens if text_dim else 0)
        self.grad_checkpointing = False

        patches = OverlappingPatches if overlap else PatchEmbed
        self.patch_embed = patches(img_size, patch_size, in_chans, embed_dim)
        wide = 4 * embed_dim
        self.time_embed = (
            nn.Sequential(nn.Linear(embed_dim, wide), nn.SiLU(), nn.Linear(wide, embed_dim))
            if mlp_time_embed
            else nn.Identity()
        )
        if self.labelled:
            self.label_emb = nn.Embedding(num_classes, embed_dim)
        if text_dim:
            self.context_embed = nn.Linear(text_dim, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + self.grid**2, embed_dim))

        common: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "time_dim": embed_dim if adaptive_norm else 0,
            "local_grid": self.grid if local_mlp else 0,
            "qk_norm": qk_norm,
        }
        skip_dim = embed_dim if skip else 0
        if decoder_depth is None:
            halves = depth // 2
            self.in_blocks = nn.ModuleList(Block(embed_dim, num_heads, **common) for _ in range(halves))
            self.sources = skip_sources(halves, halves) if halves else []
            self.mid_block, self.bridge = Block(embed_dim, num_heads, **common), None
        else:
            self.in_blocks = nn.ModuleList(Block(embed_dim, num_heads, **common) for _ in range(depth))
            self.sources = skip_sources(depth, decoder_depth)
            text = text_tokens if text_dim and not decoder_text else 0
            self.mid_block, self.bridge = None, Bridge(embed_dim, dec_dim, int(self.labelled), text)
        self.out_blocks = nn.ModuleList(Block(dec_dim, dec_heads, skip_dim=skip_dim, **common) for _ in self.sources)
        self.norm = nn.LayerNorm(dec_dim)
        self.decoder_pred = nn.Linear(dec_dim, patch_size**2 * in_chans)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1) if conv else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        """Linear weights and positions: normal, std 0.02, cut at +-2. Convolutions and embeddings: torch's defaults."""
        if self.pos_embed.is_meta:  # built to be counted
            return
        trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block) and module.modulation is not None:
                nn.init.zeros_(cast(Tensor, module.modulation[1].weight))

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Noisy images, times 999 t, and labels `y` or text features `context` -> predicted noise."""
        x = check_images(x, self.in_chans, "DiffusionViT", size=(self.img_size, self.img_size))
        time = self.time_embed(time_sinusoid(timesteps, self.embed_dim).to(x.dtype))  # (B, d)
        tokens = [time[:, None], self.patch_embed(x)]
        if self.labelled:
            tokens = [self.label_emb(_given(y, "labels y"))[:, None], *tokens]
        elif self.text_dim:
            tokens = [tokens[0], self.context_embed(_given(context, "text features")), tokens[1]]
        z = torch.cat(tokens, dim=1) + self.pos_embed  # (B, extras + L, d)

        inner: list[Tensor] = []
        for block in self.in_blocks:
            z = self._run(block, z, None, time)
            inner.append(z)
        if self.mid_block is not None:
            z = self._run(self.mid_block, z, None, time)
        if self.bridge is not None:
            z = self.bridge(z, time)  # (B, N', d_d)
            inner = [self.bridge.kept(skip) for skip in inner]
        for block, source in zip(self.out_blocks, self.sources, strict=True):
            z = self._run(block, z, inner[source], time)

        z = self.decoder_pred(self.norm(z))[:, -(self.grid**2) :]  # (B, L, p * p * C): channels fastest
        z = z.unflatten(1, (self.grid, self.grid)).unflatten(-1, (self.patch_size, self.patch_size, self.in_chans))
        z = z.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, C, H, W)
        return self.final_layer(z)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return block(*inputs)

    # -- as timm's models ---------------------------------------------------------------------------

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass: long skips double the memory of activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers leave without decay; U-ViT's recipe decays all (`decay_all`)."""
        return {"pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter names -> layers, for a learning rate by depth."""
        stem = r"^pos_embed|^patch_embed|^time_embed|^label_emb|^context_embed"
        blocks = [(r"^in_blocks\.(\d+)", None), (r"^mid_block|^bridge", (1000,)), (r"^out_blocks\.(\d+)", (2000,))]
        return {"stem": stem, "blocks": blocks if not coarse else r"^(\w+_blocks)\.(\d+)"}


class Bridge(nn.Module):
    """Encoded tokens (B, N, d_e) -> the decoder's input (B, N', d_d).

    The encoder's final norm, a projection where the widths differ, the time embedding once more on the time token, and
    no text tokens unless the decoder sees them.

    Args:
        dim: d_e.
        decoder_dim: d_d.
        place: of the time token.
        dropped: number of text tokens after the time token that are left out.
    """

    def __init__(self, dim: int, decoder_dim: int, place: int, dropped: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, decoder_dim) if dim != decoder_dim else nn.Identity()
        self.time = nn.Linear(dim, decoder_dim)
        self.place, self.dropped = place, dropped

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        z = self.proj(self.norm(self.kept(z)))
        conditioned = z[:, self.place : self.place + 1] + self.time(time)[:, None]
        return torch.cat([z[:, : self.place], conditioned, z[:, self.place + 1 :]], dim=1)

    def kept(self, z: Tensor) -> Tensor:
        """The tokens that the decoder sees."""
        if not self.dropped:
            return z
        first = self.place + 1
        return torch.cat([z[:, :first], z[:, first + self.dropped :]], dim=1)


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise Problem(f"a conditional model without {name}", "DiffusionViT", f"give {name}")
    return value


def _check_shapes(img_size: int, patch_size: int, widths: Mapping[str, tuple[int, int]]) -> None:
    if img_size % patch_size:
        below = img_size // patch_size * patch_size
        nearest = " or ".join(str(size) for size in (below, below + patch_size) if size)
        raise Problem(
            f"images of {img_size} pixels do not divide into patches of {patch_size}",
            "img_size, patch_size",
            f"img_size {nearest} does",
        )
    for name, (dim, heads) in widths.items():
        check_whole("DiffusionViT", 2, **{name: dim})
        if dim % 2 or dim % heads:
            step = math.lcm(2, heads)
            below = max(dim // step, 1) * step
            raise Problem(
                f"{name}={dim} is odd or does not divide into {heads} heads", name, f"give {below} or {below + step}"
            )


# -- presets ------------------------------------------------------------------------------------


def UViT(**options: Any) -> DiffusionViT:
    """U-ViT; arguments as of its authors' code.

    Example:
        >>> sum(p.numel() for p in UViT(**VARIANTS["uvit_m4_imagenet64"]).parameters())
        130940292
    """
    return DiffusionViT(**options)


def vit(**options: Any) -> DiffusionViT:
    """A plain ViT: time as a token, no long skips, no final convolution."""
    return DiffusionViT(**{**PLAIN, **options})


def iu_vit(without: str = "", **options: Any) -> DiffusionViT:
    """IU-ViT as reconstructed: U-ViT with all of `IMPROVEMENTS`, or all but one.

    Args:
        without: name of the improvement that is left out; empty: none.
        **options: arguments of `DiffusionViT`.
    """
    switches = {k: v for name, part in IMPROVEMENTS.items() if name != without for k, v in part.items()}
    return DiffusionViT(**{**switches, **options})


def ascend(enc_depth: int, enc_dim: int, dec_depth: int, dec_dim: int, **options: Any) -> DiffusionViT:
    """ASCEND as reconstructed: an encoder that is stronger than the decoder, enc_depth enc_dim^2 > dec_depth dec_dim^2.

    Raises:
        Problem: the encoder is not the stronger part.

    Example:
        >>> model = ascend(4, 64, 2, 48, img_size=8, in_chans=1, num_heads=4)
        >>> model(torch.zeros(2, 1, 8, 8), torch.tensor([10.0, 700.0])).shape
        torch.Size([2, 1, 8, 8])
    """
    if enc_depth * enc_dim**2 <= dec_depth * dec_dim**2:
        raise Problem(
            f"encoder: {enc_depth} blocks of {enc_dim}; decoder: {dec_depth} of {dec_dim}, which is not weaker",
            "ascend",
            "give the encoder more blocks or channels, or build DiffusionViT(decoder_depth=…)",
        )
    return DiffusionViT(embed_dim=enc_dim, depth=enc_depth, decoder_depth=dec_depth, decoder_dim=dec_dim, **options)


def count_parameters(options: Mapping[str, Any]) -> int:
    """Parameters of `DiffusionViT(**options)`, without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in DiffusionViT(**options).parameters())


def matched(options: Mapping[str, Any], target: int, tolerance: float = 0.02) -> dict[str, Any]:
    """The widths with which a network has `target` parameters.

    First embed_dim (and with it decoder_dim, in proportion), in steps that the heads divide; then the hidden width of
    the MLPs, which makes up for the rest.

    Args:
        options: arguments of `DiffusionViT`; embed_dim, decoder_dim and mlp_ratio are starting points.
        target: number of parameters.
        tolerance: largest relative difference.

    Raises:
        Problem: no widths come that near.

    Example:
        >>> options = {"img_size": 8, "in_chans": 1, "embed_dim": 48, "depth": 6, "num_heads": 2}
        >>> abs(count_parameters(matched(options, 200_000)) / 200_000 - 1) < 0.01
        True
    """
    step = math.lcm(2, options.get("num_heads", 8), options.get("decoder_heads") or 1)
    found = {"mlp_ratio": 4.0, **options}
    for _ in range(4):  # parameters grow about with the square of the width
        factor = math.sqrt(target / count_parameters(found))
        for name in ("embed_dim", "decoder_dim"):
            if found.get(name):
                found[name] = max(1, round(found[name] * factor / step)) * step
    count, ratio = count_parameters(found), found["mlp_ratio"]
    slope = (count_parameters({**found, "mlp_ratio": 2 * ratio}) - count) / ratio
    found["mlp_ratio"] = round(max(ratio + (target - count) / slope, ratio / 2), 4)
    error = abs(count_parameters(found) / target - 1)
    if error > tolerance:
        raise Problem(
            f"the nearest network to {target} parameters differs by {100 * error:.1f} %",
            "parameters",
            "choose another number, or heads that divide more widths",
        )
    return found
