"""Read the commands of a batch: one a line, or one command with an argument a line. No shell ever sees them.

Everything is read before anything runs, so that a bad line at the end of a file is refused while nothing has happened.
"""

from __future__ import annotations

import codecs
import os
import re
import resource
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from procbench.cpu.priorities import PRIORITIES, Priority
from procbench.errors import InvalidInputError
from procbench.io.command import Argument

PLACE: Final = "{}"
"""Where an argument goes in a command; without one it becomes the last argument."""

STANDARD_INPUT: Final = "-"
"""What people write for standard input where a file is expected."""

_RESERVED: Final = frozenset(
    [
        "case",
        "coproc",
        "do",
        "done",
        "elif",
        "else",
        "esac",
        "fi",
        "for",
        "function",
        "if",
        "in",
        "select",
        "then",
        "time",
        "until",
        "while",
    ]
)
"""Words that a shell takes for its own where a command's program stands; those with odd characters are quoted anyhow."""

_SECRET = re.compile(r"token|secret|passw(or)?d|(^|[-_])key$", re.IGNORECASE)
_HIDDEN = "***"


LONGEST_ARGUMENT: Final = 128 * 1024 - 1
"""Bytes of the longest argument that Linux takes: MAX_ARG_STRLEN without its NUL (execve(2))."""

LONGEST_COMMAND: Final = 6 * 1024 * 1024
"""Bytes of all arguments together that Linux takes at most, whatever the limit of the stack (execve(2))."""

_LEAST_ROOM: Final = 128 * 1024  # ARG_MAX of linux/limits.h: there is as much however low the limit of the stack is
_HEADROOM: Final = (
    8 * 1024
)  # for the program's path and its interpreter's, which the kernel adds, and some variables more
_POINTER: Final = 8
_CHUNK = 64 * 1024


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
    for number, raw in _records(source, b"\n", LONGEST_ARGUMENT, "far from any priority"):
        word = os.fsdecode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).strip()
        if not word or word.startswith("#"):
            continue
        if word not in PRIORITIES:
            raise InvalidInputError(
                f"{_place(source, number)}: {word[:80]!r} is no priority; it must be one of {', '.join(PRIORITIES)}"
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


def grouped(parts: Sequence[str], arguments: Iterable[str], most: int) -> list[list[str]]:
    """Return the arguments of each command that ``parts`` become, in their order: ``most``, or fewer where more are too long.

    Args:
        parts: The command; each ``{}`` that stands alone becomes all arguments of a group.
        arguments: The arguments.
        most: How many a group has at most.

    Raises:
        InvalidInputError: Not even one argument has room.
    """
    places = parts.count(PLACE)
    room = room_for_arguments() - sum(_size(part) for part in parts if part != PLACE)
    groups: list[list[str]] = [[]]
    left = room
    for argument in arguments:
        size = places * _size(argument)
        if size > room:
            raise InvalidInputError(f"the command is longer than Linux takes, even with {argument[:80]!r} alone")
        if groups[-1] and (len(groups[-1]) == most or size > left):
            groups.append([])
            left = room
        groups[-1].append(argument)
        left -= size
    return groups


def room_for_arguments() -> int:
    """Return how many bytes of arguments a command may have beside this process's environment, pointers counted in.

    Source: ``bprm_stack_limits`` in Linux' fs/exec.c: a quarter of the limit of the stack, at least 128 KiB, at most 6 MiB.
    """
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    room = LONGEST_COMMAND if stack == resource.RLIM_INFINITY else min(stack // 4, LONGEST_COMMAND)
    environment = sum(len(name) + len(value) + 2 + _POINTER for name, value in os.environb.items())
    return max(room, _LEAST_ROOM) - environment - _HEADROOM


def _size(argument: str) -> int:
    return len(os.fsencode(argument)) + 1 + _POINTER


def filled(parts: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return a command: ``parts`` with the arguments in the place of each ``{}`` that stands alone."""
    return [word for part in parts for word in (arguments if part == PLACE else [part])]


def _arguments(source: str, null: bool) -> list[str]:
    """Return the records of a file that are not empty; at least one."""
    found = []
    for number, raw in _records(source, b"\0" if null else b"\n", LONGEST_ARGUMENT, "the longest argument Linux takes"):
        if b"\0" in raw:
            raise InvalidInputError(
                f"{_place(source, number)}: it holds a NUL, which no program can be given; "
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
    for number, raw in _records(source, b"\n", LONGEST_COMMAND, "the longest command Linux takes"):
        line = os.fsdecode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)
        if "\0" in line:
            raise InvalidInputError(
                f"{_place(source, number)}: it holds a NUL, which no program can be given; is it binary?"
            )
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            argv = shlex.split(line)
        except ValueError as error:
            if not _is_text(raw):
                raise InvalidInputError(f"{_place(source, number)}: it is no text; is the file binary?") from error
            raise InvalidInputError(f"{_place(source, number)}: {str(error).lower()} in {line[:80]!r}") from error
        if not argv[0]:
            raise InvalidInputError(f"{_place(source, number)}: the command's first word, its program, is empty")
        commands.append(argv)
    if not commands:
        raise _nothing_to_run(source, "a command")
    return commands


def shell_line(argv: Iterable[Argument]) -> bytes:
    """Return a command as a shell would need it to run just that: ``sh -c`` of it gives the program these arguments."""
    program, *arguments = [os.fsdecode(word) for word in argv] or [""]
    first = shlex.quote(program)
    if first == program and (program in _RESERVED or "=" in program):  # a shell's own word, or an assignment
        first = f"'{program}'"
    return os.fsencode(" ".join([first, *map(shlex.quote, arguments)]))


def without_secrets(argv: Iterable[str]) -> list[str]:
    """Return a command as it may be recorded: the value of what is called token, secret, password or key is hidden.

    ``NAME=value`` and ``--name=value`` hide the value, an option such as ``--password`` hides the argument behind it.
    """
    shown: list[str] = []
    hide_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        secret = _SECRET.search(name) is not None and not any(mark in name for mark in " /\n")
        shown.append(_HIDDEN if hide_next else f"{name}={_HIDDEN}" if secret and equals else argument)
        hide_next = secret and not equals and argument.startswith("-")
    return shown


def _records(source: str, end: bytes, longest: int, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and bytes of each record, without its end. One that never ends is refused, not kept."""
    with _opened(source) as file:
        number, rest = 0, b""
        while chunk := _read(file, source):
            *whole, rest = (rest + chunk).split(end)
            for raw in whole:
                number += 1
                _not_too_long(raw, source, number, longest, what)
                yield number, raw
            _not_too_long(rest, source, number + 1, longest, what)
        if rest:
            yield number + 1, rest


def _read(file: BinaryIO, source: str) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:  # unlike open(2)'s, read(2)'s error names no file
        name = "standard input" if source == STANDARD_INPUT else source
        raise InvalidInputError(f"cannot read {name}: {error.strerror or error}") from error


def _not_too_long(raw: bytes, source: str, number: int, longest: int, what: str) -> None:
    if len(raw) > longest:
        raise InvalidInputError(f"{_place(source, number)} is longer than {-(-longest // 1024):,} KiB, {what}")


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _opened(source: str) -> BinaryIO:
    if source != STANDARD_INPUT:
        return Path(source).open("rb")
    if sys.stdin is None or sys.stdin.closed:
        raise InvalidInputError("standard input is closed; give a file with --each FILE or --commands FILE")
    if sys.stdin.isatty():
        raise InvalidInputError(
            "there is nothing to run: standard input is a terminal. Pipe one argument a line into it "
            "(ls | procbench run -- gzip -k), or give --each FILE or --commands FILE"
        )
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def _place(source: str, number: int) -> str:
    return f"{'standard input' if source == STANDARD_INPUT else source}, line {number}"


def _nothing_to_run(source: str, what: str) -> InvalidInputError:
    name = "standard input" if source == STANDARD_INPUT else source
    return InvalidInputError(f"there is nothing to run: {name} has no line with {what}")
