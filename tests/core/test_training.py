"""The supervised loop, against hand computations, and against itself after interruptions."""

from __future__ import annotations

import math
import multiprocessing
import random
import re
import warnings
from collections.abc import Callable, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate

from repertory.core import training
from repertory.core.loops import Diverged
from repertory.core.problem import Problem
from repertory.core.study import Session
from repertory.core.training import LOG_EVERY, Recipe, _Seeded, fit, loader, unreachable, warn_of_processes
from repertory.core.training import draws as draws_
from tests.core.test_study import draws, records, scalars
from tests.toy import Rings, ToyNet, cross_entropy

PLAIN = Recipe(optimizer="momentum", momentum=0.0, schedule="constant", lr=0.1, batch_size=2, epochs=1)
"""Plain gradient descent."""


def session(folder: Path, seed: int = 0, **options: Any) -> Session:
    return Session(seed, folder, **{"keep_seconds": 0.0, **options})


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**PLAIN.model_dump(), **changes})


class Numbers(Dataset[Tensor]):
    """0, 1, 2, ... in double precision."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(float(index), dtype=torch.float64)


class Weights(nn.Module):
    """A few weights, which are the output whatever the input: with their sum as loss, each step goes down by lr."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w


def falling(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).sum()


def trace(folder: Path, how: Recipe, size: int = 8, **options: Any) -> list[float]:
    """The value of one weight that falls by the learning rate, before each step."""
    seen: list[float] = []

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(model(batch).item())
        return falling(model, batch)

    fit(session(folder, **options), Weights(0.0), Numbers(size), how, watched)
    return seen


# -- learning rates -----------------------------------------------------------------------------

STEPS, WARM, TOP, BOTTOM = 20, 4, 0.1, 0.01


def warm(t: int) -> float:
    return 1e-6 + (TOP - 1e-6) * t / WARM


def cosine(t: int) -> float:
    return BOTTOM + 0.5 * (TOP - BOTTOM) * (1 + math.cos(math.pi * t / STEPS))


def one_cycle(t: int) -> float:
    """Up over 30 % of the steps from a 25th, down to a 250,000th, both along a cosine."""
    peak = 0.3 * STEPS - 1
    start, end, part = (TOP / 25, TOP, t / peak) if t <= peak else (TOP, TOP / 25e4, (t - peak) / (STEPS - 1 - peak))
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * part))


def falls(weights: list[float]) -> list[float]:
    return [before - after for before, after in pairwise(weights)]


SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant": lambda t: TOP,
    "cosine": cosine,
    "poly": lambda t: BOTTOM + (TOP - BOTTOM) * (1 - t / STEPS) ** 0.9,
    "step": lambda t: TOP * 0.5 ** (t // 8),
    "onecycle": one_cycle,
}


@pytest.mark.parametrize("warmup", [0, WARM])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_of_every_step(tmp_path: Path, name: str, warmup: int) -> None:
    """One step an epoch, each recorded."""
    rest = {"warmup_epochs": warmup, "decay_epochs": 8, "decay_rate": 0.5, "power": 0.9}
    weights = trace(tmp_path, recipe(schedule=name, lr=TOP, min_lr=BOTTOM, epochs=STEPS, **rest), size=2)
    warming = 0 if name == "onecycle" else warmup
    expected = [warm(t) if t < warming else SCHEDULES[name](t) for t in range(STEPS)]
    assert [r["lr"] for r in records(tmp_path)] == pytest.approx(expected, rel=1e-9)
    if name != "onecycle":  # which cycles the momentum too
        assert falls(weights) == pytest.approx(expected[:-1], rel=1e-9)


def test_warm_up_and_decay_are_counted_in_epochs(tmp_path: Path) -> None:
    """Four steps an epoch: the warm-up takes 2, the rate halves after 6, and again after 12."""
    how = recipe(schedule="step", warmup_epochs=0.5, warmup_lr=0, decay_epochs=1.5, decay_rate=0.5, epochs=4)
    assert falls(trace(tmp_path, how)) == pytest.approx([0, 0.05] + [0.1] * 4 + [0.05] * 6 + [0.025] * 3)


def test_decays_at_milestones(tmp_path: Path) -> None:
    """Four steps an epoch; behind epochs 1 and 2.5 the rate halves."""
    how = recipe(schedule="step", milestones=(2.5, 1), warmup_epochs=0.25, warmup_lr=0, decay_rate=0.5, epochs=4)
    assert falls(trace(tmp_path, how)) == pytest.approx([0] + [0.1] * 3 + [0.05] * 6 + [0.025] * 5)


def test_the_schedule_of_emo(tmp_path: Path) -> None:
    """300 epochs of which 20 warm up from 1e-6, then a cosine whose time runs from step 0, down to 1e-5."""
    how = recipe(schedule="cosine", lr=6e-3, min_lr=1e-5, warmup_epochs=20, warmup_lr=1e-6, epochs=300)
    weights = trace(tmp_path, how, size=2)  # one step an epoch
    rate = falls(weights)
    assert rate[0] == pytest.approx(1e-6)
    assert rate[10] == pytest.approx(1e-6 + 0.5 * (6e-3 - 1e-6))
    assert rate[20] == pytest.approx(1e-5 + 0.5 * (6e-3 - 1e-5) * (1 + math.cos(math.pi / 15)))  # not 6e-3
    assert rate[150] == pytest.approx(0.5 * (6e-3 + 1e-5))
    assert rate[298] == pytest.approx(1e-5 + 0.5 * (6e-3 - 1e-5) * (1 + math.cos(math.pi * 298 / 300)))


# -- steps --------------------------------------------------------------------------------------


def fitted(folder: Path, how: Recipe, *start: float, **options: Any) -> list[float]:
    model = fit(session(folder), Weights(*start), Numbers(options.pop("size", 6)), how, falling, **options)
    assert not model.training
    return next(model.parameters()).tolist()


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    # The gradient is (1, 1, 1, 1), of norm 2.
    assert fitted(tmp_path / "a", recipe(clip_norm=0.5), 0, 0, 0, 0) == pytest.approx([-3 * 0.1 / 4] * 4)
    assert fitted(tmp_path / "b", recipe(clip_norm=2.1), 0, 0, 0, 0) == pytest.approx([-3 * 0.1] * 4)


def regression(folder: Path, how: Recipe, size: int = 24) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()

    def square(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x[:, None] / size) - (x[:, None] / size).sin()).square().mean()

    fit(session(folder), model, Numbers(size), how, square)
    return torch.cat([model.weight.flatten(), model.bias]).detach()


@pytest.mark.parametrize("size", [24, 30])  # without and with samples left over
@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path, size: int, clip: float) -> None:
    how = recipe(epochs=3, lr=0.5, clip_norm=clip, schedule="cosine", optimizer="adamw")
    whole = regression(tmp_path / "a", recipe(**{**how.model_dump(), "batch_size": 8}), size)
    for accumulate in (2, 4):
        parts = {**how.model_dump(), "batch_size": 8 // accumulate, "accumulate": accumulate}
        assert torch.allclose(regression(tmp_path / f"b{accumulate}", recipe(**parts), size), whole, rtol=1e-9)
        assert [r["step"] for r in records(tmp_path / f"b{accumulate}")] == [r["step"] for r in records(tmp_path / "a")]
        losses = [[r["loss"] for r in records(tmp_path / f)] for f in (f"b{accumulate}", "a")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_data_fewer_than_one_step_needs_are_taken_again(tmp_path: Path) -> None:
    batches: list[list[float]] = []

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        batches.append(batch.tolist())
        return falling(model, batch)

    fit(session(tmp_path), Weights(0.0), Numbers(3), recipe(batch_size=2, accumulate=2), watched)
    assert [len(batch) for batch in batches] == [2, 2]
    assert {x for batch in batches for x in batch} == {0.0, 1.0, 2.0}
    batches.clear()
    fit(session(tmp_path / "b"), Weights(0.0), Numbers(3), recipe(batch_size=99), watched)
    assert [sorted(batch) for batch in batches] == [[0.0, 1.0, 2.0]]


def test_the_moving_average_by_hand(tmp_path: Path) -> None:
    # weights -1, -2, -3 with decay 1/2: -0.5, -1.25, -2.125
    assert fitted(tmp_path, recipe(lr=1, ema_decay=0.5), 0.0) == [-2.125]


def test_weight_decay_of_one_dimensional_parameters(tmp_path: Path) -> None:
    """Of w = (1, 2), which falls by lr for its gradient 1 and by lr * decay * w."""
    for all_of_them, expected in ((False, [0.9, 1.9]), (True, [0.9 - 0.1 * 0.5, 1.9 - 0.1 * 0.5 * 2])):
        how = recipe(weight_decay=0.5, decay_all=all_of_them)
        assert fitted(tmp_path / str(all_of_them), how, 1.0, 2.0, size=2) == pytest.approx(expected)


class Layers(nn.Module):
    """Three layers of one weight each, numbered for layer-wise learning rates."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Weights(0.0) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers])

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"layers": r"^layers\.(\d+)"}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_layers_learn_at_rates_of_their_own(tmp_path: Path, schedule: str) -> None:
    how = recipe(layer_decay=0.5, schedule=schedule, epochs=3, lr=1.0)
    layers = fit(session(tmp_path), Layers(), Numbers(6), how, falling).state_dict().values()
    first, second, third = (float(weight) for weight in layers)
    assert third < -1
    assert (first, second) == pytest.approx((third / 4, third / 2))


@pytest.mark.parametrize("changes", [{"layer_decay": 0.5}, {"decay_all": True}])
def test_groups_of_the_paper_exclude_the_settings_that_they_replace(tmp_path: Path, changes: dict[str, Any]) -> None:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters())}]

    with pytest.raises(Problem, match="parameter groups of its own"):
        fit(session(tmp_path), Layers(), Numbers(2), recipe(**changes), falling, groups=groups)
    assert fit(session(tmp_path), Layers(), Numbers(2), recipe(), falling, groups=groups)


def test_the_moving_average_may_be_watched_only(tmp_path: Path) -> None:
    watched = recipe(lr=1, ema_decay=0.5, ema_returned=False)
    assert fitted(tmp_path, watched, 0.0) == fitted(tmp_path / "without", recipe(lr=1), 0.0)


def test_betas_reach_the_optimizer_and_plain_gradient_descent_ignores_them(tmp_path: Path) -> None:
    """With both at 0, each step of Adam has the length lr, whatever the gradient."""

    def growing(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) * (1 + batch) ** 3).sum()

    how = recipe(optimizer="adamw", betas=(0.0, 0.0))
    assert fit(session(tmp_path / "adam"), Weights(1.0), Numbers(8), how, growing).w.item() == pytest.approx(
        1 - 4 * 0.1
    )
    usual = fit(session(tmp_path / "usual"), Weights(1.0), Numbers(8), recipe(optimizer="adamw"), growing)
    assert usual.w.item() != pytest.approx(1 - 4 * 0.1, rel=1e-3)
    fit(session(tmp_path / "sgd"), Weights(1.0), Numbers(8), recipe(betas=(0.0, 0.0)), growing)
    with pytest.raises(ValidationError):
        recipe(betas=(0.9, 1.0))


def test_an_unknown_optimizer_is_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"optimizer[\s\S]*adamm"):
        recipe(optimizer="adamm")


# -- evaluation ---------------------------------------------------------------------------------


def parabola(model: nn.Module) -> Mapping[str, float]:
    """Error and score, best where the weight is -3."""
    error = (next(model.parameters()).item() + 3) ** 2
    return {"error": error, "score": 100 - error}


@pytest.mark.parametrize(("monitor", "better"), [("score", "higher"), ("error", "lower")])
def test_the_weights_with_the_best_monitor_are_returned(tmp_path: Path, monitor: str, better: Any) -> None:
    how = recipe(lr=1, batch_size=6, epochs=7)
    assert fitted(tmp_path, how, 0.0, evaluate=parabola, monitor=monitor, better=better) == [-3]
    evaluated = [r["score"] for r in records(tmp_path) if "score" in r]
    assert evaluated == [96, 99, 100, 99, 96, 91, 84]
    wrong: Any = "lower" if better == "higher" else "higher"
    assert fitted(tmp_path / "b", how, 0.0, evaluate=parabola, monitor=monitor, better=wrong) == [-7]


def test_without_a_monitor_the_last_weights_are_returned(tmp_path: Path) -> None:
    assert fitted(tmp_path, recipe(lr=1, batch_size=6, epochs=5), 0.0, evaluate=parabola) == [-5]
    assert len([r for r in records(tmp_path) if "score" in r]) == 5


def test_training_stops_after_so_many_evaluations_without_progress(tmp_path: Path) -> None:
    how = recipe(lr=1, batch_size=6, epochs=50, patience=2)
    assert fitted(tmp_path, how, 0.0, evaluate=parabola, monitor="score") == [-3]
    assert [r["score"] for r in records(tmp_path) if "score" in r] == [96, 99, 100, 99, 96]


def test_evaluations_come_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    fitted(tmp_path, recipe(batch_size=6, epochs=7, eval_every=3), 0.0, evaluate=parabola)
    assert [r["step"] for r in records(tmp_path) if "score" in r] == [2, 5, 6]


def test_the_moving_average_is_evaluated_too_and_may_win(tmp_path: Path) -> None:
    # weights -2, -4, -6; their average with decay 1/2: -1, -2.5, -4.25: the best of all is -2.5
    how = recipe(lr=2, batch_size=6, epochs=3, ema_decay=0.5)
    assert fitted(tmp_path, how, 0.0, evaluate=parabola, monitor="error", better="lower") == [-2.5]
    assert [r["ema_error"] for r in records(tmp_path) if "ema_error" in r] == [4, 0.25, 1.5625]
    assert [r["error"] for r in records(tmp_path) if "error" in r] == [1, 1, 9]


def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    values = iter([math.nan, 2.0, math.nan, 3.0, math.nan])
    how = recipe(lr=1, batch_size=6, epochs=5)
    assert fitted(tmp_path, how, 0.0, evaluate=lambda model: {"m": next(values)}, monitor="m") == [-4]


def test_the_model_is_evaluated_in_evaluation_mode_and_trained_in_training_mode(tmp_path: Path) -> None:
    modes: list[tuple[str, bool]] = []

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        modes.append(("train", model.training))
        return falling(model, batch)

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        modes.append(("evaluate", model.training or torch.is_grad_enabled()))
        return {}

    fit(session(tmp_path), Weights(0.0), Numbers(4), recipe(batch_size=4, epochs=3), watched, evaluate=evaluate)
    assert modes == [("train", True), ("evaluate", False)] * 3


# -- records ------------------------------------------------------------------------------------


def test_records_hold_means_of_the_losses_since_the_last(tmp_path: Path) -> None:
    """25 steps an epoch: a record after 20 steps and at the end of the epoch."""

    def two(model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        value = falling(model, batch)
        return {"loss": value, "twice": 2 * value}

    assert LOG_EVERY == 20
    trial = session(tmp_path)
    fit(trial, Weights(0.0), Numbers(50), recipe(lr=1, epochs=2), two, part="student")
    trial.finish()
    # The loss before step t is -t: means over 0..19, 20..24, 25..44, 45..49
    expected = [(19, -9.5), (24, -22.0), (44, -34.5), (49, -47.0)]
    assert records(tmp_path) == [
        {"step": step, "part": "student", "lr": 1.0, "loss": mean, "twice": 2 * mean} for step, mean in expected
    ]
    events = scalars(tmp_path / "tensorboard")
    assert [(s, v) for tag, s, v in events if tag == "student/loss"] == expected
    assert {tag for tag, _, _ in events} == {"student/loss", "student/twice", "student/lr"}


def test_a_dry_run_makes_two_steps(tmp_path: Path) -> None:
    assert len(trace(tmp_path, recipe(epochs=50), dry_run=True)) == 2


# -- resuming -----------------------------------------------------------------------------------


def train(
    folder: Path, how: Recipe, stop: int | None = None, precision: Any = "32-true", **options: Any
) -> dict[str, Tensor]:
    """Train on noisy rings with dropout: 25 steps an epoch, so that resume points lie within and between epochs.

    `stop`: raise KeyboardInterrupt instead of making that step (counted from where this call begins).
    """
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (100, 2))
    data = Rings(points, np.square(points).sum(1) > 0.6, noise=0.3)
    here = session(folder, fabric=Fabric(accelerator="cpu", devices=1, precision=precision))
    here.reseed("model")
    count = 0

    def interrupted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal count
        if count == stop:
            raise KeyboardInterrupt
        count += 1
        return cross_entropy(model, (functional.dropout(batch[0], 0.1), batch[1]))

    model = fit(here, ToyNet(8), data, how, interrupted, **options)
    here.finish()
    return model.state_dict()


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def resumed(folder: Path, stops: list[int], how: Recipe, **options: Any) -> dict[str, Tensor]:
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            train(folder, how, stop, **options)
    return train(folder, how, **options)


NOISY = recipe(optimizer="adamw", lr=0.01, weight_decay=0.1, batch_size=4, epochs=3, warmup_epochs=0.5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_is_the_undisturbed_one_under_every_schedule(tmp_path: Path, schedule: str) -> None:
    how = recipe(**{**NOISY.model_dump(), "schedule": schedule, "decay_epochs": 1})
    whole = train(tmp_path / "whole", how)
    # Resume points after 20, 25, 45, 50, ... steps: stopped at step 22, then at 46, then at 74, the last.
    again = resumed(tmp_path / "cut", [22, 26, 29], how)
    assert equal(again, whole)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


@pytest.mark.parametrize("stop", [0, 3, 19, 20, 21, 24, 25, 26, 45, 74])
def test_a_resumed_run_is_the_undisturbed_one_wherever_it_stopped(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole", NOISY)
    assert equal(resumed(tmp_path / "cut", [stop], NOISY), whole)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def ring_error(model: nn.Module) -> Mapping[str, float]:
    with torch.no_grad():
        return {"error": float((model(torch.rand(64, 2)) - 1).abs().mean()) + torch.rand(()).item()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 0.5},
        {"accumulate": 3, "epochs": 9},
        {"ema_decay": 0.9},
        {"optimizer": "lookahead_adam"},
    ],
)  # fmt: skip
def test_a_resumed_run_is_the_undisturbed_one_with_every_feature(tmp_path: Path, changes: dict[str, Any]) -> None:
    how = recipe(**{**NOISY.model_dump(), **changes})
    whole = train(tmp_path / "whole", how)
    assert equal(resumed(tmp_path / "cut", [22, 26], how), whole)


def test_best_weights_and_patience_survive_an_interruption(tmp_path: Path) -> None:
    how = recipe(**{**NOISY.model_dump(), "epochs": 12, "patience": 3, "ema_decay": 0.9})
    options: dict[str, Any] = {"evaluate": ring_error, "monitor": "error", "better": "lower"}
    whole = train(tmp_path / "whole", how, **options)
    steps = records(tmp_path / "whole")[-1]["step"] + 1
    assert 75 < steps < 300  # it did stop early, but not at once
    again = resumed(tmp_path / "cut", [60, 30], how, **options)
    assert equal(again, whole)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_a_finished_loop_that_is_asked_again_makes_no_step(tmp_path: Path) -> None:
    """As when the evaluation after it was interrupted."""
    for changes in ({}, {"patience": 2}, {"ema_decay": 0.5}):
        how = recipe(lr=1, batch_size=6, epochs=9, **changes)
        options: dict[str, Any] = {"evaluate": parabola, "monitor": "score"} if "patience" in changes else {}
        folder = tmp_path / str(len(changes)) / "-".join(changes)
        first = fitted(folder, how, 0.0, **options)
        before = records(folder)

        def never(model: nn.Module, batch: Tensor) -> Tensor:
            raise AssertionError("a step was made")

        model = fit(session(folder), Weights(0.0), Numbers(6), how, never, **options)
        assert next(model.parameters()).tolist() == first
        assert records(folder) == before


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    two = recipe(**{**NOISY.model_dump(), "workers": 2})
    whole = train(tmp_path / "none", NOISY)
    assert equal(train(tmp_path / "two", two), whole)
    assert equal(resumed(tmp_path / "cut", [22, 26], two), whole)
    assert records(tmp_path / "cut") == records(tmp_path / "none")


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    def drawn(folder: str, seed: int) -> list[list[float]]:
        seen: list[list[float]] = []

        def watched(model: nn.Module, batch: Tensor) -> Tensor:
            seen.append(batch.tolist())
            return falling(model, batch)

        fit(session(tmp_path / folder, seed), Weights(0.0), Numbers(10), recipe(epochs=2), watched)
        return seen

    first = drawn("a", 0)
    assert drawn("b", 0) == first
    assert drawn("c", 1) != first
    epochs = [list(chain.from_iterable(batches)) for batches in (first[:5], first[5:])]
    assert [sorted(epoch) for epoch in epochs] == [[float(i) for i in range(10)]] * 2
    assert epochs[0] != epochs[1]


# -- precision ----------------------------------------------------------------------------------


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()

    class Watched(ToyNet):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            kinds.add(y.dtype)
            return y

    data = Rings(np.eye(2).repeat(8, 0), np.arange(16) // 8)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    how = recipe(lr=0.5, epochs=20, batch_size=4)
    torch.manual_seed(0)
    model = fit(session(tmp_path, fabric=fabric), Watched(4), data, how, cross_entropy)
    assert kinds == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    losses = [r["loss"] for r in records(tmp_path)]
    assert losses[-1] < 0.1 < losses[0]


def test_mixed_precision_resumes_and_evaluates_like_any_other(tmp_path: Path) -> None:
    how = recipe(**{**NOISY.model_dump(), "ema_decay": 0.9})
    options: dict[str, Any] = {"precision": "bf16-mixed", "evaluate": ring_error, "monitor": "error"}
    whole = train(tmp_path / "whole", how, **options)
    assert equal(resumed(tmp_path / "cut", [22, 26], how, **options), whole)
    assert not equal(train(tmp_path / "full", how, **{**options, "precision": "32-true"}), whole)


# -- divergence ---------------------------------------------------------------------------------


class Poisoned(Numbers):
    """One sample is not a number."""

    def __init__(self, size: int, poison: int) -> None:
        super().__init__(size)
        self.poison = poison

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index) if index != self.poison else torch.tensor(math.nan, dtype=torch.float64)


def tilted(model: nn.Module, batch: Tensor) -> Tensor:
    return falling(model, batch) * (1 + batch.mean())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("wanted", [0, 7, 19, 20, 24])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_last_good_state(
    tmp_path: Path, wanted: int, accumulate: int
) -> None:
    how = recipe(lr=1e-3, epochs=2, batch_size=2, accumulate=accumulate)
    size = 50 * accumulate  # 25 steps an epoch
    drawn: list[list[float]] = []

    def watched(model: nn.Module, batch: Tensor) -> Tensor:
        drawn.append(batch.tolist())
        return tilted(model, batch)

    fit(session(tmp_path / "healthy"), Weights(1.0), Numbers(size), how, watched)
    healthy = records(tmp_path / "healthy")
    # The sample that the first gradient of the wanted step sees in the first epoch.
    poison = int(drawn[wanted * accumulate][0])
    with pytest.raises(Diverged) as caught:
        fit(session(tmp_path / "ill"), Weights(1.0), Poisoned(size, poison), how, tilted)
    assert f"nan at step {wanted}" in caught.value.what
    assert caught.value.remedy
    # The state before is on disk: with the data mended, the loop goes on from there.
    kept = 20 if wanted >= 20 else 0
    assert (tmp_path / "ill" / "resume").exists() == bool(kept)
    steps = 0

    def counted(model: nn.Module, batch: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return tilted(model, batch)

    fit(session(tmp_path / "ill"), Weights(1.0), Numbers(size), how, counted)
    assert steps == (50 - kept) * accumulate
    assert records(tmp_path / "ill") == healthy


@pytest.mark.parametrize(("step", "said"), [(7, "at step 8"), (19, "after step 19"), (24, "after step 24")])
def test_a_gradient_that_is_not_finite_is_not_kept_either(tmp_path: Path, step: int, said: str) -> None:
    """The loss is finite, but its gradient is not: the weights are lost with the step, and only then the loss."""
    count = 0

    def kinked(model: nn.Module, batch: Tensor) -> Tensor:
        nonlocal count
        count += 1
        w = model(batch)
        return (w - w.detach()).abs().sqrt().sum() if count == step + 1 else w.sum()

    with pytest.raises(Diverged, match=said):
        fit(session(tmp_path), Weights(1.0), Numbers(50), recipe(epochs=2), kinked)
    model = Weights(0.0)
    session(tmp_path).resume(model=Fabric(devices=1, accelerator="cpu").setup(model))
    assert bool(model.w.isfinite().all())


def test_a_dry_run_names_the_step_too(tmp_path: Path) -> None:
    def infinite(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).sum() / 0.0

    with pytest.raises(Diverged, match="inf at step 0"):
        fit(session(tmp_path, dry_run=True), Weights(1.0), Numbers(500), recipe(epochs=9), infinite)


def test_when_one_process_diverges_all_stop_with_the_same_words(tmp_path: Path) -> None:
    """Else the others would wait for it forever."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")

    def said(fabric: Fabric) -> list[str]:
        here = Session(0, tmp_path, fabric=fabric)
        words = ""
        try:
            fit(here, Weights(1.0), Poisoned(12, poison=5), recipe(batch_size=2), tilted)
        except Diverged as diverged:
            words = diverged.what
        gathered: list[Any] = [None, None]
        torch.distributed.all_gather_object(gathered, words)
        return gathered

    first, second = fabric.launch(said)
    assert first == second
    assert re.fullmatch("the loss is nan at step [012]", first)


# -- loading ------------------------------------------------------------------------------------


def test_the_loader_gives_every_sample_once_in_order(tmp_path: Path) -> None:
    for workers in (0, 2):
        batches = list(loader(session(tmp_path), Numbers(7), 3, workers=workers))
        assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(loader(session(tmp_path), Numbers(0), 3)) == []
    assert len(list(loader(session(tmp_path, dry_run=True), Numbers(99), 3))) == 2


def test_the_loader_collates_as_told(tmp_path: Path) -> None:
    batches = loader(session(tmp_path), Numbers(5), 2, collate=lambda samples: [float(s) for s in samples])
    assert list(batches) == [[0, 1], [2, 3], [4]]


def test_processes_share_the_samples_out(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")

    def parts(fabric: Fabric) -> list[list[list[float]]]:
        here = Session(0, tmp_path, fabric=fabric)
        mine = [batch.tolist() for batch in loader(here, Numbers(7), 2, shard=True)]
        whole = [batch.tolist() for batch in loader(here, Numbers(7), 2)]
        gathered: list[Any] = [None, None]
        torch.distributed.all_gather_object(gathered, [mine, whole])
        return gathered

    (first, whole), (second, again) = fabric.launch(parts)
    assert first == [[0, 2], [4, 6]]
    assert second == [[1, 3], [5]]
    assert whole == again == [[0, 1], [2, 3], [4, 5], [6]]


class Random(Numbers):
    """Each sample is drawn from the global generators."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(draws(), dtype=torch.float64)


def test_random_samples_are_the_same_in_any_process_and_at_any_time(tmp_path: Path) -> None:
    def samples(workers: int, batch_size: int) -> Tensor:
        return torch.cat(list(loader(session(tmp_path), Random(6), batch_size, workers=workers)))

    first = samples(0, 2)
    assert len({tuple(row.tolist()) for row in first}) == 6
    assert torch.equal(samples(2, 2), first)
    assert torch.equal(samples(0, 6), first)


def test_loading_leaves_the_generators_to_the_code_around_it(tmp_path: Path) -> None:
    """Monte Carlo dropout over a loader: each pass is another draw, the same with any number of workers."""

    def drawn(seed: int, workers: int) -> list[tuple[float, float, float]]:
        here = session(tmp_path, seed)
        here.reseed("evaluate")
        return [draws() for _ in range(2) for _ in loader(here, Random(4), 2, workers=workers)]

    first = drawn(0, 0)
    assert len(set(first)) == 4
    assert drawn(0, 2) == first
    assert not set(drawn(1, 0)) & set(first)


class Broken(Numbers):
    def __getitem__(self, index: int) -> Tensor:
        if index == 4:
            raise Problem("the image is truncated", "photo-4.png", "replace it")
        return super().__getitem__(index)


def complaint(go: Callable[[], object]) -> list[str]:
    try:
        go()
    except Problem as problem:
        return str(problem).splitlines()
    return []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_problem_travels_whole_from_a_loading_process(tmp_path: Path, workers: int) -> None:
    for go in (
        lambda: list(loader(session(tmp_path), Broken(6), 2, workers=workers)),
        lambda: fit(session(tmp_path), Weights(0.0), Broken(6), recipe(workers=workers), falling),
    ):
        assert complaint(go) == ["the image is truncated", "where: photo-4.png", "remedy: replace it"]
        # The loading processes ended with it: left to the garbage collector, each would take 5 s to give up.
        assert multiprocessing.active_children() == []


def test_an_empty_data_set_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="0 training samples"):
        fit(session(tmp_path), Weights(0.0), Numbers(0), recipe(), falling)


def test_the_generators_of_a_step_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    """Dropout of step 3 is the same whatever an evaluation before it drew."""

    def run(folder: str, greedy: bool) -> list[float]:
        seen = []

        def watched(model: nn.Module, batch: Tensor) -> Tensor:
            seen.append(torch.rand(()).item() + np.random.rand() + random.random())  # noqa: NPY002
            return falling(model, batch)

        def evaluate(model: nn.Module) -> Mapping[str, float]:
            if greedy:
                draws()
            return {}

        fit(session(tmp_path / folder), Weights(0.0), Numbers(4), recipe(epochs=3), watched, evaluate=evaluate)
        return seen

    assert run("a", greedy=False) == run("b", greedy=True)


# -- recipes that cannot do what they say -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_epochs": 20}, "warmup_epochs is 20 and epochs is 3: the learning rate ends at 15 % of lr"),
        ({"patience": 3}, "patience is 3 and there are 3 evaluations"),
        ({"patience": 2, "eval_every": 2}, "patience is 2 and there are 2 evaluations"),
        ({"ema_decay": 0.999}, "ema_decay = 0.999 averages over 1000 steps and there are 30: 97 % of the average"),
        ({"schedule": "step"}, "decay_epochs is 30 and epochs is 3"),
        ({"schedule": "step", "milestones": (1, 5)}, "milestones has 5 and epochs is 3"),
    ],
)
def test_lengths_beyond_the_training_are_told_with_both_numbers(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=re.escape(words)):
        fit(session(tmp_path), Weights(0.0), Numbers(20), recipe(epochs=3, **changes), lambda m, x: m(x).sum())


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup_epochs": 2.9},
        {"warmup_epochs": 20, "schedule": "onecycle"},
        {"patience": 2},
        {"ema_decay": 0.9},
        {"schedule": "step", "milestones": (1, 2)},
        {"milestones": (5,)},
    ],
)
def test_lengths_within_the_training_are_not_told(changes: dict[str, Any]) -> None:
    assert not unreachable(recipe(epochs=3, **changes), per_epoch=10)


class OwnNorm(nn.BatchNorm2d):
    """A batch norm whose forward pass is not torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def test_what_differs_between_one_process_and_several_is_said() -> None:
    with pytest.warns(UserWarning, match="2 processes: layers of the kind DropPath, Dropout draw per process"):
        warn_of_processes(nn.Sequential(nn.Dropout(0.1), DropPath(0.1)), 2)
    with pytest.warns(UserWarning, match="OwnNorm use the samples of their own process"):
        warn_of_processes(nn.Sequential(OwnNorm(3)), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_processes(nn.Sequential(nn.LayerNorm(3), nn.BatchNorm2d(3), nn.Dropout(0.0), DropPath(0.0)), 2)


def test_rows_of_a_tensor_dataset_are_taken_at_once() -> None:
    dataset = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    indices = np.array([4, 1, 4])
    one_by_one = [dataset[index] for index in indices.tolist()]
    batch = _Seeded(dataset, default_collate)[indices, indices]
    for part, expected in zip(batch, default_collate(one_by_one), strict=True):
        assert torch.equal(part, expected)


# -- data sets that draw ------------------------------------------------------------------------


class Fixed(Numbers):
    """It says that it draws nothing, and notes the state that each sample finds the generators in."""

    draws = False

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.states: list[Tensor] = []

    def __getitem__(self, index: int) -> Tensor:
        self.states.append(torch.get_rng_state())
        return super().__getitem__(index)


class Silent(TensorDataset):
    """It adds noise and does not say so."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor + torch.rand(()) for tensor in super().__getitem__(index))


def test_what_says_nothing_may_draw_and_parts_follow_from_the_whole() -> None:
    rows = TensorDataset(torch.zeros(3, 2))
    assert [draws_(data) for data in (Numbers(3), Silent(torch.zeros(3)), Subset(Numbers(3), [0]))] == [True] * 3
    told = [draws_(data) for data in (Fixed(3), rows, Subset(Fixed(3), [0]), ConcatDataset([Fixed(2), rows]))]
    assert told == [False] * 4
    assert draws_(ConcatDataset([rows, Numbers(3)]))


def test_only_data_sets_that_draw_are_seeded_and_the_batches_are_the_same(tmp_path: Path) -> None:
    def batches(dataset: Numbers, workers: int = 0) -> list[Tensor]:
        seen: list[Tensor] = []

        def watched(model: nn.Module, batch: Tensor) -> Tensor:
            seen.append(batch)
            return falling(model, batch)

        fit(
            session(tmp_path / f"{type(dataset).__name__}{workers}"),
            Weights(0.0),
            dataset,
            recipe(workers=workers),
            watched,
        )
        return seen

    fixed = Fixed(8)
    told = batches(fixed)
    assert all(torch.equal(state, fixed.states[k]) for k in (0, 2, 4) for state in fixed.states[k : k + 2])
    assert len({tuple(state.tolist()) for state in fixed.states}) > 1  # the steps between them drew from their own
    for other in (batches(Numbers(8)), batches(Fixed(8), workers=1)):
        assert torch.equal(torch.stack(told), torch.stack(other))


def test_a_collation_that_draws_is_seeded_even_if_the_samples_draw_nothing(tmp_path: Path) -> None:
    def drawn(dataset: Numbers, workers: int) -> list[float]:
        seen: list[float] = []

        def noisy(samples: list[Tensor]) -> Tensor:
            return torch.stack(samples) + torch.rand(())

        def watched(model: nn.Module, batch: Tensor) -> Tensor:
            seen.extend(batch.tolist())
            return falling(model, batch)

        folder = tmp_path / f"{type(dataset).__name__}{workers}"
        fit(session(folder), Weights(0.0), dataset, recipe(workers=workers), watched, collate=noisy)
        return seen

    first = drawn(Numbers(8), 0)
    assert drawn(Fixed(8), 0) == drawn(Fixed(8), 1) == first


# -- without the wrappers of Fabric -------------------------------------------------------------


def test_training_without_wrappers_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device in full precision needs none of Fabric's wrappers; resume points fit both ways."""
    how = recipe(**{**NOISY.model_dump(), "accumulate": 2, "clip_norm": 0.1})
    plain = train(tmp_path / "plain", how)
    monkeypatch.setattr(training, "adds_nothing", lambda fabric: False)
    assert equal(train(tmp_path / "wrapped", how), plain)
    assert records(tmp_path / "wrapped") == records(tmp_path / "plain")
