"""Encoders from files: MAE's, TinyMIM's, ours, and those of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem, reason
from repertory.papers.tinymim.model import TinyMIM, check_heads, last_block

TIMM = "timm:"
"""Prefix of the names of timm's models."""
WIDTH_HEADS = {192: 6, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Published heads of an encoder in pre-training, by its width: a file of tensors does not tell them."""
DECODER = ("decoder_", "mask_token")
HEAD = ("norm.", "fc_norm.", "head.")


def read_state(source: Path) -> dict[str, Tensor]:
    """The encoder's tensors of a file under timm's names: MAE's, TinyMIM's, or ours.

    Those of MAE's decoder are left out; a training checkpoint may hold its command line beside them.

    Raises:
        Problem: unreadable, or tensors of a ViT are missing; names the first.
    """
    found = checkpoint.read_weights(source, prefer=("model", "state_dict"))
    state = {name: tensor for name, tensor in found.items() if not name.startswith(DECODER)}
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))]
    needed = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    needed += [
        f"blocks.{number}.{part}.{kind}"
        for number in range(max(blocks, default=0) + 1)
        for part in parts
        for kind in ("weight", "bias")
    ]
    if missing := [name for name in needed if name not in state]:
        what = f"{len(missing)} tensors of a ViT are missing: {', '.join(missing[:4])}{', …' if missing[4:] else ''}"
        remedy = f"give a file with an encoder; this one begins with {next(iter(found))}"
        raise Problem(what, source, remedy)
    return state


def shape_of(state: Mapping[str, Tensor], where: object) -> dict[str, Any]:
    """Constructor arguments of `TinyMIM` that a state dict tells: sizes, depth, width; not the heads.

    Raises:
        Problem: not a square grid of square patches.
    """
    dim, channels, patch, width = state["patch_embed.proj.weight"].shape
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    if grid**2 + 1 != state["pos_embed"].shape[1] or patch != width:
        what = f"positions {tuple(state['pos_embed'].shape)} are not those of a class token and a square grid"
        raise Problem(what, where, "give an encoder of square images with one class token")
    return {
        "img_size": grid * patch,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": dim,
        "depth": 1 + max(int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))),
    }


def load_encoder(
    source: str, image_size: int, heads: int | None = None, last_heads: int | None = None
) -> VisionTransformer:
    """A pre-trained encoder without a head.

    Args:
        source: a file, a model directory, or "timm:NAME", which timm downloads.
        image_size: height and width of its input; positions are interpolated (bicubic).
        heads: of a file's blocks; None: the published number for its width.
        last_heads: of its last block; None: as `heads`, or as the model directory says.

    Raises:
        Problem: unreadable, no ViT, or the heads do not divide the channels.
    """
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM), image_size)
    path = Path(source)
    if path.is_dir():
        saved = checkpoint.load(path)
        if not isinstance(saved, TinyMIM):
            raise Problem(f"the model directory holds a {type(saved).__name__}", path, "give one of tinymim")
        first: Any = saved.blocks[0]
        heads = heads or first.attn.num_heads
        last_heads = last_heads or last_block(saved).attn.num_heads
        state, path = dict(saved.state_dict()), path / "model.safetensors"
    else:
        state = read_state(path)
    shape = shape_of(state, path)
    heads = heads or WIDTH_HEADS.get(shape["embed_dim"])
    if heads is None:
        what = f"the file does not tell the heads of its {shape['embed_dim']} channels"
        raise Problem(what, path, "--set teacher_heads=…")
    for count in (heads, last_heads or heads):
        check_heads(shape["embed_dim"], count, str(path))
    if image_size % shape["patch_size"]:
        what = f"images of {image_size} pixels do not divide into the file's patches of {shape['patch_size']}"
        raise Problem(what, path, f"--set image_size={shape['img_size']}")
    encoder = TinyMIM(**{**shape, "img_size": image_size}, num_heads=heads, last_heads=last_heads)
    grid = encoder.patch_embed.grid_size
    state = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD[1:])}
    checkpoint.fit_weights(encoder, resized(state, grid), path, spare=("norm.",))
    return encoder


def _from_timm(name: str, image_size: int) -> VisionTransformer:
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, img_size=image_size)
    except Exception as error:  # timm and the hub raise many kinds
        known = "timm.list_models('vit_*', pretrained=True) names them"
        raise Problem(f"timm gives no model {name!r}: {reason(error)}", f"teacher={TIMM}{name}", known) from error
    if not isinstance(model, VisionTransformer):
        remedy = "choose a plain ViT, such as vit_base_patch16_224.mae"
        raise Problem(f"{name} is a {type(model).__name__}", f"teacher={TIMM}{name}", remedy)
    return model


def resized(state: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """A state dict with its positions interpolated to a grid: bicubic, without anti-aliasing, the class row kept."""
    position = resample_abs_pos_embed(state["pos_embed"], list(grid), antialias=False, verbose=False)
    return {**state, "pos_embed": position}


def take_encoder(model: TinyMIM, state: Mapping[str, Tensor], where: object) -> None:
    """Give a classifier the tensors of a pre-trained encoder; its norm and head stay as they are initialised.

    Raises:
        Problem: the tensors do not fit; names the first.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(HEAD)}
    checkpoint.fit_weights(model, {**resized(kept, model.patch_embed.grid_size), **own}, where)
