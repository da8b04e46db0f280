"""Weights that others released: mmsegmentation's UPerNet checkpoints, with CeCo's branch or without, and ImageNet's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models import segmentation

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.papers.ceco.hosts import DeepLab, UPerNet, timm_encoder
from repertory.papers.ceco.network import CeCoNet

IMAGENET = "imagenet"

RENAME = {
    r"^decode_head\.psp_modules\.(\d)\.1\.": r"host.head.pooling.pools.\1.1.",
    r"^decode_head\.lateral_convs\.": "host.head.laterals.",
    r"^decode_head\.fpn_convs\.": "host.head.smooth.",
    r"^decode_head\.fpn_bottleneck\.": "host.head.fuse.",
    r"^decode_head\.bottleneck\.": "host.head.bottleneck.",
    r"^decode_head\.conv_seg\.": "host.head.classifier.1.",
    r"^decode_head\.weight$": "branch.prior",
    r"^decode_head\.reduce\.0\.": "branch.reduce.",
    r"^decode_head\.reduce\.1\.": "branch.norm.",
    r"^decode_head\.gain\.": "branch.gain.",
    r"^decode_head\.img_cls\.1\.": "branch.classifier.",
    r"^auxiliary_head\.convs\.0\.": "host.auxiliary.0.",
    r"^auxiliary_head\.conv_seg\.": "host.auxiliary.1.1.",
    r"^(host\..*)\.conv\.(weight|bias)$": r"\1.0.\2",
    r"^(host\..*)\.bn\.": r"\1.1.",
    # Swin: mmsegmentation's names -> those of its authors -> timm's.
    r"^backbone\.patch_embed\.projection\.": "backbone.patch_embed.proj.",
    r"^backbone\.stages\.": "backbone.layers.",
    r"\.attn\.w_msa\.": ".attn.",
    r"\.ffn\.layers\.0\.0\.": ".mlp.fc1.",
    r"\.ffn\.layers\.1\.": ".mlp.fc2.",
    r"^backbone\.norm(\d)\.": r"host.norms.\1.",
    r"^backbone\.layers\.0\.downsample\.": "backbone.layers_1.downsample.",
    r"^backbone\.layers\.1\.downsample\.": "backbone.layers_2.downsample.",
    r"^backbone\.layers\.2\.downsample\.": "backbone.layers_3.downsample.",
    r"^backbone\.layers\.(\d)\.": r"backbone.layers_\1.",
    r"^backbone\.": "host.encoder.",
}
"""Patterns of names in mmsegmentation 0.x, applied in order. Tensor shapes are equal, but for the prior (1, K)."""

ENCODERS = {
    (96, 6): "swin_tiny_patch4_window7_224",
    (96, 18): "swin_small_patch4_window7_224",
    (128, 7): "swin_base_patch4_window7_224",
    (128, 12): "swin_base_patch4_window12_384",
}
"""Swin by width of the first stage, and blocks of the third stage (width 96: T, S) or the window (width 128)."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, from one of mmsegmentation or ours.

    Example:
        >>> names = ["decode_head.psp_modules.0.1.conv.weight", "decode_head.fpn_convs.2.bn.bias", "decode_head.weight"]
        >>> list(with_our_names({name: Tensor([0.0]) for name in names}))
        ['host.head.pooling.pools.0.1.0.weight', 'host.head.smooth.2.1.bias', 'branch.prior']
    """
    unfolded = any(name.startswith("backbone.stages.") for name in state)
    renamed = checkpoint.rename(
        {name: tensor for name, tensor in state.items() if "relative_position_index" not in name}, RENAME
    )
    for name, tensor in renamed.items():
        if name == "branch.prior":
            renamed[name] = tensor.flatten()
        elif unfolded and ".downsample." in name:
            renamed[name] = _refolded(tensor)
    return renamed


def _refolded(tensor: Tensor) -> Tensor:
    """Patch merging of mmsegmentation, channels then neighbours row by row, in the order of Swin's authors."""
    rows = tensor.reshape(*tensor.shape[:-1], -1, 4).transpose(-1, -2)[..., [0, 2, 1, 3], :]
    return rows.reshape(tensor.shape)


def load_pretrained(model: CeCoNet, source: str) -> None:
    """Load weights to start from. Heads and branch are taken where their shapes fit; else a warning says so.

    Args:
        model: changed in place.
        source: "imagenet": weights of timm or torchvision, downloaded; a file of mmsegmentation or ours; or a model
            directory.

    Raises:
        Problem: no weights for this network.
    """
    if source == IMAGENET:
        start_from_imagenet(model)
        return
    path = Path(source)
    state = with_our_names(checkpoint.read_weights(path / "model.safetensors" if path.is_dir() else path))
    own = model.state_dict()
    spare = ("host.head.classifier.", "host.classifier.", "host.auxiliary.", "branch.")
    unused = [name for name in state if name not in own and name.startswith(spare)]
    if unused:
        warnings.warn(f"{source}: {len(unused)} tensors are not used, {unused[0]} for one", stacklevel=2)
    kept = {name: tensor for name, tensor in state.items() if name not in unused}
    # The prior and the frame belong to the classes of this training.
    kept = {name: tensor for name, tensor in kept.items() if name != "branch.prior"}
    left = checkpoint.fit_weights(model, kept, path, spare=spare)
    if changed := sorted({name.rpartition(".")[0] for name in left if name != "branch.prior"}):
        warnings.warn(f"{source}: {', '.join(changed)} newly initialised", stacklevel=2)


def start_from_imagenet(model: CeCoNet) -> None:
    """Load ImageNet weights into the encoder.

    Raises:
        Problem: the network has none, or they cannot be downloaded.
    """
    host = model.host
    try:
        if isinstance(host, UPerNet):
            encoder, _ = timm_encoder(host.name, pretrained=True)
            host.encoder.load_state_dict(encoder.state_dict())
        elif isinstance(host, DeepLab):
            network = getattr(segmentation, host.name)(weights=None, weights_backbone="DEFAULT", aux_loss=True)
            host.backbone.load_state_dict(network.backbone.state_dict())
        else:
            raise Problem("mini has no pretrained weights", "pretrained", "set pretrained= empty, or another arch")
    except (OSError, RuntimeError) as error:
        remedy = "connect to the network once, or set pretrained= empty to start from random weights"
        raise Problem(f"the weights of ImageNet cannot be had: {error}", f"arch={host.name}", remedy) from error


def released_network(source: Path) -> CeCoNet:
    """The network of a checkpoint of mmsegmentation: UPerNet with Swin, with the branch or without.

    Raises:
        Problem: weights of something else.
    """
    state = with_our_names(checkpoint.read_weights(source))
    embed, head = "host.encoder.patch_embed.proj.weight", "host.head.classifier.1.weight"
    if embed not in state or head not in state:
        absent = head if embed in state else embed
        remedy = "give a checkpoint of UPerNet with Swin, of mmsegmentation 0.x"
        raise Problem(f"not such a network: it has no {absent}", source, remedy)
    width = state[embed].shape[0]
    blocks = 1 + max(int(name.split(".")[4]) for name in state if name.startswith("host.encoder.layers_2.blocks."))
    table = state["host.encoder.layers_0.blocks.0.attn.relative_position_bias_table"]
    key = width, (blocks if width == 96 else (round(len(table) ** 0.5) + 1) // 2)
    if key not in ENCODERS:
        raise Problem(f"a Swin of width {width} with {blocks} blocks in stage 3", source, "Swin-T, -S and -B are known")
    branch: dict[str, Any] | None = {} if "branch.prior" in state else None
    classes, channels = state[head].shape[:2]
    model = CeCoNet(ENCODERS[key], classes, branch, channels)
    own = model.state_dict()
    buffers = {name: own[name] for name in own if name not in state and name.endswith("num_batches_tracked")}
    checkpoint.fit_weights(model, {**buffers, **state}, source)
    return model.eval()
