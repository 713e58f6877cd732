"""Text of unknown origin on a terminal: no escape sequence, no control character, one line."""

from __future__ import annotations

import re

ESCAPE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: window titles, links
    r"|\x1b[PX^_].*?(?:\x1b\\|$)"  # device control and private strings
    r"|\x1b\[[0-?]*[ -/]*[@-ln-~]"  # every control sequence but m, which sets colours
    r"|\x1b[^\[]",  # two-byte escapes
    re.DOTALL,
)
COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def without_colours(text: str) -> str:
    """Return a terminal's text without escape sequences and control characters."""
    return CONTROL.sub("", COLOUR.sub("", ESCAPE.sub("", text))).replace("\x1b", "")


def one_line(text: str, longest: int = 300) -> str:
    """Return a text that can stand on one line of a terminal: nothing in it moves the cursor or turns the writing round.

    Args:
        text: Anything: a command, an error that quotes one.
        longest: Most characters; what is cut is marked by an ellipsis.
    """
    plain = ESCAPE.sub("", COLOUR.sub("", text))
    # isprintable() is false for control characters, line breaks, direction marks and bytes that were no text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in plain)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
