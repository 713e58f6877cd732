"""A person's own commands: from a file of them, or from a pattern of files and a template; or real ones to try it with."""

from __future__ import annotations

import glob
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from procbench.errors import InvalidInputError
from procbench.experiments.workload import program_is_there, read_workload, standard_library_workload
from procbench.lab.batches import TaskBatch
from procbench.scheduling.grouping import PLACE
from procbench.scheduling.shown import line_without_secrets
from procbench.scheduling.task import ProcessTask

MOST_DEFAULT: Final = 96


@dataclass(frozen=True, slots=True)
class OwnCommands:
    """Commands that can be run again and again.

    Attributes:
        name: What they are, in a few words.
        batch: The tasks.
        notes: What a reader should know about them.
        is_default: Whether nobody gave any.
    """

    name: str
    batch: TaskBatch
    notes: tuple[str, ...] = ()
    is_default: bool = False

    def __len__(self) -> int:
        return len(self.batch.tasks) or len(self.batch.arguments)

    def spread(self, most: int) -> OwnCommands:
        """Return at most so many of them, spread evenly over their list; 0 is all."""
        count = len(self)
        if not most or most >= count:
            return self
        places = [number * count // most for number in range(most)]
        note = f"{most} of {count} commands, spread evenly over them; what holds for these may not hold for all"
        notes = self.notes if self.is_default else (*self.notes, note)
        return OwnCommands(self.name, _picked(self.batch, places), notes, self.is_default)


def own_commands(workload: str | Path | None, files: str, command: str, scratch: Path, *, seed: int) -> OwnCommands:
    """Return a person's commands.

    Args:
        workload: A file of commands, one a line; they run in its folder.
        files: A pattern of files, ``**`` for folders of any depth; a relative one counts from the working folder.
        command: What is run for each of them: ``{}`` becomes the file, which otherwise comes last. No shell sees it.
        scratch: A folder for what the default commands write.
        seed: Draws the files of the default commands.

    Raises:
        InvalidInputError: The two ways are mixed, one is half given, no file matches, or a program is not there.
    """
    if workload and (files or command):
        raise InvalidInputError("give a file of commands, or files and a command for each of them, and not both")
    if bool(files) != bool(command.strip()):
        missing = "command, such as 'gzip -9 -c {}'" if files else "files, such as '/data/*.csv'"
        raise InvalidInputError(f"files and command belong together; there is no {missing}")
    if workload:
        read = read_workload(workload)
        tasks = [ProcessTask(argv, cwd=read.folder) for argv in read.commands]
        return OwnCommands(read.name, TaskBatch.of(tasks), read.notes)
    if files:
        return _for_files(files, command)
    read = standard_library_workload(MOST_DEFAULT, scratch, seed=seed)
    tasks = [ProcessTask(argv) for argv in read.commands]
    return OwnCommands(read.name, TaskBatch.of(tasks), read.notes, is_default=True)


def matching_files(pattern: str) -> list[str]:
    """Return the files that match, sorted, as absolute names.

    Raises:
        InvalidInputError: None does.
    """
    whole = str(Path(pattern).expanduser().absolute())
    names = glob.iglob(whole, recursive=True)  # noqa: PTH207 - leaves out hidden files, as a shell does
    found = sorted(name for name in names if Path(name).is_file())
    if not found:
        raise InvalidInputError(f"no file matches {whole[:300]!r}; quote the pattern, so that no shell expands it")
    return found


def _for_files(pattern: str, command: str) -> OwnCommands:
    try:
        template = shlex.split(command)
    except ValueError as error:
        raise InvalidInputError(f"the command {command[:200]!r} cannot be read: {error}") from error
    if not program_is_there(template[0], Path.cwd()):
        raise InvalidInputError(f"there is no program {template[0][:80]!r} to run")
    found = matching_files(pattern)
    name = f"{line_without_secrets(command)} for {len(found)} files"
    if any(PLACE in word and word != PLACE for word in template):  # a part of a word: one file to each command
        return OwnCommands(name, TaskBatch.of([[word.replace(PLACE, file) for word in template] for file in found]))
    return OwnCommands(name, TaskBatch.from_template(template, found))


def _picked(batch: TaskBatch, places: list[int]) -> TaskBatch:
    if batch.tasks:
        return TaskBatch(tuple(batch.tasks[place] for place in places))
    return TaskBatch((), batch.template, tuple(batch.arguments[place] for place in places), batch.cwd)
