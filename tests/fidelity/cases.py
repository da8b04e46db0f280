"""Reference cases of a paper, and the comparison of ours with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.fidelity.fill import digest


def cases(paper: str) -> list[Any]:
    """The paper's cases, for `pytest.mark.parametrize`."""
    read = json.loads(Path(__file__).with_name(f"{paper}.json").read_text(encoding="utf-8"))
    return [pytest.param(case, id=case["name"]) for case in read["cases"]]


def assert_agrees(output: Tensor, case: dict[str, Any], model: nn.Module | None = None) -> None:
    """The output's digest is the case's, with a relative error below 1e-4; and the model has as many parameters.

    Values next to 0 are held against the largest one.
    """
    found, expected = digest(output), case["output"]
    assert found["shape"] == expected["shape"]
    scale = max(abs(value) for value in expected["values"])
    assert found["values"] == pytest.approx(expected["values"], rel=1e-4, abs=1e-5 * scale)
    moments = found["mean"], found["std"]
    assert moments == pytest.approx((expected["mean"], expected["std"]), rel=1e-4, abs=3e-6 * expected["std"])
    if model is not None:
        assert sum(p.numel() for p in model.parameters()) == case["params"]
