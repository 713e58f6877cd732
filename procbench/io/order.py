"""What is to be run, and how: the one thing that the doors hand down to whatever begins a child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from procbench.io.command import Argument
from procbench.io.keep import Overflow, Tee
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transports import Transport

INHERIT: Final = None
"""The child shares this process's own descriptor."""

CAPTURE: Final = -1
"""A pipe between the child's stream and this process; the number is ``subprocess.PIPE``."""

TO_STDOUT: Final = -2
"""The child's standard error goes where its standard output goes; the number is ``subprocess.STDOUT``."""

NULL: Final = -3
"""The child gets ``/dev/null``; the number is ``subprocess.DEVNULL``."""

KEEP: Final = -4
"""Read the child's stream through a pipe, and keep what comes for the result, while the other stream is read by hand."""

PIPED: Final = frozenset({CAPTURE, KEEP})

Data = bytes | bytearray | memoryview | MemoryMapping
"""What a child's standard input can be made of."""

KILL_GRACE_S: Final = 5.0
"""Time between SIGTERM and SIGKILL; long enough to flush and to remove temporary files."""

DRAIN_GRACE_S: Final = 0.25
"""How long after the child's end a descendant may go on holding its pipe."""


class Limits(NamedTuple):
    """What a child may take, and how it is ended.

    Attributes:
        timeout: Seconds until it is ended; ``None`` is for ever.
        max_output_bytes: Most bytes kept of each captured stream; ``None`` keeps all.
        kill_grace_s: Seconds between SIGTERM and SIGKILL.
        drain_grace_s: Seconds that a descendant may hold the pipe after the child's end.
        overflow: What becomes of what goes over ``max_output_bytes``.
    """

    timeout: float | None = None
    max_output_bytes: int | None = None
    kill_grace_s: float = KILL_GRACE_S
    drain_grace_s: float = DRAIN_GRACE_S
    overflow: Overflow = "drop"


class Order(NamedTuple):
    """One child that is to be begun.

    Attributes:
        argv: The command.
        limits: What it may take.
        data: Bytes or a mapping for its standard input; wins over ``stdin``.
        stdin: A descriptor, ``NULL``, ``INHERIT`` or ``CAPTURE``.
        stdout: A descriptor, ``NULL``, ``INHERIT``, ``CAPTURE`` or ``KEEP``.
        stderr: The same, or ``TO_STDOUT``.
        cwd: Its working directory.
        env: Its whole environment; ``None`` for this process's.
        transport: How ``data`` goes there, if its kind allows that; see :mod:`procbench.memory.transports`.
        pipe_size_bytes: Size to ask for, of each pipe; ``None`` for 1 MiB where more than 64 KiB are sent.
        tees: Where copies of what is kept of its two output streams go.
        streamed: Whether what comes through a ``CAPTURE`` is somebody else's to read; otherwise it is kept.
    """

    argv: Sequence[Argument]
    limits: Limits = Limits()
    data: Data | None = None
    stdin: int | None = NULL
    stdout: int | None = INHERIT
    stderr: int | None = INHERIT
    cwd: Argument | None = None
    env: Mapping[str, str] | None = None
    transport: Transport = "auto"
    pipe_size_bytes: int | None = None
    tees: tuple[Tee | None, Tee | None] = (None, None)
    streamed: bool = False

    @property
    def pipes(self) -> int:
        """How many pipes it takes."""
        to_child = self.data is not None or self.stdin == CAPTURE
        return to_child + (self.stdout in PIPED) + (self.stderr in PIPED)
