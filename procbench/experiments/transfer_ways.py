"""The ways on which the transfer experiment moves bytes; every trial returns GB/s.

What a group of conditions moves is made when its turn comes and is given back before the next one's, so that the memory
taken is that of the largest size and not of all of them.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from procbench import linux
from procbench.errors import ProcbenchError, UnsupportedError
from procbench.experiments.transfer_outcome import CAPTURED, WRITE
from procbench.io.blocking import run as run_command
from procbench.io.order import CAPTURE
from procbench.io.spawn import Child, end_at_once, spawn
from procbench.lab.trials import Condition
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transfer import receive
from procbench.memory.transports import PIPE_BYTES, Transport

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
PIPE_SIZES: Final = (4 * _KIB, 16 * _KIB, 64 * _KIB, 256 * _KIB, _MIB)
_MEMORY_WAYS: Final[tuple[Transport, ...]] = ("write", "vmsplice")
_FILE_WAYS: Final[tuple[Transport, ...]] = ("splice", "sendfile", "memfd_stdin")
_PROBED_BYTES: Final = 4 * _KIB
_COPIES: Final = 9
_COPIED_BYTES: Final = 64 * _MIB

_Trial = Callable[[], float]
_Makers = Mapping[str, Callable[[], _Trial]]
"""By way, what makes its trial."""


def limit_program(folder: Path) -> str | None:
    """Build the C program that makes the same system calls; ``None`` where there is no compiler, or a libc without them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program, source = folder / "transfer", Path(__file__).with_name("transfer.c")
    built = subprocess.run([compiler, "-O2", "-o", program, source], check=False, capture_output=True)
    return str(program) if built.returncode == 0 else None


class Ways:
    """The ways that work on this machine, each tried once with 4 KiB when this is made.

    Args:
        folder: For the C program and for the file that output is received into.

    Attributes:
        left_out: By way, why it is left out. What the others are compared with, ``write`` and ``captured``, never is.
    """

    def __init__(self, folder: Path) -> None:
        self._program = limit_program(folder)
        self._file = folder / "received"
        self.left_out = {} if self._program else {"C": "there is no compiler that builds the program"}
        with ExitStack() as held:
            for makers in (self._makers_to_child(_PROBED_BYTES, held), self._makers_from_child(_PROBED_BYTES, held)):
                for way, make in makers.items():
                    if way not in (WRITE, CAPTURED):
                        self._try_once(way, make)

    def _try_once(self, way: str, make: Callable[[], _Trial]) -> None:
        try:
            if not math.isfinite(make()()):
                self.left_out[way] = "it did not move every byte"
        except (ProcbenchError, OSError) as error:
            self.left_out[way] = str(getattr(error, "strerror", None) or error)

    def to_child(self, size: int, held: ExitStack) -> list[Condition]:
        """Return every transport through a pipe of 1 MiB, where there is one, and the limit in C.

        The memory that is sent, and its sealed copy that all ways of a file share, are closed by ``held``.
        """
        return self._conditions(self._makers_to_child(size, held))

    def from_child(self, size: int, held: ExitStack) -> list[Condition]:
        """Return every place that a child's output can be put, and the limit in C; ``held`` gives the places back."""
        return self._conditions(self._makers_from_child(size, held))

    def pipes_to_child(self, size: int, held: ExitStack) -> list[Condition]:
        """Return the ways of memory through pipes of many sizes; ``held`` closes the memory."""
        memory = held.enter_context(_filled(size))
        return [
            Condition(f"{way}, {pipe}", _sending(way, memory, pipe), {"way": way, "pipe_size_bytes": pipe})
            for way in _MEMORY_WAYS
            if way not in self.left_out
            for pipe in PIPE_SIZES
        ]

    def pipes_from_child(self, size: int, held: ExitStack) -> list[Condition]:
        """Return capturing through pipes of many sizes; it holds nothing between two trials."""
        return [
            Condition(f"{CAPTURED}, {pipe}", _capturing(size, pipe), {"way": CAPTURED, "pipe_size_bytes": pipe})
            for pipe in PIPE_SIZES
        ]

    def right(self, size: int) -> dict[str, bool]:
        """Return of every transport whether a child got the right bytes, by the checksum that it made of them."""
        code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        argv, found = [sys.executable, "-c", code], {}
        with ExitStack() as held:
            memory = held.enter_context(_filled(size))
            want, copy = hashlib.sha256(memory.tobytes()).hexdigest().encode(), _copied_once(memory, held)
            for way in (*_MEMORY_WAYS, *_FILE_WAYS):
                if way not in self.left_out:
                    source = copy() if way in _FILE_WAYS else memory
                    result = run_command(argv, input=source, stdout=CAPTURE, transport=way, pipe_size_bytes=PIPE_BYTES)
                    found[str(way)] = result.stdout is not None and result.stdout.strip() == want
        return found

    def _conditions(self, makers: _Makers) -> list[Condition]:
        return [
            Condition(way, make(), {"way": way, "pipe_size_bytes": PIPE_BYTES})
            for way, make in makers.items()
            if way not in self.left_out
        ]

    def _makers_to_child(self, size: int, held: ExitStack) -> _Makers:
        memory = held.enter_context(_filled(size))
        copy = _copied_once(memory, held)
        makers: dict[str, Callable[[], _Trial]] = {}
        for way in _MEMORY_WAYS:
            makers[way] = functools.partial(_sending, way, memory, PIPE_BYTES)
        for way in _FILE_WAYS:
            makers[way] = lambda way=way: _sending(way, copy(), PIPE_BYTES)  # type: ignore[misc]
        return makers | self._limits("send", ("vmsplice", "memfd"), size, _reader())

    def _makers_from_child(self, size: int, held: ExitStack) -> _Makers:
        held.callback(self._file.unlink, missing_ok=True)

        def reused() -> _Trial:
            target = held.enter_context(MemoryMapping.anonymous(size, huge_pages=True, populate=True))
            return _receiving(target, size)

        makers: dict[str, Callable[[], _Trial]] = {
            CAPTURED: lambda: _capturing(size, PIPE_BYTES),
            "growing mapping": lambda: _receiving(None, size),
            "reused mapping": reused,
            "file": lambda: _receiving(self._file, size),
        }
        return makers | self._limits("receive", ("reused",), size, _writer(size))

    def _limits(self, verb: str, ways: tuple[str, ...], size: int, argv: list[str]) -> dict[str, Callable[[], _Trial]]:
        program = self._program
        if program is None:
            return {}

        def trial(way: str) -> float:
            result = run_command([program, verb, way, str(size), *argv], stdout=CAPTURE, check=True)
            return size / float(result.stdout or b"nan") / 1e9

        return {f"C, {way}": functools.partial(functools.partial, trial, way) for way in ways}


def memcpy_gb_per_s(largest: int) -> float:
    """Return how fast this machine copies memory into memory, at most 64 MiB at a time: the median of a few copies."""
    size = min(_COPIED_BYTES, largest)
    rates = []
    with ExitStack() as held:
        source = held.enter_context(held.enter_context(_filled(size)).reading())
        copy = held.enter_context(MemoryMapping.anonymous(size, huge_pages=True, populate=True))
        target = held.enter_context(copy.writing())
        for _ in range(_COPIES):
            started = time.perf_counter()
            target[:] = source
            rates.append(_rate(size, started))
    return sorted(rates)[_COPIES // 2]


def _filled(size: int) -> MemoryMapping:
    """Return memory that is full of bytes which are not all the same."""
    block = random.Random(1).randbytes(min(size, _MIB))  # noqa: S311 - any bytes that are not all the same
    memory = MemoryMapping.anonymous(size, huge_pages=True)
    with memory.writing() as view:
        for start in range(0, size, len(block)):
            view[start : start + len(block)] = block[: size - start]
    return memory


def _copied_once(memory: MemoryMapping, held: ExitStack) -> Callable[[], MemoryMapping]:
    """Return what gives a sealed copy of the memory, always the same one; ``held`` closes it."""
    return functools.cache(lambda: held.enter_context(memory.snapshot()))


def _sending(way: Transport, source: MemoryMapping, pipe: int) -> _Trial:
    argv = _reader()

    def trial() -> float:
        started = time.perf_counter()
        result = run_command(argv, input=source, transport=way, pipe_size_bytes=pipe, check=True)
        rate = _rate(len(source), started)
        if result.transport != way:
            code = getattr(errno, result.transport_fallback or "", errno.ENOTSUP)
            raise UnsupportedError(code, f"the kernel refuses it here ({result.transport_fallback})")
        return rate

    return trial


def _capturing(size: int, pipe: int) -> _Trial:
    argv = _writer(size)

    def trial() -> float:
        started = time.perf_counter()
        result = run_command(argv, stdout=CAPTURE, pipe_size_bytes=pipe, check=True)
        rate = _rate(size, started)
        return rate if result.stdout_bytes == size else math.nan

    return trial


def _receiving(into: MemoryMapping | Path | None, size: int) -> _Trial:
    argv = _writer(size)

    def trial() -> float:
        children: list[Child] = []

        def start(stdout: int) -> None:
            _with_interrupt_put_off(lambda: children.append(spawn(argv, stdout=stdout)))

        started = time.perf_counter()
        try:
            received = receive(start, into)
            os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
            rate = _rate(size, started)
        finally:  # reaped only here, so that Ctrl-C at any moment ends this child and nobody else's
            for child in children:
                end_at_once(child.pid)
                linux.close_now(child.pidfd)
        return rate if received.kept_bytes == received.total_bytes == size else math.nan

    return trial


def _with_interrupt_put_off(act: Callable[[], object]) -> None:
    """Call ``act``; Ctrl-C meanwhile is told when it is done, so that it cannot fall between a child and its being noted.

    Only the main thread runs signal handlers, and only Ctrl-C's is set aside: what another handler raises is not put off.
    Blocking the signal would not do: where the process has other threads, one of them takes it.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        act()
        return
    came: list[int] = []
    try:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
        act()
    finally:
        signal.signal(signal.SIGINT, usual)
        if came:
            signal.raise_signal(signal.SIGINT)


def _rate(size: int, started: float) -> float:
    return size / (time.perf_counter() - started) / 1e9


def _reader() -> list[str]:
    return [shutil.which("dd") or "dd", "of=/dev/null", f"bs={_MIB}", "status=none"]


def _writer(size: int) -> list[str]:
    block = min(size, _MIB)
    return [shutil.which("dd") or "dd", "if=/dev/zero", f"bs={block}", f"count={size // block}", "status=none"]
