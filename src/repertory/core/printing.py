"""Text from data in terminals and figures: literal, whole, and without control characters.

Names of files, classes and molecules are data. Printed as they are, they can be read as markup by rich, as
mathematics by matplotlib, and as commands by a terminal (title, clipboard, links). Everything that the command line
prints goes through `console` or `print_json`; everything from data in a figure through `figure_text`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment

from repertory.core.files import json_text
from repertory.core.problem import Problem
from repertory.core.text import HIDDEN, visible

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType
    from rich.text import Text


CJK = re.compile("CJK|Han Sans|Han Serif|Hei|Song|Ming|WenQuanYi|YaHei|PingFang|Hiragino|Gothic|Droid Sans Fallback")
"""Names of fonts with Chinese characters: they are tried first."""


def figure_text(text: str) -> str:
    r"""A name from data as matplotlib shows it literally: in titles, labels, ticks and legends.

    Dollar signs would begin mathematics, and a legend leaves out labels that begin with an underscore. Where the usual
    font lacks a character (Chinese, say), an installed font that has it is added to matplotlib's; where none has it,
    its escape is shown.

    Example:
        >>> print(figure_text("$5_a$"))
        \$5_a\$
    """
    shown = visible(text, lines=False).replace("$", r"\$")
    if not shown.isascii():
        shown = "".join(character if _drawable(character) else ascii(character)[1:-1] for character in shown)
    return f" {shown}" if shown.startswith("_") else shown


@functools.cache
def _drawable(character: str) -> bool:
    """Whether an installed font has a character; matplotlib is told to use that font too, after its usual ones."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    def has(family: str) -> bool:
        try:
            path = findfont(FontProperties(family=[family]), fallback_to_default=False)
            return ord(character) in get_font(path).get_charmap()
        except (OSError, RuntimeError, ValueError):  # a font that is gone or damaged
            return False

    families = list(mpl.rcParams["font.family"])
    if any(map(has, families)):
        return True
    # Last Resort has a box for every character.
    installed = {entry.name for entry in fontManager.ttflist if "last resort" not in entry.name.lower()}
    for family in sorted(installed, key=lambda name: (not CJK.search(name), name)):
        if has(family):
            mpl.rcParams["font.family"] = [*families, family]
            return True
    return False


class _Literal(Console):
    """A console that prints strings literally: no markup, no emoji codes, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """The console that the command line prints to. Styled output is given as `rich.text.Text`."""
    return _Literal(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_problem(console: Console, problem: Problem) -> None:
    """What, where and remedy, a line each."""
    labelled = (problem.what, f"where: {problem.where}", f"remedy: {problem.remedy}")
    console.print("\n".join(visible(line, lines=False) for line in labelled), style="red", soft_wrap=True)


def print_warning(message: Warning | str, *_: object) -> None:
    """One line to standard error, without the place in the source; in place of `warnings.showwarning`."""
    console(stderr=True).print(f"warning: {' '.join(str(message).split())}", style="yellow", soft_wrap=True)


def print_json(content: Any) -> None:
    """JSON to standard output; hidden characters become escapes of JSON, so that the values stay the same."""
    text = json_text(content)
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(re.sub(r"[^\x00-\x7f]", _json_escape, text) if ascii_only else HIDDEN.sub(_json_escape, text))


def _json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def set_streams() -> None:
    """Let standard output and error escape what their encoding lacks, rather than raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
