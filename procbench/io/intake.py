"""The read end of a pipe that a child writes to, and what is done with what comes."""

from __future__ import annotations

from procbench import linux
from procbench.io.keep import Keep
from procbench.io.results import OverCap
from procbench.memory.lease import PooledBuffer

# So many buffers from one stream before the other streams, and the clock, get their turn.
_READS_AT_ONCE = 16


class Intake:
    """The read end of a pipe that a child writes to. Not thread-safe; it never waits.

    Args:
        fd: A read end that does not block; closed at end of file.
        keep: What takes in what :meth:`drain` reads; ``None`` while somebody else reads from ``fd``.

    Attributes:
        fd: The descriptor, or -1 once closed.
        keep: As given; may be set later.
        passed_bytes: What somebody else has read.
        closed_early: Whether it was closed before its end.
    """

    __slots__ = ("closed_early", "fd", "keep", "passed_bytes")

    def __init__(self, fd: int, keep: Keep | None) -> None:
        self.fd = fd
        self.keep = keep
        self.passed_bytes = 0
        self.closed_early = False

    def drain(self, buffer: PooledBuffer) -> None:
        """Take what is there, a few buffers at most, and close the descriptor at end of file."""
        keep = self.keep
        if keep is None:
            return
        address, size_bytes, view = buffer.address, buffer.size_bytes, buffer.view
        for _ in range(_READS_AT_ONCE):
            count = linux.read_now(self.fd, address, size_bytes)
            if count <= 0:
                if count == 0:
                    self.finish()
                return  # below zero nothing is there yet (EAGAIN, EINTR): poll will say when
            with view[:count] as piece:  # an interrupt in there must not leave a slice behind in its traceback
                keep.add(piece)
            if count < size_bytes:
                return

    @property
    def total_bytes(self) -> int:
        """What the child has written so far, kept or not."""
        return self.passed_bytes + (self.keep.total_bytes if self.keep is not None else 0)

    def value(self) -> bytes | None:
        """Return what was kept; ``None`` where that was not asked for."""
        return self.keep.value() if self.keep is not None else None

    @property
    def cut(self) -> bool:
        """Whether the child wrote more than was kept, or may have written more than was read."""
        return self.closed_early or (self.keep is not None and self.keep.cut)

    def over_cap(self) -> OverCap | None:
        """Return what became of what went over the cap; ``None`` if nothing did."""
        keep = self.keep
        if keep is None or not keep.overflowed:
            return None
        return OverCap(keep.overflow, keep.gap_at, keep.take_file(), keep.error)

    @property
    def tee_error(self) -> str | None:
        """Why no more copies go; ``None`` if they do."""
        return self.keep.tee_error if self.keep is not None else None

    @property
    def must_end(self) -> bool:
        """Whether the child is to be ended because it wrote too much."""
        return self.keep is not None and self.keep.overflowed and self.keep.overflow == "kill"

    def close(self) -> None:
        """Close the descriptor, before its end if it is still open; harmless when closed already."""
        if self.fd >= 0:
            self.closed_early = True
            self.finish()

    def finish(self) -> None:
        """Close the descriptor, at its end."""
        fd, self.fd = self.fd, -1
        linux.close_now(fd)
