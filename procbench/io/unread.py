"""What was read from a stream and not yet given to anybody: bytes, and before them whole lines that were cut already."""

from __future__ import annotations

import io
from collections import deque
from typing import Final

LINE_END: Final = b"\n"


class Unread:
    """First the lines, then the bytes, in the order in which they came. Every method costs what it moves, and no more.

    Attributes:
        lines: Lines with their ends; whoever wants them takes them from the left.
        data: What came after them.
    """

    __slots__ = ("_unbroken", "data", "lines")

    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()
        self.data = bytearray()
        self._unbroken = 0  # how long ``data`` is, if it is known to hold no line's end

    def __bool__(self) -> bool:
        return bool(self.lines or self.data)

    def count(self) -> int:
        """Return how many bytes there are. Costs a look at each line."""
        return sum(map(len, self.lines)) + len(self.data)

    def join(self) -> bytearray:
        """Make bytes of the lines again, and return all bytes."""
        if self.lines:
            self.data[:0] = b"".join(self.lines)
            self.lines.clear()
            self._unbroken = -1
        return self.data

    def take(self, count: int | None = None) -> bytes:
        """Return the first bytes, ``None`` for all, and forget them."""
        data = self.join()
        if count is None or count >= len(data):
            taken = bytes(data)
            data.clear()
        else:
            with memoryview(data) as view:
                taken = bytes(view[:count])
            del data[:count]
        self._unbroken = -1
        return taken

    def put_back(self, data: bytes | bytearray | memoryview) -> None:
        """Put bytes in front of all others."""
        if data:
            self.join()[:0] = data
            self._unbroken = -1

    def split(self, chunk: bytes) -> None:
        """Add bytes, cut into lines; the beginning of the last line waits in ``data`` for its end."""
        if self.data and len(self.data) != self._unbroken:
            before = bytes(self.data)
            self.data.clear()
            self._cut(before)
        if chunk:
            self._cut(chunk)

    def end_last_line(self) -> None:
        """Make a line of what has no end, because nothing will come any more."""
        if self.data:
            self.lines.append(bytes(self.data))
            self.data.clear()

    def _cut(self, chunk: bytes) -> None:
        lines = io.BytesIO(chunk).readlines()  # unlike splitlines(), at \n only, and it copies each byte once
        last = b"" if lines[-1].endswith(LINE_END) else lines.pop()
        if lines and self.data:
            self.data += lines[0]
            lines[0] = bytes(self.data)
            self.data.clear()
        self.lines.extend(lines)
        self.data += last
        self._unbroken = len(self.data)
