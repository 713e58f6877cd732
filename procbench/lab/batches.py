"""A person's own batch, made to be run again and again: the same tasks, made anew for the settings of each run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from procbench.errors import InvalidInputError
from procbench.io.command import Argument
from procbench.scheduling.grouping import PLACE, filled, grouped
from procbench.scheduling.shown import without_secrets
from procbench.scheduling.task import ProcessTask, TaskResult

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Tasks, or a template with arguments, of which settings say how many one command gets.

    Attributes:
        tasks: Whole tasks; empty where there is a template.
        template: A command; a ``{}`` that stands alone becomes a command's arguments, and without one they stand at its end.
        arguments: What it is run for.
        cwd: Where the template's commands run; ``None`` for this process's folder.

    Raises:
        InvalidInputError: There is nothing to run, both kinds are given, or two tasks have one id.
    """

    tasks: tuple[ProcessTask, ...] = ()
    template: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    cwd: Argument | None = None

    def __post_init__(self) -> None:
        if bool(self.tasks) == bool(self.template and self.arguments) or (self.tasks and self.template):
            raise InvalidInputError("a batch needs tasks, or a template and arguments for it, and not both")
        twice = [id for id, count in Counter(task.id for task in self.tasks).items() if count > 1]
        if twice:
            raise InvalidInputError(f"tasks of a batch need an id each; there are two of {twice[0]!r}")

    @classmethod
    def of(cls, workload: TaskBatch | Iterable[ProcessTask | Sequence[Argument]]) -> TaskBatch:
        """Return a batch of tasks, or of their argvs."""
        if isinstance(workload, TaskBatch):
            return workload
        return cls(tuple(one if isinstance(one, ProcessTask) else ProcessTask(one) for one in workload))

    @classmethod
    def from_template(cls, template: Sequence[str], arguments: Iterable[str], cwd: Argument | None = None) -> TaskBatch:
        """Return a batch that runs a command for each argument, or for several at a time."""
        return cls((), tuple(template), tuple(arguments), cwd)

    def tasks_for(
        self, args_per_task: int = 1, expected_s: Mapping[int | str, float] | None = None
    ) -> list[ProcessTask]:
        """Return the tasks.

        Args:
            args_per_task: Arguments that a command of a template gets.
            expected_s: What tasks took before, by id, for those of which nothing is expected.
        """
        expected = expected_s or {}
        made = self.tasks or tuple(self._from_template(args_per_task))
        return [
            replace(one, expected_s=expected[one.id]) if one.expected_s is None and one.id in expected else one
            for one in made
        ]

    def _from_template(self, number: int) -> Iterable[ProcessTask]:
        parts = self.template if PLACE in self.template else (*self.template, PLACE)
        first = 0
        for some in grouped(parts, self.arguments, number):
            yield ProcessTask(filled(parts, some), cwd=self.cwd, id=f"{first}+{len(some)}")
            first += len(some)

    def describe(self) -> dict[str, object]:
        """Return what may be recorded of it: the number of commands and the first of them, without secrets."""
        first = self.tasks_for()[:_SHOWN]
        return {
            "tasks": len(self.tasks),
            "arguments": len(self.arguments),
            "first": [without_secrets(os.fsdecode(word) for word in task.argv) for task in first],
        }


def outcome_hash(results: Iterable[TaskResult]) -> str:
    """Return what tells whether commands did the same again: a hash of statuses and of captured output, in tasks' order."""
    digest = hashlib.sha256()
    for one in results:
        digest.update(f"{one.task.id!r} {one.returncode} {one.stdout_bytes} {one.stderr_bytes}\0".encode())
        digest.update(one.stdout or b"")
        digest.update(one.stderr or b"")
    return digest.hexdigest()
