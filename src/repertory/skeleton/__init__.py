"""The skeleton of a paper: a room with all its furniture, which runs as it stands."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from repertory.core.files import write_text
from repertory.core.problem import Problem


def write_skeleton(paper: str, checkout: Path) -> list[Path]:
    """Write folder, card and test of a new paper into a source checkout.

    Args:
        paper: identifier: lower-case letters, digits, underscores.
        checkout: root of the checkout, which holds src/repertory/papers and tests/papers.

    Returns:
        The files written.

    Raises:
        Problem: not an identifier, not a checkout, or the paper is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", paper):
        raise Problem(f"not an identifier: {paper!r}", "repertory new", "use lower-case letters, digits and _")
    rooms = checkout / "src" / "repertory" / "papers"
    if not rooms.is_dir():
        raise Problem("not a checkout of repertory", checkout, "run it in one, or give --into")
    if (rooms / paper).exists():
        raise Problem(f"the paper {paper} is there already", rooms / paper, "choose another identifier")
    names = {
        "id": paper,
        "Class": "".join(word.capitalize() for word in paper.split("_")),
        "year": str(datetime.now(UTC).year),
    }
    targets = {
        "__init__.py": rooms / paper / "__init__.py",
        "card.toml": rooms / paper / "card.toml",
        "model.py": rooms / paper / "model.py",
        "study.py": rooms / paper / "study.py",
        "test.py": checkout / "tests" / "papers" / f"test_{paper}.py",
    }
    templates = files("repertory.skeleton") / "templates"
    for name, target in targets.items():
        write_text(target, Template((templates / f"{name}.txt").read_text(encoding="utf-8")).substitute(names))
    return list(targets.values())
