"""Text from anywhere, made safe to print."""

from __future__ import annotations

import re

# C0 and C1 controls, invisible and direction-changing format characters (but for the joiners that Persian and emoji
# need), line separators, lone surrogates (undecodable file names), tags.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str, *, lines: bool = True) -> str:
    r"""Control and invisible characters as escapes; all else unchanged.

    Args:
        text: anything, from anywhere.
        lines: keep newlines and tabs; else they are escaped too, for what must stay on one line.

    Example:
        >>> print(visible("a\x1b[31mb"))
        a\x1b[31mb
    """
    shown = HIDDEN.sub(lambda found: _escape(found[0]), text)
    return shown if lines else shown.replace("\n", r"\n").replace("\t", r"\t")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
