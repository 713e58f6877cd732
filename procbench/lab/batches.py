"""A person's own batch, made to be run again and again: the same tasks, made anew for the settings of each run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from procbench.errors import InvalidInputError
from procbench.io.command import Argument
from procbench.scheduling.grouping import PLACE, filled, grouped
from procbench.scheduling.shown import without_secrets
from procbench.scheduling.task import ProcessTask, TaskResult

_SHOWN: Final = 5
_MOST_RECORDED: Final = 4 << 20


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

    def to_dict(self) -> dict[str, Any]:
        """Return what may be recorded of it, plain JSON values: all that it takes to run it again, or why that is left out.

        Left out is a batch with something that looks like a secret, environments or input of its own, or a great many words;
        then it cannot be rebuilt, ``left_out`` says why, and ``first`` shows the first of its commands.
        """
        found: dict[str, Any] = {
            "tasks": len(self.tasks),
            "arguments": len(self.arguments),
            "left_out": self._left_out(),
        }
        first = self.tasks_for()[:_SHOWN]
        found["first"] = [without_secrets(os.fsdecode(word) for word in task.argv) for task in first]
        if found["left_out"]:
            return found
        found["folder"] = str(Path.cwd()) if self.cwd is None else os.fsdecode(self.cwd)
        if self.template:
            return found | {"template": list(self.template), "words": list(self.arguments)}
        return found | {"commands": [_plain_task(task) for task in self.tasks]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Rebuild the batch that :meth:`to_dict` described, to be run in the folder in which it ran then.

        Raises:
            InvalidInputError: It was not described whole, the folder is gone, or it is no batch at all.
        """
        if why := plain.get("left_out", "its commands were not recorded"):
            raise InvalidInputError(f"the batch cannot be rebuilt from its record: {why}")
        try:
            folder = str(plain["folder"])
            if not Path(folder).is_dir():
                raise InvalidInputError(f"the commands ran in {folder}, which is not there any more")
            if "template" in plain:
                return cls((), tuple(map(str, plain["template"])), tuple(map(str, plain["words"])), folder)
            return cls(tuple(ProcessTask(**{"cwd": folder, **task}) for task in plain["commands"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidInputError(f"this is not a recorded batch: {error!r}") from error

    def _left_out(self) -> str:
        """Return why the batch may not be recorded whole, or nothing."""
        words = self.template + self.arguments or [os.fsdecode(word) for task in self.tasks for word in task.argv]
        if sum(map(len, words)) > _MOST_RECORDED:
            return f"it has more than {_MOST_RECORDED:,} characters"
        for number, task in enumerate(self.tasks or [ProcessTask(self.template + self.arguments)], 1):
            argv = [os.fsdecode(word) for word in task.argv]
            if without_secrets(argv) != argv:
                return f"command {number} holds what looks like a secret, which is not written down"
            if task.env is not None or task.stdin is not None:
                what = "an environment" if task.env is not None else "input"
                return f"command {number} has {what} of its own, which is not written down"
        return ""


def _plain_task(task: ProcessTask) -> dict[str, Any]:
    """Return a task's fields without those that are as usual."""
    found: dict[str, Any] = {"argv": [os.fsdecode(word) for word in task.argv], "id": task.id}
    usual = {"cwd": None, "timeout": None, "priority": "normal", "after": (), "retries": None, "expected_s": None}
    for name, value in usual.items():
        if (has := getattr(task, name)) != value:
            found[name] = os.fsdecode(has) if name == "cwd" else list(has) if name == "after" else has
    return found


def outcome_hash(results: Iterable[TaskResult]) -> str:
    """Return what tells whether commands did the same again: a hash of statuses and of captured output, in tasks' order."""
    digest = hashlib.sha256()
    for one in results:
        digest.update(f"{one.task.id!r} {one.returncode} {one.stdout_bytes} {one.stderr_bytes}\0".encode())
        digest.update(one.stdout or b"")
        digest.update(one.stderr or b"")
    return digest.hexdigest()
