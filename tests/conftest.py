"""After every test, nothing is left: no descriptor, child, memory file or procbench thread that was not there before."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

_PATIENCE_S = 5.0


class Possessions(NamedTuple):
    """What this process has and a test must give back."""

    fds: frozenset[tuple[int, str]]
    children: frozenset[int]
    threads: frozenset[str]
    memory_files: int


def possessions() -> Possessions:
    """Look what this process has now."""
    fds = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # the listing's own
        if not target.endswith(".ttf"):  # matplotlib keeps the fonts that it has used
            fds.add((int(link.name), target))
    children = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            children.update(map(int, path.read_text().split()))
        except OSError:
            continue  # the thread ended meanwhile
    threads = {f"{t.name}#{t.ident}" for t in threading.enumerate() if t.name.startswith("procbench")}
    memory_files = Path("/proc/self/maps").read_bytes().count(b"/memfd:")
    return Possessions(frozenset(fds), frozenset(children), frozenset(threads), memory_files)


def left_behind(before: Possessions) -> list[str]:
    """Name what is there now and was not before."""
    now = possessions()
    left = [f"descriptor {fd} -> {target}" for fd, target in sorted(now.fds - before.fds)]
    left += [f"child {pid}" for pid in sorted(now.children - before.children)]
    left += [f"thread {name}" for name in sorted(now.threads - before.threads)]
    if now.memory_files > before.memory_files:
        left.append(f"{now.memory_files - before.memory_files} mapped memory files")
    return left


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Fail a test that leaves something behind; what is just going away gets a moment."""
    before = possessions()
    yield
    end = time.monotonic() + _PATIENCE_S
    while left := left_behind(before):
        assert time.monotonic() < end, "left behind: " + "; ".join(left)
        gc.collect()
        time.sleep(0.01)
