"""One trial: its data are read once per process, and reach every trial as they were read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repertory import catalog
from repertory.core.study import Study
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
