"""Reports: every figure, verdict and failure is there, in the terminal, in HTML, in README's table."""

from __future__ import annotations

import html as escaping
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repertory import catalog
from repertory.core.card import Claim, Published
from repertory.core.problem import Problem
from repertory.execution.experiment import Experiment
from repertory.reports import html, readme, terminal
from repertory.reports.html import Report
from repertory.reports.words import duration, figure_of, interval_of, number, spread
from repertory.verdicts.judge import Finding
from repertory.verdicts.results import Outcome

NAN = math.nan


def result(failed: bool = False, **changes: Any) -> Report:
    """Three seeds of the toy, as if measured."""
    accuracy = {"plain": (60.0, 61.0, 62.0), "wide": (90.0, 91.5, 93.0)}
    outcomes = [
        Outcome(arm, seed, {"accuracy": value, "classes": 2.0}, seconds=1.5)
        for arm, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    if failed:
        outcomes.append(Outcome("wide", 3, {}, 0.5, error="Traceback\n  ...\nZeroDivisionError: <division> by zero\n"))
    fields: dict[str, Any] = {
        "paper": "toy", "scale": "laptop", "data": "rings", "config": {"epochs": 8, "lr": 0.05},
        "versions": {"python": "3.11", "repertory": "0.1.0", "torch": "2.10"}, "commit": "abc123",
        "date": "2026-01-01T00:00:00+00:00", "outcomes": tuple(outcomes), "machine": "a small machine",
        "figures": {"parameters_1": 7.0, "parameters_4": 22.0, "parameters_8": 42.0},
    }  # fmt: skip
    return Report(**{**fields, **changes})


def printed(renderable: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), record=True, width=width)
    console.print(renderable)
    return console.export_text()


def page(of: Report, folder: Path) -> str:
    return of.write_html(folder / "report.html").read_text(encoding="utf-8")


# -- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (2.0, "2"), (42.0, "42"), (-3.5, "-3.5"), (0.123456, "0.1235"), (97.25, "97.25"),
        (99.9951, "100"), (999.4, "999.4"), (1000.0, "1,000"), (1361168.0, "1,361,168"), (-1361168.0, "-1,361,168"),
        (1234.56, "1,235"), (12345.678, "12,346"), (1361168.5, "1,361,168"), (1.5e-7, "1.5e-07"), (3.2e18, "3.2e+18"),
        (NAN, "not finite"), (math.inf, "not finite"), (-math.inf, "not finite"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_spreads() -> None:
    # 1, 2, 3: sample standard deviation 1; 90, 91.5, 93: 1.5
    assert spread([1, 2, 3]) == "2 ± 1"
    assert spread([90, 91.5, 93]) == "91.5 ± 1.5"
    assert spread([5.0]) == "5"
    assert spread([5.0, NAN, math.inf]) == "5"
    assert spread([NAN, 4.0, 5.0, 6.0]) == "5 ± 1"
    assert spread([NAN]) == spread([]) == "-"
    assert spread([5000.0, 5246.0]) == "5,123 ± 170"
    assert spread([0.5, 0.5]) == "0.5 ± 0"


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 12.3, 59.6, 250, 3600, 7384)] == [
        "0 s", "12 s", "1 min 0 s", "4 min 10 s", "1 h 0 min", "2 h 3 min",
    ]  # fmt: skip


def test_published_figures_in_words() -> None:
    figure = Published(data="ImageNet-1K", metric="top1", arm="emo_1m", value=71.5, source="abstract")
    assert figure_of(figure) == "emo_1m: top1 71.5 (ImageNet-1K; abstract)"
    assert figure_of(figure.model_copy(update={"std": 0.25})) == "emo_1m: top1 71.5 ± 0.25 (ImageNet-1K; abstract)"


def test_intervals_in_words() -> None:
    inf = math.inf
    test = Finding("holds", "acc: a - b", 3.0, 0.51586, 5.48414, (0.0, inf), 3)
    assert interval_of(test) == "acc: a - b = 3, 95 % interval [0.5159, 5.484], n = 3; claimed: above 0"
    one = Finding("undecided", "acc: a - b", 3.0, -inf, inf, (0.0, inf), 1)
    assert interval_of(one) == "acc: a - b = 3; claimed: above 0"
    exact = Finding("holds", "parameters", 1361168.0, 1361168.0, 1361168.0, (1361168.0, 1361168.0), 1)
    assert interval_of(exact) == "parameters = 1,361,168; claimed: 1,361,168"
    same = Finding("fails", "acc of a", 2.0, 2.0, 2.0, (3.0, 4.0), 5)
    assert interval_of(same) == "acc of a = 2 (the same in all 5 seeds); claimed: 3 to 4"
    most = Finding("holds", "x", 1.0, 0.5, 1.5, (-inf, 2.0), 3)
    assert interval_of(most).endswith("claimed: at most 2")
    assert interval_of(Finding("undecided", "acc: a - b")) == "acc: a - b"


# -- terminal -----------------------------------------------------------------------------------


def test_the_terminal_report_sets_claim_published_measured_and_verdict_side_by_side(toy: Path) -> None:
    text = printed(terminal.report(result()))
    for words in (
        "Rings Need a Hidden Layer", "Journal of Toys 2024, arXiv 2401.00001",
        "scale laptop · data: rings · 3 seeds · 9 s of computing",
        "The network with a hidden layer is more accurate than the linear model.",
        "wide: accuracy 97.25 ± 0.5 (rings; abstract)",
        "wide: accuracy 91.5 ± 1.5", "plain: accuracy 61 ± 1",
        # differences 30, 30.5, 31: mean 30.5, half 4.30265 * 0.5 / sqrt(3) = 1.2421
        "accuracy: wide - plain = 30.5, 95 % interval [29.26, 31.74], n = 3; claimed: above 5",
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "not tested",
        "every seed gives exactly the margin", "needs a billion rings",
        "parameters_8 = 42; claimed: 42", "parameters_4 22",
        "mean ± standard deviation over seeds",
    ):  # fmt: skip
        assert words in text, words
    assert "failed" not in text
    assert "DRY RUN" not in text


def test_each_claim_stands_with_its_own_verdict(toy: Path) -> None:
    lines = [line for line in printed(terminal.report(result())).splitlines() if line.startswith("● ")]
    words = [re.split(r"\s{2,}", line)[-1] for line in lines]
    assert words == [
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "holds on rings, laptop",
        "not tested",
    ]  # fmt: skip


def test_the_terminal_report_in_chinese(toy: Path) -> None:
    text = printed(terminal.report(result(), lang="zh"))
    assert "带隐藏层的网络比线性模型更准确。" in text
    assert "需要十亿个圆环" in text


def test_failed_trials_are_named_and_counted_out(toy: Path) -> None:
    text = printed(terminal.report(result(failed=True)))
    assert "failed: wide seed 3: ZeroDivisionError: <division> by zero" in text
    assert "1 of 4 pairs" in text
    assert "seeds 3" in text
    assert "● The network with a hidden layer is more accurate than the linear model.  undecided" in text


def test_what_the_data_cannot_give_is_told(toy: Path, tmp_path: Path) -> None:
    other = result(outcomes=tuple(Outcome(arm, 0, {"f1": 0.5}, 0.5) for arm in ("wide", "linear")))
    assert "accuracy has no meaning on these data" in printed(terminal.report(other))
    assert "accuracy has no meaning on these data" in page(other, tmp_path)


def test_a_report_of_nothing_but_failures(toy: Path, tmp_path: Path) -> None:
    broken = result(outcomes=(Outcome("wide", 0, {}, 0.5, error="RuntimeError: out of memory"),))
    text = printed(terminal.report(broken))
    assert "failed: wide seed 0: RuntimeError: out of memory" in text
    assert "1 seed " in text
    assert "wide: accuracy -" in text
    assert "out of memory" in page(broken, tmp_path)


def test_markup_in_texts_is_shown_as_it_is(toy: Path) -> None:
    odd = result(data="[bold]rings[/bold]", outcomes=(Outcome("wide", 0, {}, 0.5, error="Error: [red]x[/red]"),))
    text = printed(terminal.report(odd))
    assert "data: [bold]rings[/bold]" in text
    assert "Error: [red]x[/red]" in text


def test_a_dry_run_says_so(toy: Path, tmp_path: Path) -> None:
    dry = result(dry_run=True)
    assert "DRY RUN: the figures mean nothing" in printed(terminal.report(dry))
    assert "dry run" in page(dry, tmp_path)


def test_the_picture_of_the_terminal_report(toy: Path) -> None:
    picture = terminal.svg(result())
    assert picture.startswith("<svg")
    assert "holds" in picture


# -- HTML ---------------------------------------------------------------------------------------


def test_the_html_report_says_all_that_the_terminal_says(toy: Path, tmp_path: Path) -> None:
    text = escaping.unescape(re.sub(r"<[^>]+>", "", page(result(failed=True), tmp_path)))
    for words in (
        "Rings Need a Hidden Layer", "Ada Toy, Bo Example", "Journal of Toys 2024", "arXiv 2401.00001",
        "A hidden layer separates a ring", "隐藏层能够把圆环",
        "scale laptop, data: rings; 10 s of computing", "repertory 0.1.0 (abc123), torch 2.10; a small machine",
        "带隐藏层的网络比线性模型更准确。", "wide: accuracy 97.25 ± 0.5 (rings; abstract)", "91.5 ± 1.5",
        "95 % interval [29.26, 31.74], n = 3; claimed: above 5",
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "not tested",
        "needs a billion rings", "failed: wide seed 3", "ZeroDivisionError: <division> by zero",
        "parameters_8", "There is no paper.", "The radius is ours.", "半径由我们选定。", "epochs", "0.05",
    ):  # fmt: skip
        assert words in text, words


def test_the_html_report_is_one_file_that_needs_no_other(toy: Path, tmp_path: Path) -> None:
    text = page(result(), tmp_path)
    assert text.startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
    links = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'>\s]+)""", text)
    assert [link for link in links if not link.startswith("data:image/png;base64,")] == [
        "https://arxiv.org/abs/2401.00001"
    ]
    assert "<script" not in text
    assert "<link" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)
    assert text.count("data:image/png;base64,") == 2  # a chart of each metric


def test_text_from_cards_and_errors_is_escaped(toy: Path, tmp_path: Path) -> None:
    text = page(result(failed=True, data="<script>alert(1)</script>"), tmp_path)
    assert "<script" not in text
    assert "<division>" not in text
    assert "&lt;division&gt;" in text


def test_a_notebook_shows_the_report(toy: Path, tmp_path: Path) -> None:
    body = result()._repr_html_()
    assert "<html" not in body
    assert body.count("<h1>") == 1
    assert "holds on rings, laptop" in body
    # What a notebook has around it must not be restyled.
    (style,) = re.findall(r"<style>(.*?)</style>", body, flags=re.S)
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")]
    assert all(selector.startswith(".repertory") for selector in selectors)
    assert body.strip() in page(result(), tmp_path)


def test_charts_have_a_row_for_every_arm_and_a_dot_for_every_finite_seed(toy: Path) -> None:
    outcomes = (
        *result().outcomes,
        Outcome("wide", 3, {"accuracy": NAN}, 1.0),
        Outcome("wide", 4, {}, 1.0, error="RuntimeError"),
    )
    (axes,) = html.chart(replace(result(), outcomes=outcomes), "accuracy").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "wide"]
    dots = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_marker() == "o"]  # pyright: ignore[reportArgumentType]
    assert dots == [[60, 61, 62], [90, 91.5, 93]]
    # 61 ± 4.30265 / sqrt(3) = 2.48414
    bars = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_linewidth() == 2]  # pyright: ignore[reportArgumentType]
    assert bars[0] == pytest.approx([58.51586, 63.48414], abs=1e-5)


def test_a_real_run_shows_its_pictures(toy: Path, tmp_path: Path) -> None:
    ran = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert not ran.failures
    # Pictures of the first seed of each arm, a chart of each metric.
    assert text.count("<figcaption") == 2
    assert "plain-0: rings" in text
    assert "wide-0: rings" in text
    assert text.count("data:image/png;base64,") == 4
    table = ran.table()
    assert list(table.columns) == ["arm", "seed", "accuracy", "classes", "seconds", "error"]
    assert sorted(zip(table["arm"], table["seed"], strict=True)) == [
        ("plain", 0),
        ("plain", 1),
        ("wide", 0),
        ("wide", 1),
    ]
    assert set(ran.figures) == {"parameters_1", "parameters_4", "parameters_8"}


# -- saving -------------------------------------------------------------------------------------


def test_a_saved_result_comes_back_and_reports_the_same(toy: Path, tmp_path: Path) -> None:
    outcomes = (*result(failed=True).outcomes, Outcome("plain", 3, {"accuracy": NAN, "classes": 2.0}, 1.0))
    whole = replace(result(), outcomes=outcomes)
    content = json.loads(whole.save(tmp_path / "toy.json").read_text(encoding="utf-8"))
    again = Report.from_json(content)
    assert printed(terminal.report(again)) == printed(terminal.report(whole))
    assert page(again, tmp_path / "a") == page(whole, tmp_path / "b")
    assert [v["verdict"] for v in content["verdicts"]] == [v.word for v in whole.verdicts]
    assert content["trials"][-1]["metrics"]["accuracy"] is None


# -- README's table -----------------------------------------------------------------------------


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


def test_the_table_has_a_row_for_every_claim_of_every_paper(toy: Path) -> None:
    table = rows(readme.markdown_table(catalog.cards(), {}))
    assert table[0] == ["paper", "claim", "published", "measured", "verdict"]
    assert len(table) - 2 == sum(len(card.claim) for card in catalog.cards())
    assert all(len(row) == 5 for row in table)
    assert {row[4] for row in table[2:]} == {"not recorded"}
    assert any("emo_1m" in row[2] for row in table) == ("emo" in catalog.packages())


def test_the_table_shows_published_and_measured_figures_and_verdicts(toy: Path, tmp_path: Path) -> None:
    laptop = json.loads(result().save(tmp_path / "toy.json").read_text(encoding="utf-8"))
    desk = json.loads(
        result(scale="desk", data="big rings").save(tmp_path / "toy.desk.json").read_text(encoding="utf-8")
    )
    table = rows(readme.markdown_table(catalog.cards(), {"toy": [laptop, desk]}))
    first = next(position for position, row in enumerate(table) if row[0].startswith("**toy**"))
    mine = table[first : first + 5]
    assert mine[0][0] == "**toy** (Journal of Toys 2024)"
    assert [row[0] for row in mine[1:]] == [""] * 4
    assert mine[0][1] == "The network with a hidden layer is more accurate than the linear model."
    assert mine[0][2] == "wide: accuracy 97.25 (rings)"
    assert mine[0][3] == "accuracy: wide - plain = 30.5 (rings)<br>accuracy: wide - plain = 30.5 (big rings)"
    assert [row[4] for row in mine] == [
        "holds on rings, laptop<br>holds on big rings, desk", "fails on rings, laptop<br>fails on big rings, desk",
        "undecided on rings, laptop<br>undecided on big rings, desk",
        "holds on rings, laptop<br>holds on big rings, desk", "not tested",
    ]  # fmt: skip


def test_cells_cannot_break_the_table(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = catalog.card("toy")
    claim = Claim.model_validate({**card.claim[0].model_dump(), "en": "a | b\nc"})
    monkeypatch.setattr(catalog, "cards", lambda: [card.model_copy(update={"claim": (claim,)})])
    (row,) = rows(readme.markdown_table(catalog.cards(), {}))[2:]
    assert row[1] == r"a \| b c"


def test_the_table_is_put_between_its_marks_and_nothing_else_changes() -> None:
    begin, end = readme.MARKS
    text = f"# Title\n\n{begin}\nold | table\n{end}\n\n## After\n"
    once = readme.with_table(text, "| new |\n")
    assert once == f"# Title\n\n{begin}\n| new |\n{end}\n\n## After\n"
    assert readme.with_table(once, "| new |\n") == once
    assert readme.with_table(once, "old | table\n") == text


@pytest.mark.parametrize(
    "text", ["# Title\n", f"{readme.MARKS[0]}\n## After\n", f"{readme.MARKS[1]}\n{readme.MARKS[0]}"]
)
def test_a_readme_without_both_marks_is_a_problem(text: str) -> None:
    """Rather than to swallow what follows the first."""
    with pytest.raises(Problem, match="marks"):
        readme.with_table(text, "| new |\n")
