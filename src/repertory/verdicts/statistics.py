"""Intervals and effect sizes over one value per seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

EVEN = (0.025, 0.025)
"""Errors of the lower and the upper end: a two-sided 95 % interval."""
SKEWED, OUTLYING = 1.0, 5.0
"""Sample skewness, and distance from the median in units of the MAD, beyond which a t interval is not trusted alone."""
RESAMPLES = 4999

Tails = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval; an end is infinite where the values cannot give one."""

    estimate: float
    low: float
    high: float
    method: str


def t_interval(values: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Mean and its t interval. One value, or equal values, give no spread: the ends are infinite.

    Example:
        >>> found = t_interval([1.0, 2.0, 3.0])
        >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
    """
    mean = float(np.mean(values))
    if len(set(values)) < 2:
        return Interval(mean, -math.inf, math.inf, "t")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _around(mean, error, len(values) - 1, tails, "t")


def welch_interval(a: Sequence[float], b: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Difference of the means of two independent samples, by Welch's t with Satterthwaite's degrees of freedom.

    Equal values are those of a method that no seed changes: then the other sample alone has a spread. Without any, the
    ends are infinite.

    Example:
        >>> found = welch_interval([5.0, 6.0, 7.0], [1.0, 2.0, 3.0, 2.0])
        >>> round(found.estimate, 3), found.low > 0
        (4.0, True)
    """
    mean = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2 or len(set(a)) == len(set(b)) == 1:
        return Interval(mean, -math.inf, math.inf, "Welch")
    parts = [float(np.var(values, ddof=1)) / len(values) if len(set(values)) > 1 else 0.0 for values in (a, b)]
    total = sum(parts)
    degrees = total**2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True))
    return _around(mean, math.sqrt(total), degrees, tails, "Welch")


def bootstrap_t_interval(values: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Mean and its bootstrap-t interval (Efron & Tibshirani 1993, section 12.5), which follows skewed values.

    Resamples of equal values have no standard error; they count as infinitely far out, which widens the interval.
    """
    x = np.asarray(values, dtype=float)
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x))
    t = _resampled_t(tuple(values))
    low, high = t[round(tails[1] * (len(t) - 1))], t[round((1 - tails[0]) * (len(t) - 1))]
    return Interval(mean, mean - float(high) * error, mean - float(low) * error, "bootstrap-t")


@functools.lru_cache(maxsize=64)
def _resampled_t(values: tuple[float, ...]) -> NDArray[np.float64]:
    """t statistics of bootstrap samples about the mean, sorted; cached, since a p value asks many times."""
    x = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).choice(x, (RESAMPLES, len(x)))
    above, errors = drawn.mean(1) - x.mean(), drawn.std(1, ddof=1) / math.sqrt(len(x))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 0, above / errors, np.where(above == 0, 0, np.copysign(np.inf, above)))
    return np.sort(t)


def proportion_interval(values: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Share of ones among 0/1 outcomes, by Clopper & Pearson's exact interval.

    Example:
        >>> found = proportion_interval([1.0] * 5)
        >>> found.estimate, round(found.low, 3), found.high
        (1.0, 0.478, 1.0)
    """
    n, ones = len(values), round(sum(values))
    low = float(stats.beta.ppf(tails[0], ones, n - ones + 1)) if ones else 0.0
    high = float(stats.beta.isf(tails[1], ones + 1, n - ones)) if ones < n else 1.0
    return Interval(ones / n, low, high, "exact binomial")


def proportion_difference(a: Sequence[float], b: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Difference of two shares of ones; each end takes half of its error from either exact interval."""
    first = proportion_interval(a, (tails[0] / 2, tails[1] / 2))
    second = proportion_interval(b, (tails[1] / 2, tails[0] / 2))
    return Interval(
        first.estimate - second.estimate, first.low - second.high, first.high - second.low, "exact binomial"
    )


def mean_interval(values: Sequence[float], tails: Tails = EVEN) -> Interval:
    """t interval of the mean, widened to the bootstrap-t interval where the values are odd."""
    found = t_interval(values, tails)
    if math.isinf(found.low) or not is_odd(tuple(values)):
        return found
    other = bootstrap_t_interval(values, tails)
    return Interval(found.estimate, min(found.low, other.low), max(found.high, other.high), "t and bootstrap-t")


def outcome_interval(values: Sequence[float], tails: Tails = EVEN) -> Interval:
    """Mean of a metric: the exact binomial interval for 0/1 outcomes, else `mean_interval`."""
    return proportion_interval(values, tails) if is_binary(values) else mean_interval(values, tails)


def is_binary(values: Sequence[float]) -> bool:
    """Whether all values are 0 or 1: outcomes, not measurements."""
    return set(values) <= {0.0, 1.0}


@functools.lru_cache(maxsize=256)
def is_odd(values: tuple[float, ...]) -> bool:
    """Whether values are skewed or have an outlier, so that a t interval may be too short on one side."""
    x = np.asarray(values, dtype=float)
    if len(x) < 5:
        return False
    distance = np.abs(x - np.median(x))
    mad = 1.4826 * float(stats.median_abs_deviation(x))  # the standard deviation, of a normal distribution
    return abs(float(stats.skew(x, bias=False))) > SKEWED or (bool(mad) and float(distance.max()) > OUTLYING * mad)


# -- effect sizes -------------------------------------------------------------------------------


def cohens_d(a: Sequence[float], b: Sequence[float]) -> float:
    """Difference of the means in units of the pooled standard deviation; NaN where there is no spread."""
    spread = math.sqrt((float(np.var(a, ddof=1)) + float(np.var(b, ddof=1))) / 2) if min(len(a), len(b)) > 1 else 0.0
    return float(np.mean(a) - np.mean(b)) / spread if spread else math.nan


def superiority(a: Sequence[float], b: Sequence[float]) -> float:
    """P(A > B) + P(A = B) / 2 of one random value of each sample.

    Example:
        >>> superiority([2.0, 3.0], [1.0, 2.0])
        0.875
    """
    difference = np.sign(np.subtract.outer(np.asarray(a), np.asarray(b)))
    return float((difference + 1).mean() / 2)


def interquartile_mean(groups: Mapping[str, Sequence[float]], tails: Tails = EVEN) -> Interval:
    """Mean of the middle half of all values, with a percentile bootstrap stratified by group (Agarwal et al. 2021)."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(values, dtype=float) for values in groups.values()]
    drawn = np.concatenate([rng.choice(x, (RESAMPLES, len(x))) for x in arrays], axis=1)
    means = stats.trim_mean(drawn, 0.25, axis=1)
    low, high = np.quantile(means, [tails[0], 1 - tails[1]]).tolist()
    return Interval(float(stats.trim_mean(np.concatenate(arrays), 0.25)), low, high, "stratified bootstrap")


def _around(mean: float, error: float, degrees: float, tails: Tails, method: str) -> Interval:
    low, high = (-error * float(special.stdtrit(degrees, share)) if share > 0 else math.inf for share in tails)
    return Interval(mean, mean - low, mean + high, method)
