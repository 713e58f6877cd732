"""Turn a command, as people write it, into what exec takes: bytes without a NUL, and a path that was looked up once."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from procbench.errors import (
    CommandArgumentError,
    InvalidInputError,
    ProgramNotFoundError,
    ProgramPermissionError,
)

Argument = str | bytes | os.PathLike[str]
"""What an argv may hold."""

_TEXT = (str, bytes)
_ENCODING = sys.getfilesystemencoding()  # fsencode itself costs three times as much, and most arguments are text
_RESOLVED_FOR_S = 1.0
_CACHED_PROGRAMS = 256


def program_name(argv: Sequence[Argument]) -> str:
    """Return the program as text for messages; empty for an empty argv."""
    return os.fsdecode(argv[0]) if argv else ""


def encode_arguments(argv: Sequence[Argument]) -> list[bytes]:
    """Return the argv as bytes.

    Raises:
        InvalidInputError: ``argv`` is one string.
        CommandArgumentError: It is empty, or an argument holds a NUL.
        TypeError: An argument is neither str, bytes nor a path.
    """
    if isinstance(argv, _TEXT):
        raise InvalidInputError(
            f"argv must be a list such as ['gzip', 'file'], not the string {argv!r}; split it with shlex.split()"
        )
    arguments = [
        argument.encode(_ENCODING, "surrogateescape") if type(argument) is str else os.fsencode(argument)
        for argument in argv
    ]
    if not arguments or not arguments[0]:
        raise CommandArgumentError(errno.EINVAL, "resolve", "", "the command is empty; give at least a program")
    for argument in arguments:
        if 0 in argument:
            hint = f"argument {argument[:40]!r} holds a NUL, which no program can be given"
            raise CommandArgumentError(errno.EINVAL, "resolve", program_name(argv), hint)
    return arguments


Environment = ctypes.Array[ctypes.c_char_p]

_encoded: tuple[dict[str | bytes, str | bytes], Environment] | None = None


def encode_environment(
    env: Mapping[str, str] | None, argv: Sequence[Argument], extra: bytes | None = None
) -> Environment:
    """Return ``envp`` for ``argv``; ``None`` means this process's environment as it is now.

    The last one is kept, because comparing thirty variables costs a tenth of converting them.

    Args:
        env: The variables.
        argv: The command, for messages.
        extra: One more variable, as ``NAME=value``, in the place of any other of that name.

    Raises:
        CommandArgumentError: A variable has an empty name, a NUL, or ``=`` in its name.
    """
    global _encoded  # noqa: PLW0603 - one slot, replaced whole, so threads see the old or the new pair
    # os.environ's own dict of bytes: reading it through os.environ would decode every variable each time.
    source: Mapping[Any, Any] = os.environ._data if env is None else env  # type: ignore[attr-defined]
    last = _encoded
    if last is not None and last[0] == source:
        return last[1] if extra is None else _with(last[1], extra)
    snapshot = dict(source)
    entries = []
    for key, value in snapshot.items():
        name, text = os.fsencode(key), os.fsencode(value)
        if 0 in name or 0 in text or b"=" in name or not name:
            hint = f"environment variable {name[:40]!r} has an empty name, a NUL, or '=' in its name"
            raise CommandArgumentError(errno.EINVAL, "resolve", program_name(argv), hint)
        entries.append(name + b"=" + text)
    pointers = (ctypes.c_char_p * (len(entries) + 1))(*entries)
    _encoded = (snapshot, pointers)
    return pointers if extra is None else _with(pointers, extra)


def _with(pointers: Environment, extra: bytes) -> Environment:
    name = extra[: extra.index(b"=") + 1]
    kept = [entry for entry in pointers if entry is not None and not entry.startswith(name)]
    return (ctypes.c_char_p * (len(kept) + 2))(*kept, extra)


_resolved: dict[tuple[bytes, str | None, bytes | None], tuple[float, bytes]] = {}


def resolve(program: bytes, env: Mapping[str, str] | None = None, directory: bytes | None = None) -> bytes:
    """Return the path that ``program`` means for a child with this environment and working directory.

    The child's own PATH counts. An empty entry of PATH, which would mean the working directory, is passed over.

    Raises:
        ProgramNotFoundError: No folder of PATH holds it.
        ProgramPermissionError: A folder holds it, but it may not be executed.
    """
    if b"/" in program:
        return program
    path = (os.environ if env is None else env).get("PATH")
    key = (program, path, directory)
    known = _resolved.get(key)
    now = time.monotonic()
    if known is not None and now - known[0] < _RESOLVED_FOR_S:
        return known[1]
    forbidden = False
    for folder in os.fsencode(os.defpath if path is None else path).split(b":"):
        candidate = folder + b"/" + program
        seen_from_here = os.path.join(directory or b"", candidate)  # noqa: PTH118 - bytes, and an absolute one wins
        if folder and os.path.isfile(seen_from_here):  # noqa: PTH113 - bytes
            if os.access(seen_from_here, os.X_OK):
                if len(_resolved) >= _CACHED_PROGRAMS:
                    _resolved.clear()
                _resolved[key] = (now, candidate)
                return candidate
            forbidden = True
    name = os.fsdecode(program)
    if forbidden:
        raise ProgramPermissionError(errno.EACCES, "resolve", name, "it is on the PATH but not executable")
    raise ProgramNotFoundError(errno.ENOENT, "resolve", name, "no folder of the child's PATH holds it")


def forget_resolved() -> None:
    """Look every program up anew."""
    _resolved.clear()
