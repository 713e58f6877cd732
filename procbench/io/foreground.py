"""Who may read from the terminal: its foreground is lent to a child's process group, and taken back.

A process outside the foreground that reads from its terminal, or changes its settings, is stopped by SIGTTIN or SIGTTOU.

Source: tcsetpgrp(3), setpgid(2), credentials(7).
"""

from __future__ import annotations

import contextlib
import os
import signal


class Foreground:
    """The foreground of this process's controlling terminal, if it has one. Not thread-safe; SIGTTOU must be held back.

    Attributes:
        terminal: A descriptor of the terminal; -1 where there is none.
        lent: Whether somebody has it from this process.
    """

    __slots__ = ("lent", "terminal")

    def __init__(self) -> None:
        self.lent = False
        self.terminal = -1
        with contextlib.suppress(OSError):
            self.terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)

    def belongs_to(self, group: int) -> bool:
        """Return whether it is with that process group."""
        with contextlib.suppress(OSError):
            return self.terminal >= 0 and os.tcgetpgrp(self.terminal) == group
        return False  # the terminal was hung up

    def lend(self, group: int) -> bool:
        """Lend it to a group of this session, if this process's group has it; return whether that group has it now."""
        if self.belongs_to(os.getpgrp()) and self._give_to(group):
            self.lent = True
            return True
        return self.belongs_to(group)

    def take_back(self) -> None:
        """Have it again, if it is lent: from the group it was lent to, or from one that this has let have it."""
        if self.lent:
            self.lent = False
            self._give_to(os.getpgrp())

    def close(self) -> None:
        """Take it back, and close the terminal."""
        self.take_back()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def _give_to(self, group: int) -> bool:
        try:
            os.tcsetpgrp(self.terminal, group)
        except OSError:  # hung up, or the group is another session's or nobody's
            return False
        return True


def stop_like(number: int) -> bool:
    """Stop this process's group by a held signal, as the terminal does; return whether somebody let it go on afterwards.

    Where no shell watches, in an orphaned process group or as pid 1, nothing is stopped, and this returns at once.

    Args:
        number: What stopped another process; SIGTSTP instead of SIGSTOP, which the kernel would not pass over there.
    """
    if os.getpid() == 1:  # its group may have members outside of the namespace
        return False
    number = signal.SIGTSTP if number == signal.SIGSTOP else number
    os.kill(0, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    return signal.sigtimedwait({signal.SIGCONT}, 0) is not None
