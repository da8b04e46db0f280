"""Checks of constructor arguments, before torch complains in words of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

from repertory.core.problem import Problem, suggest


def check_whole(where: str, least: int = 1, /, **given: int | Sequence[int]) -> None:
    """Require whole numbers of at least `least`.

    Args:
        where: network, for the message.
        least: smallest number that is allowed.
        given: arguments by name; of a sequence, which must not be empty, every number is checked.

    Raises:
        Problem: names the first argument that is something else.

    Example:
        >>> check_whole("Net", width=8, depths=(1, 2))
    """
    for name, value in given.items():
        numbers: Sequence[object] = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        if not numbers or not all(_is_whole(number, least) for number in numbers):
            raise Problem(f"{name}={value!r}", where, f"give whole numbers of at least {least}")


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= least


def check_rates(where: str, /, **given: float) -> None:
    """Require rates, such as those of dropout: from 0 to below 1.

    Raises:
        Problem: names the first argument that is something else.
    """
    check_range(where, 0, 1, **given)


def check_range(where: str, low: float, high: float, /, **given: float) -> None:
    """Require numbers from `low` to below `high`; NaN is none.

    Raises:
        Problem: names the first argument that is something else.
    """
    for name, value in given.items():
        if not (isinstance(value, Real) and low <= value < high):
            raise Problem(f"{name}={value!r}", where, f"give a number from {low:g} to below {high:g}")


def check_shares(where: str, /, **given: float) -> None:
    """Require shares: from 0 to 1.

    Raises:
        Problem: names the first argument that is something else.
    """
    for name, value in given.items():
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise Problem(f"{name}={value!r}", where, "give a number from 0 to 1")


def check_positive(where: str, /, **given: float) -> None:
    """Require finite numbers above 0.

    Raises:
        Problem: names the first argument that is something else.
    """
    for name, value in given.items():
        if not (isinstance(value, Real) and 0 < value < math.inf):
            raise Problem(f"{name}={value!r}", where, "give a finite number above 0")


def check_choice(where: str, known: Iterable[str], /, **given: str) -> None:
    """Require one of the known words.

    Raises:
        Problem: names the first argument that is another word, and the closest ones.
    """
    known = tuple(known)
    for name, value in given.items():
        if value not in known:
            raise Problem(f"{name}={value!r}{suggest(str(value), known)}", where, f"choose from {', '.join(known)}")


def check_lengths(where: str, /, **given: Sequence[object]) -> None:
    """Require sequences of one length, at least 1.

    Raises:
        Problem: names all lengths.
    """
    lengths = {len(values) for values in given.values()}
    if len(lengths) > 1 or lengths == {0}:
        counted = ", ".join(f"{len(values)} {name}" for name, values in given.items())
        raise Problem(counted, where, "give as many of each, at least one")
