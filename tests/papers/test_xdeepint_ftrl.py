"""The combined optimiser: by hand, sparse against dense, the first step, and what it does not touch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.papers.xdeepint.ftrl import FTRL, GroupFTRL, Proximal, lazy_zeros
from repertory.papers.xdeepint.model import Tables
from tests.fidelity.fill import probe

KINDS: dict[str, Any] = {
    "gftrl": lambda params, **options: GroupFTRL(params, alpha=0.1, beta=1, l1=0.4, l2=0.1, **options),
    "ftrl": lambda params, **options: FTRL(params, alpha=0.1, l1=0.3, l2=0.1, **options),
}


def gradients(steps: int, rows: int, dim: int, seed: int = 0) -> list[Tensor]:
    """Gradients in which most rows are zero, others from step to step."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(steps, rows, dim, generator=generator)
    return list(found * (torch.rand(steps, rows, 1, generator=generator) < 0.3))


def run(optimizer: Proximal, weight: nn.Parameter, grads: list[Tensor], sparse: bool) -> list[Tensor]:
    states = []
    for grad in grads:
        rows = grad.abs().sum(1).nonzero()[:, 0]
        weight.grad = torch.sparse_coo_tensor(rows[None], grad[rows], grad.shape) if sparse else grad
        optimizer.step()
        states.append(weight.detach().clone())
    return states


def test_two_steps_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[0.5, -0.2]]))
    optimizer = GroupFTRL([weight], alpha=0.1, beta=1, l1=0.5, l2=0.2)
    w, n, z = [0.5, -0.2], [0.0, 0.0], [0.0, 0.0]
    for g in ([0.6, 0.3], [-2.0, 0.5]):
        weight.grad = torch.tensor([g])
        optimizer.step()
        for k in range(2):
            sigma = (math.sqrt(n[k] + g[k] ** 2) - math.sqrt(n[k])) / 0.1
            z[k] += g[k] - sigma * w[k]
            n[k] += g[k] ** 2
        norm, threshold = math.hypot(*z), 0.5 * math.sqrt(2)
        w = [
            0.0 if norm <= threshold else z[k] * (threshold / norm - 1) / ((1 + math.sqrt(n[k])) / 0.1 + 0.2)
            for k in range(2)
        ]
        assert weight[0].tolist() == pytest.approx(w, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_is_dense(kind: str) -> None:
    grads = gradients(12, 40, 3)
    start = probe(40, 3)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    dense = run(KINDS[kind]([a]), a, grads, sparse=False)
    sparse = run(KINDS[kind]([b]), b, grads, sparse=True)
    for wanted, found in zip(dense, sparse, strict=True):
        torch.testing.assert_close(found, wanted)
    assert 0 < (dense[-1] == 0).float().mean() < 1
    quiet = (grads[0] == 0).all(1)
    assert (sparse[0][quiet] == 0).all(), "the first step zeroes rows without a gradient"


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_start_touches_the_rows_of_the_batch_alone(kind: str) -> None:
    """With a start that is zero outside the first batch it is the dense update; and other rows are never written to."""
    grads = gradients(12, 40, 3)
    start = probe(40, 3)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start * (grads[0] != 0).any(1, keepdim=True))
    dense = run(KINDS[kind]([a]), a, grads, sparse=False)
    sparse = run(KINDS[kind]([b], zero_start=True), b, grads, sparse=True)
    for wanted, found in zip(dense, sparse, strict=True):
        torch.testing.assert_close(found, wanted)
    marked = nn.Parameter(start.clone())
    optimizer = KINDS[kind]([marked], zero_start=True)
    seen = torch.zeros(40, dtype=torch.bool)
    for grad in grads[:3]:
        run(optimizer, marked, [grad], sparse=True)
        seen |= (grad != 0).any(1)
        assert torch.equal(marked[~seen], start[~seen]), "rows outside the batches are as they were"


def test_rows_that_come_twice_are_added_up() -> None:
    a, b = nn.Parameter(probe(5, 2)), nn.Parameter(probe(5, 2))
    one, other = KINDS["gftrl"]([a]), KINDS["gftrl"]([b])
    values = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    a.grad = torch.sparse_coo_tensor(torch.tensor([[1, 3, 1]]), values, (5, 2))
    b.grad = a.grad.to_dense()
    one.step()
    other.step()
    torch.testing.assert_close(a, b)


def test_tables_start_with_the_values_of_the_first_batch() -> None:
    torch.manual_seed(0)
    tables = Tables([10, 10], 4)
    before = tables.weight.detach().clone()
    ids = torch.tensor([[1, 2], [3, 2], [0, 11]])
    parameter = tables.weight
    tables.start(ids)
    assert tables.weight is parameter
    rows = tables.rows(ids).unique()
    assert rows.tolist() == [0, 1, 3, 12]
    assert torch.equal(tables.weight[rows], before[rows])
    assert (tables.weight == 0).all(1).sum() == 21 - 3


def test_it_stops_and_goes_on() -> None:
    grads = gradients(6, 10, 2)
    a = nn.Parameter(probe(10, 2))
    whole = run(KINDS["gftrl"]([a]), a, grads, sparse=True)
    b = nn.Parameter(probe(10, 2))
    first = KINDS["gftrl"]([b])
    run(first, b, grads[:3], sparse=True)
    saved = copy.deepcopy(first.state_dict())
    second = KINDS["gftrl"]([b])
    second.load_state_dict(saved)
    torch.testing.assert_close(run(second, b, grads[3:], sparse=True)[-1], whole[-1])


def test_zeros_are_zeros() -> None:
    for like in (torch.ones(3, 2), torch.ones(3, 2, dtype=torch.float64), torch.ones(3, dtype=torch.bfloat16)):
        zeros = lazy_zeros(like)
        assert (zeros.shape, zeros.dtype) == (like.shape, like.dtype)
        assert not zeros.any()


def test_a_closure_and_groups() -> None:
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = FTRL([{"params": [a]}, {"params": [b], "l1": 1e6}], alpha=0.1, l1=0.0)

    def closure() -> Tensor:
        loss = (a * torch.tensor([1.0, 2.0, 3.0]) + b).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9  # pyright: ignore[reportOptionalMemberAccess]
    assert (a != 0).all()
    assert (b == 0).all()


def test_bad_arguments_are_named() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(Problem, match="l1 is -1"):
        GroupFTRL([weight], l1=-1)
    with pytest.raises(Problem, match="alpha is 0"):
        FTRL([weight], alpha=0)
    with pytest.raises(Problem, match="accumulator is 0"):
        FTRL([weight], accumulator=0)
    with pytest.raises(Problem, match=r"a parameter of shape \(3,\)"):
        GroupFTRL([nn.Parameter(torch.ones(3))])
