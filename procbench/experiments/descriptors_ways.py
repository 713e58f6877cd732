"""The ways of having a descriptor for a moment: by bare system calls, by a manager that opens anew, by one that keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from procbench.io.descriptors import FileDescriptorManager
from procbench.io.fd_held import Kind
from procbench.io.fd_pool import KindStatistics
from procbench.memory.region import create_memfd

ANEW: Final = "opened anew"
KEPT: Final = "kept for the next"
BARE: Final = "bare system calls"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a kind in a manager.

    Attributes:
        kind: Of what.
        way: ``ANEW`` or ``KEPT``.
        counted: The manager's own counters of it, once the manager was closed.
    """

    kind: Kind
    way: str
    counted: KindStatistics

    @property
    def is_settled(self) -> bool:
        """Whether all that was opened is closed, and nobody forgot a handle."""
        counted = self.counted
        return counted.opened == counted.closed and not (counted.in_use or counted.idle or counted.leaked)


class Openers:
    """For one kind, what has a descriptor and gives it back at once, by way; the managers are closed with the ``with`` block.

    Args:
        kind: Of what; a pipe is both of its ends.
        file: What is opened to be read where the kind is ``file``.
    """

    def __init__(self, kind: Kind, file: Path) -> None:
        self.kind: Kind = kind
        self._managers = {ANEW: FileDescriptorManager(reuse=()), KEPT: FileDescriptorManager(reuse=(kind,))}
        self.ways: dict[str, Callable[[], None]] = {
            **{way: _lent(manager, kind, file) for way, manager in self._managers.items()},
            BARE: _bare(kind, file),
        }

    def accounts(self) -> list[Account]:
        """Return what became of the kind in each of the managers."""
        return [
            Account(self.kind, way, getattr(manager.statistics(), self.kind)) for way, manager in self._managers.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()


def _lent(manager: FileDescriptorManager, kind: Kind, file: Path) -> Callable[[], None]:
    def pipe() -> None:
        for end in manager.open_pipe():
            end.close()

    ways: dict[Kind, Callable[[], None]] = {
        "pipe": pipe,
        "memfd": lambda: manager.open_memfd().close(),
        "null": lambda: manager.open_null().close(),
        "file": lambda: manager.open_file(file).close(),
    }
    return ways[kind]


def _bare(kind: Kind, file: Path) -> Callable[[], None]:
    def pipe() -> None:
        for end in os.pipe2(os.O_CLOEXEC):
            os.close(end)

    ways: dict[Kind, Callable[[], None]] = {
        "pipe": pipe,
        "memfd": lambda: os.close(create_memfd()),
        "null": lambda: os.close(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)),
        "file": lambda: os.close(os.open(file, os.O_RDONLY | os.O_CLOEXEC)),
    }
    return ways[kind]
