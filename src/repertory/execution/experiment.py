"""Experiments: arms x seeds = trials, resumable.

A run directory holds config.json (with versions and commit), data.json (which files the data were),
trials/<arm>-<seed>/ (result.json, metrics.jsonl, figures/, checkpoint/), verdict.json and report.html. Every file is
written whole. Running again skips what is finished and goes on with what is not.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import Progress
from torch import nn

from repertory import catalog
from repertory.core import checkpoint
from repertory.core.card import Card
from repertory.core.fabric import Fabric
from repertory.core.files import (
    check_output,
    read_json,
    remove_leftovers,
    replace_folder,
    scratch_folder,
    write_json,
    write_text,
)
from repertory.core.loops import Diverged
from repertory.core.problem import Damaged, Problem
from repertory.core.settings import OWN, changed, check_arms, own_config, study_config
from repertory.core.study import Session, Study
from repertory.execution.executors import Execute, announce, executor, progress_display
from repertory.execution.hardware import Hardware
from repertory.execution.looks import Effort, closing, first_step, next_step
from repertory.execution.model_card import model_card
from repertory.execution.options import check_options
from repertory.execution.plan import plan
from repertory.execution.provenance import commit, data_difference, describe_data, provenance
from repertory.execution.trials import Trial, about, finished, forget_data, perform, single, write_outcome
from repertory.reports.html import Report
from repertory.verdicts.judge import open_tests
from repertory.verdicts.results import MEASURE, DataFile, read_run_file, read_stored
from repertory.verdicts.sequential import LOOKS

CONFIG, DATA, METRICS = "config.json", "data.json", "metrics.json"
MOST_SEEDS = 10_000


class Experiment:
    """One paper's study at one scale: `repertory.study("emo", scale="laptop")`.

    Args:
        paper: identifier.
        scale: "smoke", "laptop", "desk" or "paper"; for `train` also "own", the published recipe fitted to the data.
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
        # Nobody has looked at the user's own data: their seeds, and published splits, start at 0.
        fresh = {} if data is None else {"first_seed": 0}
        changes = {**fresh, **(settings or {})}
        self.config = own_config(self.study, changes) if scale == OWN else study_config(self.study, scale, changes)
        self.scale, self.given = scale, frozenset(settings or {})
        self.data = None if data is None else Path(data).absolute()
        folder = out or Path("runs") / paper / (f"{scale}-dry" if dry_run else scale)
        self.out = Path(os.path.realpath(folder))
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
        if isinstance(seeds, int) and seeds > MOST_SEEDS:
            raise Problem(f"{seeds} repetitions", "--seeds", f"ask for {MOST_SEEDS} at most")
        first, count = self.config.first_seed, self.config.seeds if seeds is None else seeds
        numbers = count if isinstance(count, Sequence) else range(first, first + count)
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
                seed=first,
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
        until_decided: bool = False,
        max_seeds: int = LOOKS[-1],
        budget: float = math.inf,
        jobs: int = 1,
        ray: str | None = None,
        fresh: bool = False,
        console: Console | None = None,
        on_look: Callable[[Report], object] | None = None,
    ) -> Report:
        """Execute the trials that are not finished, judge the claims, write the report.

        A run until decided gives every arm the seeds of the first scheduled look, forms verdicts, and goes on with the
        arms of undecided tests, the cheapest first, look by look. No verdict is formed between looks. Interrupted, the
        same call goes on with the look that was under way.

        Args:
            seeds: how many repetitions, or which; default: the scale's.
            arms: which arms; default: all.
            until_decided: add seeds until every claim is decided.
            max_seeds: last look of a run until decided, one of 5, 8, 12, 18 and 30.
            budget: seconds of wall clock that a run until decided may take: it begins no look that would take longer,
                and no trial afterwards.
            jobs: local processes.
            ray: address of a Ray cluster, or "local" for a Ray of our own; None: no Ray.
            fresh: forget earlier trials of this run directory; a --fresh that was interrupted goes on.
            console: where progress is drawn; None: quiet.
            on_look: called with the result after every look of a run until decided.

        Raises:
            Problem: the run directory holds a run of another configuration (names the fields) or of other data (names
                the files), is in use, damaged, or cannot be written to; or the options do not go together.
        """
        if self.scale == OWN:
            raise Problem("this recipe is for training on your own data", "--scale own", "repertory train --data")
        self._demand_data()
        if until_decided:
            check_options(seeds, max_seeds, budget, self.dry_run)
        wanted = list(arms or self.study.arms)
        trials = self.trials(seeds, wanted)
        if self.hardware.devices * self.hardware.num_nodes > 1 and (jobs > 1 or ray is not None):
            raise Problem(
                "several devices per trial and several trials at once", "--devices with --jobs or --ray", "choose one"
            )
        with self._opened(fresh, console) as (fabric, display), executor(fabric, display, jobs, ray) as execute:
            crew = _Crew(self, display, execute)
            if until_decided:
                effort = Effort(budget, pace=jobs)
                result = self._add_seeds(wanted, max_seeds, effort, crew, on_look)
                result = replace(result, closing=closing(self.card, result, wanted, max_seeds, effort))
            else:
                self._note(scheduled=False, under_way={})
                crew.execute(trials)
                result = self._judge()
            self._note(fresh=False)
        return result

    def _add_seeds(
        self, arms: list[str], most: int, effort: Effort, crew: _Crew, on_look: Callable[[Report], object] | None
    ) -> Report:
        """Run and judge look by look, until all is decided, at the last look, or out of budget."""
        begun, under_way = Report.read(self.out), read_run_file(self.out).under_way
        step = self.fabric.broadcast(first_step(begun, arms, most, under_way))
        number, headline = 1, f"{'going on' if under_way else 'look 1'}: {step}"
        while True:
            self._note(scheduled=True, under_way=step.seeds)
            trials = [
                trial
                for trial in self.trials(max(step.seeds.values()), step.seeds)
                if trial.point or trial.seed < self.config.first_seed + step.seeds.get(trial.arm, most)
            ]
            whole = crew.execute(trials, effort, headline)
            result = self._judge()
            if not whole:
                return result
            self._note(under_way={})
            if on_look and self.lead:
                on_look(result)
            following = self.fabric.broadcast(next_step(self.card, result, arms, most))
            if following is None or not self.fabric.broadcast(effort.fits(following)):
                return result
            claims = dict.fromkeys(claim for claim, _ in open_tests(self.card, result.verdicts))
            number, step = number + 1, following
            headline = f"look {number}: {step}; open: {', '.join(claims)}"

    def _judge(self) -> Report:
        """Read the trials, note at how many seeds they are looked at, write verdicts and report."""
        self.fabric.barrier()
        result = Report.read(self.out)
        looks = tuple(sorted({*result.looks, *(len(seeds) for seeds in result.seen.values() if seeds)}))
        result = replace(result, looks=looks)
        self._note(looks=list(looks))
        if self.lead:
            self._draw_sweeps(result)
            write_json(self.out / "verdict.json", result.to_json())
            result.write_html(self.out / "report.html")
        return result

    def _note(self, **fields: Any) -> None:
        """Change fields of config.json."""
        if self.lead:
            write_json(self.out / CONFIG, {**_read(self.out / CONFIG), **fields})

    def _draw_sweeps(self, result: Report) -> None:
        """Draw the curves beside the figures that were measured."""
        for sweep in self.study.sweeps:
            if curve := sweep.curve(getattr(self.config, sweep.values), result.figures):
                session = Session(0, self.out / "trials" / MEASURE, fabric=self.fabric)
                for name, draw in sweep.pictures.items():
                    session.figure(name, draw(curve))

    def _demand_data(self) -> None:
        """Refuse to train the published recipe on a sample: it would take days and mean nothing.

        Raises:
            Problem: the scale is "paper", and there are no data.
        """
        if self.scale == "paper" and not (self.data or self.config.real or self.dry_run):
            problem = self.study_in(Path(tempfile.gettempdir())).missing(Path("(no --data)"))
            problem.remedy += "; --dry-run shows on the sample that the recipe builds"
            raise problem

    # -- the run directory ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, fresh: bool, console: Console | None) -> Iterator[tuple[Fabric, Progress | None]]:
        """Start the processes, lock and check the run directory, draw progress: around all that trains.

        Raises:
            Problem: the folder cannot be written to, is in use, or holds a run of other settings or other data.
        """
        if self.fabric.world_size > 1 and not torch.distributed.is_initialized():
            self.fabric.launch()
        with self._claimed() if self.lead else contextlib.nullcontext():
            if self.lead:
                remove_leftovers(self.out)
                self._begin(fresh, console)
            self.fabric.barrier()
            with progress_display(console if self.lead else None) as display:
                try:
                    yield self.fabric, display
                except Problem as problem:
                    if self.lead:
                        self._note_refused(problem)
                    raise
        self.fabric.barrier()

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[None]:
        """Lock the run directory; after bad input, remove what this run has made, as long as nothing was trained."""
        check_output(self.out)
        made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        begun = (self.out / CONFIG).exists()
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.out / ".lock", timeout=0):
                try:
                    yield
                except Problem as problem:
                    if not begun and not isinstance(problem, Diverged) and not self._files_of_trials():
                        self._withdraw()
                        for folder in made:
                            with contextlib.suppress(OSError):  # others have put something there
                                folder.rmdir()
                    raise
        except Timeout as error:
            raise Problem("another process runs in this run directory", self.out, "wait, or choose --out") from error

    def _files_of_trials(self) -> list[Path]:
        return [path for name in ("trials", "shared") for path in (self.out / name).rglob("*") if path.is_file()]

    def _withdraw(self) -> None:
        """Remove the files of a run that has trained nothing, and its empty folders."""
        for name in (CONFIG, DATA, ".lock"):
            (self.out / name).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.out, topdown=False):
            if Path(folder) != self.out:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def _begin(self, fresh: bool, console: Console | None) -> None:
        """Write config.json and data.json, or compare them with those that are there.

        Raises:
            Damaged: one of them cannot be read.
            Problem: they are of another configuration, of other data, or not ours.
        """
        config, data = self._head(), self._describe_data()
        self._refuse_foreign_files()
        try:
            difference = self._difference(config, data) if (self.out / CONFIG).exists() else ""
        except Damaged as damage:
            if not fresh:
                raise
            difference = damage.what
        if fresh and (self.out / CONFIG).exists():
            if difference or not self._interrupted_fresh():
                for name in ("trials", "shared"):
                    shutil.rmtree(self.out / name, ignore_errors=True)
                for name in (DATA, CONFIG):
                    (self.out / name).unlink(missing_ok=True)
            elif console:
                console.print(f"going on with the --fresh that was interrupted; delete {self.out} to start over")
        elif difference:
            raise Problem(difference, self.out, "choose another --out, or --fresh to start over")
        if (self.out / CONFIG).exists():
            config = {**_read(self.out / CONFIG), "config": config["config"]}
        else:
            config |= {**provenance(), "fresh": fresh}
        write_json(self.out / DATA, {"files": data, "refused": []})
        write_json(self.out / CONFIG, config)

    def _head(self) -> dict[str, Any]:
        """What config.json says of this run: all that another run must share to go on with its trials."""
        return {
            "paper": self.card.id,
            "scale": self.scale,
            "data": self.study_in(self.out).data_name(),
            "data_dir": None if self.data is None else str(self.data),
            "dry_run": self.dry_run,
            "hardware": vars(self.hardware),
            "config": self.config.model_dump(mode="json"),
        }

    def _refuse_foreign_files(self) -> None:
        """A run directory that is none of ours: nothing may be written or removed there."""
        ours = (self.out / CONFIG).exists() and not (self.out / checkpoint.ABOUT).exists()
        found = [name for name in (checkpoint.ABOUT, "trials", "shared", DATA) if (self.out / name).exists()]
        if found and not ours:
            raise Problem(f"this is no run directory: it holds {found[0]}", self.out, "choose another --out")

    def _difference(self, config: dict[str, Any], data: dict[str, str]) -> str:
        """What differs between this run and the one in the run directory; "" if nothing does."""
        read_run_file(self.out)
        # Settings that are newer than the run had their defaults then.
        fields = self.study.Config.model_fields.items()
        defaults = {name: known.get_default(call_default_factory=True) for name, known in fields}
        new = _flat({"config": to_jsonable_python(defaults, fallback=str)})
        before, now = new | _flat(_read(self.out / CONFIG)), _flat(config)
        free = {f"config.{name}" for name in self.study.Config.free_to_change}
        differing = [name for name in now if name not in free and before.get(name) != now[name]]
        if differing:
            listed = ", ".join(
                f"{name.removeprefix('config.')}: {before.get(name)} -> {now[name]}" for name in differing
            )
            return f"this run directory holds trials of another configuration ({listed})"
        if not (self.out / DATA).exists():  # written by an earlier version
            return ""
        theirs = _data_file(self.out)
        known, mended = theirs.files, set(theirs.refused)
        points = [path.parents[1] for path in self._files_of_trials() if path.parent.name == "resume"]
        if any(not (trial / "checkpoint").exists() for trial in points):
            mended &= data.keys()  # in half a training, a step number means another position if an item is gone
        changed = data_difference(
            {name: digest for name, digest in known.items() if name not in mended},
            {name: digest for name, digest in data.items() if name not in mended},
        )
        return f"the data have changed since this run began: {changed}" if changed else ""

    def _describe_data(self) -> dict[str, str]:
        study = self.study_in(self.out)
        source = study.data_source()
        if source is None:
            return {f"sample {study.data_name()}": study.sample_key()}
        return describe_data(study.data_folder(), self.out)

    def _note_refused(self, problem: Problem) -> None:
        """Remember which files a Problem complained about: the user may mend these, and go on."""
        source = self.study_in(self.out).data_source()
        if source is None or not (self.out / DATA).exists():
            return
        content = _data_file(self.out)
        places = {name: str(source if source.is_file() else source / name) for name in content.files}
        refused = {name for name, place in places.items() if place in problem.where}
        if refused:
            refused |= set(content.refused)
            write_json(self.out / DATA, {"files": content.files, "refused": sorted(refused)})

    def _interrupted_fresh(self) -> bool:
        """Whether the run directory holds a --fresh of this very code that did not come to its end."""
        theirs = read_run_file(self.out)
        return theirs.fresh and theirs.commit == commit()

    def reusable(self) -> bool:
        """Whether a recording may go on with the trials in the run directory.

        They are of this configuration and data, and of a --fresh that did not come to its end or of this very code.
        """
        if not (self.out / CONFIG).exists() or self._difference(self._head(), self._describe_data()):
            return False
        computed_by = {origin.commit for origin in Report.read(self.out).origins}
        return read_run_file(self.out).fresh or (computed_by == {commit()} and commit()[-1:] not in ("", "+"))

    # -- one model ------------------------------------------------------------------------------

    def train(
        self, arm: str | None = None, seed: int = 0, console: Console | None = None, *, fresh: bool = False
    ) -> tuple[Path, dict[str, float]]:
        """Train one arm (default: the method) into the model directory `out`, and evaluate it.

        Interrupted, it goes on where it was when called again.

        Args:
            arm: which arm.
            seed: repetition number.
            console: where progress is drawn; None: quiet.
            fresh: forget an earlier training that did not end.

        Returns:
            The model directory and the metrics on the held-out data.

        Raises:
            Problem: as `run` does; or there is a model already, or the folder is not empty.
            Diverged: the loss is not finite.
        """
        self._demand_data()
        if self.scale == OWN:
            with scratch_folder() as folder:
                study = self.study_in(folder)
                self.config = study.scaled(study.data(), self.given)
        work = copy.copy(self)
        work.fabric = self.fabric  # launched once, for both
        work.out = self.out.with_name(f".{self.out.name}.training")
        arm = arm or self.study.method
        trial = next(t for t in work.trials([seed], [arm]) if t.arm == arm and not t.point)
        if os.path.exists(self.out / checkpoint.ABOUT):  # noqa: PTH110  False for a name too long, too
            if work._is_published(trial, self.out):  # killed before it could clean up
                shutil.rmtree(work.out)
                return self.out, _read(self.out / METRICS)
            raise Problem("there is a model already", self.out, "choose another --out")
        if self.lead:
            check_output(self.out, empty=True)
        with work._opened(fresh, console) as (fabric, display):
            try:
                metrics = single(
                    perform(trial, fabric, display, self._announce_plan if console and self.lead else None)
                )
            finally:
                forget_data()
            if self.lead:
                self._publish(trial, metrics)
        if self.lead:
            shutil.rmtree(work.out)
        self.fabric.barrier()
        return self.out, metrics

    def _announce_plan(self, study: Study, arm: str, data: Any) -> None:
        trials = len(self.study.arms) * self.config.seeds
        known = self.scale == "laptop" and self.data is None
        line = plan(study, arm, data, self.card.minutes / trials if known else 0.0)
        if study.session.display:
            study.session.display.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _publish(self, trial: Trial, metrics: dict[str, float]) -> None:
        """Copy the checkpoint of a trial, its figures, records and tables into the model directory, as a whole."""
        with replace_folder(self.out, empty=True) as fresh:
            shutil.copytree(trial.folder / "checkpoint", fresh, dirs_exist_ok=True)
            for made in trial.folder.iterdir():
                if made.name in ("checkpoint", "tensorboard", "resume") or _is_temporary(made):
                    continue
                if made.is_dir():
                    shutil.copytree(made, fresh / made.name)
                else:
                    shutil.copy2(made, fresh / made.name)
            write_json(fresh / METRICS, metrics)
            name = self.study_in(fresh.parent).data_name()
            write_text(fresh / "README.md", model_card(self.card, self.study, trial.arm, name, metrics))

    def _is_published(self, trial: Trial, model: Path) -> bool:
        """Whether a model directory is what this training directory has given."""
        try:
            return checkpoint.about(trial.folder / "checkpoint") == checkpoint.about(model)
        except Problem:
            return False

    def convert(self, source: Path, folder: Path, variant: str = "") -> nn.Module:
        """Turn weights that the authors released into a model directory.

        Raises:
            Problem: the folder is not empty or cannot be written to, or the weights do not fit.
        """
        check_output(folder, empty=True, remedy="name another folder")
        with scratch_folder() as scratch:
            model = self.study_in(scratch).convert(source, variant)
        origin = about(self.card.id, self.study.method, 0, self.config)
        checkpoint.save(model, folder, empty=True, **origin, source=source.name)
        told = model_card(self.card, self.study, self.study.method, "", {}, source.name)
        write_text(Path(folder) / "README.md", told)
        return model


@dataclass
class _Crew:
    """Who executes the trials of one invocation, and shows their progress."""

    experiment: Experiment
    display: Progress | None
    executed: Execute
    failed: set[Path] = field(default_factory=set)
    """Folders of trials that failed: they are tried again by the next invocation, not by this one."""

    def execute(self, trials: list[Trial], effort: Effort | None = None, headline: str = "") -> bool:
        """Execute the trials that are not finished; False where the time was not enough for all."""
        lead, fabric, display = self.experiment.lead, self.experiment.fabric, self.display
        unfinished = [t for t in trials if t.folder not in self.failed and not finished(t)] if lead else []
        pending = fabric.broadcast(unfinished)
        done, began = len(trials) - len(pending), time.monotonic()
        if headline and pending:
            self.say(headline)
        task = display.add_task("trials", total=len(trials), completed=done) if display else None
        proceed = (lambda: bool(fabric.broadcast(effort.left()))) if effort else None
        computed = 0.0
        for trial, outcome in self.executed(pending, proceed):
            if lead:
                write_outcome(trial, outcome)
            if outcome.error:
                self.failed.add(trial.folder)
            done, computed = done + 1, computed + outcome.seconds
            if display and task is not None:
                display.advance(task)
                announce(display.console, outcome, f"{done}/{len(trials)}")
        if display and task is not None:
            display.remove_task(task)
        if effort:
            effort.note(computed, time.monotonic() - began)
        fabric.barrier()
        return done == len(trials)

    def say(self, line: str) -> None:
        """Print a line beside the progress."""
        if self.display:
            self.display.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "restore the file, or use --fresh to start over")


def _data_file(run_dir: Path) -> DataFile:
    return read_stored(run_dir / DATA, DataFile, "restore the file, or use --fresh to start over")


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") or ".damaged" in path.name


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
