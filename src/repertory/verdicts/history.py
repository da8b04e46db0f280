"""Every recorded run in one line: what a claim was judged to be before more seeds, a mended method or other data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repertory.core.files import write_text
from repertory.verdicts.decisions import Word
from repertory.verdicts.results import Result

NAME = "history.jsonl"
"""In the folder of recorded results."""


@dataclass(frozen=True)
class Entry:
    """One recorded run."""

    paper: str
    scale: str
    data: str
    date: str
    """When it began; a recording that goes on with more seeds keeps it."""
    commit: str
    machine: str
    seeds: int
    """The most that an arm has."""
    verdicts: dict[str, Word]
    """Claim -> verdict, by the card of that day."""


def entry(result: Result) -> Entry:
    """The line of a result."""
    return Entry(
        result.paper, result.scale, result.data, result.date, result.commit, result.machine,
        max((len(seeds) for seeds in result.metrics.values()), default=0),
        {verdict.claim: verdict.word for verdict in result.verdicts},
    )  # fmt: skip


def note(folder: Path, result: Result) -> None:
    """Add the line of a recorded run; that of the same run with fewer seeds is replaced."""
    new = entry(result)
    kept = [old for old in read(folder) if (old.paper, old.scale, old.date) != (new.paper, new.scale, new.date)]
    write(folder, [*kept, new])


def write(folder: Path, entries: Sequence[Entry]) -> None:
    """One line each, by paper, scale and date."""
    ordered = sorted(entries, key=lambda one: (one.paper, one.scale, one.date))
    write_text(folder / NAME, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in ordered))


def read(folder: Path) -> list[Entry]:
    """All lines; none where nothing was recorded yet."""
    path = folder / NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Entry(**json.loads(line)) for line in lines]
