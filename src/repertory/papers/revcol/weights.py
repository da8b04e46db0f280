"""The authors' released files: read safely as tensors, and converted to a model without supervision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repertory.core import checkpoint

# The files contain a yacs configuration, a dict, beside the weights. Mapped to OrderedDict, timm's `checkpoint_path`
# can read them, and no code of yacs runs.
torch.serialization.add_safe_globals([(OrderedDict, "yacs.config.CfgNode")])


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors under `model` in a released file, or of any file of weights.

    Raises:
        Problem: the file holds no weights.
    """
    return checkpoint.read_weights(path, prefer=("model", "state_dict"))


def accept_released_weights(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """`load_state_dict` hook: a model without supervision loads the last head of a supervised file."""
    if not module.supervise_at:
        unsupervised = without_supervision({k.removeprefix(prefix): v for k, v in state.items()})
        state.clear()
        state.update({prefix + k: v for k, v in unsupervised.items()})


def without_supervision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last head as `cls`; no other heads, no decoders.

    Example:
        >>> list(without_supervision({"stem.0.bias": None, "cls_blocks.0.x": None, "cls_blocks.3.x": None}))
        ['stem.0.bias', 'cls.x']
    """
    heads = sorted({k.split(".")[1] for k in state if k.startswith("cls_blocks.")}, key=int)
    last = f"cls_blocks.{heads[-1]}." if heads else "cls."
    return {
        f"cls.{k.removeprefix(last)}" if k.startswith(last) else k: v
        for k, v in state.items()
        if k.startswith(last) or not k.startswith(("cls_blocks.", "decoder_blocks."))
    }
