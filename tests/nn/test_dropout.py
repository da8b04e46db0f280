"""Dropout."""

from __future__ import annotations

import pytest
import torch

from repertory.nn.dropout import Dropout, dropout, dropped_linear


def test_values_are_dropped_at_the_rate_and_the_others_scaled() -> None:
    torch.manual_seed(0)
    x = torch.ones(200_000)
    y = dropout(x, 0.3)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.01)


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    layer = Dropout(0.9).eval()
    assert layer(x) is x


def test_gradients_go_where_values_went() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_linear_layer_on_dropout_is_the_two_one_after_the_other(autocast: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(50, 8), torch.randn(3, 8), torch.randn(3)

    def run(together: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        with torch.autocast("cpu", enabled=autocast):
            y = (
                dropped_linear(*inputs, p=0.4)
                if together
                else torch.nn.functional.linear(dropout(inputs[0], 0.4), *inputs[1:])
            )
        return [y, *torch.autograd.grad(y.float().square().sum(), inputs)]

    for one, other in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(
        dropped_linear(x, weight, bias, 0.4, training=False), torch.nn.functional.linear(x, weight, bias)
    )
