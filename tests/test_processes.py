"""Which process is meant, and how it stands, whatever it calls itself."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading

import pytest

from procbench.cpu.duty import cpu_time_s
from procbench.cpu.processes import PROC, read_stat, stat_fields
from procbench.errors import InvalidInputError, ProcessGoneError
from procbench.io.groups import all_processes
from procbench.views.families import living_descendants

RENAMED = """
import ctypes, os, sys
while os.times().user < 0.05: pass  # CPU time that must not be lost
for line in sys.stdin:
    ctypes.CDLL(None).prctl(15, ctypes.c_char_p(bytes.fromhex(line)), 0, 0, 0)  # PR_SET_NAME
    print("renamed", flush=True)
"""
MEANT_BADLY = (
    b"x) R 1 1 (y",
    b"x) R 1 1 (y\n",
    b"",
    b")",
    b"(",
    b")))))))))))))) ",
    b") Z 0 0 0 0",
    b"\n) X 1 1\n",
    b"\xff\xfe",
)


def names(count: int) -> list[bytes]:
    """Names that look like the end of a name, the same in every run; 15 bytes is the longest that the kernel keeps."""
    rng = random.Random(1)
    alphabet = b"() \n\tRSZX019-\xff\x80"
    return [*MEANT_BADLY, *(bytes(rng.choices(alphabet, k=rng.randint(1, 15))) for _ in range(count))]


def test_a_command_may_be_called_anything() -> None:
    """M01: ``x) R 1 1 (y`` and a thousand names like it change nothing in what is read of a process."""
    argv = [sys.executable, "-c", RENAMED]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        first = read_stat(child.pid)
        for number, name in enumerate(names(1000)):
            child.stdin.write(name.hex().encode() + b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"renamed\n"
            assert (PROC / str(child.pid) / "comm").read_bytes() == name + b"\n"
            for now in (read_stat(child.pid), read_stat(child.pid, child.pid)):
                assert now.id == first.id, name
                assert now.state in "RS", name
                assert now.cpu < os.sysconf("SC_NPROCESSORS_CONF"), name
            state, parent, group, session = stat_fields(PROC / str(child.pid))[:4]
            assert state in (b"R", b"S"), name
            assert (int(parent), int(group), int(session)) == (os.getpid(), child.pid, child.pid), name
            assert 0.04 <= cpu_time_s(frozenset({child.pid})) < 60, name
            if number < len(MEANT_BADLY):  # a look at all processes costs more
                (seen,) = [one for one in all_processes() if one.pid == child.pid]
                assert (seen.ended, seen.parent, seen.group) == (False, os.getpid(), child.pid), name
                assert child.pid in living_descendants(os.getpid()), name


def test_a_thread_stands_for_itself() -> None:
    """A thread has its own id and start, and the process is named by its main thread."""
    asleep, done = threading.Event(), threading.Event()

    def wait() -> None:
        asleep.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    asleep.wait()
    try:
        assert thread.native_id is not None
        found = read_stat(os.getpid(), thread.native_id)
        assert found.id.pid == thread.native_id
        assert found.id.started_ticks >= read_stat(os.getpid()).id.started_ticks
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("number", [0, -1, True, "1", 1.0, None])
def test_a_number_that_can_be_no_process_is_refused(number: object) -> None:
    """What is no whole number above 0 is not looked up."""
    with pytest.raises(InvalidInputError, match="a pid is a whole number"):
        read_stat(number)  # type: ignore[arg-type]


def test_a_process_that_was_reaped_is_gone() -> None:
    """Its number names nobody, and the error says so."""
    with subprocess.Popen(["true"]) as child:
        child.wait()
    with pytest.raises(ProcessGoneError, match=f"there is no process {child.pid}"):
        read_stat(child.pid)
