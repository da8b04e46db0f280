"""Error that one look may spend, so that looking again and again stays honest.

A look is a verdict formed at some number of seeds. Two plans keep the two-sided error over all looks at 5 %:

- group-sequential (Lan & DeMets 1983, linear spending): looks at the numbers of seeds in `LOOKS` and at no others;
- anytime-valid (Gaussian-mixture t, Lai 1976): looks whenever the user likes.

Both are stated as the error of each end of an interval at this look. An ordinary interval with that error per end
(t, Welch, binomial) then is the repeated interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

from scipy import stats

ERROR = 0.05
"""Two-sided error over all looks."""
TAIL = ERROR / 2
LOOKS = (5, 8, 12, 18, 30)
"""Numbers of seeds at which recorded results are looked at."""
CRITICAL = {5: 4.85, 8: 3.83, 12: 3.17, 18: 2.75, 30: 2.34}
"""|t| that decides at each look; calibrated by `benchmarks/verdicts.py`, rounded up."""
PRIOR = 4.0
"""Variance of the mixture in units of the variance of one difference: intervals are shortest at 5 to 12 seeds."""

Plan = Literal["group-sequential", "anytime-valid"]


def plan_of(n: int, looks: Collection[int] = ()) -> Plan:
    """Which plan covers a look at `n` seeds after `looks` at other numbers of seeds.

    Example:
        >>> plan_of(8, looks=[5]), plan_of(8, looks=[5, 7])
        ('group-sequential', 'anytime-valid')
    """
    return "group-sequential" if {n, *looks} <= set(LOOKS) else "anytime-valid"


def tail(n: int, plan: Plan) -> float:
    """Error of each end of the interval at a look at `n` seeds; 0: the interval is infinite.

    Example:
        >>> round(tail(30, "group-sequential"), 3), tail(2, "anytime-valid")
        (0.013, 0.0)
    """
    c = CRITICAL.get(n, math.inf) if plan == "group-sequential" else anytime_critical(n)
    return float(stats.t.sf(c, n - 1)) if n > 1 else 0.0


def anytime_critical(n: int) -> float:
    """Half width of the anytime-valid interval in standard errors: the mixture's likelihood ratio reaches 1 / ERROR.

    With r = 1 + n PRIOR and K = (sqrt(r) / ERROR)^(2/n), c = sqrt((n - 1) (K - 1) / (1 - K / r)); infinite if K >= r.

    Example:
        >>> round(anytime_critical(8), 2), anytime_critical(3)
        (4.2, inf)
    """
    if n < 2:
        return math.inf
    r = 1 + n * PRIOR
    k = (math.sqrt(r) / ERROR) ** (2 / n)
    return math.inf if k >= r else math.sqrt((n - 1) * (k - 1) / (1 - k / r))


def next_look(n: int) -> int | None:
    """The scheduled look after `n` seeds; None after the last.

    Example:
        >>> next_look(0), next_look(5), next_look(30)
        (5, 8, None)
    """
    return next((look for look in LOOKS if look > n), None)
