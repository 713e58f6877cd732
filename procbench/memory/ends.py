"""The two ends of the pipe between this process and a child: each is closed once, by whoever has it when it is over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

from procbench import linux
from procbench.errors import InvalidInputError
from procbench.memory import checks

LARGEST_FD: Final = 2**31 - 1
"""The kernel takes descriptors as an int."""


class HasFileno(Protocol):
    """An open file, as ``Popen.stdin`` is one."""

    def fileno(self) -> int: ...  # noqa: D102


Starter = Callable[[int], Any]
"""Starts a child with the given descriptor as its standard input (or output), and returns whatever it likes."""


class Ends:
    """Our end of a pipe, until somebody else closes it, and the child's, until the child has it. For one thread, in ``with``.

    A child that runs already was given with the end of its pipe; that one is closed in any case, also when the rest of what
    was asked makes no sense. One that is still to be started gets a new pipe, which is made only when it is asked for.

    Args:
        child: What starts it, or the end of its pipe, as an open file or a descriptor.

    Raises:
        InvalidInputError: It is neither.
        OSError: No descriptor is left.
    """

    def __init__(self, child: Starter | HasFileno | int) -> None:
        self._child = child
        self._childs = -1
        self._ours = -1 if callable(child) else _taken_over(child)

    def write_end(self) -> int:
        """Return our end of the pipe that is the child's standard input; called once.

        Raises:
            OSError: No descriptor is left.
        """
        if callable(self._child):
            self._childs, self._ours = linux.pipe_to_child()
        return self._ours

    def read_end(self) -> int:
        """Return our end of the pipe that is the child's standard output; called once.

        Raises:
            OSError: No descriptor is left.
        """
        if callable(self._child):
            self._ours, self._childs = linux.pipe_from_child()
        return self._ours

    def let_go(self) -> None:
        """Leave our end to somebody else, who closes it from now on."""
        self._ours = -1

    def start(self) -> Any:
        """Start the child, if it does not run yet, and return what that returned; its end is closed here in any case."""
        if not callable(self._child):
            return None
        try:
            return self._child(self._childs)
        finally:  # as long as this process has it too, a child that ends is not seen to
            self._childs = _closed(self._childs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ours = _closed(self._ours)
        self._childs = _closed(self._childs)


def _closed(fd: int) -> int:
    if fd >= 0:
        linux.close_now(fd)
    return -1


def _taken_over(end: HasFileno | int) -> int:
    """Return a descriptor of ours, that does not block, for a pipe end that the caller gave away."""
    if isinstance(end, int):
        if checks.whole("child, as a descriptor,", end) > LARGEST_FD:
            raise InvalidInputError(f"child is {end}; no descriptor has such a number")
        os.set_blocking(end, False)
        return end
    try:
        number = end.fileno()
    except (AttributeError, TypeError, ValueError) as error:  # the last where it is closed, or only looks like a file
        raise InvalidInputError(
            f"child is {end!r}, through which none is reached ({error}); give a function that starts one, or the end of its "
            "pipe as an open file or a descriptor"
        ) from error
    descriptor = os.dup(number)
    try:
        with contextlib.suppress(BrokenPipeError):  # its owner had something buffered that nobody reads any more
            cast(Any, end).close()
        os.set_blocking(descriptor, False)
    except BaseException:
        linux.close_now(descriptor)
        raise
    return descriptor
