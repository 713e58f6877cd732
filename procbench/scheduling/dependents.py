"""Tasks that come after others: held back until those have succeeded, and never begun if one of them did not."""

from __future__ import annotations

import functools
import graphlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from procbench.errors import ClosedError, InvalidInputError
from procbench.scheduling.futures import TaskFuture
from procbench.scheduling.task import ProcessTask, TaskResult


class Dependents:
    """Holds tasks back until others have ended. Thread-safe, also against a signal handler.

    Args:
        release: Takes a task when all have succeeded that it came after.
        refuse: Takes a task, and one of those, which did not succeed; or a task that was cancelled, and itself. Both are
            called in the thread in which that happened, while the task still counts as held here.

    Attributes:
        accepted: Tasks that were held so far.
    """

    def __init__(
        self, release: Callable[[TaskFuture], None], refuse: Callable[[TaskFuture, Future[Any]], None]
    ) -> None:
        self._release = release
        self._refuse = refuse
        self._lock = threading.RLock()
        self._held: dict[TaskFuture, int] = {}  # with how many must still succeed
        self._shut = False
        self._own = threading.local()
        self.accepted = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, future: TaskFuture, after: Sequence[Future[Any]]) -> None:
        """Hold ``future`` until all of ``after`` have ended.

        Raises:
            ClosedError: ``shutdown`` was called.
        """
        with self._lock:
            if self._shut:
                raise ClosedError("the scheduler was shut down; make a new one")
            self.accepted += 1
            self._held[future] = len(after)
        for one in after:
            one.add_done_callback(functools.partial(self._has_ended, future))
        future.add_done_callback(functools.partial(self._was_cancelled, future))

    def shutdown(self) -> None:
        """Hold nothing more; what is held still gets its turn."""
        with self._lock:
            self._shut = True

    def shut_in_fork(self) -> None:
        """Hold nothing more, in a fork, where a thread that is not there may have the lock."""
        self._lock = threading.RLock()
        self._shut = True

    def take_all(self) -> list[TaskFuture]:
        """Take out everything that is held, whatever it comes after."""
        with self._lock:
            taken = [future for future, left in self._held.items() if left]
            for future in taken:
                del self._held[future]
        return taken

    def _has_ended(self, future: TaskFuture, one: Future[Any]) -> None:
        # A refused task ends, and those after it are told in the same call: one after the other, or a long chain of tasks
        # would be as deep a stack.
        news: deque[tuple[TaskFuture, Future[Any]]] | None = getattr(self._own, "news", None)
        if news is not None:
            news.append((future, one))
            return
        self._own.news = news = deque([(future, one)])
        try:
            while news:
                self._tell(*news.popleft())
        finally:
            self._own.news = None

    def _was_cancelled(self, future: TaskFuture, _: Future[Any]) -> None:
        """Hold a task no longer that somebody has cancelled: what it comes after may never end."""
        with self._lock:
            if not self._held.get(future):
                return  # it is held no more, or is just being let go of
            self._held[future] = 0
        self._let_go(future, because=future)

    def _tell(self, future: TaskFuture, one: Future[Any]) -> None:
        succeeded = _has_succeeded(one)
        with self._lock:
            left = self._held.get(future, 0)
            if not left:
                return  # another one has decided already
            self._held[future] = left = left - 1 if succeeded else 0
        if not left:
            self._let_go(future, because=None if succeeded else one)

    def _let_go(self, future: TaskFuture, because: Future[Any] | None) -> None:
        try:
            if because is None:
                self._release(future)
            else:
                self._refuse(future, because)
        finally:
            with self._lock:
                self._held.pop(future, None)


def _has_succeeded(one: Future[Any]) -> bool:
    if one.cancelled() or one.exception() is not None:
        return False
    result = one.result()
    return not isinstance(result, TaskResult) or result.outcome == "succeeded"


def in_order(tasks: Iterable[ProcessTask]) -> list[ProcessTask]:
    """Return tasks in an order in which each comes behind those that it is to begin after.

    Raises:
        InvalidInputError: A task comes after one that there is not, two have the same id, or some wait for each other.
    """
    known: dict[int | str, ProcessTask] = {}
    for task in tasks:
        if known.setdefault(task.id, task) is not task:
            raise InvalidInputError(
                f"two tasks have the id {task.id!r}; where tasks come after others, each needs one of its own"
            )
    graph: graphlib.TopologicalSorter[int | str] = graphlib.TopologicalSorter()
    for task in known.values():
        for other in task.after:
            if other not in known:
                raise InvalidInputError(
                    f"task {task.id!r} comes after {other!r}, and no task of these has that id; hand both in together"
                )
        graph.add(task.id, *task.after)
    try:
        return [known[id] for id in graph.static_order()]
    except graphlib.CycleError as error:
        circle = " after ".join(repr(id) for id in reversed(error.args[1]))
        raise InvalidInputError(f"the tasks wait for each other: {circle}; take one of these out of an after") from None
