"""Released weights: prefixes of names, the network they belong to, and their kernels.

The authors' files are dicts with `state_dict`; its names are torchvision's and `eca`, with the prefix `module.`.
Detectors are MMDetection's; the backbone has the prefix `backbone.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem

ATTENTION = re.compile(r"^(?:layer(\d+)\.\d+\.eca|features\.\d+\.conv\.[34])\.conv\.weight$")
"""Names of ECA's kernels; the group is the stage of a ResNet."""


def read_weights(source: Path) -> dict[str, Tensor]:
    """Weights of a network, from our file, the authors' file, or a detector with such a backbone.

    Raises:
        Problem: the file has no weights of a ResNet or MobileNetV2.
    """
    state = of_network(checkpoint.read_weights(source))
    if not {"conv1.weight", "features.0.0.weight"} & set(state):
        what = f"not weights of a ResNet or MobileNetV2 (first tensor: {next(iter(state))})"
        raise Problem(what, source, "give the authors' .pth.tar, or an MMDetection detector")
    return state


def of_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict without prefixes; of a detector only the backbone.

    Example:
        >>> of_network({"backbone.layer1.0.eca.conv.weight": None, "neck.lateral_convs.0.conv.bias": None})
        {'layer1.0.eca.conv.weight': None}
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    backbone = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    return backbone or state


def kernels_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Kernel of each stage, read from the tensors; () without ECA.

    Raises:
        Problem: blocks of one stage have different kernels.
    """
    kernels: dict[Any, int] = {}
    for name, tensor in state.items():
        match = ATTENTION.match(name)
        if not match or tensor.ndim != 3:
            continue
        stage = match[1] or len(state[re.sub(r"(\d)\.conv\.weight$", _norm_before, name)])
        if kernels.setdefault(stage, tensor.shape[-1]) != tensor.shape[-1]:
            what = f"{name}: kernel {tensor.shape[-1]}, but {kernels[stage]} before it in the same stage"
            raise Problem(what, "weights", "give the file that the authors released")
    return tuple(kernels.values())


def _norm_before(match: re.Match[str]) -> str:
    """features.2.conv.4.conv.weight -> features.2.conv.3.weight, whose length is the width of the block."""
    return f"{int(match[1]) - 1}.weight"


def check_kernels(model: nn.Module, state: Mapping[str, Tensor], where: object = "weights") -> None:
    """Require that a model has the kernels of a file.

    Raises:
        Problem: they differ; names the block and the kernels of the file.
    """
    own = model.state_dict()
    for name, tensor in state.items():
        if ATTENTION.match(name) and name in own and own[name].shape != tensor.shape:
            place = name.removesuffix(".conv.weight")
            kernels = ",".join(map(str, kernels_of(state)))
            raise Problem(
                f"{place}: file has kernel {tensor.shape[-1]}, model {own[name].shape[-1]}",
                where,
                f"pass kernel_sizes=({kernels})",
            )


def accept_released_weights(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """`load_state_dict` hook, so that timm's `checkpoint_path` can read the authors' files."""
    if prefix:
        return
    renamed = of_network(state)
    state.clear()
    state.update(renamed)
    check_kernels(module, state)


def structure_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Block type and depths of a ResNet as constructor arguments; {} for a MobileNetV2."""
    blocks = {match.groups() for name in state if (match := re.match(r"layer(\d+)\.(\d+)\.", name))}
    if not blocks:
        return {}
    stages = sorted({int(stage) for stage, _ in blocks})
    depths = tuple(sum(int(stage) == s for stage, _ in blocks) for s in stages)
    return {"block": "bottleneck" if "layer1.0.conv3.weight" in state else "basic", "depths": depths}
