"""The tree of a process's descendants, as rows: who started whom, and what each uses now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, NamedTuple

from procbench.monitoring.collect_processes import Look, ProcessRow, ProcessTable

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MOST_COMMAND_BYTES: Final = 400
_STATES: Final = {
    "R": "runs",
    "S": "waits",
    "D": "waits for a disk",
    "T": "stopped",
    "t": "stopped",
    "Z": "ended, not waited for",
    "I": "idle",
}


class Descendant(NamedTuple):
    """One row.

    Attributes:
        pid: Its process id.
        depth: 0 for a child, 1 for a child's child.
        command: Its arguments, or its short name.
        state: What it does, in words.
        cpu_share: Of one CPU since the last look; NaN at the first.
        memory_bytes: In memory, shared pages included.
    """

    pid: int
    depth: int
    command: str
    state: str
    cpu_share: float
    memory_bytes: int


@dataclass
class DescendantTree:
    """Looks at the descendants of a process again and again; not thread-safe.

    Args:
        pid: The process above them, which is no row.
        table: Where they are looked up.
    """

    pid: int
    table: ProcessTable

    def __post_init__(self) -> None:
        self._before: Look | None = None
        self._commands: dict[tuple[int, int], str] = {}

    def rows(self, most: int) -> tuple[list[Descendant], int]:
        """Return the rows from the top down, at most so many, and how many there are.

        Raises:
            OSError: There is no ``/proc``, or no descriptor is left.
        """
        look = self.table.look()
        children: dict[int, list[int]] = {}
        for pid, row in look.rows.items():
            children.setdefault(row.parent, []).append(pid)
        found: list[tuple[int, int]] = []
        waiting = [(pid, 0) for pid in sorted(children.get(self.pid, ()), reverse=True)]
        while waiting:
            pid, depth = waiting.pop()
            found.append((pid, depth))
            waiting += [(child, depth + 1) for child in sorted(children.get(pid, ()), reverse=True)]
        rows = [self._row(pid, depth, look.rows[pid], look) for pid, depth in found[:most]]
        if self._before is None or look.at_s > self._before.at_s:
            self._before = look
        living = {(row.pid, look.rows[row.pid].started_ticks) for row in rows}
        self._commands = {key: words for key, words in self._commands.items() if key in living}
        return rows, len(found)

    def _row(self, pid: int, depth: int, row: ProcessRow, look: Look) -> Descendant:
        key = (pid, row.started_ticks)
        if key not in self._commands:
            self._commands[key] = self._command(pid)
        letter = row.state.decode(errors="replace")
        share = _share(pid, row, self._before, look)
        return Descendant(
            pid, depth, self._commands[key], _STATES.get(letter, letter), share, row.memory_pages * _PAGE_BYTES
        )

    def _command(self, pid: int) -> str:
        for name in ("cmdline", "comm"):  # one that has ended has no arguments any more, and its name still
            try:
                with (self.table.proc / str(pid) / name).open("rb") as file:
                    said = file.read(_MOST_COMMAND_BYTES)
            except OSError:
                continue
            if words := said.rstrip(b"\0\n").replace(b"\0", b" ").decode(errors="backslashreplace"):
                return words
        return "gone"


def _share(pid: int, row: ProcessRow, before: Look | None, look: Look) -> float:
    then: ProcessRow | None = None if before is None else before.rows.get(pid)
    if before is None or look.at_s <= before.at_s:
        return float("nan")
    ticks = row.cpu_ticks
    if then is not None and then.started_ticks == row.started_ticks:
        ticks -= then.cpu_ticks
    return max(0, ticks) * _TICK_S / (look.at_s - before.at_s)
