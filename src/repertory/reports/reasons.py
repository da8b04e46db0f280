"""Why a test is undecided or not made, in the language of the report: verdicts state their reasons in English."""

from __future__ import annotations

import re

from repertory.core.card import Test
from repertory.verdicts.decisions import SMALL, Finding

CHINESE = {
    r"(\d+) seeds?": r"\1 个种子",
    r"the first look is at (\d+)": r"首次判定在 \1 个种子时",
    r"the next look is at (\d+) seeds": r"下一次判定在 \1 个种子时",
    r"(\d+) seeds, the last look, do not decide it": r"\1 个种子（最后一次判定）仍不足以判定",
    r"more seeds may decide it": r"增加种子或可判定",
    r"every seed gives the same value: its spread cannot be estimated": r"各种子取值相同，无法估计离散程度",
    r"the values are too skewed to bound their mean on one side": r"数值偏斜过大，均值的一侧无法给出界",
    SMALL: r"但差异小于有意义的幅度",
    r"the figure was not measured": r"该数值未测得",
    r"(\d+) medians?": r"\1 个中位数",
    r"an interval needs (\d+)": r"区间需要 \1 个",
    r"(.+) has no meaning on these data: it needs (.+)": r"\1 在这些数据上没有意义：需要 \2",
    r"the arm (.+) was not run": r"未运行实验组 \1",
    r"the first look at (.+) is not finished": r"\1 的首次判定尚未完成",
    r"no trial of (.+) gave a finite (.+)": r"\1 的试验均未给出有限的 \2",
    r"no trial of (.+) gave a curve": r"\1 的试验均未给出曲线",
    r"no trial of (.+) gave (.+)": r"\1 的试验均未给出 \2",
    r"(.+) share no seed": r"\1 没有共同的种子",
    r"(.+) does not work here \((.+)\): a comparison with it decides nothing": (
        r"\1 在此未正常工作（\2）：与它比较不能判定任何事"
    ),
    r"(\d+) of (\d+) pairs with (.+) lack a finite metric(.*)": r"与 \3 的 \2 对中有 \1 对缺少有限的指标\4",
    r"(\d+) of (\d+) trials of (.+) failed(.*)": r"\3 的 \2 次试验中有 \1 次失败\4",
    r"(\d+) trials of (.+) failed(.*)": r"\2 有 \1 次试验失败\3",
    r"points of the curve are missing(.*)": r"曲线上缺少数据点\1",
    r"the points scatter too much around the line": r"数据点偏离直线过大",
    r"(\d+) of (\d+) published figures come out": r"\2 个发表数值中有 \1 个得到复现",
}
"""Pattern of a reason -> Chinese; the first that fits. Names of arms and metrics stay as they are."""


def reason_of(test: Test, finding: Finding, lang: str = "en") -> str:
    """The reason of a finding; "" for one that needs none.

    Example:
        >>> from repertory.core.card import Value
        >>> open_ = Finding("undecided", "", reason="3 seeds; the first look is at 5")
        >>> reason_of(Value(kind="value", metric="m", equals=1), open_, "zh")
        '3 个种子；首次判定在 5 个种子时'
    """
    if test.kind == "untested" and finding.word == "not tested":
        return test.reason[lang]
    return finding.reason if lang == "en" else "；".join(map(_translated, filter(None, finding.reason.split("; "))))


def _translated(reason: str) -> str:
    for pattern, chinese in CHINESE.items():
        if found := re.fullmatch(pattern, reason):
            return found.expand(chinese)
    return reason
