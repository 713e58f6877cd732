"""Several lines behind one bounded queue: puts go round, and gets drain all of them in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from operator import length_hint
from typing import Any, TypeVar

from procbench.errors import InvalidInputError
from procbench.memory import checks
from procbench.scheduling.queue_counts import Tally
from procbench.scheduling.queue_places import Line, remove_last
from procbench.scheduling.queues import TaskQueue

T = TypeVar("T")


class ShardedTaskQueue(TaskQueue[T]):
    """A :class:`TaskQueue` whose items stand in several lines, its shards; every call, bound and guarantee is the same but one.

    **Order.** First-in-first-out within a shard, and not across them: the items of one producer are spread over all.

    **Round robin.** The places of all shards stand in one line, in turn, and a put takes the one that has been free for
    longest. A full shard has no place there, so it is passed over, and the bound of all shards together is exact. A get
    begins at the next shard each time and takes from the first that has anything.

    **Cost.** A put the same as in one line, and some more for the place; a get a look at up to ``shards`` lines.

    Args:
        maxsize: Most items that wait, of all shards together; at least 1. Each shard holds its share of them, rounded up in
            the first ones.
        shards: How many shards there are; at least 1, at most ``maxsize``.

    Raises:
        InvalidInputError: ``maxsize`` or ``shards`` is no such number.

    Attributes:
        maxsize: Most items that wait.
        shards: How many shards there are.
    """

    _items: Shards

    def __init__(self, maxsize: int, shards: int) -> None:
        self.shards = checks.whole("shards", shards, 1)
        if checks.whole("maxsize", maxsize, 1) < shards:
            raise InvalidInputError(f"{shards} shards cannot share {maxsize} places; give each at least one")
        self._bound = maxsize
        super().__init__(maxsize)

    def shard_sizes(self) -> tuple[int, ...]:
        """Return how many items wait in each shard, all at the same moment."""
        return tuple(map(len, self._items.lines))

    def _new_line(self) -> Line:
        return Shards(self._bound, self.shards)

    def _remove(self, entry: Any) -> bool:
        return self._items.remove_last(entry)

    def _go_on_in_fork(self) -> None:
        self._items.restore_places()
        super()._go_on_in_fork()


class Shards:
    """Lines that together behave like one. Whoever appends holds a permit, so that there is a place for each entry.

    Args:
        places: How many places there are, of all lines together.
        shards: How many lines there are.

    Attributes:
        lines: The lines.
    """

    def __init__(self, places: int, shards: int) -> None:
        self.lines: tuple[deque[Any], ...] = tuple(deque() for _ in range(shards))
        self._bound = places
        self._unused = iter(range(places))  # the places that were never taken: place n is in shard n % shards
        self._free: deque[int] = deque()  # the shards of those that came back
        self._turns = Tally()

    def append(self, entry: Any) -> None:
        """Let an entry into the shard whose place has been free for longest."""
        place = next(self._unused, None)
        shard = self._free.popleft() if place is None else place % len(self.lines)
        self.lines[shard].append(entry)

    def extend(self, entries: Iterable[Any]) -> None:
        """Let several in, one by one."""
        for entry in entries:
            self.append(entry)

    def popleft(self) -> Any:
        """Take the oldest entry of the next shard that has any; raise IndexError if none has."""
        lines = self.lines
        while True:
            first = next(self._turns.ticks) % len(lines)
            for shard in chain(range(first, len(lines)), range(first)):
                if not lines[shard]:
                    continue
                try:
                    entry = lines[shard].popleft()
                except IndexError:
                    continue  # others were faster
                self._free.append(shard)
                return entry
            # An entry may have come into a shard that was passed already; all are looked at here in one atomic call.
            if not any(lines):
                raise IndexError("all shards are empty")

    def remove_last(self, entry: Any) -> bool:
        """Take the last ``entry`` out, told by what it is; return whether it was there."""
        for shard, line in enumerate(self.lines):
            if remove_last(line, entry):
                self._free.append(shard)
                return True
        return False

    def restore_places(self) -> None:
        """Make the places anew that other threads hold in the parent of this fork."""
        count = len(self.lines)
        unused = range(self._bound - length_hint(self._unused), self._bound)
        for shard, line in enumerate(self.lines):
            bound = len(range(shard, self._bound, count))
            unused_here = len(range(unused.start + (shard - unused.start) % count, self._bound, count))
            missing = bound - len(line) - self._free.count(shard) - unused_here
            self._free.extend([shard] * missing)

    def __len__(self) -> int:
        return sum(map(len, self.lines))
