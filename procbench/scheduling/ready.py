"""The order in which waiting items get their turn: four classes, the oldest first in each, and ageing between them."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

from procbench.cpu.priorities import PRIORITIES, Priority, check_priority
from procbench.errors import InvalidInputError, QueueFullError, QueueShutDownError
from procbench.scheduling.gated import GatedQueue
from procbench.scheduling.ready_counts import ClassCounts, ClassStatistics
from procbench.scheduling.waiters import deadline_after, wake_one

_SECOND_NS: Final = 1_000_000_000
_RANKS: Final[Mapping[Priority, int]] = {priority: rank for rank, priority in enumerate(PRIORITIES)}
_NORMAL: Final = _RANKS["normal"]


class Waiting(Protocol):
    """What can wait for its turn."""

    submitted_ns: int
    """Since when it waits, on the queue's clock."""

    @property
    def id(self) -> int | str:
        """What it is re-prioritised and removed by."""


W = TypeVar("W", bound=Waiting)


def _check_waiting(item: Waiting) -> None:
    """Refuse what has no place in the order before it is in: the first get to compare it could not, nor any after that.

    Raises:
        InvalidInputError: It has no ``id``, or no whole number of ``submitted_ns``.
    """
    try:
        item.id  # noqa: B018 - whether there is one is all that matters
        since = item.submitted_ns
    except AttributeError as error:
        missing = f"has no {error.name}"
    else:
        if isinstance(since, int):
            return
        missing = f"has {since!r} for submitted_ns"
    raise InvalidInputError(
        f"a {type(item).__name__} cannot wait here, as it {missing}; give it an id, and in submitted_ns the whole "
        "nanoseconds that the queue's clock shows"
    )


class PriorityScheduler(GatedQueue[W]):
    """A bounded queue that gives the most urgent item first, with ``queue.Queue``'s put, get and their kin. Thread-safe.

    First-in-first-out within a class. An item that has waited ``ageing_s`` counts one class higher, after twice as long two
    classes, up to critical; of items that count alike, the one that has waited longest goes first.

    So waiting is bounded: once an item of class c (critical 0, high 1, normal 2, low 3) has been in the queue for
    c · ``ageing_s``, nothing that is submitted after it was put in goes before it. From then on it waits only for what was
    there before it, at most ``maxsize`` items and who waited for room; under an endless stream of more urgent items that a
    consumer keeps up with, a low item leaves with the first get after 3 · ``ageing_s``. Without ageing it may wait for ever.

    While all items are normal, it costs what a :class:`GatedQueue` costs, and a look at each item that is put in. As soon as
    others wait, a get chooses under the queue's gate, among four at most, so that its choice is exact also with many
    threads.

    Args:
        maxsize: Most items that wait, of all classes together; at least 1.
        ageing_s: Seconds of waiting that raise an item by one class; above 0, or ``None`` for never.
        clock: Gives nanoseconds; the items' ``submitted_ns`` are read from the same one.

    Attributes:
        accepted: Items that were put in so far.
        came_back: How many of them came back.
        mixed: Whether items of another class than normal may wait. One that is put in makes it true before its put returns.

    Raises:
        InvalidInputError: ``maxsize`` is below 1, or ``ageing_s`` not above 0.
    """

    def __init__(
        self, maxsize: int, ageing_s: float | None = None, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        super().__init__(maxsize)
        number = isinstance(ageing_s, int | float) and not isinstance(ageing_s, bool)
        if ageing_s is not None and not (number and ageing_s > 0):
            raise InvalidInputError(
                f"ageing_s is {ageing_s!r}; it must be a number of seconds above 0, or None for never"
            )
        # Beyond what a clock ever shows, ageing for "never"; a nanosecond is the least that the clock can tell apart.
        self._ageing_ns = math.inf if ageing_s is None else max(1, ageing_s * _SECOND_NS)
        self._clock = clock
        self._lines: dict[Priority, deque[W]] = {priority: deque() for priority in PRIORITIES}
        self._lines["normal"] = self._items
        self._counts: dict[Priority, ClassCounts] = {priority: ClassCounts() for priority in PRIORITIES}
        self._over = 0  # items that came in without a permit, and owe one
        self._moving = False
        self.mixed = False
        self.came_back = 0

    def put_nowait(self, item: W, priority: Priority = "normal") -> None:
        """Put ``item`` in, as the last of its class.

        Raises:
            QueueFullError: It is at its bound.
            QueueShutDownError: It was shut down.
            InvalidInputError: There is no such priority, or ``item`` is nothing that can wait: it has no ``id``, or no whole
                number of ``submitted_ns``.
        """
        _check_waiting(item)
        if priority == "normal":
            self._put_in(item, self._items)
            return
        line = self._line(priority)
        with self._gate:  # together, or a get in between might find nothing special and say so
            self.mixed = True
            self._put_in(item, line)

    def put_over(self, item: W, priority: Priority, *, again: bool = False) -> None:
        """Put ``item`` in without minding the bound, for who must not wait; what is over keeps others out until it is gone.

        Args:
            item: What is to wait.
            priority: Its class.
            again: Whether it was accepted before and only comes back: it is never refused.

        Raises:
            QueueShutDownError: It was shut down.
            InvalidInputError: There is no such priority, or ``item`` is nothing that can wait: it has no ``id``, or no whole
                number of ``submitted_ns``.
        """
        _check_waiting(item)
        line = self._line(priority)
        with self._gate:
            if self._is_shut_down and not again:
                raise QueueShutDownError("the queue was shut down; it takes nothing more")
            self.mixed = True
            try:
                self._permits.pop()
            except IndexError:
                self._over += 1
            self.accepted += 1
            self.came_back += again
            line.append(item)
        if self._getters:
            wake_one(self._getters)

    def put(self, item: W, block: bool = True, timeout: float | None = None, priority: Priority = "normal") -> None:
        """Put ``item`` in, waiting for room; who waits longest for room is let in first, whatever the priority.

        Raises:
            QueueFullError: There was no room in time.
            QueueShutDownError: It was shut down, before or meanwhile.
            InvalidInputError: ``timeout`` is no finite number of at least 0, there is no such priority, or ``item`` is nothing
                that can wait: it has no ``id``, or no whole number of ``submitted_ns``.
        """
        _check_waiting(item)
        deadline = None if timeout is None and block else deadline_after(block, timeout)
        while True:
            try:
                if priority == "normal":
                    return self._put_in(item, self._items)  # the call that nearly every task takes goes no detour
                return self.put_nowait(item, priority)
            except QueueFullError:
                if not self._wait(self._putters, self.full, deadline):
                    raise

    def get_before_nowait(self, other: W | None) -> W | None:
        """Take the most urgent item if it goes before ``other``, a normal one that waits elsewhere; else return ``None``.

        ``None`` for ``other`` takes whatever there is.
        """
        return self._take(other)

    def get_above_nowait(self, priority: Priority) -> W | None:
        """Take the most urgent item of the classes above ``priority``, age aside; ``None`` if there is none."""
        return self._take(None, _RANKS[priority]) if self.holds_above(priority) else None

    def holds_above(self, priority: Priority) -> bool:
        """Return whether anything of the classes above ``priority`` waits at the moment, age aside."""
        return any(itertools.islice(self._lines.values(), _RANKS[priority]))

    def get_alike_nowait(self, most: int) -> list[W]:
        """Take up to ``most`` items, the oldest first, as long as only normal ones wait; none otherwise."""
        taken: list[W] = []
        try:
            while len(taken) < most and not self.mixed:
                taken.append(self._items.popleft())
                self._permits.append(None)
                if self._putters:
                    wake_one(self._putters)
        except IndexError:
            pass  # others were faster
        return taken

    def highest(self) -> Priority | None:
        """Return what the most urgent item counts as now, its age considered; ``None`` if nothing waits."""
        best = self._best()
        return None if best is None else PRIORITIES[best[0][0]]

    def reprioritise(self, id: int | str, priority: Priority) -> bool:
        """Move a waiting item into another class, there behind all that have waited longer. It keeps its age.

        Costs a look at every item that waits. Who waits in ``get`` is woken; who takes items by the calls that do not wait,
        and sleeps by other means, may have looked while the item was in no line, and must be woken by the caller.

        Returns:
            Whether it still waited.

        Raises:
            InvalidInputError: There is no such priority.
        """
        target = self._line(priority)
        with self._gate:
            # For a moment it is in no line. The queue is not empty all the same, and who looks now waits at the gate.
            self._moving = self.mixed = True
            try:
                found = self._withdraw(id)
                if found is None:
                    return False
                place = sum(other.submitted_ns <= found.submitted_ns for other in list(target))
                target.insert(place, found)
            finally:
                self._moving = False
                self._look_whether_mixed()
        if self._getters:
            wake_one(self._getters)  # its look may have begun before all this, and found the item in no line
        return True

    def remove(self, id: int | str) -> W | None:
        """Take a waiting item out for good and return it; ``None`` if it does not wait. Costs a look at every item."""
        with self._gate:
            for priority, line in self._lines.items():
                found = self._withdraw(id, line)
                if found is not None:
                    self._counts[priority].removed += 1
                    self._pay_back()
                    return found
        return None

    def qsize(self) -> int:
        """Return how many items wait at the moment."""
        return sum(map(len, self._lines.values()))

    def empty(self) -> bool:
        """Return whether no item waits at the moment."""
        return not any(self._lines.values()) and not self._moving

    def statistics(self) -> dict[Priority, ClassStatistics]:
        """Return what became of the items so far, by class, the most urgent class first."""
        with self._gate:
            queued = {priority: len(line) for priority, line in self._lines.items()}
            came = {
                priority: queued[priority] + count.taken + count.removed for priority, count in self._counts.items()
            }
            # Normal items are mostly taken without a count: what came in and is none of the others' must have been normal.
            came["normal"] = self.accepted - sum(n for priority, n in came.items() if priority != "normal")
            return {
                priority: count.statistics(queued[priority], came[priority]) for priority, count in self._counts.items()
            }

    # --- choosing -----------------------------------------------------------------------------------------------

    def _line(self, priority: Priority) -> deque[W]:
        check_priority(priority)
        return self._lines[priority]

    def _place(self, item: W, rank: int, now_ns: int) -> tuple[int, int]:
        """Return what an item of class ``rank`` counts as, and since when it waits: the least goes first."""
        waited_ns = now_ns - item.submitted_ns
        if waited_ns >= self._ageing_ns:
            rank = max(0, rank - int(waited_ns // self._ageing_ns))
        return rank, item.submitted_ns

    def _best(self, classes: int = len(PRIORITIES)) -> tuple[tuple[int, int], Priority] | None:
        """Return the place and the own class of the item whose turn it is among the first ``classes``."""
        now_ns = self._clock()
        best = None
        for priority, line in itertools.islice(self._lines.items(), classes):
            try:
                place = self._place(line[0], _RANKS[priority], now_ns)
            except IndexError:
                continue
            if best is None or place < best[0]:
                best = place, priority
        return best

    def _get_chosen(self) -> W:
        item = self._take(None)
        if item is None:
            raise self._nothing_left()
        return item

    def _take(self, other: W | None, classes: int = len(PRIORITIES)) -> W | None:
        """Take the item whose turn it is, if there is one and it goes before ``other``."""
        with self._gate:
            while True:
                best = self._best(classes)
                if best is None or (other is not None and best[0] >= self._place(other, _NORMAL, self._clock())):
                    self._look_whether_mixed()
                    return None
                (counts_as, _), priority = best
                try:
                    item = self._lines[priority].popleft()
                except IndexError:
                    continue  # a get that began when all were normal was faster
                waited_ns = self._clock() - item.submitted_ns
                self._counts[priority].note(waited_ns, aged=counts_as < _RANKS[priority])
                self._pay_back()
                self._look_whether_mixed()
                return item

    def _look_whether_mixed(self) -> None:
        """Go back to the short way when nothing special is left. Under the gate, as every put of a special item."""
        self.mixed = self._over > 0 or any(line for line in self._lines.values() if line is not self._items)

    def _pay_back(self) -> None:
        """Give the permit of an item that left back, or what is owed for one that came without."""
        if self._over:
            self._over -= 1
            return
        self._permits.append(None)
        if self._putters:
            wake_one(self._putters)

    def _withdraw(self, id: int | str, *lines: deque[W]) -> W | None:
        """Take an item out of its line, counting nothing; ``None`` if it is in none."""
        for line in lines or self._lines.values():
            for item in list(line):
                if item.id == id:
                    try:
                        line.remove(item)
                    except ValueError:
                        return None  # taken just now
                    return item
        return None
