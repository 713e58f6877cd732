"""What a child writes, for coroutines: read when the pipe has something, straight to where the caller wants it.

Nothing is read before somebody asks for it, so a child that writes faster than it is read from waits in its pipe: that is
the back-pressure, and it costs nothing. What is asked for is read in the event's own handler, as often as the pipe has
something, and the coroutine goes on once, when it has what it wanted.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from procbench.errors import ClosedError, InvalidInputError, LineTooLongError, StreamBusyError
from procbench.io.batch import Batch
from procbench.io.intake import Intake
from procbench.io.keep import Keep
from procbench.io.reactor import READ, Reactor, Turnstile
from procbench.io.source import READS_AT_ONCE, Source
from procbench.io.unread import LINE_END
from procbench.memory.async_buffers import AsyncBufferPool
from procbench.memory.buffers import BufferPool
from procbench.memory.lease import PooledBuffer

if TYPE_CHECKING:
    from procbench.io.watch import Watch


class ReadStream:
    """What a child writes, for coroutines of one event loop; ``asyncio.StreamReader``'s methods mean what they mean there.

    One coroutine reads at a time; another one gets a :class:`StreamBusyError`. A read that is cancelled loses nothing: the next
    one gets what had come. Lines are bytes, with their end, of any length.

    Args:
        intake: The read end.
        reactor: The event loop's.
        chunk_bytes: Most that one read(2) is asked for.
        pool: What ``batch_read`` reads into.
        hold: What must live as long as somebody may read.
        watch: Is told before the first wait, to close this process's copy of the end that the child writes to, and at the end.

    """

    def __init__(
        self,
        intake: Intake,
        reactor: Reactor,
        chunk_bytes: int,
        pool: Callable[[], BufferPool],
        hold: object,
        watch: Watch,
    ) -> None:
        self._intake = intake
        self._turnstile = Turnstile(reactor, READ, lambda: intake.fd)
        self._pool = pool
        self._hold = hold
        self._source = Source(intake, reactor, chunk_bytes, watch)
        self._unread = self._source.unread
        self._batching = False
        self._ahead = False  # whether to read what nobody asks for,
        self._ahead_bytes: int | None = None  # how much of it at most,
        self._ahead_after: float = math.inf  # and where that was read, how much of it must be taken before it goes on
        watch.add(self)

    @property
    def held(self) -> bool:
        """Whether the end was declared: the child had ended, and a descendant held the pipe beyond the drain's grace."""
        return self._source.held

    @property
    def total_bytes(self) -> int:
        """What the child has written so far, as far as it was read from the pipe."""
        return self._intake.total_bytes

    # --- as asyncio.StreamReader's -------------------------------------------------------------------------------------

    def at_eof(self) -> bool:
        """Return whether all was read and given away, and nothing can come any more."""
        return self._intake.fd < 0 and not self._unread

    async def read(self, n: int = -1) -> bytes:
        """Return what is there, at most ``n`` bytes, and wait for the first; all until the end with -1; ``b""`` at the end."""
        self._enter()
        if n < 0:
            self._unread.join()
            await self._until(lambda: self._source.more_often() == 0)
            return self._take()
        if not n or self._unread:
            return self._take(n)
        chunk: bytes | None = None

        def step() -> bool:
            nonlocal chunk
            chunk = self._source.read(n)
            return chunk is not None

        try:
            await self._until(step)
        except BaseException:
            self._unread.put_back(chunk or b"")
            raise
        return chunk or b""

    async def readexactly(self, n: int) -> bytes:
        """Return exactly ``n`` bytes.

        Raises:
            asyncio.IncompleteReadError: The end came before; ``partial`` is what there was.
            InvalidInputError: ``n`` is negative.
        """
        if n < 0:
            raise InvalidInputError(f"n is {n}; it must not be negative")
        self._enter()
        data = self._unread.join()
        await self._until(lambda: len(data) >= n or self._source.more_often(n) == 0 or len(data) >= n)
        if len(data) < n:
            raise asyncio.IncompleteReadError(self._take(n), n)
        return self._take(n)

    async def readuntil(self, separator: bytes = LINE_END, *, limit_bytes: int | None = None) -> bytes:
        """Return everything up to the separator, with it.

        Args:
            separator: One byte or more.
            limit_bytes: Most bytes to return; ``None`` for any number.

        Raises:
            asyncio.IncompleteReadError: The end came before; ``partial`` is what there was.
            LineTooLongError: There is no separator within ``limit_bytes``; what there is stays unread.
            InvalidInputError: The separator is empty.
        """
        if not separator:
            raise InvalidInputError("the separator is empty; give at least one byte")
        self._enter()
        data = self._unread.join()
        found, searched = -1, 0

        def look() -> bool:
            nonlocal found, searched
            found = data.find(separator, max(0, searched - len(separator) + 1))
            searched = len(data)
            return found >= 0 or (limit_bytes is not None and searched > limit_bytes)

        def step() -> bool:
            count: int | None = None
            for _ in range(READS_AT_ONCE):
                if look() or count == 0:
                    return True
                count = self._source.more()
                if count is None:
                    return False
            return look()

        await self._until(step)
        end = found + len(separator) if found >= 0 else len(data)
        if limit_bytes is not None and end > limit_bytes:
            raise LineTooLongError(limit_bytes, bytes(data[:limit_bytes]))
        if found < 0:
            raise asyncio.IncompleteReadError(self._take(), None)
        return self._take(end)

    async def readline(self, *, limit_bytes: int | None = None) -> bytes:
        """Return a line with its end; without one only at the end of everything, and ``b""`` after that.

        Args:
            limit_bytes: Most bytes of a line; ``None`` for any number.

        Raises:
            LineTooLongError: The line is longer; it stays unread.
        """
        if limit_bytes is not None:
            try:
                return await self.readuntil(limit_bytes=limit_bytes)
            except asyncio.IncompleteReadError as error:
                return error.partial
        lines = self._unread.lines
        if not lines:
            self._enter()
            await self._until(self._source.split_more)
        line = lines.popleft() if lines else b""
        if self._ahead:
            self._was_taken(len(line))
        return line

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.lines()

    # --- what it has besides --------------------------------------------------------------------------------------

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield line after line. Who leaves early finds the rest by any other method."""
        lines = self._unread.lines
        while True:
            while lines:
                line = lines.popleft()
                if self._ahead:
                    self._was_taken(len(line))
                yield line
            self._enter()
            await self._until(self._source.split_more)
            if not lines:
                return

    async def read_into(self, buffer: Any) -> int:
        """Read into the caller's memory, without a copy.

        Args:
            buffer: Writable, with the buffer protocol, such as a bytearray or a pooled buffer's view.

        Returns:
            How many bytes came, at least 1; 0 at the end, or where there is no room.
        """
        self._enter()
        with memoryview(buffer) as given, given.cast("B") as view:
            if not view.nbytes or self._unread:
                data = self._take(view.nbytes)
                view[: len(data)] = data
                return len(data)
            count: int | None = None

            def step() -> bool:
                nonlocal count
                count = self._source.readv([view])
                return count is not None

            try:
                await self._until(step)
            except BaseException:
                self._unread.put_back(view[: count or 0])
                raise
            return count or 0

    async def batch_read(self, max_buffers: int) -> list[PooledBuffer]:
        """Read into the I/O pool's own buffers and lend them to the caller, who releases them.

        Args:
            max_buffers: Most buffers, from 1 to as many as the pool has.

        Returns:
            ``max_buffers`` full buffers. Fewer where the pool has no more: only for the first one does this wait. Fewer at the
            end, of which the last one's view is as long as what came, and none after it.

        Raises:
            InvalidInputError: ``max_buffers`` is none of these numbers.
        """
        pool = self._pool()
        if not 1 <= max_buffers <= pool.capacity:
            raise InvalidInputError(
                f"max_buffers is {max_buffers}; it must be 1 to {pool.capacity}, which is how many {pool.name} has"
            )
        self._enter()
        batch = Batch(AsyncBufferPool(pool), max_buffers)
        self._batching = True
        try:
            while not self.at_eof() and await batch.make_room():
                if self._unread:
                    batch.put(self._unread.take(batch.room_bytes))
                await self._until(lambda: self._source.fill(batch))
        except BaseException:
            self._unread.put_back(batch.give_up())
            raise
        finally:
            self._batching = False
            self.go_ahead()  # which could not go on meanwhile
        return batch.finish()

    def close(self) -> None:
        """Read no more: a child that goes on writing gets SIGPIPE. Harmless when closed already.

        A coroutine that waits for a read gets a ``ClosedError``, as does who reads later.
        """
        if not self._source.closed:
            self._source.close()
            self._turnstile.nudge()
            self._unread.take()

    # --- what its process says --------------------------------------------------------------------------------------

    def keep(self, keep: Keep) -> None:
        """Keep what comes from now on, and what came and was not read."""
        self._enter()
        if self._unread:
            with memoryview(self._unread.take()) as unread:
                self._intake.passed_bytes -= len(unread)
                keep.add(unread)
        self._intake.keep = keep

    def cut_off(self) -> None:
        """Close, unless the end was reached: what was read before that can still be had."""
        if self._intake.fd >= 0:
            self.close()

    def read_ahead(self, most_bytes: int | None) -> None:
        """Read from now on what comes while nobody asks for it, up to so many bytes; ``None`` for any number."""
        self._ahead, self._ahead_bytes = True, most_bytes
        self.go_ahead()

    def read_no_further(self) -> None:
        """Read from now on only what somebody asks for."""
        self._ahead = False

    def go_ahead(self) -> None:
        """Read what nobody has asked for, if that is to be, and see to it that it goes on."""
        if not self._ahead or self._intake.fd < 0 or self._intake.keep is not None or self._busy():
            return
        until_bytes = None
        if self._ahead_bytes is not None:
            room = self._ahead_bytes - self._unread.count()
            if room <= 0:
                # Half of it: to look after each line that is taken would cost a look at all the others.
                self._ahead_after = self._ahead_bytes // 2 - room
                return
            until_bytes = len(self._unread.data) + room
        self._ahead_after = math.inf
        self._source.more_often(until_bytes)
        this = weakref.ref(self)  # the reactor must not keep what everybody else has forgotten
        self._turnstile.arm(lambda: _go_ahead(this))

    def _take(self, count: int | None = None) -> bytes:
        data = self._unread.take(count)
        if self._ahead:
            self._was_taken(len(data))
        return data

    def _was_taken(self, count: int) -> None:
        """Read ahead again, where that had to stop and there is room now."""
        self._ahead_after -= count
        if self._ahead_after <= 0:
            self.go_ahead()

    def drains_no_longer(self) -> None:
        """Take an empty pipe for the end: the child has ended, and the drain's grace is over."""
        self._source.grace_is_over = True
        self._turnstile.nudge()

    # --- underneath ----------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if self._source.closed:
            raise ClosedError("the stream was closed; nothing can be read from it")
        if self._intake.keep is not None:
            raise ClosedError("the stream is kept for the result; nothing can be read from it by hand")
        if self._busy():
            raise StreamBusyError("another coroutine reads from the stream now; let it finish, or use a lock")

    def _busy(self) -> bool:
        return self._batching or self._turnstile.busy

    async def _until(self, step: Callable[[], bool]) -> None:
        try:
            await self._turnstile.until(step)
        finally:
            if self._ahead:
                self.go_ahead()


def _go_ahead(stream: weakref.ref[ReadStream]) -> None:
    this = stream()
    if this is not None:
        this.go_ahead()
