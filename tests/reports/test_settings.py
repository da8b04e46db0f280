"""The list of a paper's settings."""

from __future__ import annotations

from rich.console import Console

from repertory.reports.settings import settings_rows, settings_table
from tests.toy import ToyStudy


def test_every_field_has_a_row_with_its_values() -> None:
    rows = {row["name"]: row for row in settings_rows(ToyStudy)}
    assert set(rows) == set(ToyStudy.Config.model_fields)
    assert rows["hidden"]["values"] == {"smoke": 8, "laptop": 8, "paper": 64, "desk": 8}
    assert rows["hidden"]["allowed"] == "integer >= 1, <= 64"
    assert rows["schedule"]["allowed"] == "constant | cosine | onecycle | poly | step"
    assert rows["ema_returned"]["allowed"] == "true | false"
    assert [row["group"] for row in settings_rows(ToyStudy)][:3] == ["model"] * 3


def test_the_table_shows_the_scale_and_what_differs_elsewhere() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(settings_table(ToyStudy, "laptop"))
    (row,) = [line for line in shown.get().splitlines() if line.startswith("epochs")]
    assert "8 (smoke 2, paper 100, desk 2)" in row
    assert "passes over the training data" in row
