"""The authors' released weights: mapping of parameter names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from repertory.core import checkpoint

RENAME = {
    r"^blocks\.(\d+)\.(\d+)\.m\.": r"blocks.\1.\2.layers.",
    r"^blocks\.": "steps.",
    r"^classifier\.(\d+)\.m\.([01])\.net\.": r"exits.\1.\2.",
    r"^classifier\.(\d+)\.linear\.": r"exits.\1.4.",
    r"\.conv_(normal|down)\.net\.": r".\1.",
    r"\.net\.": ".",
}
"""Patterns of the authors' names of MSDNet -> our names. Tensor shapes and the order of modules are equal."""

RENAME_WPN = {
    r"^first_hidden_layer\.fc\.": "first.",
    r"^rest_hidden_layers\.(\d+)\.fc\.": r"rest.\1.",
    r"^output_layer\.": "output.",
}
"""The same of the weight prediction network."""

OWN = ("costs", "thresholds", "budgets", "accuracies", "correlation")
"""Buffers of `ExitClassifier` beside its network."""


def read_released(source: Path) -> dict[str, Tensor]:
    """State dict of an MSDNet with our names, from the authors' file or ours.

    Raises:
        Problem: not weights.
    """
    state = checkpoint.read_weights(source)
    if any(name.startswith("blocks.") for name in state):
        return checkpoint.rename(state, RENAME)
    return {name.removeprefix("network."): tensor for name, tensor in state.items() if name not in OWN}


def released_wpn(source: Path) -> dict[str, Tensor]:
    """State dict of the weight prediction network in the authors' file, with our names.

    Raises:
        Problem: not weights.
    """
    return checkpoint.rename(checkpoint.read_weights(source, prefer=("meta_state_dict",)), RENAME_WPN)
