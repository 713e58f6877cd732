"""Descendants that left their process group or outlived their parent: they fall to this process, which ends them.

A program that calls setsid(2) and forks twice cannot be found through its group. A subreaper becomes its parent instead
of init, so it can be told apart, killed and reaped. Source: prctl(2), PR_SET_CHILD_SUBREAPER, Linux 3.4.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

from procbench import linux
from procbench.io.groups import ProcessState, all_processes

_WAIT_S = 0.005


@contextlib.contextmanager
def adopting_orphans(give_up_after_s: float = 5.0) -> Iterator[None]:
    """Be the subreaper of all descendants meanwhile; at the end, kill and reap every child that is left.

    To be left when no other thread of this process has children of its own: at the end they would be killed too.

    Args:
        give_up_after_s: How long to go on when something does not even die of SIGKILL.
    """
    linux.set_child_subreaper(True)
    try:
        yield
    finally:
        _end_children(time.monotonic() + give_up_after_s)
        linux.set_child_subreaper(False)


def reap_orphans() -> None:
    """Reap adopted descendants that have ended, so that a long batch does not collect zombies. Costs a look at ``/proc``.

    Only those that do not lead a group are taken, because a leader may be a worker's child, which the worker reaps.
    """
    for child in _children():
        if child.ended and child.group != child.pid:
            _reap(child.pid)


def _end_children(give_up_at_s: float) -> None:
    while children := _children():
        for child in children:
            if child.ended:
                _reap(child.pid)
            else:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # set-user-ID programs are not ours
                    os.kill(child.pid, signal.SIGKILL)  # it is our child and not reaped: the pid is nobody else's
        if time.monotonic() > give_up_at_s:
            return
        if not all(child.ended for child in children):
            time.sleep(_WAIT_S)


def _children() -> list[ProcessState]:
    own = os.getpid()
    return [process for process in all_processes() if process.parent == own]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
