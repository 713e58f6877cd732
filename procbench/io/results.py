"""How a command ended and what it cost."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from procbench.errors import CommandFailedError
from procbench.io.command import Argument

T = TypeVar("T")

StopPhase = Literal["terminate", "kill", "abandoned"]


class OverCap(NamedTuple):
    """What became of what a child wrote over the cap.

    Attributes:
        overflow: The policy: ``drop``, ``ring``, ``spool`` or ``kill``.
        gap_at: Offset in what was kept at which bytes are missing; ``None`` where none are.
        file: With ``spool``, an unlinked file that holds all of it, at its beginning; whoever has the result closes it.
        error: Name of the errno for which the file does not hold all of it, such as ``ENOSPC``; or ``None``.
    """

    overflow: str
    gap_at: int | None
    file: BinaryIO | None
    error: str | None


_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a command ended and what it cost. The first four fields mean what they mean in ``CompletedProcess``.

    Attributes:
        args: The command.
        returncode: Exit status; negative is the signal that ended it; ``None`` if it could not be learnt, because
            somebody else in this process reaped the child or it could not even be killed.
        stdout: What was kept of its standard output, if that was captured.
        stderr: What was kept of its standard error, if that was captured.
        stdout_bytes: How much it wrote to a captured standard output, kept or not.
        stderr_bytes: How much it wrote to a captured standard error, kept or not.
        truncated: Whether captured output is, or may be, less than the child had to say: more than the cap, ended by a
            signal, or still held open by a descendant.
        stdout_over: What became of standard output over the cap; ``None`` if it stayed below.
        stderr_over: The same of standard error.
        tee_error: Why a copy of its output ended early; ``None`` if none did.
        stdin_bytes: How much of the input the pipe took.
        stdin_error: ``EPIPE`` if the child closed its standard input before it had everything, ``ENODATA`` if a file that
            was sent became shorter.
        transport: The way its input went (:mod:`procbench.memory.transports`): ``write``, ``vmsplice``, ``splice`` or
            ``sendfile`` through a pipe, ``memfd_stdin`` or ``file_stdin`` where the source itself was handed over, and then
            ``stdin_bytes`` is 0; ``None`` if it was given nothing.
        transport_fallback: Name of the errno for which another way was left on the road, and ``write`` taken; or ``None``.
        pipe_size_bytes: What the smallest of its pipes really held, of those for which a size was asked; ``None`` if none
            was. The kernel refuses large pipes to a user who has many.
        user_s: CPU time in user mode, seconds, of the child and the descendants that it waited for.
        system_s: CPU time in the kernel, seconds, of the same.
        peak_memory_bytes: Largest resident size.
        peak_memory_is_bound: Whether the true peak may be lower: Linux counts the spawning process's own peak in until
            the exec, so a child smaller than its parent shows its parent's size (getrusage(2), ``ru_maxrss``).
        minor_faults: Page faults served without I/O.
        major_faults: Page faults that needed I/O.
        voluntary_switches: Times it gave the CPU up.
        involuntary_switches: Times the CPU was taken from it.
        pid: Its process id while it lived.
        started_ns: When its spawn began, nanoseconds of ``time.monotonic_ns()``.
        ended_ns: When it had ended, on the same clock.
        timed_out: Whether it was ended because its time was up.
        cancelled: Whether it was ended because somebody asked for it.
        stop_phase: How far ending it had to go: ``terminate`` (SIGTERM and SIGCONT were enough), ``kill``, or ``abandoned``
            (it did not even die of SIGKILL); ``None`` when it ended by itself.
        pipe_held_by_descendant: Whether a descendant still held its pipe when the drain's grace was over.
        limit_hit: ``output`` if it was ended because it wrote more than ``max_output_bytes``; otherwise which limit the kernel
            ended it at: ``memory`` if it asked for more than ``memory_limit_bytes``, ``cpu`` if it used up RLIMIT_CPU (SIGXCPU;
            SIGKILL at the hard limit that this process has too), ``file size`` if it wrote beyond RLIMIT_FSIZE (SIGXFSZ).
            ``None`` if it was not so, or cannot be told: because it was being ended already, because it caught the signal, or
            because without a cgroup a program is refused memory and ends in its own way.
        containment: How what it started was held together: ``group``, ``subreaper`` or ``cgroup``.
        survivors: Process ids of what it left behind and was seen to live on, when it was reaped.
    """

    args: Sequence[Argument]
    returncode: int | None
    stdout: bytes | None
    stderr: bytes | None
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    stdout_over: OverCap | None
    stderr_over: OverCap | None
    tee_error: str | None
    stdin_bytes: int
    stdin_error: str | None
    transport: str | None
    transport_fallback: str | None
    pipe_size_bytes: int | None
    user_s: float
    system_s: float
    peak_memory_bytes: int
    peak_memory_is_bound: bool
    minor_faults: int
    major_faults: int
    voluntary_switches: int
    involuntary_switches: int
    pid: int
    started_ns: int
    ended_ns: int
    timed_out: bool
    cancelled: bool
    stop_phase: StopPhase | None
    pipe_held_by_descendant: bool
    limit_hit: str | None
    containment: str
    survivors: tuple[int, ...]

    @property
    def wall_s(self) -> float:
        """Seconds from the beginning of the spawn to the child's end."""
        return (self.ended_ns - self.started_ns) / _SECOND_NS

    @property
    def cpu_s(self) -> float:
        """CPU time in user mode and in the kernel, seconds."""
        return self.user_s + self.system_s

    @property
    def signal(self) -> str | None:
        """Name of the signal that ended it, such as ``SIGKILL``."""
        return signal_name(self.returncode)

    def close_files(self) -> None:
        """Close the files that hold output over the cap, if there are any. Harmless when closed already."""
        for over in (self.stdout_over, self.stderr_over):
            if over is not None and over.file is not None:
                over.file.close()

    def check_returncode(self) -> None:
        """Raise if the command failed.

        Raises:
            CommandFailedError: Its status is not 0, or could not be learnt (then reported as -1).
        """
        if self.returncode != 0:
            status = -1 if self.returncode is None else self.returncode
            raise CommandFailedError(status, [os.fsdecode(a) for a in self.args], self.stdout, self.stderr)


def signal_name(returncode: int | None) -> str | None:
    """Return the name of the signal that a negative returncode stands for."""
    if returncode is None or returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"  # a real-time signal has no name of its own


def maker(kind: type[T]) -> Callable[..., T]:
    """Return what makes a frozen dataclass with slots of its fields, in their order, in a quarter of its constructor's time.

    A frozen dataclass stores each field by a call of ``object.__setattr__``; with forty of them that was a sixth of all that
    this library's own code does for a small command. Here they are stored as into any other object, whose class then becomes
    ``kind``. There are no defaults, and no ``__post_init__``.

    Args:
        kind: The class.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    store = vars(dataclasses.make_dataclass("store", names))["__init__"]
    # Both, or attributes are still stored by way of a look for what the base says to each.
    plain = {"__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    own = {"__slots__": kind.__slots__, "__init__": store, **plain}  # type: ignore[attr-defined]
    open_to_all: Any = type(f"Open{kind.__name__}", kind.__bases__, own)

    def make(*fields: Any) -> T:
        made = open_to_all(*fields)
        made.__class__ = kind
        return made  # type: ignore[no-any-return]

    return make
