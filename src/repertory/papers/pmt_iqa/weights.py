"""Weights of the backbone: torchvision's, timm's, the authors', ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
from torch import Tensor

from repertory.core import checkpoint
from repertory.core.problem import Problem, reason
from repertory.papers.pmt_iqa.model import PMTIQA

TIMM = "timm:"
"""Prefix of the names of timm's models."""
BRANCHES = "lda"
"""Prefix of the branches, which no ImageNet network has."""


def load_backbone(model: PMTIQA, source: str) -> None:
    """Load the stem and the four stages; branches, trunk and heads keep their initial weights.

    Args:
        model: changed in place.
        source: a file, a model directory, or "timm:NAME", which timm downloads.

    Raises:
        Problem: unreadable, not to be had, or of another backbone.
    """
    if source.startswith(TIMM):
        state: Mapping[str, Tensor] = _from_timm(source.removeprefix(TIMM))
    else:
        path = Path(source)
        state = checkpoint.read_weights(path / "model.safetensors" if path.is_dir() else path)
    state = {name.removeprefix("res."): tensor for name, tensor in state.items()}
    own = model.res.state_dict()
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(BRANCHES)}
    found = {name: tensor for name, tensor in state.items() if name in wanted}
    branches = {name: tensor for name, tensor in own.items() if name.startswith(BRANCHES)}
    checkpoint.fit_weights(model.res, {**found, **branches}, f"pretrained={source}")


def _from_timm(name: str) -> Mapping[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm and the hub raise many kinds
        remedy = "give a file of weights, or --set pretrained=none for random ones"
        raise Problem(f"timm gives no weights {name!r}: {reason(error)}", f"pretrained={TIMM}{name}", remedy) from error
