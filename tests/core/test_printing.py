"""Names from data reach terminals, JSON and figures whole, and as nothing but text."""

from __future__ import annotations

import io
import json
import sys
import warnings

import pytest
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from repertory.core.printing import _drawable, console, figure_text, print_json, print_problem, set_streams, visible
from repertory.core.problem import Problem

NAMES = (
    "c1cc[nH]c1", "C[n+]1ccccc1", "dog [husky]", "dog [red]", "a[/b].png", "[/]", "[bold]x[/bold]", ":smile:",
    r"F/C=C\F", "Paris, France", "图神经网络",
)  # fmt: skip
COMMANDS = {
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x1b[2J": r"\x1b[2J",
    "\x1b]52;c;aGk=\x1b\\": r"\x1b]52;c;aGk=\x1b" + "\\",
    "\x9b31m": r"\x9b31m",
    "a\rb\x08c\x00": r"a\x0db\x08c\x00",
    "evil\u202egnp.exe": r"evil\u202egnp.exe",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "bad\udce9name": r"bad\udce9name",
    "tag\U000e0041": r"tag\U000e0041",
}


def printed(*things: object, monkeypatch: pytest.MonkeyPatch, **options: object) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "200")
    where = console()
    for thing in things:
        where.print(thing, **options)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def test_names_are_printed_whole_in_lines_cells_and_headings(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("name", *NAMES[:3], title=NAMES[4])
    for name in NAMES:
        table.add_row(name, name)
    text = printed(*NAMES, table, *map(Text, NAMES), monkeypatch=monkeypatch)
    for name in NAMES:
        assert text.count(name) >= 4, name


@pytest.mark.parametrize("command", COMMANDS)
def test_control_characters_are_shown_and_not_sent(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("name")
    table.add_row(command)
    text = printed(command, table, Text("styled " + "".join(c for c in command)), monkeypatch=monkeypatch)
    assert visible(command) == COMMANDS[command]
    assert text.count(COMMANDS[command]) >= 2
    assert all(c.isprintable() or c == "\n" for c in text)


def test_a_problem_stays_three_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    print_problem(console(stderr=True), Problem("bad\nremedy: rm -rf /", "a\x1b[2Jb [x]", "mend it"))
    assert stream.getvalue().splitlines() == ["bad remedy: rm -rf /", r"where: a\x1b[2Jb [x]", "remedy: mend it"]


def test_json_keeps_values_and_sends_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    values = [*NAMES, *COMMANDS]
    print_json(values)
    text = capsys.readouterr().out
    assert json.loads(text) == values
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "图" in text


def test_streams_that_lack_a_character_show_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    set_streams()
    print("圆")
    print_json({"名": "\U0001f600"})
    sys.stdout.flush()
    first, _, rest = raw.getvalue().decode("ascii").partition("\n")
    assert first == r"\u5706"
    assert json.loads(rest) == {"名": "\U0001f600"}


@pytest.mark.parametrize("name", ["$5_a", "$10^$20", "$$", r"a\$b", "$x$ $y", "_hidden", "plain", "a\x1b[0m$"])
def test_figures_show_names_literally(name: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(figure_text(name))
    axes.plot([0, 1], label=figure_text(name))
    axes.set_xticks([0], [figure_text(name)])
    legend = axes.legend()
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert len(legend.get_texts()) == 1
    shown = axes.title._preprocess_math(axes.title.get_text())  # pyright: ignore[reportAttributeAccessIssue]
    assert shown == (visible(name) if not name.startswith("_") else f" {name}", False)


def test_figures_show_what_no_font_has_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl
    from matplotlib.font_manager import FontEntry, fontManager

    usual = [entry for entry in fontManager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", [*usual, FontEntry(fname="/nowhere/Gone.ttf", name="Gone")])
    monkeypatch.setitem(mpl.rcParams, "font.family", ["DejaVu Sans"])
    _drawable.cache_clear()
    assert figure_text("猫 é") == r"\u732b é"
    figure = Figure()
    figure.subplots().set_title(figure_text("猫"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib: a glyph is missing
        figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_figures_use_a_font_that_has_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "font.family", ["DejaVu Sans"])
    _drawable.cache_clear()
    assert figure_text("x\u1d81") == "x\u1d81"  # in STIXGeneral, which matplotlib brings along
    assert mpl.rcParams["font.family"][0] == "DejaVu Sans"
    assert len(mpl.rcParams["font.family"]) == 2
    figure = Figure()
    figure.subplots().set_title(figure_text("x\u1d81"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=30)
