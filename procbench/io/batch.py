"""Several buffers of a pool that are filled one after the other, by one system call for many of them."""

from __future__ import annotations

from procbench.errors import PoolExhaustedError
from procbench.memory.async_buffers import AsyncBufferPool
from procbench.memory.lease import PooledBuffer


class Batch:
    """Buffers that are being filled, in order.

    Args:
        pool: Where they come from.
        count: Most of them.
    """

    def __init__(self, pool: AsyncBufferPool, count: int) -> None:
        self._pool = pool
        self._most = count
        self._size_bytes = pool.pool.buffer_size_bytes
        self._buffers: list[PooledBuffer] = []
        self._filled_bytes = 0

    @property
    def room_bytes(self) -> int:
        """How many bytes fit into the buffers that there are."""
        return len(self._buffers) * self._size_bytes - self._filled_bytes

    async def make_room(self) -> bool:
        """Acquire what is missing as far as it is to be had, and wait only for the first.

        Who has some and waits for more can wait for ever, for somebody who does the same.

        Returns:
            Whether there is room; otherwise the batch is as full as it gets.
        """
        try:
            while len(self._buffers) < self._most:
                self._buffers.append(self._pool.acquire_nowait())
        except PoolExhaustedError:
            if not self._buffers:
                self._buffers.append(await self._pool.acquire())
        return self.room_bytes > 0

    def places(self, most: int) -> list[memoryview]:
        """Return the next free places, at most so many; whoever reads into them releases them."""
        first, used = divmod(self._filled_bytes, self._size_bytes)
        places = [buffer.view[:] for buffer in self._buffers[first : first + most]]
        if used and places:
            whole = places[0]
            places[0] = whole[used:]
            whole.release()
        return places

    def filled(self, count: int) -> None:
        """Note that so many more bytes were read into the places."""
        self._filled_bytes += count

    def put(self, data: bytes) -> None:
        """Fill in bytes that fit."""
        start = 0
        for place in self.places(len(self._buffers)):
            with place:
                piece = data[start : start + place.nbytes]
                place[: len(piece)] = piece
                start += len(piece)
        self.filled(len(data))

    def finish(self) -> list[PooledBuffer]:
        """Return the buffers that hold something, the last one narrowed to that; the others go back."""
        full, rest = divmod(self._filled_bytes, self._size_bytes)
        if rest:
            self._buffers[full].narrow(rest)
        count = full + bool(rest)
        for buffer in self._buffers[count:]:
            buffer.release()
        del self._buffers[count:]
        return self._buffers

    def give_up(self) -> bytes:
        """Give all buffers back, and return what they held."""
        buffers = self.finish()
        held = b"".join(buffer.view for buffer in buffers)
        for buffer in buffers:
            buffer.release()
        buffers.clear()
        return held
