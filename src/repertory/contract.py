"""What every paper keeps, built in or brought by another package: the same checks for all.

    repertory check my_paper          # one line a check

and in a package's own tests, one test a check:

    @contract.parametrize("my_paper")
    def test_contract(paper: str, check: contract.Check) -> None:
        check(paper)

Several checks look at one smoke run, which is made once per paper and process. Checks that take minutes are marked
`slow`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json
import math
import multiprocessing
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin
from unittest import mock

from annotated_types import Ge, Gt, Le, Lt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from repertory import catalog
from repertory.core.card import Card, Compare
from repertory.core.problem import Problem, require
from repertory.core.study import Session, Study, undeclared
from repertory.execution import models
from repertory.execution.experiment import Experiment
from repertory.verdicts.results import MEASURE, Result
from repertory.verdicts.sequential import LOOKS

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

SCALES = ("smoke", "laptop", "paper")
KEYWORDS = 3
"""Fewest keywords of a card."""
CHINESE = re.compile(r"[\u4e00-\u9fff]")
TIMED = re.compile("per_second|speed")
"""Names of metrics that are measured times, or their ratios, which no seed fixes."""


class Room:
    """One paper under examination. What several checks need is made once, in a folder of its own.

    Raises:
        Problem: the card or the study does not load, or the paper's extra is not installed (names the pip command).
    """

    def __init__(self, paper: str) -> None:
        self.paper = paper
        self.card: Card = catalog.card(paper)
        if command := missing_extra(paper):
            raise Problem(f"packages that {paper} needs are not installed", f"extra = {self.card.extra!r}", command)
        self.study: type[Study] = catalog.load(paper)
        self._temporary = tempfile.TemporaryDirectory(prefix=f"check-{paper}-")
        self.folder = Path(self._temporary.name)

    @functools.cached_property
    def smoke(self) -> Result:
        """The smoke run of all arms, as `repertory run` carries it out."""
        return Experiment(self.paper, "smoke", out=self.folder / "smoke").run()

    @functools.cached_property
    def sample(self) -> Path:
        """The sample of the smoke scale, as `repertory sample` writes it."""
        return self.write_sample("smoke")

    def write_sample(self, scale: str) -> Path:
        folder = self.folder / f"sample-{scale}"
        folder.mkdir()
        Experiment(self.paper, scale).study_in(self.folder / "scratch").write_sample(folder)
        return folder


@dataclass(frozen=True)
class Check:
    """One thing that every paper keeps. Called with an identifier, it raises AssertionError where it is not kept."""

    examine: Callable[[Room], None]
    slow: bool = False

    @property
    def name(self) -> str:
        return self.examine.__name__

    def __call__(self, paper: str) -> None:
        self.examine(_room(paper))


@dataclass(frozen=True)
class Finding:
    """What a check found in a paper."""

    check: Check
    error: str
    """Why it failed, with the traceback where there is one; empty: it passed."""

    @property
    def line(self) -> str:
        """The finding in one line."""
        why = self.error.strip().splitlines()[-1:]
        return f"failed  {self.check.name}: {why[0]}" if why else f"passed  {self.check.name}"


@functools.lru_cache(maxsize=1)  # checks come paper by paper; the folder goes with the room
def _room(paper: str) -> Room:
    return Room(paper)


def checks(slow: bool = False) -> list[Check]:
    """The checks, in order; with `slow` those that take minutes too."""
    return [check for check in CHECKS if slow or not check.slow]


def check_paper(paper: str, slow: bool = False) -> Iterator[Finding]:
    """Examine one paper; findings as they come. Where it does not load, that is the only finding.

    Raises:
        Problem: no such paper.

    Example:
        >>> next(check_paper("emo")).error
        ''
    """
    catalog.folder(paper)
    _room.cache_clear()
    for check in checks(slow):
        try:
            check(paper)
            error = ""
        except AssertionError as failure:
            error = str(failure)
        except Problem as problem:
            error = "; ".join(str(problem).splitlines())
        except Exception as failure:  # whatever the paper's own code raises
            error = "".join(traceback.format_exception_only(failure)).strip()
        yield Finding(check, error)
        if error and check is CHECKS[0]:
            return


def parametrize(*papers: str) -> pytest.MarkDecorator:
    """A pytest mark that makes a test of (paper, check) one test per paper and check.

    Slow checks carry the mark `slow`; those of a paper whose extra is not installed are skipped with the pip command.

    Args:
        papers: identifiers; default: all that are installed.
    """
    pytest = require("pytest", extra="test")
    params = []
    for paper in papers or catalog.packages():
        command = missing_extra(paper)
        absent = [pytest.mark.skip(reason=command)] if command else []
        for check in CHECKS:
            marks = [*absent, *([pytest.mark.slow] if check.slow else [])]
            params.append(pytest.param(paper, check, id=f"{paper}-{check.name}", marks=marks))
    return pytest.mark.parametrize(("paper", "check"), params)


# -- what a paper needs -------------------------------------------------------------------------


def missing_extra(paper: str) -> str:
    """The pip command that installs what a paper needs and is not there; empty: nothing is missing."""
    try:
        extra = catalog.card(paper).extra
    except Problem:
        return ""  # the check of the card says what is wrong with it
    distribution = catalog.distribution(paper)
    missing = [name for name in _requirements(distribution, extra) if not _installed(name)]
    return f"pip install '{distribution}[{extra}]'" if extra and missing else ""


def _extras(distribution: str) -> list[str]:
    return importlib.metadata.metadata(distribution).get_all("Provides-Extra") or []


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def _requirements(distribution: str, extra: str = "") -> frozenset[str]:
    """Names of the distributions that one needs, directly or through others; with those that an extra adds."""
    found: set[str] = set()
    todo = [(canonicalize_name(distribution), extra)]
    seen = set(todo)
    while todo:
        name, asked = todo.pop()
        if not _installed(name):
            continue
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in {"", asked}):
                continue
            found.add(canonicalize_name(needed.name))
            fresh = {(canonicalize_name(needed.name), e) for e in ("", *needed.extras)} - seen
            seen |= fresh
            todo += fresh
    return frozenset(found)


def undeclared_packages(paper: str) -> frozenset[str]:
    """The distributions that extras bring, but neither the base installation nor the extra that the card names."""
    distribution = catalog.distribution(paper)
    declared = _requirements(distribution, catalog.card(paper).extra) | _requirements(catalog.OWN)
    optional = {name for d in {distribution, catalog.OWN} for extra in _extras(d) for name in _direct(d, extra)}
    return frozenset(optional - declared - {canonicalize_name(d) for d in (distribution, catalog.OWN)})


def _direct(distribution: str, extra: str) -> set[str]:
    """What one extra itself names."""
    parsed = [Requirement(line) for line in importlib.metadata.requires(distribution) or ()]
    return {canonicalize_name(r.name) for r in parsed if r.marker and r.marker.evaluate({"extra": extra})}


# -- a process of its own -----------------------------------------------------------------------


def _in_fresh_process(paper: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function where neither the paper's code nor packages that it does not declare have been imported.

    What the house imports itself is preloaded once: a fork of that costs a tenth of a new interpreter.
    """
    forked = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload([models.__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        hidden = undeclared_packages(paper)
        return pool.submit(_surrounded, dict(os.environ), hidden, function, *arguments).result()


def _surrounded(environ: Mapping[str, str], hidden: frozenset[str], function: Callable[..., T], *arguments: Any) -> T:
    os.environ.update(environ)  # the server that this process is forked from may have started under another
    sys.meta_path[:] = [_Hiding(finder, hidden) for finder in sys.meta_path]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


class _Hiding:
    """A finder of modules and distributions that does not find some distributions, as if they were not installed."""

    def __init__(self, finder: Any, distributions: frozenset[str]) -> None:
        self.finder, self.distributions = finder, distributions
        self.modules = {module for name in distributions if _installed(name) for module in _modules(name)}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.modules else self.finder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Iterator[importlib.metadata.Distribution]:
        for found in getattr(self.finder, "find_distributions", lambda _: ())(context):
            if canonicalize_name(found.metadata["Name"] or "") not in self.distributions:
                yield found


def _modules(distribution: str) -> set[str]:
    """The top-level modules that a distribution installs."""
    files = importlib.metadata.files(distribution) or ()
    roots = {path.parts[0].partition(".")[0] for path in files if path.suffix in (".py", ".so", ".pyd")}
    return {root for root in roots if root.isidentifier()}


# -- the checks: each says what a paper keeps ---------------------------------------------------


def _demand(kept: object, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)


def it_loads(room: Room) -> None:
    """Card and study are there and valid, the claims test what the study has, and the packages are installed."""


def the_card_is_complete(room: Room) -> None:
    """Keywords to be found by, both languages; an extra that the distribution has."""
    card = room.card
    _demand(len(card.keywords) >= KEYWORDS, f"keywords: {len(card.keywords)}, at least {KEYWORDS} are needed")
    _demand(any(CHINESE.search(word) for word in card.keywords), "keywords: none is Chinese")
    _demand(not all(CHINESE.search(word) for word in card.keywords), "keywords: none is English")
    texts = {"summary": card.summary} | {f"claim {claim.id}": claim.text for claim in card.claim}
    for place, text in texts.items():
        _demand(CHINESE.search(text.zh), f"{place}: zh is not Chinese")
    distribution = catalog.distribution(room.paper)
    _demand(
        not card.extra or card.extra in _extras(distribution),
        f"extra: {distribution} has none that is called {card.extra!r}",
    )


def the_study_fits_the_card(room: Room) -> None:
    """Scales, arms and method are there."""
    study = room.study
    missing = [scale for scale in SCALES if scale not in study.scales]
    _demand(not missing, f"scales: {', '.join(missing)} missing")
    for scale, config in study.scales.items():
        _demand(type(config) is study.Config, f"scale {scale}: not a {study.Config.__name__}")
    _demand(study.method in study.arms, f"method: {study.method!r} is not an arm")
    _demand(MEASURE not in study.arms, f"arms: none may be called {MEASURE!r}")
    unknown = [name for name in study.sample_fields if name not in study.Config.model_fields]
    _demand(not unknown, f"sample_fields: the configuration has no {', '.join(unknown)}")


def the_claims_can_be_decided(room: Room) -> None:
    """A comparison says from where on its effect matters, or what a control must reach; scales stop at a look."""
    for claim in room.card.claim:
        for test in claim.test:
            if not isinstance(test, Compare) or test.exact:
                continue
            place = f"claim {claim.id}, {test.metric} of {test.arm}"
            if test.margin < 0:
                _demand(test.assay, f"{place}: non-inferiority needs `assay`, what a working control reaches")
            else:
                effect = test.margin + test.least
                _demand(effect > 0, f"{place}: `least` is missing, the smallest effect that matters")
            _demand(test.fixed, f"{place}: `fixed` is missing, the day of margin, `least` and `assay`")
    for scale in {"laptop", "desk"} & set(room.study.scales):
        seeds = room.study.scales[scale].seeds
        _demand(seeds in LOOKS, f"scale {scale}: {seeds} seeds; verdicts are formed at {', '.join(map(str, LOOKS))}")


def settings_are_documented_and_bounded(room: Room) -> None:
    """Every field of the configuration has a description; a number has bounds."""
    for name, field in room.study.Config.model_fields.items():
        _demand(field.description, f"setting {name}: no description")
        kind = field.annotation
        alternatives = set(get_args(kind)) if get_origin(kind) in (Union, UnionType) else {kind}
        numeric = alternatives - {NoneType} <= {int, float}
        bounded = any(isinstance(part, Ge | Gt | Le | Lt) for part in field.metadata)
        _demand(bounded or not numeric, f"setting {name}: no bounds (ge, gt, le, lt)")


def the_usage_snippet_runs(room: Room) -> None:
    """The card's snippet runs as it stands, with no package but those that the paper declares."""
    folder = room.folder / "usage"
    folder.mkdir(exist_ok=True)
    error = _in_fresh_process(room.paper, _execute, room.card.usage, folder)
    _demand(not error, error)


def _execute(snippet: str, folder: Path) -> str:
    """Run a snippet as a script in `folder`; gives the traceback, empty if there is none."""
    os.chdir(folder)
    try:
        exec(compile(snippet, "usage", "exec"), {"__name__": "__main__"})
    except BaseException:
        return traceback.format_exc()
    return ""


def the_smoke_run_succeeds(room: Room) -> None:
    """Every arm trains and is evaluated at the smoke scale, and a report comes of it."""
    run = room.smoke
    for outcome in run.failures:
        raise AssertionError(f"arm {outcome.arm}: {outcome.error}")
    absent = set(room.study.arms) - {outcome.arm for outcome in run.outcomes if outcome.metrics}
    _demand(not absent, f"no metrics of {', '.join(sorted(absent))}")
    _demand((room.folder / "smoke" / "report.html").stat().st_size > 1000, "report.html is empty")


def metrics_are_declared(room: Room) -> None:
    """`Study.metrics` names all that the smoke run gives."""
    given = {name for outcome in room.smoke.outcomes for name in outcome.metrics} | set(room.smoke.figures)
    unknown = undeclared(room.study, sorted(given))
    _demand(not unknown, f"metrics: {', '.join(unknown)} not declared")


def training_is_deterministic_and_resumes(room: Room) -> None:
    """The method by itself, interrupted in its loop and resumed, ends with the very metrics of the smoke run.

    What the other arms of that run left behind must not matter to it either.
    """
    expected = _method_metrics(room)
    experiment = Experiment(room.paper, "smoke", out=room.folder / "resumed")
    interruptions, metrics = 0, {}
    for steps in (1, 2, sys.maxsize):
        try:
            with _interrupted_after(room.study, steps):
                _, metrics = experiment.train()
            break
        except KeyboardInterrupt:
            interruptions += 1
    _demand(interruptions, "training has no loop of session.progress, so it cannot be interrupted and resumed")
    differing = _differing(metrics, expected)
    _demand(not differing, f"resumed after interruptions, or without the other arms, it gives other {differing}")


@contextlib.contextmanager
def _interrupted_after(study: type[Study], steps: int) -> Iterator[None]:
    """Inside, the loops of `train` raise KeyboardInterrupt after so many steps; all steps are kept on disk."""
    left, training = steps, False
    progress, train = Session.progress, study.train

    def counted(self: Session, *words: Any, **options: Any) -> Iterator[Any]:
        nonlocal left
        for item in progress(self, *words, **options):
            if training and left == 0:
                raise KeyboardInterrupt
            before = left
            yield item
            if left == before:  # else an inner loop has counted its own steps
                left -= training

    def watched(self: Study, arm: str, data: Any) -> Any:
        nonlocal training
        training = True
        try:
            return train(self, arm, data)
        finally:
            training = False

    with (
        mock.patch.object(Session, "progress", counted),
        mock.patch.object(study, "train", watched),
        mock.patch.dict(os.environ, REPERTORY_KEEP_SECONDS="0"),
    ):
        yield


def _method_metrics(room: Room) -> dict[str, float]:
    """Metrics of the method in the smoke run."""
    outcome = next(outcome for outcome in room.smoke.outcomes if outcome.arm == room.study.method)
    _demand(not outcome.error, f"the smoke run failed: {outcome.error}")
    return outcome.metrics


def _differing(metrics: Mapping[str, float], expected: Mapping[str, float], rel: float = 0.0) -> str:
    """The metrics that are not the same, with both values; times do not count."""
    listed = [
        f"{name} ({metrics.get(name)}, not {expected.get(name)})"
        for name in sorted({*metrics, *expected})
        if not TIMED.search(name) and not _same(metrics.get(name), expected.get(name), rel)
    ]
    return ", ".join(listed)


def _same(a: float | None, b: float | None, rel: float) -> bool:
    if a is None or b is None:
        return False
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=rel, abs_tol=rel)


def the_model_works_elsewhere(room: Room) -> None:
    """Loaded in another process, the method gives the same metrics and predicts the same about the sample.

    That process sees no package but those that the paper declares.
    """
    expected = _method_metrics(room)
    model = room.folder / "smoke" / "trials" / f"{room.study.method}-{room.smoke.outcomes[0].seed}" / "checkpoint"
    source = None
    here = ""
    if room.study.predict is not Study.predict:
        source = room.sample  # the whole folder, which every study accepts
        prediction = models.predict(model, source, room.folder / "here")
        _demand(prediction.table or prediction.text, "predict gives neither text nor table")
        _demand(prediction.figures, "predict draws nothing, and people would rather look")
        here = _written(prediction)
    metrics, there = _in_fresh_process(room.paper, _use, model, source, room.folder / "there")
    differing = _differing(metrics, expected, rel=1e-12)
    _demand(not differing, f"evaluated in another process, it gives other {differing}")
    _demand(there == here, f"predicted in another process, it says {there[:300]}, not {here[:300]}")


def _use(model: Path, source: Path | None, folder: Path) -> tuple[dict[str, float], str]:
    written = _written(models.predict(model, source, folder)) if source else ""
    return models.evaluate(model, None, folder), written


def _written(prediction: Any) -> str:
    shown = {"text": prediction.text, "table": prediction.table, "figures": sorted(prediction.figures)}
    return json.dumps(shown, default=str)


def the_published_recipe_builds(room: Room) -> None:
    """The method at the paper scale: two steps on the sample, then an evaluation."""
    experiment = Experiment(room.paper, "paper", data=room.sample, out=room.folder / "published", dry_run=True)
    experiment.train()


def every_arm_of_the_published_recipe_builds(room: Room) -> None:
    """All arms at the paper scale, and what is measured there: two steps on the sample of the laptop scale."""
    sample = room.write_sample("laptop")
    run = Experiment(room.paper, "paper", data=sample, out=room.folder / "all-published", dry_run=True).run(seeds=1)
    for outcome in run.failures:
        raise AssertionError(f"arm {outcome.arm}: {outcome.error}")
    absent = set(room.study.arms) - set(run.metrics)
    _demand(not absent, f"no metrics of {', '.join(sorted(absent))}")


def the_smoke_run_is_deterministic(room: Room) -> None:
    """Run again, every arm and every measured figure is the same, times apart."""
    again = Experiment(room.paper, "smoke", out=room.folder / "again").run()
    for arm, seeds in room.smoke.metrics.items():
        for seed, metrics in seeds.items():
            differing = _differing(again.metrics[arm][seed], metrics)
            _demand(not differing, f"run again, arm {arm} gives other {differing}")
    differing = _differing(again.figures, room.smoke.figures)
    _demand(not differing, f"measured again, it gives other {differing}")


CHECKS: tuple[Check, ...] = (
    Check(it_loads),
    Check(the_card_is_complete),
    Check(the_study_fits_the_card),
    Check(the_claims_can_be_decided),
    Check(settings_are_documented_and_bounded),
    Check(the_usage_snippet_runs),
    Check(the_smoke_run_succeeds),
    Check(metrics_are_declared),
    Check(training_is_deterministic_and_resumes),
    Check(the_model_works_elsewhere),
    Check(the_published_recipe_builds),
    Check(every_arm_of_the_published_recipe_builds, slow=True),
    Check(the_smoke_run_is_deterministic, slow=True),
)
