"""The authors' released weights: mapping of parameter names, and the network they belong to.

The files contain the fixed kernels too. They identify the network, are compared with the constants, and are removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.problem import Problem
from repertory.papers.vgnet.kernels import SETS, FixedDepthwise, fixed_kernels

TAIL = r"^features\.stage4\.\d+\.0\.(mux\.)?weight$"
"""The kernel of the tail, the last layer of stage 4 in the files."""

RENAME = {
    r"^features\.stem\.0\.": "stem.conv.",
    r"^features\.stem\.2\.": "stem.norm.",
    r"\.downsample\.": ".filter.",
    r"\.half3x3\.": ".kernel.",
    r"\.conv1x1\.(0\.)?0\.weight$": ".pw.conv.weight",
    r"\.conv1x1\.(0\.)?2\.": ".pw.norm.",
    r"\.conv1x1\.1\.reduce\.": ".pw.se.fc1.",
    r"\.conv1x1\.1\.expand\.": ".pw.se.fc2.",
    TAIL: "tail.kernel.weight",
    r"^features\.stage4\.\d+\.1\.([a-z_]+)$": r"tail.kernel.1.\1",
    r"^features\.stage4\.\d+\.[12]\.0\.weight$": "tail.pw.conv.weight",
    r"^features\.stage4\.\d+\.[12]\.2\.": "tail.pw.norm.",
    **{rf"^features\.stage{i}\.": f"stages.{i - 1}." for i in range(1, 5)},
    r"^classifier\.(1\.)?": "head.",
}
"""Patterns of the authors' names -> our names. Tensor shapes are equal."""

SIGNS = {
    "paper": ("classifier.weight", ".0.mux.weight"),
    "release": ("classifier.1.weight", ".0.weight"),
}
"""Style -> name of the head and suffix of the tail's kernel in the authors' files."""


def has_authors_names(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the authors' names."""
    return "features.stem.0.weight" in state


def style_of(state: Mapping[str, Tensor]) -> str:
    """The style of a state dict with the authors' names: "paper" or "release"."""
    release = "classifier.1.weight" in state
    headless = not release and "classifier.weight" not in state
    if headless:
        tail = _tail(state)
        fixed = tail.removesuffix("0.weight") + "1.running_mean" in state  # VGNetF has the style of the paper
        release = not tail.endswith(".mux.weight") and not fixed
    return "release" if release else "paper"


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, including fixed kernels, from one with the authors' names or ours.

    Example:
        >>> list(with_our_names({"features.stem.0.weight": None, "features.stage2.3.conv1x1.0.2.bias": None}))
        ['stem.conv.weight', 'stages.1.3.pw.norm.bias']
    """
    if not has_authors_names(state):
        return dict(state)
    renamed = checkpoint.rename(state, RENAME)
    if "tail.kernel.1.weight" in renamed:  # a batch norm follows: the kernels are fixed
        renamed["tail.kernel.0.weight"] = renamed.pop("tail.kernel.weight")
    return renamed


def without_fixed(model: nn.Module, state: Mapping[str, Tensor], where: object = "") -> dict[str, Tensor]:
    """Remove the fixed kernels of `model` from a state dict with our names.

    Raises:
        Problem: they differ from the constants.
    """
    learned = dict(state)
    for name, module in model.named_modules():
        if not isinstance(module, FixedDepthwise):
            continue
        kernels = learned.pop(f"{name}.weight", None)
        if kernels is not None and not _equal(kernels, module.constants()):
            raise Problem(
                f"{name}.weight does not contain the fixed kernels {module.kernels!r}",
                where,
                "choose the kernels and the downsampling of the file; `repertory convert` detects them",
            )
    return learned


def accept_released_weights(module: nn.Module, state: dict[str, Tensor], prefix: str = "", *_: Any) -> None:
    """`load_state_dict` hook, so that timm's `checkpoint_path` can read the authors' files.

    Raises:
        Problem: the file has the other style, or its fixed kernels differ from those of the network.
    """
    if prefix or not has_authors_names(state):
        return
    style, own = style_of(state), str(module.style)
    if style != own:
        theirs = [name for name in ("classifier.weight", "classifier.1.weight", _tail(state)) if name in state]
        expected = ", ".join((SIGNS[own][0], f"features.stage4.*{SIGNS[own][1]}"))
        raise Problem(
            f"the file has the {style} style ({', '.join(theirs)}), the network the {own} style ({expected})",
            "weights of VGNet",
            f"set style={style!r}",
        )
    ours = without_fixed(module, with_our_names(state), "weights of VGNet")
    state.clear()
    state.update(ours)


def architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `VGNet` for a state dict with the authors' names.

    Raises:
        Problem: not weights of VGNet, or unknown fixed kernels.
    """
    ours = with_our_names(state)
    try:
        layers = [1 + sum(f"stages.{i}.{j}.pw.conv.weight" in ours for j in range(1, 100)) for i in range(4)]
        inner = [ours[f"stages.{i}.0.pw.conv.weight"].shape[1] for i in range(4)]
        channels = [*inner, ours["tail.pw.conv.weight"].shape[0]]
        kernel = ours.get("stages.0.1.kernel.0.weight")
    except KeyError as missing:
        what = f"not weights of VGNet: no {missing} (first tensor: {next(iter(state))})"
        raise Problem(what, "weights", "give a file released by the authors") from missing
    filters = [ours.get(f"stages.{i}.0.filter.weight") for i in range(4)]
    blur = fixed_kernels(f"blur_{style_of(state)}")[:, None]
    learned = [one is not None and not _equal(one, blur.repeat(len(one) // len(blur), 1, 1, 1)) for one in filters]
    kernels = "learned"
    if kernel is not None:
        same = [n for n in ("edge", "edge_gaussian") if _equal(kernel[: len(SETS[n])], fixed_kernels(n)[:, None])]
        if not same:
            raise Problem(
                "the fixed kernels are not among the authors'", "weights", "give a file released by the authors"
            )
        kernels = same[-1]
    return {
        "channels": tuple(channels),
        "layers": tuple(layers),
        "style": style_of(state),
        "downsample": "maxpool" if filters[1] is None else "dwconv" if learned[1] else "blur",
        "kernels": kernels,
        "se_ratio": 0.25 if "stages.0.0.pw.se.fc1.weight" in ours else None,
        "thumbnail": learned[0] and not learned[1],
    }


def _tail(state: Mapping[str, Tensor]) -> str:
    """The authors' name of the tail's kernel."""
    return next((name for name in state if re.match(TAIL, name)), "")


def _equal(kernels: Tensor, constants: Tensor) -> bool:
    return kernels.shape == constants.shape and torch.allclose(kernels.float().cpu(), constants.cpu(), atol=1e-4)
