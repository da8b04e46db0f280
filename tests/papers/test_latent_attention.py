"""Latent attention: reference values, modules by hand, generators, experiments, use, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repertory.papers.latent_attention import (
    CMEAttention,
    SoftmaxAttention,
    resultant_length,
)
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import probe

# -- fidelity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("latent_attention"))
def test_agrees_with_the_closed_forms(case: dict[str, Any]) -> None:
    config, model = case["config"], None
    if "pairs" in config:
        output = torch.tensor([resultant_length(int(d), kappa) for d, kappa in config["pairs"]])
    else:
        d, m, kappa = config["d"], config["m"], config["kappa"] or 1.0
        if "ridge" in config:
            kernel = "linear" if config["kernel"] == "linear" else "exponential"
            model = CMEAttention(d, m, kernel=kernel, kappa=kappa, ridge=config["ridge"])
        else:
            model = SoftmaxAttention(d, m, kappa=kappa)
        keys, values, query = (probe(*shape).double() for shape in case["input"])
        keys, query = (x / x.norm(dim=-1, keepdim=True) for x in (keys, query))
        output = model(query[None], keys, values)[0]
    assert_agrees(output, case, model)
