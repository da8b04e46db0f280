"""The error of repeated looks, simulated as `benchmarks/verdicts.py` does, with fewer studies."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from benchmarks.verdicts import critical_values, stopping_errors
from repertory.verdicts.sequential import CRITICAL, LOOKS, anytime_critical, next_look, plan_of, tail


def test_the_table_is_the_calibrated_one() -> None:
    found = critical_values(100_000, seed=7)
    assert list(CRITICAL) == list(LOOKS)
    for n, c in found.items():
        assert CRITICAL[n] == pytest.approx(c, rel=0.05), n


def test_the_error_over_all_looks_is_kept() -> None:
    """2.5 % on a side; without correction it is five times that."""
    errors = stopping_errors(20_000)
    assert errors["naive"] > 10
    assert errors["group_sequential"] < 2.9
    assert errors["anytime_valid"] < 2.5


def test_plans() -> None:
    assert plan_of(5) == plan_of(12, looks=[5, 8]) == "group-sequential"
    assert plan_of(6) == plan_of(12, looks=[5, 9]) == "anytime-valid"
    assert [next_look(n) for n in (0, 5, 9, 30)] == [5, 8, 12, None]
    assert stats.t.isf(tail(12, "group-sequential"), 11) == pytest.approx(3.17)
    assert tail(1, "anytime-valid") == tail(3, "anytime-valid") == 0
    assert anytime_critical(3) == math.inf
    assert anytime_critical(10) == pytest.approx(3.97, abs=0.005)
