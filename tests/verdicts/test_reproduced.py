"""Published figures, compared on the very data that they were measured on."""

from __future__ import annotations

import pytest

from repertory.core.card import Claim, Published, Text, Untested
from repertory.core.study import Metric
from repertory.verdicts.evidence import Evidence
from repertory.verdicts.judge import judge_claim

FIGURES = (
    Published(
        data="Recidivism", metric="accuracy (%)", arm="ours, GCN", value=89.0, std=1.0, source="readme",
        on=("bail",), ours="ours", measured="acc",
    ),
    Published(
        data="Recidivism", metric="bias (%)", arm="ours, GCN", value=6.0, source="readme",
        on=("bail",), ours="ours", measured="bias",
    ),
)  # fmt: skip
DECLARED = {"acc": Metric("accuracy", "准确率", better="higher"), "bias": Metric("bias", "偏差", better="lower")}


def judged(data: str, accuracy: float, bias: float, arm: str = "ours", seeds: int = 8):
    test = Untested(
        kind="untested", reason=Text(en="not at hand", zh="没有"), reproduces=True, tolerance=0.5, figures=FIGURES
    )
    claim = Claim(id="figures", en="They come out.", zh="可以得到。", test=(test,))
    trials = {arm: {s: {"acc": accuracy + 0.1 * (-1) ** s, "bias": bias + 0.1 * (-1) ** s} for s in range(seeds)}}
    return judge_claim(claim, Evidence(trials, declared=DECLARED, looks=()), data, "paper")


@pytest.mark.parametrize(
    ("accuracy", "bias", "word", "said"),
    [
        (88.9, 5.9, "holds", "2 of 2 published figures come out"),
        (95.0, 1.0, "holds", "2 of 2"),  # better than published
        (85.0, 5.9, "fails", "1 of 2"),
        (88.9, 7.0, "fails", "1 of 2"),
        (88.0, 5.9, "undecided", "1 of 2"),
    ],
)
def test_the_least_convincing_figure_speaks_for_all(accuracy: float, bias: float, word: str, said: str) -> None:
    verdict = judged("bail", accuracy, bias)
    assert verdict.word == word
    assert said in verdict.findings[0].reason


def test_other_data_and_other_arms_leave_it_untested() -> None:
    for verdict in (judged("german", 89, 6), judged("bail", 89, 6, arm="theirs")):
        assert verdict.word == "not tested"
        assert verdict.findings[0].reason == "not at hand"
    assert judged("Recidivism", 89, 5).word == "holds", "the paper's own name will do"
