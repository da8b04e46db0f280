"""Batch norms of two processes are that of one with the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from repertory.core.batchnorm import over_processes, plain_norms
from repertory.core.settings import Recipe
from repertory.core.study import Session
from repertory.core.training import fit
from tests.core.test_training import Numbers


def network() -> nn.Sequential:
    """Norms of every kind: with and without weights, without statistics, with an average over all batches."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 3, 3),
        nn.BatchNorm2d(3, momentum=None),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(12, track_running_stats=False),
        nn.Linear(12, 4),
    ]
    return nn.Sequential(*layers)


def passed(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Weights, statistics and outputs after two steps down, on batches of one size."""
    outputs = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        out = model(x * (1 + step))
        loss = nn.functional.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
        optimizer.step()
        outputs[f"out{step}"] = out.detach()
    return outputs | model.state_dict()


def test_two_processes_give_the_numbers_of_one() -> None:
    torch.manual_seed(1)
    x, y = 3 + 2 * torch.randn(6, 2, 8, 8), torch.arange(6) % 4
    alone = passed(network(), x, y)

    def halves(fabric: Fabric) -> list[Any]:
        model, rank = network(), fabric.global_rank
        with over_processes(model, 2):
            mine = passed(model, x[3 * rank : 3 * rank + 3], y[3 * rank : 3 * rank + 3])
        mine["after"] = model.eval()(x).detach()
        gathered: list[Any] = [None, None]
        torch.distributed.all_gather_object(gathered, {name: tensor.numpy() for name, tensor in mine.items()})
        return gathered

    first, second = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(halves)
    np.testing.assert_array_equal(first.pop("after"), second.pop("after"))
    for name, expected in alone.items():
        found = np.concatenate([first[name], second[name]]) if name.startswith("out") else first[name]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_process_and_evaluation_use_the_plain_norm() -> None:
    model = network()
    with over_processes(model, 1):
        assert not any("forward" in vars(module) for module in model.modules())
    with over_processes(model.eval(), 2):
        x = torch.randn(2, 2, 8, 8)
        torch.testing.assert_close(model[:4](x), copy.deepcopy(network()).eval()[:4](x))
    assert not any("forward" in vars(module) for module in model.modules())
    assert len(plain_norms(model)) == 4


class Own(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def test_norms_with_a_forward_pass_of_their_own_are_left_alone() -> None:
    assert plain_norms(nn.Sequential(Own(2))) == []


class Regression(nn.Module):
    """Numbers -> one output, through a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, None])[:, 0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fit_in_two_processes_is_fit_with_twice_the_batch(tmp_path: Path, accumulate: int) -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - batch.sin()).square().mean()

    def fitted(fabric: Fabric, batch: int) -> dict[str, np.ndarray]:
        recipe = Recipe(optimizer="momentum", lr=0.05, epochs=2, batch_size=batch, accumulate=accumulate)
        here = Session(0, tmp_path / f"{fabric.world_size}", fabric=fabric)
        trained = fit(here, Regression(), Numbers(24), recipe, loss)
        return {name: tensor.numpy() for name, tensor in trained.state_dict().items()}

    two = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(lambda fabric: fitted(fabric, 3))
    one = fitted(Fabric(accelerator="cpu", devices=1), 6)
    for name, expected in one.items():
        np.testing.assert_allclose(two[name], expected, rtol=1e-9, err_msg=name)
