"""Surrogates, the LIF scan against the unrolled graph, tdBN, the convolutional net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from repertory.core.problem import Problem
from repertory.nn import spiking
from repertory.nn.spiking import (
    LIF,
    Atan,
    Gate,
    Rectangle,
    ReLULike,
    Sigmoid,
    SpikingConvNet,
    Stbp,
    Stca,
    StraightThrough,
    Surrogate,
    ThresholdBatchNorm2d,
    Triangle,
    Window,
    lif,
    spike,
    tet_loss,
)

ALL = [
    Stca(),
    Stbp(),
    Atan(),
    Sigmoid(),
    Rectangle(),
    Window(0.3),
    Gate(2.0),
    Triangle(),
    ReLULike(),
    StraightThrough(),
]


def unrolled(
    current: Tensor, decay: Tensor | float, threshold: float, surrogate: Surrogate, v_reset: float, v: Tensor
) -> tuple[Tensor, Tensor]:
    spikes, potentials = [], []
    for now in current:
        u = decay * v + now
        fired = spike(u - threshold, surrogate)
        v = u * (1 - fired) + v_reset * fired
        spikes.append(fired)
        potentials.append(v)
    return torch.stack(spikes), torch.stack(potentials)


@pytest.mark.parametrize("surrogate", ALL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("v_reset", [0.0, -0.25])
def test_the_scan_is_the_unrolled_graph(surrogate: Surrogate, v_reset: float) -> None:
    torch.manual_seed(0)
    current = torch.rand(9, 3, 5, dtype=torch.float64).requires_grad_()
    decay = torch.rand(5, dtype=torch.float64).requires_grad_()
    v0 = torch.rand(3, 5, dtype=torch.float64).requires_grad_()
    ours = lif(current, decay, 0.8, surrogate, v_reset=v_reset, v0=v0)
    theirs = unrolled(current, decay, 0.8, surrogate, v_reset, v0)
    weights = torch.randn(2, 9, 3, 5, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((s * weights[0]).sum() + (v * weights[1]).sum(), (current, decay, v0))
        for s, v in (ours, theirs)
    ]
    assert ours[0].sum() > 0
    for mine, reference in zip([*ours, *gradients[0]], [*theirs, *gradients[1]], strict=True):
        torch.testing.assert_close(mine, reference)


def test_one_gradient_at_a_time() -> None:
    current = torch.rand(6, 4).requires_grad_()
    for part in (0, 1):
        ours = torch.autograd.grad(lif(current, 0.5)[part].square().sum(), current)[0]
        theirs = torch.autograd.grad(
            unrolled(current, 0.5, 1.0, Atan(), 0.0, torch.zeros(4))[part].square().sum(), current
        )[0]
        torch.testing.assert_close(ours, theirs)


def test_the_scan_can_be_mapped() -> None:
    current, decay, v0 = torch.rand(6, 2, 3, 4), torch.rand(2, 4), torch.rand(2, 4)
    mapped = torch.vmap(lambda c, d, v: lif(c, d, v0=v)[0], in_dims=(1, 0, 0), out_dims=1)(current, decay, v0)
    for k in range(2):
        torch.testing.assert_close(mapped[:, k], lif(current[:, k], decay[k], v0=v0[k])[0])
    shared = torch.vmap(lambda d: lif(current[:, 0], d)[1])(decay)
    torch.testing.assert_close(shared[1], lif(current[:, 0], decay[1])[1])


def test_surrogates_have_the_area_they_claim() -> None:
    x = torch.linspace(-200, 200, 400_001, dtype=torch.float64)
    areas = {type(s).__name__: float(torch.trapezoid(s.derivative(x), x)) for s in ALL[:8]}
    assert areas == pytest.approx(
        {"Stca": 1, "Stbp": 0.5642, "Atan": 1, "Sigmoid": 1, "Rectangle": 4, "Window": 1, "Gate": 1, "Triangle": 1},
        abs=0.01,
    )


@pytest.mark.parametrize("surrogate", ALL, ids=lambda s: type(s).__name__)
def test_the_threshold_itself(surrogate: Surrogate) -> None:
    assert spike(torch.zeros(1), surrogate).item() == lif(torch.ones(1, 1), 0.5, 1.0, surrogate)[0].item()
    assert bool(spike(torch.zeros(1), surrogate)) == surrogate.inclusive


def test_tdbn_is_batchnorm_with_a_scale() -> None:
    x = torch.randn(4, 3, 5, 6, 7)
    ours, plain = ThresholdBatchNorm2d(5, threshold=0.3, alpha=0.5), nn.BatchNorm2d(5)
    torch.testing.assert_close(ours(x), plain(x.flatten(0, 1)).unflatten(0, (4, 3)) * 0.15)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x.flatten(0, 1)).unflatten(0, (4, 3)) * 0.15)


def test_the_nets_of_the_table() -> None:
    light = SpikingConvNet("lightweight", 2, (48, 48), 10)
    assert sum(p.numel() for p in light.parameters()) == 1_132_618
    out = SpikingConvNet("vggsnn", 2, (16, 16), 10)(torch.rand(2, 1, 2, 16, 16))
    assert out.shape == (2, 1, 10)
    assert sum(isinstance(layer, LIF) for layer in light) == 5


def test_tet_is_the_mean_over_time() -> None:
    logits, labels = torch.randn(4, 3, 5), torch.tensor([1, 0, 4])
    each = torch.stack([nn.functional.cross_entropy(step, labels) for step in logits])
    torch.testing.assert_close(tet_loss(logits, labels), each.mean())
    assert spiking.over_time(nn.Flatten(), torch.zeros(2, 3, 4, 5)).shape == (2, 3, 20)


@pytest.mark.parametrize("plan", ["", "8C3-APx", "8C3-XX", "8C3-AP", "C3-AP2", "0C3", "8C3-AP0", "8C3--AP2"])
def test_a_bad_plan_is_named(plan: str) -> None:
    with pytest.raises(Problem, match=r"(?s)is not a layer.*give layers such as"):
        SpikingConvNet(plan, 2, (8, 8), 3)


def test_inputs_of_another_shape_and_an_empty_batch() -> None:
    net = SpikingConvNet("4C3-AP2", 2, (8, 8), 3)
    assert net(torch.zeros(5, 0, 2, 8, 8)).shape == (5, 0, 3)
    for shape in ((5, 1, 3, 8, 8), (1, 2, 8, 8), (5, 1, 2, 4, 8)):
        with pytest.raises(Problem, match=r"(?s)an input of shape.*give \(T, B, 2, 8, 8\)"):
            net(torch.zeros(shape))
    with pytest.raises(Problem, match="pools 8 x 8 pixels to nothing"):
        SpikingConvNet("4C3-AP16", 2, (8, 8), 3)
