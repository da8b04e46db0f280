"""How a paper's claims are tested: a study, its configuration, and the session it runs in."""

from __future__ import annotations

import base64
import copy
import functools
import html
import io
import json
import math
import os
import random
import re
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock
from rich.progress import Progress
from torch import Tensor, nn

from repertory.core import checkpoint
from repertory.core.fabric import Fabric
from repertory.core.files import cache_dir, replace_folder, set_aside, write_bytes, write_text
from repertory.core.problem import Damaged, Problem, SetAside, is_system_fault, reason, system_problem
from repertory.core.settings import C, Design, StudyConfig, real_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Measured", "Metric", "Prediction", "Session", "Study", "StudyConfig", "real_data", "set_generators"]

T = TypeVar("T")
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)

Vary = Literal["all", "split", "init"]

Measured = float | list[float]
"""An exact figure, or the medians of a timing."""

DRY_RUN_STEPS = 2
SPLIT_KEYS = frozenset({"split", "labels"})
"""First words of keys whose draws choose data: they follow `Session.split_seed`."""
SCALING = "loss_scaling"
"""Entry of a resume point with the state of the gradient scaler of 16-mixed precision."""
SHOWN = 8
"""Rows of a prediction's table that a notebook shows."""
BOARD_SECONDS = 10.0
"""Between two times that TensorBoard events are forced to disk."""
OUTPUTS = "outputs.npz"
"""File of a trial with what came out for each example of the test part."""


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how it is written; reports, plots and verdicts take it from here.

    Example:
        >>> Metric("top-1 accuracy", "top-1 准确率", unit="%", better="higher", decimals=1).unit
        '%'
    """

    en: str
    zh: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    """Empty: neither (a count, a share that only describes)."""
    decimals: int | None = None
    """None: four significant digits."""
    needs: str = ""
    """What the data must have for the metric to exist, in words ("true labels"); empty: nothing."""

    def __getitem__(self, lang: str) -> str:
        return self.zh if lang == "zh" else self.en


def find_metric(metrics: Mapping[str, Metric], name: str) -> Metric | None:
    """The declaration of a metric: that of its name, else of the longest template that it fits; None if undeclared.

    "{x}" in a declared name stands for a number or a word, and is filled in the labels too.

    Example:
        >>> declared = {"accuracy_{x}": Metric("accuracy, {x} layers", "{x} 层的准确率", unit="%")}
        >>> find_metric(declared, "accuracy_16").en
        'accuracy, 16 layers'
        >>> find_metric(declared, "acuracy_16") is None
        True
    """
    if name in metrics:
        return metrics[name]
    for template in sorted((known for known in metrics if "{x}" in known), key=len, reverse=True):
        before, after = template.split("{x}")
        if found := re.fullmatch(rf"{re.escape(before)}([\w.+-]+){re.escape(after)}", name):
            metric, x = metrics[template], found[1]
            return replace(metric, en=metric.en.replace("{x}", x), zh=metric.zh.replace("{x}", x))
    return None


def undeclared(study: type[Study], names: Iterable[str]) -> list[str]:
    """Those of the metrics' names that the study does not declare."""
    return [name for name in names if find_metric(study.metrics, name) is None]


@dataclass(frozen=True)
class Sweep:
    """A curve over one setting: an arm trained once, under the first seed, with each of several values of the setting.

    Every point is a trial of its own, called "alpha-10" where alpha is 10, with its own resume points and result.
    Its metrics become figures beside those of `Study.measure` ("accuracy_10"), which claims can test.
    """

    arm: str
    """The arm that is trained."""
    setting: str
    """Field of the configuration that differs from point to point."""
    values: str
    """Field of the configuration that lists the values; an empty list: no curve."""
    metrics: tuple[str, ...]
    """Metrics of `Study.evaluate` that become figures."""
    pictures: Mapping[str, Callable[[Mapping[float, Mapping[str, float]]], Figure]] = field(default_factory=dict)
    """Name -> draws the curve, from the metrics at each value."""

    def points(self, values: Iterable[float]) -> dict[str, float]:
        """Name of each point -> its value."""
        return {f"{self.setting}-{x:g}": x for x in values}

    def figures(self, curve: Mapping[float, Mapping[str, float]]) -> dict[str, float]:
        """What the points' metrics are called among the figures of a result."""
        return {
            f"{name}_{x:g}": metrics[name] for x, metrics in curve.items() for name in self.metrics if name in metrics
        }

    def curve(self, values: Iterable[float], figures: Mapping[str, float]) -> dict[float, dict[str, float]]:
        """The metrics at each value whose figures are all there: the inverse of `figures`."""
        found = {x: {name: figures.get(f"{name}_{x:g}") for name in self.metrics} for x in values}
        return {
            x: {name: value for name, value in metrics.items() if value is not None}
            for x, metrics in found.items()
            if None not in metrics.values()
        }


@dataclass(repr=False)
class Prediction:
    """What a model says about a user's own input; the command line prints and saves whatever is there.

    Arrays are saved as .npy; those with named columns (structured dtypes) as .csv.
    """

    text: str = ""
    table: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    """Files or folders (an adapted model) in the session's folder, by the name to save them under."""

    def __repr__(self) -> str:
        """Short: what there is to see is shown by a notebook, printed by the command line, or saved."""
        return "<Prediction>"

    def _repr_html_(self) -> str:
        """Text, the first rows of the table, and the figures, for notebooks."""
        import pandas as pd

        parts = [f"<pre>{html.escape(self.text)}</pre>"] if self.text else []
        if self.table:
            rest = len(self.table) - SHOWN
            head = pd.DataFrame(self.table[:SHOWN], dtype=object)
            parts.append(head.to_html(index=False, border=0, float_format="{:.4g}".format))
            parts += [f"<p>and {rest} more rows</p>"] if rest > 0 else []
        for name, figure in self.figures.items():
            stream = io.BytesIO()
            figure.savefig(stream, format="png", dpi=90, bbox_inches="tight")
            picture = base64.b64encode(stream.getvalue()).decode()
            parts.append(f'<img alt="{html.escape(name)}" src="data:image/png;base64,{picture}">')
        return "\n".join(parts)


class Session:
    """What one trial runs with: seed, devices, folders, progress display, records and resume points.

    Args:
        seed: repetition number; all randomness of the trial derives from it, but for what `vary` holds fixed.
        out_dir: folder of this trial; made if absent.
        data_dir: the user's data, or None to use the sample.
        fabric: devices, precision and strategy; default: this machine's first device in float32.
        shared_dir: where modules that several arms share are kept; default: beside the trial.
        package: import path below which stored modules may be loaded.
        dry_run: loops end after two steps.
        vary: "all", or the only source of randomness that follows the seed: "split" (what `Study.read` draws, and draws
            with a key of `SPLIT_KEYS`) or "init" (initialisation, order, augmentation, noise: all else).
        first_seed: the seed that the other source has then.
        point: name of the point, where the trial is one of a `Sweep`.
        display: a rich progress display to draw into; None draws nothing.
        keep_seconds: least time between two resume points of a loop; default: $REPERTORY_KEEP_SECONDS, or 5.

    Raises:
        Problem: $REPERTORY_KEEP_SECONDS is no number of seconds.
    """

    def __init__(
        self,
        seed: int,
        out_dir: Path,
        data_dir: Path | None = None,
        *,
        fabric: Fabric | None = None,
        shared_dir: Path | None = None,
        package: str = "repertory",
        dry_run: bool = False,
        vary: Vary = "all",
        first_seed: int = 0,
        point: str = "",
        display: Progress | None = None,
        keep_seconds: float | None = None,
    ) -> None:
        self.seed = seed
        self.out_dir = Path(out_dir)
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.fabric = fabric or Fabric(devices=1)
        self.shared_dir = shared_dir or self.out_dir / "shared"
        self.package = package
        self.dry_run = dry_run
        self.vary: Vary = vary
        self.first_seed = first_seed
        self.point = point
        self.display = display
        self.keep_seconds = _keep_seconds() if keep_seconds is None else keep_seconds
        self._kept = time.monotonic()
        self._board: _Board | None = None
        self._outputs: dict[str, np.ndarray] = {}
        self.out_dir.mkdir(parents=True, exist_ok=True)

    # -- randomness -----------------------------------------------------------------------------

    @property
    def split_seed(self) -> int:
        """The seed that data, split and sample derive from; `seed` itself numbers the trial."""
        return self.first_seed if self.vary == "init" else self.seed

    def for_data(self) -> Session:
        """The session that data are read in: all its randomness derives from `split_seed`."""
        session = copy.copy(self)
        session.seed, session.vary = self.split_seed, "all"
        return session

    def _entropy(self, *key: int | str) -> int:
        of_data = bool(key) and key[0] in SPLIT_KEYS
        seed = self.split_seed if of_data else self.first_seed if self.vary == "split" else self.seed
        words = [_word(k) if isinstance(k, str) else k for k in key]
        # As a spawn key, since entropy is padded with zeros: (seed, "a") and (seed, "a", 0) would be the same.
        return int(np.random.SeedSequence(seed, spawn_key=words).generate_state(1)[0])

    def reseed(self, *key: int | str) -> None:
        """Set the global generators (torch, numpy, random) from the seed and `key`.

        A loop that calls `session.reseed(step)` needs no stored generator state to resume exactly.
        """
        seed = self._entropy(*key)
        set_generators(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)

    def generator(self, *key: int | str) -> torch.Generator:
        """A CPU generator of its own, from the seed and `key`."""
        return torch.Generator().manual_seed(self._entropy(*key))

    def rng(self, *key: int | str) -> np.random.Generator:
        """A NumPy generator of its own, from the seed and `key`."""
        return np.random.default_rng(self._entropy(*key))

    # -- progress and records -------------------------------------------------------------------

    def progress(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Iterate with a progress bar. In a dry run it ends after two items."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # pyright: ignore[reportArgumentType]
        display = self.display if self.fabric.is_global_zero else None
        task = display.add_task(label, total=total) if display else None
        try:
            for count, item in enumerate(items, start=1):
                yield item
                if display and task is not None:
                    display.advance(task)
                if self.dry_run and count == DRY_RUN_STEPS:
                    break
        finally:
            if display and task is not None:
                display.remove_task(task)

    def log(self, step: int, *, part: str = "", **metrics: float) -> None:
        """Append to metrics.jsonl and to the TensorBoard events of this trial.

        `part` names the loop when a trial has several (a teacher's, then a student's).
        """
        if not self.fabric.is_global_zero:
            return
        values = {name: float(value) for name, value in metrics.items()}
        record = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        with (self.out_dir / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **({"part": part} if part else {}), **record}) + "\n")
        if self._board is None:
            self._board = _Board(self.out_dir / "tensorboard", step)
        self._board.add(step, {f"{part}/{name}" if part else name: value for name, value in values.items()})

    def figure(self, name: str, figure: Figure) -> Path:
        """Save a matplotlib figure as figures/<name>.png of this trial, and close it."""
        path = self.out_dir / "figures" / f"{name}.png"
        if self.fabric.is_global_zero:
            path.parent.mkdir(exist_ok=True)
            figure.savefig(path, dpi=110, bbox_inches="tight")
        figure.clear()
        return path

    def keep_outputs(self, arrays: Mapping[str, Tensor | np.ndarray], name: str = "", *, sharded: bool = False) -> None:
        """Store what came out for each example of the test part in outputs.npz of this trial, compressed.

        Labels, predictions, probabilities or losses: the first axis counts the examples, in the order of the data, so
        that trials of one seed can be compared example by example (`Result.outputs`). Integers are stored in the
        smallest type that holds them; floating-point numbers as float16 (relative error 2^-11, zero below 3e-8: enough
        for ranks, thresholds and means), as float32 where one exceeds its range. Arrays of further calls are added.

        Args:
            arrays: what it is -> (N, ...).
            name: of the test part or protocol, where there are several: arrays are called label_NAME, ...
            sharded: process r of w has the examples r, r + w, ... (`loader` with `shard`); all are gathered.
        """
        rows = {
            f"{what}_{name}" if name else what: torch.as_tensor(array).detach().cpu().numpy()
            for what, array in arrays.items()
        }
        if sharded and self.fabric.world_size > 1:
            rows = _interleaved(rows, self.fabric.world_size)
        self._outputs |= {what: _compact(array) for what, array in rows.items()}
        if self.fabric.is_global_zero:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **self._outputs)
            write_bytes(self.out_dir / OUTPUTS, buffer.getvalue())

    # -- resume points --------------------------------------------------------------------------

    def _resume_point(self, part: str) -> Path:
        return self.out_dir / "resume" / (part or "loop")

    def keep(self, step: int, *, part: str = "", now: bool = False, **state: Any) -> None:
        """Store a loop's state after `step` steps, unless the last time was less than `keep_seconds` ago.

        Values with `state_dict` / `load_state_dict` are stored through these; others must be tensors,
        numbers, strings or containers of them. The loss scale of 16-mixed precision is stored with them. `now`
        stores regardless of the time: at the end of a loop that another one follows.

        Raises:
            Problem: the disk is full, or not writable; the resume point before this one stays.
        """
        due = now or time.monotonic() - self._kept >= self.keep_seconds
        if self.fabric.world_size > 1:
            due = self.fabric.broadcast(due)
        if not due:
            return
        point = self._resume_point(part)
        fresh = point.with_name(f"{point.name}.new")
        scaling = self.fabric.strategy.precision.state_dict()
        try:
            self.fabric.save(fresh, {**state, "step": step, **({SCALING: scaling} if scaling else {})})
        except (OSError, RuntimeError) as error:
            raise checkpoint.write_problem(error, fresh) from error
        if self.fabric.is_global_zero:
            if point.is_dir():  # a sharded checkpoint is a folder
                shutil.rmtree(point)
            fresh.replace(point)
        self.fabric.barrier()
        self._kept = time.monotonic()

    def resume(self, *, part: str = "", **state: Any) -> dict[str, Any]:
        """Load what `keep` stored: modules and optimizers in place, plain values in the returned dict.

        The dict is empty when there is nothing to resume. Records past the resume point are dropped,
        since the loop will write them again.

        Raises:
            SetAside: the resume point cannot be loaded and has been renamed. `state` may be loaded in part: build the
                modules anew and call the loop again, which then starts at its first step.
        """
        saved = self._load(self._resume_point(part), state)
        if scaling := saved.pop(SCALING, None):
            self.fabric.strategy.precision.load_state_dict(scaling)
        if self.fabric.is_global_zero:
            self._drop_records_from(saved.get("step", 0), part)
        return saved

    def _load(self, point: Path, state: dict[str, Any]) -> dict[str, Any]:
        if not point.exists():
            return {}
        try:
            saved = self.fabric.load(point, dict(state), weights_only=True)
            if not isinstance(saved.get("step"), int):
                raise ValueError("it names no step")
            return saved
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch.load raises many kinds
            if isinstance(error, OSError) and is_system_fault(error):
                raise system_problem(error, point) from error
            self.fabric.barrier()  # no process is reading it any more
            if self.fabric.is_global_zero:
                warn_set_aside(point, reason(error))
            self.fabric.barrier()
            raise SetAside(
                f"the resume point was damaged ({reason(error)}) and has been set aside",
                point,
                "the same command starts this loop anew",
            ) from error

    def _drop_records_from(self, step: int, part: str) -> None:
        records = self.out_dir / "metrics.jsonl"
        if not records.exists():
            return
        kept = []
        for line in records.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                if record.get("part", "") != part or record["step"] < step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, AttributeError):  # cut short while it was written
                continue
        write_text(records, "".join(f"{line}\n" for line in kept))

    def finish(self) -> None:
        """Close the records and remove the resume points: the trial is done."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self.fabric.is_global_zero:
            shutil.rmtree(self.out_dir / "resume", ignore_errors=True)

    # -- what arms share ------------------------------------------------------------------------

    def shared(self, name: str, build: Callable[[], M]) -> M:
        """A module that several arms of one seed need (a teacher, a source model): built once, kept on disk.

        Safe when two trial processes ask at the same time: the second waits for the first. A damaged one is set
        aside, with a warning, and built anew.
        """
        folder = self.shared_dir / f"{name}-{self.seed}"
        if self.fabric.is_global_zero:
            self.shared_dir.mkdir(parents=True, exist_ok=True)
        self.fabric.barrier()
        with FileLock(f"{folder}.lock") if self.fabric.is_global_zero else _nothing():
            if self.fabric.broadcast(not self._usable(folder)):
                self.reseed("shared", name)
                built = build()
                if self.fabric.is_global_zero:
                    checkpoint.save(built, folder)
        self.fabric.barrier()
        # Loaded even by the one who built it, so that every arm starts from the very same state, also of chance.
        module: M = self.fabric.to_device(checkpoint.load(folder, self.package))
        self.reseed("after", name)
        return module

    def _usable(self, folder: Path) -> bool:
        """Whether a shared module is there; asked of the first process alone, which holds the lock."""
        if not self.fabric.is_global_zero or not folder.exists():
            return False
        try:
            checkpoint.load(folder, self.package)
        except Damaged as damage:
            warn_set_aside(folder, damage.what)
        return folder.exists()


class _Board:
    """TensorBoard events, without the queue and the thread of tensorboardX's `SummaryWriter`.

    Args:
        folder: where the file is written.
        first: step of the first record; TensorBoard drops what an earlier file says of it and later ones.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboardX import event_file_writer, summary  # here: with protobuf, and only trials write

        folder.mkdir(parents=True, exist_ok=True)
        self._events: Any = event_file_writer.event_pb2
        self._summary: Any = summary.Summary
        self._file = event_file_writer.EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._file.write_event(self._events.Event(step=first, wall_time=time.time(), session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step; they are on disk after `BOARD_SECONDS` at the latest, if more come."""
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=x) for tag, x in values.items()])
        self._file.write_event(self._events.Event(step=step, wall_time=time.time(), summary=summary))
        if time.monotonic() - self._flushed > BOARD_SECONDS:
            self._file.flush()  # waits for the disk: milliseconds
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


def _compact(array: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest type that loses nothing that matters: see `Session.keep_outputs`."""
    if array.dtype.kind == "f":
        finite = array[np.isfinite(array)]
        small = not finite.size or np.abs(finite).max() <= np.finfo(np.float16).max
        return array.astype(np.float16 if small else np.float32)
    if array.dtype.kind in "iu" and array.size:
        return array.astype(np.promote_types(np.min_scalar_type(array.min()), np.min_scalar_type(array.max())))
    return array


def _interleaved(rows: dict[str, np.ndarray], world: int) -> dict[str, np.ndarray]:
    """The examples of all processes in the order of the data: process r has r, r + w, ..."""
    parts: list[dict[str, np.ndarray]] = [{}] * world
    torch.distributed.all_gather_object(parts, rows)
    whole = {}
    for name in rows:
        shares = [part[name] for part in parts]
        whole[name] = np.empty((sum(map(len, shares)), *shares[0].shape[1:]), shares[0].dtype)
        for rank, share in enumerate(shares):
            whole[name][rank::world] = share
    return whole


@functools.cache
def _word(text: str) -> int:
    """A number for a word in a key."""
    return int.from_bytes(sha256(text.encode()).digest()[:4])


def _keep_seconds() -> float:
    word = os.environ.get("REPERTORY_KEEP_SECONDS", "5")
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:  # NaN too
        raise Problem(
            f"not a number of seconds: {word!r}", f"REPERTORY_KEEP_SECONDS={word}", "set it to 0 or more, or unset it"
        )
    return seconds


def warn_set_aside(path: Path, why: str) -> None:
    """Rename a damaged file or folder, and warn."""
    moved = set_aside(path)
    warnings.warn(f"{path} is damaged ({why}); kept as {moved.name}, and made anew", stacklevel=3)


@dataclass
class _nothing:
    """Stands for the lock in the processes that do not hold it."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Study(Design[C], ABC, Generic[C, D, M]):
    """How one paper's claims are tested. Straight-line code: a reader follows it top to bottom.

    A paper declares the class variables, those of `Design` included, and implements `write_sample`, `read`, `train`
    and `evaluate`; `measure`, `predict` and `convert` where they make sense. Type parameters: configuration, data,
    trained module.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {}
    """All that `evaluate` and `measure` give, by name; see `find_metric`. A card may test these alone."""
    sweeps: ClassVar[tuple[Sweep, ...]] = ()
    """Curves over a setting, measured beside the arms."""
    sample_name: ClassVar[str]
    """What the sample is, in a word or two: verdicts name it."""
    sample_version: ClassVar[int] = 1
    """Raise it when `write_sample` changes what it writes."""
    sample_fields: ClassVar[tuple[str, ...]] = ()
    """Config fields that `write_sample` depends on."""
    seeded_data: ClassVar[bool] = True
    """Whether `read` draws on the session's seed (a split, a choice of cases); if not, all seeds share one reading."""
    layout: ClassVar[str]
    """The folder layout that `read` expects, one path a line; shown when data are missing."""

    def __init__(self, config: C, session: Session) -> None:
        self.config = config
        self.session = session
        self.runtime: Callable[..., Tensor] | None = None
        """What `predict` runs in place of the model's forward pass, where the study has an `example`."""

    # -- data -----------------------------------------------------------------------------------

    @abstractmethod
    def write_sample(self, folder: Path) -> None:
        """Write the sample data set into an empty folder, in the real on-disk format."""

    @abstractmethod
    def read(self, folder: Path) -> D:
        """Read a data set from disk: the real one as its owners distribute it, the sample, or the user's."""

    def data(self) -> D:
        """The data of this session.

        Raises:
            Problem: the folder does not exist; names the layout expected.
        """
        reader = self if self.session.vary == "all" else type(self)(self.config, self.session.for_data())
        return reader.read(self.data_folder())

    def data_folder(self) -> Path:
        """The folder to read: the session's, else the real data set of this scale, else the sample."""
        folder = self.data_source() or self._cached_sample()
        if not folder.exists():
            raise self.missing(folder)
        return folder

    def data_source(self) -> Path | None:
        """The session's data, or the real data set of this scale; None: the sample."""
        if self.session.data_dir is None and self.config.real:
            return real_data(self.config.real)
        return self.session.data_dir

    def missing(self, folder: Path) -> Problem:
        """The Problem that says what `read` looked for and how to see an example."""
        layout = "; ".join(line.strip() for line in self.layout.strip().splitlines())
        return Problem(
            f"no data for {self.paper} here; expected: {layout}",
            folder,
            f"repertory sample {self.paper} some_dir/ writes an example in this layout",
        )

    def data_name(self) -> str:
        """What verdicts call the data."""
        if self.session.data_dir is not None:
            return self.session.data_dir.name
        return self.config.real or self.sample_name

    def sample_key(self) -> str:
        """Changes with all that the sample depends on."""
        fields = self.config.model_dump(include=set(self.sample_fields), mode="json")
        return sha256(json.dumps([self.sample_version, fields], sort_keys=True).encode()).hexdigest()[:12]

    def _cached_sample(self) -> Path:
        """Write the sample into the cache, once.

        Raises:
            Problem: the cache is full, or not writable.
        """
        folder = cache_dir() / "samples" / f"{self.paper}-{self.sample_key()}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.exists():
                    with replace_folder(folder) as fresh:
                        self.write_sample(fresh)
        except OSError as error:
            raise system_problem(
                error, error.filename or folder, "free space there, or set REPERTORY_CACHE to another folder"
            ) from error
        return folder

    # -- the experiment -------------------------------------------------------------------------

    @abstractmethod
    def train(self, arm: str, data: D) -> M:
        """Train one arm and return the module: the trained state, savable and loadable by itself."""

    def adapt(self, model: M, data: D) -> M:
        """Adapt a trained module to the held-out part of `data` without its labels; the result goes to `evaluate`.

        For methods that learn at test time. It runs with gradients and may keep resume points. The checkpoint of the
        trial stays the module that was trained.
        """
        return model

    @abstractmethod
    def evaluate(self, model: M, data: D) -> dict[str, float]:
        """Metrics of a trained (and adapted) module on the held-out part of `data`; runs without gradients."""

    def scaled(self, data: D, given: Collection[str]) -> C:
        """The configuration with published values fitted to one's own data; what the user has `given` stays."""
        return self.config

    def preview(self, arm: str, data: D) -> list[str]:
        """What `train` tells before it starts, beside items and classes: size of the network, of the input, minutes."""
        return []

    def measure(self) -> Mapping[str, Measured]:
        """Figures that need neither training nor data: parameters, multiply-accumulates, memory.

        A timing is a list of at least 5 medians of interleaved rounds (`core.timing.medians`): it has an interval.
        """
        return {}

    def measure_data(self, data: D) -> Mapping[str, Measured]:
        """Figures of the data themselves, without training."""
        return {}

    def predict(self, model: M, source: Path) -> Prediction:
        """Apply a trained module to the user's own input: a path, or words where `takes_text`."""
        raise Problem(f"{self.paper} has no predict", self.paper, f"repertory show {self.paper} tells what it offers")

    def example(self, model: M) -> dict[str, Tensor]:
        """Inputs that a model is exported with: name -> tensor of two samples, in the order of its `forward`."""
        raise Problem(f"{self.paper} has no export", self.paper, "use the model through PyTorch")

    def convert(self, source: Path, variant: str = "") -> M:
        """Build a module from weights that the authors released."""
        raise Problem(f"{self.paper}: the authors released no weights", source, "train your own: repertory train")


def set_generators(seed: int) -> None:
    """Set the global generators of torch (on the CPU), numpy and random.

    `torch.manual_seed` does too, but queues a formatted stack for each kind of device that is not in use yet:
    0.7 ms and some memory every time, more than many a training step takes.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  augmentation libraries draw from the global generator
    random.seed(seed)
