"""The recorded benchmarks in README, on their page, and as positions on an axis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repertory import catalog
from repertory.reports import docs, speed
from repertory.reports.html import template


def line(race: str, ratio: float, goal: float | None, **more: Any) -> dict[str, Any]:
    quartiles = [0.9 * ratio, 1.1 * ratio]
    return {"race": race, "peer": "timm", "ratio": ratio, "quartiles": quartiles, "goal": goal, **more}


def written(folder: Path) -> speed.Speed:
    lines = [
        line("block | one", 0.8, 1.0, ours_mib=3.0, peer_mib=4.0, system_ratio=0.7),
        line("block two", 2.0, 1.0),
        line("step", 0.9, 0.8),
        line("cells", 0.1, None),
        {"race": "reading", "unit": "edges", "sizes": [1000, 10**6], "slope": 1.05, "goal": 1.0},
        {"race": "other", "skipped": "this needs the package x"},
    ]
    content = {"papers": {"emo": {"machine": "x86_64, 2 cores", "date": "2026-11-27", "lines": lines}}}
    (folder / catalog.BENCHMARKS).write_text(json.dumps(content), encoding="utf-8")
    return speed.read(folder)


def test_what_only_informs_is_not_judged(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert [race.name for race in found.judged] == ["block | one", "block two", "step"]
    assert [race.reached for race in found.judged] == [False, True, True]
    assert found.median == 0.9
    assert found.worst.name == "block | one"
    assert found.growths[0].reached


def test_readme_tells_median_and_worst(tmp_path: Path) -> None:
    said = speed.sentence(written(tmp_path))
    assert "3 races" in said
    assert "median ratio 0.90" in said
    assert "2 reach their goal; the worst is emo, block | one: 0.80 of timm." in said
    assert speed.sentence(speed.Speed()) == ""


def test_the_page_has_a_row_for_each_race(tmp_path: Path) -> None:
    text = template("benchmarks.md").render(speed=written(tmp_path))
    assert "block \\| one | timm | **0.80 [0.72, 0.88]** | 0.70 | 1 | 3 | 4 |" in text
    assert "1,000 to 1,000,000 edges | 1.05 | 1 |" in text
    assert "emo, other (this needs the package x)." in text
    assert "make bench" in template("benchmarks.md").render(speed=speed.Speed())


def test_benchmarks_are_no_result(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    written(tmp_path / "results")
    assert catalog.result_files(tmp_path / "results") == []
    assert list(docs.present(tmp_path)) == ["README.md"]
    assert docs.rejudged(tmp_path) == {}
