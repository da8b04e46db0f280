"""Checks of constructor arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest

from repertory.core.arguments import (
    check_choice,
    check_lengths,
    check_positive,
    check_range,
    check_rates,
    check_shares,
    check_whole,
)
from repertory.core.problem import Problem


@pytest.mark.parametrize("bad", [0, -3, 1.5, True, "4", (), (1, 0), None, math.nan])
def test_whole_numbers(bad: Any) -> None:
    check_whole("Net", width=1, depths=(1, 2))
    check_whole("Net", 0, classes=0, where=3)
    with pytest.raises(Problem, match="width=") as told:
        check_whole("Net", height=3, width=bad)
    assert told.value.where == "Net"


@pytest.mark.parametrize("bad", [-0.1, 1.0, 2, math.nan, "0.5", None])
def test_rates(bad: Any) -> None:
    check_rates("Net", drop_rate=0.0, drop_path=0.9)
    with pytest.raises(Problem, match=r"drop_rate=.*\n.*\n.*from 0 to below 1"):
        check_rates("Net", drop_rate=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf, "0.5", None])
def test_shares(bad: Any) -> None:
    check_shares("Net", alpha=0, beta=1.0)
    with pytest.raises(Problem, match=r"alpha=.*\n.*\n.*from 0 to 1"):
        check_shares("Net", alpha=bad)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "1", None])
def test_positive_numbers(bad: Any) -> None:
    check_positive("Net", tau=1e-300, dt=3)
    with pytest.raises(Problem, match=r"tau=.*\n.*\n.*above 0"):
        check_positive("Net", tau=bad)


def test_ranges_choices_and_lengths() -> None:
    check_range("Net", 1, math.inf, alpha=3)
    with pytest.raises(Problem, match="from 1 to below inf"):
        check_range("Net", 1, math.inf, alpha=math.inf)
    check_choice("Net", ("lstm", "gru"), cell="gru")
    with pytest.raises(Problem, match="cell='lstn': did you mean lstm"):
        check_choice("Net", ("lstm", "gru"), cell="lstn")
    check_lengths("Net", depths=(1, 2), widths=[3, 4])
    with pytest.raises(Problem, match="2 depths, 1 widths"):
        check_lengths("Net", depths=(1, 2), widths=[3])
    with pytest.raises(Problem, match="0 depths"):
        check_lengths("Net", depths=())
