"""The contract that every paper keeps: present and future rooms have the same furniture."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.study import Session, Study
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.verdicts.results import MEASURE

PAPERS = list(catalog.packages())
every_paper = pytest.mark.parametrize("paper", PAPERS)


def figures_apart(metrics: dict[str, float]) -> dict[str, float]:
    """Without measured times and their ratios, which no seed can fix."""
    return {name: value for name, value in metrics.items() if "per_second" not in name and "speed" not in name}


@every_paper
def test_the_card_is_complete(paper: str) -> None:
    card, study = catalog.card(paper), catalog.load(paper)
    assert {"smoke", "laptop", "paper"} <= set(study.scales)
    assert study.method in study.arms
    assert MEASURE not in study.arms
    assert any("\u4e00" <= sign <= "\u9fff" for sign in card.summary.zh)
    tested = {name for claim in card.claim for test in claim.test for name in _arms_of(test)}
    assert tested <= set(study.arms), "a claim tests an arm that the study does not have"
    for name, field in study.Config.model_fields.items():
        assert field.description, f"setting {name} is not documented"
    for scale, config in study.scales.items():
        assert type(config) is study.Config, scale


def _arms_of(test: object) -> list[str]:
    names = [getattr(test, "arm", ""), *getattr(test, "controls", ())]
    return [name for name in names if name]


@every_paper
def test_the_usage_snippet_runs(paper: str, tmp_path: Path) -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", catalog.card(paper).usage], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 60


@every_paper
def test_the_smoke_scale_is_quick_and_deterministic(paper: str, tmp_path: Path) -> None:
    first = Experiment(paper, "smoke", out=tmp_path / "first").run()
    assert not first.failures, first.failures[0].error
    assert first.seconds < 20
    assert set(first.metrics) == set(catalog.load(paper).arms)
    assert all(o.metrics for o in first.outcomes)
    assert (tmp_path / "first" / "report.html").stat().st_size > 1000
    # The second time: the method alone, so that nothing of the other arms' making can leak into it.
    method = catalog.load(paper).method
    second = Experiment(paper, "smoke", out=tmp_path / "second").run(arms=[method])
    assert second.metrics[method] == {seed: first.metrics[method][seed] for seed in second.metrics[method]}
    assert figures_apart(second.figures) == figures_apart(first.figures)


@every_paper
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of training, several times, then resumed: the very same metrics."""
    study = catalog.load(paper)
    undisturbed = Experiment(paper, "smoke", out=tmp_path / "undisturbed").run(seeds=1, arms=[study.method])
    monkeypatch.setenv("REPERTORY_KEEP_SECONDS", "0")
    steps = _interrupted_training(monkeypatch, study)
    disturbed = Experiment(paper, "smoke", out=tmp_path / "disturbed")
    interruptions = 0
    for steps["left"] in (1, 2, 3):
        with contextlib.suppress(KeyboardInterrupt):
            disturbed.run(seeds=1, arms=[study.method])
            break
        interruptions += 1
    assert interruptions
    steps["left"] = sys.maxsize
    assert disturbed.run(seeds=1, arms=[study.method]).metrics == undisturbed.metrics


def _interrupted_training(monkeypatch: pytest.MonkeyPatch, study: type[Study]) -> dict[str, int]:
    """Let the loops of `train` raise KeyboardInterrupt when the count of steps that is left to them is used up."""
    steps = {"left": sys.maxsize, "training": 0}
    progress, train = Session.progress, study.train

    def counted(self: Session, *words: Any, **options: Any) -> Iterator[Any]:
        for item in progress(self, *words, **options):
            if steps["training"] and steps["left"] == 0:
                raise KeyboardInterrupt
            yield item
            steps["left"] -= steps["training"]

    def watched(self: Study, arm: str, data: Any) -> Any:
        steps["training"] = 1
        try:
            return train(self, arm, data)
        finally:
            steps["training"] = 0

    monkeypatch.setattr(Session, "progress", counted)
    monkeypatch.setattr(study, "train", watched)
    return steps


PREDICT = """
import json, sys
from pathlib import Path
import torch
from repertory.execution import models
torch.set_num_threads(1)
prediction = models.predict(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
metrics = models.evaluate(Path(sys.argv[1]), None, Path(sys.argv[3]))
print(json.dumps({"text": prediction.text, "table": prediction.table, "figures": sorted(prediction.figures),
                  "metrics": metrics}, default=str))
"""


@every_paper
def test_the_method_saves_loads_elsewhere_and_predicts_the_same(paper: str, tmp_path: Path) -> None:
    folder, metrics = Experiment(paper, "smoke", out=tmp_path / "model").train()
    source = _sample(paper, "smoke", tmp_path)  # the whole folder, which every study must accept
    here = models.predict(folder, source, tmp_path / "scratch")
    assert here.table or here.text
    assert here.figures, "people would rather look"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(folder), str(source), str(tmp_path / "there")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["table"] == json.loads(json.dumps(here.table, default=str))
    assert there["text"] == here.text
    assert there["metrics"] == pytest.approx(metrics, nan_ok=True, rel=1e-12)
    assert isinstance(checkpoint.load(folder, catalog.packages()[paper]), torch.nn.Module)


def _sample(paper: str, scale: str, tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    folder.mkdir()
    Experiment(paper, scale).study_in(tmp_path / "scratch").write_sample(folder)
    return folder


@every_paper
def test_the_paper_scale_builds(paper: str, tmp_path: Path) -> None:
    """Two steps of every arm of the published recipe, on the sample."""
    sample = _sample(paper, "laptop", tmp_path)
    result = Experiment(paper, "paper", data=sample, out=tmp_path / "run", dry_run=True).run(seeds=1)
    assert not result.failures, result.failures[0].error
    assert set(result.metrics) == set(catalog.load(paper).arms)
