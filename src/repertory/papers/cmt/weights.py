"""Weights that others released: checkpoints of the authors' code, and ImageNet's for the image network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.arguments import check_choice
from repertory.core.problem import Problem
from repertory.papers.cmt.model import CMT, VARIANTS

IMAGENET = "imagenet"

RENAME = {
    r"^img_backbone\.": "image_trunk.backbone.",
    r"^img_neck\.lateral_convs\.(\d)\.conv\.": r"image_trunk.neck.lateral_convs.\1.",
    r"^img_neck\.fpn_convs\.0\.conv\.": "image_trunk.neck.fpn_conv.",
    r"^pts_middle_encoder\.encoder_layers\.encoder_layer(\d)\.": r"lidar_trunk.encoder_layers.\1.",
    r"^pts_middle_encoder\.": "lidar_trunk.",
    r"^pts_backbone\.": "lidar_trunk.second.",
    r"^pts_neck\.": "lidar_trunk.second.",
    r"^pts_bbox_head\.transformer\.decoder\.": "head.transformer.",
    r"(layers\.\d+\.attentions\.\d)\.attn\.": r"\1.",
    r"(layers\.\d+)\.ffns\.0\.layers\.0\.0\.": r"\1.ffn.0.",
    r"(layers\.\d+)\.ffns\.0\.layers\.1\.": r"\1.ffn.2.",
    r"^pts_bbox_head\.task_heads\.0\.": "head.task_heads.",
    r"^pts_bbox_head\.": "head.",
}  # fmt: skip
"""Patterns of the authors' names, applied in order. Tensor shapes are equal."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, from one with the authors' or ours.

    Example:
        >>> list(with_our_names({"pts_bbox_head.transformer.decoder.layers.0.ffns.0.layers.1.weight": None}))
        ['head.transformer.layers.0.ffn.2.weight']
    """
    renamed = checkpoint.rename(state, RENAME)
    return {name: tensor for name, tensor in renamed.items() if not name.endswith("coords_bev")}


def released_network(source: Path, variant: str = "") -> CMT:
    """The network of a checkpoint of the authors' code; the sparse encoder's tensors depend on spconv's version.

    Args:
        source: the file.
        variant: one of `VARIANTS`; empty: by the tensors.

    Raises:
        Problem: weights of something else, or spconv is needed and missing.
    """
    state = with_our_names(checkpoint.read_weights(source))
    if "head.reference_points.weight" not in state:
        raise Problem(
            "no weights of CMT: there are no pts_bbox_head.reference_points", source, "give the authors' file"
        )
    names = set(state)
    cameras, lidar = "head.rv_embedding.0.weight" in names, "head.shared_conv.conv.weight" in names
    if not variant:
        deep = any("layer4" in name for name in names)
        variant = "cmt_l" if not cameras else "cmt_c" if not lidar else "cmt_r50" if deep else "cmt_vov"
    check_choice("variant", tuple(VARIANTS), variant=variant)
    voxels = any(name.startswith("lidar_trunk.conv_input") for name in names)
    options: dict[str, Any] = {**VARIANTS[variant], "queries": len(state["head.reference_points.weight"])}
    if voxels:
        options |= {"lidar_backbone": "voxel", "grid": 1024 if variant == "cmt_r50" else 1440}
    model = CMT(**options)
    if cameras and model.image_trunk.neck is not None:
        state = _fitting_backbone(state, model)
    checkpoint.fit_weights(model, state, source)
    return model.eval()


def _fitting_backbone(state: Mapping[str, Tensor], model: CMT) -> dict[str, Tensor]:
    """timm's names of the image network: equal for ResNet; VoVNet's tensors are matched by their order and shapes."""
    prefix = "image_trunk.backbone."
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    theirs = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    if set(own) == set(theirs):
        return dict(state)
    shapes = [[tensor.shape for tensor in table.values() if tensor.ndim] for table in (own, theirs)]
    if shapes[0] != shapes[1]:
        raise Problem(
            f"the image network has {len(theirs)} tensors that do not fit timm's {len(own)} in order",
            "weights",
            "give a checkpoint with ResNet-50 or VoVNet-99",
        )
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return rest | dict(zip(own, theirs.values(), strict=True))


def load_pretrained(model: CMT, source: str) -> None:
    """Weights to start from.

    Args:
        model: changed in place.
        source: "imagenet": of timm, for the image network; else a model directory of ours or the authors' file, whose
            tensors are taken where they fit; a warning names the others.

    Raises:
        Problem: no tensor fits.
    """
    if source == IMAGENET:
        if not model.uses_cameras or model.image_trunk.neck is None:
            return
        trained = timm.create_model(model.image_trunk.arch, pretrained=True, features_only=True, out_indices=(3, 4))
        model.image_trunk.backbone.load_state_dict(trained.state_dict())
        return
    path = Path(source)
    state = with_our_names(checkpoint.read_weights(path / "model.safetensors" if path.is_dir() else path))
    _take(model, state, path)


def _take(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise Problem("none of the tensors fits", path, "give weights of CMT")
    if left := [name for name in own if name not in fitting]:
        warnings.warn(f"{len(left)} tensors are not in {path.name} (first: {left[0]}) and start afresh", stacklevel=3)
    model.load_state_dict(fitting, strict=False)
