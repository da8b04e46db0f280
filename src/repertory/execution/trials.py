"""One trial: train (or resume, or load) one arm under one seed, and evaluate it."""

from __future__ import annotations

import contextlib
import copy
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.fabric import Fabric
from repertory.core.files import write_json
from repertory.core.loops import Diverged
from repertory.core.problem import Damaged, Problem, SetAside, is_system_fault, reason, system_problem
from repertory.core.study import Measured, Session, Study, StudyConfig, warn_set_aside
from repertory.execution.hardware import Hardware
from repertory.execution.provenance import origin, provenance
from repertory.verdicts.results import MEASURE, Outcome, read_trial_file


@dataclass(frozen=True)
class Trial:
    """One arm under one seed, a point of a sweep, or the measuring of a study (arm = "measure").

    It holds all that a worker needs.
    """

    paper: str
    config: str
    """JSON of the study's configuration."""
    arm: str
    seed: int
    run_dir: str
    data_dir: str | None = None
    dry_run: bool = False
    hardware: Hardware = field(default_factory=Hardware)
    point: str = ""
    """Name of the point, where the trial is one of a sweep."""

    @property
    def name(self) -> str:
        return self.point or self.arm

    @property
    def folder(self) -> Path:
        return Path(self.run_dir) / "trials" / (MEASURE if self.arm == MEASURE else f"{self.name}-{self.seed}")


def about(paper: str, arm: str, seed: int, config: StudyConfig) -> dict[str, Any]:
    """What a model directory says of its origin."""
    return {"paper": paper, "arm": arm, "seed": seed, "config": config.model_dump(mode="json"), **provenance()}


def finished(trial: Trial) -> bool:
    """Whether the trial has ended well.

    Raises:
        Damaged: its result.json cannot be read.
    """
    try:
        return read_trial_file(trial.folder / "result.json").status == "done"
    except FileNotFoundError:
        return False


def write_outcome(trial: Trial, outcome: Outcome) -> None:
    """Write result.json of a trial, and the files that came with the outcome."""
    for name, content in outcome.files.items():
        path = trial.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    status = "failed" if outcome.error else "done"
    write_json(trial.folder / "result.json", {"status": status, **outcome.to_json()})


def perform(
    trial: Trial,
    fabric: Fabric,
    display: Progress | None,
    before_training: Callable[[Study, str, Any], None] | None = None,
) -> Mapping[str, Measured]:
    """Train (or resume, or load what is trained already) and evaluate one trial; or measure the study.

    `before_training` is called with the study, the arm and the data.
    """
    study_class = catalog.load(trial.paper)
    config = study_class.Config.model_validate_json(trial.config)
    session = Session(
        trial.seed,
        trial.folder,
        None if trial.data_dir is None else Path(trial.data_dir),
        fabric=fabric,
        shared_dir=Path(trial.run_dir) / "shared",
        package=catalog.packages()[trial.paper],
        dry_run=trial.dry_run,
        vary=config.vary,
        first_seed=config.first_seed,
        point=trial.point,
        display=display,
    )
    study = study_class(config, session)
    with threads(study.config.threads):
        while True:
            try:
                session.reseed()
                if trial.arm == MEASURE:
                    return _measure(study, trial)
                return _train_and_evaluate(study, trial, before_training)
            except SetAside:
                continue


def _measure(study: Study, trial: Trial) -> dict[str, Measured]:
    of_data = study.measure_data(_data(study, trial)) if type(study).measure_data is not Study.measure_data else {}
    return {**study.measure(), **of_data}


_latest: dict[tuple[Any, ...], Any] = {}
"""The data that this process read last, at most one entry; see `_data`."""


def _data(study: Study, trial: Trial) -> Any:
    """The data of a trial: read once per process, not once per trial.

    Every trial gets a copy, so that what it changes in place never reaches the next one.
    """
    key = (trial.paper, trial.config, trial.data_dir, study.session.split_seed if study.seeded_data else None)
    if key not in _latest:
        _latest.clear()
        _latest[key] = study.data()
    try:
        return copy.deepcopy(_latest[key])
    except Exception:  # an open file, say, cannot be copied: the trial gets the original, the next one reads anew
        return _latest.pop(key)


def forget_data() -> None:
    """Drop the data of the trials so far: before another run their files may change."""
    _latest.clear()


def _train_and_evaluate(
    study: Study, trial: Trial, before_training: Callable[[Study, str, Any], None] | None
) -> dict[str, float]:
    session, fabric = study.session, study.session.fabric
    data = _data(study, trial)
    if before_training:
        before_training(study, trial.arm, data)
    saved = trial.folder / "checkpoint"
    session.reseed("train")
    found = fabric.broadcast(saved.exists())
    if not found:
        model = study.train(trial.arm, data)
        if fabric.is_global_zero:
            checkpoint.save(model, saved, **about(trial.paper, trial.arm, trial.seed, study.config))
        fabric.barrier()
    # Evaluated as loaded: what is reported is what the files on disk do.
    try:
        model = fabric.to_device(checkpoint.load(saved, session.package))
    except Damaged as damage:
        if not found:
            raise
        fabric.barrier()
        if fabric.is_global_zero:
            warn_set_aside(saved, damage.what)
        fabric.barrier()
        raise SetAside(damage.what, saved, "the same command trains it anew") from damage
    metrics = adapt_and_evaluate(study, model, data)
    session.finish()
    return metrics


def adapt_and_evaluate(study: Study, model: nn.Module, data: Any) -> dict[str, float]:
    """Metrics of a trained module on the held-out part of `data`, after test-time adaptation where the paper has it."""
    study.session.reseed("adapt")
    with torch.enable_grad():
        model = study.adapt(model, data)
    study.session.reseed("evaluate")
    with torch.no_grad():
        return {name: float(value) for name, value in study.evaluate(model, data).items()}


def attempt(trial: Trial, fabric: Fabric | None = None, display: Progress | None = None) -> Outcome:
    """Execute a trial; its failure is an outcome too.

    Raises:
        Problem: bad input, or a fault of the system: the other trials would fare no better.
    """
    fabric = fabric or trial.hardware.fabric()
    ran_under, started = origin(trial.paper), time.perf_counter()
    error = ""
    measured: Mapping[str, Measured] = {}
    try:
        measured = perform(trial, fabric, display)
    except Diverged as diverged:
        error = diverged.what
    except Problem:
        raise
    except Exception as failure:
        if isinstance(failure, OSError) and is_system_fault(failure):
            raise system_problem(failure) from failure
        if fabric.world_size > 1 and _lost_peer(failure):
            raise Problem(
                "a process of the distributed run has ended, and the others cannot go on",
                f"{trial.arm} seed {trial.seed}, process {fabric.global_rank} of {fabric.world_size}: "
                f"{reason(failure)}",
                "see its own error above, if any; the same command goes on from the last resume point",
            ) from failure
        error = traceback.format_exc()
    repeats = {name: value for name, value in measured.items() if isinstance(value, list)}
    seconds = time.perf_counter() - started
    return Outcome(trial.name, trial.seed, single(measured), seconds, error, repeats, **ran_under)


def single(measured: Mapping[str, Measured]) -> dict[str, float]:
    """One number each: of a timing the median of its medians."""
    return {name: float(np.median(value)) for name, value in measured.items()}


def _lost_peer(error: Exception) -> bool:
    """Whether a collective failed, as it does when another process has ended."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(word in words for word in ("gloo", "nccl", "closed by peer"))
    )


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU; 0: as many as before.

    A chain of small operations gains nothing from several threads, and on a machine that does something else too
    they wait for one another: ten times slower was seen. A fixed number also fixes the order of sums.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
