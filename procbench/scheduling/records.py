"""A file, or standard input, a record at a time: a bad one is named by its file and its line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from procbench.errors import InvalidInputError

STANDARD_INPUT: Final = "-"
"""What people write for standard input where a file is expected."""

_CHUNK: Final = 64 * 1024


def records(source: str, end: bytes, longest: int, what: str) -> Iterator[tuple[int, bytes]]:
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


def place(source: str, number: int) -> str:
    """Return where a record stands, for messages."""
    return f"{'standard input' if source == STANDARD_INPUT else source}, line {number}"


def _read(file: BinaryIO, source: str) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:  # unlike open(2)'s, read(2)'s error names no file
        name = "standard input" if source == STANDARD_INPUT else source
        raise InvalidInputError(f"cannot read {name}: {error.strerror or error}") from error


def _not_too_long(raw: bytes, source: str, number: int, longest: int, what: str) -> None:
    if len(raw) > longest:
        raise InvalidInputError(f"{place(source, number)} is longer than {-(-longest // 1024):,} KiB, {what}")


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
