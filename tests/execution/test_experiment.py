"""Experiments: resuming, refusing, failing in the open, and the same figures from every executor."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import repertory
from repertory import Problem
from repertory.core import checkpoint
from repertory.core.loops import Diverged
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.execution.hardware import Hardware
from repertory.verdicts.results import Result


def mtimes(run: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("trials/*/result.json")}


def test_finished_trials_are_kept_and_more_seeds_may_be_added(toy_net: str, tmp_path: Path) -> None:
    first = Experiment(toy_net, "smoke", out=tmp_path).run(seeds=1)
    before = mtimes(tmp_path)
    second = Experiment(toy_net, "smoke", out=tmp_path).run(seeds=2)
    after = mtimes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"baseline-1", "toy_net-1"}
    assert second.metrics["toy_net"][0] == first.metrics["toy_net"][0]


def test_fresh_forgets_earlier_trials(toy_net: str, tmp_path: Path) -> None:
    Experiment(toy_net, "smoke", out=tmp_path).run(seeds=1, arms=["baseline"])
    before = mtimes(tmp_path)
    again = Experiment(toy_net, "smoke", out=tmp_path, settings={"epochs": 2}).run(
        seeds=1, arms=["baseline"], fresh=True
    )
    assert mtimes(tmp_path)["baseline-0"] > before["baseline-0"]
    assert again.config["epochs"] == 2


def test_a_changed_configuration_is_refused_with_the_fields_that_differ(toy_net: str, tmp_path: Path) -> None:
    Experiment(toy_net, "smoke", out=tmp_path).run(seeds=1, arms=["baseline"])
    before = mtimes(tmp_path)
    with pytest.raises(Problem, match=r"lr: 0\.001 -> 0\.5, hidden: 32 -> 8"):
        Experiment(toy_net, "smoke", out=tmp_path, settings={"lr": 0.5, "hidden": 8}).run(seeds=1)
    assert mtimes(tmp_path) == before


def test_a_run_directory_belongs_to_one_process_at_a_time(toy_net: str, tmp_path: Path) -> None:
    experiment = Experiment(toy_net, "smoke", out=tmp_path)
    with experiment._claimed(), pytest.raises(Problem, match="another process"):
        Experiment(toy_net, "smoke", out=tmp_path).run()


def test_what_a_run_directory_holds(toy_net: str, tmp_path: Path) -> None:
    result = Experiment(toy_net, "smoke", out=tmp_path / "run").run()
    run = tmp_path / "run"
    head = json.loads((run / "config.json").read_text())
    assert {"paper", "scale", "data", "config", "versions", "commit", "date", "machine"} <= set(head)
    assert {"torch", "python", "repertory"} <= set(head["versions"])
    assert (run / "report.html").exists()
    assert json.loads((run / "verdict.json").read_text())["verdicts"][0]["claim"] == "better-than-baseline"
    trial = run / "trials" / "toy_net-0"
    assert json.loads((trial / "result.json").read_text())["metrics"] == result.metrics["toy_net"][0]
    assert (trial / "metrics.jsonl").exists()
    assert (trial / "checkpoint" / "model.safetensors").exists()
    assert not (trial / "resume").exists(), "a finished trial needs no resume point"


def test_a_trial_that_diverges_is_reported_and_keeps_the_claim_from_holding(toy_net: str, tmp_path: Path) -> None:
    settings = {"lr": 1e30, "optimizer": "sgd", "epochs": 1}
    result = Experiment(toy_net, "smoke", out=tmp_path, settings=settings).run(seeds=2)
    assert {(o.arm, o.seed) for o in result.failures} == {("toy_net", 0), ("toy_net", 1)}
    assert "the loss is" in result.failures[0].error
    assert "step" in result.failures[0].error
    (verdict,) = result.verdicts
    assert verdict.word == "undecided"
    assert "no trial" in verdict.findings[0].reason
    assert math.isnan(verdict.findings[0].estimate)
    assert "failed" in (tmp_path / "report.html").read_text()
    before = mtimes(tmp_path)
    Experiment(toy_net, "smoke", out=tmp_path, settings=settings).run(seeds=2)
    assert mtimes(tmp_path)["toy_net-0"] > before["toy_net-0"], "a failed trial is tried again"


def test_a_crash_inside_a_trial_is_reported_with_its_traceback(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(toy_net, "smoke", out=tmp_path)
    original = experiment.study.train

    def fragile(self, arm, data):
        if arm == "baseline":
            raise ZeroDivisionError("no luck")
        return original(self, arm, data)

    monkeypatch.setattr(experiment.study, "train", fragile)
    result = experiment.run(seeds=1)
    assert [o.arm for o in result.failures] == ["baseline"]
    assert "ZeroDivisionError: no luck" in result.failures[0].error
    assert result.metrics["toy_net"][0]


def test_bad_input_stops_the_run_and_leaves_nothing_behind(toy_net: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Problem, match=r"train\.csv"):
        Experiment(toy_net, "smoke", data=empty, out=tmp_path / "runs" / "toy" / "smoke").run()
    with pytest.raises(Problem, match=r"train\.csv"):
        Experiment(toy_net, "smoke", data=empty, out=tmp_path / "model").train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"scale": "huge"}, "no scale 'huge'"),
        ({"settings": {"lr": -1}}, "bad setting lr: Input should be greater than 0, got -1"),
        ({"settings": {"depth": 3}}, "no setting 'depth'"),
        ({"data": "/nowhere/at/all"}, "no data for toy_net here"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Problem, match=complaint):
        Experiment(toy_net, **options).run()
    assert not list(tmp_path.iterdir())


def test_an_unknown_arm_is_refused(toy_net: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no arm 'both'"):
        Experiment(toy_net, "smoke", out=tmp_path / "run").run(arms=["both"])
    assert not (tmp_path / "run").exists()


def test_the_published_recipe_wants_the_published_data(toy_net: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no data for toy_net") as caught:
        Experiment(toy_net, "paper", out=tmp_path / "run").run()
    assert "--dry-run" in caught.value.remedy
    dry = Experiment(toy_net, "paper", out=tmp_path / "dry", dry_run=True).run(seeds=1)
    assert dry.dry_run
    assert not dry.failures


def test_hardware_that_is_not_there_is_a_problem(toy_net: str, tmp_path: Path) -> None:
    hardware = Hardware(accelerator="tpu")
    with pytest.raises(Problem, match="this machine cannot run that"):
        Experiment(toy_net, "smoke", out=tmp_path / "run", hardware=hardware).run()
    with pytest.raises(Problem, match="several devices per trial"):
        Experiment(toy_net, "smoke", out=tmp_path / "run", hardware=Hardware("cpu", devices=2)).run(jobs=2)


# -- executors ----------------------------------------------------------------------------------


def test_processes_give_the_figures_that_an_inline_run_gives(toy_net: str, tmp_path: Path) -> None:
    inline = Experiment(toy_net, "smoke", out=tmp_path / "inline").run(seeds=2)
    processes = Experiment(toy_net, "smoke", out=tmp_path / "processes").run(seeds=2, jobs=2)
    assert not processes.failures
    assert processes.metrics == inline.metrics


def test_a_problem_in_a_worker_process_arrives_whole(toy_net: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(Problem) as caught:
        Experiment(toy_net, "smoke", data=tmp_path / "data", out=tmp_path / "run").run(jobs=2)
    assert caught.value.where.endswith("data")
    assert "repertory sample toy_net" in caught.value.remedy


# -- interruption -------------------------------------------------------------------------------

COMMAND = (sys.executable, "-m", "repertory.cli", "run", "toy_net", "--scale", "smoke", "--arms", "toy_net")
LONG = ("--set", "epochs=100", "--set", "hidden=256", "--out")


def test_kill_9_in_the_middle_of_a_trial_loses_nothing(toy_net: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REPERTORY_KEEP_SECONDS": "0.1"}
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    Experiment(toy_net, "smoke", out=disturbed, settings={"epochs": 100, "hidden": 256}).run(arms=["baseline"])
    kept = mtimes(disturbed)
    assert set(kept) == {"baseline-0", "measure"}
    process = subprocess.Popen(
        [*COMMAND, *LONG, str(disturbed)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    point = disturbed / "trials" / "toy_net-0" / "resume" / "loop"
    deadline = time.monotonic() + 300
    while not point.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert point.exists()
    assert not (disturbed / "trials" / "toy_net-0" / "result.json").exists()

    for folder in (disturbed, undisturbed):
        Experiment(toy_net, "smoke", out=folder, settings={"epochs": 100, "hidden": 256}).run(arms=["toy_net"])
    assert {name: mtimes(disturbed)[name] for name in kept} == kept, "finished trials are skipped"
    metrics = [Result.read(folder).metrics["toy_net"] for folder in (disturbed, undisturbed)]
    assert metrics[0] == metrics[1]
    records = [(f / "trials" / "toy_net-0" / "metrics.jsonl").read_text() for f in (disturbed, undisturbed)]
    assert records[0] == records[1], "no record is lost or written twice"


def test_training_a_model_goes_on_after_an_interruption(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(toy_net, "smoke", out=tmp_path / "model")
    monkeypatch.setattr(
        experiment.study, "evaluate", lambda self, model, data: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        experiment.train()
    assert not (tmp_path / "model").exists(), "half a model is no model"
    monkeypatch.undo()
    folder, metrics = Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    assert folder == tmp_path / "model"
    assert metrics["accuracy"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    with pytest.raises(Problem, match="there is a model already"):
        Experiment(toy_net, "smoke", out=tmp_path / "model").train()


def test_a_diverged_training_keeps_its_last_good_state(toy_net: str, tmp_path: Path) -> None:
    with pytest.raises(Diverged):
        Experiment(toy_net, "smoke", out=tmp_path / "model", settings={"lr": 1e30, "optimizer": "sgd"}).train()
    assert not (tmp_path / "model").exists()
    assert (tmp_path / ".model.training").exists()


# -- models and results -------------------------------------------------------------------------


def test_a_model_directory_says_where_it_comes_from(toy_net: str, tmp_path: Path) -> None:
    folder, metrics = Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    about = checkpoint.about(folder)
    assert about["paper"] == toy_net
    assert about["class"] == "toy_package.model:ToyNet"
    assert about["config"]["epochs"] == 1
    assert models.evaluate(folder, None, tmp_path / "scratch") == metrics
    with pytest.raises(Problem, match="no such file"):
        models.predict(folder, tmp_path / "absent.csv", tmp_path / "scratch")
    with pytest.raises(Problem, match="not a model directory"):
        models.evaluate(tmp_path, None, tmp_path / "scratch")


def test_training_a_model_launches_one_group_of_processes(
    toy_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several devices, a second Fabric would not be launched, and its barrier would raise."""
    made: list[Hardware] = []
    make = Hardware.fabric
    monkeypatch.setattr(Hardware, "fabric", lambda hardware: made.append(hardware) or make(hardware))
    Experiment(toy_net, "smoke", out=tmp_path / "model").train()
    assert len(made) == 1


def test_the_api_for_notebooks(toy_net: str, tmp_path: Path) -> None:
    assert toy_net in repertory.list_papers()
    assert repertory.card(toy_net).topic == "theory"
    result = repertory.study(toy_net, scale="smoke", out=tmp_path / "run").run(seeds=2)
    table = result.table()
    assert list(table["arm"]) == ["baseline", "baseline", "toy_net", "toy_net"]
    assert table["accuracy"].between(0, 100).all()
    assert "better-than-baseline" in [verdict.claim for verdict in result.verdicts]
    assert "<h1 " in result._repr_html_()

    saved = json.loads(result.save(tmp_path / "toy.json").read_text())
    again = Result.from_json(saved)
    assert again.metrics == result.metrics
    assert again.verdicts == result.verdicts
    assert saved["verdicts"][0]["sentence"].endswith("on digits, smoke")
    assert {"date", "versions", "commit", "config", "machine"} <= set(saved)
