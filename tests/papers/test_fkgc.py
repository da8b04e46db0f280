"""FKGC: fidelity of the four matchers, fast paths against plain ones, and what the losses are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from repertory.papers.fkgc.metar import MetaR
from repertory.papers.fkgc.metric import FAAN, FSRL, GMatching, Hood, Pairs, sinusoids
from tests.fidelity.cases import assert_agrees, cases
from tests.fidelity.fill import fill_

# -- fidelity ---------------------------------------------------------------------------------------


def pairs_of(rows: int, shift: int, meta: int, c: dict[str, Any]) -> Pairs:
    """The pairs and neighbourhoods of the reference cases."""
    b = torch.arange(rows)
    head, tail = c["R"] + (7 * b + shift) % c["E"], c["R"] + (5 * b + 2 * shift + 1) % c["E"]
    return Pairs(hood_of(head, meta, c), hood_of(tail, meta + 1, c))


def hood_of(entity: Tensor, o: int, c: dict[str, Any]) -> Hood:
    b, j = torch.arange(len(entity))[:, None], torch.arange(c["M"])[None]
    degree = 1 + (3 * b + o) % c["M"]
    slots = torch.stack([(5 * b + 2 * j + o) % c["R"], c["R"] + (7 * b + 3 * j + 2 * o) % c["E"]], dim=-1)
    slots[(j >= degree).expand(slots.shape[:2])] = c["num_symbols"]
    return Hood(entity, slots, degree[:, 0])


def metar_pairs(batch: int, count: int, o: int) -> Tensor:
    b, j = torch.arange(batch)[:, None], torch.arange(count)[None]
    return torch.stack([(7 * b + 3 * j + o) % 23, (5 * b + 2 * j + 2 * o + 1) % 23], dim=-1)


def unused(method: str, dim: int) -> int:
    """Parameters that the release defines and never reads; those of FSRL at D = 100."""
    return {"gmatching": dim, "fsrl": 402_200, "faan": 2 * dim * dim + 2 * dim + 4 * dim, "metar": 0}[method]


@pytest.mark.parametrize("case", cases("fkgc"))
def test_agrees_with_the_released_code(case: dict[str, Any]) -> None:
    c, (name, _, what) = case["config"], case["name"].partition("/")
    method = name.partition("_")[0]
    model: Any
    with torch.no_grad():
        if method == "metar":
            model = fill_(MetaR(c["num_ent"], c["embed_dim"], c["few"], beta=c["beta"], margin=c["margin"])).eval()
            few, queries = c["few"], c["num_query"]
            batch = [metar_pairs(c["batch"], count, o) for count, o in ((few, 1), (few, 2), (queries, 3), (queries, 4))]
            positive, wrong, _ = model(*batch)
            outputs = {"p_score": positive, "n_score": wrong, "loss": model.query_loss(positive, wrong)[None]}
        else:
            query, support = pairs_of(c["B"], 3, 2, c), pairs_of(c["few"], 1, 4, c)
            if method == "faan":
                model = FAAN(c["num_symbols"], c["embed_dim"], layers=c["layers"], heads=c["heads"])
            else:
                kind = GMatching if method == "gmatching" else FSRL
                model = kind(c["num_symbols"], c["embed_dim"], steps=c["process_steps"])
            fill_(model).eval()
            if method == "faan":
                model.relation.positions.copy_(sinusoids(3, c["embed_dim"]))
            outputs = {"": model(query, support), "scores": model(query, support)}
            if method == "fsrl":
                g, loss = model.aggregate(model.pairs(support))
                outputs |= {"support": g, "ae_loss": loss[None]}
    if method == "faan":  # the scores differ by less than float32 resolves of their spread
        expected = case["output"]["values"]
        assert outputs[what].tolist() == pytest.approx(expected, abs=1e-4)
    else:
        assert_agrees(outputs[what], case)
    assert sum(p.numel() for p in model.parameters()) + unused(method, c["embed_dim"]) == case["params"]
