"""Descriptors that have an owner: opened under a budget, handed out by generation, lent again where that is sound."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, Literal

from procbench import linux
from procbench.errors import DescriptorsSpentError, InvalidInputError
from procbench.io.budget import DescriptorBudget, shared_budget
from procbench.io.fd_handle import NAMES, Calls, FdHandle, said
from procbench.io.fd_held import ITS_OWN, KINDS, READ, WRITE, Held, Kind, file_key
from procbench.io.fd_limit import count_open, soft_limit
from procbench.io.fd_pool import FdPools, KindStatistics
from procbench.memory import checks
from procbench.memory.region import create_memfd

_SPENT: Final = frozenset({errno.EMFILE, errno.ENFILE})
_LARGEST_BYTES: Final = 2**63 - 1  # of off_t; the kernel says what is wrong with it
_FRAMES: Final = 5  # of a trace; enough to tell who took it

WORTH_KEEPING: Final[tuple[Kind, ...]] = ("null",)
"""The kinds of which lending one again costs less than opening another."""


@dataclass(frozen=True, slots=True)
class OpenDescriptor:
    """A handle that is out.

    Attributes:
        kind: What it is of.
        fd: Its number.
        age_s: Seconds since it was taken.
        where: Who took it, the innermost call first; ``None`` unless the manager traces.
    """

    kind: Kind
    fd: int
    age_s: float
    where: str | None


@dataclass(frozen=True, slots=True)
class DescriptorStatistics:
    """How a manager stands.

    Attributes:
        pipe: What became of pipes.
        memfd: What became of memory files.
        null: What became of ``/dev/null``.
        file: What became of files.
        open_now: Descriptors that this process really has, whoever opened them; ``None`` where /proc does not say.
        limit: Descriptors that the kernel lets it have.
        usage: The share of the limit that is open, 0 to 1; ``None`` where /proc does not say.
    """

    pipe: KindStatistics
    memfd: KindStatistics
    null: KindStatistics
    file: KindStatistics
    open_now: int | None
    limit: int
    usage: float | None


class FileDescriptorManager:
    """Opens pipes, memory files, ``/dev/null`` and files, and keeps them for the next where nobody else can have them.

    Thread-safe. What is idle is closed as soon as somebody waits for the budget's permits.

    A handle's opening and closing cost some three times the bare system calls, which is 5 to 10 µs more. What is kept for the
    next must be proved to be nobody else's, by opening it anew through /proc. That costs more than a new pipe, memory file or
    file does (Linux 6.18), so only ``/dev/null``, which needs no proof, is kept unless ``reuse`` names others.

    Args:
        budget: Where the permits come from; ``None`` for the one that this process shares.
        when_spent: Whether opening waits for permits or fails at once where there are none.
        reuse: The kinds that are kept for the next; the others are closed. ``KINDS`` for all.
        max_idle: Most that are kept of each kind.
        trace: Whether to note who takes a descriptor; costs some 1 µs for each.

    Raises:
        InvalidInputError: A word or a number makes no sense.
    """

    def __init__(
        self,
        budget: DescriptorBudget | None = None,
        *,
        when_spent: Literal["wait", "fail"] = "wait",
        reuse: Collection[Kind] = WORTH_KEEPING,
        max_idle: int = 16,
        trace: bool = False,
    ) -> None:
        if when_spent not in {"wait", "fail"}:
            raise InvalidInputError(f"when_spent is {when_spent!r}; it must be 'wait' or 'fail'")
        if isinstance(reuse, str) or not set(reuse) <= set(KINDS):
            raise InvalidInputError(f"reuse is {reuse!r}; it must hold some of {', '.join(KINDS)}")
        self.budget = shared_budget() if budget is None else budget
        self.when_spent: Literal["wait", "fail"] = when_spent
        self.reuse: frozenset[Kind] = frozenset(reuse)
        self.trace = trace
        checks.whole("max_idle", max_idle)
        self._pools = FdPools(self.budget, self.reuse, max_idle)

    def open_pipe(self, size_bytes: int | None = None, *, timeout: float | None = None) -> tuple[FdHandle, FdHandle]:
        """Return a pipe's (read end, write end), empty and with nobody else at either.

        Args:
            size_bytes: What it shall hold; the kernel may give less. ``None`` for its default.
            timeout: Most seconds to wait for permits; ``None`` for ever.

        Raises:
            DescriptorsSpentError: No two descriptors were to be had; there is no half of a pipe.
            ClosedError: The manager was closed.
            InvalidInputError: A number makes no sense.
        """
        if size_bytes is not None:
            checks.whole("size_bytes", size_bytes, 1)
        where = self._where()
        held = self._lent("pipe", size_bytes or 0, lambda: _pipe(size_bytes), timeout)
        return FdHandle(self._pools, held, READ, where), FdHandle(self._pools, held, WRITE, where)

    def open_memfd(self, name: str = "procbench", size_bytes: int = 0, *, timeout: float | None = None) -> FdHandle:
        """Return a memory file of ``size_bytes`` zeros that can be sealed.

        Raises:
            DescriptorsSpentError: No descriptor was to be had.
            ClosedError: The manager was closed.
            InvalidInputError: A number makes no sense.
            OSError: The kernel gives none of that name or size.
        """
        checks.whole("size_bytes", size_bytes)
        where = self._where()
        held = self._lent("memfd", name, lambda: [create_memfd(name)], timeout)
        handle = FdHandle(self._pools, held, 0, where)
        try:
            os.ftruncate(held.fds[0], min(size_bytes, _LARGEST_BYTES))
        except BaseException:
            handle.close()
            raise
        return handle

    def open_null(self, *, timeout: float | None = None) -> FdHandle:
        """Return ``/dev/null``, open for reading and writing; all handles of it share one descriptor.

        Raises:
            DescriptorsSpentError: No descriptor was to be had.
            ClosedError: The manager was closed.
        """
        where = self._where()
        held = self._lent("null", "null", lambda: [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)], timeout)
        return FdHandle(self._pools, held, 0, where)

    def open_file(
        self, path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = 0o666, *, timeout: float | None = None
    ) -> FdHandle:
        """Open a file as os.open does, close-on-exec; one that is only read, and unchanged since, may have been kept.

        Raises:
            DescriptorsSpentError: No descriptor was to be had.
            ClosedError: The manager was closed.
            OSError: The kernel refused.
        """
        where = self._where()
        key = ITS_OWN
        if flags & ~os.O_CLOEXEC == os.O_RDONLY and "file" in self.reuse:
            with contextlib.suppress(OSError):  # which opening it will raise
                key = file_key(Path(path).stat())
        held = self._lent("file", key, lambda: [os.open(path, flags | os.O_CLOEXEC, mode)], timeout)
        return FdHandle(self._pools, held, 0, where)

    def leaks(self, older_than_s: float = 0.0) -> list[OpenDescriptor]:
        """Return the handles that are out, the oldest first.

        Args:
            older_than_s: Those that were taken within so many seconds are left out.

        Raises:
            InvalidInputError: ``older_than_s`` is no finite number of at least 0.
        """
        checks.seconds("older_than_s", older_than_s)
        now_s = time.monotonic()
        return [
            OpenDescriptor(kind, fd, now_s - taken_s, None if calls is None else said(calls))
            for kind, fd, taken_s, calls in list(self._pools.out.values())
            if now_s - taken_s >= older_than_s
        ]

    def clean_up(self, idle_s: float = 0.0) -> int:
        """Close what has been idle for so long, and return how many pipes, memory files and so on that was.

        Raises:
            InvalidInputError: ``idle_s`` is no finite number of at least 0.
        """
        checks.seconds("idle_s", idle_s)
        return self._pools.clean_up(idle_s)

    def statistics(self) -> DescriptorStatistics:
        """Return how the manager stands. Counting what is open costs some 0.2 µs for each descriptor of the process."""
        open_now, limit = count_open(), soft_limit()
        usage = None if open_now is None else min(1.0, open_now / limit) if limit else 1.0
        return DescriptorStatistics(**self._pools.statistics(), open_now=open_now, limit=limit, usage=usage)

    def close(self) -> None:
        """Close what is idle; nothing can be opened afterwards. Harmless when called twice.

        Raises:
            DescriptorsInUseError: Handles are out; nothing has changed.
        """
        self._pools.close()

    def __enter__(self) -> FileDescriptorManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lent(self, kind: Kind, key: Hashable, opening: Callable[[], list[int]], timeout: float | None) -> Held:
        """Return one for the caller alone, or the shared one: kept, or opened now under permits."""
        checks.timeout(timeout)
        if kind not in self.reuse:
            key = ITS_OWN
        if held := self._pools.lend_again(kind, key):
            return held
        permits = len(NAMES[kind])
        if self.when_spent == "wait":
            self.budget.acquire(permits, timeout, lasting=True)
        else:
            self.budget.acquire_nowait(permits, lasting=True)
        try:
            held = self._opened(kind, key, opening)
            try:
                self._pools.lend(held)
            except BaseException:
                held.close()
                raise
        except BaseException:
            self.budget.let_go(permits)
            raise
        return held

    def _opened(self, kind: Kind, key: Hashable, opening: Callable[[], list[int]]) -> Held:
        try:
            try:
                fds = opening()
            except OSError as error:
                if error.errno not in _SPENT or not self.clean_up():
                    raise
                fds = opening()
        except OSError as error:
            if error.errno not in _SPENT:
                raise
            why = "there were permits, so others than the budget's users have opened many; raise the limit (ulimit -n)"
            raise DescriptorsSpentError(error.errno, f"{os.strerror(error.errno)}; {why}") from error
        try:
            if kind == "file" and key is not ITS_OWN:
                key = file_key(os.fstat(fds[0]))  # of what was opened, which need not be what was looked at
            return Held(kind, key, fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _where(self) -> Calls | None:
        """Return who called the method that asks."""
        if not self.trace:
            return None
        frame: FrameType | None = sys._getframe(2)
        calls: list[tuple[CodeType, int]] = []
        while frame is not None and len(calls) < _FRAMES:
            calls.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        return tuple(calls)


def _pipe(size_bytes: int | None) -> list[int]:
    ends = os.pipe2(os.O_CLOEXEC)
    if size_bytes is not None:
        linux.resize_pipe(ends[WRITE], size_bytes)
    return list(ends)
