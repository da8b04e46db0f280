"""Trials: data are read once per process and reach each as they were read; points of sweeps; data that are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from repertory import Problem, catalog
from repertory.core import checkpoint
from repertory.core.study import Study, Sweep
from repertory.execution.experiment import Experiment


@pytest.fixture
def study(toy: Path) -> type[Study]:
    return catalog.load("toy")


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch, study: type[Study]) -> list[int]:
    """The seeds at which data were read."""
    seen, read = [], study.read

    def counted(this: Study, folder: Path) -> Any:
        seen.append(this.session.seed)
        return read(this, folder)

    monkeypatch.setattr(study, "read", counted)
    return seen


@pytest.mark.parametrize(("seeded", "expected"), [(False, [0]), (True, [0, 1])])
def test_data_are_read_once_or_once_per_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: type[Study], seeds: list[int], seeded: bool, expected: Any
) -> None:
    monkeypatch.setattr(study, "seeded_data", seeded)
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2)
    assert len(result.outcomes) == 4
    assert not result.failures
    assert seeds == expected


@pytest.mark.parametrize(("vary", "read_at"), [("init", [2]), ("split", [2, 3])])
def test_data_stay_those_of_the_first_seed_where_initialisation_alone_varies(
    tmp_path: Path, seeds: list[int], vary: str, read_at: list[int]
) -> None:
    settings = {"vary": vary, "first_seed": 2}
    experiment = Experiment("toy", "smoke", out=tmp_path / "run", settings=settings)
    result = experiment.run(seeds=2, arms=["plain"])
    assert list(result.metrics["plain"]) == [2, 3]
    assert seeds == read_at
    weights = [
        checkpoint.load(tmp_path / f"run/trials/plain-{seed}/checkpoint", "toy_room").state_dict()["head.weight"]
        for seed in (2, 3)
    ]
    assert torch.equal(*weights) == (vary == "split"), "the sample is the same: only training noise tells them apart"
    with pytest.raises(Problem, match=f"vary: {vary} -> all"):
        Experiment("toy", "smoke", out=tmp_path / "run", settings={"first_seed": 2}).run(seeds=2)


def test_another_run_reads_the_data_anew(tmp_path: Path, seeds: list[int]) -> None:
    """They may have changed, at the same place."""
    for name in ("a", "b"):
        Experiment("toy", "smoke", out=tmp_path / name).run(seeds=1)
        Experiment("toy", "smoke", out=tmp_path / f"{name}-model").train()
    assert seeds == [0, 0, 0, 0]


def test_a_trial_that_changes_its_data_does_not_change_those_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: type[Study], seeds: list[int]
) -> None:
    train, seen = study.train, []

    def careless(this: Study, arm: str, data: Any) -> Any:
        seen.append(data[0].points.abs().sum().item())
        model = train(this, arm, data)
        data[0].points.zero_()
        return model

    monkeypatch.setattr(study, "train", careless)
    assert not Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1).failures
    assert seeds == [0]
    assert seen[0] == seen[1] > 0


def test_data_that_cannot_be_copied_are_read_by_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: type[Study], seeds: list[int]
) -> None:
    read = study.read

    def opened(this: Study, folder: Path) -> Any:
        data = read(this, folder)
        data[0].file = (folder / "train.csv").open()
        return data

    monkeypatch.setattr(study, "read", opened)
    assert not Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1).failures
    assert seeds == [0, 0]


# -- sweeps -------------------------------------------------------------------------------------


def drawn(curve: Any) -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot(list(curve), [metrics["accuracy"] for metrics in curve.values()])
    return figure


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch, study: type[Study]) -> type[Study]:
    """The toy with a curve over the learning rate; a field that it has no use for lists the values."""
    sweep = Sweep("wide", "lr", "milestones", ("accuracy",), {"curve": drawn})
    monkeypatch.setattr(study, "sweeps", (sweep,))
    return study


RATES = {"milestones": (0.05, 0.5)}


def test_every_point_of_a_sweep_is_a_trial(tmp_path: Path, swept: type[Study]) -> None:
    result = Experiment("toy", "smoke", out=tmp_path / "run", settings=RATES).run(seeds=2)
    assert set(result.metrics) == {"plain", "wide"}, "a point is no arm"
    assert {"accuracy_0.05", "accuracy_0.5"} <= set(result.figures)
    assert "classes_0.5" not in result.figures
    # The first point has the learning rate of the scale: it is the arm, under seed 0.
    assert result.figures["accuracy_0.05"] == result.metrics["wide"][0]["accuracy"]
    trials = tmp_path / "run" / "trials"
    assert (trials / "measure" / "figures" / "curve.png").exists()
    about = checkpoint.about(trials / "lr-0.5-0" / "checkpoint")
    assert (about["arm"], about["config"]["lr"]) == ("wide", 0.5)


def test_an_interrupted_sweep_keeps_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: type[Study]
) -> None:
    whole = Experiment("toy", "smoke", out=tmp_path / "whole", settings=RATES).run(arms=["wide"])
    train = swept.train

    def interrupted(this: Study, arm: str, data: Any) -> Any:
        if this.config.lr == 0.5:  # pyright: ignore[reportAttributeAccessIssue]
            raise KeyboardInterrupt
        return train(this, arm, data)

    monkeypatch.setattr(swept, "train", interrupted)
    cut = Experiment("toy", "smoke", out=tmp_path / "cut", settings=RATES)
    with pytest.raises(KeyboardInterrupt):
        cut.run(arms=["wide"])
    done = tmp_path / "cut" / "trials" / "lr-0.05-0" / "result.json"
    before = done.stat().st_mtime_ns
    monkeypatch.setattr(swept, "train", train)
    assert cut.run(arms=["wide"]).figures == whole.figures
    assert done.stat().st_mtime_ns == before


def test_a_sweep_runs_with_its_arm_only_and_in_processes_alike(tmp_path: Path, swept: type[Study]) -> None:
    other = Experiment("toy", "smoke", out=tmp_path / "other", settings=RATES).run(arms=["plain"])
    assert not any(name.startswith("accuracy") for name in other.figures)
    names = [trial.folder.name for trial in Experiment("toy", "smoke", out=tmp_path, settings=RATES).trials([3])]
    assert names == ["plain-3", "wide-3", "lr-0.05-0", "lr-0.5-0", "measure"]


def test_a_value_out_of_range_is_refused(tmp_path: Path, swept: type[Study]) -> None:
    with pytest.raises(Problem, match="lr"):
        Experiment("toy", "smoke", out=tmp_path / "run", settings={"milestones": (-1.0,)}).run()
    assert not (tmp_path / "run").exists()


def test_a_failed_point_is_missing_from_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept: type[Study]
) -> None:
    train = swept.train

    def failing(this: Study, arm: str, data: Any) -> Any:
        if this.session.point == "lr-0.5":
            raise ZeroDivisionError
        return train(this, arm, data)

    monkeypatch.setattr(swept, "train", failing)
    result = Experiment("toy", "smoke", out=tmp_path / "run", settings=RATES).run(arms=["wide"])
    assert "accuracy_0.05" in result.figures
    assert "accuracy_0.5" not in result.figures
    assert "ZeroDivisionError" in (tmp_path / "run" / "trials" / "lr-0.5-0" / "result.json").read_text()


def test_figures_of_a_sweep_and_its_curve_are_inverse() -> None:
    sweep = Sweep("wide", "lr", "rates", ("accuracy", "loss"))
    curve = {0.5: {"accuracy": 80.0, "loss": 1.0}, 10.0: {"accuracy": 90.0, "loss": 2.0}}
    figures = sweep.figures(curve)
    assert figures == {"accuracy_0.5": 80, "loss_0.5": 1, "accuracy_10": 90, "loss_10": 2}
    assert sweep.curve(curve, figures) == curve
    del figures["loss_10"]
    assert list(sweep.curve(curve, figures)) == [0.5]


# -- figures ------------------------------------------------------------------------------------


def test_figures_of_the_data_are_measured_on_the_data_of_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: type[Study], seeds: list[int]
) -> None:
    monkeypatch.setattr(study, "seeded_data", False)
    monkeypatch.setattr(study, "measure_data", lambda this, data: {"training_points": float(len(data[0]))})
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(arms=["plain"])
    assert result.figures["training_points"] == 128
    assert result.figures["parameters_8"] == 42, "what needs no data is measured as well"
    assert seeds == [0]
