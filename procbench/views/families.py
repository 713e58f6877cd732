"""End a child with all its descendants, wherever they hide.

A Jupyter kernel starts in a session of its own and its children may start more of them, so killing a process group is
not enough. Two facts help: a *subreaper* keeps every descendant in its own tree, even daemons (prctl(2),
PR_SET_CHILD_SUBREAPER, Linux 3.4), and a *stopped* one cannot add to it. So the family is ended while its head is
stopped, and the head last. Where somebody else killed the head, a marker in the environment tells its orphans.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from procbench.cpu.processes import read_stat
from procbench.io.groups import all_processes

MARKER_VARIABLE = "PROCBENCH_REPORT_CHILD"
"""The environment variable by which a lost child's descendants are known."""

_PATIENCE_S = 5.0  # a killed process needs no time of its own; only one in state D, inside the kernel, takes longer


def living_descendants(head: int) -> list[int]:
    """Return the pids of all living descendants of a process; zombies do not count."""
    children: dict[int, list[int]] = {}
    zombies: set[int] = set()
    for process in all_processes():
        children.setdefault(process.parent, []).append(process.pid)
        if process.ended:
            zombies.add(process.pid)
    found: list[int] = []
    waiting = list(children.get(head, ()))
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, ())
    return [pid for pid in found if pid not in zombies]


def end_descendants(head: int) -> list[int]:
    """Kill all descendants of a process that is a subreaper and starts no more of them.

    Waits up to five seconds for processes that are busy inside the kernel.

    Args:
        head: This process, or a stopped child.

    Returns:
        The pids that were killed.
    """
    return _kill_until_none(lambda: living_descendants(head), lambda pid: pid in living_descendants(head))


def end_marked(marker: str) -> list[int]:
    """Kill every process of this user that carries ``PROCBENCH_REPORT_CHILD=marker`` in its environment.

    Returns:
        The pids that were killed.
    """
    wanted = f"{MARKER_VARIABLE}={marker}".encode()

    def carries(pid: int) -> bool:
        with suppress(OSError):
            return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False

    return _kill_until_none(
        lambda: [p.pid for p in all_processes() if not p.ended and p.pid != os.getpid() and carries(p.pid)],
        carries,
    )


def end_family(child: int) -> None:
    """Stop a child, kill all its descendants, then kill it. It stays for its parent to reap.

    Args:
        child: A child of this process that has not been reaped, so its pid cannot belong to another.
    """
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGSTOP)
        deadline = time.monotonic() + _PATIENCE_S
        # SIGSTOP acts when the child next runs; until then it could still start a descendant that would be missed.
        while _state(child) not in ("T", "t", "Z", "X", "") and time.monotonic() < deadline:
            time.sleep(0.002)
        end_descendants(child)
        os.kill(child, signal.SIGKILL)


def reap_everything() -> None:
    """Reap the zombies that came to this process; only for one that waits for no child elsewhere any more."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill_until_none(find: Callable[[], list[int]], is_still_one: Callable[[int], bool]) -> list[int]:
    """Kill what ``find`` returns until it returns nothing, or patience ends; say whom it was."""
    ended: list[int] = []
    deadline = time.monotonic() + _PATIENCE_S
    while (found := find()) and time.monotonic() < deadline:
        handles = []
        for pid in found:
            with suppress(OSError):
                handle = os.pidfd_open(pid)
                handles.append(handle)
                if is_still_one(pid):  # asked with the pidfd held, so that a reused pid is never hit
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    ended.append(pid)
        for handle in handles:
            _wait_readable(handle, 0.2)
            os.close(handle)
    return list(dict.fromkeys(ended))


def _wait_readable(handle: int, timeout_s: float) -> bool:
    """Wait until a pidfd says that its process has ended."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def _state(pid: int) -> str:
    """Return a process's state letter, ``""`` when it is gone."""
    with suppress(OSError):
        return read_stat(pid).state
    return ""
