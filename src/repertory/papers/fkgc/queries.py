"""Queries of users: JSON, TSV, or the test tasks of a data folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repertory.core.problem import Problem, reason
from repertory.data.arrays import read_lines, read_text

LAYOUT = (
    'JSON: {"relation": "…", "support": [["head", "tail"], …], "queries": ["head", …], "candidates": ["tail", …]}, '
    "candidates being optional, or a list of such objects; "
    "TSV: head, relation, tail, by tabs, of the support; a query has ? in place of the tail"
)


@dataclass
class Question:
    """What a user asks about one relation, in names."""

    relation: str
    support: list[tuple[str, str]]
    queries: list[str]
    candidates: list[str] = field(default_factory=list)
    where: str = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        Problem: neither format; names the place.
    """
    return _from_json(path) if path.suffix.lower() == ".json" else _from_tsv(path)


def _from_json(path: Path) -> list[Question]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Problem):
            raise
        raise Problem(f"no JSON: {reason(error)}", path, LAYOUT) from error
    listed = content if isinstance(content, list) else [content]
    if not listed:
        raise Problem("no query", path, LAYOUT)
    return [_question(item, f"{path}, question {number}") for number, item in enumerate(listed, start=1)]


def _question(item: Any, where: str) -> Question:
    fields = item if isinstance(item, Mapping) else {}
    support, queries, candidates = (fields.get(name, []) for name in ("support", "queries", "candidates"))
    relation = fields.get("relation", "?")
    lists = all(isinstance(found, list) for found in (support, queries, candidates))
    # A triple [head, relation, tail] is a pair too: NELL-One writes its tasks so.
    if not lists or not queries or not all(isinstance(pair, list) and len(pair) in (2, 3) for pair in support):
        raise Problem("no relation, support and queries", where, LAYOUT)
    if unknown := sorted(set(fields) - {"relation", "support", "queries", "candidates"}):
        raise Problem(f"no field is called {unknown[0]!r}", where, LAYOUT)
    for name in (relation, *queries, *candidates, *(name for pair in support for name in pair)):
        if not isinstance(name, str) or not name.strip():
            raise Problem(f"{json.dumps(name)[:80]} is no name", where, LAYOUT)
    if other := next((pair[1] for pair in support if len(pair) == 3 and pair[1] != relation), ""):
        raise Problem(f"the relation is {relation!r}, in its support {other!r}", where, "ask about one relation")
    pairs = [(pair[0].strip(), pair[-1].strip()) for pair in support]
    names = ([name.strip() for name in found] for found in (queries, candidates))
    return Question(relation, pairs, *names, where=where)


def _from_tsv(path: Path) -> list[Question]:
    found: dict[str, Question] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) not in (2, 3) or not all(cells[:2]):
            raise Problem(f"{len(cells)} cells: {line[:80]!r}", f"{path}:{number}", LAYOUT)
        head, relation, tail = (*cells, "")[:3]
        question = found.setdefault(relation, Question(relation, [], [], where=f"{path}, {relation}"))
        if tail in ("", "?"):
            question.queries.append(head)
        else:
            question.support.append((head, tail))
    asked = [question for question in found.values() if question.queries]
    if not asked:
        raise Problem("no query", path, LAYOUT)
    if unasked := [question.relation for question in found.values() if not question.queries]:
        warnings.warn(f"{path}: nothing is asked about {', '.join(unasked[:3])}: left out", stacklevel=3)
    return asked
