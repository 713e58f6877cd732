"""Several arguments in one command, as many as asked for and as Linux takes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Sequence
from typing import Final

from procbench.errors import InvalidInputError

PLACE: Final = "{}"
"""Where an argument goes in a command; without one it becomes the last argument."""

LONGEST_ARGUMENT: Final = 128 * 1024 - 1
"""Bytes of the longest argument that Linux takes: MAX_ARG_STRLEN without its NUL (execve(2))."""

LONGEST_COMMAND: Final = 6 * 1024 * 1024
"""Bytes of all arguments together that Linux takes at most, whatever the limit of the stack (execve(2))."""

_LEAST_ROOM: Final = 128 * 1024  # ARG_MAX of linux/limits.h: there is as much however low the limit of the stack is
_HEADROOM: Final = (
    8 * 1024
)  # for the program's path and its interpreter's, which the kernel adds, and some variables more
_POINTER: Final = 8


def grouped(parts: Sequence[str], arguments: Iterable[str], most: int) -> list[list[str]]:
    """Return the arguments of each command that ``parts`` become, in their order: ``most``, or fewer where more are too long.

    Args:
        parts: The command; each ``{}`` that stands alone becomes all arguments of a group.
        arguments: The arguments.
        most: How many a group has at most.

    Raises:
        InvalidInputError: Not even one argument has room.
    """
    places = parts.count(PLACE)
    room = room_for_arguments() - sum(_size(part) for part in parts if part != PLACE)
    groups: list[list[str]] = [[]]
    left = room
    for argument in arguments:
        size = places * _size(argument)
        if size > room:
            raise InvalidInputError(f"the command is longer than Linux takes, even with {argument[:80]!r} alone")
        if groups[-1] and (len(groups[-1]) == most or size > left):
            groups.append([])
            left = room
        groups[-1].append(argument)
        left -= size
    return groups


def room_for_arguments() -> int:
    """Return how many bytes of arguments a command may have beside this process's environment, pointers counted in.

    Source: ``bprm_stack_limits`` in Linux' fs/exec.c: a quarter of the limit of the stack, at least 128 KiB, at most 6 MiB.
    """
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    room = LONGEST_COMMAND if stack == resource.RLIM_INFINITY else min(stack // 4, LONGEST_COMMAND)
    environment = sum(len(name) + len(value) + 2 + _POINTER for name, value in os.environb.items())
    return max(room, _LEAST_ROOM) - environment - _HEADROOM


def _size(argument: str) -> int:
    return len(os.fsencode(argument)) + 1 + _POINTER


def filled(parts: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return a command: ``parts`` with the arguments in the place of each ``{}`` that stands alone."""
    return [word for part in parts for word in (arguments if part == PLACE else [part])]
