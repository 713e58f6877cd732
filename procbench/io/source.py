"""The reading that never waits: from a child's pipe into what is asked for, or to where it is kept for whoever asks next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from procbench.errors import ClosedError
from procbench.io.batch import Batch
from procbench.io.intake import Intake
from procbench.io.reactor import Reactor
from procbench.io.unread import Unread

if TYPE_CHECKING:
    from procbench.io.watch import Watch

# Buffers that one readv(2) is given: more than a pipe of the usual size fills, and far below IOV_MAX.
_PIECES_AT_ONCE: Final = 32

READS_AT_ONCE: Final = 16
"""So often one event reads before the loop's other work gets its turn."""


class Source:
    """A pipe that a child writes to, and what was read from it and not given to anybody. Not thread-safe.

    Args:
        intake: The read end.
        reactor: The event loop's.
        chunk_bytes: Most that one read(2) is asked for.
        watch: Is told before the first wait, to close this process's copy of the end that the child writes to, and at the end.

    Attributes:
        intake: As given.
        unread: What was read and not given away.
        closed: Set by who closes the pipe before its end: reading raises from then on.
        grace_is_over: Set when an empty pipe counts as the end.
        held: Whether it did.
    """

    __slots__ = ("_chunk_bytes", "_reactor", "_watch", "closed", "grace_is_over", "held", "intake", "unread")

    def __init__(self, intake: Intake, reactor: Reactor, chunk_bytes: int, watch: Watch) -> None:
        self.intake = intake
        self.unread = Unread()
        self.closed = self.grace_is_over = self.held = False
        self._reactor = reactor
        self._chunk_bytes = chunk_bytes
        self._watch = watch

    def read(self, n: int) -> bytes | None:
        """Return what is there, ``b""`` at the end, or ``None`` where nothing is there yet."""
        fd = self.intake.fd
        if fd < 0:
            return self._end()
        try:
            chunk = os.read(fd, min(n, self._chunk_bytes))
        except BlockingIOError:
            return b"" if self._is_end() else None
        if not chunk:
            self._finish()
        self.intake.passed_bytes += len(chunk)
        return chunk

    def readv(self, views: list[memoryview]) -> int | None:
        """Read into ``views``; return how much, 0 at the end, or ``None`` where nothing is there yet."""
        fd = self.intake.fd
        if fd < 0:
            return len(self._end())
        try:
            count = os.readv(fd, views)
        except BlockingIOError:
            return 0 if self._is_end() else None
        if not count:
            self._finish()
        self.intake.passed_bytes += count
        return count

    def _end(self) -> bytes:
        if self.closed:
            raise ClosedError("the stream was closed while it was read from")
        return b""

    def _is_end(self) -> bool:
        self._watch.let_go()
        if self.grace_is_over:
            self.held = True
            self._finish()
        return self.held

    def _finish(self) -> None:
        self._reactor.forget(self.intake.fd)
        self.intake.finish()
        self._watch.stream_has_ended()

    def close(self) -> None:
        """Close the pipe, before its end if that has not come."""
        self.closed = True
        if self.intake.fd >= 0:
            self._reactor.forget(self.intake.fd)
            self.intake.close()
            self._watch.stream_has_ended()

    def more(self) -> int | None:
        """Read a chunk; return how much, 0 at the end, or ``None`` where nothing is there yet."""
        chunk = self.read(self._chunk_bytes)
        if chunk:
            self.unread.data += chunk
        return None if chunk is None else len(chunk)

    def more_often(self, until_bytes: int | None = None) -> int | None:
        """Read a few chunks, or until there are so many bytes beside the lines; return 0 at the end."""
        count: int | None = None
        for _ in range(READS_AT_ONCE):
            count = self.more()
            if not count or (until_bytes is not None and len(self.unread.data) >= until_bytes):
                break
        return count

    def fill(self, batch: Batch) -> bool:
        """Read into the batch's free room; return whether there is none left, or the end has come."""
        for _ in range(READS_AT_ONCE):
            places = batch.places(_PIECES_AT_ONCE)
            if not places:
                return True
            try:
                count = self.readv(places)
            finally:
                for place in places:
                    place.release()
            if not count:
                return count == 0
            batch.filled(count)
        return not batch.room_bytes

    def split_more(self) -> bool:
        """Read until there is a line, or the end."""
        unread = self.unread
        unread.split(b"")
        for _ in range(READS_AT_ONCE):
            if unread.lines:
                return True
            chunk = self.read(self._chunk_bytes)
            if chunk is None:
                return False
            if not chunk:
                unread.end_last_line()
                return True
            unread.split(chunk)
        return bool(unread.lines)
