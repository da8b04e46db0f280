"""The rooms that a change touches, with the optional packages that each needs, as JSON for CI's matrix.

    git diff --name-only origin/main... | python .ci/rooms.py

A change outside the rooms touches all of them. Reads cards only: nothing has to be installed.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"(docs|results)/|[^/]*\.md$|LICENSE$|CITATION")
"""Paths that no test of a room depends on."""


def rooms(changed: Iterable[str], extras: dict[str, str]) -> list[dict[str, str]]:
    """The rooms to test, as {"paper", "extra"}.

    Args:
        changed: paths in the repository.
        extras: extra of every paper.
    """
    touched: set[str] = set()
    for path in changed:
        if OUTSIDE.match(path):
            continue
        inside = re.match(r"(?:src/repertory/papers/|tests/papers/test_|tests/fidelity/|benchmarks/)(\w+)", path)
        own = [paper for paper in extras if inside and (inside[1] == paper or inside[1].startswith(f"{paper}_"))]
        touched |= {max(own, key=len)} if own else set(extras)
    return [{"paper": paper, "extra": extras[paper]} for paper in sorted(touched)]


def extras_of_cards() -> dict[str, str]:
    cards = (ROOT / "src" / "repertory" / "papers").glob("*/card.toml")
    return {path.parent.name: tomllib.loads(path.read_text(encoding="utf-8")).get("extra", "") for path in cards}


if __name__ == "__main__":
    print(json.dumps(rooms(sys.stdin.read().split(), extras_of_cards())))
