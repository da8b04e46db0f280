"""Verdicts against numbers worked out by hand.

At the first look, 5 seeds, |t| = 4.85 decides; values 1 to 5 about their mean have s / sqrt(5) = 0.707107, so the
repeated interval is mean +- 3.42947.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from repertory.core.card import Card, Compare, Test, Trend, Untested, Value
from repertory.core.study import Metric
from repertory.verdicts.decisions import SMALL, Finding
from repertory.verdicts.evidence import Evidence
from repertory.verdicts.judge import examine, judge, open_tests, survivors

NAN = math.nan
HALF = 4.85 * math.sqrt(2.5 / 5)
DECLARED = {"acc": Metric("accuracy", "准确率"), "reach": Metric("reach", "范围", needs="true labels")}
approx = pytest.approx


def arm(metric: str, *values: float, first: int = 0) -> dict[int, dict[str, float]]:
    return {seed: {metric: value} for seed, value in enumerate(values, start=first)}


def findings(trials: dict[str, dict[int, dict[str, float]]], **fields: Any) -> tuple[Finding, ...]:
    evidence, shares = Evidence(trials, {}, DECLARED, fields.pop("looks", ())), fields.pop("shares", 1)
    test = Compare.model_validate({"kind": "compare", "metric": "acc", "arm": "new", "over": "old", **fields})
    return tuple(examine(one, evidence, shares) for one in test.one_by_one())


def compare(trials: dict[str, dict[int, dict[str, float]]], **fields: Any) -> Finding:
    (finding,) = findings(trials, **fields)
    return finding


def value(trials: Any = None, figures: Any = None, **fields: Any) -> Finding:
    test = Value.model_validate({"kind": "value", "metric": "acc", **fields})
    return examine(test, Evidence(trials or {}, figures or {}, DECLARED))


def trend(trials: Any = None, figures: Any = None, **fields: Any) -> Finding:
    base = {"kind": "trend", "metric": "cost_{x}", "x": [1, 2, 3]}
    return examine(Trend.model_validate({**base, **fields}), Evidence(trials or {}, figures or {}))


# -- compare ------------------------------------------------------------------------------------


def test_holds_when_the_whole_interval_is_beyond_the_margin() -> None:
    trials = {"new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14)}  # differences 5 to 9
    finding = compare(trials)
    assert finding.word == "holds"
    assert (finding.estimate, finding.low, finding.high) == approx((7, 7 - HALF, 7 + HALF))
    assert (finding.n, finding.label, finding.accepted) == (5, "acc: new - old", (0.0, math.inf))
    assert finding.method == "t, group-sequential"
    assert finding.reason == ""
    # The margin is held against the end of the interval, not against the mean.
    assert compare(trials, margin=3.5).word == "holds"
    assert compare(trials, margin=3.6).word == "undecided"
    assert compare(trials, margin=10.4).word == "undecided"
    assert compare(trials, margin=10.5).word == "fails"


def test_an_effect_below_the_least_that_matters_fails() -> None:
    trials = {"new": arm("acc", *(0.1 * k for k in range(5))), "old": arm("acc", 0, 0, 0, 0, 0)}  # mean 0.2 +- 0.343
    assert compare(trials).word == "undecided"
    assert compare(trials, least=0.5).word == "undecided"
    assert compare(trials, least=0.55).word == "fails"
    better = {"new": arm("acc", *(1 + 0.1 * k for k in range(5))), "old": trials["old"]}  # 1.2 +- 0.343
    assert compare(better, least=2).word == "holds"
    assert compare(better, least=2).reason == SMALL
    assert compare(better, least=1.5).reason == ""


def test_a_few_seeds_decide_nothing() -> None:
    finding = compare({"new": arm("acc", 97, 98, 99), "old": arm("acc", 1, 3, 4)})
    assert finding.word == "undecided"
    assert finding.reason == "3 seeds; the first look is at 5"
    one = compare({"new": arm("acc", 99), "old": arm("acc", 1)})
    assert (one.estimate, one.low, one.high, one.n) == (98, -math.inf, math.inf, 1)


def test_looks_off_the_schedule_make_the_interval_anytime_valid() -> None:
    trials = {"new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14)}
    wider = compare(trials, looks=[4])
    assert wider.method == "t, anytime-valid"
    assert (wider.low, wider.high) == approx((7 - 5.3574 * HALF / 4.85, 7 + 5.3574 * HALF / 4.85), abs=1e-3)
    assert compare({name: {**seeds, 5: {"acc": 0.0}} for name, seeds in trials.items()}).method.endswith(
        "anytime-valid"
    )


def test_what_an_earlier_look_decided_stays_decided() -> None:
    first = {"new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14)}
    later = {
        "new": {**first["new"], **arm("acc", -20, 5, 30, first=5)},
        "old": {**first["old"], **arm("acc", 0, 0, 0, first=5)},
    }
    assert compare(first).word == compare(later, looks=[5]).word == "holds"
    assert compare(later, looks=[5, 7]).word == "undecided"


def test_an_open_finding_names_the_next_look() -> None:
    trials = {"new": arm("acc", 1, -1, 3, 0, 2), "old": arm("acc", 0, 0, 0, 0, 0)}
    assert compare(trials).reason == "the next look is at 8 seeds"
    values = [1.0, -1.2] * 15
    assert "the last look" in compare({"new": arm("acc", *values), "old": arm("acc", *[0.5] * 30)}, margin=-0.6).reason


def test_pairing_over_seeds_and_welch_without() -> None:
    """Seeds differ far more than the arms do: unpaired, nothing can be decided."""
    trials = {"new": arm("acc", 11.0, 51.1, 90.9, 30.95, 71.05), "old": arm("acc", 10, 50, 90, 30, 70)}
    assert compare(trials).word == "holds"
    unpaired = compare(trials, paired=False)
    assert (unpaired.word, unpaired.method) == ("undecided", "Welch, group-sequential")
    uneven = {"new": arm("acc", 5, 6, 7, 8, 9, 6, 7, 8), "old": arm("acc", 1, 2, 3, 2, 1)}
    finding = compare(uneven, paired=False)
    assert (finding.word, finding.n, finding.estimate) == ("holds", 5, 7 - 1.8)


def test_fails_when_the_interval_is_wholly_short_of_the_margin() -> None:
    trials = {"new": arm("acc", 10, 11, 12, 13, 14), "old": arm("acc", 15, 17, 19, 21, 23)}
    finding = compare(trials)
    assert finding.word == "fails"
    assert (finding.low, finding.high) == approx((-7 - HALF, -7 + HALF))


def test_tests_of_a_claim_share_the_error_of_failing() -> None:
    """The upper end moves out, the lower one stays: all must hold, but one that fails is enough."""
    trials = {"new": arm("acc", 10, 11, 12, 13, 14), "old": arm("acc", 15, 17, 19, 21, 23)}
    alone, shared = compare(trials), compare(trials, shares=6)
    assert shared.low == alone.low
    assert shared.high > alone.high


def test_equal_differences_decide_only_where_the_seed_cannot_change_them() -> None:
    same = arm("acc", 5.5, 6.5, 7.5, 8.5, 9.5)
    finding = compare({"new": same, "old": same})
    assert (finding.word, finding.low, finding.high) == ("undecided", -math.inf, math.inf)
    assert "spread cannot be estimated" in finding.reason
    assert compare({"new": same, "old": same}, exact=True, margin=-0.001).word == "holds"
    assert compare({"new": same, "old": same}, exact=True).word == "fails"  # no better
    more = arm("acc", 6, 7, 8, 9, 10)
    assert compare({"new": more, "old": same}, exact=True, margin=0.499).word == "holds"


def test_outcomes_of_0_and_1_have_exact_intervals() -> None:
    trials = {"new": arm("acc", *[1.0] * 12), "old": arm("acc", *[0.0] * 12)}
    finding = compare(trials, looks=[5, 8])
    assert (finding.word, finding.method) == ("holds", "exact binomial, group-sequential")
    assert 0 < finding.low < 0.6
    assert finding.high == 1
    assert value({"new": arm("acc", *[1.0] * 5)}, arm="new", at_least=0.9).word == "undecided"
    assert value({"new": arm("acc", *[1.0] * 5)}, arm="new", at_least=0.1).word == "holds"


def test_a_skewed_sample_has_a_bootstrap_interval_beside_the_t_interval() -> None:
    trials = {"new": arm("acc", 1.0, 1.1, 0.9, 1.05, 9.0), "old": arm("acc", 0, 0, 0, 0, 0)}
    assert compare(trials).method == "t and bootstrap-t, group-sequential"


def test_lower_is_better_for_errors() -> None:
    trials = {"new": arm("acc", 10, 11, 12, 13, 14), "old": arm("acc", 15, 17, 19, 21, 23)}
    finding = compare(trials, better="lower")
    assert (finding.word, finding.label) == ("holds", "acc: old - new")
    assert (finding.estimate, finding.low) == approx((7, 7 - HALF))
    assert compare(trials, better="lower", margin=3.6).word == "undecided"


def test_non_inferiority_needs_a_control_that_works() -> None:
    trials = {
        "new": {k: {"acc": 70 + 0.1 * k, "collapsed": 1.0} for k in range(5)},
        "old": {k: {"acc": 70.0, "collapsed": 1.0} for k in range(5)},
    }
    assert compare(trials, margin=-2).word == "holds"
    finding = compare(trials, margin=-2, assay={"metric": "collapsed", "at_most": 0.5})
    assert finding.word == "undecided"
    assert finding.reason.startswith("old does not work here (collapsed is not at most 0.5)")
    assert compare(trials, margin=-2, assay={"metric": "acc", "at_least": 60}).word == "holds"


def test_every_control_has_a_test_of_its_own() -> None:
    trials = {
        "new": arm("acc", 15, 17, 19, 21, 23),
        "weak": arm("acc", 1, 2, 3, 4, 5),
        "strong": arm("acc", 14, 18, 18, 22, 22),
    }
    weak, strong = findings(trials, over=["weak", "strong"])
    assert (weak.label, weak.word) == ("acc: new - weak", "holds")
    assert (strong.label, strong.word) == ("acc: new - strong", "undecided")
    absent = findings(trials, over=["weak", "absent"])[1]
    assert (absent.word, absent.reason) == ("undecided", "the arm absent was not run")


def test_two_metrics_of_one_arm_are_compared() -> None:
    trials = {"new": {seed: {"before": 10.0 + seed, "after": 15.0 + 2 * seed} for seed in range(5)}}
    finding = compare(trials, metric="after", over="new", over_metric="before")
    assert (finding.word, finding.label) == ("holds", "new after - new before")
    assert compare(trials, metric="after", over="new", over_metric="before", better="lower").word == "fails"


@pytest.mark.parametrize("lost", [{}, {"acc": NAN}, {"acc": math.inf}])
def test_a_failed_trial_is_reported_and_nothing_holds(lost: dict[str, float]) -> None:
    trials = {"new": arm("acc", 15, 17, 19, 21, 23, 25), "old": {**arm("acc", 10, 11, 12, 13, 14), 5: lost}}
    finding = compare(trials)
    assert (finding.word, finding.n, finding.estimate) == ("undecided", 5, 7)
    assert "1 of 6 pairs with old lack a finite metric (seeds 5)" in finding.reason
    assert compare({"new": trials["old"], "old": trials["new"]}).word == "fails"
    assert "1 trials of old failed" in compare(trials, paired=False).reason


def test_when_every_trial_failed_the_arm_is_named() -> None:
    finding = compare({"new": {0: {}, 1: {"acc": NAN}}, "old": arm("acc", 1, 2)})
    assert (finding.word, finding.reason) == ("undecided", "no trial of new gave a finite acc")
    assert math.isnan(finding.estimate)
    assert compare({"new": arm("acc", 1, 2), "old": arm("acc", 1, 2, first=5)}).reason == "new and old share no seed"


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


def test_an_arm_with_more_seeds_is_paired_over_those_of_both() -> None:
    finding = compare({"new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14, 15, 16)})
    assert (finding.word, finding.n, finding.reason) == ("holds", 5, "")


# -- value --------------------------------------------------------------------------------------


def test_an_exact_figure() -> None:
    assert value(figures={"acc": 42.0}, equals=42).word == "holds"
    found = value(figures={"acc": 42.0}, equals=42)
    assert found == Finding("holds", "acc", 42.0, 42.0, 42.0, (42.0, 42.0), 1, method="exact", p=found.p)
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


def test_a_timing_needs_five_medians() -> None:
    few = value(figures={"speed": [1.5, 1.6, 1.4]}, metric="speed", at_least=1)
    assert (few.word, few.reason) == ("undecided", "3 medians; an interval needs 5")
    medians = [1.5, 1.6, 1.4, 1.55, 1.45]  # mean 1.5 +- 2.776 * 0.0354
    assert value(figures={"speed": medians}, metric="speed", at_least=1.4).word == "holds"
    assert value(figures={"speed": medians}, metric="speed", at_least=1.42).word == "undecided"
    assert value(figures={"speed": medians}, metric="speed", at_least=1.6).word == "fails"


def test_the_mean_of_an_arm_is_held_against_the_region_with_its_interval() -> None:
    trials = {"new": arm("acc", 1, 2, 3, 4, 5)}  # 3 +- 3.42947
    assert value(trials, arm="new", equals=3, tolerance=3.5).word == "holds"
    assert value(trials, arm="new", equals=3, tolerance=3.4).word == "undecided"
    assert value(trials, arm="new", at_least=-0.5).word == "holds"
    assert value(trials, arm="new", at_least=6.4).word == "undecided"
    assert value(trials, arm="new", at_least=6.5).word == "fails"
    assert value(trials, arm="new", at_most=-0.5).word == "fails"
    finding = value(trials, arm="new", at_least=-0.5)
    assert (finding.n, finding.label, finding.estimate) == (5, "acc of new", 3)


def test_a_value_of_one_seed_or_of_equal_seeds() -> None:
    assert value({"new": arm("acc", 2)}, arm="new", equals=2).word == "undecided"
    assert value({"new": arm("acc", 2, 2)}, arm="new", equals=2).word == "undecided"
    assert value({"new": arm("acc", 2, 2)}, arm="new", equals=2, exact=True).word == "holds"
    assert value({"new": arm("acc", 2, 2)}, arm="new", at_most=1.9, exact=True).word == "fails"


def test_a_value_with_failed_trials_never_holds() -> None:
    trials = {"new": {**arm("acc", 2, 2, 2), 3: {}, 4: {"acc": NAN}}}
    finding = value(trials, arm="new", at_least=1, exact=True)
    assert finding.word == "undecided"
    assert "2 of 5 trials of new failed (seeds 3, 4)" in finding.reason
    assert value(trials, arm="new", at_least=3, exact=True).word == "fails"
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
    trials = {"new": {seed: {f"cost_{x}": (seed + 1.0) * x + 10 for x in (1, 2, 3)} for seed in range(5)}}
    finding = trend(trials, arm="new", at_least=-0.5)  # slopes 1 to 5
    assert finding.word == "holds"
    assert (finding.estimate, finding.low, finding.n) == approx((3, 3 - HALF, 5))
    assert trend(trials, arm="new", at_least=0).word == "undecided"
    assert trend(trials, arm="new", at_most=-0.5).word == "fails"


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
            "clause": {"en": "It.", "zh": "它。"}, "usage": "pass", "summary": {"en": "Words.", "zh": "文字。"},
            "claim": [claim],
        }
    )  # fmt: skip
    (verdict,) = judge(card, Evidence({}, {"good": 1.0}), "digits", "laptop")
    assert verdict.word == word
    assert verdict.claim == "claim"
    assert verdict.text.zh == "主张。"
    assert len(verdict.findings) == len(tests)
    assert verdict.sentence == ("not tested" if word == "not tested" else f"{word} on digits, laptop")


def test_an_untested_claim_says_why() -> None:
    finding = examine(Untested.model_validate(UNTESTED), Evidence())
    assert (finding.word, finding.reason) == ("not tested", "needs a cluster")


def test_failed_trials_do_not_change_the_verdict_on_other_arms() -> None:
    test: Test = Compare(kind="compare", metric="acc", arm="new", over="old")
    trials = {
        "new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14), "third": {0: {}, 1: {}},
    }  # fmt: skip
    assert examine(test, Evidence(trials)).word == "holds"


def card_of(*tests: dict[str, Any]) -> Card:
    claims = [{"id": f"claim{k}", "en": "A claim.", "zh": "主张。", "test": test} for k, test in enumerate(tests)]
    return Card.model_validate(
        {
            "id": "p", "title": "Title", "authors": ["An Author"], "year": 2024, "venue": "V", "arxiv": "", "code": "",
            "fidelity": "exact", "topic": "theory", "keywords": ["words"], "minutes": 1,
            "clause": {"en": "It.", "zh": "它。"}, "usage": "pass", "summary": {"en": "Words.", "zh": "文字。"},
            "claim": claims,
        }
    )  # fmt: skip


def test_arms_of_undecided_tests_are_open_and_the_small_effect_is_in_the_sentence() -> None:
    base = {"kind": "compare", "metric": "acc", "arm": "new"}
    card = card_of({**base, "over": "old", "least": 30.0}, {**base, "over": "close"}, {"kind": "untested", **UNTESTED})
    trials = {
        "new": arm("acc", 15, 17, 19, 21, 23),
        "old": arm("acc", 10, 11, 12, 13, 14),
        "close": arm("acc", 14, 18, 18, 22, 22),
    }
    verdicts = judge(card, Evidence(trials), "digits", "laptop")
    assert [verdict.word for verdict in verdicts] == ["holds", "undecided", "not tested"]
    ((_, arms),) = open_tests(card, verdicts)
    assert set(arms) == {"new", "close"}
    assert verdicts[0].sentence == f"holds, {SMALL}, on digits, laptop"


def test_multiplicity_is_counted_over_the_claims_that_an_interval_decides() -> None:
    base = {"kind": "compare", "metric": "acc", "arm": "new", "over": "old"}
    card = card_of(base, {**base, "margin": 3.5}, {"kind": "value", "metric": "size", "equals": 1})
    trials = {"new": arm("acc", 15, 17, 19, 21, 23), "old": arm("acc", 10, 11, 12, 13, 14)}
    verdicts = judge(card, Evidence(trials, {"size": 1.0}), "digits", "laptop")
    assert [verdict.word for verdict in verdicts] == ["holds"] * 3
    assert verdicts[0].p < verdicts[1].p < 0.025
    assert math.isnan(verdicts[2].p)
    assert survivors(verdicts) == (2, 2)
