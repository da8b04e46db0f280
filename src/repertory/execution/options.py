"""Options of a run until decided, checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from repertory.core.problem import Problem
from repertory.verdicts.sequential import LOOKS


def seconds_of(budget: str) -> float:
    """Seconds of a time in words.

    Raises:
        Problem: not a time, or no time at all.

    Example:
        >>> seconds_of("1h30m"), seconds_of("90s")
        (5400.0, 90.0)
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", budget.strip().lower())
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not seconds:
        raise Problem(f"not a time: {budget!r}", "--budget", "write 90s, 20m or 1h30m")
    return float(seconds)


def check_options(seeds: int | Sequence[int] | None, max_seeds: int, budget: float, dry_run: bool) -> None:
    """Refuse what does not go with a run until decided.

    Raises:
        Problem: a number of seeds besides, a last look that is none, a budget of nothing, or a dry run.
    """
    if seeds is not None:
        raise Problem(
            "a fixed number of seeds, and seeds until the claims are decided",
            "--seeds with --until-decided",
            "give one of them; --max-seeds limits a run until decided",
        )
    if max_seeds not in LOOKS:
        looks = ", ".join(map(str, LOOKS))
        raise Problem(f"there is no look at {max_seeds} seeds", "--max-seeds", f"choose from {looks}")
    if not budget > 0:  # NaN too
        raise Problem(f"a budget of {budget:g} seconds", "--budget", "give more than nothing")
    if dry_run:
        raise Problem("figures of a dry run decide nothing", "--dry-run with --until-decided", "leave one of them out")
