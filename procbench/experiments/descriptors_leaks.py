"""A program that forgets descriptors as real ones do, and what its manager says of them.

Jobs take a descriptor, work, and close it. In some the work fails before the close, and the error is kept for a report: its
traceback keeps the frames, and these keep the handles. No warning comes and nothing is collected; the descriptors stay
open for as long as the error is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from procbench.io.descriptors import FileDescriptorManager, OpenDescriptor
from procbench.io.fd_handle import FdHandle
from procbench.io.fd_held import KINDS

JOBS: Final = 6
_EVERY: Final = 3  # so many jobs, of which one fails


class JobFailedError(ValueError):
    """A job's input made no sense."""


class Taken(NamedTuple):
    """A handle that a job took and did not close.

    Attributes:
        kind: Of what.
        fd: Its number.
        job: The function that took it.
    """

    kind: str
    fd: int
    job: str


class LeakHunt(NamedTuple):
    """What was forgotten, and what was found.

    Attributes:
        jobs: Jobs that ran.
        forgotten: What the jobs that failed had taken, as they knew it themselves.
        found: What the manager said was out, the oldest first.
        warned: Warnings that came once the errors, and with them the handles, were let go.
        counted: Handles that the manager counted as leaked then.
        still_out: Handles that were out after that.
    """

    jobs: int
    forgotten: tuple[Taken, ...]
    found: tuple[OpenDescriptor, ...]
    warned: int
    counted: int
    still_out: int


def hunt(file: Path, jobs: int = JOBS) -> LeakHunt:
    """Run jobs of which some forget what they took, ask the manager, and let go.

    Args:
        file: What jobs read.
        jobs: How many there are of each kind of descriptor.
    """
    ways: tuple[Callable[..., None], ...] = (talk_to_child, collect_output, silence_child, read_settings)
    taken: list[Taken] = []
    kept_errors: list[JobFailedError] = []
    # Nothing is kept idle: what is forgotten is really closed once it is let go.
    with FileDescriptorManager(reuse=(), trace=True) as manager:
        for number in range(jobs):
            for job in ways:
                try:
                    job(manager, file, number, taken)
                except JobFailedError as error:
                    kept_errors.append(error)
        found = tuple(manager.leaks())
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ResourceWarning)
            kept_errors.clear()
        stood = manager.statistics()
        counted = sum(getattr(stood, kind).leaked for kind in KINDS)
        still_out = len(manager.leaks())
    return LeakHunt(len(ways) * jobs, tuple(taken), found, len(warned), counted, still_out)


def talk_to_child(manager: FileDescriptorManager, _: Path, number: int, taken: list[Taken]) -> None:
    """Take a pipe, and forget both ends where the work fails."""
    read_end, write_end = manager.open_pipe()
    _work(number, taken, "talk_to_child", read_end, write_end)
    write_end.close()
    read_end.close()


def collect_output(manager: FileDescriptorManager, _: Path, number: int, taken: list[Taken]) -> None:
    """Take a memory file, and forget it where the work fails."""
    memory = manager.open_memfd()
    _work(number, taken, "collect_output", memory)
    memory.close()


def silence_child(manager: FileDescriptorManager, _: Path, number: int, taken: list[Taken]) -> None:
    """Take ``/dev/null``, and forget it where the work fails."""
    null = manager.open_null()
    _work(number, taken, "silence_child", null)
    null.close()


def read_settings(manager: FileDescriptorManager, file: Path, number: int, taken: list[Taken]) -> None:
    """Take a file, and forget it where the work fails."""
    settings = manager.open_file(file)
    _work(number, taken, "read_settings", settings)
    settings.close()


def _work(number: int, taken: list[Taken], job: str, *handles: FdHandle) -> None:
    """Fail in every third job, after noting what it has open."""
    if number % _EVERY == _EVERY - 1:
        taken.extend(Taken(handle.kind, handle.fileno(), job) for handle in handles)
        raise JobFailedError(f"job {number} cannot use its input")
