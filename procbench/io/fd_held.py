"""One descriptor, or a pipe's two, while procbench has it; and the proof that nobody else has a hand on it.

A descriptor that a child inherited, that was duplicated or sent through a socket shares one *open file description* with the
other: its offset, its flags, its locks. Closing ours tells the kernel nothing about the others. So what comes back is opened
anew through /proc/self/fd, the old description is let go of, and the kernel is asked whether that was the end of it.
A process that reaches into this one's /proc/<pid>/fd is beyond any proof; the kernel lets only the same user do that.

Source: pipe(7), poll(2), flock(2), fcntl(2) on F_SETLEASE, memfd_create(2).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import stat
import termios
from collections.abc import Hashable
from typing import Final, Literal

from procbench import linux

Kind = Literal["pipe", "memfd", "null", "file"]

KINDS: Final[tuple[Kind, ...]] = ("pipe", "memfd", "null", "file")

READ, WRITE = 0, 1
NOT_OPEN: Final = -1
ITS_OWN: Final = None  # the key of what is its borrower's alone

_WHICH: Final = slice(1, 3)  # of a stat_result: the number of the file and of its device


class Held:
    """One pipe, memory file, ``/dev/null`` or file: its descriptors, and what they were when they were opened."""

    __slots__ = ("fds", "identity", "idle_since_s", "key", "kind", "permits", "state", "users")

    def __init__(self, kind: Kind, key: Hashable, fds: list[int]) -> None:
        self.kind: Kind = kind
        self.key = key
        self.fds = fds
        self.permits = len(fds)
        self.users = 0
        self.idle_since_s = 0.0
        self.identity = os.fstat(fds[0])[_WHICH]
        self.state = None if key is ITS_OWN else self._state(fds[0])

    def has(self, end: int) -> bool:
        """Return whether the number still means what was opened; somebody may have closed it, and another opened."""
        try:
            return os.fstat(self.fds[end])[_WHICH] == self.identity
        except OSError:
            return False

    def is_whole(self) -> bool:
        """Return whether every number still means what was opened."""
        return self.has(0) and (len(self.fds) == 1 or self.has(WRITE))

    def close_end(self, end: int) -> bool:
        """Close one descriptor and return True; False, and nothing is done, where it was closed already, or by somebody else."""
        fd = self.fds[end]
        if fd == NOT_OPEN:
            return False
        mine = self.has(end)
        self.fds[end] = NOT_OPEN
        if mine:
            os.close(fd)
        return mine

    def close(self) -> bool:
        """Close what is open of it, and return whether anything was."""
        closed = False
        try:
            closed = self.close_end(0)
        finally:
            if len(self.fds) > 1:
                closed |= self.close_end(WRITE)
        return closed

    def renew(self) -> bool:
        """Make it as new, and return whether nobody else can have it; if not, it is to be closed. Needs one more descriptor."""
        with contextlib.suppress(OSError):
            if self.kind == "pipe":
                return self._renew_pipe()
            if self.kind == "memfd":
                return self._renew_memory()
            if self.kind == "file":
                return self._renew_file()
            return True
        return False

    # A pipe of which one end is closed and the other is the last of ours. Each end is asked about from the other one,
    # while we have none of its kind: poll(2) tells POLLHUP where nobody writes any more, POLLERR where nobody reads.
    def _renew_pipe(self) -> bool:
        last = READ if self.fds[WRITE] == NOT_OPEN else WRITE
        if not _alone(self.fds[last]):
            return False
        other = 1 - last
        self._open_other(last)
        self.close_end(last)
        if not _alone(self.fds[other]):
            return False
        self._open_other(other)
        return not _unread(self.fds[READ]) and self._state(self.fds[READ]) == self.state

    def _open_other(self, end: int) -> None:
        self.fds[1 - end] = linux.reopen(self.fds[end], os.O_WRONLY if end == READ else os.O_RDONLY)

    # A lock by flock(2) belongs to the description and ends with its last descriptor or mapping. So when a new description
    # can lock the file, the old one is gone. If it is not, its lock stays with it; a shared one is in the fewest ways. A
    # lease is granted only where no other description was opened by a name.
    def _renew_memory(self) -> bool:
        fcntl.flock(self.fds[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._replace(os.O_RDWR)
        fd = self.fds[0]
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        fcntl.flock(fd, fcntl.LOCK_UN)
        if self._state(fd) != self.state:
            return False
        os.ftruncate(fd, 0)
        return True

    # Others may go on reading: theirs is the old description, with the old offset.
    def _renew_file(self) -> bool:
        if file_key(os.fstat(self.fds[0])) != self.key:  # changed or, by its ctime, removed
            return False
        self._replace(os.O_RDONLY)
        return True

    def _replace(self, flags: int) -> None:
        fd = linux.reopen(self.fds[0], flags)
        self.close_end(0)
        self.fds[0] = fd

    def _state(self, fd: int) -> Hashable:
        """Return what a borrower could have changed for the next one."""
        if self.kind == "pipe":
            return linux.pipe_size(fd)
        if self.kind == "memfd":
            return os.fstat(fd).st_mode, fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return None


def file_key(found: os.stat_result) -> Hashable:
    """Return what makes a file the same one, unchanged, that the same user may read; ``None`` for no regular file."""
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, os.geteuid(), os.getegid()


def _alone(fd: int) -> bool:
    """Return whether nobody has the other end of the pipe."""
    question = select.poll()
    question.register(fd, 0)  # that nobody is there is told without being asked for
    return any(events & (linux.POLLHUP | linux.POLLERR) for _, events in question.poll(0))


def _unread(fd: int) -> int:
    """Return how many bytes stand in the pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
