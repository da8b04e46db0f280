"""The one exception that a user is meant to see."""

from __future__ import annotations

import difflib
import errno
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

from repertory.core.text import visible


class Problem(ValueError):
    """Something the user can put right: what is wrong, where, and what to do about it.

    A ValueError too, since layers that others import raise it. The command line prints the three lines and
    exits with status 2; `--debug` shows the traceback too. Each part is one line: line ends become a
    space, and control characters are escaped, so that text from files cannot add lines or steer the terminal.

    Example:
        >>> print(Problem("no such paper: 'emoo'", where="repertory", remedy="did you mean 'emo'?"))
        no such paper: 'emoo'
        where: repertory
        remedy: did you mean 'emo'?
    """

    def __init__(self, what: str, where: object = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = _one_line(what), _one_line(str(where)), _one_line(remedy)
        super().__init__(self.what, self.where, self.remedy)

    def __str__(self) -> str:
        return f"{self.what}\nwhere: {self.where}\nremedy: {self.remedy}"


def _one_line(text: str) -> str:
    """Join lines by a space and escape control characters."""
    return visible(re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip(), lines=False)


class Damaged(Problem):
    """A file of ours that cannot be used any more: cut short, overwritten, or of another version."""


class SetAside(Damaged):
    """A damaged file of a run has been renamed: the same work, begun again, makes it anew."""


_REMEDIES = {
    errno.ENOSPC: "free some space; the same command goes on from here",
    errno.EDQUOT: "free some of your quota; the same command goes on from here",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f); the same command goes on from here",
    errno.EACCES: "ask its owner for the right to read and write it",
    errno.EPERM: "ask its owner for the right to read and write it",
    errno.EROFS: "choose a place that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose another path",
    errno.EISDIR: "choose another path",
    errno.EIO: "check the disk",
}
"""Faults of the file system that a user can put right; other errors of the system are errors of ours."""


def is_system_fault(error: OSError) -> bool:
    """Whether it is a fault of the file system (full, read-only, forbidden), and no error in our code."""
    return error.errno in _REMEDIES


def system_problem(error: OSError, where: object = "", remedy: str = "") -> Problem:
    """The Problem that an error of the file system is; `where` and `remedy` default to those of the error."""
    what = f"the file system refuses: {error.strerror or error}"
    return Problem(what, where or error.filename or "", remedy or _REMEDIES.get(error.errno or 0, "check the path"))


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        Problem: the package is not installed; the remedy names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Problem(
            f"this needs the package {module.partition('.')[0]}, which is not installed",
            where=f"import {module}: {error}",
            remedy=f"pip install 'repertory[{extra}]'",
        ) from error


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def suggest(name: str, known: Iterable[str], before: str = ": ") -> str:
    """The known names that are closest to a mistyped one, as a clause for a message; "" if none is close.

    Example:
        >>> suggest("epoch", ["epochs", "lr"])
        ': did you mean epochs?'
        >>> suggest("momentum", ["epochs", "lr"])
        ''
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"{before}did you mean {' or '.join(close)}?" if close else ""
