"""repertory: published deep-learning methods, runnable; their claims, executable.

    >>> import repertory
    >>> "emo" in repertory.papers()
    True
    >>> repertory.card("emo").year
    2023

`repertory.study("emo", scale="laptop").run(seeds=3)` tests a paper's claims and returns a result with
`.table()`, `.verdicts` and `.save(path)`; in a notebook it shows itself as the report.
Importing this package imports no deep-learning library; running a study does.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from repertory.problem import Problem

if TYPE_CHECKING:
    from repertory.card import Card
    from repertory.runner import Experiment

__version__ = "0.1.0"
__all__ = ["Problem", "card", "papers", "study"]


def papers() -> list[str]:
    """Identifiers of all papers."""
    from repertory import catalog

    return list(catalog.packages())


def card(paper: str) -> Card:
    """What a paper says: title, claims, published figures, notes.

    Raises:
        Problem: no such paper; names the closest ones.
    """
    from repertory import catalog

    return catalog.card(paper)


def study(paper: str, scale: str = "laptop", **options: Any) -> Experiment:
    """A paper's study at one scale, ready to `run()`.

    Args:
        paper: identifier.
        scale: "smoke" (seconds), "laptop" (minutes), "desk" where there is real mid-size data, "paper".
        **options: `data`, `out`, `settings`, `hardware`, `dry_run` of `repertory.runner.Experiment`.

    Raises:
        Problem: unknown paper, scale or setting, or a folder that does not exist.
    """
    from repertory.runner import Experiment

    return Experiment(paper, scale, **options)


class _Callable(ModuleType):
    """A submodule that can also be called like the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _FUNCTIONS[self.__name__](*args, **options)


class _Package(ModuleType):
    """`repertory.papers`, `.card` and `.study` are functions here and submodules on disk.

    Importing a submodule binds its name in the package, over the function; from then on the submodule
    answers calls, so that `repertory.papers()` and `repertory.papers.emo` both work, in any order.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and value.__name__ in _FUNCTIONS:
            value.__class__ = _Callable
        super().__setattr__(name, value)


_FUNCTIONS = {f"{__name__}.{function.__name__}": function for function in (papers, card, study)}
sys.modules[__name__].__class__ = _Package
