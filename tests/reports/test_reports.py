"""Reports: every figure, verdict and failure is there, in the terminal, in HTML, in README and pages."""

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
from repertory.core.card import Claim, Compare, Published, Test, Trend, Value
from repertory.core.problem import Problem
from repertory.core.study import Metric, undeclared
from repertory.execution.experiment import Experiment
from repertory.reports import docs, html, terminal
from repertory.reports.html import Report
from repertory.reports.words import axis_of, duration, figure_of, head_of, interval_of, number, spread
from repertory.verdicts.decisions import Finding
from repertory.verdicts.results import Outcome
from tests.toy import CARD

NAN = math.nan


def result(failed: bool = False, **changes: Any) -> Report:
    """Five seeds of the toy, as if measured."""
    accuracy = {"plain": (60.0, 61.0, 62.0, 61.0, 61.0), "wide": (90.0, 91.5, 93.0, 91.5, 91.5)}
    outcomes = [
        Outcome(arm, seed, {"accuracy": value, "classes": 2.0}, seconds=1.5)
        for arm, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    if failed:
        outcomes.append(Outcome("plain", 5, {"accuracy": 61.0, "classes": 2.0}, seconds=1.5))
        outcomes.append(Outcome("wide", 5, {}, 0.5, error="Traceback\n  ...\nZeroDivisionError: <division> by zero\n"))
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


def page(of: Report, folder: Path, lang: str = "en") -> str:
    return of.write_html(folder / "report.html", lang).read_text(encoding="utf-8")


def plain(text: str) -> str:
    """What a reader sees of HTML."""
    return escaping.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", text, flags=re.S))


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


METRICS = {
    "acc": Metric("accuracy", "准确率", unit="%", better="higher", decimals=1),
    "loss": Metric("loss", "损失", better="lower"),
    "range": Metric("range error", "射程误差", unit="mm", better="lower"),
    "size_{x}": Metric("parameters, {x} layers", "{x} 层的参数量"),
}
PAIR = Compare(kind="compare", metric="acc", arm="a", over="b")


def said(finding: Finding, test: Test = PAIR, lang: str = "en") -> str:
    return interval_of(test, replace(finding, over="b"), METRICS, lang)


def test_intervals_in_words() -> None:
    inf = math.inf
    found = Finding("holds", "", 3.0, 0.51586, 5.48414, (0.0, inf), 3)
    assert said(found) == "accuracy: a - b = 3 points, 95 % interval [0.5159, 5.484], n = 3; claimed: above 0"
    assert said(found, lang="zh") == "准确率: a - b = 3 个百分点, 95% 区间 [0.5159, 5.484], n = 3; 主张: 高于 0"
    one = Finding("undecided", "", 3.0, -inf, inf, (0.0, inf), 1)
    assert said(one) == "accuracy: a - b = 3 points; claimed: above 0"
    less = Compare(kind="compare", metric="range", arm="a", over="b", better="lower")
    assert said(one, less) == "range error: b - a = 3 mm; claimed: above 0"
    two = Compare(kind="compare", metric="range", arm="a", over="b", over_metric="loss", better="lower")
    assert said(one, two) == "b (loss) - a (range error) = 3 mm; claimed: above 0"
    exact = Finding("holds", "", 1361168.0, 1361168.0, 1361168.0, (1361168.0, 1361168.0), 1)
    size = Value(kind="value", metric="size_4", at_least=0)
    assert said(exact, size) == "parameters, 4 layers = 1,361,168; claimed: 1,361,168"
    same = Finding("fails", "", 2.0, 2.0, 2.0, (3.0, 4.0), 5)
    of_arm = Value(kind="value", metric="acc", arm="a", at_least=0)
    assert said(same, of_arm) == "a: accuracy = 2 % (the same in all 5 seeds); claimed: 3 to 4"
    slope = Trend(kind="trend", metric="size_{x}", x=(1, 2, 3), log=True, at_most=2)
    most = Finding("holds", "", 1.0, 0.5, 1.5, (-inf, 2.0), 3)
    assert said(most, slope).startswith("slope of parameters, x layers over x (log-log) = 1, 95 %")
    assert said(most, slope).endswith("claimed: at most 2")
    assert said(most, slope, "zh").startswith("x 层的参数量 对 x 的斜率 (log-log) = 1")
    assert said(Finding("undecided", "")) == "accuracy: a - b"
    assert said(one, Value(kind="value", metric="nobody", at_least=0)) == "nobody = 3; claimed: above 0"


def test_heads_and_axes_say_unit_and_direction() -> None:
    assert head_of(METRICS["range"]) == "range error (mm)"
    assert head_of(METRICS["loss"], "zh") == "损失"
    assert axis_of(METRICS["acc"]) == "accuracy (%), higher is better"
    assert axis_of(METRICS["range"], "zh") == "射程误差 (mm), 越低越好"
    assert axis_of(METRICS["size_{x}"]) == "parameters, {x} layers"


# -- terminal -----------------------------------------------------------------------------------


def test_the_terminal_report_sets_claim_published_measured_and_verdict_side_by_side(toy: Path) -> None:
    text = printed(terminal.report(result()))
    for words in (
        "Rings Need a Hidden Layer", "Journal of Toys 2024, arXiv 2401.00001",
        "scale laptop · data: rings · 5 seeds · 15 s of computing",
        "The network with a hidden layer is more accurate than the linear model.",
        "wide: accuracy 97.25 ± 0.5 (rings; abstract)",
        "wide: accuracy 91.5 ± 1.1 %", "plain: accuracy 61.0 ± 0.71 %", "accuracy (%)",
        # differences 30, 30.5, 31, 30.5, 30.5: mean 30.5, half 4.85 * 0.35355 / sqrt(5) = 0.7669
        "accuracy: wide - plain = 30.5 points, 95 % interval [29.73, 31.27], n = 5 (t, group-sequential); "
            "claimed: above 5, matters from 7 on",
            "3 of 3 claims decided by an interval survive the Benjamini-Hochberg correction at 5 %",
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "not tested",
        "every seed gives the same value", "needs a billion rings",
        "parameters, 8 hidden units = 42; claimed: 42", "parameters, 4 hidden units 22",
        "mean ± standard deviation over seeds",
    ):  # fmt: skip
        assert words in text, words
    assert "failed" not in text
    assert "DRY RUN" not in text


def test_each_claim_stands_with_its_own_verdict(toy: Path) -> None:
    lines = [line for line in printed(terminal.report(result())).splitlines() if line[:2] in ("● ", "◐ ", "○ ", "– ")]
    words = [re.split(r"\s{2,}", line)[-1] for line in lines]
    assert words == [
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "holds on rings, laptop",
        "not tested",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lang", "rows", "last"),
    [
        (
            "en",
            ("● holds ", "○ fails ", "◐ undecided ", "● holds ", "– not tested "),
            "● 2 holds · ◐ 1 undecided · ○ 1 fails · – 1 not tested",
        ),
        (
            "zh",
            ("● 成立 ", "○ 不成立 ", "◐ 未定 ", "● 成立 ", "– 未检验 "),
            "● 2 成立 · ◐ 1 未定 · ○ 1 不成立 · – 1 未检验",
        ),
    ],
)
def test_the_summary_has_a_line_for_each_claim_with_the_verdict_first(
    toy: Path, lang: str, rows: tuple[str, ...], last: str
) -> None:
    lines = [line for line in printed(terminal.summary(result(), lang)).splitlines() if line]
    assert lines[0].startswith("toy: rings")
    assert all(line.startswith(row) for line, row in zip(lines[1:], rows, strict=True))
    assert "[29.7, 31.3], n = 5" in lines[1]
    assert lines[5].rstrip().endswith("needs a billion rings" if lang == "en" else "需要十亿个圆环")
    assert terminal.count(result().verdicts, lang).plain == last


def test_reasons_are_told_in_chinese(toy: Path) -> None:
    text = printed(terminal.report(result(failed=True), lang="zh"))
    assert "与 plain 的 6 对中有 1 对缺少有限的指标 (seeds 5)" in text
    assert "各种子取值相同，无法估计离散程度" in text


def test_the_terminal_report_in_chinese(toy: Path) -> None:
    text = printed(terminal.report(result(), lang="zh"))
    assert "带隐藏层的网络比线性模型更准确。" in text
    assert "需要十亿个圆环" in text
    assert "wide: 准确率 91.5 ± 1.1 %" in text
    assert "准确率: wide - plain = 30.5 个百分点, 95% 区间" in text
    assert "准确率 (%)" in text
    assert "成立（rings，laptop）" in text


def test_failed_trials_are_named_and_counted_out(toy: Path) -> None:
    text = printed(terminal.report(result(failed=True)))
    assert "failed: wide seed 5: ZeroDivisionError: <division> by zero" in text
    assert "1 of 6 pairs" in text
    assert "seeds 5" in text
    assert "◐ The network with a hidden layer is more accurate than the linear model.  undecided" in text


def test_what_the_data_cannot_give_is_told(toy: Path, tmp_path: Path) -> None:
    claim = 'metric = "accuracy", arm = "wide"'
    (toy / "card.toml").write_text(CARD.replace(claim, claim.replace("accuracy", "area")), encoding="utf-8")
    catalog.card.cache_clear()
    text = "area has no meaning on these data: it needs a disc"
    assert text in printed(terminal.report(result()))
    assert text in page(result(), tmp_path)


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


# -- HTML ---------------------------------------------------------------------------------------


def test_the_html_report_says_all_that_the_terminal_says(toy: Path, tmp_path: Path) -> None:
    text = plain(page(result(failed=True), tmp_path))
    for words in (
        "Rings Need a Hidden Layer", "Ada Toy, Bo Example", "Journal of Toys 2024", "arXiv 2401.00001",
        "A hidden layer separates a ring",
        "scale laptop, data: rings; 17 s of computing", "repertory 0.1.0 (abc123), torch 2.10; a small machine",
        "The network with a hidden layer is more accurate", "wide: accuracy 97.25 ± 0.5 (rings; abstract)",
        "91.5 ± 1.1",
        "95 % interval [29.73, 31.27], n = 5 (t, group-sequential); claimed: above 5, matters from 7 on",
        "holds on rings, laptop", "fails on rings, laptop", "undecided on rings, laptop", "not tested",
        "needs a billion rings", "failed: wide seed 5", "ZeroDivisionError: <division> by zero",
        "parameters, 8 hidden units", "There is no paper.", "The radius is ours.", "epochs", "0.05",
        "changed settings: none",
    ):  # fmt: skip
        assert words in text, words
    assert text.index("1 holds") < text.index("A hidden layer separates"), "verdicts come first"


def test_the_html_report_speaks_one_language(toy: Path, tmp_path: Path) -> None:
    english, chinese = (plain(page(result(failed=True), tmp_path, lang)) for lang in ("en", "zh"))
    assert not re.search("[\u3400-\u9fff]", english)
    for words in (
        "隐藏层能够把圆环", "带隐藏层的网络比线性模型更准确。", "半径由我们选定。",
        "成立（rings，laptop）", "需要十亿个圆环",
        "与 plain 的 6 对中有 1 对缺少有限的指标", "失败", "改动的设置",
    ):  # fmt: skip
        assert words in chinese, words
    for words in ("undecided", "not tested", "interval", "claimed", "The network", "seeds that"):
        assert words not in chinese, words


def test_the_html_report_names_changed_settings_alone(toy: Path, tmp_path: Path) -> None:
    text = plain(page(result(config={"epochs": 80, "lr": 0.05}), tmp_path))
    assert "changed settings: epochs = 80" in text


def test_the_html_report_is_one_file_that_needs_no_other(toy: Path, tmp_path: Path) -> None:
    text = page(result(), tmp_path)
    assert text.startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
    links = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'>\s]+)""", text)
    outside = [link for link in links if not link.startswith(("data:image/png;base64,", "#"))]
    assert outside == ["https://arxiv.org/abs/2401.00001"]
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(re.findall(r'id="([^"]+)"', text))
    assert "<script" not in text
    assert "<link" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)
    assert text.count('<circle class="seed"') >= 2 * 10  # each seed of both arms, in a plot of each metric


def test_text_from_cards_and_errors_is_escaped(toy: Path, tmp_path: Path) -> None:
    text = page(result(failed=True, data="<script>alert(1)</script>"), tmp_path)
    assert "<script" not in text
    assert "<division>" not in text
    assert "&lt;division&gt;" in text


def test_a_notebook_shows_the_report(toy: Path, tmp_path: Path) -> None:
    body = result()._repr_html_()
    assert "<html" not in body
    assert body.count("<h1") == 1
    assert "holds on rings, laptop" in body
    # What a notebook has around it must not be restyled.
    (style,) = re.findall(r"<style>(.*?)</style>", body, flags=re.S)
    style = re.sub(r"@media[^{]+\{", "", style)
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")]
    assert all(selector.startswith(".repertory") for selector in selectors)
    assert body.strip() in page(result(), tmp_path)


def test_charts_have_a_row_for_every_arm_and_a_dot_for_every_finite_seed(toy: Path) -> None:
    outcomes = (
        *result().outcomes,
        Outcome("wide", 5, {"accuracy": NAN}, 1.0),
        Outcome("wide", 6, {}, 1.0, error="RuntimeError"),
    )
    (axes,) = html.chart(replace(result(), outcomes=outcomes), "accuracy").axes
    assert axes.get_xlabel() == "accuracy (%), higher is better"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain", "wide"]
    dots = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_marker() == "o"]  # pyright: ignore[reportArgumentType]
    assert dots == [[60, 61, 62, 61, 61], [90, 91.5, 93, 91.5, 91.5]]
    # 61 ± 2.77645 * 0.70711 / sqrt(5) = 0.87799
    bars = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_linewidth() == 2]  # pyright: ignore[reportArgumentType]
    assert bars[0] == pytest.approx([60.12201, 61.87799], abs=1e-5)


def test_a_real_run_shows_its_pictures(toy: Path, tmp_path: Path) -> None:
    ran = Experiment("toy", "smoke", out=tmp_path / "run").run(seeds=2)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert not ran.failures
    # Pictures of the first seed of each arm.
    assert text.count("<figcaption") == 2
    assert "plain-0: rings" in text
    assert "wide-0: rings" in text
    assert text.count("data:image/png;base64,") == 2
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


# -- what is generated: README's rows, pages, the picture ---------------------------------------


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


def test_readme_has_a_row_for_every_paper(toy: Path) -> None:
    desk = result(scale="desk", data="big rings")
    table = cells(docs.rows(catalog.cards(), {"toy": [result(), desk]}))
    assert table[0] == ["paper", "venue", "what it is", "holds / undecided / fails / not tested"]
    assert len(table) - 2 == len(catalog.packages())
    (mine,) = [row for row in table if row[0].startswith("[toy]")]
    assert mine == [
        "[toy](docs/papers/toy.md)", "Journal of Toys 2024", "a hidden layer for what no line separates",
        "2/1/1/1 on rings; 2/1/1/1 on big rings",
    ]  # fmt: skip
    assert all(row[3] == "not recorded" for row in table[2:] if row != mine)


def test_readme_counts_decided_claims_by_scale_and_kind(toy: Path) -> None:
    """Three of the toy's four testable claims look at trials; at desk scale the networks change places."""
    outcomes = tuple(
        replace(outcome, arm={"plain": "wide", "wide": "plain"}[outcome.arm]) for outcome in result().outcomes
    )
    desk = result(scale="desk", data="big rings", outcomes=outcomes)
    assert docs.summary([catalog.card("toy")], {"toy": [result(), desk]}).splitlines() == [
        "Decided at laptop scale: 2 of 3 empirical, 1 of 1 structural claims.",
        "Decided at desk scale: 2 of 3 empirical, 1 of 1 structural claims.",
        "Decided differently by scale: toy wide-is-better (holds on rings, laptop; fails on big rings, desk), "
        "toy plain-is-better (fails on rings, laptop; holds on big rings, desk).",
    ]


def test_readme_stays_small_with_many_papers() -> None:
    """At 32 papers below 12 kB, rows as long as they are now."""
    root = Path(docs.__file__).parents[3]
    readme = (root / "README.md").read_text(encoding="utf-8")
    own = docs.rows(catalog.cards(built_in=True), docs.recorded_results())
    row = len(own.encode()) / len(catalog.cards(built_in=True))
    assert len(docs.with_rows(readme, "").encode()) + 32 * row < 12_000


def test_a_page_has_claims_figures_tests_arms_settings_layout_and_notes(toy: Path) -> None:
    text = docs.page(catalog.card("toy"), [result(), result(scale="desk", data="big rings")])
    for words in (
        "# toy: Rings Need a Hidden Layer", "Ada Toy, Bo Example. Journal of Toys 2024, [arXiv 2401.00001](",
        "repertory run toy ", "# about 0.1 minutes on two cores", "repertory run toy --scale desk ",
        "### The network with a hidden layer is more accurate than the linear model.",
        "**holds on rings, laptop; holds on big rings, desk**",
        "| published | wide | accuracy | 97.25 ± 0.5 | rings; abstract |",
        "| measured | wide | accuracy | 91.5 ± 1.1 % | rings, laptop |",
        "| accuracy: wide - plain | 30.5 points | [29.73, 31.27] | 5 | t, group-sequential | "
            "above 5, matters from 7 on | rings, laptop | holds |",
        "| parameters, 8 hidden units | 42 |  | 1 | exact | 42 | rings, laptop | holds |",
        "needs a billion rings", "| wide (the method) | one hidden layer |", "train.csv, test.csv: one point a row",
        "| samples | points in the sample, a third of them held out | ", "- decision: The radius is ours.",
        "- fidelity, reconstruction: There is no paper.",
            "| laptop | rings | 5 |  | 15 s | 2026-01-01 | a small machine |",
    ):  # fmt: skip
        assert words in text, words
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [f"## {name}" for name in ("Claims", "Arms", "Data", "Use", "Settings", "Notes", "Recorded")]
    assert text.count("### ") == len(catalog.card("toy").claim)


def test_a_page_without_results_says_so(toy: Path) -> None:
    text = docs.page(catalog.card("toy"), [])
    assert text.count("**Not recorded yet.**") == len(catalog.card("toy").claim)
    assert "## Recorded" not in text


def test_cells_cannot_break_a_table(toy: Path) -> None:
    card = catalog.card("toy")
    odd = card.model_copy(update={"clause": card.clause.model_copy(update={"en": "a | b\nc"})})
    (row,) = cells(docs.rows([odd], {}))[2:]
    assert row[2] == r"a \| b c"
    claim = Claim.model_validate({**card.claim[0].model_dump(), "published": [
        {"data": "x | y", "metric": "m", "arm": "a", "value": 1, "source": "paper"},
    ]})  # fmt: skip
    text = docs.page(card.model_copy(update={"claim": (claim,)}), [])
    assert r"| published | a | m | 1 | x \| y; paper |" in text


def test_the_picture_shows_the_arms_of_the_claim_and_knows_what_it_shows(toy: Path) -> None:
    drawn = docs.picture(result(), "wide-is-better")
    assert drawn == docs.picture(result(), "wide-is-better")
    for words in ("toy: holds on rings, laptop", "accuracy (%), higher is better", "plain", "wide"):
        assert words in drawn, words
    assert docs.same("claim.svg", drawn, drawn.replace("<g", "<g  "))  # as another matplotlib draws it
    other = result(outcomes=result().outcomes[:-1])
    assert not docs.same("claim.svg", drawn, docs.picture(other, "wide-is-better"))
    assert not docs.same("claim.svg", "", drawn)
    assert not docs.same("page.md", "a", "a ")


def test_rows_are_put_between_their_marks_and_nothing_else_changes() -> None:
    begin, end = docs.MARKS
    text = f"# Title\n\n{begin}\nold | table\n{end}\n\n## After\n"
    once = docs.with_rows(text, "| new |\n")
    assert once == f"# Title\n\n{begin}\n| new |\n{end}\n\n## After\n"
    assert docs.with_rows(once, "| new |\n") == once
    assert docs.with_rows(once, "old | table\n") == text


@pytest.mark.parametrize("text", ["# Title\n", f"{docs.MARKS[0]}\n## After\n", f"{docs.MARKS[1]}\n{docs.MARKS[0]}"])
def test_a_readme_without_both_marks_is_a_problem(text: str) -> None:
    """Rather than to swallow what follows the first."""
    with pytest.raises(Problem, match="marks"):
        docs.with_rows(text, "| new |\n")


def test_a_page_that_somebody_wrote_is_not_taken_for_a_generated_one(tmp_path: Path) -> None:
    (tmp_path / "docs" / "papers").mkdir(parents=True)
    for name, text in {"README.md": "# r", "docs/papers/own.md": "# own", "docs/papers/old.md": docs.MARK}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert set(docs.present(tmp_path)) == {"README.md", "docs/papers/old.md"}


def test_recorded_verdicts_are_those_of_the_cards() -> None:
    """`show` reads them as recorded, README and pages judge anew: a card that changed must be recorded again."""
    for paper, contents in catalog.recorded().items():
        for content, found in zip(contents, docs.recorded_results()[paper], strict=True):
            recorded = {verdict["claim"]: verdict["verdict"] for verdict in content["verdicts"]}
            assert {verdict.claim: verdict.word for verdict in found.verdicts} == recorded, (paper, content["scale"])


def test_recorded_metrics_are_declared() -> None:
    for paper, contents in catalog.recorded().items():
        for content in contents:
            names = {name for trial in content["trials"] for name in trial["metrics"]} | set(content["figures"])
            assert undeclared(catalog.load(paper), sorted(names)) == [], (paper, content["scale"])
