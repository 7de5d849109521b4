"""Foreign text (paths, labels, transcripts, what a library said) where a terminal, a page or XML shows it."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but for tab and newline: they drive terminals
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # other line ends; order of writing
    "\ud800-\udfff\ufffe\uffff]"  # no characters: neither UTF-8 nor XML can hold them
)


def printable(text: str) -> str:
    """``text`` with every control character spelled out (``\\x1b``); newlines and tabs stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """``printable``, and on one line."""
    return " ".join(printable(text).split())
