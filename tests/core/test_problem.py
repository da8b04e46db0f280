"""The exception that users see: always three lines, whatever the text it quotes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from repertory.core.problem import Problem


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", " \n\t\n "])
def test_a_problem_has_three_lines_whatever_it_quotes(end: str) -> None:
    problem = Problem(f"one{end}two", Path(f"a{end}b"), f"do{end}this{end}")
    assert str(problem).splitlines() == ["one two", "where: a b", "remedy: do this"]
    assert (problem.what, problem.where, problem.remedy) == ("one two", "a b", "do this") == problem.args


def test_control_characters_are_escaped_and_letters_are_kept() -> None:
    problem = Problem("a\x1b[31m\x07\x9b\u202eb \udcff", "家/ñ – 👩‍🔬", "…")
    assert problem.what == r"a\x1b[31m\x07\x9b\u202eb \udcff"
    assert problem.where == "家/ñ – 👩‍🔬"
    str(problem).encode("utf-8")


def test_a_problem_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Problem("a\nb", "c", "d")))
    assert isinstance(copy, Problem)
    assert str(copy) == "a b\nwhere: c\nremedy: d"
