"""ASCEND: the exact U-ViT and its samplers, the reconstructed encoder-decoder, the study."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repertory.papers.ascend import SCHEDULES, VARIANTS, UViT, euler
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_, probe

LINEAR = SCHEDULES["linear"]


@pytest.mark.parametrize("case", cases("ascend"))
def test_outputs_are_those_of_the_authors_code(case: dict[str, Any]) -> None:
    model = fill_(UViT(**case["config"]).eval())
    given = case["input"]
    with torch.no_grad():
        if "x" in given:
            y = None if given["y"] is None else torch.tensor(given["y"])
            output = model(probe(*given["x"]), torch.tensor(given["timesteps"]), y)
        else:
            t = torch.tensor(case["t"])
            torch.testing.assert_close(LINEAR.alpha_bar(t), torch.tensor(case["cum_alpha"]))
            torch.testing.assert_close(LINEAR.beta(t), torch.tensor(case["squared_diffusion"]))
            # The reference subtracts in float32, which costs it half a per mille at t = 0.001.
            torch.testing.assert_close(LINEAR.snr(t), torch.tensor(case["snr"]), rtol=1e-3, atol=0)
            x = probe(*given["x_init"])
            *_, output = euler(
                lambda x, t: model(x, 999 * t.expand(len(x))), x, given["sample_steps"], LINEAR, ode=True
            )
    assert_agrees(output, case, model)


@pytest.mark.parametrize(("variant", "count"), list(zip(VARIANTS, (44_255_328, 44_292_228, 130_940_292), strict=True)))
def test_published_sizes(variant: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UViT(**VARIANTS[variant]).parameters()) == count
