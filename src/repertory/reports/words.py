"""Numbers, metrics, intervals and durations in words, the same in every report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from repertory import catalog
from repertory.core.card import Claim, Compare, Published, Test, Trend
from repertory.core.problem import Problem
from repertory.core.study import Metric, find_metric
from repertory.verdicts.decisions import Finding
from repertory.verdicts.judge import Verdict, survivors
from repertory.verdicts.results import Result

WORDS = {
    "en": {
        "published": "published", "measured": "measured", "test": "test", "reason": "reason", "scale": "scale",
        "data": "data", "of computing": "of computing", "arm": "arm", "seconds": "seconds", "failed": "failed",
        "over seeds": "mean ± standard deviation over seeds", "holds": "holds", "fails": "fails",
        "undecided": "undecided", "not tested": "not tested", "higher": "higher is better", "lower": "lower is better",
        "interval": "95 % interval", "same": "the same in all {n} seeds", "claimed": "claimed", "above": "above {}",
        "at most": "at most {}", "between": "{} to {}", "points": "points", "matters": "matters from {} on",
        "small": "but by less than matters",
        "multiplicity": "{kept} of {of} claims decided by an interval survive the Benjamini-Hochberg correction at 5 %",
        "looks": "looks at {} seeds", "comma": ", ",
        "own axis": "on its own axis", "legend seeds": "each seed", "legend interval": "estimate, 95 % interval",
        "legend accepted": "where the claim holds", "legend matters": "effect that matters from here on",
        "legend published": "published, on its own axis where the data differ",
        "contents": "contents", "claims": "Claims", "details": "Details", "arms": "Arms", "notes": "Notes",
        "decision": "decision", "finding": "finding", "no training": "Figures that need no training",
        "training": "Training", "to step": "to step {}",
        "training lead": "Mean over seeds, and the range of the seeds; the arms of a column share their axis.",
        "pictures": "Pictures", "this run": "This run", "changed": "changed settings", "none": "none",
        "all settings": "all settings", "dry run": "This was a dry run of two steps: the figures mean nothing.",
    },
    "zh": {
        "published": "发表", "measured": "实测", "test": "检验", "reason": "原因", "scale": "规模",
        "data": "数据", "of computing": "计算时间", "arm": "实验组", "seconds": "秒", "failed": "失败",
        "over seeds": "各随机种子的均值 ± 标准差", "holds": "成立", "fails": "不成立",
        "undecided": "未定", "not tested": "未检验", "higher": "越高越好", "lower": "越低越好",
        "interval": "95% 区间", "same": "{n} 个种子结果相同", "claimed": "主张", "above": "高于 {}",
        "at most": "至多 {}", "between": "{} 至 {}", "points": "个百分点", "matters": "自 {} 起才有意义",
        "small": "但差异小于有意义的幅度",
        "multiplicity": "在由区间判定的 {of} 条主张中，{kept} 条通过 Benjamini-Hochberg 校正（5%）",
        "looks": "在 {} 个种子时判定", "comma": "，",
        "own axis": "另用坐标轴", "legend seeds": "每个种子", "legend interval": "估计值与 95% 区间",
        "legend accepted": "主张成立的区域", "legend matters": "由此开始差异才有意义",
        "legend published": "发表值；数据不同时另用坐标轴",
        "contents": "目录", "claims": "主张", "details": "详情", "arms": "实验组", "notes": "说明",
        "decision": "取舍", "finding": "发现", "no training": "无需训练的数值",
        "training": "训练过程", "to step": "至第 {} 步",
        "training lead": "各种子的均值与范围；同一列的实验组共用坐标轴。",
        "pictures": "图片", "this run": "本次运行", "changed": "改动的设置", "none": "无",
        "all settings": "全部设置", "dry run": "这是只有两步的试运行：数值没有意义。",
    },
}  # fmt: skip


REPRODUCED = (r"^(.+) of (.+), published (.+)$", r"\2 的 \1，发表值 \3")
"""How the label of a reproduced figure is written, and how in Chinese."""


def number(value: float, decimals: int | None = None) -> str:
    """Four significant digits, or so many decimals; from a thousand on without decimals, but with separators.

    Example:
        >>> number(1361168.0), number(0.123456), number(71.46, decimals=1), number(float("nan"))
        ('1,361,168', '0.1235', '71.5', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    if abs(value) <= 1e-12:  # what rounding leaves of equal means
        return "0"
    return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"


def rounded(value: float, decimals: int | None = None) -> str:
    """Three significant digits, or so many decimals, with a true minus sign: for plots and the lines beside them.

    Example:
        >>> rounded(-4.8934), rounded(0.5159, 1), rounded(1361168.0), rounded(float("-inf"))
        ('−4.89', '0.5', '1,361,168', '−∞')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = (
        f"{value:.3g}" if decimals is None and math.isfinite(value) and abs(value) < 1000 else number(value, decimals)
    )
    return ("0" if abs(value) <= 1e-12 else text).replace("-", "−")


def signed(value: float) -> str:
    """A difference, rounded, with its sign: "+3.1"."""
    return f"{'+' if value > 0 else ''}{rounded(value)}"


def spread(values: Sequence[float], decimals: int | None = None) -> str:
    """Mean ± sample standard deviation of the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return "-"
    mean = number(float(np.mean(finite)), decimals)
    return f"{mean} ± {number(float(f'{np.std(finite, ddof=1):.2g}'))}" if len(finite) > 1 else mean


def seeds_of(result: Result) -> str:
    """Seeds of an arm: a number, or its range, where arms of open tests have more than others.

    Example: "5", or "5-18".
    """
    counts = {len(seeds) for seeds in result.metrics.values()} or {0}
    return "-".join(map(str, sorted({min(counts), max(counts)})))


# -- metrics ------------------------------------------------------------------------------------


def metrics_of(result: Result) -> Mapping[str, Metric]:
    """What the result's study declares; nothing where an optional dependency of the study is absent."""
    try:
        return catalog.load(result.paper).metrics
    except Problem:
        return {}


def metric_named(metrics: Mapping[str, Metric], name: str) -> Metric:
    """The declaration of a metric; one that nobody declared is called by its name."""
    return find_metric(metrics, name) or Metric(name, name)


def head_of(metric: Metric, lang: str = "en") -> str:
    """The head of a table's column: name and unit.

    Example:
        >>> head_of(Metric("range error", "射程误差", unit="mm"), "zh")
        '射程误差 (mm)'
    """
    return f"{metric[lang]} ({metric.unit})" if metric.unit else metric[lang]


def axis_of(metric: Metric, lang: str = "en") -> str:
    """The label of an axis: name, unit and which direction is better."""
    return f"{head_of(metric, lang)}, {WORDS[lang][metric.better]}" if metric.better else head_of(metric, lang)


def measured_in(claim: Claim, result: Result, lang: str = "en") -> list[tuple[str, str, str]]:
    """(arm, metric in words, mean ± std with unit) of all that the claim's tests look at, each once.

    Without arm: a figure of `measure`.
    """
    rows = []
    metrics = metrics_of(result)
    for arm, name in dict.fromkeys(pair for test in claim.test for pair in test.measurements()):
        if arm:
            values = [found.get(name, math.nan) for found in result.metrics.get(arm, {}).values()]
        else:
            values = [result.figures.get(name, math.nan)]
        metric = metric_named(metrics, name)
        rows.append((arm, metric[lang], with_unit(spread(values, metric.decimals), metric.unit)))
    return rows


def with_unit(text: str, unit: str) -> str:
    """A number with its unit; what is no number has none."""
    return f"{text} {unit}" if unit and text not in ("-", "not finite") else text


def claimed_metrics(result: Result) -> list[str]:
    """Names of the metrics of trials that claims are about, in the claims' order; all metrics, if none is."""
    tests = [test for claim in catalog.card(result.paper).claim for test in claim.test]
    claimed = dict.fromkeys(metric for test in tests for arm, metric in test.measurements() if arm)
    present = dict.fromkeys(name for outcome in result.outcomes for name in outcome.metrics)
    return [metric for metric in claimed if metric in present] or list(present)


# -- claims -------------------------------------------------------------------------------------


def figure_of(published: Published) -> str:
    """One published figure in words."""
    std = "" if published.std is None else f" ± {number(published.std)}"
    return f"{published.arm}: {published.metric} {number(published.value)}{std} ({published.data}; {published.source})"


def verdict_of(verdict: Verdict, lang: str = "en") -> str:
    """The verdict with the data and the scale that it speaks for."""
    word = WORDS[lang][verdict.word]
    if verdict.word == "not tested":
        return word
    if lang == "en":
        return verdict.sentence
    small = f"，{WORDS[lang]['small']}" if verdict.small else ""
    return f"{word}{small}（{verdict.data}，{verdict.scale}）"


def multiplicity_of(verdicts: Sequence[Verdict], lang: str = "en") -> str:
    """How many of the claims that an interval decides survive a correction for their number; "" if there are none."""
    kept, of = survivors(verdicts)
    return WORDS[lang]["multiplicity"].format(kept=kept, of=of) if of else ""


def interval_of(test: Test, finding: Finding, metrics: Mapping[str, Metric], lang: str = "en") -> str:
    """What a test estimates, the estimate with its interval, and what would be accepted; "" for an untested claim."""
    words = WORDS[lang]
    label, estimate = estimate_of(test, finding, metrics, lang)
    if not estimate:
        return label
    if math.isinf(finding.low):
        interval = ""
    elif finding.low == finding.high == finding.estimate:
        interval = "" if finding.n == 1 else f" ({words['same'].format(n=finding.n)})"
    else:
        interval = f", {words['interval']} [{number(finding.low)}, {number(finding.high)}], n = {finding.n}"
        interval += f" ({finding.method})" if finding.method else ""
    return f"{label} = {estimate}{interval}; {words['claimed']}: {claimed(finding, lang)}"


def estimate_of(test: Test, finding: Finding, metrics: Mapping[str, Metric], lang: str = "en") -> tuple[str, str]:
    """What a test estimates, and the estimate with its unit; "" where there is none."""
    label, unit = _label(test, finding, metrics, lang)
    return label, with_unit(number(finding.estimate), unit) if math.isfinite(finding.estimate) else ""


def _label(test: Test, finding: Finding, metrics: Mapping[str, Metric], lang: str) -> tuple[str, str]:
    """What is estimated, in words, and its unit."""
    if isinstance(test, Compare):
        metric, other = (metric_named(metrics, name) for name in (test.metric, test.over_metric or test.metric))
        unit = WORDS[lang]["points"] if metric.unit == "%" else metric.unit
        if metric == other:
            a, b = test.arm, finding.over
        else:
            a, b = f"{test.arm} ({metric[lang]})", f"{finding.over} ({other[lang]})"
        first, second = (a, b) if test.better == "higher" else (b, a)
        return f"{f'{metric[lang]}: ' if metric == other else ''}{first} - {second}", unit
    if isinstance(test, Trend):
        curve = metric_named(metrics, test.metric.replace("{x}", "x"))[lang]
        slope = f"slope of {curve} over x" if lang == "en" else f"{curve} 对 x 的斜率"
        return slope + (" (log-log)" if test.log else ""), ""
    if test.kind == "untested":
        return finding.label if lang == "en" else re.sub(*REPRODUCED, finding.label), ""
    metric = metric_named(metrics, test.metric)
    if not test.arm:
        return metric[lang], metric.unit
    return f"{test.arm}: {metric[lang]}", metric.unit


def claimed(finding: Finding, lang: str = "en") -> str:
    """What a finding accepts, and from where on the effect matters.

    Example:
        >>> claimed(Finding("holds", "", accepted=(-1.0, math.inf), least=1.5))
        'above -1, matters from 0.5 on'
    """
    matters = WORDS[lang]["matters"].format(number(finding.accepted[0] + finding.least))
    return f"{accepted(finding.accepted, lang)}{f', {matters}' if finding.least else ''}"


def accepted(region: tuple[float, float], lang: str = "en") -> str:
    """What a test accepts.

    Example:
        >>> accepted((0.0, math.inf)), accepted((42.0, 42.0)), accepted((1.0, 2.0), "zh")
        ('above 0', '42', '1 至 2')
    """
    words, (low, high) = WORDS[lang], (number(end) for end in region)
    if low == high:
        return low
    if math.isinf(region[1]):
        return words["above"].format(low)
    if math.isinf(region[0]):
        return words["at most"].format(high)
    return words["between"].format(low, high)


def duration(seconds: float) -> str:
    """Example:

    >>> duration(12.3), duration(250), duration(7384)
    ('12 s', '4 min 10 s', '2 h 3 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
