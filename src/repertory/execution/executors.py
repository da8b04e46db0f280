"""Where trials are executed: in this process, in several local ones, or on Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from repertory.core.problem import Problem, require
from repertory.execution.trials import Trial, attempt, forget_data
from repertory.verdicts.results import MEASURE, Outcome


def announce(console: Console, outcome: Outcome, count: str) -> None:
    """A failed trial is always said; a finished one where no bar is seen to move."""
    name = f"{count} {outcome.arm}" + ("" if outcome.arm == MEASURE else f" seed {outcome.seed}")
    if outcome.error:
        console.print(f"{name} failed: {outcome.error.strip().splitlines()[-1]}", style="red", markup=False)
    elif not console.is_terminal:
        console.print(f"{name}: {outcome.seconds:.1f} s", highlight=False)


def execute(
    trials: list[Trial], fabric: Fabric, display: Progress | None, jobs: int, ray: str | None
) -> Iterator[Outcome]:
    """Outcomes as they come, from the executor that was asked for."""
    if ray is not None:
        yield from _on_ray(trials, ray)
    elif jobs > 1:
        yield from _in_processes(trials, jobs)
    else:
        try:
            for trial in trials:
                yield attempt(trial, fabric, display)
        finally:
            forget_data()


def _in_processes(trials: list[Trial], jobs: int) -> Iterator[Outcome]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked torch with threads may hang
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        futures = [pool.submit(attempt, trial) for trial in trials]
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
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1)(attempt)
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
def progress_display(console: Console | None) -> Iterator[Progress | None]:
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
