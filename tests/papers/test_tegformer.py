"""tegformer: fidelity and network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repertory.papers.tegformer.model import TegFormer, smoothed_loss
from repertory.tasks.language import small_gpt2
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import digest, fill_


def reference(case: dict[str, Any]) -> TegFormer:
    """The network of a reference case, filled."""
    c = case["config"]
    model = TegFormer(
        c["V"], c["T"], c["K"], small_gpt2(c["V"], c["G"], c["gl"], c["gh"], c["npos"]), d=c["D"], ff=c["FF"],
        heads=c["H"], encoder_layers=c["EN"], decoder_layers=c["DN"], domain=c["E"],
    )  # fmt: skip
    for topic in range(c["T"]):
        count = min(8, (7 * topic + c["seed_rel"]) % 9)
        words = [(5 * topic + 3 * j + c["seed_rel"]) % c["K"] for j in range(count)]
        model.neighbours[topic, :count] = torch.tensor(words, dtype=torch.long)
    return fill_(model).eval()


@pytest.mark.parametrize("case", cases("tegformer"))
def test_agrees_with_the_authors_code(case: dict[str, Any]) -> None:
    model = reference(case)
    topics, mask, ids, gold = (torch.tensor(case["input"][name]) for name in ("src", "src_mask", "trg", "trg_y"))
    memory = model.encode(topics, mask.bool())
    assert digest(memory)["values"] == pytest.approx(case["encoder_memory"]["values"], rel=1e-4, abs=1e-5)
    log_probabilities = model(topics, mask.bool(), ids)
    assert_agrees(log_probabilities, case, model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == case["trainable_params"]
    assert int((gold != 0).sum()) == case["n_tokens"]
    assert smoothed_loss(log_probabilities, gold).item() == pytest.approx(case["loss_sum"], rel=1e-5)
