"""What the authors' code saves: perturbations and clusters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repertory.core.problem import Problem, reason

REMEDY = "give the folder of perturbation_0.pth, perturbation_1.pth, … with the .pth of the clusters beside them"
NUMPY = [np.ndarray, np.dtype, np.empty(0).__reduce__()[0], *(type(np.dtype(k)) for k in ("f4", "f8", "i4", "i8"))]
"""What an array in a pickle needs; it runs no other code."""


def read_released(folder: Path) -> tuple[Tensor, Tensor]:
    """Perturbations and cluster centres.

    Args:
        folder: perturbation_{i}.pth, each {state_dict, init_noise, perturbation: (1, 3, S, S), not clamped}, and one
            more .pth: {pred_idx, pred_idx_test, centers: (p, D)}.

    Returns:
        Raw perturbations (p, 3, S, S) and centres (p, D).

    Raises:
        Problem: a file is missing, damaged, or does not go with the others.
    """
    if not folder.is_dir():
        raise Problem("not a folder", folder, REMEDY)
    numbered = {
        int(found[1]): path
        for path in folder.glob("*.pth")
        if (found := re.fullmatch(r"perturbation_(\d+)", path.stem))
    }
    missing = [i for i in range(max(numbered, default=0) + 1) if i not in numbered]
    if missing:
        raise Problem(f"perturbation_{missing[0]}.pth is missing", folder, REMEDY)
    others = [path for path in sorted(folder.glob("*.pth")) if path not in numbered.values()]
    holding = [(path, content) for path in others if "centers" in (content := _load(path))]
    if len(holding) != 1:
        raise Problem(f"{len(holding)} files with the centres of the clusters; one is needed", folder, REMEDY)
    path, clusters = holding[0]
    centres = _tensor(clusters, "centers", path, 2)
    if len(centres) != len(numbered):
        raise Problem(f"{len(numbered)} perturbations for {len(centres)} clusters", folder, REMEDY)
    raw = [_tensor(_load(numbered[i]), "perturbation", numbered[i], 4) for i in range(len(numbered))]
    shape = raw[0].shape
    for i, one in enumerate(raw):
        if one.shape != shape or one.shape[:2] != (1, 3) or one.shape[2] != one.shape[3]:
            raise Problem(f"a perturbation of {tuple(one.shape)}", numbered[i], "(1, 3, S, S), of one size, is needed")
    return torch.cat(raw), centres


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise Problem(f"cannot be read: {reason(error)}", path, REMEDY) from error
    if not isinstance(content, Mapping):
        raise Problem("holds no dictionary", path, REMEDY)
    return content


def _tensor(content: Mapping[str, Any], key: str, path: Path, dims: int) -> Tensor:
    try:
        value = torch.as_tensor(content[key]).float()
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(f"has no tensor {key!r}", path, REMEDY) from error
    if value.ndim != dims or not value.isfinite().all():
        raise Problem(f"{key}: {dims} dimensions of finite numbers are needed, not {tuple(value.shape)}", path, REMEDY)
    return value
