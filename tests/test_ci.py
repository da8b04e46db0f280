"""CI tests the rooms that a change touches, each with the packages that its card names."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from repertory import catalog

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "rooms.py"))
EXTRAS = {"emo": "", "gapgc": "chem", "eca": "detection", "eca_next": ""}


@pytest.mark.parametrize(
    ("changed", "touched"),
    [
        ([], []),
        (["README.md", "results/emo.json", "docs/papers/emo.md", "LICENSE"], []),
        (["src/repertory/papers/emo/model.py"], ["emo"]),
        (["tests/papers/test_eca_detection.py", "benchmarks/gapgc.py"], ["eca", "gapgc"]),
        (["tests/papers/test_eca_next_more.py"], ["eca_next"]),
        (["tests/fidelity/emo.json"], ["emo"]),
        (["src/repertory/core/study.py"], ["eca", "eca_next", "emo", "gapgc"]),
        (["pyproject.toml"], ["eca", "eca_next", "emo", "gapgc"]),
    ],
)
def test_rooms_that_a_change_touches(changed: list[str], touched: list[str]) -> None:
    found = SCRIPT["rooms"](changed, EXTRAS)
    assert found == [{"paper": paper, "extra": EXTRAS[paper]} for paper in touched]


def test_extras_come_from_the_cards() -> None:
    assert SCRIPT["extras_of_cards"]() == {card.id: card.extra for card in catalog.cards(built_in=True)}
