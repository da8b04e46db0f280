"""Experiments: arms x seeds = trials, resumable.

A run directory holds config.json (with versions and commit), trials/<arm>-<seed>/ (result.json,
metrics.jsonl, figures/, checkpoint/), verdict.json and report.html. Every file is written whole. Running
again skips what is finished and goes on with what is not.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.card import Card
from repertory.core.files import write_json
from repertory.core.loops import Diverged
from repertory.core.problem import Problem
from repertory.core.settings import changed, check_arms, study_config
from repertory.core.study import Session, Study
from repertory.execution.executors import announce, execute, progress_display
from repertory.execution.hardware import Hardware
from repertory.execution.plan import plan
from repertory.execution.provenance import provenance
from repertory.execution.trials import Trial, about, finished, forget_data, perform
from repertory.reports.html import Report
from repertory.verdicts.results import MEASURE


class Experiment:
    """One paper's study at one scale: `repertory.study("emo", scale="laptop")`.

    Args:
        paper: identifier.
        scale: "smoke", "laptop", "desk" or "paper".
        data: the user's data; None: the sample, or the scale's real data set.
        out: run directory; default: runs/<paper>/<scale>.
        settings: fields of the study's configuration to change.
        hardware: devices, precision, strategy.
        dry_run: two steps per loop; proves that a recipe builds.

    Raises:
        Problem: unknown paper, scale or setting, or a folder that does not exist.
    """

    def __init__(
        self,
        paper: str,
        scale: str = "laptop",
        *,
        data: str | Path | None = None,
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        hardware: Hardware | None = None,
        dry_run: bool = False,
    ) -> None:
        self.card: Card = catalog.card(paper)
        self.study: type[Study] = catalog.load(paper)
        self.config = study_config(self.study, scale, settings)
        self.scale = scale
        self.data = None if data is None else Path(data).absolute()
        self.out = Path(out or Path("runs") / paper / (f"{scale}-dry" if dry_run else scale)).absolute()
        self.hardware = hardware or Hardware()
        self.dry_run = dry_run
        if self.data is not None and not self.data.exists():
            raise self.study_in(Path(tempfile.gettempdir())).missing(self.data)

    def study_in(self, folder: Path) -> Study:
        """The study with a session in `folder`: to ask what its data are called, or to write a sample there."""
        return self.study(self.config, Session(0, folder, self.data, fabric=self.fabric))

    @functools.cached_property
    def fabric(self) -> Fabric:
        """Devices, precision and strategy of this experiment."""
        return self.hardware.fabric()

    @property
    def lead(self) -> bool:
        """Whether this is the process that writes and prints: true but for the helpers of a distributed run."""
        return self.fabric.is_global_zero

    # -- planning -------------------------------------------------------------------------------

    def trials(self, seeds: int | Sequence[int] | None = None, arms: Iterable[str] | None = None) -> list[Trial]:
        """Arms x seeds, seed by seed, so that an interrupted run has whole pairs; then the points of sweeps.

        Raises:
            Problem: unknown arm.
        """
        wanted = list(arms or self.study.arms)
        check_arms(self.study, wanted)
        numbers = range(self.config.seeds if seeds is None else seeds) if not isinstance(seeds, Sequence) else seeds
        common = Trial(
            self.card.id,
            self.config.model_dump_json(),
            MEASURE,
            0,
            str(self.out),
            None if self.data is None else str(self.data),
            self.dry_run,
            self.hardware,
        )
        points = [
            replace(
                common,
                arm=sweep.arm,
                point=name,
                config=changed(self.study, self.config, {sweep.setting: x}).model_dump_json(),
            )
            for sweep in self.study.sweeps
            if sweep.arm in wanted
            for name, x in sweep.points(getattr(self.config, sweep.values)).items()
        ]
        # Measuring comes last: bad data are found at once, not after minutes of timing.
        return [*(replace(common, arm=arm, seed=seed) for seed in numbers for arm in wanted), *points, common]

    # -- running --------------------------------------------------------------------------------

    def run(
        self,
        seeds: int | Sequence[int] | None = None,
        arms: Iterable[str] | None = None,
        *,
        jobs: int = 1,
        ray: str | None = None,
        fresh: bool = False,
        console: Console | None = None,
    ) -> Report:
        """Carry out the trials that are not finished, judge the claims, write the report.

        Args:
            seeds: how many repetitions, or which; default: the scale's.
            arms: which arms; default: all.
            jobs: local processes.
            ray: address of a Ray cluster, or "local" for a Ray of our own; None: no Ray.
            fresh: forget earlier trials of this run directory.
            console: where progress is drawn; None: quiet.

        Raises:
            Problem: the run directory holds a run of another configuration (names the fields), or is in use.
        """

        self._demand_data()
        trials = self.trials(seeds, arms)
        if self.hardware.devices * self.hardware.num_nodes > 1 and (jobs > 1 or ray is not None):
            raise Problem(
                "several devices per trial and several trials at once", "--devices with --jobs or --ray", "choose one"
            )
        fabric, lead = self._launched()
        with self._claimed() if lead else contextlib.nullcontext():
            if lead:
                if fresh:
                    shutil.rmtree(self.out / "trials", ignore_errors=True)
                    shutil.rmtree(self.out / "shared", ignore_errors=True)
                    (self.out / "config.json").unlink(missing_ok=True)
                self._write_or_check_config()
            pending = fabric.broadcast([t for t in trials if not finished(t)] if lead else [])
            with progress_display(console if lead else None) as display:
                done = len(trials) - len(pending)
                task = display.add_task("trials", total=len(trials), completed=done) if display else None
                for outcome in execute(pending, fabric, display, jobs, ray):
                    done += 1
                    if display and task is not None:
                        display.advance(task)
                        announce(display.console, outcome, f"{done}/{len(trials)}")
            result = Report.read(self.out)
            if lead:
                self._draw_sweeps(result)
                write_json(self.out / "verdict.json", result.to_json())
                result.write_html(self.out / "report.html")
        fabric.barrier()
        return result

    def _draw_sweeps(self, result: Report) -> None:
        """Draw the curves beside the figures that were measured."""
        for sweep in self.study.sweeps:
            if curve := sweep.curve(getattr(self.config, sweep.values), result.figures):
                session = Session(0, self.out / "trials" / MEASURE, fabric=self.fabric)
                for name, draw in sweep.pictures.items():
                    session.figure(name, draw(curve))

    def _demand_data(self) -> None:
        """The published recipe is for the published data: days on a sample would tell nothing."""
        if self.scale == "paper" and not (self.data or self.config.real or self.dry_run):
            problem = self.study_in(Path(tempfile.gettempdir())).missing(Path("(no --data)"))
            problem.remedy += "; --dry-run shows on the sample that the recipe builds"
            raise problem

    def _launched(self) -> tuple[Fabric, bool]:
        """Start the processes of a distributed run, once; tell whether this one leads."""
        if self.fabric.world_size > 1 and not torch.distributed.is_initialized():
            self.fabric.launch()
        return self.fabric, self.lead

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """Hold the run directory alone; leave none behind if the input turns out to be bad before any trial ends."""
        made = next((folder for folder in [*reversed(self.out.parents), self.out] if not folder.exists()), None)
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.out / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise Problem("another process runs in this run directory", self.out, "wait, or choose --out") from error
        except Problem as problem:
            if made and not isinstance(problem, Diverged) and not any(self.out.glob("trials/*/result.json")):
                shutil.rmtree(made, ignore_errors=True)
            raise

    def _write_or_check_config(self) -> None:
        """Write config.json, or hold it against the one that is there."""
        path = self.out / "config.json"
        mine = {
            "paper": self.card.id,
            "scale": self.scale,
            "data": self.study_in(self.out).data_name(),
            "data_dir": None if self.data is None else str(self.data),
            "dry_run": self.dry_run,
            "hardware": vars(self.hardware),
            "config": self.config.model_dump(mode="json"),
        }
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            before, now = _flat(theirs), _flat(mine)
            free = {f"config.{name}" for name in self.study.Config.free_to_change}
            differing = [k for k in now if k not in free and before.get(k) != now[k]]
            if differing:
                listed = ", ".join(f"{k.removeprefix('config.')}: {before.get(k)} -> {now[k]}" for k in differing)
                raise Problem(
                    f"this run directory holds trials of another configuration ({listed})",
                    self.out,
                    "choose another --out, or --fresh to start over",
                )
            mine = {**theirs, "config": mine["config"]}
            write_json(path, mine)
        else:
            write_json(path, {**mine, **provenance()})

    # -- one model ------------------------------------------------------------------------------

    def train(
        self, arm: str | None = None, seed: int = 0, console: Console | None = None
    ) -> tuple[Path, dict[str, float]]:
        """Train one arm (default: the method) into the model directory `out`, and evaluate it.

        Interrupted, it goes on where it was when called again.

        Returns:
            The model directory and the metrics on the held-out data.
        """
        self._demand_data()
        arm = arm or self.study.method
        (trial,) = [t for t in self.trials([seed], [arm]) if t.arm == arm and not t.point]
        if (self.out / checkpoint.ABOUT).exists():
            raise Problem("there is a model already", self.out, "choose another --out")
        work = self.out.with_name(f".{self.out.name}.training")
        experiment = copy.copy(self)
        experiment.out = work
        fabric, lead = experiment._launched()
        with experiment._claimed() if lead else contextlib.nullcontext():
            if lead:
                experiment._write_or_check_config()
            fabric.barrier()
            with progress_display(console if lead else None) as display:
                trial = replace(trial, run_dir=str(work))
                try:
                    metrics = perform(trial, fabric, display, self._announce_plan if console and lead else None)
                finally:
                    forget_data()
            if lead:
                write_json(trial.folder / "checkpoint" / "metrics.json", metrics)
                for made in list(trial.folder.iterdir()):  # figures, records, tables
                    if made.name not in ("checkpoint", "tensorboard"):
                        shutil.move(made, trial.folder / "checkpoint" / made.name)
                self.out.parent.mkdir(parents=True, exist_ok=True)
                if self.out.exists():  # an empty folder that the user made
                    self.out.rmdir()
                (trial.folder / "checkpoint").rename(self.out)
        if lead:
            shutil.rmtree(work)
        fabric.barrier()
        return self.out, metrics

    def _announce_plan(self, study: Study, arm: str, data: Any) -> None:
        trials = len(self.study.arms) * self.config.seeds
        known = self.scale == "laptop" and self.data is None
        line = plan(study, arm, data, self.card.minutes / trials if known else 0.0)
        if study.session.display:
            study.session.display.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def convert(self, source: Path, folder: Path, variant: str = "") -> nn.Module:
        """Turn weights that the authors released into a model directory."""
        with tempfile.TemporaryDirectory() as scratch:
            model = self.study_in(Path(scratch)).convert(source, variant)
        checkpoint.save(model, folder, **about(self.card.id, self.study.method, 0, self.config), source=source.name)
        return model


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
