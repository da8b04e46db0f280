"""Where trials are executed: in this process, in several local ones, or on Ray."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import secrets
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from repertory.core.allocator import keep_memory
from repertory.core.fabric import Fabric
from repertory.core.printing import print_warning
from repertory.core.problem import Problem, reason, require
from repertory.execution.provenance import origin
from repertory.execution.trials import Trial, attempt, forget_data
from repertory.verdicts.results import MEASURE, Outcome

TOKEN = secrets.token_hex(32)
"""Of the Ray that this process starts; Ray reads it once."""
SPAWN = multiprocessing.get_context("spawn")  # a forked torch with threads may hang
SECONDS_TO_END = 10.0
"""How long an idle worker may take to end."""


def announce(console: Console, outcome: Outcome, count: str) -> None:
    """Print a failed trial always, a finished one where no bar is drawn."""
    name = f"{count} {outcome.arm}" + ("" if outcome.arm == MEASURE else f" seed {outcome.seed}")
    if outcome.error:
        console.print(f"{name} failed: {outcome.error.strip().splitlines()[-1]}", style="red", markup=False)
    elif not console.is_terminal:
        console.print(f"{name}: {outcome.seconds:.1f} s", highlight=False)


Proceed = Callable[[], bool]
"""Asked before a trial begins; once it says no, the trials under way are finished and no other begins."""
Execute = Callable[[list[Trial], Proceed | None], Iterator[tuple[Trial, Outcome]]]
"""Gives trials with their outcomes as they come."""


@contextlib.contextmanager
def executor(fabric: Fabric, display: Progress | None, jobs: int, ray: str | None) -> Iterator[Execute]:
    """What executes trials, several times in a row where seeds are added: workers stay until the end."""
    if ray is not None:
        with _ray(ray) as connection:
            yield functools.partial(_on_ray, connection)
    elif jobs > 1:
        workers = _Workers(jobs)
        try:
            yield workers.execute
        finally:
            workers.stop()
    else:
        try:
            yield functools.partial(_inline, fabric, display)
        finally:
            forget_data()


def _inline(
    fabric: Fabric, display: Progress | None, trials: list[Trial], proceed: Proceed | None
) -> Iterator[tuple[Trial, Outcome]]:
    for trial in trials:
        if proceed and not proceed():
            return
        yield trial, attempt(trial, fabric, display)


def _ended(trial: Trial, how: str) -> Outcome:
    """The outcome of a trial whose process ended without one."""
    reason = f"the process of this trial ended without a result ({how}): killed, out of memory, or crashed"
    return Outcome(trial.name, trial.seed, {}, 0.0, f"{reason}; run again to retry", **origin(trial.paper))


# -- local processes ----------------------------------------------------------------------------


class _Worker:
    """A process that executes one trial after another, and ends when this one does."""

    seed: int | None = None
    """Of its last trial, whose data it still has."""

    def __init__(self, threads: int) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, threads), name="repertory-worker")
        with _interrupts_blocked():
            self.process.start()
        theirs.close()

    def answer(self, trial: Trial) -> Outcome:
        """The outcome of the trial that was sent; raises a Problem that the worker sent instead."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            how = signal.strsignal(-code) if code < 0 else f"exit status {code}"
            return _ended(trial, str(how))
        if isinstance(answer, Problem):
            raise answer
        return answer

    def stop(self, idle: bool) -> None:
        """End the process: an idle one by itself, a busy one at once, since resume points are written whole."""
        self.connection.close()
        if idle:
            self.process.join(SECONDS_TO_END)
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits. Processes started meanwhile never see it: a terminal sends it to all, and we end them ourselves."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    keep_memory()
    warnings.showwarning = print_warning
    while True:
        try:
            trial = connection.recv()
        except EOFError:
            return
        try:
            connection.send(attempt(trial))
        except Problem as problem:
            connection.send(problem)


def _end_with_parent() -> None:
    """Exit at once when the parent has been killed: nobody holds the lock of the run directory any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _choice(waiting: Iterable[Trial], own: int | None, held: Collection[int | None]) -> Trial:
    """The trial that a worker takes: of the seed whose data it has, else of one that no other has, else the first.

    Reading or drawing data may take longer than a trial; so each seed's are read by as few workers as possible.
    """
    return min(waiting, key=lambda trial: 0 if trial.seed == own else 1 if trial.seed not in held else 2)


class _Workers:
    """Up to `jobs` workers."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.started: list[_Worker] = []
        self.idle: list[_Worker] = []

    def execute(self, trials: list[Trial], proceed: Proceed | None) -> Iterator[tuple[Trial, Outcome]]:
        """Trials with their outcomes; a worker that dies is replaced."""
        jobs, waiting = min(self.jobs, len(trials)), deque(trials)
        busy: dict[Any, tuple[_Worker, Trial]] = {}
        while waiting or busy:
            if proceed and not proceed():
                waiting.clear()
            while waiting and len(busy) < jobs:
                worker = self.idle.pop() if self.idle else self._start(jobs)
                held = {other.seed for other in self.idle} | {trial.seed for _, trial in busy.values()}
                trial = _choice(waiting, worker.seed, held)
                waiting.remove(trial)
                worker.seed = trial.seed
                busy[worker.connection] = worker, trial
                with contextlib.suppress(ConnectionError):  # it has ended: its answer says so
                    worker.connection.send(trial)
            for ready in wait(list(busy)) if busy else ():
                worker, trial = busy.pop(ready)
                outcome = worker.answer(trial)
                if worker.process.exitcode is None:
                    self.idle.append(worker)
                yield trial, outcome

    def _start(self, jobs: int) -> _Worker:
        # multiprocessing reports semaphores of workers that were killed; nothing is left of them.
        known = os.environ.get("PYTHONWARNINGS", "")
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [known, "ignore:resource_tracker:UserWarning"]))
        try:
            self.started.append(_Worker(max(1, (os.cpu_count() or 1) // jobs)))
        finally:
            os.environ["PYTHONWARNINGS"] = known
        return self.started[-1]

    def stop(self) -> None:
        """End all: idle ones by themselves, busy ones at once."""
        for worker in self.started:
            worker.stop(worker in self.idle)


# -- Ray ----------------------------------------------------------------------------------------


def _on_ray(ray: Any, trials: list[Trial], proceed: Proceed | None) -> Iterator[tuple[Trial, Outcome]]:
    gpus = 1 if torch.cuda.is_available() else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=0)(_attempt_elsewhere)
    # What Ray has queued is under way: where trials may be called off, no more are queued than can run.
    slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)) if proceed else len(trials)
    waiting, busy = deque(trials), {}
    while waiting or busy:
        if proceed and not proceed():
            waiting.clear()
        while waiting and len(busy) < max(slots, 1):
            trial = waiting.popleft()
            busy[remote.remote(trial, _run_file(trial))] = trial
        if not busy:
            return
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        trial = busy.pop(ready)
        try:
            outcome = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Problem):
                raise error.cause from error
            outcome = Outcome(trial.name, trial.seed, {}, 0.0, str(error), **origin(trial.paper))
        except ray.exceptions.RayError as error:  # a worker or a machine is gone
            outcome = _ended(trial, f"{type(error).__name__}: {reason(error)}")
        yield trial, outcome


@contextlib.contextmanager
def _ray(address: str) -> Iterator[Any]:
    """A connection to Ray, closed afterwards unless it was there before.

    A Ray of our own listens to 127.0.0.1 alone, and wants a token that this process and its children know: whoever
    can submit a task can run anything.
    """
    ray = require("ray", extra="ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        if address == "local":
            with _private_ray(ray):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    log_to_driver=False,
                    logging_level="error",
                )
            address = ray.util.get_node_ip_address()
            if address != "127.0.0.1":
                raise Problem(f"Ray would listen to the network, at {address}", "--ray", "give the address of a Ray")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _private_ray(ray: Any) -> Iterator[None]:
    """Settings for starting a Ray that only this process can use."""
    # Ray replaces 127.0.0.1 by an address of the network, unless it may not form a cluster: a variable that Ray reads
    # when it is imported, and its processes when they start.
    single = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before = dict(os.environ)
    clustered = ray._private.ray_constants.ENABLE_RAY_CLUSTER
    os.environ[single] = "0"
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.pop("RAY_AUTH_MODE", None)  # then a token is demanded
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
    try:
        yield
    finally:
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = clustered
        for name in (single, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
        os.environ.update(before)


def _run_file(trial: Trial) -> bytes:
    path = Path(trial.run_dir) / "config.json"
    return path.read_bytes() if path.exists() else b""


def _attempt_elsewhere(trial: Trial, run_file: bytes) -> Outcome:
    """Execute a trial on a worker of Ray; on a machine that does not share the run directory, bring its files back."""
    keep_memory()
    outcome = attempt(trial)
    if _run_file(trial) != run_file:
        left_out = ("tensorboard", "resume")
        for path in sorted(trial.folder.rglob("*")):
            name = path.relative_to(trial.folder)
            if path.is_file() and name.parts[0] not in left_out and not path.name.startswith("."):
                outcome.files[name.as_posix()] = path.read_bytes()
    return outcome


@contextlib.contextmanager
def progress_display(console: Console | None) -> Iterator[Progress | None]:
    """A display for progress bars; None without a console."""
    if console is None:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as display:
        yield display
