"""Who lets go of what is stopped when its owner is killed: a shell that waits for the end of a pipe.

Nothing of the owner runs once it got SIGKILL, and a stopped process stays stopped until somebody sends it SIGCONT. So the
owner notes what it is about to stop in a memory file, and strikes it out when it has let it go. The shell sleeps in read(2)
until the pipe's write end is gone with its owner, then sends SIGCONT to what stands in the file, and ends. A note costs the
owner one pwrite(2) and wakes nobody.

Source: memfd_create(2), pipe(7), the POSIX shell's ``kill`` and ``read``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import threading
from typing import Final

from procbench import linux

_SHELL: Final = "/bin/sh"
_LEDGER_FD: Final = 3  # a shell's redirections take one digit
_NOTE_BYTES: Final = 32  # a pid of seven digits, a start time of twenty, a sign, a space and the line's end
_STRUCK_OUT: Final = b"\n".rjust(_NOTE_BYTES)

# A group whose leader is gone keeps its number from everybody else while somebody is in it. The command's name, which comes
# before the start time, may hold line ends and parentheses.
_SCRIPT: Final = """
trap '' HUP INT QUIT TERM
cd /
read -r end
while read -r target started; do
    [ "$target" ] || continue
    set --
    while read -r line; do set -- ${line##*) }; done <"/proc/${target#-}/stat"
    [ "${20:-$started}" = "$started" ] && kill -s CONT -- "$target"
done <&3
"""


class Guardian:
    """Sends SIGCONT to what is noted as stopped, when this process ends without having struck it out.

    Until ``open``, and where there is no descriptor, process or shell for it, notes go nowhere and nobody is let go. It holds
    three descriptors and one child, which leads its own group and is reaped by ``close``. A fork of this process that does not
    exec holds the pipe open: what is stopped then waits for the fork's end too. Any thread may call it.
    """

    def __init__(self) -> None:
        self._free: list[int] = []
        self._slots = itertools.count()
        self._fds: tuple[int, ...] = ()
        self._pid = 0
        self._lock = threading.RLock()

    def open(self) -> None:
        """Start the shell, which takes some 1 ms; without it, everything else still works."""
        fds: list[int] = []
        with self._lock:
            try:
                fds.append(os.memfd_create("procbench-stopped"))
                fds.extend(os.pipe())
                # Above what the shell has them as, so that none is overwritten before it is duplicated.
                for place, fd in enumerate(fds):
                    fds[place] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LEDGER_FD + 1)
                    os.close(fd)
                self._pid = _start(read_end=fds[1], ledger=fds[0])
                self._fds = tuple(
                    fds
                )  # the read end too: then the pipe never breaks, and writing to it raises no SIGPIPE
            except OSError:
                for fd in fds:
                    os.close(fd)

    def note(self, target: int, started_ticks: int) -> int:
        """Note what will be stopped, and return the note's number.

        Args:
            target: As for kill(2): a process, or a group's number made negative.
            started_ticks: When the process, or the group's leader, started.
        """
        with self._lock:
            slot = self._free.pop() if self._free else next(self._slots)
            self._write(slot, f"{target} {started_ticks}\n".encode().rjust(_NOTE_BYTES))
        return slot

    def strike_out(self, slot: int) -> None:
        """Forget a note: it has been let go."""
        with self._lock:
            self._write(slot, _STRUCK_OUT)
            self._free.append(slot)

    def _write(self, slot: int, line: bytes) -> None:
        if self._fds:
            with contextlib.suppress(OSError):  # no memory is left for it
                os.pwrite(self._fds[0], line, slot * _NOTE_BYTES)

    def close(self) -> None:
        """End the shell and reap it. Closing again does nothing."""
        with self._lock:
            fds, self._fds = self._fds, ()
        if fds:
            with contextlib.suppress(OSError):  # it has been killed and reaped by somebody else
                os.write(fds[2], b"\n")  # not by closing alone: a fork may hold the pipe open
                os.waitpid(self._pid, 0)
            for fd in fds:
                os.close(fd)


def _start(*, read_end: int, ledger: int) -> int:
    """Start the shell and return its pid."""
    if not linux.HAS_POSIX_SPAWN:
        raise OSError(errno.ENOSYS, "this libc cannot close a child's descriptors")
    actions = linux.FileActions()
    actions.duplicate(read_end, 0)
    for fd in (1, 2):
        actions.open_null(fd)
    actions.duplicate(ledger, _LEDGER_FD)
    actions.close_from(_LEDGER_FD + 1)
    words = (_SHELL, "-c", _SCRIPT, "procbench-guardian")
    argv = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words))
    environment = (ctypes.c_char_p * 1)()
    attributes = linux.SpawnAttributes(new_group=True)
    pid = ctypes.c_int()
    code = linux.posix_spawn(
        ctypes.addressof(pid),
        os.fsencode(_SHELL),
        actions.address,
        attributes.address,
        ctypes.addressof(argv),
        ctypes.addressof(environment),
    )
    if code:
        raise OSError(code, os.strerror(code))
    return pid.value
