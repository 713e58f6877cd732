"""Read the commands of a batch: one a line, or one command with an argument a line. No shell ever sees them.

Everything is read before anything runs, so that a bad line at the end of a file is refused while nothing has happened.
"""

from __future__ import annotations

import codecs
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from procbench.cpu.priorities import PRIORITIES, Priority
from procbench.errors import InvalidInputError
from procbench.io.command import Argument
from procbench.scheduling.grouping import LONGEST_ARGUMENT, LONGEST_COMMAND, PLACE, filled, grouped
from procbench.scheduling.records import STANDARD_INPUT, place, records
from procbench.scheduling.shown import shell_line

_OPERATORS: Final = frozenset({">", ">>", "<", "|", "||", "&&", ";", "&", "2>", "2>&1", ">&2"})
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "test", "[", "expr", "find"})
"""Programs to which such a word may well be meant."""


class Commands(NamedTuple):
    """The commands of a batch, in their order.

    Attributes:
        argvs: The commands.
        arguments: What each was made from; ``None`` where they came as whole commands.
    """

    argvs: list[list[str]]
    arguments: list[list[str]] | None

    def tag(self, number: int) -> str:
        """Return what tells a command, by its number from 0, from the others: its arguments, or all of it."""
        if self.arguments is None:
            return os.fsdecode(shell_line(self.argvs[number]))
        return " ".join(self.arguments[number])


def shell_words(argvs: Iterable[Sequence[Argument]]) -> str:
    """Return what a person should know of the first command that holds a word only a shell understands; empty if none does."""
    for number, argv in enumerate(argvs, 1):
        if Path(os.fsdecode(argv[0])).name in _SHELLS:
            continue
        for word in argv[1:]:
            if word in _OPERATORS:
                return (
                    f"command {number} has the word {word!r}, which the program gets as it stands, because no shell is used; "
                    f"where you want one: sh -c '...'"
                )
    return ""


def read_batch(
    command: Sequence[str], each: str | None, commands: str | None, *, null: bool = False, args_per_task: int = 1
) -> Commands:
    """Return the commands of a batch as a person asked for them.

    Args:
        command: A command that is run for each argument; empty where there is a file of commands.
        each: File of arguments; ``None`` is standard input.
        commands: File of commands; ``None`` where there is a ``command``.
        null: A NUL ends each argument, not a line end.
        args_per_task: How many arguments one command gets.

    Raises:
        InvalidInputError: It is not clear what to run, or a line makes no sense.
        OSError: A file cannot be read.
    """
    for option, source in (("--each", each), ("--commands", commands)):
        if source == "":
            raise InvalidInputError(f"{option} needs the name of a file, or - for standard input, and got an empty one")
    if commands is not None:
        if null:
            raise InvalidInputError("--null is for arguments, and --commands brings lines; leave one of them out")
        if args_per_task > 1:
            raise InvalidInputError(
                "--args-per-task is for arguments, and --commands brings whole commands; leave one out"
            )
        if command or each is not None:
            other = "a COMMAND" if command else "--each"
            raise InvalidInputError(f"--commands brings whole commands; leave {other} out, or --commands")
        return Commands(command_lines(commands), None)
    if not command:
        raise InvalidInputError(
            "there is nothing to run: give a COMMAND (ls | procbench run -- gzip -k) or --commands FILE"
        )
    if not command[0]:
        raise InvalidInputError("the COMMAND's first word, its program, is empty")
    source = STANDARD_INPUT if each is None else each
    if args_per_task > 1:
        return some_arguments(command, args_per_task, source, null=null)
    arguments = _arguments(source, null)
    return Commands(_each(command, arguments), [[argument] for argument in arguments])


def read_priorities(source: str, count: int) -> list[Priority]:
    """Return the priority of each command of a batch: the file holds one word for each, in the commands' order.

    Blank lines and lines that begin with ``#`` are passed over, as in a file of commands.

    Args:
        source: The file.
        count: How many commands there are.

    Raises:
        InvalidInputError: A line is no priority, or there are more or fewer of them than commands.
        OSError: The file cannot be read.
    """
    if source in ("", STANDARD_INPUT):
        raise InvalidInputError(
            "--priority-from needs the name of a file; standard input is for arguments and commands, "
            f"and it got {source!r}"
        )
    priorities: list[Priority] = []
    for number, raw in records(source, b"\n", LONGEST_ARGUMENT, "far from any priority"):
        word = os.fsdecode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).strip()
        if not word or word.startswith("#"):
            continue
        if word not in PRIORITIES:
            raise InvalidInputError(
                f"{place(source, number)}: {word[:80]!r} is no priority; it must be one of {', '.join(PRIORITIES)}"
            )
        priorities.append(word)
    if len(priorities) != count:
        raise InvalidInputError(
            f"{source} holds {len(priorities):,} priorities for {count:,} commands; it needs one line for each, in their order"
        )
    return priorities


def each_argument(template: Sequence[str], source: str = STANDARD_INPUT, *, null: bool = False) -> list[list[str]]:
    """Return one command for each line of a file that is not empty; the line is one argument, whatever is in it.

    Args:
        template: The command; each ``{}`` in it, also inside an argument, becomes the line.
        source: The file; ``-`` is standard input.
        null: A NUL ends each argument, as ``find -print0`` writes them, and a line end is a part of it.

    Raises:
        InvalidInputError: A line holds a NUL or is too long, there is no line, reading fails, or standard input is a
            terminal; names file and line.
        OSError: The file cannot be read.
    """
    return _each(template, _arguments(source, null))


def _each(template: Sequence[str], arguments: Iterable[str]) -> list[list[str]]:
    has_place = any(PLACE in part for part in template)
    parts = template if has_place else [*template, PLACE]
    return [[part.replace(PLACE, argument) for part in parts] for argument in arguments]


def some_arguments(template: Sequence[str], most: int, source: str = STANDARD_INPUT, *, null: bool = False) -> Commands:
    """Return commands with several arguments each, as ``xargs -n`` makes them, none of them longer than Linux takes.

    Args:
        template: The command; a ``{}`` that stands alone in it becomes all of a command's arguments.
        most: How many arguments a command gets, unless it would be too long or there are no more.
        source: The file, as for ``each_argument``.
        null: As for ``each_argument``.

    Raises:
        InvalidInputError: As for ``each_argument``; a ``{}`` stands inside a word; or not even one argument has room.
        OSError: The file cannot be read.
    """
    parts = list(template) if PLACE in template else [*template, PLACE]
    inside = next((part for part in parts if PLACE in part and part != PLACE), None)
    if inside is not None:
        raise InvalidInputError(
            f"{{}} stands inside the word {inside!r}, and cannot become {most} arguments there; "
            "let it stand alone, or leave --args-per-task out"
        )
    groups = grouped(parts, _arguments(source, null), most)
    return Commands([filled(parts, group) for group in groups], groups)


def _arguments(source: str, null: bool) -> list[str]:
    """Return the records of a file that are not empty; at least one."""
    found = []
    for number, raw in records(source, b"\0" if null else b"\n", LONGEST_ARGUMENT, "the longest argument Linux takes"):
        if b"\0" in raw:
            raise InvalidInputError(
                f"{place(source, number)}: it holds a NUL, which no program can be given; "
                "where NULs separate the arguments, as from find -print0, add --null"
            )
        if raw:
            found.append(os.fsdecode(raw))
    if not found:
        raise _nothing_to_run(source, "an argument")
    return found


def command_lines(source: str) -> list[list[str]]:
    """Return the command of each line, split as a shell splits words and quotes, with nothing expanded.

    Blank lines and lines that begin with ``#`` are passed over.

    Args:
        source: The file; ``-`` is standard input.

    Raises:
        InvalidInputError: A quotation is not closed, a line holds a NUL or an empty program, there is no command, or
            standard input is a terminal; names file and line.
        OSError: The file cannot be read.
    """
    commands = []
    for number, raw in records(source, b"\n", LONGEST_COMMAND, "the longest command Linux takes"):
        line = os.fsdecode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)
        if "\0" in line:
            raise InvalidInputError(
                f"{place(source, number)}: it holds a NUL, which no program can be given; is it binary?"
            )
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            argv = shlex.split(line)
        except ValueError as error:
            if not _is_text(raw):
                raise InvalidInputError(f"{place(source, number)}: it is no text; is the file binary?") from error
            raise InvalidInputError(f"{place(source, number)}: {str(error).lower()} in {line[:80]!r}") from error
        if not argv[0]:
            raise InvalidInputError(f"{place(source, number)}: the command's first word, its program, is empty")
        commands.append(argv)
    if not commands:
        raise _nothing_to_run(source, "a command")
    return commands


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _nothing_to_run(source: str, what: str) -> InvalidInputError:
    name = "standard input" if source == STANDARD_INPUT else source
    return InvalidInputError(f"there is nothing to run: {name} has no line with {what}")
