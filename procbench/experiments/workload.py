"""What an experiment runs: real commands on files that every machine has, or a person's own."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from procbench.errors import (
    CommandFailedError,
    InvalidInputError,
    ProgramNotFoundError,
    ProgramPermissionError,
    SpawnError,
    UnsupportedError,
)
from procbench.io.blocking import run
from procbench.io.command import resolve
from procbench.io.order import NULL
from procbench.scheduling.commands import command_lines

Command = tuple[str, ...]

STANDARD_LIBRARY = "gzip -9, sha256sum and byte-compiling, files of the standard library"
"""The default workload's name."""

# Vendored packages and Python's own tests are left out: distributions differ in whether they bring them.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__", "ensurepip"})

_CALIBRATED_S = 0.02  # long against the start of a program and against the clock
_CALIBRATIONS = 5
_MOST_PIECES = 1 << 40

_COMPILE = "import py_compile, sys; py_compile.compile(sys.argv[1], cfile=sys.argv[2], doraise=True)"


@dataclass(frozen=True, slots=True)
class Workload:
    """Commands in the order in which they are handed in.

    Attributes:
        name: What they are, in a few words.
        commands: Program and arguments of each.
        notes: What a reader should know about them.
        folder: Where they run; None is this process's working folder, which then does not matter.
    """

    name: str
    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    def first(self, count: int) -> Workload:
        """Return the workload of the first ``count`` commands."""
        return replace(self, commands=self.commands[:count])


def standard_library_workload(count: int, scratch: Path, *, seed: int = 0) -> Workload:
    """Return commands that compress, checksum and byte-compile files of this Python's standard library.

    The files differ a thousandfold in size, as real input does, and the three programs start at very different cost,
    so that a batch holds long and short tasks without being made up. The same seed gives the same commands on the same
    Python. Nothing is written but byte code into ``scratch``.

    Args:
        count: Commands wanted, at least 1; a third of each kind, taking turns.
        scratch: A folder of the caller's for byte code.
        seed: Draws the files.

    Raises:
        InvalidInputError: ``count`` is below 1.
        UnsupportedError: This Python has no source files.
    """
    if count < 1:
        raise InvalidInputError(f"a workload has at least 1 command, and not {count!r}")
    files = _source_files(Path(sysconfig.get_path("stdlib")))
    if not files:
        raise UnsupportedError(
            f"there are no source files in {sysconfig.get_path('stdlib')}: give commands of your own"
        )
    drawn = random.Random(seed).sample(files, len(files))  # noqa: S311 - a draw that anyone may repeat
    kinds: dict[str, Callable[[int, Path], Command]] = {
        "gzip": lambda number, file: ("gzip", "-9", "-c", str(file)),
        "sha256sum": lambda number, file: ("sha256sum", str(file)),
        sys.executable: lambda number, file: (
            *(sys.executable, "-I", "-S", "-c", _COMPILE),
            *(str(file), str(scratch / f"{number}.pyc")),
        ),
    }
    missing = [program for program in kinds if shutil.which(program) is None]
    present = [make for program, make in kinds.items() if program not in missing]
    commands = tuple(
        make(number, file) for number, make, file in zip(range(count), cycle(present), cycle(drawn), strict=False)
    )
    return Workload(STANDARD_LIBRARY, commands, tuple(f"{program} is not installed: left out" for program in missing))


@dataclass(frozen=True, slots=True)
class CalibratedWork:
    """CPU work of a length that can be foreseen: ``dd`` makes zeros and throws them away, 64 KiB at a time.

    Attributes:
        start_s: Seconds that a command takes to begin and end, its work aside.
        piece_s: Seconds for 64 KiB.
    """

    start_s: float
    piece_s: float

    def command(self, seconds: float) -> Command:
        """Return a command that takes about so many seconds; no less than its start and one piece."""
        return _work(max(1, round((seconds - self.start_s) / self.piece_s)))


def calibrate() -> CalibratedWork:
    """Measure how fast this machine does the work: a fifth of a second.

    Raises:
        UnsupportedError: ``dd`` is not there, or does nothing that takes time.
    """
    start_s, pieces = _work_s(1), 1_000
    while (long_s := _work_s(pieces)) - start_s < _CALIBRATED_S:
        pieces *= 2
        if pieces > _MOST_PIECES:
            raise UnsupportedError("dd takes no longer for more work: give commands of your own")
    return CalibratedWork(start_s, (long_s - start_s) / (pieces - 1))


def _work(pieces: int) -> Command:
    return ("dd", "if=/dev/zero", "of=/dev/null", "bs=64k", f"count={pieces}")


def _work_s(pieces: int) -> float:
    """Return the median time of some runs of so much work."""
    try:
        ran = [run(_work(pieces), stdout=NULL, stderr=NULL, check=True) for _ in range(_CALIBRATIONS)]
    except (SpawnError, CommandFailedError) as error:
        raise UnsupportedError(
            f"dd does not work here, which commands of a known length are made of: {error}"
        ) from error
    return statistics.median(one.wall_s for one in ran)


def read_workload(path: str | Path) -> Workload:
    """Read commands from a file, one a line, quoted as for a shell; no shell ever sees them.

    Empty lines and those that begin with ``#`` count for nothing.

    They run in the folder of their file, so that relative names in them mean the same from a shell, a notebook and a
    report.

    Raises:
        InvalidInputError: The file cannot be read, holds no command, has a quote that is not closed, or a program that
            is not there; the message names file and line.
    """
    path = Path(path).absolute()  # a notebook's working folder is not its reader's: errors name the whole path
    try:
        commands = tuple(tuple(command) for command in command_lines(str(path)))
    except OSError as error:
        raise InvalidInputError(f"cannot read commands from {path}: {error.strerror}") from error
    for place, command in enumerate(commands):
        if not program_is_there(command[0], path.parent):
            raise InvalidInputError(
                f"{path}, line {_line(path, place)}: there is no program {command[0][:80]!r} to run"
            )
    return Workload(path.name, commands, folder=path.parent)


def program_is_there(program: str, folder: Path) -> bool:
    """Return whether a child that starts in a folder finds a program there or on its PATH, and may run it."""
    try:
        found = folder / os.fsdecode(resolve(os.fsencode(program), directory=os.fsencode(folder)))
    except (ProgramNotFoundError, ProgramPermissionError):
        return False
    return found.is_file() and os.access(found, os.X_OK)


def _line(path: Path, place: int) -> int:
    """Return the line of a file on which one of its commands stands; both counted as people and Python do."""
    with path.open(errors="surrogateescape", newline="\n") as file:
        counted = [number for number, line in enumerate(file, 1) if line.strip() and not line.lstrip().startswith("#")]
    return counted[place]


def _source_files(root: Path) -> list[Path]:
    """Return the source files, sorted, so that a seed draws the same everywhere."""
    found = (path for path in root.rglob("*.py") if not _LEFT_OUT.intersection(path.relative_to(root).parts))
    return sorted(path for path in found if path.is_file())
