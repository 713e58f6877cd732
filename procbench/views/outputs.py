"""What captured commands had to say, on its way to the screen: in pieces, with tags, in the order of the commands."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from procbench.errors import ProcbenchError
from procbench.io.results import OverCap
from procbench.scheduling.task import TaskResult

Tag = Callable[[int], str]
"""Gives, by a command's number, what stands before each line of its output, and a tab before the line itself."""

MOST_HELD_BYTES: Final = 64 << 20
"""What output that waits for its turn may take of memory; more goes into an unlinked file."""

_PIECE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Output:
    """What a command wrote to one stream: in memory, or a stretch of a file.

    Attributes:
        tag: What stands before each of its lines; nothing if empty.
        kept: The bytes, unless a file has them.
        file: Holds them, from ``start`` on.
        start: Offset in the file.
        size_bytes: How many there are.
    """

    tag: bytes
    kept: bytes
    file: BinaryIO | None
    start: int
    size_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """Return it as it is to be shown, in pieces."""
        return tagged(self.read(), self.tag) if self.tag else self.read()

    def read(self) -> Iterator[bytes]:
        """Return it as the command wrote it, in pieces."""
        if self.file is None:
            yield self.kept
            return
        at, end = self.start, self.start + self.size_bytes
        while at < end and (piece := os.pread(self.file.fileno(), min(_PIECE_BYTES, end - at), at)):
            at += len(piece)
            yield piece


Said = tuple[Output, Output]
"""Standard output and standard error of a command."""


def tagged(pieces: Iterable[bytes], tag: bytes) -> Iterator[bytes]:
    """Return pieces of a stream with a tag before each line; a last line without an end gets one.

    Without it the next command's tag would stand in the middle of a line. Only a line feed ends a line, so that whatever
    else is in the stream goes through as it is.
    """
    at_start = True
    for piece in filter(None, pieces):
        if at_start:
            yield tag
        at_start = piece.endswith(b"\n")
        lines = piece[:-1] if at_start else piece
        yield lines.replace(b"\n", b"\n" + tag)
        if at_start:
            yield b"\n"
    if not at_start:
        yield b"\n"


def _shown(tag: str) -> bytes:
    """Return a tag that is one field of one line, whatever is in the argument that it tells of."""
    return os.fsencode(tag.replace("\n", r"\n").replace("\t", r"\t")) + b"\t"


class Outputs:
    """Takes results as they end, and gives their output when it is its turn, each once. Not thread-safe.

    Args:
        tag: What stands before each line; ``None`` for nothing.
        turns: The commands' numbers in the order in which they are to be shown; ``None`` as they end.
        most_held_bytes: What those that wait for their turn may take of memory.
    """

    def __init__(
        self, tag: Tag | None = None, turns: Iterable[int] | None = None, most_held_bytes: int = MOST_HELD_BYTES
    ) -> None:
        self._tag = tag
        self._turns = None if turns is None else iter(turns)
        self._next = None if self._turns is None else next(self._turns, None)
        self._most_held = most_held_bytes
        self._held_bytes = 0
        self._waiting: dict[int, Said] = {}
        self._spool: BinaryIO | None = None
        self._spooled = 0

    def take(self, result: TaskResult) -> Iterator[Said]:
        """Return the output of which it is the turn now: of this result, also of some that waited, or of none.

        To be taken to its end before the next call: then the files are closed that hold what is more than fits in memory.
        """
        number = int(result.task.id)
        tag = b"" if self._tag is None else _shown(self._tag(number))
        files = [over.file for over in (result.stdout_over, result.stderr_over) if over is not None and over.file]
        try:
            said = _output(tag, result.stdout, result.stdout_over), _output(tag, result.stderr, result.stderr_over)
            if self._turns is None:
                yield said
            elif number != self._next:
                self._hold(number, said)
            else:
                yield said
                self._next = next(self._turns, None)
                while self._next is not None and self._next in self._waiting:
                    yield self._let_go(self._next)
                    self._next = next(self._turns, None)
        finally:
            for file in files:
                file.close()

    def rest(self) -> Iterator[Said]:
        """Return what waits for commands that were cancelled, in its order; to be called when no more results come."""
        if self._turns is None or self._next is None:
            return
        for number in (self._next, *self._turns):
            if number in self._waiting:
                yield self._let_go(number)
        self._next = None

    def close(self) -> None:
        """Drop what waits, and its file. Harmless when called twice."""
        self._waiting.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _hold(self, number: int, said: Said) -> None:
        for output in said:
            if output.file is not None or self._held_bytes + output.size_bytes > self._most_held:
                self._to_spool(output)
            else:
                self._held_bytes += output.size_bytes
        self._waiting[number] = said

    def _let_go(self, number: int) -> Said:
        said = self._waiting.pop(number)
        for output in said:
            if output.file is None:
                self._held_bytes -= output.size_bytes
            else:
                self._spooled -= 1
        return said

    def _to_spool(self, output: Output) -> None:
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open until close
            if not self._spooled:
                self._spool.truncate(0)  # all that was in it has been shown
            start = self._spool.seek(0, os.SEEK_END)
            for piece in output.read():
                _write_all(self._spool, piece)
        except OSError as error:
            raise ProcbenchError(
                f"cannot keep output in {tempfile.gettempdir()} until its turn comes: {error.strerror or error}; "
                "make room there, set TMPDIR, or leave --keep-order out"
            ) from error
        self._spooled += 1
        output.file, output.start, output.kept = self._spool, start, b""


def _output(tag: bytes, kept: bytes | None, over: OverCap | None) -> Output:
    if over is not None and over.file is not None:
        size = os.fstat(over.file.fileno()).st_size
        if size >= len(kept or b""):  # less, where the disk was full at once
            return Output(tag, b"", over.file, 0, size)
    return Output(tag, kept or b"", None, 0, len(kept or b""))


def _write_all(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
