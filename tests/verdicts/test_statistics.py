"""Intervals against numbers worked out by hand or by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from repertory.verdicts.statistics import (
    bootstrap_t_interval,
    cohens_d,
    interquartile_mean,
    is_odd,
    proportion_difference,
    proportion_interval,
    superiority,
    t_interval,
    welch_interval,
)

approx = pytest.approx


def test_t_intervals_by_hand() -> None:
    # 1, 2, 3: mean 2, s = 1, half = 4.30265 / sqrt(3) = 2.48414; uneven tails: t(0.9; 2) = 1.88562
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.estimate, found.low, found.high) == approx((2.0, -0.48414, 4.48414), abs=1e-5)
    assert t_interval([1.0, 2.0, 3.0], (0.025, 0.1)).high == approx(2 + 1.88562 / math.sqrt(3), abs=1e-5)
    for values in ([7.0], [0.1, 0.1, 0.1]):
        assert (t_interval(values).low, t_interval(values).high) == (-math.inf, math.inf)


def test_welch_agrees_with_scipy() -> None:
    a, b = [5.0, 6.0, 7.5, 6.1], [1.0, 2.0, 3.0, 2.0, 9.0]
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = welch_interval(a, b)
    assert (found.low, found.high) == approx((theirs.low, theirs.high))


def test_welch_where_one_sample_has_no_spread() -> None:
    a = [5.0, 6.0, 7.5, 6.1]
    alone, shifted = t_interval([value - 4.1 for value in a]), welch_interval(a, [4.1] * 9)
    assert (shifted.low, shifted.high) == approx((alone.low, alone.high))
    for a, b in (([1.0, 1.0], [2.0, 2.0]), ([1.0, 2.0], [3.0])):
        assert (welch_interval(a, b).low, welch_interval(a, b).high) == (-math.inf, math.inf)


def test_proportions_agree_with_scipy() -> None:
    for ones in range(6):
        theirs = stats.binomtest(ones, 5).proportion_ci(0.95, method="exact")
        found = proportion_interval([1.0] * ones + [0.0] * (5 - ones))
        assert (found.low, found.high) == approx((theirs.low, theirs.high))
    apart = proportion_difference([1.0] * 12, [0.0] * 12)
    assert apart.estimate == 1
    assert 0.3 < apart.low < 0.5


def test_bootstrap_t_follows_the_long_tail() -> None:
    values = np.random.default_rng(0).exponential(size=30).tolist()
    found = bootstrap_t_interval(values)
    assert found.high - found.estimate > found.estimate - found.low
    assert found.low < found.estimate < found.high


def test_odd_samples_are_skewed_or_have_an_outlier() -> None:
    assert not is_odd((1.0, 2.0, 3.0, 4.0, 5.0))
    assert not is_odd((1.0, 1.0, 9.0))  # too few to tell
    assert is_odd((1.0, 1.1, 0.9, 1.05, 9.0))


def test_effect_sizes() -> None:
    assert cohens_d([3.0, 5.0], [1.0, 3.0]) == approx(2 / math.sqrt(2))
    assert math.isnan(cohens_d([1.0, 1.0], [0.0, 0.0]))
    assert superiority([2.0, 3.0], [1.0, 2.0]) == 0.875
    found = interquartile_mean({"a": [1.0, 2.0, 3.0, 100.0], "b": [1.0, 2.0, 3.0, -100.0]})
    assert found.estimate == approx(2.0)
    assert found.low < 2 < found.high
