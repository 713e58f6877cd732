"""Watch this machine in front of a person, and a command that runs meanwhile: shown live, scraped, written to a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from procbench.errors import CommandTimeoutError, InvalidInputError, ProgramNotFoundError, SpawnError
from procbench.io.blocking import run
from procbench.io.command import resolve
from procbench.io.orphans import adopt, adopt_no_longer
from procbench.io.signals import INTERRUPTED, EndedBySignal, ending_by_exception
from procbench.monitoring.export import MetricsServer
from procbench.monitoring.monitor import PerformanceMonitor
from procbench.views.live import Live, Table, live_view, show_summary
from procbench.views.terminal import one_line

NOT_FOUND, NOT_RUN, TIMED_OUT = 127, 126, 124
"""Statuses where the command has none of its own, as of env(1) and timeout(1)."""

SUFFIXES: Final = (".parquet", ".csv")


def watch(
    argv: Sequence[str],
    *,
    interval_s: float = 1.0,
    duration_s: float | None = None,
    out: Path | None = None,
    port: int | None = None,
) -> int:
    """Sample until the command ends, the time is over or a signal comes; show it, sum it up and return the exit status.

    Without a command, samples go to standard output, and Ctrl-C is the way to end it: the status is 0. With one, standard output
    is the command's, samples go to standard error, and the status is the command's; 128 and the signal if one ended it.

    Args:
        argv: A command to run meanwhile; nothing of it is left to the terminal, so that it can read none. May be empty.
        interval_s: Seconds between samples.
        duration_s: When to end; a command that still runs is ended with its group, and the status is 124.
        out: Where the samples are written at the end, a ``.parquet`` or ``.csv`` file.
        port: Where Prometheus may ask on 127.0.0.1; 0 lets the system choose.

    Raises:
        InvalidInputError: An argument makes no sense; nothing was begun.
        RecordError: The file could not be written.
        OSError: The port cannot be had, or nobody reads the samples any more.
    """
    if out is not None:
        _check_file(out)
    if argv:
        try:
            resolve(os.fsencode(argv[0]))
        except SpawnError as error:  # before anything is shown that it would be lost among
            return _not_run(error)
    stream = sys.stderr if argv else sys.stdout
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_by_exception())
        if argv:
            adopt()  # so that what outlives its parent is still seen among the descendants
            stack.callback(adopt_no_longer)
        monitor = PerformanceMonitor(interval_s)
        stack.callback(monitor.stop)
        if port is not None:
            server = stack.enter_context(MetricsServer(monitor, port))
            sys.stderr.write(f"procbench: metrics at {server.url}\n")
            sys.stderr.flush()
        live = live_view(monitor, stream)
        monitor.subscribe(live.show)
        try:
            monitor.start()
            status = _run(argv, duration_s, live) if argv else _wait(duration_s, live)
        except KeyboardInterrupt:
            status = INTERRUPTED if argv else 0
        except EndedBySignal as end:
            status = 128 + end.signal
    live.clear()
    if live.gone.is_set() and not argv:
        raise BrokenPipeError
    show_summary(monitor, sys.stderr)
    if out is not None:
        _write(monitor, out)
    return status


def _wait(duration_s: float | None, live: Live) -> int:
    live.gone.wait(duration_s)
    return 0


def _run(argv: Sequence[str], duration_s: float | None, live: Live) -> int:
    """Run the command; only what it would write into the painted table's terminal goes through our hands."""
    through = [isinstance(live, Table) and stream.isatty() for stream in (sys.stdout, sys.stderr)]
    try:
        result = run(
            argv,
            stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
            stdout=subprocess.PIPE if through[0] else None,
            stderr=subprocess.PIPE if through[1] else None,
            tee_stdout=_above(live, sys.stdout) if through[0] else None,
            tee_stderr=_above(live, sys.stderr) if through[1] else None,
            max_output_bytes=0,
            timeout=duration_s,
        )
    except CommandTimeoutError:
        return TIMED_OUT
    except SpawnError as error:
        live.clear()
        return _not_run(error)
    if result.returncode is None:  # somebody else waited for it
        return NOT_RUN
    return result.returncode if result.returncode >= 0 else 128 - result.returncode


def _not_run(error: SpawnError) -> int:
    sys.stderr.write(f"procbench: {one_line(str(error))}\n")
    return NOT_FOUND if isinstance(error, ProgramNotFoundError) else NOT_RUN


def _above(live: Live, stream: TextIO) -> Callable[[memoryview], object]:
    return lambda piece: live.say(stream, bytes(piece))


def _check_file(out: Path) -> None:
    from procbench.lab.files import check_writable_folder

    if out.suffix not in SUFFIXES:
        raise InvalidInputError(f"--out must end in {' or '.join(SUFFIXES)}, and {out} does not")
    if out.is_dir():
        raise InvalidInputError(f"--out must be a file, and {out} is a folder")
    check_writable_folder(out.parent)


def _write(monitor: PerformanceMonitor, out: Path) -> None:
    from procbench.lab.files import write_atomically

    frame = monitor.frame()

    def write(file: BinaryIO) -> None:
        if out.suffix == ".parquet":
            frame.to_parquet(file, index=False)
        else:
            file.write(frame.to_csv(index=False).encode())

    write_atomically(out, write)
