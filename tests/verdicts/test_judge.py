"""Verdicts against numbers worked out by hand.

t(0.975) with 1, 2, 3, 4 degrees of freedom is 12.7062, 4.30265, 3.18245, 2.77645 (any table).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from repertory.core.card import Card, Compare, Test, Trend, Untested, Value
from repertory.core.study import Metric
from repertory.verdicts.judge import Finding, examine, interval_finding, judge, seeds_to_decide, t_interval

NAN = math.nan
DECLARED = {"acc": Metric("accuracy", "准确率"), "reach": Metric("reach", "范围", needs="true labels")}
approx = pytest.approx


def arm(metric: str, *values: float, first: int = 0) -> dict[int, dict[str, float]]:
    return {seed: {metric: value} for seed, value in enumerate(values, start=first)}


def compare(trials: dict[str, dict[int, dict[str, float]]], **fields: Any) -> Finding:
    test = Compare.model_validate({"kind": "compare", "metric": "acc", "arm": "new", "over": "old", **fields})
    return examine(test, trials, {}, DECLARED)


def value(trials: Any = None, figures: Any = None, **fields: Any) -> Finding:
    return examine(
        Value.model_validate({"kind": "value", "metric": "acc", **fields}), trials or {}, figures or {}, DECLARED
    )


def trend(trials: Any = None, figures: Any = None, **fields: Any) -> Finding:
    base = {"kind": "trend", "metric": "cost_{x}", "x": [1, 2, 3]}
    return examine(Trend.model_validate({**base, **fields}), trials or {}, figures or {}, DECLARED)


# -- intervals ----------------------------------------------------------------------------------


def test_t_intervals_by_hand() -> None:
    # 1, 2, 3: mean 2, s = 1, half = 4.30265 / sqrt(3) = 2.48414
    assert t_interval([1.0, 2.0, 3.0]) == approx((2.0, -0.48414, 4.48414), abs=1e-5)
    # 1, 3: mean 2, s = sqrt(2), half = 12.7062 * sqrt(2) / sqrt(2) = 12.7062
    assert t_interval([1.0, 3.0]) == approx((2.0, -10.7062, 14.7062), abs=1e-4)
    # 1..5: s = sqrt(2.5) = 1.58114, half = 2.77645 * 1.58114 / sqrt(5) = 1.96325
    assert t_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == approx((3.0, 1.03675, 4.96325), abs=1e-5)


def test_one_value_has_no_interval_and_equal_values_have_one_of_no_length() -> None:
    assert t_interval([7.0]) == (7.0, -math.inf, math.inf)
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.1, 0.1)


# -- compare ------------------------------------------------------------------------------------


def test_holds_when_the_whole_interval_is_beyond_the_margin() -> None:
    # differences 2, 3, 4: mean 3, s = 1, half 2.48414
    trials = {"new": arm("acc", 12, 14, 16), "old": arm("acc", 10, 11, 12)}
    finding = compare(trials)
    assert finding.word == "holds"
    assert (finding.estimate, finding.low, finding.high) == approx((3, 0.51586, 5.48414), abs=1e-5)
    assert finding.n == 3
    assert finding.label == "acc: new - old"
    assert finding.accepted == (0.0, math.inf)
    assert finding.reason == ""
    # The margin is held against the end of the interval, not against the mean.
    assert compare(trials, margin=0.5).word == "holds"
    assert compare(trials, margin=0.52).word == "undecided"
    assert compare(trials, margin=5.4).word == "undecided"
    assert compare(trials, margin=5.5).word == "fails"


def test_the_statistics_are_paired() -> None:
    """Seeds differ far more than the arms do: unpaired, nothing could be said."""
    trials = {"new": arm("acc", 11.0, 51.1, 90.9), "old": arm("acc", 10, 50, 90)}
    finding = compare(trials)
    # differences 1.0, 1.1, 0.9: s = 0.1, half = 0.248414
    assert finding.word == "holds"
    assert (finding.low, finding.high) == approx((0.751586, 1.248414), abs=1e-6)


def test_fails_when_the_interval_is_wholly_short_of_the_margin() -> None:
    trials = {"new": arm("acc", 10, 11, 12), "old": arm("acc", 12, 14, 16)}
    finding = compare(trials)
    assert finding.word == "fails"
    assert (finding.low, finding.high) == approx((-5.48414, -0.51586), abs=1e-5)


def test_undecided_when_the_interval_straddles_the_margin_and_says_what_would_decide_it() -> None:
    # differences 1, -1, 3: mean 1, s = 2. n seeds decide when t(n-1) * 2 / sqrt(n) < 1:
    # n = 17: 2.11991 * 2 / 4.12311 = 1.0283; n = 18: 2.10982 * 2 / 4.24264 = 0.99457
    finding = compare({"new": arm("acc", 1, -1, 3), "old": arm("acc", 0, 0, 0)})
    assert finding.word == "undecided"
    assert finding.estimate == 1
    assert "about 18 seeds" in finding.reason


def test_one_seed_is_undecided_however_large_the_difference() -> None:
    finding = compare({"new": arm("acc", 99), "old": arm("acc", 1)})
    assert finding.word == "undecided"
    assert (finding.estimate, finding.low, finding.high, finding.n) == (98, -math.inf, math.inf, 1)
    assert "one seed" in finding.reason


def test_identical_values_are_undecided() -> None:
    same = arm("acc", 5.5, 6.5, 7.5)
    finding = compare({"new": same, "old": same})
    assert finding.word == "undecided"
    assert (finding.estimate, finding.low, finding.high) == (0, 0, 0)
    assert "exactly the margin" in finding.reason
    tenths = {"new": arm("acc", 0.1, 0.1, 0.1), "old": arm("acc", 0, 0, 0)}
    assert "exactly the margin" in compare(tenths, margin=0.1).reason


def test_a_constant_difference_decides() -> None:
    trials = {"new": arm("acc", 6, 7, 8), "old": arm("acc", 5, 6, 7)}
    assert compare(trials).word == "holds"
    assert compare(trials, margin=0.999).word == "holds"
    assert compare(trials, margin=1.001).word == "fails"
    assert compare(trials, better="lower").word == "fails"
    assert compare({"new": arm("acc", 6, 7), "old": arm("acc", 5, 6)}).word == "holds"


def test_lower_is_better_for_errors() -> None:
    trials = {"new": arm("acc", 10, 11, 12), "old": arm("acc", 12, 14, 16)}
    finding = compare(trials, better="lower")
    assert finding.word == "holds"
    assert (finding.estimate, finding.low) == approx((3, 0.51586), abs=1e-5)
    assert finding.label == "acc: old - new"
    assert compare(trials, better="lower", margin=0.52).word == "undecided"


def test_a_negative_margin_tests_that_the_arm_is_not_worse() -> None:
    # differences -1, 0, 1: mean 0, half 2.48414
    trials = {"new": arm("acc", 9, 10, 11), "old": arm("acc", 10, 10, 10)}
    assert compare(trials).word == "undecided"
    assert compare(trials, margin=-2.4).word == "undecided"
    assert compare(trials, margin=-2.5).word == "holds"
    assert compare(trials, margin=-2.5, better="lower").word == "holds"
    assert compare({"new": arm("acc", 1, 1), "old": arm("acc", 1, 1)}, margin=-0.5).word == "holds"


def test_of_several_controls_the_strongest_counts() -> None:
    trials = {"new": arm("acc", 12, 14, 16), "weak": arm("acc", 1, 2, 3), "strong": arm("acc", 10, 11, 12)}
    finding = compare(trials, over=["weak", "strong"])
    assert finding.label == "acc: new - strong"
    assert finding.estimate == 3
    # For an error the strongest is the lowest: differences 12 - 1, 14 - 2, 16 - 3 to its disfavour.
    lower = compare(trials, over=["weak", "strong"], better="lower")
    assert lower.label == "acc: weak - new"
    assert (lower.word, lower.estimate) == ("fails", -12)


def test_a_control_that_was_not_run_leaves_it_undecided() -> None:
    trials = {"new": arm("acc", 12, 14, 16), "weak": arm("acc", 1, 2, 3)}
    finding = compare(trials, over=["weak", "strong"])
    assert finding.word == "undecided"
    assert "strong was not run" in finding.reason
    assert "new was not run" in compare({"old": arm("acc", 1)}).reason


def test_two_metrics_of_one_arm_are_compared() -> None:
    trials = {"new": {seed: {"before": 10.0 + seed, "after": 12.0 + 2 * seed} for seed in range(3)}}
    # after - before: 2, 3, 4
    finding = compare(trials, metric="after", over="new", over_metric="before")
    assert finding.word == "holds"
    assert (finding.estimate, finding.low) == approx((3, 0.51586), abs=1e-5)
    assert finding.label == "new after - new before"
    assert compare(trials, metric="after", over="new", over_metric="before", better="lower").word == "fails"


@pytest.mark.parametrize("lost", [{}, {"acc": NAN}, {"acc": math.inf}, {"loss": 1.0}])
def test_a_failed_trial_is_reported_and_nothing_holds(lost: dict[str, float]) -> None:
    trials = {"new": arm("acc", 12, 14, 16, 18), "old": {**arm("acc", 10, 11, 12), 3: lost}}
    finding = compare(trials)
    assert finding.word == "undecided"
    assert finding.n == 3
    assert finding.estimate == 3
    assert "1 of 4 pairs" in finding.reason
    assert "seeds 3" in finding.reason
    swapped = {"new": trials["old"], "old": trials["new"]}
    finding = compare(swapped)
    assert finding.word == "fails"
    assert "seeds 3" in finding.reason


def test_a_failed_trial_of_any_control_is_reported() -> None:
    trials = {
        "new": arm("acc", 12, 14, 16),
        "weak": {**arm("acc", 1, 2), 2: {}},
        "strong": arm("acc", 10, 11, 12),
    }
    finding = compare(trials, over=["weak", "strong"])
    assert finding.label == "acc: new - strong"
    assert finding.word == "undecided"
    assert "weak" in finding.reason
    assert "seeds 2" in finding.reason


def test_when_every_trial_failed_the_arm_is_named() -> None:
    finding = compare({"new": {0: {}, 1: {"acc": NAN}}, "old": arm("acc", 1, 2)})
    assert finding.word == "undecided"
    assert finding.reason == "no trial of new gave a finite acc"
    assert math.isnan(finding.estimate)


def test_a_metric_that_the_data_cannot_give_is_not_tested() -> None:
    trials = {"new": {**arm("acc", 1, 2), 2: {}}, "old": arm("acc", 1, 2)}
    finding = compare(trials, metric="reach")
    reason = "reach has no meaning on these data: it needs true labels"
    assert (finding.word, finding.reason, finding.over) == ("not tested", reason, "old")
    assert value(trials, metric="reach", arm="new", at_least=0).word == "not tested"
    assert value({"new": {0: {}}}, metric="reach", arm="new", at_least=0).word == "undecided"  # that trial failed


def test_a_metric_that_needs_nothing_and_is_not_there_leaves_the_claim_undecided() -> None:
    """The study forgot it: the data are not to blame."""
    trials = {"new": {0: {"loss": 1.0}}, "old": arm("acc", 1)}
    finding = compare(trials)
    assert (finding.word, finding.reason) == ("undecided", "no trial of new gave a finite acc")
    assert value(trials, arm="new", at_least=0).word == "undecided"


def test_seeds_without_a_partner_are_reported() -> None:
    finding = compare({"new": arm("acc", 12, 14, 16), "old": arm("acc", 10, 11, 12, 13, 14)})
    assert finding.word == "undecided"
    assert finding.n == 3
    assert "2 of 5 pairs" in finding.reason
    assert "seeds 3, 4" in finding.reason
    apart = compare({"new": arm("acc", 1, 2), "old": arm("acc", 1, 2, first=5)})
    assert apart.word == "undecided"
    assert apart.reason == "new and old share no seed"


# -- value --------------------------------------------------------------------------------------


def test_an_exact_figure() -> None:
    assert value(figures={"acc": 42.0}, equals=42).word == "holds"
    assert value(figures={"acc": 42.0}, equals=42) == Finding("holds", "acc", 42.0, 42.0, 42.0, (42.0, 42.0), 1)
    assert value(figures={"acc": 43.0}, equals=42).word == "fails"
    assert value(figures={"acc": 43.0}, equals=42, tolerance=1).word == "holds"
    assert value(figures={"acc": 43.1}, equals=42, tolerance=1).word == "fails"
    assert value(figures={"acc": 3.0}, at_least=3).word == "holds"
    assert value(figures={"acc": 2.9}, at_least=3).word == "fails"
    assert value(figures={"acc": 3.0}, at_most=3).word == "holds"
    assert value(figures={"acc": 3.1}, at_most=3).word == "fails"
    assert value(figures={"acc": 2.5}, at_least=2, at_most=3).word == "holds"


@pytest.mark.parametrize("figures", [{}, {"acc": NAN}, {"acc": math.inf}])
def test_a_figure_that_was_not_measured_is_undecided(figures: dict[str, float]) -> None:
    finding = value(figures=figures, at_least=0)
    assert finding.word == "undecided"
    assert "not measured" in finding.reason


def test_the_mean_of_an_arm_is_held_against_the_region_with_its_interval() -> None:
    trials = {"new": arm("acc", 1, 2, 3)}  # [-0.48414, 4.48414]
    assert value(trials, arm="new", equals=2, tolerance=2.5).word == "holds"
    assert value(trials, arm="new", equals=2, tolerance=2.4).word == "undecided"
    assert value(trials, arm="new", at_least=-0.5).word == "holds"
    assert value(trials, arm="new", at_least=4.4).word == "undecided"
    assert value(trials, arm="new", at_least=4.5).word == "fails"
    assert value(trials, arm="new", at_most=-0.5).word == "fails"
    assert value(trials, arm="new", at_least=-1, at_most=5).word == "holds"
    finding = value(trials, arm="new", at_least=-0.5)
    assert (finding.n, finding.label, finding.estimate) == (3, "acc of new", 2)


def test_a_value_of_one_seed_or_of_equal_seeds() -> None:
    assert value({"new": arm("acc", 2)}, arm="new", equals=2).word == "undecided"
    assert value({"new": arm("acc", 2, 2)}, arm="new", equals=2).word == "holds"
    assert value({"new": arm("acc", 0.1, 0.1, 0.1)}, arm="new", equals=0.1).word == "holds"
    assert value({"new": arm("acc", 2, 2)}, arm="new", at_most=1.9).word == "fails"


def test_a_value_with_failed_trials_never_holds() -> None:
    trials = {"new": {**arm("acc", 2, 2, 2), 3: {}, 4: {"acc": NAN}}}
    finding = value(trials, arm="new", at_least=1)
    assert finding.word == "undecided"
    assert "2 of 5 trials of new failed (seeds 3, 4)" in finding.reason
    assert value(trials, arm="new", at_least=3).word == "fails"
    assert "no trial of new gave acc" in value({"new": {0: {}}}, arm="new", at_least=3).reason
    assert value({}, arm="new", at_least=3).word == "undecided"


# -- trend --------------------------------------------------------------------------------------


def test_the_slope_of_measured_figures_by_hand() -> None:
    # (1, 1), (2, 2), (3, 4): slope 3/2; residuals 1/6, -1/3, 1/6: sum of squares 1/6, 1 degree of freedom,
    # standard error sqrt(1/6 / 2) = 0.288675, half = 12.7062 * 0.288675 = 3.66796
    figures = {"cost_1": 1.0, "cost_2": 2.0, "cost_3": 4.0}
    finding = trend(figures=figures, at_least=-2.2)
    assert (finding.estimate, finding.low, finding.high) == approx((1.5, -2.16796, 5.16796), abs=1e-4)
    assert (finding.word, finding.n) == ("holds", 3)
    assert trend(figures=figures, at_least=-2.1).word == "undecided"
    assert "scatter" in trend(figures=figures, at_least=-2.1).reason
    assert trend(figures=figures, at_least=5.2).word == "fails"
    assert trend(figures=figures, equals=1.5, tolerance=3.7).word == "holds"


def test_a_straight_line_has_its_slope() -> None:
    figures = {f"cost_{x}": 7.0 - 2.0 * x for x in (1, 2, 3)}
    assert trend(figures=figures, equals=-2, tolerance=1e-9).word == "holds"
    assert trend(figures=figures, at_most=-2.1).word == "fails"


def test_the_exponent_of_a_power_law() -> None:
    figures = {f"cost_{x}": 3.0 * x**2 for x in (1, 2, 4, 8)}
    finding = trend(figures=figures, x=[1, 2, 4, 8], log=True, equals=2, tolerance=1e-9)
    assert finding.word == "holds"
    assert "log-log" in finding.label
    assert trend(figures=figures, x=[1, 2, 4, 8], log=True, at_most=1.9).word == "fails"
    # Cost without a logarithm exists only where it is positive.
    figures["cost_2"] = 0.0
    assert trend(figures=figures, x=[1, 2, 4, 8], log=True, at_most=3).word == "undecided"


def test_the_slopes_of_an_arm_are_one_value_per_seed() -> None:
    # slopes 1, 2, 3: the interval of the three, [-0.48414, 4.48414]
    trials = {"new": {seed: {f"cost_{x}": (seed + 1.0) * x + 10 for x in (1, 2, 3)} for seed in range(3)}}
    finding = trend(trials, arm="new", at_least=-0.5)
    assert finding.word == "holds"
    assert (finding.estimate, finding.low, finding.n) == approx((2, -0.48414, 3), abs=1e-5)
    assert trend(trials, arm="new", at_least=0).word == "undecided"
    assert "seeds would decide it" in trend(trials, arm="new", at_least=0).reason
    assert trend(trials, arm="new", at_most=-0.5).word == "fails"
    power = {"new": {seed: {f"cost_{x}": (1.0 + seed) * x**3 for x in (1, 2, 3)} for seed in range(2)}}
    assert trend(power, arm="new", log=True, equals=3, tolerance=1e-9).word == "holds"


def test_a_trend_with_missing_points_never_holds() -> None:
    whole = {f"cost_{x}": float(x) for x in (1, 2, 3)}
    for lost in ({}, {**whole, "cost_2": NAN}, {"cost_1": 1.0, "cost_3": 3.0}):
        assert trend(figures=lost, at_least=0).word == "undecided"
        finding = trend({"new": {0: whole, 1: whole, 7: lost}}, arm="new", at_least=0)
        assert finding.word == "undecided"
        assert "missing" in finding.reason
        assert "seeds 7" in finding.reason
    assert trend({}, arm="new", at_least=0).word == "undecided"
    assert trend({"new": {0: whole}}, arm="new", at_least=0).word == "undecided"  # one seed


# -- how many seeds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        ([1.0, -1.0, 3.0], (0.0, math.inf)),
        ([0.5, -2.0, 3.0, 1.0], (0.0, math.inf)),
        ([1.0, 4.0], (2.0, math.inf)),
        ([1.0, 4.0, 2.0], (-math.inf, 4.0)),
        ([1.0, 4.0, 2.0], (2.0, 4.0)),
        ([9.0, 2.0, 8.0], (2.0, 4.0)),
    ],
)
def test_the_number_of_seeds_that_would_decide_is_the_least_that_does(
    values: list[float], accepted: tuple[float, float]
) -> None:
    n = seeds_to_decide(values, accepted)
    assert n is not None
    mean = sum(values) / len(values)
    s = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))

    def decided(seeds: int) -> bool:
        half = float(stats.t.ppf(0.975, seeds - 1)) * s / math.sqrt(seeds)
        low, high = mean - half, mean + half
        return (low > accepted[0] and high < accepted[1]) or high < accepted[0] or low > accepted[1]

    assert decided(n)
    assert not decided(n - 1)


def test_many_seeds_are_estimated_and_hopeless_cases_are_said() -> None:
    # s = 1, distance 0.1: (1.96 / 0.1)^2 = 384.1
    assert seeds_to_decide([0.1 - math.sqrt(0.5), 0.1 + math.sqrt(0.5)], (0.0, math.inf)) == approx(385, abs=3)
    assert seeds_to_decide([1.001, -0.999], (0.0, math.inf)) is None
    assert seeds_to_decide([1.0, -1.0], (0.0, math.inf)) is None
    finding = interval_finding([1.0, -1.0], (0.0, math.inf), "x")
    assert finding.word == "undecided"
    assert "10000 seeds would not decide it" in finding.reason


def test_the_ends_of_a_region_belong_to_it_but_a_comparison_must_exceed_its_margin() -> None:
    assert interval_finding([1.0, 1.0], (1.0, 2.0), "x").word == "holds"
    assert interval_finding([1.0, 1.0], (1.0, 2.0), "x", strict=True).word == "undecided"


# -- claims -------------------------------------------------------------------------------------

GOOD = {"kind": "value", "metric": "good", "at_least": 0}
BAD = {"kind": "value", "metric": "good", "at_most": 0}
OPEN = {"kind": "value", "metric": "absent", "at_least": 0}
UNTESTED = {"kind": "untested", "reason": {"en": "needs a cluster", "zh": "需要集群"}}


@pytest.mark.parametrize(
    ("tests", "word"),
    [
        ([GOOD], "holds"),
        ([GOOD, GOOD], "holds"),
        ([GOOD, BAD], "fails"),
        ([OPEN, BAD], "fails"),
        ([UNTESTED, BAD], "fails"),
        ([GOOD, OPEN], "undecided"),
        ([UNTESTED, OPEN], "undecided"),
        ([GOOD, UNTESTED], "not tested"),
        ([UNTESTED], "not tested"),
    ],
)
def test_a_claim_holds_if_all_its_tests_hold_and_fails_if_one_fails(tests: list[dict[str, Any]], word: str) -> None:
    claim = {"id": "claim", "en": "A claim.", "zh": "主张。", "test": tests}
    card = Card.model_validate(
        {
            "id": "p", "title": "Title", "authors": ["An Author"], "year": 2024, "venue": "V", "arxiv": "", "code": "",
            "fidelity": "exact", "topic": "theory", "keywords": ["words"], "minutes": 1,
            "clause": {"en": "It.", "zh": "它。"},
            "usage": "pass", "summary": {"en": "Words.", "zh": "文字。"},
            "claim": [claim],
        }
    )  # fmt: skip
    (verdict,) = judge(card, {}, {"good": 1.0}, "digits", "laptop", {})
    assert verdict.word == word
    assert verdict.claim == "claim"
    assert verdict.text.zh == "主张。"
    assert len(verdict.findings) == len(tests)
    assert verdict.sentence == ("not tested" if word == "not tested" else f"{word} on digits, laptop")


def test_an_untested_claim_says_why() -> None:
    finding = examine(Untested.model_validate(UNTESTED), {}, {}, {})
    assert (finding.word, finding.reason) == ("not tested", "needs a cluster")


def test_failed_trials_do_not_change_the_verdict_on_other_arms() -> None:
    test: Test = Compare(kind="compare", metric="acc", arm="new", over="old")
    trials = {"new": arm("acc", 6, 7, 8), "old": arm("acc", 5, 6, 7), "third": {0: {}, 1: {}}}
    assert examine(test, trials, {}, DECLARED).word == "holds"
