"""Results: where each trial comes from, what verdicts rest on, effect sizes, outputs of the test part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repertory.execution import provenance
from repertory.execution.experiment import Experiment
from repertory.verdicts.results import Origin, Outcome, Result

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
