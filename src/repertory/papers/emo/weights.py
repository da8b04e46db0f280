"""The authors' released weights: their names turned into ours, and which published size they belong to."""

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
"""Patterns over the authors' names -> ours. The shapes of the tensors are the same."""


def with_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our names, whether it came with the authors' or with ours.

    Example:
        >>> list(with_our_names({"stage0.1.proj.conv.weight": None, "stage3.7.norm.norm.bias": None}))
        ['stem.2.proj.weight', 'stages.2.7.norm.bias']
    """
    authors = any(name.startswith("stage0.") for name in state)
    return checkpoint.rename(state, RENAME) if authors else dict(state)


def accept_authors_names(_module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Hook of `load_state_dict`: lets timm's `checkpoint_path` read the authors' files."""
    if not prefix:
        renamed = with_our_names(state)
        state.clear()
        state.update(renamed)
