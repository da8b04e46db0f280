"""Training curves: what several trials logged, at steps of their own, with lines that were cut short."""

from __future__ import annotations

import json
from pathlib import Path

from repertory.verdicts.curves import NAMES, POINTS, curves_of


def write(run_dir: Path, trial: str, *lines: object) -> None:
    folder = run_dir / "trials" / trial
    folder.mkdir(parents=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


def test_mean_and_range_over_seeds(tmp_path: Path) -> None:
    for seed, offset in ((0, 0.0), (1, 2.0)):
        write(tmp_path, f"a-{seed}", *({"step": k, "loss": 10 - k + offset, "lr": 0.1} for k in (1, 2, 3)))
    assert curves_of(tmp_path, [("a", 0), ("a", 1), ("a", 2)]) == {
        "a": {"loss": [[1, 10.0, 9.0, 11.0], [2, 9.0, 8.0, 10.0], [3, 8.0, 7.0, 9.0]]}
    }


def test_neighbouring_steps_are_averaged_and_few_names_are_kept(tmp_path: Path) -> None:
    values = {f"m{k}": 1.0 for k in range(NAMES + 2)}
    write(tmp_path, "a-0", *({"step": k, **values} for k in range(100)))
    curves = curves_of(tmp_path, [("a", 0)])["a"]
    assert list(curves) == [f"m{k}" for k in range(NAMES)]
    assert len(curves["m0"]) == POINTS
    assert curves["m0"][-1] == [99, 1.0, 1.0, 1.0]


def test_what_is_not_finite_cut_short_or_of_one_step_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path, "a-0",
        {"step": 1, "loss": None, "once": 1.0}, {"step": 2, "part": "teacher", "loss": 1.0}, "[1]",
        {"step": 3, "part": "teacher", "loss": 2.0}, {"loss": 1.0}, '{"step": 4, "lo',
    )  # fmt: skip
    assert curves_of(tmp_path, [("a", 0)]) == {"a": {"teacher/loss": [[2, 1.0, 1.0, 1.0], [3, 2.0, 2.0, 2.0]]}}
