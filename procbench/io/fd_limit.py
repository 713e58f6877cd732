"""How many descriptors this process may have, and how many it has.

Source: getrlimit(2), ``RLIMIT_NOFILE``; proc_pid_fd(5).
"""

from __future__ import annotations

import os
import resource
from typing import Final

from procbench import linux

_UNLIMITED: Final = 1 << 30  # more than fs.nr_open can be set to


def soft_limit() -> int:
    """Return how many descriptors the kernel lets this process have, as set now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def count_open() -> int | None:
    """Return how many descriptors this process has; ``None`` where /proc is not there, or no descriptor to read it with."""
    try:
        with os.scandir("/proc/self/fd") as entries:
            return sum(1 for _ in entries) - 1  # the listing's own
    except OSError:
        return None


def count_without_proc(limit: int) -> int:
    """Return how many of the lowest numbers are open; the kernel gives the lowest that is free."""
    return sum(linux.is_open(fd) for fd in range(min(limit, 1024)))
