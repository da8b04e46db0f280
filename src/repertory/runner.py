"""Experiments: arms x seeds = trials, carried out inline, in local processes or on Ray, and resumable.

A run directory holds config.json (with versions and commit), trials/<arm>-<seed>/ (result.json,
metrics.jsonl, figures/, checkpoint/), verdict.json and report.html. Every file is written whole. Running
again skips what is finished and goes on with what is not.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from repertory import catalog, checkpoint
from repertory.card import Card, explain
from repertory.files import write_json
from repertory.problem import Problem, require
from repertory.study import Prediction, Session, Study, StudyConfig
from repertory.training import Diverged
from repertory.verdict import Verdict, judge

MEASURE = "measure"
"""Folder name of the figures that need no training; no arm may be called so."""


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Weights stay in float32: evaluation runs the module by itself, outside the training loop's casts."""


@dataclass(frozen=True)
class Hardware:
    """What Lightning Fabric is told about devices."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def fabric(self) -> Fabric:
        """Raises `Problem` when this machine cannot provide it."""
        if self.precision not in PRECISIONS:
            raise Problem(f"no precision {self.precision!r}", "--precision", f"choose from {', '.join(PRECISIONS)}")
        try:
            return Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy=self.strategy,
                precision=self.precision,  # pyright: ignore[reportArgumentType]  checked by Fabric
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise Problem(
                f"this machine cannot run that: {str(error).splitlines()[0]}",
                f"devices={self.devices} strategy={self.strategy} precision={self.precision}",
                "see --accelerator, --devices, --strategy, --precision in `repertory run --help`",
            ) from error


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


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    arm: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str = ""


def study_config(study: type[Study], scale: str, changes: Mapping[str, Any] | None = None) -> StudyConfig:
    """The configuration of a scale, with fields changed.

    Raises:
        Problem: unknown scale or field, or a value out of its range.
    """
    if scale not in study.scales:
        raise Problem(f"{study.paper} has no scale {scale!r}", "--scale", f"choose from {', '.join(study.scales)}")
    return changed(study, study.scales[scale], changes)


def changed(study: type[Study], config: StudyConfig, changes: Mapping[str, Any] | None) -> StudyConfig:
    """A configuration with fields changed.

    Raises:
        Problem: unknown field, or a value out of its range.
    """
    changes = dict(changes or {})
    unknown = [name for name in changes if name not in study.Config.model_fields]
    if unknown:
        raise Problem(
            f"{study.paper} has no setting {unknown[0]!r}",
            f"--set {unknown[0]}={changes[unknown[0]]}",
            f"settings: {', '.join(study.Config.model_fields)}",
        )
    try:
        return study.Config.model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else ""
        described = study.Config.model_fields[name].description if name else ""
        raise Problem(
            f"bad setting {explain(error)}", f"--set {name}={changes.get(name)}", f"{name}: {described}"
        ) from error


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
        """Arms x seeds, seed by seed, so that an interrupted run has whole pairs.

        Raises:
            Problem: unknown arm.
        """
        wanted = list(arms or self.study.arms)
        unknown = [arm for arm in wanted if arm not in self.study.arms]
        if unknown:
            raise Problem(f"{self.card.id} has no arm {unknown[0]!r}", "--arms", f"arms: {', '.join(self.study.arms)}")
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
        # Measuring comes last: bad data are found at once, not after minutes of timing.
        return [*(replace(common, arm=arm, seed=seed) for seed in numbers for arm in wanted), common]

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
    ) -> Result:
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
        from repertory import report

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
                self._settle_config()
            pending = fabric.broadcast([t for t in trials if not _finished(t)] if lead else [])
            with _display(console if lead else None) as display:
                done = len(trials) - len(pending)
                task = display.add_task("trials", total=len(trials), completed=done) if display else None
                for outcome in _carry_out(pending, fabric, display, jobs, ray):
                    done += 1
                    if display and task is not None:
                        display.advance(task)
                        _announce(display.console, outcome, f"{done}/{len(trials)}")
            result = Result.read(self.out)
            if lead:
                write_json(self.out / "verdict.json", result.to_json())
                report.write_html(result, self.out / "report.html")
        fabric.barrier()
        return result

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

    def _settle_config(self) -> None:
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
            # How many seeds are wanted is no property of a trial: more may be added later.
            differing = [k for k in now if k != "config.seeds" and before.get(k) != now[k]]
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
        (trial,) = [t for t in self.trials([seed], [arm]) if t.arm != MEASURE]
        if (self.out / checkpoint.ABOUT).exists():
            raise Problem("there is a model already", self.out, "choose another --out")
        work = self.out.with_name(f".{self.out.name}.training")
        experiment = copy.copy(self)
        experiment.out = work
        fabric, lead = experiment._launched()
        with experiment._claimed() if lead else contextlib.nullcontext():
            if lead:
                experiment._settle_config()
            fabric.barrier()
            with _display(console if lead else None) as display:
                trial = replace(trial, run_dir=str(work))
                metrics = _perform(trial, fabric, display)
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

    def convert(self, source: Path, folder: Path, variant: str = "") -> nn.Module:
        """Turn weights that the authors released into a model directory."""
        with tempfile.TemporaryDirectory() as scratch:
            model = self.study_in(Path(scratch)).convert(source, variant)
        checkpoint.save(model, folder, **about(self.card.id, self.study.method, 0, self.config), source=source.name)
        return model


# -- models on disk -----------------------------------------------------------------------------


def about(paper: str, arm: str, seed: int, config: StudyConfig) -> dict[str, Any]:
    """What a model directory says of its origin."""
    return {"paper": paper, "arm": arm, "seed": seed, "config": config.model_dump(mode="json"), **provenance()}


@contextlib.contextmanager
def opened(
    model_dir: Path,
    data: Path | None,
    out: Path,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Study, nn.Module]]:
    """The study and the model of a model directory, ready for `evaluate` or `predict`.

    Raises:
        Problem: not a model directory, or one of an unknown paper.
    """
    origin = checkpoint.about(model_dir)
    paper = str(origin.get("paper", ""))
    study = catalog.load(paper)
    package = catalog.packages()[paper]
    try:
        config = study.Config.model_validate(origin.get("config", {}))
    except ValidationError as error:
        raise Problem(f"the model is of another version: {explain(error)}", model_dir, "train it anew") from error
    config = changed(study, config, settings)
    fabric = Hardware().fabric()
    with _display(console) as display, torch.no_grad(), _threads(config.threads):
        session = Session(int(origin.get("seed", 0)), out, data, fabric=fabric, package=package, display=display)
        session.reseed("evaluate")
        yield study(config, session), fabric.to_device(checkpoint.load(model_dir, package))


def evaluate(model_dir: Path, data: Path | None, out: Path, console: Console | None = None) -> dict[str, float]:
    """Metrics of a saved model on the held-out part of `data`."""
    with opened(model_dir, data, out, console) as (study, model):
        return study.evaluate(model, study.data())


def predict(
    model_dir: Path,
    source: Path,
    out: Path,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Prediction:
    """What a saved model says about the user's own input; `settings` change fields of its configuration."""
    if not source.exists():
        raise Problem("no such file or folder", source, "give the path of the input to predict")
    with opened(model_dir, None, out, console, settings) as (study, model):
        return study.predict(model, source)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
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


# -- trials -------------------------------------------------------------------------------------


def _finished(trial: Trial) -> bool:
    path = trial.folder / "result.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["status"] == "done"


def _perform(trial: Trial, fabric: Fabric, display: Progress | None) -> dict[str, float]:
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
    with _threads(study.config.threads):
        session.reseed()
        return study.measure() if trial.arm == MEASURE else _train_and_evaluate(study, trial)


def _train_and_evaluate(study: Study, trial: Trial) -> dict[str, float]:
    session, fabric = study.session, study.session.fabric
    data = study.data()
    saved = trial.folder / "checkpoint"
    session.reseed("train")
    if not fabric.broadcast(saved.exists()):
        model = study.train(trial.arm, data)
        if fabric.is_global_zero:
            checkpoint.save(model, saved, **about(trial.paper, trial.arm, trial.seed, study.config))
        fabric.barrier()
    # Evaluated as loaded: what is reported is what the files on disk do.
    model = fabric.to_device(checkpoint.load(saved, session.package))
    session.reseed("evaluate")
    with torch.no_grad():
        metrics = {name: float(value) for name, value in study.evaluate(model, data).items()}
    session.finish()
    return metrics


def _attempt(trial: Trial, fabric: Fabric | None = None, display: Progress | None = None) -> Outcome:
    """Carry out a trial and write its result.json, also when it fails."""
    fabric = fabric or trial.hardware.fabric()
    started = time.perf_counter()
    error = ""
    metrics: dict[str, float] = {}
    try:
        metrics = _perform(trial, fabric, display)
    except Diverged as diverged:
        error = diverged.what
    except Problem:
        raise  # bad input: the other trials would fare no better
    except Exception:
        error = traceback.format_exc()
    outcome = Outcome(trial.arm, trial.seed, metrics, time.perf_counter() - started, error)
    if fabric.is_global_zero:
        result = {"status": "failed" if error else "done", **vars(outcome), "date": _now()}
        write_json(trial.folder / "result.json", result)
    return outcome


def _announce(console: Console, outcome: Outcome, count: str) -> None:
    """A failed trial is always said; a finished one where no bar is seen to move."""
    name = f"{count} {outcome.arm}" + ("" if outcome.arm == MEASURE else f" seed {outcome.seed}")
    if outcome.error:
        console.print(f"{name} failed: {outcome.error.strip().splitlines()[-1]}", style="red", markup=False)
    elif not console.is_terminal:
        console.print(f"{name}: {outcome.seconds:.1f} s", highlight=False)


def _carry_out(
    trials: list[Trial], fabric: Fabric, display: Progress | None, jobs: int, ray: str | None
) -> Iterator[Outcome]:
    """Outcomes as they come, from the executor that was asked for."""
    if ray is not None:
        yield from _on_ray(trials, ray)
    elif jobs > 1:
        yield from _in_processes(trials, jobs)
    else:
        for trial in trials:
            yield _attempt(trial, fabric, display)


def _in_processes(trials: list[Trial], jobs: int) -> Iterator[Outcome]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked torch with threads may hang
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        futures = [pool.submit(_attempt, trial) for trial in trials]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _on_ray(trials: list[Trial], address: str) -> Iterator[Outcome]:
    ray = require("ray", extra="ray")
    started = not ray.is_initialized()
    if started:
        if address == "local":
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a Ray of our own listens to this machine only
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="warning")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
    try:
        gpus = 1 if torch.cuda.is_available() else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1)(_attempt)
        waiting = [remote.remote(trial) for trial in trials]
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Problem) else error) from error
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def _display(console: Console | None) -> Iterator[Progress | None]:
    if console is None:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as display:
        yield display


# -- results ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """All that a run directory, or a recorded result, says. In a notebook it shows itself as the report."""

    paper: str
    scale: str
    data: str
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str
    date: str
    outcomes: tuple[Outcome, ...]
    figures: dict[str, float]
    """What `Study.measure` gave."""
    folder: Path | None = None
    dry_run: bool = False
    machine: str = ""

    @classmethod
    def read(cls, run_dir: Path) -> Result:
        """Read a run directory. Raises `Problem` if it is none."""
        try:
            head = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise Problem("not a run directory", run_dir, "give the folder that `repertory run --out` wrote") from error
        results = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(run_dir.glob("trials/*/result.json"))]
        measured = next((r for r in results if r["arm"] == MEASURE), {"metrics": {}})
        arms = list(catalog.load(head["paper"]).arms)
        trials = sorted((r for r in results if r["arm"] in arms), key=lambda r: (arms.index(r["arm"]), r["seed"]))
        return cls(
            head["paper"], head["scale"], head["data"], head["config"], head["versions"], head["commit"], head["date"],
            tuple(_outcome(r) for r in trials), _numbers(measured["metrics"]), run_dir,
            head["dry_run"], head["machine"],
        )  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Result:
        """From what `save` wrote."""
        names = ("paper", "scale", "data", "config", "versions", "commit", "date", "machine", "dry_run")
        return cls(
            **{name: content[name] for name in names},
            outcomes=tuple(_outcome(t) for t in content["trials"]),
            figures=_numbers(content["figures"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the folder, with the verdicts."""
        names = ("paper", "scale", "data", "dry_run", "date", "machine", "versions", "commit", "config", "figures")
        return {
            **{name: getattr(self, name) for name in names},
            "trials": [vars(outcome) for outcome in self.outcomes],
            "verdicts": [_verdict_json(v) for v in self.verdicts],
        }

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file: date, versions, configuration, all metrics, verdicts."""
        write_json(Path(path), self.to_json())
        return Path(path)

    @property
    def metrics(self) -> dict[str, dict[int, dict[str, float]]]:
        """arm -> seed -> metric -> value; a failed trial is there, empty."""
        table: dict[str, dict[int, dict[str, float]]] = {}
        for outcome in self.outcomes:
            table.setdefault(outcome.arm, {})[outcome.seed] = outcome.metrics
        return table

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each claim of the card."""
        return judge(catalog.card(self.paper), self.metrics, self.figures, self.data, self.scale)

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error]

    @property
    def seconds(self) -> float:
        """Time that the trials took, summed."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def table(self) -> Any:
        """One row per trial, as a pandas DataFrame: arm, seed, seconds, error, and every metric."""
        import pandas

        return pandas.DataFrame(
            [{"arm": o.arm, "seed": o.seed, **o.metrics, "seconds": o.seconds, "error": o.error} for o in self.outcomes]
        )

    def _repr_html_(self) -> str:
        from repertory import report

        return report.html_body(self)


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(fields["arm"], fields["seed"], _numbers(fields["metrics"]), fields["seconds"], fields["error"])


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: it is stored as null."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    findings = [{**vars(f), "accepted": list(f.accepted)} for f in verdict.findings]
    return {"claim": verdict.claim, "verdict": verdict.word, "sentence": verdict.sentence, "tests": findings}


# -- provenance ---------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Date, versions, commit and machine, as results carry them."""
    names = ("repertory", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "scipy", "scikit-learn")
    versions = {name: importlib.metadata.version(name) for name in names}
    cores = os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {cores} cores"
    return {
        "date": _now(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": commit(),
        "machine": device,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str:
    """The commit of the checkout that this package is imported from, with "+" if it is changed; "" outside one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}+" if head and git("status", "--porcelain", "--", str(here)) else head
    except OSError:  # no git here
        return ""


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
