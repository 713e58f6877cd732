"""How fast a gibibyte gets to a child and back: procbench, its peers, and the same system calls in C.

Every round runs every way once, in a new random order. Source and target exist before the clock starts, except where
the row says fresh; the time ends when the child has ended.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from procbench.experiments.transfer_ways import limit_program
from procbench.linux import own_peak_memory_bytes
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transfer import receive, send

BYTES = 1 << 30
READ_BYTES = 1 << 20
Way = Callable[[], float]

TO_CHILD = [
    ("memory", "C, best of write and vmsplice", 0.9),
    ("memfd", "C, memfd as stdin", 0.9),
    ("memory", "subprocess.run(input)", 1.4),
    ("memory", "asyncio communicate", 8.0),
]
FROM_CHILD = [
    ("fresh", "C, fresh", 0.9),
    ("fresh", "subprocess.run(PIPE)", 1.4),
    ("fresh", "asyncio", 2.0),
    ("reused", "C, reused", 0.9),
    ("reused", "subprocess.run(PIPE)", 5.0),
    ("reused", "asyncio", 8.0),
]
SHOWN = [
    ("C, fresh", "C, reused"),
    ("fresh", "C, fresh"),
    ("growing", "C, fresh"),
    ("fresh, populated", "C, fresh"),
    ("fresh, huge pages", "C, fresh"),
    ("fresh, huge and populated", "C, fresh"),
    ("C, reused", "subprocess.run(PIPE)"),
]


def _timed(body: Callable[[], Any]) -> Way:
    def way() -> float:
        started = time.perf_counter()
        left = body()
        seconds = time.perf_counter() - started
        del left  # giving memory back is not part of any way
        return seconds

    return way


def _started(argv: list[str], stream: str) -> Callable[[int], Any]:
    return lambda fd: subprocess.Popen(argv, **{stream: fd})


def _sent(source: MemoryMapping, argv: list[str]) -> None:
    sent = send(source, _started(argv, "stdin"))
    assert sent.child.wait() == 0
    assert sent.sent_bytes == len(source)


def _received(argv: list[str], into: Callable[[], MemoryMapping | None]) -> MemoryMapping | None:
    received = receive(_started(argv, "stdout"), into())
    assert received.child.wait() == 0
    assert (received.kept_bytes, received.cut) == (BYTES, False)
    return received.mapping


def _in_c(program: str, *arguments: str) -> Way:
    return lambda: float(subprocess.run([program, *arguments], capture_output=True, check=True).stdout)


async def _communicate(argv: list[str], data: bytes | None) -> Any:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdin=pipe if data else None, stdout=None if data else pipe)
    return await child.communicate(data)


def _ratios(seconds: dict[str, list[float]], ours: str, theirs: str) -> list[float]:
    return sorted(other / own for own, other in zip(seconds[ours], seconds[theirs], strict=True))


def _show(seconds: dict[str, list[float]], ours: str, theirs: str, wanted: float | None) -> None:
    if ours not in seconds or theirs not in seconds:
        print(f"  {'-':>6}  {ours} of {theirs}: skipped, it is not on this machine")
        return
    ratios = _ratios(seconds, ours, theirs)
    ratio, low, high = statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    verdict = "" if wanted is None else f"; wanted {wanted}: {'met' if ratio >= wanted else 'MISSED'}"
    print(f"  {ratio:6.2f} [{low:.2f}, {high:.2f}]  {ours} of {theirs}{verdict}")


def _alternate(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            seconds[name].append(ways[name]())
    for name, values in seconds.items():
        print(f"  {BYTES / statistics.median(values) / 1e9:6.2f} GB/s  {name}")
    return seconds


def _to_child(program: str | None, rounds: int) -> None:
    reader = (
        [program, "take", str(READ_BYTES)] if program else ["dd", "of=/dev/null", f"bs={READ_BYTES}", "status=none"]
    )
    data = random.Random(1).randbytes(READ_BYTES) * (BYTES // READ_BYTES)
    with MemoryMapping.anonymous(BYTES, huge_pages=True) as memory, MemoryMapping.wrap(data).snapshot() as memfd:
        with memory.writing() as view:
            view[:] = data
        ways: dict[str, Way] = {
            "memory": _timed(functools.partial(_sent, memory, reader)),
            "memfd": _timed(functools.partial(_sent, memfd, reader)),
            "subprocess.run(input)": _timed(lambda: subprocess.run(reader, input=data, check=True)),
            "asyncio communicate": _timed(lambda: asyncio.run(_communicate(reader, data))),
        }
        if program:
            for way in ("write", "vmsplice", "memfd"):
                ways[f"C, {way}"] = _in_c(program, "send", way, str(BYTES), *reader)
        want = hashlib.sha256(data).hexdigest()
        before = own_peak_memory_bytes()
        for source in (memory, memfd):
            sent = send(source, lambda fd: subprocess.Popen(["sha256sum"], stdin=fd, stdout=subprocess.PIPE))
            print(f"  sha256 of what the child got by {sent.transport}: ", end="")
            print("right" if sent.child.communicate()[0].split()[0].decode() == want else "WRONG")
        grown = own_peak_memory_bytes() - before
        print(
            f"  memory grew by {grown / 2**20:.1f} MiB over the data; wanted < 32: {'met' if grown < 32 << 20 else 'MISSED'}"
        )
        seconds = _alternate(ways, rounds)
    if program:
        seconds["C, memfd as stdin"] = seconds["C, memfd"]
        pairs = zip(seconds["C, write"], seconds["C, vmsplice"], strict=True)
        seconds["C, best of write and vmsplice"] = [min(pair) for pair in pairs]
    for ours, theirs, wanted in TO_CHILD:
        _show(seconds, ours, theirs, wanted)


def _from_child(program: str | None, rounds: int) -> None:
    writer = [program, "give", str(BYTES)] if program else ["head", "-c", str(BYTES), "/dev/zero"]
    huge = functools.partial(MemoryMapping.anonymous, BYTES, huge_pages=True)
    into: dict[str, Callable[[], MemoryMapping | None]] = {
        "fresh": lambda: MemoryMapping.anonymous(BYTES),
        "fresh, huge pages": huge,
        "fresh, populated": lambda: MemoryMapping.anonymous(BYTES, populate=True),
        "fresh, huge and populated": functools.partial(huge, populate=True),
        "growing": lambda: None,
    }
    with huge(populate=True) as reused:
        want = hashlib.sha256(subprocess.run(writer, stdout=subprocess.PIPE, check=True).stdout).digest()
        receive(_started(writer, "stdout"), reused).child.wait()
        with reused.reading() as view:
            print(f"  sha256 of what came: {'right' if hashlib.sha256(view).digest() == want else 'WRONG'}")
        into["reused"] = lambda: reused
        ways = {name: _timed(functools.partial(_received, writer, place)) for name, place in into.items()}
        ways["subprocess.run(PIPE)"] = _timed(lambda: subprocess.run(writer, stdout=subprocess.PIPE, check=True))
        ways["asyncio"] = _timed(lambda: asyncio.run(_communicate(writer, None)))
        if program:
            for way in ("fresh", "reused"):
                ways[f"C, {way}"] = _in_c(program, "receive", way, str(BYTES), *writer)
        seconds = _alternate(ways, rounds)
    for ours, theirs, wanted in FROM_CHILD:
        _show(seconds, ours, theirs, wanted)
    print("  what page faults cost, what buys them off, and what the limit itself reaches:")
    for ours, theirs in SHOWN:
        _show(seconds, ours, theirs, None)


def report(rounds: int) -> None:
    """Print every ratio, with the range of the middle half of the rounds, and whether it is what was wanted."""
    with tempfile.TemporaryDirectory(prefix="procbench-transfer-") as folder:
        program = limit_program(Path(folder))
        print(f"\n1 GiB from memory to a child that reads 1 MiB at a time, {rounds} rounds")
        _to_child(program, rounds)
        print(f"\n1 GiB from a child, {rounds} rounds")
        _from_child(program, rounds)
