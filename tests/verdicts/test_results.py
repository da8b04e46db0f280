"""Results: where each trial comes from, what verdicts rest on, effect sizes, outputs of the test part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repertory.core.problem import Damaged, Problem
from repertory.execution import provenance
from repertory.execution.experiment import Experiment
from repertory.verdicts.results import Origin, Outcome, Result, variance_by_source

VERSIONS = {"torch": "2.0"}


def result(**changes: Any) -> Result:
    """Of the toy paper: nine trials of each arm, without a folder."""
    outcomes = tuple(
        Outcome(arm, seed, {"accuracy": 60.0 + 20 * (arm == "wide") + seed % 4}, 1.0, card="c", commit="a")
        for arm in ("plain", "wide")
        for seed in range(9)
    )
    about = {"paper": "toy", "scale": "laptop", "data": "rings", "config": {}, "versions": VERSIONS, "commit": "a"}
    fields = {**about, "date": "", "figures": {}, "outcomes": outcomes}
    return Result(**{**fields, **changes})


# -- where trials come from ---------------------------------------------------------------------


def test_each_trial_says_what_it_ran_under_and_resuming_keeps_the_first_commit(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch": "9.9"}
    monkeypatch.setattr(provenance, "commit", lambda: "aaa")
    Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1)
    card = provenance.card_digest("toy")
    (toy / "card.toml").write_text((toy / "card.toml").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(provenance, "commit", lambda: "bbb")
    monkeypatch.setattr(provenance, "versions", lambda: versions)
    mixed = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2, arms=["plain"])

    stored = json.loads((tmp_path / "run/trials/plain-1/result.json").read_text())
    assert stored["commit"] == "bbb"
    assert stored["versions"] == versions
    assert len(card) == 12
    assert stored["card"] == provenance.card_digest("toy") != card
    assert stored["seconds"] > 0
    assert stored["date"]
    assert mixed.commit == "aaa", "what the run began with"
    assert mixed.origins == [Origin("aaa", mixed.versions, 2), Origin("bbb", versions, 1)]

    recorded = json.loads(mixed.save(tmp_path / "toy.json").read_text())
    named = {(t["arm"], t["seed"]): t for t in recorded["trials"]}
    assert named["plain", 1]["versions"] == versions
    assert "versions" not in named["plain", 0], "those of the head"
    assert [named[key]["card"] == card for key in sorted(named)] == [True, False, True]
    assert all({"commit", "card", "date"} <= set(trial) for trial in recorded["trials"])
    assert Result.from_json(recorded).origins == mixed.origins


def test_trials_of_earlier_versions_count_as_the_commit_of_the_head(toy: Path, tmp_path: Path) -> None:
    run = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=1, arms=["plain"])
    path = tmp_path / "run/trials/plain-0/result.json"
    names = ("status", "arm", "seed", "metrics", "seconds", "error")
    path.write_text(json.dumps({name: json.loads(path.read_text())[name] for name in names}))
    old = Result.read(tmp_path / "run")
    assert old.metrics == run.metrics
    assert old.origins == [Origin(run.commit, run.versions, 1)]
    assert Result.from_json(old.to_json()).origins == old.origins


# -- outputs of examples ------------------------------------------------------------------------


def test_outputs_of_a_trial_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "trials/wide-1/outputs.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, label=np.arange(3), probability=np.ones((3, 2), np.float16))
    found = result(folder=tmp_path)
    outputs = found.outputs("wide", 1)
    assert outputs["label"].tolist() == [0, 1, 2]
    assert outputs["probability"].shape == (3, 2)
    with pytest.raises(Problem, match="no outputs of this trial"):
        found.outputs("wide", 2)
    whole = path.read_bytes()
    for damage in (b"", b"junk", whole[: len(whole) // 2], whole[:60] + b"xxxxxxxxxx" + whole[70:]):
        path.write_bytes(damage)
        with pytest.raises(Damaged, match=r"outputs\.npz is damaged"):
            found.outputs("wide", 1)
    with pytest.raises(Problem, match="recorded results hold no outputs"):
        result().outputs("wide", 1)


# -- effects ------------------------------------------------------------------------------------


def test_effect_sizes_pair_seeds_and_pool_spreads(toy: Path) -> None:
    found = result()
    effect = found.effect("wide", "plain", "accuracy")
    assert (effect.difference, effect.superiority, effect.pairs) == (20.0, 1.0, 9)
    assert effect.d == pytest.approx(20 / np.std([s % 4 for s in range(9)], ddof=1))
    assert found.effect("plain", "wide", "accuracy").superiority == 0
    seen = replace(found, scheduled=True).effect("wide", "plain", "accuracy")
    assert seen.pairs == 8, "trials of an unfinished look do not count"
    with pytest.raises(Problem, match="the arm deep was not run"):
        found.effect("wide", "deep", "accuracy")


def test_interquartile_means_of_one_metric_or_several_tasks(toy: Path) -> None:
    found = result()
    means = found.interquartile_mean("accuracy")
    assert set(means) == {"plain", "wide"}
    assert means["plain"].low < means["plain"].estimate < means["plain"].high < means["wide"].low
    two = replace(
        found,
        outcomes=tuple(replace(o, metrics={**o.metrics, "other": 0.0}) for o in found.outcomes if o.arm == "wide"),
    )
    assert set(two.interquartile_mean("accuracy", "other")) == {"wide"}
    assert found.interquartile_mean("accuracy", "other") == {}


def test_variance_by_source_needs_two_runs_that_differ_in_what_varies(toy: Path) -> None:
    def run(vary: str, spread: float, **config: Any) -> Result:
        outcomes = tuple(Outcome("wide", seed, {"accuracy": spread * seed}, 1.0) for seed in range(3))
        return result(outcomes=outcomes, config={"lr": 0.1, "seeds": 3, "vary": vary, **config})

    assert variance_by_source(run("split", 2.0), run("init", 1.0, seeds=5), "accuracy", "wide") == {
        "split": 4.0,
        "init": 1.0,
    }
    with pytest.raises(Problem, match="did not vary init alone"):
        variance_by_source(run("split", 2.0), run("all", 1.0), "accuracy", "wide")
    with pytest.raises(Problem, match="differ in more than `vary`: lr"):
        variance_by_source(run("split", 2.0), run("init", 1.0, lr=0.2), "accuracy", "wide")
    with pytest.raises(Problem, match="0 finite values of top1 for wide"):
        variance_by_source(run("split", 2.0), run("init", 1.0), "top1", "wide")
