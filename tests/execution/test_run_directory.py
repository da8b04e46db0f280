"""Run and model directories: checked first, remembered, mended, never emptied of what is not the run's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from repertory import Problem
from repertory.core import checkpoint
from repertory.core.problem import Damaged
from repertory.core.study import Session
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.execution.provenance import data_difference, describe_data
from repertory.execution.trials import finished
from repertory.verdicts.results import Result


@pytest.fixture
def data(toy_net: str, tmp_path: Path) -> Path:
    """The sample, as one's own data."""
    folder = tmp_path / "data"
    folder.mkdir()
    Experiment(toy_net, "smoke").study_in(tmp_path / "scratch").write_sample(folder)
    shutil.rmtree(tmp_path / "scratch")
    return folder


def add_rows(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[1:9]]) + "\n")


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C right after the n-th resume point."""
    keep, count = Session.keep, iter(range(1, 1000))

    def cut(self: Session, step: int, **state: Any) -> None:
        keep(self, step, now=True, **{k: v for k, v in state.items() if k != "now"})
        if next(count) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "keep", cut)


def interrupted_training(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, after: int = 1) -> Path:
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            experiment.train()
    return experiment.out.with_name(f".{experiment.out.name}.training") / "trials" / "toy_net-0"


# -- nothing is deleted -------------------------------------------------------------------------


def test_a_failing_run_removes_nothing_but_its_own_empty_folders(toy_net: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    class Slow(Experiment):
        def _begin(self, fresh: bool, console: Any) -> None:
            super()._begin(fresh, console)
            (tmp_path / "exp" / "b").mkdir()  # another run, started meanwhile
            (tmp_path / "exp" / "b" / "model").write_text("weights")

    with pytest.raises(Problem, match=r"train\.csv"):
        Slow(toy_net, "smoke", data=tmp_path / "empty", out=tmp_path / "exp" / "a").run()
    assert sorted(p.name for p in (tmp_path / "exp").iterdir()) == ["b"]
    assert (tmp_path / "exp" / "b" / "model").read_text() == "weights"


def test_trained_weights_outlive_a_problem_in_the_held_out_data(
    toy_net: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(toy_net, "smoke", data=data, out=tmp_path / "model")
    bad = data / "test.csv"

    def refuse(self: Any, model: Any, data: Any) -> dict[str, float]:
        raise Problem("the file cannot be read", bad, "mend it")

    with monkeypatch.context() as patch:
        patch.setattr(experiment.study, "evaluate", refuse)
        with pytest.raises(Problem, match="cannot be read"):
            experiment.train()
    assert (tmp_path / ".model.training" / "trials" / "toy_net-0" / "checkpoint").is_dir()
    add_rows(bad)  # mended: its content is another one now
    monkeypatch.setattr(experiment.study, "train", None)  # would fail: trained already
    folder, metrics = Experiment(toy_net, "smoke", data=data, out=tmp_path / "model").train()
    assert metrics["accuracy"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "model"]
    assert folder.stat().st_mode & 0o777 == data.stat().st_mode & 0o777


def test_a_folder_of_others_is_neither_used_nor_emptied(toy_net: str, tmp_path: Path) -> None:
    for name in ("trials", "shared"):
        mine = tmp_path / name / name / "patient.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(Problem, match="no run directory"):
            Experiment(toy_net, "smoke", out=tmp_path / name).run(fresh=True)
        assert mine.read_text() == "mine"
    model, _ = Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    before = (model / "config.json").read_bytes()
    with pytest.raises(Problem, match="no run directory"):
        Experiment(toy_net, "smoke", out=model).run(fresh=True)
    assert (model / "config.json").read_bytes() == before


# -- outputs are checked first ------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "file/below/it", "/proc/model", "x" * 300, "ok/" + "x" * 300, "full"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    experiment = Experiment(toy_net, "smoke", out=tmp_path / place)
    monkeypatch.setattr(experiment.study, "read", None)  # any work would fail in another way
    actions: list[Callable[[], object]] = [
        experiment.train,
        lambda: experiment.convert(tmp_path / "file", experiment.out),
    ]
    for act in [*actions, experiment.run] if place != "full" else actions:
        with pytest.raises(Problem):
            act()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


# -- data are remembered ------------------------------------------------------------------------


def test_going_on_with_other_data_is_refused_and_fresh_starts_over(
    toy_net: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def experiment(**settings: Any) -> Experiment:
        return Experiment(toy_net, "smoke", data=data, out=tmp_path / "model", settings={"epochs": 3, **settings})

    trial = interrupted_training(experiment(), monkeypatch)
    untouched = (data / "train.csv").read_bytes()
    add_rows(data / "train.csv")
    with pytest.raises(Problem, match=r"data have changed .* 1 changed \(train\.csv\)") as caught:
        experiment().train()
    assert "--fresh" in caught.value.remedy
    (data / "train.csv").write_bytes(untouched)
    (data / "extra.csv").write_text("")
    with pytest.raises(Problem, match=r"1 new \(extra\.csv\)"):
        experiment().train()
    (data / "extra.csv").unlink()
    (data / ".DS_Store").write_text("")  # hidden files are no data
    point = torch.load(trial / "resume" / "loop", weights_only=True)["step"]
    assert point > 0
    resumed, _ = experiment(workers=1).train()  # no figure depends on the number of workers
    steps = [json.loads(line)["step"] for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    shutil.rmtree(resumed)

    interrupted_training(experiment(), monkeypatch)
    add_rows(data / "train.csv")
    folder, _ = experiment().train(fresh=True)
    assert (folder / checkpoint.ABOUT).exists()


def test_a_finished_run_refuses_other_data_too(toy_net: str, data: Path, tmp_path: Path) -> None:
    Experiment(toy_net, "smoke", data=data, out=tmp_path / "run").run(arms=["baseline"])
    (data / "test.csv").unlink()
    with pytest.raises(Problem, match=r"1 gone \(test\.csv\)"):
        Experiment(toy_net, "smoke", data=data, out=tmp_path / "run").run()


def test_data_are_described_by_files_or_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train/ant/0.png", "train/bee/0.png", "train/.hidden", "run/config.json", "model/repertory.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "run" / "trials").mkdir()
    (tmp_path / "train" / "circle").symlink_to(tmp_path)
    few = describe_data(tmp_path, tmp_path / "out")
    assert set(few) == {"train/ant/0.png", "train/bee/0.png"}
    assert describe_data(tmp_path / "train" / "ant" / "0.png", tmp_path).keys() == {"0.png"}
    monkeypatch.setattr("repertory.execution.provenance.MANY_FILES", 1)
    many = describe_data(tmp_path, tmp_path / "out")
    assert set(many) == {"train/ant/", "train/bee/"}
    (tmp_path / "train/ant/1.png").write_text("more")
    (tmp_path / "train" / "bee" / "0.png").write_text("train/bee/1.png")  # of the same size
    changed = describe_data(tmp_path, tmp_path / "out")
    assert data_difference(many, changed) == "2 changed (train/ant/, ...)"
    assert describe_data(tmp_path, tmp_path / "train" / "ant").keys() == {"train/bee/0.png"}


# -- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(toy_net: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    Experiment(toy_net, "smoke", out=folder).run(arms=["baseline"])
    return folder


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "word", "[" * 100_000, None])
@pytest.mark.parametrize("name", ["config.json", "data.json", "trials/baseline-0/result.json"])
def test_a_damaged_file_of_a_run_is_named(toy_net: str, finished_run: Path, name: str, content: str | None) -> None:
    path = finished_run / name
    whole = path.read_bytes()
    try:
        path.unlink()
        path.mkdir() if content is None else path.write_text(content)
        with pytest.raises(Problem) as caught:
            Experiment(toy_net, "smoke", out=finished_run).run(arms=["baseline"])
        assert caught.value.where == str(path)
        assert caught.value.remedy
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("trials/baseline-0/result.json", "metrics", {"accuracy": "high"}),
        ("trials/baseline-0/result.json", "metrics", ["accuracy"]),
        ("trials/baseline-0/result.json", "seed", "x"),
        ("trials/baseline-0/result.json", "seconds", None),
        ("config.json", "versions", None),
        ("config.json", "paper", 3),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(finished_run: Path, name: str, key: str, value: Any) -> None:
    path = finished_run / name
    whole = path.read_text()
    path.write_text(json.dumps({**json.loads(whole), key: value}))
    with pytest.raises(Damaged, match=key) as caught:
        Result.read(finished_run)
    path.write_text(whole)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("damage", [b"", b"junk", "half", "other"])
def test_a_damaged_resume_point_is_set_aside_and_its_loop_starts_anew(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | str
) -> None:
    whole, _ = Experiment(toy_net, "smoke", out=tmp_path / "whole").train()
    trial = interrupted_training(Experiment(toy_net, "smoke", out=tmp_path / "model"), monkeypatch)
    point = trial / "resume" / "loop"
    if damage == "other":
        torch.save({"step": 1}, point)
    else:
        point.write_bytes(point.read_bytes()[: point.stat().st_size // 2] if damage == "half" else bytes(damage))  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match=r"loop is damaged .* kept as loop\.damaged1"):
        folder, _ = Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_damaged_checkpoint_inside_a_run_is_set_aside_and_trained_anew(toy_net: str, tmp_path: Path) -> None:
    first = Experiment(toy_net, "smoke", out=tmp_path).run(arms=["baseline"])
    trial = tmp_path / "trials" / "baseline-0"
    (trial / "result.json").unlink()
    weights = trial / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.warns(UserWarning, match=r"checkpoint is damaged .* kept as checkpoint\.damaged1"):
        again = Experiment(toy_net, "smoke", out=tmp_path).run(arms=["baseline"])
    assert again.metrics == first.metrics
    assert (trial / "checkpoint.damaged1").is_dir()


@pytest.mark.parametrize("change", [{"seed": "x"}, {"seed": -1}, {"seed": [0]}, {"config": [1]}, {"paper": {}}])
def test_a_model_directory_with_wrong_fields_is_refused(toy_net: str, tmp_path: Path, change: dict[str, Any]) -> None:
    about = {"class": "toy_package.model:ToyNet", "paper": toy_net, "seed": 0, "config": {}, **change}
    (tmp_path / checkpoint.ABOUT).write_text(json.dumps(about))
    with pytest.raises(Problem):
        models.evaluate(tmp_path, None, tmp_path / "scratch")


# -- interruption -------------------------------------------------------------------------------


def test_an_interrupted_fresh_goes_on(toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        Experiment(toy_net, "smoke", out=tmp_path).run(fresh=True)

    def cut(self: Any, arm: str, data: Any) -> torch.nn.Module:
        if arm == toy_net:
            raise KeyboardInterrupt
        return train(self, arm, data)

    run()
    first = (tmp_path / "trials" / "baseline-0" / "result.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        train = Experiment(toy_net, "smoke").study.train
        patch.setattr(Experiment(toy_net, "smoke").study, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            run()
    kept = (tmp_path / "trials" / "baseline-0" / "result.json").stat().st_mtime_ns
    assert kept > first, "a finished run is started over"
    run()
    assert (tmp_path / "trials" / "baseline-0" / "result.json").stat().st_mtime_ns == kept, "an interrupted one goes on"
    run()
    assert (tmp_path / "trials" / "baseline-0" / "result.json").stat().st_mtime_ns > kept


def test_what_killed_processes_left_is_neither_published_nor_kept(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(toy_net, "smoke", out=tmp_path / "model")
    trial = interrupted_training(experiment, monkeypatch)
    for name in (".checkpoint.abc.new", ".table.csv.123.new"):
        (trial / name).mkdir()
    (tmp_path / ".model.abcd1234.new").mkdir()
    (tmp_path / ".model.abcd1234.new" / "half").write_text("")
    with monkeypatch.context() as patch:  # killed between the renaming and the clean-up
        patch.setattr(shutil, "rmtree", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            experiment.train()
    folder, metrics = Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert not [p.name for p in folder.rglob("*") if p.name.startswith(".")]
    with pytest.raises(Problem, match="there is a model already"):
        Experiment(toy_net, "smoke", out=tmp_path / "model").train()


def test_a_trial_is_finished_when_its_result_says_so(toy_net: str, finished_run: Path) -> None:
    trials = Experiment(toy_net, "smoke", out=finished_run).trials(1)
    assert [finished(trial) for trial in trials] == [True, False, True]
