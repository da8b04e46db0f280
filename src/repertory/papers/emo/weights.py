"""The authors' released weights: mapping of parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repertory.core import checkpoint

RENAME = {
    r"^stage0\.0\.convs\.0\.": "stem.",
    r"^stage0\.1\.": "stem.2.",
    **{rf"^stage{i}\.": f"stages.{i - 1}." for i in range(1, 5)},
    r"\bnorm\.norm\.": "norm.",
    r"\bqk\.conv\.": "qk.",
    r"\bv\.conv\.": "v.0.",
    r"\bconv_local\.conv\.": "local.0.",
    r"\bconv_local\.norm\.": "local.1.",
    r"\bse\.conv_reduce\.": "local.3.fc1.",
    r"\bse\.conv_expand\.": "local.3.fc2.",
    r"\bproj\.conv\.": "proj.",
}
"""Patterns of the authors' names -> our names. Tensor shapes are equal."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, from one with the authors' names or ours.

    Example:
        >>> list(with_our_names({"stage0.1.proj.conv.weight": None, "stage3.7.norm.norm.bias": None}))
        ['stem.2.proj.weight', 'stages.2.7.norm.bias']
    """
    authors = any(name.startswith("stage0.") for name in state)
    return checkpoint.rename(state, RENAME) if authors else dict(state)


def accept_authors_names(_module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """`load_state_dict` hook, so that timm's `checkpoint_path` can read the authors' files."""
    if not prefix:
        renamed = with_our_names(state)
        state.clear()
        state.update(renamed)
