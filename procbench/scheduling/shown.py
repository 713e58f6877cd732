"""A command as a person, or a shell, reads it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from typing import Final

from procbench.io.command import Argument

_RESERVED: Final = frozenset(
    [
        "case",
        "coproc",
        "do",
        "done",
        "elif",
        "else",
        "esac",
        "fi",
        "for",
        "function",
        "if",
        "in",
        "select",
        "then",
        "time",
        "until",
        "while",
    ]
)
"""Words that a shell takes for its own where a command's program stands; those with odd characters are quoted anyhow."""

_SECRET = re.compile(r"token|secret|passw(or)?d|credential|(^|[-_]|api)key$", re.IGNORECASE)
_SAID = re.compile(r"(authorization\s*:\s*|bearer\s+|api-?key\s*:\s*)\S.*", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@|(?<=[?&])((?:[\w-]*(?:token|key|secret|password))=)[^&\s]+", re.IGNORECASE)
_HIDDEN = "***"


def shell_line(argv: Iterable[Argument]) -> bytes:
    """Return a command as a shell would need it to run just that: ``sh -c`` of it gives the program these arguments."""
    program, *arguments = [os.fsdecode(word) for word in argv] or [""]
    first = shlex.quote(program)
    if first == program and (program in _RESERVED or "=" in program):  # a shell's own word, or an assignment
        first = f"'{program}'"
    return os.fsencode(" ".join([first, *map(shlex.quote, arguments)]))


def without_secrets(argv: Iterable[str]) -> list[str]:
    """Return a command as it may be recorded: the value of what is called token, secret, password or key is hidden.

    ``NAME=value`` and ``--name=value`` hide the value, an option such as ``--password`` hides the argument behind it. What
    stands behind ``Authorization:`` or ``Bearer`` is hidden too, and in an address its user and password and such parameters.
    A secret that is called nothing, such as that of ``mysql -pWORD``, cannot be told.
    """
    shown: list[str] = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        secret = _SECRET.search(name) is not None and not any(mark in name for mark in " /\n")
        shown.append(_HIDDEN if hide_next else f"{name}={_HIDDEN}" if secret and equals else _without_said(argument))
        hide_next = secret and not equals and argument.startswith("-")
    return shown


def _without_said(argument: str) -> str:
    """Return an argument without the secrets that its own text announces."""
    argument = _SAID.sub(lambda found: found[1] + _HIDDEN, argument)
    return _IN_ADDRESS.sub(lambda found: f"{found[1] or ''}{_HIDDEN}{'' if found[1] else '@'}", argument)
