"""Weights that others released: the authors' checkpoints, and image networks to start from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.papers.tcp.model import TCPNet

BODY = "backbone.body."

RENAME = {
    # Names of older releases.
    r"(layer4\.)?\biSQRT\.": "TCP.",
    r"\batt_module\.conv_1\.": "TCP_att.TCA.g1.",
    r"\batt_module\.conv_2\.": "TCP_att.TCA.g2.",
    r"\batt_module\.sp_att\.conv_theta\.": "TCP_att.TSA.conv_phi_1.",
    r"\batt_module\.sp_att\.conv_phi\.": "TCP_att.TSA.conv_phi_2.",
    r"\batt_module\.sp_att\.conv_g\.": "TCP_att.TSA.conv_phi0.",
    r"\batt_module\.sp_att\.": "TCP_att.TSA.",
    r"\batt_module\.": "TCP_att.",
    r"\blayer_reduce([12])\.1\.": r"layer_reduce_bn\1.",
    # The authors' names -> ours.
    r"^base_model\.TCP\.": "pool.",
    r"^base_model\.": BODY,
    r"^new_fc\.": "fc.",
    r"\blayer_reduce1\.": "reduce.0.",
    r"\blayer_reduce_bn1\.": "reduce.1.",
    r"\blayer_reduce2\.": "reduce.3.",
    r"\blayer_reduce_bn2\.": "reduce.4.",
    r"\bTCP_att\.TSA\.conv_phi_?([012])\.": r"attention.spatial.phi\1.",
    r"\bTCP_att\.TSA\.norm\.": "attention.spatial.norm.",
    r"\bTCP_att\.TCA\.g([12])\.": r"attention.channel.fc\1.",
    r"\bTCP_att\.conv_1d\.": "attention.conv.",
    r"\.conv1\.net\.": ".conv1.1.",  # TSM
}
"""Patterns of names, applied in order. Tensor shapes are equal."""

FRAMES = {5: 8, 9: 16}
"""Kernel of the convolution over time -> frames of the published networks."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, from one with the authors', ours, or of an image network of timm or torchvision.

    Example:
        >>> list(with_our_names({"base_model.TCP.TCP_att.TSA.conv_phi0.bias": None, "new_fc.weight": None}))
        ['pool.attention.spatial.phi0.bias', 'fc.weight']
        >>> list(with_our_names({"layer1.0.conv1.weight": None, "fc.weight": None}))
        ['backbone.body.layer1.0.conv1.weight']
    """
    renamed = checkpoint.rename(state, RENAME)
    if any(name.startswith((BODY, "pool.")) for name in renamed):
        return renamed
    heads = ("fc.", "classifier.", "head.")
    return {f"{BODY}{name}": tensor for name, tensor in renamed.items() if not name.startswith(heads)}


def load_pretrained(model: TCPNet, source: Path) -> None:
    """Load weights to start from. Pooling and classifier are taken where their shapes fit; else a warning says so.

    Args:
        model: changed in place.
        source: our model directory, the authors' file, or weights of an image network, as file.

    Raises:
        Problem: not weights of this backbone.
    """
    state = with_our_names(checkpoint.read_weights(source / "model.safetensors" if source.is_dir() else source))
    own = model.state_dict()
    inside = {name.replace(".conv1.1.", ".conv1."): name for name in own}  # blocks with a temporal shift
    state = {name if name in own else inside.get(name, name): tensor for name, tensor in state.items()}
    if not any(name.startswith(BODY) for name in state):
        raise Problem("no weights of a backbone", source, "give the weights of an image or a video network")
    spare = [name for name in state if name not in own and not name.startswith(BODY)]  # of another pooling
    if spare:
        warnings.warn(f"{source}: {len(spare)} tensors are not used, {spare[0]} for one", stacklevel=2)
    state = {name: tensor for name, tensor in state.items() if name not in spare}
    left = checkpoint.fit_weights(model, state, source, spare=("pool.", "fc.", "input_norm."))
    if left:
        parts = sorted({name.partition(".")[0] for name in left})
        warnings.warn(f"{source}: {', '.join(parts)} newly initialised, {len(left)} tensors", stacklevel=2)


def released_network(source: Path) -> TCPNet:
    """The network of a checkpoint of the authors: TSN with ResNet-50, 8 or 16 frames, TSM's shift or none.

    Raises:
        Problem: weights of something else; the TEA and ResNet-152 checkpoints are among them.
    """
    state = with_our_names(checkpoint.read_weights(source))
    needed = ("pool.attention.conv.weight", "fc.weight", f"{BODY}layer1.0.conv3.weight")
    absent = next((name for name in needed if name not in state), None)
    if absent:
        raise Problem(
            f"not a TCP network on ResNet-50: it has no {absent}",
            source,
            "give one of K400_TCP_TSN_R50_*, K200_TCP_TSN_8f",
        )
    kernel = state["pool.attention.conv.weight"].shape[2]
    if kernel not in FRAMES:
        raise Problem(f"a convolution over {kernel} frames", source, "known are 5 (8 frames) and 9 (16 frames)")
    shift: dict[str, Any] = {"temporal": "shift"} if f"{BODY}layer1.0.conv1.1.weight" in state else {}
    arguments: dict[str, Any] = {
        "dim": state["pool.reduce.3.weight"].shape[0],
        "dim_inner": state["pool.reduce.0.weight"].shape[0],
        **shift,
    }
    model = TCPNet("resnet50", len(state["fc.weight"]), FRAMES[kernel], **arguments)
    checkpoint.fit_weights(model, state, source)
    return model.eval()


def parameter_groups(model: nn.Module, decay: float, factor: float) -> list[dict[str, Any]]:
    """The authors' learning rates and weight decays.

    Biases have twice the rate and no decay, batch norms no decay. New layers (pooling, classifier) have `factor` times
    the rate: the norms of the pooling with decay, the bias of the classifier with 2 `factor`.

    Args:
        model: a `TCPNet`.
        decay: weight decay.
        factor: learning rate of the new layers.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, leaf = name.rpartition(".")
        norm = isinstance(modules[owner], nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        if name.startswith("fc."):
            key = (factor, decay) if leaf == "weight" else (2 * factor, 0.0)
        elif name.startswith("pool."):
            key = (factor, 0.0 if leaf == "bias" and not norm else decay)
        else:
            key = (1.0, 0.0) if norm else (1.0, decay) if parameter.ndim > 1 else (2.0, 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "lr_scale": scale, "weight_decay": wd} for (scale, wd), p in groups.items()]
