"""Loops that papers write themselves: interruption, early stopping, divergence, picks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from repertory.core.loops import Diverged, Loop, Picks, finite, finite_weights
from repertory.core.study import Session


def session(folder: Path, **options: Any) -> Session:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Session(3, folder, fabric=fabric, **{"keep_seconds": 0, **options})


class Walk:
    """A random walk of a weight: every epoch depends on chance, on the state before and on a plain value."""

    def __init__(self, here: Session, total: int, part: str = "", patience: int = 99, stop_at: int = -1) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, momentum=0.5)
        self.picks = Picks()
        self.loop = Loop(
            here,
            total,
            part=part,
            until=lambda: self.picks.stale("best") > patience,
            model=self.model,
            optimizer=self.optimizer,
            picks=self.picks,
        )
        self.loop.extra.setdefault("drawn", [])
        self.epochs: list[int] = []
        for epoch in self.loop:
            if epoch == stop_at:
                raise KeyboardInterrupt
            self.epochs.append(epoch)
            self.loop.extra["drawn"].append(torch.randn(()))
            loss = self.model(torch.randn(1, 1)).sum()
            self.loop.check(loss)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            weight = self.model.weight.item()
            self.picks.offer(epoch, {"best": weight, "last": epoch}, self.model.state_dict, weight=weight)
            self.loop.log(loss=loss.item())

    def outcome(self) -> Any:
        picked = {name: (step, self.picks.state(name)["weight"].item()) for name, step in self.picks.steps.items()}
        return self.model.weight.item(), picked, self.picks.history, [float(d) for d in self.loop.extra["drawn"]]


@pytest.fixture(params=["", "teacher"])
def part(request: pytest.FixtureRequest) -> str:
    return request.param


def scaled_walk(folder: Path, stop_at: int = -1) -> tuple[list[float], dict[str, Any]]:
    """Losses are scaled by a factor that doubles every two steps, and halves where a scaled gradient overflows."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=2)
    plugin = MixedPrecision(precision="16-mixed", device="cpu", scaler=scaler)
    here = Session(3, folder, fabric=Fabric(accelerator="cpu", devices=1, plugins=[plugin]), keep_seconds=0)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    model, optimizer = here.fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weights = []
    for epoch in Loop(here, 9, model=model, optimizer=optimizer):
        if epoch == stop_at:
            raise KeyboardInterrupt
        optimizer.zero_grad()
        here.fabric.backward(3e37 * model(torch.ones(1, 1)).float().sum())
        optimizer.step()  # skipped where 3e37 times the scale is infinite
        weights.append(model.weight.item())
    return weights, scaler.state_dict()


def test_the_loss_scale_is_resumed(tmp_path: Path) -> None:
    weights, scaling = scaled_walk(tmp_path / "whole")
    assert len(set(weights)) < len(weights), "no step was skipped"
    with pytest.raises(KeyboardInterrupt):
        scaled_walk(tmp_path / "cut", stop_at=5)
    resumed, scaling_then = scaled_walk(tmp_path / "cut")
    assert (resumed, scaling_then) == (weights[5:], scaling)


def test_an_interrupted_loop_ends_like_an_undisturbed_one(tmp_path: Path, part: str) -> None:
    whole = Walk(session(tmp_path / "whole"), 9, part)
    for stop in (0, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            Walk(session(tmp_path / "cut"), 9, part, stop_at=stop)
    resumed = Walk(session(tmp_path / "cut"), 9, part)
    assert resumed.epochs == [4, 5, 6, 7, 8]
    assert resumed.outcome() == whole.outcome()
    lines = [(folder / "metrics.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "cut")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == list(range(9))


def test_early_stopping_is_remembered_after_an_interruption(tmp_path: Path) -> None:
    whole = Walk(session(tmp_path / "whole"), 60, "a", patience=3)
    assert whole.picks.stale("best") == 4
    assert whole.loop.step < 60
    with pytest.raises(KeyboardInterrupt):
        Walk(session(tmp_path / "cut"), 60, "a", patience=3, stop_at=whole.loop.step - 2)
    resumed = Walk(session(tmp_path / "cut"), 60, "a", patience=3)
    assert resumed.outcome() == whole.outcome()
    assert Walk(session(tmp_path / "cut"), 60, "a", patience=3).epochs == [], "a loop that has ended takes no step"


def test_a_named_loop_keeps_its_end_however_short_it_was(tmp_path: Path) -> None:
    """Another loop follows: an interruption there must not repeat this one."""
    first = Walk(session(tmp_path, keep_seconds=1000), 5, "teacher")
    again = Walk(session(tmp_path, keep_seconds=1000), 5, "teacher")
    assert again.epochs == []
    assert again.outcome() == first.outcome()
    Walk(session(tmp_path / "plain", keep_seconds=1000), 5)
    assert not (tmp_path / "plain" / "resume").exists()


def test_chance_depends_on_seed_key_and_step_alone(tmp_path: Path) -> None:
    def drawn(folder: str, **options: Any) -> list[float]:
        return [torch.rand(()).item() for _ in Loop(session(tmp_path / folder), 4, **options)]

    assert drawn("a") == drawn("b", unit="epoch", part="", key=("", "epoch"))
    assert drawn("a") != drawn("c", part="teacher")
    assert len(set(drawn("d"))) == 4


def test_records_are_written_as_often_as_told(tmp_path: Path) -> None:
    loop = Loop(session(tmp_path), 7, part="p", log_every=3)
    for epoch in loop:
        loop.log(value=float(epoch))
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": step, "part": "p", "value": float(step)} for step in (0, 3, 6)
    ]


def test_a_dry_run_takes_two_steps(tmp_path: Path) -> None:
    loop = Loop(session(tmp_path, dry_run=True), 100)
    assert list(loop) == [0, 1]
    assert loop.step == 2


@pytest.mark.parametrize(("unit", "value"), [("epoch", math.nan), ("step", math.inf)])
def test_a_loss_that_is_not_finite_ends_the_loop_and_keeps_the_state_before(
    tmp_path: Path, unit: Any, value: float
) -> None:
    model = nn.Linear(1, 1)
    loop = Loop(session(tmp_path), 9, unit=unit, model=model)

    def train() -> None:
        for epoch in loop:
            model.weight.data.fill_(epoch)
            loop.check(value if epoch == 3 else 0.5)

    with pytest.raises(Diverged) as caught:
        train()
    assert caught.value.what == f"the loss is {value} at {unit} 3"
    assert caught.value.remedy
    session(tmp_path).resume(model=model)
    assert model.weight.item() == 2


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)

    def train() -> None:
        for epoch in Loop(session(tmp_path), 9, model=model):
            model.weight.data.fill_(math.nan if epoch == 3 else epoch)

    with pytest.raises(Diverged, match="the weights are no longer finite at epoch 3"):
        train()
    session(tmp_path).resume(model=model)
    assert model.weight.item() == 2


def test_a_finite_loss_is_returned_as_a_number() -> None:
    assert finite(torch.tensor(2.0, requires_grad=True), "at step 0") == 2.0
    with pytest.raises(Diverged, match="the loss is nan while adapting"):
        finite(math.nan, "while adapting")


# -- picks --------------------------------------------------------------------------------------


def offered(ties: Any, scores: list[float]) -> Picks:
    picks = Picks(ties)
    for step, score in enumerate(scores):
        picks.offer(step, {"best": score}, lambda step=step: {"step": torch.tensor(step)})
    return picks


@pytest.mark.parametrize(("ties", "step"), [("first", 1), ("last", 3)])
def test_ties_go_to_the_first_or_the_last(ties: str, step: int) -> None:
    picks = offered(ties, [1.0, 5.0, 3.0, 5.0, 2.0])
    assert picks.steps == {"best": step}
    assert picks.state("best")["step"] == step
    assert picks.stale("best") == 4 - step


def test_the_first_state_is_kept_whatever_its_score_and_nan_never_beats_a_number() -> None:
    assert offered("first", [-math.inf]).steps == {"best": 0}
    assert offered("first", [math.nan]).steps == {"best": 0}
    assert offered("last", [math.nan, 1.0, math.nan]).steps == {"best": 1}


def test_states_are_copies_and_are_made_only_when_picked() -> None:
    weight, calls = torch.zeros(2), []

    def state() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"w": weight}

    picks = Picks()
    for step, score in enumerate([1.0, 3.0, 2.0]):
        weight.fill_(step)
        picks.offer(step, {"best": score}, state)
    assert len(calls) == 2
    assert picks.state("best")["w"].tolist() == [1.0, 1.0]


def test_a_protocol_that_is_left_out_grows_stale() -> None:
    def offers() -> Iterator[dict[str, float]]:
        yield {"a": 1.0, "b": 1.0}
        yield {"b": 2.0}
        yield {"b": 3.0}

    picks = Picks()
    assert picks.stale("a") == 0
    for step, scores in enumerate(offers()):
        picks.offer(step, scores, dict, loss=float(-step))
    assert (picks.stale("a"), picks.stale("b")) == (2, 0)
    assert picks.history == [{"step": step, "loss": -step} for step in range(3)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_are_finite_or_not_also_where_their_sum_is_not(bad: float) -> None:
    model = nn.Linear(3, 1)
    assert finite_weights(model)
    model.weight.data.fill_(3e38)
    assert finite_weights(model)
    model.bias.data.fill_(bad)
    assert not finite_weights(model)
    model.weight.data.copy_(torch.tensor([[math.inf, -math.inf, 0.0]]))
    model.bias.data.zero_()
    assert not finite_weights(model)
