"""One trial: train (or resume, or load) one arm under one seed, and evaluate it."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.progress import Progress

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.files import write_json
from repertory.core.problem import Damaged, Problem, SetAside, is_system_fault, system_problem
from repertory.core.study import Session, Study, StudyConfig, warn_set_aside
from repertory.core.training import Diverged
from repertory.execution.hardware import Hardware
from repertory.execution.provenance import now, provenance
from repertory.verdicts.results import MEASURE, Outcome, read_trial_file


@dataclass(frozen=True)
class Trial:
    """One arm under one seed (or the measuring of a study, arm = "measure"): all a worker needs to know."""

    paper: str
    config: str
    """JSON of the study's configuration."""
    arm: str
    seed: int
    run_dir: str
    data_dir: str | None = None
    dry_run: bool = False
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def folder(self) -> Path:
        return Path(self.run_dir) / "trials" / (MEASURE if self.arm == MEASURE else f"{self.arm}-{self.seed}")


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
    write_json(trial.folder / "result.json", {"status": status, **outcome.to_json(), "date": now()})


def perform(trial: Trial, fabric: Fabric, display: Progress | None) -> dict[str, float]:
    """Train (or resume, or load what is trained already) and evaluate one trial; or measure the study."""
    study_class = catalog.load(trial.paper)
    session = Session(
        trial.seed,
        trial.folder,
        None if trial.data_dir is None else Path(trial.data_dir),
        fabric=fabric,
        shared_dir=Path(trial.run_dir) / "shared",
        package=catalog.packages()[trial.paper],
        dry_run=trial.dry_run,
        display=display,
    )
    study = study_class(study_class.Config.model_validate_json(trial.config), session)
    with threads(study.config.threads):
        while True:
            try:
                session.reseed()
                return study.measure() if trial.arm == MEASURE else _train_and_evaluate(study, trial)
            except SetAside:
                continue


def _train_and_evaluate(study: Study, trial: Trial) -> dict[str, float]:
    session, fabric = study.session, study.session.fabric
    data = study.data()
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
    session.reseed("evaluate")
    with torch.no_grad():
        metrics = {name: float(value) for name, value in study.evaluate(model, data).items()}
    session.finish()
    return metrics


def attempt(trial: Trial, fabric: Fabric | None = None, display: Progress | None = None) -> Outcome:
    """Execute a trial; its failure is an outcome too.

    Raises:
        Problem: bad input, or a fault of the system: the other trials would fare no better.
    """
    fabric = fabric or trial.hardware.fabric()
    started = time.perf_counter()
    error = ""
    metrics: dict[str, float] = {}
    try:
        metrics = perform(trial, fabric, display)
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
                f"{str(failure).splitlines()[0]}",
                "see its own error above, if any; the same command goes on from the last resume point",
            ) from failure
        error = traceback.format_exc()
    return Outcome(trial.arm, trial.seed, metrics, time.perf_counter() - started, error)


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
