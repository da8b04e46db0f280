"""What is in the repertory: built-in papers, and those that other packages register.

Listing, showing and searching read cards only; a paper's code is imported when it is run.
Another package registers a paper under the entry-point group "repertory.papers": name = identifier,
value = import path of the paper's package, which holds card.toml and study.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

import repertory.papers as builtin
from repertory.core.card import Card, Compare, read_card
from repertory.core.files import cache_dir, write_text
from repertory.core.problem import Problem, suggest

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

    from repertory.core.settings import Design
    from repertory.core.study import Study
    from repertory.textsearch import Index

ENTRY_POINTS = "repertory.papers"
OWN = "repertory"
"""The distribution of the built-in papers."""


@dataclass(frozen=True)
class Registration:
    """Who brings a paper, and where it is."""

    package: str
    """Import path of the paper's package."""
    distribution: str
    problem: Problem | None = None
    """Why the paper cannot be used."""


@functools.cache
def _registrations() -> tuple[dict[str, Registration], list[tuple[str, Problem]]]:
    """Registrations by identifier, built-in papers first; and (distribution, problem) of those without a paper."""
    (root,) = builtin.__path__
    found = {
        path.parent.name: Registration(f"{builtin.__name__}.{path.parent.name}", OWN)
        for path in sorted(Path(root).glob("*/card.toml"))
    }
    entries, faults = _entry_points()
    for entry in entries:
        new = Registration(entry.value, _distribution_name(entry.dist))
        known = found.setdefault(entry.name, new)
        if known.package == new.package:
            continue
        clash = Problem(
            f"two packages register the paper {entry.name!r}",
            f"{known.package} of {known.distribution} and {new.package} of {new.distribution}",
            "uninstall one of them",
        )
        if known.distribution == OWN:  # nobody takes a built-in paper away
            faults.append((new.distribution, clash))
        else:
            names = " and ".join(sorted((known.distribution, new.distribution)))
            found[entry.name] = Registration(known.package, names, clash)
    return found, faults


def _entry_points() -> tuple[list[EntryPoint], list[tuple[str, Problem]]]:
    """Entry points of the group; and (distribution, problem) where entry_points.txt cannot be parsed."""
    try:
        return list(importlib.metadata.entry_points(group=ENTRY_POINTS)), []
    except Exception:  # one unparsable file hides those of all distributions: read them one by one
        entries: dict[str, list[EntryPoint]] = {}
        faults = []
        for distribution in importlib.metadata.distributions():
            name = _distribution_name(distribution)
            if name in entries:  # hidden by one that comes earlier on the path
                continue
            try:
                entries[name] = [e for e in distribution.entry_points if e.group == ENTRY_POINTS]
            except Exception as error:
                entries[name] = []
                path = distribution.locate_file("")
                faults.append((name, Problem(f"its entry points cannot be read: {error}", path, f"reinstall {name}")))
        return [entry for found in entries.values() for entry in found], faults


def _distribution_name(distribution: Distribution | None) -> str:
    with contextlib.suppress(Exception):  # its METADATA may be broken in any way
        if distribution and (name := distribution.metadata["Name"]):
            return name
    return "a package without a name"


def packages() -> dict[str, str]:
    """Identifier -> import path of every paper that one package registers, built-in ones first."""
    return {paper: entry.package for paper, entry in _registrations()[0].items() if not entry.problem}


def distribution(paper: str) -> str:
    """The name of the distribution that brings a paper. Raises `KeyError` for an unknown one."""
    return _registrations()[0][paper].distribution


def broken() -> list[tuple[str, Problem]]:
    """(distribution, problem) of every package of somebody else that brings a paper which cannot be shown."""
    found, faults = _registrations()
    problems = dict(reversed(faults))
    for paper, entry in found.items():
        if entry.distribution != OWN:
            try:
                card(paper)
            except Problem as problem:
                problems.setdefault(entry.distribution, problem)
    return sorted(problems.items())


def folder(paper: str) -> Path:
    """The folder of a paper's package.

    Raises:
        Problem: no such paper (names the closest ones), or its package is broken.
    """
    entry = _registrations()[0].get(paper)
    if entry is None:
        remedy = suggest(paper, packages(), "") or "`repertory list` names them all"
        raise Problem(f"no paper is called {paper!r}", "the repertory", remedy)
    if entry.problem:
        raise entry.problem
    if entry.distribution == OWN:
        return Path(builtin.__path__[0]) / paper
    spec, reason = None, ""
    try:
        spec = importlib.util.find_spec(entry.package)
    except Exception as error:  # importing the package around it runs somebody else's code
        reason = f": {error}"
    if spec is None or not spec.origin:
        raise Problem(
            f"the package of {paper} is not importable{reason}", entry.package, f"reinstall {entry.distribution}"
        )
    return Path(spec.origin).parent


@functools.cache
def card(paper: str) -> Card:
    """The card of a paper. Raises `Problem` for an unknown paper or a card that is not valid."""
    path = folder(paper) / "card.toml"
    if not path.exists():
        return read_card(path)  # says what is wrong
    # Parsing TOML takes most of the time of `repertory list`, so the parsed form is kept. Its name changes with
    # the card and with card.py: an old form is never read.
    sources = (path, Path(__file__).parent / "core" / "card.py")
    stamps = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sources]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    kept = cache_dir() / "cards" / f"{paper}-{key}.json"
    with contextlib.suppress(OSError, ValidationError):
        return Card.model_validate_json(kept.read_bytes())
    found = read_card(path)
    if found.id != paper:
        raise Problem(f"the card's id is {found.id!r}", path, f"set id = {paper!r}")
    with contextlib.suppress(OSError):
        write_text(kept, found.model_dump_json())
    return found


def cards(built_in: bool = False) -> list[Card]:
    """All cards, or those of this package alone, by topic and identifier; without those of `broken` packages."""
    found = []
    for paper, entry in _registrations()[0].items():
        if entry.distribution == OWN:
            found.append(card(paper))
        elif not built_in:
            with contextlib.suppress(Problem):
                found.append(card(paper))
    return sorted(found, key=lambda c: (c.topic, c.id))


@functools.cache
def design(paper: str) -> type[Design[Any]]:
    """The arms, settings and scales of a paper: its `settings.py` alone, which imports no torch.

    A paper without one is loaded whole.

    Raises:
        Problem: unknown paper, or no Design for it.
    """
    where = folder(paper)
    if not (where / "settings.py").exists():
        return load(paper)
    found = _declared(_import_alone(packages()[paper], "settings"), paper)
    if found is None:
        raise Problem(f"no Design with paper = {paper!r}", where / "settings.py", "define it; see CONTRIBUTING")
    return found


def _import_alone(package: str, module: str) -> ModuleType:
    """A module of a package without what the package's own __init__ imports: the method, and torch with it.

    An empty package stands in for it meanwhile. Nothing imported is kept: the package will import its own.
    """
    if package in sys.modules:
        return importlib.import_module(f"{package}.{module}")
    spec = importlib.util.find_spec(package)
    assert spec is not None, "`folder` has found it"
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{package}.{module}")
    finally:
        for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
            del sys.modules[name]


def _declared(module: ModuleType, paper: str) -> type | None:
    """The class that a module defines for a paper."""
    for found in vars(module).values():
        if isinstance(found, type) and found.__module__ == module.__name__ and getattr(found, "paper", "") == paper:
            return found
    return None


def load(paper: str) -> type[Study]:
    """The study class of a paper; imports its code, and holds the card's claims against it.

    Raises:
        Problem: unknown paper, a study.py without a Study for it, an optional dependency that is not installed, or a
            claim that tests an arm or a metric that the study does not have.
    """
    where = folder(paper)
    if (where / "study.py").exists() and (found := _declared(_import_study(paper), paper)):
        study = cast("type[Study]", found)
        _check_claims(card(paper), study, where / "card.toml")
        return study
    raise Problem(f"no Study with paper = {paper!r}", where / "study.py", "define it; see CONTRIBUTING")


def _import_study(paper: str) -> ModuleType:
    entry, extra = _registrations()[0][paper], card(paper).extra
    try:
        return importlib.import_module(f"{entry.package}.study")
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0]
        if not extra or absent == entry.package.partition(".")[0]:
            raise
        raise Problem(
            f"{paper} needs the package {absent}, which is not installed",
            f"import {error.name}",
            f"pip install '{entry.distribution}[{extra}]'",
        ) from error


def _check_claims(card: Card, study: type[Study], path: Path) -> None:
    """Raise a Problem for a claim whose arm or metric the study does not have, or whose direction contradicts it."""
    from repertory.core.study import find_metric

    for claim in card.claim:
        published = [(figure.ours, figure.measured) for figure in claim.published if figure.on]
        for test in claim.test:
            for arm, metric in [*test.measurements(), *published]:
                if arm and arm not in study.arms:
                    what = f"claim {claim.id!r} tests the arm {arm!r}, which the study of {card.id} does not have"
                    raise Problem(what, path, _closest(arm, study.arms))
                declared = find_metric(study.metrics, metric)
                if declared is None:
                    what = (
                        f"claim {claim.id!r} tests the metric {metric!r}, which the study of {card.id} does not declare"
                    )
                    raise Problem(what, path, _closest(metric, study.metrics))
                if isinstance(test, Compare) and declared.better not in ("", test.better):
                    sides = f"{test.better!r} {metric} is better, the study of {card.id} {declared.better!r}"
                    what = f"claim {claim.id!r} says that {sides}"
                    raise Problem(what, path, f'set better = "{declared.better}", or exchange arm and over')


def _closest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return suggest(name, names, "") or f"the study has {', '.join(names[:10])}{more}"


BENCHMARKS = "benchmarks.json"
"""Among the recorded results: what `make bench` wrote."""


def results_folder() -> Path:
    """Where recorded results lie: in the source checkout, or inside the installed package."""
    here = Path(__file__).parent
    return next((d for d in (here / "results", here.parents[1] / "results") if d.is_dir()), here)


def result_files(folder: Path) -> list[Path]:
    """The recorded results in a folder, PAPER.json before PAPER.SCALE.json; the benchmarks beside them are none."""
    found = (path for path in folder.glob("*.json") if path.name != BENCHMARKS)
    return sorted(found, key=lambda path: (path.name.count("."), path.name))


def recorded(paper: str = "") -> dict[str, list[dict[str, Any]]]:
    """Recorded results by paper, laptop scale first: what `repertory record` wrote; of one paper, or of all."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in result_files(results_folder()):
        if paper and path.name.partition(".")[0] != paper:
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(content["paper"], []).append(content)
    return found


# -- search -------------------------------------------------------------------------------------


def search(query: str, limit: int = 10) -> list[tuple[Card, float]]:
    """Papers by English or Chinese words, best first, with scores in (0, 1] relative to the best one.

    Looks at identifier, keywords, arXiv id, title, venue and year, code, authors, topic, summaries and claims.

    Raises:
        Problem: SQLite was built without FTS5.
    """
    return [(card(paper), score) for paper, score in _index().search(query)[:limit]]


def related(paper: str, limit: int = 3) -> list[tuple[Card, float]]:
    """The papers that share most keywords with `paper`, with scores in (0, 1]; none where SQLite lacks FTS5."""
    try:
        found = _index().related(card(paper))
    except Problem:  # `show` is whole without it
        return []
    return [(card(other), score) for other, score in found[:limit]]


@functools.cache
def _index() -> Index:
    from repertory.textsearch import Index

    return Index(cards())
