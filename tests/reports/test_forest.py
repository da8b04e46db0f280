"""Forest plots: positions, regions, dots and published differences."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from repertory import catalog
from repertory.core.card import Compare
from repertory.reports.forest import Axis, arms_plot, plots, published_differences
from repertory.reports.views import claim_views
from tests.reports.test_reports import result


def test_an_axis_leaves_room_and_has_round_ticks() -> None:
    axis = Axis.over([0.0, 10.0, math.inf, math.nan])
    assert (axis.low, axis.high) == pytest.approx((-0.6, 10.6))
    assert axis.at(5.0) == 50
    assert (axis.at(-math.inf), axis.at(math.inf)) == (0, 100)
    assert [text for _, text in axis.ticks] == ["0", "2.5", "5", "7.5", "10"]
    assert [text for _, text in Axis.over([-2.0, 0.0]).ticks] == ["−2", "−1.5", "−1", "−0.5", "0"]
    one = Axis.over([42.0])
    assert one.low < 42 < one.high
    assert Axis.over([0.0]).at(0.0) == Axis.over([]).at(0.0) == 50


def test_a_comparison_shows_the_difference_of_each_seed_and_what_is_accepted(toy: Path) -> None:
    claim, verdict = catalog.card("toy").claim[0], result().verdicts[0]
    (plot,), curves = plots(claim, verdict, result())
    (row,) = plot.rows
    assert row.dots == (30.0, 30.5, 31.0, 30.5, 30.5)
    assert (row.label, row.said, row.interval, row.n) == ("accuracy: wide − plain", "30.5 points", "[29.7, 31.3]", 5)
    assert plot.accepted == (5.0, math.inf)
    start, width = plot.shade or (0, 0)
    assert start == plot.axis.at(5.0)
    assert start + width == pytest.approx(100)
    assert plot.matters == plot.axis.at(7.0)
    assert plot.axis.low < 0 < plot.axis.high, "zero is on the axis of every difference"
    assert not curves


def test_a_trend_is_a_line_within_bounds(toy: Path) -> None:
    claim, verdict = catalog.card("toy").claim[3], result().verdicts[3]
    (exact, slope), (curve,) = plots(claim, verdict, result())
    assert not exact.drawn, "a figure that must equal another is only told"
    assert slope.rows[0].label.startswith("slope of parameters")
    assert len(curve.points) == 3
    # 7, 22, 42 over 1, 4, 8: a straight line, through every point
    (x1, y1), (x2, y2) = curve.points[0], curve.points[-1]
    middle = curve.points[1]
    assert middle[1] == pytest.approx(y1 + (y2 - y1) * (middle[0] - x1) / (x2 - x1), abs=0.2)
    assert [text for _, text in curve.ticks] == ["1", "4", "8"]


def test_published_differences_need_both_arms_on_the_same_data() -> None:
    card = catalog.card("emo")
    claim = next(claim for claim in card.claim if claim.id == "attention-helps")
    ((figure, value),) = published_differences(claim, claim.test[0])
    assert value == pytest.approx(3.1)
    assert figure.data == "ImageNet-1K, EMO-5M"
    one = claim.model_copy(update={"published": claim.published[:1]})
    assert published_differences(one, claim.test[0]) == []
    test = claim.test[0]
    assert isinstance(test, Compare)
    lower = test.model_copy(update={"better": "lower"})
    assert published_differences(claim, lower)[0][1] == pytest.approx(-3.1)


def test_published_figures_of_other_data_have_an_axis_of_their_own() -> None:
    from repertory.reports.site.records import recorded_results

    found = recorded_results()["emo"][0]
    view = next(v for v in claim_views(catalog.card("emo"), [found], "en") if v.claim.id == "attention-helps")
    (plot,) = view.findings[0].plots
    ((where, marks, axis),) = plot.elsewhere
    assert "ImageNet-1K" in where
    assert [mark.said for mark in marks] == ["+3.1"]
    assert axis.low < 0 < 3.1 < axis.high
    assert all(not row.published for row in plot.rows)
    assert view.findings[0].line.startswith("published +3.1 (ImageNet-1K, EMO-5M) · measured ")
    here = [figure.model_copy(update={"data": found.data}) for figure in view.claim.published]
    claim = view.claim.model_copy(update={"published": tuple(here)})
    (same,), _ = plots(claim, view.findings[0].verdict, found)
    assert not same.elsewhere
    assert [said for _, said in same.rows[0].published] == ["3.1 points"]


def test_every_arm_is_shown_with_its_seeds(toy: Path) -> None:
    plot = arms_plot(result(), "accuracy")
    assert [row.label for row in plot.rows] == ["plain", "wide"]
    assert plot.rows[0].dots == (60.0, 61.0, 62.0, 61.0, 61.0)
    # 61 ± 2.77645 * 0.70711 / sqrt(5) = 0.87799
    assert (plot.rows[0].low, plot.rows[0].high) == pytest.approx((60.12201, 61.87799), abs=1e-5)
    assert plot.shade is None
    one = replace(result(), outcomes=result().outcomes[:1])
    assert arms_plot(one, "accuracy").rows[0].interval == ""
