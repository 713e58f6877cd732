"""The few system calls that the standard library lacks, or wraps in a way that costs too much on the way to a child.

Two handles on the same libc decide who may run meanwhile. ``_released`` gives the GIL away around the call, as it must for
calls that wait (``posix_spawn`` waits for the child's exec, ``poll`` for its end). ``_held`` keeps it, because a call that
returns within a microsecond costs less than handing the GIL over and fighting to get it back: with four workers on two
CPUs those hand-overs were the larger part of Python's share per child.

Source: posix_spawn(3), poll(2), wait4(2), pidfd_open(2), glibc's ``posix_spawn_file_actions_addchdir_np`` (2.29) and
``..._addclosefrom_np`` (2.34).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from procbench.errors import UnsupportedError

_released = ctypes.CDLL(None, use_errno=True)
_held = ctypes.PyDLL(None, use_errno=True)

HAS_POSIX_SPAWN: Final = hasattr(_held, "posix_spawn_file_actions_addchdir_np") and hasattr(
    _held, "posix_spawn_file_actions_addclosefrom_np"
)
"""Whether libc's posix_spawn can change the working directory and close descriptors. False before glibc 2.34 and on musl."""

POLLIN: Final = 0x001
POLLOUT: Final = 0x004
POLLERR: Final = 0x008
POLLHUP: Final = 0x010

MADV_POPULATE_WRITE: Final = 23
"""Advice of madvise(2), Linux 5.14: have these pages now. The mmap module does not know it before Python 3.14."""

# Opaque libc structs. glibc's are 80, 336 and 128 bytes; the reserve costs nothing and spares knowing it per architecture.
_FILE_ACTIONS_BYTES = 256
_ATTRIBUTES_BYTES = 1024
_SIGSET_BYTES = 128

# spawn.h; these values are the same on every Linux architecture.
_SETPGROUP = 0x02
_SETSIGDEF = 0x04
_SETSIGMASK = 0x08


class PollFd(ctypes.Structure):
    """``struct pollfd`` of poll(2); a negative ``fd`` is passed over."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Usage(ctypes.Structure):
    """``struct rusage`` of getrusage(2) on Linux: times as seconds and microseconds, memory in KiB."""

    _fields_ = (
        ("user_s", ctypes.c_long),
        ("user_us", ctypes.c_long),
        ("system_s", ctypes.c_long),
        ("system_us", ctypes.c_long),
        ("max_rss_kib", ctypes.c_long),
        ("shared_kib", ctypes.c_long),
        ("data_kib", ctypes.c_long),
        ("stack_kib", ctypes.c_long),
        ("minor_faults", ctypes.c_long),
        ("major_faults", ctypes.c_long),
        ("swaps", ctypes.c_long),
        ("blocks_in", ctypes.c_long),
        ("blocks_out", ctypes.c_long),
        ("messages_sent", ctypes.c_long),
        ("messages_received", ctypes.c_long),
        ("signals", ctypes.c_long),
        ("voluntary_switches", ctypes.c_long),
        ("involuntary_switches", ctypes.c_long),
    )


poll = _released.poll
"""``poll(address_of_array, count, timeout_ms) -> ready | -1``; gives the GIL away."""
# The opaque pointer type keeps a call cheap: an address is passed as it is.
poll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int]

wait4_now = _held.wait4
"""``wait4_now(pid, address_of_status, options, address_of_usage) -> pid | 0 | -1``; for a child known to be dead, or WNOHANG."""
wait4_now.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]

close_now = _held.close
"""``close_now(fd)`` of a descriptor whose closing cannot wait (pipe, pidfd, eventfd)."""
close_now.argtypes = [ctypes.c_int]

read_now = _held.read
"""``read_now(fd, address, size) -> bytes read | -1`` from a pipe that does not block."""
read_now.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
read_now.restype = ctypes.c_ssize_t

_pipe2 = _held.pipe2
_pipe2.argtypes = [ctypes.c_void_p, ctypes.c_int]
_fcntl = _held.fcntl
_fcntl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
_F_GETFD = 1
_F_SETFL = 4


_kill = _held.kill
_kill.argtypes = [ctypes.c_int, ctypes.c_int]


def is_group(group: int) -> bool:
    """Return whether there is such a process group, of whomever, zombies included."""
    return bool(_kill(-group, 0) == 0) or ctypes.get_errno() != errno.ESRCH


def is_open(fd: int) -> bool:
    """Return whether this process has such a descriptor."""
    return bool(_fcntl(fd, _F_GETFD, 0) != -1)


def pipe_from_child() -> tuple[int, int]:
    """Return a new pipe's (read end, write end); reading never blocks, writing does, as a child expects of its stdout.

    Raises:
        OSError: No descriptor is left (EMFILE, ENFILE).
    """
    ends = (ctypes.c_int * 2)()
    if _pipe2(ctypes.addressof(ends), os.O_CLOEXEC) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    _fcntl(ends[0], _F_SETFL, os.O_NONBLOCK)
    return ends[0], ends[1]


def pipe_to_child() -> tuple[int, int]:
    """Return a new pipe's (read end, write end); writing never blocks, reading does, as a child expects of its stdin.

    Raises:
        OSError: No descriptor is left (EMFILE, ENFILE).
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    _fcntl(write_end, _F_SETFL, os.O_NONBLOCK)
    return read_end, write_end


posix_spawn = _released.posix_spawn
"""``posix_spawn(&pid, path, &actions, &attributes, argv, envp) -> errno``; gives the GIL away while the child execs."""
posix_spawn.argtypes = [
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
]
posix_spawn.restype = ctypes.c_int


class SpawnAttributes:
    """``posix_spawnattr_t``: own process group or the parent's, no signal blocked and, by default, none ignored.

    An ignored signal would stay ignored in the child: with Python's SIGPIPE ``yes | head`` would never end, with a
    program's SIGTERM no child could be asked to end, with its SIGCHLD a shell would not learn how its commands ended.

    Args:
        new_group: Whether the child leads a process group of its own.
        reset: The signals that are not to stay ignored; ``None`` for all.
    """

    def __init__(self, *, new_group: bool, reset: Iterable[int] | None = None) -> None:
        self._attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        blocked = ctypes.create_string_buffer(_SIGSET_BYTES)
        defaulted = ctypes.create_string_buffer(_SIGSET_BYTES)
        _held.posix_spawnattr_init(self._attributes)
        _held.sigemptyset(blocked)
        if reset is None:
            _held.sigfillset(defaulted)
        else:
            _held.sigemptyset(defaulted)
            for number in reset:
                _held.sigaddset(defaulted, number)
        _held.posix_spawnattr_setsigmask(self._attributes, blocked)
        _held.posix_spawnattr_setsigdefault(self._attributes, defaulted)
        _held.posix_spawnattr_setpgroup(self._attributes, 0)
        flags = _SETSIGMASK | _SETSIGDEF | (_SETPGROUP if new_group else 0)
        _held.posix_spawnattr_setflags(self._attributes, ctypes.c_short(flags))
        self.address: int = ctypes.addressof(self._attributes)


class FileActions:
    """``posix_spawn_file_actions_t``: what the child does to its descriptors, in order, before it execs.

    Once built it is only read, so any number of threads may spawn with the same one.
    """

    def __init__(self) -> None:
        self._actions = ctypes.create_string_buffer(_FILE_ACTIONS_BYTES)
        self.address: int = ctypes.addressof(self._actions)
        _held.posix_spawn_file_actions_init(self._actions)

    def __del__(self) -> None:
        _held.posix_spawn_file_actions_destroy(self._actions)

    def open_null(self, fd: int) -> None:
        """Open ``/dev/null`` for reading and writing as ``fd``."""
        self._check(_held.posix_spawn_file_actions_addopen(self._actions, fd, b"/dev/null", os.O_RDWR, 0))

    def duplicate(self, source: int, target: int) -> None:
        """Make ``target`` a copy of ``source``; the same number twice clears its close-on-exec flag (glibc 2.29)."""
        self._check(_held.posix_spawn_file_actions_adddup2(self._actions, source, target))

    def close(self, fd: int) -> None:
        """Close ``fd`` if it is open."""
        self._check(_held.posix_spawn_file_actions_addclose(self._actions, fd))

    def close_from(self, lowest: int) -> None:
        """Close every descriptor from ``lowest`` upward (close_range(2) since Linux 5.9)."""
        self._check(_held.posix_spawn_file_actions_addclosefrom_np(self._actions, lowest))

    def enter(self, directory: bytes) -> None:
        """Change the working directory."""
        self._check(_held.posix_spawn_file_actions_addchdir_np(self._actions, directory))

    def to_foreground(self, terminal: int) -> None:
        """Have the terminal's foreground pass to the child's process group, if libc knows how (glibc 2.35)."""
        if hasattr(_held, "posix_spawn_file_actions_addtcsetpgrp_np"):
            self._check(_held.posix_spawn_file_actions_addtcsetpgrp_np(self._actions, terminal))

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise OSError(code, os.strerror(code))


def own_peak_memory_bytes() -> int:
    """Return the largest resident size that this process had since its exec, in bytes (VmHWM, proc_pid_status(5)).

    Not ``ru_maxrss``, which still counts in the process that spawned this one, unless /proc does not say or no descriptor
    is left to read it with: more than it was is an answer too. Costs some 15 µs.
    """
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024


def set_child_subreaper(enabled: bool) -> None:
    """Make this process the parent that orphaned descendants fall to, instead of init (prctl(2), Linux 3.4).

    Raises:
        OSError: The kernel refused.
    """
    pr_set_child_subreaper = 36
    if _held.prctl(pr_set_child_subreaper, ctypes.c_ulong(int(enabled)), 0, 0, 0) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def is_child_subreaper() -> bool:
    """Return whether orphaned descendants fall to this process (prctl(2), Linux 3.4)."""
    pr_get_child_subreaper = 37
    enabled = ctypes.c_int()
    return _held.prctl(pr_get_child_subreaper, ctypes.byref(enabled), 0, 0, 0) == 0 and bool(enabled.value)


@contextlib.contextmanager
def sigpipe_blocked() -> Iterator[None]:
    """Keep a write to a pipe that nobody reads from killing this process, whatever SIGPIPE's disposition is.

    Python ignores SIGPIPE at start, but a program may have put the default back. The signal is held off in this thread
    alone, and one that arrived meanwhile is taken away before the mask is restored.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in before:
            signal.sigtimedwait([signal.SIGPIPE], 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- moving bytes through pipes ---------------------------------------------------------------------------------------

PIPE_DEFAULT_BYTES: Final = 64 * 1024
"""Size of a new pipe, pipe(7); less for a user who has used up ``pipe-user-pages-soft``."""

_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032
_LARGEST_INT = 2**31 - 1


class _Piece(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("address", ctypes.c_void_p), ("size", ctypes.c_size_t))


_vmsplice = getattr(_released, "vmsplice", None)
if _vmsplice is not None:
    _vmsplice.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_uint]
    _vmsplice.restype = ctypes.c_ssize_t


def vmsplice(fd: int, address: int, size_bytes: int, flags: int = os.SPLICE_F_NONBLOCK) -> int:
    """Put pages of this process's memory into a pipe, without copying, and return how many bytes went.

    The pipe then refers to the memory itself: until a reader has taken the bytes, a change to the memory changes them.

    Raises:
        BlockingIOError: The pipe is full, and ``flags`` says not to wait.
        BrokenPipeError: Nobody reads from it any more.
        OSError: Anything else (vmsplice(2)); ENOSYS where libc or the kernel lacks it.
    """
    if _vmsplice is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    piece = _Piece(address, size_bytes)
    return _counted(int(_vmsplice(fd, ctypes.addressof(piece), 1, flags)))


_write = _released.write
_write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_write.restype = ctypes.c_ssize_t


def write(fd: int, address: int, size_bytes: int) -> int:
    """Copy memory of this process into a pipe, and return how many bytes went. Gives the GIL away.

    Raises:
        OSError: As ``os.write`` raises it; without a buffer, which would count as somebody's view of the memory.
    """
    return _counted(int(_write(fd, address, size_bytes)))


def _counted(count: int) -> int:
    if count < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return count


def pipe_size(fd: int) -> int:
    """Return how many bytes the pipe holds.

    Raises:
        OSError: ``fd`` is no pipe.
    """
    return fcntl.fcntl(fd, _F_GETPIPE_SZ)


def resize_pipe(fd: int, size_bytes: int) -> int:
    """Ask for a pipe of ``size_bytes`` and return what it holds now, which may be less or more.

    The kernel rounds up to a power of two pages. It refuses more than ``/proc/sys/fs/pipe-max-size`` and, to a user who has
    many large pipes, any growth; a smaller pipe does the same work in more steps.

    Raises:
        OSError: ``fd`` is no pipe.
    """
    with contextlib.suppress(OSError):
        return fcntl.fcntl(fd, _F_SETPIPE_SZ, min(size_bytes, _LARGEST_INT))  # fcntl would keep just the low bits
    return pipe_size(fd)


def reopen(fd: int, flags: int) -> int:
    """Return a new open file description of what ``fd`` refers to, by ``/proc/self/fd``: with its own offset and flags.

    Raises:
        OSError: The kernel refused, or /proc is not there.
    """
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


# --- I/O priorities ---------------------------------------------------------------------------------------------------

_IOPRIO_NUMBERS: Final = {"x86_64": (252, 251), "aarch64": (31, 30)}.get(os.uname().machine, (0, 0))
_IOPRIO_WHO_PROCESS = 1  # with a number it means one thread, ioprio_set(2)
_IOPRIO_CLASS_SHIFT = 13


def get_io_priority(tid: int) -> tuple[int, int]:
    """Return the (I/O class, level) of a thread: 0 none, 1 realtime, 2 best-effort, 3 idle.

    Raises:
        UnsupportedError: This machine's number of the system call is not known here.
        OSError: There is no such thread (ESRCH), or the kernel refused.
    """
    value = _io_priority_call(_IOPRIO_NUMBERS[0], tid, 0)
    return value >> _IOPRIO_CLASS_SHIFT, value & 7


def set_io_priority(tid: int, io_class: int, level: int) -> None:
    """Set the I/O class and level of a thread, as :func:`get_io_priority` says them.

    Raises:
        UnsupportedError: This machine's number of the system call is not known here.
        OSError: There is no such thread (ESRCH), or the kernel refused (EPERM, EINVAL).
    """
    _io_priority_call(_IOPRIO_NUMBERS[1], tid, io_class << _IOPRIO_CLASS_SHIFT | level)


def _io_priority_call(number: int, tid: int, value: int) -> int:
    if not number or ctypes.sizeof(ctypes.c_void_p) != 8:
        why = f"I/O priorities are known on 64-bit x86-64 and aarch64 only, and this is {os.uname().machine}"
        raise UnsupportedError(errno.ENOSYS, why)
    return _counted(int(_held.syscall(ctypes.c_long(number), _IOPRIO_WHO_PROCESS, tid, value)))
