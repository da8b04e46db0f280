"""Runs until decided: looks, budgets, interruption, and what they say."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from repertory import Problem, catalog
from repertory.core.study import Study
from repertory.execution import executors, looks
from repertory.execution.experiment import Experiment
from repertory.execution.looks import Effort, Step, next_step
from repertory.execution.trials import Trial
from repertory.verdicts.judge import judge
from repertory.verdicts.results import Outcome, Result, read_run_file
from tests.toy import CARD, importable, install


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch, toy: Path) -> dict[str, float]:
    """Accuracy of each arm before the noise of the seed; training costs nothing."""
    accuracy = {"plain": 50.0, "wide": 57.0}
    study = catalog.load("toy")

    def evaluate(self: Study, model: Any, data: Any) -> dict[str, float]:
        arm, seed = self.session.out_dir.name.split("-")
        noise = {"plain": [0, 3, 1, 4, 2], "wide": [2, 0, 4, 1, 3]}[arm][int(seed) % 5]
        return {"accuracy": accuracy[arm] + 2.0 * noise, "classes": 2.0}

    monkeypatch.setattr(study, "evaluate", evaluate)
    return accuracy


def seeds_of(result: Result) -> dict[str, int]:
    return {arm: len(trials) for arm, trials in result.metrics.items()}


def words_of(result: Result) -> dict[str, str]:
    return {verdict.claim: verdict.word for verdict in result.verdicts}


# -- looks --------------------------------------------------------------------------------------


def test_every_run_adds_the_numbers_of_seeds_at_which_it_judged(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert Experiment("toy", "smoke", out=run).run(seeds=5).looks == (5,)
    assert Experiment("toy", "smoke", out=run).run(seeds=8, arms=["wide"]).looks == (5, 8)
    assert Experiment("toy", "smoke", out=run).run(seeds=6).looks == (5, 6, 8)
    result = Result.read(run)
    assert result.looks == (5, 6, 8)
    assert result.verdicts[0].findings[0].method.endswith("anytime-valid"), "6 is no scheduled look"
    assert json.loads((run / "verdict.json").read_text())["looks"] == [5, 6, 8]


def test_the_first_seed_is_the_scales(toy: Path, tmp_path: Path) -> None:
    experiment = Experiment("toy", "smoke", out=tmp_path / "run", settings={"first_seed": 30})
    assert list(experiment.run(seeds=2).metrics["wide"]) == [30, 31]
    with pytest.raises(Problem, match="first_seed: 30 -> 0"):
        Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2)
    decided = experiment.run(until_decided=True, max_seeds=5)
    assert sorted(decided.metrics["plain"]) == [30, 31, 32, 33, 34]
    assert decided.completed == {"plain": 5, "wide": 5}


def test_a_setting_that_is_newer_than_the_run_had_its_default(toy: Path, tmp_path: Path) -> None:
    first = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1)
    head = json.loads((tmp_path / "run/config.json").read_text())
    for name in ("first_seed", "vary", "milestones"):
        head["config"].pop(name, None)
    (tmp_path / "run/config.json").write_text(json.dumps(head))
    assert Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1).metrics == first.metrics


def test_seeds_are_added_look_by_look_until_all_is_decided_or_at_the_last_look(
    figures: dict[str, float], tmp_path: Path
) -> None:
    figures["wide"] = 65.0
    seen: list[tuple[dict[str, int], tuple[int, ...]]] = []
    console = Console(record=True, width=200)
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(
        until_decided=True, max_seeds=12, on_look=lambda r: seen.append((seeds_of(r), r.looks)), console=console
    )
    both = lambda n: {"plain": n, "wide": n}  # noqa: E731
    assert seen == [(both(5), (5,)), (both(8), (5, 8)), (both(12), (5, 8, 12))]
    assert words_of(result) == {
        "wide-is-better": "holds",
        "plain-is-better": "fails",
        "same-classes": "undecided",
        "size": "holds",
        "at-scale": "not tested",
    }
    head = read_run_file(tmp_path / "run")
    assert (head.looks, head.scheduled, head.under_way) == ([5, 8, 12], True, {})
    said = console.export_text()
    assert "look 1: plain, wide to 5 seeds" in said
    assert "look 3: plain, wide to 12 seeds; open: " in said
    assert "same-classes" in said
    lines = result.closing.splitlines()
    assert lines[0].startswith("3 of 4 testable claims are decided, after ")
    assert lines[1:] == [
        "  wide-is-better: holds",
        "  plain-is-better: fails",
        "  size: holds",
        "  same-classes: open; 12 seeds of wide, plain, the last look, do not decide it",
    ]
    assert result.verdicts[0].findings[0].method == "t, group-sequential"


def test_when_all_is_decided_no_seeds_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = CARD.split("[[claim]]")
    install(tmp_path / "site", card="[[claim]]".join([claims[0], *claims[4:]]))
    monkeypatch.setenv("REPERTORY_CACHE", str(tmp_path / "cache"))
    with importable(tmp_path / "site"):
        result = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True)
        assert seeds_of(result) == {"plain": 5, "wide": 5}
        assert result.closing.startswith("1 of 1 testable claims are decided")


def test_only_the_arms_of_open_tests_get_more_seeds_the_cheapest_first(toy: Path) -> None:
    card = catalog.card("toy")
    (claim,) = [claim for claim in card.claim if claim.id == "wide-is-better"]
    three = ("plain", "wide", "deep")
    test = claim.test[0].model_copy(update={"over": three[:1], "least": 0.0})
    other = claim.model_copy(update={"id": "other", "test": (test.model_copy(update={"arm": "deep"}),)})
    card = card.model_copy(update={"claim": (claim, other)})

    def at(seeds: dict[str, int], seconds: dict[str, float]) -> Result:
        noise = [0.0, 9.0, 4.0, 7.0, 2.0]
        outcomes = [
            Outcome(arm, seed, {"accuracy": 50.0 + noise[(seed * k) % 5]}, seconds[arm])
            for k, (arm, count) in enumerate(seeds.items(), start=1)
            for seed in range(count)
        ]
        found = Result("toy", "laptop", "rings", {}, {}, "", "", tuple(outcomes), {}, scheduled=True, looks=(5,))
        found.__dict__["verdicts"] = judge(card, found.evidence, "rings", "laptop")
        return found

    cheap_deep = {"plain": 1.0, "wide": 10.0, "deep": 2.0}
    assert next_step(card, at(dict.fromkeys(three, 5), cheap_deep), three, 30) == Step({"deep": 8, "plain": 8}, 9.0)
    assert next_step(card, at({"plain": 8, "wide": 5, "deep": 8}, cheap_deep), three, 30) == Step(
        {"deep": 12, "plain": 12}, 12.0
    )
    assert next_step(card, at({"plain": 12, "wide": 5, "deep": 12}, cheap_deep), three, 12) == Step({"wide": 8}, 30.0)
    assert next_step(card, at(dict.fromkeys(three, 12), cheap_deep), three, 12) is None
    assert next_step(card, at(dict.fromkeys(three, 5), cheap_deep), three[:2], 30) == Step(
        {"wide": 8, "plain": 8}, 33.0
    )
    partly = at({"plain": 8, "wide": 7, "deep": 5}, cheap_deep)
    assert partly.completed == {"plain": 8, "wide": 5, "deep": 5}
    assert next_step(card, partly, ("plain", "wide"), 30) == Step({"wide": 8}, 10.0), "two of three are there"


def test_trials_of_an_unfinished_look_do_not_count(toy: Path) -> None:
    def result(**counts: int) -> Result:
        outcomes = [Outcome(arm, s, {"accuracy": 1.0 * s}, 1.0) for arm, n in counts.items() for s in range(n)]
        return Result("toy", "laptop", "rings", {}, {}, "", "", tuple(outcomes), {}, scheduled=True)

    assert {arm: len(seeds) for arm, seeds in result(plain=11, wide=8).evidence.trials.items()} == {
        "plain": 8,
        "wide": 8,
    }
    first = result(plain=5, wide=4)
    assert [finding.reason for finding in first.verdicts[0].findings] == ["the first look at wide is not finished"]
    assert len(replace(first, scheduled=False).evidence.trials["wide"]) == 4
    assert Result.from_json(first.to_json()).evidence.trials == first.evidence.trials


def test_looks_between_the_scheduled_ones_cost_width_ever_after(figures: dict[str, float], tmp_path: Path) -> None:
    Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=3)
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, max_seeds=5)
    assert result.looks == (3, 5)
    assert result.verdicts[0].findings[0].method.endswith("anytime-valid")
    assert not Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=6).scheduled
    assert len(Result.read(tmp_path / "run").seen["wide"]) == 6


def test_a_failed_trial_is_tried_once_an_invocation(
    figures: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, tries = catalog.load("toy"), []
    train = study.train

    def fragile(self: Study, arm: str, data: Any) -> Any:
        if (arm, self.session.seed) == ("wide", 6):
            tries.append(arm)
            raise ZeroDivisionError
        return train(self, arm, data)

    monkeypatch.setattr(study, "train", fragile)
    for count in (1, 2):
        result = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, max_seeds=12)
        assert len(tries) == count
        assert result.completed == {"plain": 12, "wide": 12}
    monkeypatch.undo()
    assert not Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, max_seeds=12).failures


# -- interruption -------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from repertory import catalog
from repertory.execution.experiment import Experiment
study = catalog.load("toy")
train = study.train
def dying(self, arm, data):
    if (arm, self.session.seed) == ("wide", 6):
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, arm, data)
study.train = dying
Experiment("toy", "smoke", out=sys.argv[1]).run(until_decided=True, max_seeds=12)
"""


def test_killed_in_the_middle_of_the_second_look_it_reaches_the_same_looks_and_words(toy: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(killed)], check=False)
    assert ended.returncode == -signal.SIGKILL
    head, half = read_run_file(killed), Result.read(killed)
    assert (head.looks, head.under_way) == ([5], {"plain": 8, "wide": 8})
    assert seeds_of(half) == {"plain": 7, "wide": 6}
    assert {n for v in half.verdicts for f in v.findings for n in [f.n] if v.claim != "size" and n} == {5}
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("trials/*/result.json")}

    for folder in (killed, whole):
        Experiment("toy", "smoke", out=folder).run(until_decided=True, max_seeds=12)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished trials are not repeated"
    one, other = Result.read(killed), Result.read(whole)
    assert one.looks == other.looks == (5, 8, 12)
    assert one.verdicts == other.verdicts
    assert one.metrics == other.metrics
    assert read_run_file(killed).under_way == {}


@pytest.mark.slow
def test_processes_reach_the_looks_and_words_of_an_inline_run(toy: Path, tmp_path: Path) -> None:
    inline = Experiment("toy", "smoke", out=tmp_path / "inline").run(until_decided=True, max_seeds=8)
    processes = Experiment("toy", "smoke", out=tmp_path / "jobs").run(until_decided=True, max_seeds=8, jobs=2)
    assert processes.looks == inline.looks == (5, 8)
    assert processes.verdicts == inline.verdicts
    assert processes.metrics == inline.metrics


# -- budget -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `Effort` sees: ten seconds a trial."""
    now = [0.0]
    monkeypatch.setattr(looks.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, clock: list[float], figures: dict[str, float]) -> None:
    """Trials of ten seconds on that clock."""
    study = catalog.load("toy")
    train = study.train

    def late(self: Study, arm: str, data: Any) -> Any:
        clock[0] += 10
        return train(self, arm, data)

    monkeypatch.setattr(study, "train", late)
    monkeypatch.setattr("repertory.execution.trials.time.perf_counter", lambda: clock[0])


@pytest.mark.usefixtures("slow")
def test_a_look_that_does_not_fit_the_budget_is_not_begun(tmp_path: Path) -> None:
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, budget=159)
    assert seeds_of(result) == {"plain": 5, "wide": 5}
    assert result.closing.splitlines()[0].endswith("after 1 min 40 s")
    assert "open; the budget ends before plain, wide to 8 seeds, about 1 min 0 s more" in result.closing
    assert read_run_file(tmp_path / "run").under_way == {}
    again = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, budget=60)
    assert again.looks == (5, 8), "the budget is of an invocation"


@pytest.mark.usefixtures("slow")
def test_when_the_budget_ends_amid_a_look_the_trial_under_way_is_finished_and_no_verdict_formed(tmp_path: Path) -> None:
    result = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, budget=75)
    assert seeds_of(result) == {"plain": 4, "wide": 4}
    assert result.looks == ()
    assert result.verdicts[0].findings[0].reason == "the first look at wide is not finished"
    assert read_run_file(tmp_path / "run").under_way == {"plain": 5, "wide": 5}
    assert "the budget ends before plain, wide to 5 seeds, about 20 s more" in result.closing
    console = Console(record=True, width=200)
    again = Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, budget=20, console=console)
    assert again.looks == (5,)
    assert console.export_text().startswith("going on: plain, wide to 5 seeds")


def test_no_trial_begins_once_the_budget_is_spent_in_processes_either(monkeypatch: pytest.MonkeyPatch) -> None:
    started, stopped = [], []

    class Worker:
        """Answers what it was sent, in this process."""

        seed: int | None = None

        def __init__(self, threads: int) -> None:
            self.connection, self.theirs = Pipe()
            self.process = SimpleNamespace(exitcode=None)
            started.append(self)

        def answer(self, trial: Trial) -> Outcome:
            assert self.theirs.recv() == trial
            return Outcome(trial.arm, trial.seed, {}, 1.0)

        def stop(self, idle: bool) -> None:
            stopped.append(idle)

    monkeypatch.setattr(executors, "_Worker", Worker)
    monkeypatch.setattr(executors, "wait", lambda connections: connections[:1])
    trials = [Trial("toy", "", "plain", seed, "run") for seed in range(5)]
    with executors.executor(None, None, 2, None) as execute:  # pyright: ignore[reportArgumentType]
        assert not list(execute(trials, lambda: False))
        left = iter([True, True, False])
        assert [outcome.seed for _, outcome in execute(trials, lambda: next(left, False))] == [0, 1, 2]
        assert sorted(outcome.seed for _, outcome in execute(trials, None)) == [0, 1, 2, 3, 4]
    assert len(started) == 2, "workers are kept between looks"
    assert stopped == [True, True]


def test_the_pace_of_parallel_trials_is_measured(clock: list[float]) -> None:
    effort = Effort(budget=100, pace=4)
    assert effort.fits(Step({}, 400))
    assert not effort.fits(Step({}, 401))
    effort.note(computed=60, waited=30)
    clock[0] = 30
    assert effort.expected(Step({}, 80)) == 40
    assert effort.fits(Step({}, 140))
    assert not effort.fits(Step({}, 141))


@pytest.mark.parametrize(
    ("options", "complaint", "remedy"),
    [
        ({"seeds": 5}, "until the claims are decided", "--max-seeds"),
        ({"max_seeds": 10}, "no look at 10 seeds", "5, 8, 12, 18, 30"),
        ({"budget": 0.0}, "a budget of 0 seconds", "more than nothing"),
        ({"budget": math.nan}, "a budget of nan seconds", "more than nothing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    toy: Path, tmp_path: Path, options: dict[str, Any], complaint: str, remedy: str
) -> None:
    with pytest.raises(Problem, match=complaint) as caught:
        Experiment("toy", "smoke", out=tmp_path / "run").run(until_decided=True, **options)
    assert remedy in caught.value.remedy
    assert not (tmp_path / "run").exists()
    with pytest.raises(Problem, match="dry run"):
        Experiment("toy", "smoke", out=tmp_path / "run", dry_run=True).run(until_decided=True)
