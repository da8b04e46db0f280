"""Second-order pooling: against explicit formulas, gradients in double precision, degenerate matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from repertory.nn.second_order import (
    UpperTriangle,
    covariance,
    cross_covariance,
    newton_schulz_sqrt,
    singular_power,
    symmetric_power,
)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def positive(x: Tensor) -> Tensor:
    return x @ x.mT / x.shape[-1]


# -- covariances --------------------------------------------------------------------------------


def test_covariance_is_that_of_the_centring_matrix() -> None:
    x = doubles(3, 20, 5)
    centring = (torch.eye(20) - torch.full((20, 20), 1 / 20)).double()
    torch.testing.assert_close(covariance(x), x.mT @ centring @ x / 20)


@pytest.mark.parametrize("center", ["channel", "matrix"])
def test_cross_covariance_by_the_definition(center: Any) -> None:
    q, r = doubles(2, 7, 3), doubles(2, 7, 4, seed=1)
    found = cross_covariance(q, r, center=center)
    for b in range(2):
        means = (q[b].mean(0), r[b].mean(0)) if center == "channel" else (q[b].mean(), r[b].mean())
        expected = sum(torch.outer(q[b, t] - means[0], r[b, t] - means[1]) for t in range(7)) / 7
        torch.testing.assert_close(found[b], expected)


@pytest.mark.parametrize("center", ["channel", "matrix"])
def test_masked_observations_do_not_count(center: Any) -> None:
    q, r = doubles(2, 7, 3), doubles(2, 7, 4, seed=1)
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    found = cross_covariance(q, r, mask, center=center)
    torch.testing.assert_close(found[0], cross_covariance(q[0, :4], r[0, :4], center=center))
    torch.testing.assert_close(found[1], cross_covariance(q[1], r[1], center=center))
    assert not cross_covariance(q, r, torch.zeros(2, 7, dtype=torch.bool), center=center).any()


def test_half_precision_is_widened_also_under_autocast() -> None:
    x = torch.randn(2, 9, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        p = covariance(x)
        root = newton_schulz_sqrt(p)
    assert p.dtype == root.dtype == torch.float32
    torch.testing.assert_close(p, covariance(x.float()))


# -- powers -------------------------------------------------------------------------------------


def test_newton_schulz_converges_to_the_root() -> None:
    p = positive(doubles(2, 6, 40))
    torch.testing.assert_close(newton_schulz_sqrt(p, 20, eps=0), symmetric_power(p), rtol=1e-8, atol=1e-10)


def test_newton_schulz_by_the_plain_recursion() -> None:
    p = positive(doubles(2, 6, 8))
    trace = p.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
    for iterations in (1, 2, 3, 5):
        y, z = p / (trace + 1e-5), torch.eye(6).double()
        for _ in range(iterations):
            q = 0.5 * (3 * torch.eye(6).double() - z @ y)
            y, z = y @ q, q @ z
        torch.testing.assert_close(newton_schulz_sqrt(p, iterations), trace.sqrt() * y)


def test_exact_powers_by_numpy_like_formulas() -> None:
    p, x = positive(doubles(3, 5, 9)), doubles(3, 5, 4, seed=2)
    torch.testing.assert_close(symmetric_power(p) @ symmetric_power(p), p)
    torch.testing.assert_close(symmetric_power(p, 1.0), p)
    torch.testing.assert_close(singular_power(x, 1.0), x)
    torch.testing.assert_close(torch.linalg.svdvals(singular_power(x, 0.3)), torch.linalg.svdvals(x) ** 0.3)


@pytest.mark.parametrize("iterations", [1, 3])
def test_gradients_of_the_iteration(iterations: int) -> None:
    assert gradcheck(lambda x: newton_schulz_sqrt(positive(x), iterations), doubles(2, 4, 7))


@pytest.mark.parametrize(
    "function",
    [lambda x: covariance(x), lambda x: cross_covariance(x, 2 * x, torch.ones(2, 4) > 0, center="matrix")],
)
def test_gradients_of_covariances(function: Callable[[Tensor], Tensor]) -> None:
    assert gradcheck(function, doubles(2, 4, 3))


@pytest.mark.parametrize("alpha", [0.5, 0.3])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_gradients_of_singular_powers(shape: tuple[int, int], alpha: float) -> None:
    assert gradcheck(lambda x: singular_power(x, alpha), doubles(2, *shape))


def test_gradients_of_symmetric_powers() -> None:
    assert gradcheck(lambda x: symmetric_power(positive(x)), doubles(2, 4, 7))


def test_gradients_agree_with_those_of_torch_where_these_are_sound() -> None:
    x, weight = doubles(2, 5, 4), doubles(2, 5, 4, seed=3).detach()
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    (expected,) = torch.autograd.grad(((u * s.sqrt().unsqueeze(-2)) @ vh * weight).sum(), x)
    (found,) = torch.autograd.grad((singular_power(x) * weight).sum(), x)
    torch.testing.assert_close(found, expected)


def test_equal_singular_values_have_the_limit_of_nearby_gradients() -> None:
    """torch's own gradient is not finite there."""
    weight = torch.arange(16.0, dtype=torch.float64).view(4, 4)
    same = torch.eye(4, dtype=torch.float64).requires_grad_()
    near = torch.diag(torch.tensor([1.0, 1.01, 1.02, 1.03], dtype=torch.float64)).requires_grad_()
    for power in (singular_power, symmetric_power):
        at, beside = (torch.autograd.grad((power(x) * weight).sum(), x)[0] for x in (same, near))
        torch.testing.assert_close(at, beside, rtol=0.03, atol=0.05)
    u, s, vh = torch.linalg.svd(same)
    (torchs,) = torch.autograd.grad(((u * s.sqrt()) @ vh * weight).sum(), same)
    assert not torchs.isfinite().all()


@pytest.mark.parametrize("power", [newton_schulz_sqrt, singular_power, symmetric_power])
def test_matrices_of_zeros_have_finite_gradients(power: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(2, 3, 3, requires_grad=True)
    out = power(x)
    out.sum().backward()
    assert out.abs().max() < 1e-5
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        newton_schulz_sqrt(torch.eye(2), 0)


# -- storage ------------------------------------------------------------------------------------


def test_triangles_are_row_major_and_come_back() -> None:
    triangle = UpperTriangle(4)
    x = positive(doubles(2, 3, 4, 4))
    rows = [x[..., i, j] for i in range(4) for j in range(i, 4)]
    assert torch.equal(triangle(x), torch.stack(rows, -1))
    torch.testing.assert_close(triangle.matrix(triangle(x)), x)
    assert (triangle.length, triangle.state_dict()) == (10, {})
    assert gradcheck(triangle, doubles(2, 4, 4))


def test_everything_compiles_whole() -> None:
    triangle = UpperTriangle(4)

    def pooled(x: Tensor) -> Tensor:
        return triangle(newton_schulz_sqrt(covariance(x)))

    x = torch.randn(2, 9, 4)
    torch.testing.assert_close(torch.compile(pooled, fullgraph=True, backend="eager")(x), pooled(x))
    assert torch.export.export(Pooled(), (x,)).module()(x).shape == (2, 10)


class Pooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.triangle = UpperTriangle(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.triangle(newton_schulz_sqrt(covariance(x)))
