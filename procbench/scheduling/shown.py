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

_SECRET = re.compile(
    r"token|secret|passw(or)?d|passphrase|credential|cookie|(^|[-_])(pw|pwd|auth|sig|signature)$|(^|[-_]|api)key$",
    re.IGNORECASE,
)
_SAID = re.compile(r"(authorization\s*:\s*|bearer\s+|api-?key\s*:\s*|cookie\s*:\s*)\S.*", re.IGNORECASE)
_IN_ADDRESS = re.compile(
    r"(?<=://)[^/@\s]+@|(?<=[?&])((?:[\w-]*(?:token|key|secret|password|sig|signature))=)[^&\s]+", re.IGNORECASE
)
_IN_JSON = re.compile(
    r"""(["'][\w-]*(?:token|secret|passw(?:or)?d|api-?key)[\w-]*["']\s*:\s*["'])[^"']+""", re.IGNORECASE
)
_BY_FORM = re.compile(
    r"\b(?:gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,}|sk-[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
)
"""What GitHub, GitLab, AWS, Slack and others hand out, and signed JSON tokens: known by their first letters."""
_USERS = frozenset({"-u", "--user", "--proxy-user"})
_SHORT = "-p"
_TAKE_SHORT = frozenset({"sshpass", "mysql", "mysqldump", "mariadb", "7z"})
"""Programs whose ``-p`` is for a password, which stands behind it or is the next word."""
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
    stands behind ``Authorization:`` or ``Bearer`` is hidden too, in an address its user and password and such parameters, in
    JSON what such names have, the password behind ``--user``, tokens of a well-known form, and what ``-p`` gives to ``mysql``
    and the like. A secret that is called nothing and looks like nothing cannot be told.
    """
    words = list(argv)
    takes_short = bool(words) and words[0].rpartition("/")[2] in _TAKE_SHORT
    shown: list[str] = []
    hide_next = of_user = False
    for argument in words:
        name, equals, _ = argument.partition("=")
        secret = _SECRET.search(name) is not None and not any(mark in name for mark in " /\n")
        if hide_next:
            shown.append(_HIDDEN)
        elif of_user and ":" in argument:
            shown.append(f"{argument.partition(':')[0]}:{_HIDDEN}")
        elif takes_short and argument.startswith(_SHORT) and argument != _SHORT:
            shown.append(_SHORT + _HIDDEN)
        else:
            shown.append(f"{name}={_HIDDEN}" if secret and equals else _without_said(argument))
        hide_next = (secret and not equals and argument.startswith("-")) or (takes_short and argument == _SHORT)
        of_user = argument in _USERS
    return shown


def line_without_secrets(line: str) -> str:
    """Return a command's line as it may be recorded; one that cannot be split hides only what announces itself."""
    try:
        words = shlex.split(line)
    except ValueError:
        return _without_said(line)
    hidden = without_secrets(words)
    return line if hidden == words else shlex.join(hidden)


def _without_said(argument: str) -> str:
    """Return an argument without the secrets that its own text announces."""
    argument = _SAID.sub(lambda found: found[1] + _HIDDEN, argument)
    argument = _IN_JSON.sub(lambda found: found[1] + _HIDDEN, argument)
    argument = _BY_FORM.sub(_HIDDEN, argument)
    return _IN_ADDRESS.sub(lambda found: f"{found[1] or ''}{_HIDDEN}{'' if found[1] else '@'}", argument)
