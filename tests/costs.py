"""What the tests of each room cost in CPU seconds, and tests of one room alone (`--paper`).

A room is a paper: its tests, its doctests, and its part of the contract. Other tests belong to their folder.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import pytest

from repertory import catalog, contract

START = pytest.StashKey[float]()
CONTRACT = "test_every_paper.py"
MOST = 12
"""Tests named at the end."""
TICKS = 100
"""Of Linux's clock in /proc, a second."""


def room(path: Path) -> str:
    """The paper whose tests or code a file holds; empty: none.

    Example:
        >>> room(Path("tests/papers/test_eca_detection.py")), room(Path("src/repertory/papers/emo/model.py"))
        ('eca', 'emo')
    """
    inside = path.as_posix().rpartition("/papers/")[2]
    stem = re.sub(r"^test_|\.py$", "", inside.partition("/")[0])
    rooms = [paper for paper in catalog.packages() if stem == paper or stem.startswith(f"{paper}_")]
    return max(rooms, key=len, default="")


def _room_of(item: pytest.Item) -> str:
    """The paper that a test, or a check of the contract, belongs to; empty: none."""
    callspec = getattr(item, "callspec", None)
    return callspec.params["paper"] if callspec and item.path.name == CONTRACT else room(item.path)


# -- one room alone -----------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--paper", default="", help="tests of this paper alone: its own, and the contract for it")


def pytest_configure(config: pytest.Config) -> None:
    paper = config.getoption("paper")
    if paper and paper not in catalog.packages():
        raise pytest.UsageError(f"no paper is called {paper!r}: {', '.join(catalog.packages())}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    paper = config.getoption("paper")
    if not paper or collection_path.is_dir() or collection_path.name in ("conftest.py", CONTRACT):
        return None
    return room(collection_path) != paper or None


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if paper := config.getoption("paper"):
        others = [item for item in items if _room_of(item) != paper]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _room_of(item) == paper]
    for item in items:
        # A worker takes a whole file, since its tests share fixtures; or a paper's contract, which shares a run.
        shared = f"contract-{_room_of(item)}" if item.path.name == CONTRACT else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(shared))


# -- rooms whose packages are not installed -----------------------------------------------------


class _Absent(pytest.File):
    """Stands for the file of a room whose extra is not installed."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(contract.missing_extra(room(self.path)), allow_module_level=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    found = yield
    paper = room(file_path)
    if found and paper and contract.missing_extra(paper):
        return [_Absent.from_parent(parent, path=file_path)]
    return found


# -- what they cost -----------------------------------------------------------------------------


def _cpu_seconds() -> float:
    """User and system time so far of this process and of all that it started, whether they run or have ended."""
    todo, ticks = [Path("/proc/self")], 0
    while todo:
        process = todo.pop()
        try:
            fields = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            children = [task.read_text(encoding="ascii") for task in process.glob("task/*/children")]
        except OSError:  # ended meanwhile, or not Linux
            continue
        ticks += sum(map(int, fields[11:15]))  # of its own, and of its children that have ended
        todo += [Path("/proc") / pid for line in children for pid in line.split()]
    return ticks / TICKS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[START] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.when == "teardown":  # the last report of a test; xdist sends the properties to the process that prints
        item.user_properties.append(("room", _room_of(item) or item.path.parent.name))
        item.user_properties.append(("cpu_seconds", _cpu_seconds() - item.stash[START]))
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = (report for found in terminalreporter.stats.values() for report in found)
    costs = [
        (properties["room"], properties["cpu_seconds"], report.nodeid)
        for report in reports
        if "cpu_seconds" in (properties := dict(getattr(report, "user_properties", ())))
    ]
    if not costs:
        return
    say = terminalreporter.write_line
    terminalreporter.section("CPU seconds by room")
    rooms = {name: [seconds for room, seconds, _ in costs if room == name] for name, *_ in costs}
    for name, seconds in sorted(rooms.items(), key=lambda pair: -sum(pair[1])):
        say(f"{sum(seconds):8.1f}  {name}: {len(seconds)} tests")
    say(f"{sum(cost[1] for cost in costs):8.1f}  together, without imports and collection")
    terminalreporter.section("most expensive tests")
    for _, seconds, test in sorted(costs, key=lambda cost: -cost[1])[:MOST]:
        say(f"{seconds:8.1f}  {test}")
