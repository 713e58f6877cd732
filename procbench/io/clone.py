"""Start a child by clone(2) on memory that is kept, for a thread that starts many.

posix_spawn(3) maps a stack for every child, unmaps it (which interrupts every other CPU the process runs on) and sets the
disposition of all 64 signals one by one. With small programs and several spawning threads that is 2 to 5 % of the batch. A
thread that keeps the stack, and resets only the signals that are not at their default, saves it.

What the child does before its exec must not be Python: it borrows this process's memory, and its thread is gone. So it is a
chain of contexts (makecontext(3)): each calls one libc function with arguments written down beforehand, and the function's
return leads to the next. The last one execs. Only where that fails does the chain go on: it copies ``errno`` to where the
parent looks, and ends the child. As with vfork(2), the calling thread stands still until the child has exec'ed or ended.

The layout of a context is the processor's and libc's own: x86-64 with glibc, and posix_spawn everywhere else.

Source: clone(2) (``CLONE_VM``, ``CLONE_VFORK``; ``CLONE_PIDFD`` since Linux 5.2), close_range(2) (Linux 5.9), makecontext(3),
glibc's ``sysdeps/unix/sysv/linux/spawni.c`` for what such a child must see to, ``sys/ucontext.h`` for the layout.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # getsignal without an enum looked up for each signal: 20 times as fast
import _thread
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from procbench import linux

# What ends a program, stops it, or tells it of its children is reset whatever Python knows of it: libraries ignore signals
# behind Python's back, and another thread may do so at this moment. The rest is reset where Python knows it to be changed.
_ALWAYS_RESET: Final = frozenset(
    getattr(signal, f"SIG{name}").value
    for name in ["HUP", "INT", "QUIT", "PIPE", "ALRM", "TERM", "USR1", "USR2", "CHLD", "TSTP", "TTIN", "TTOU", "XFSZ"]
)

# Those whose disposition matters; the others are reset whatever it is.
_SIGNALS: Final = tuple(int(number) for number in sorted(signal.valid_signals() - _ALWAYS_RESET))

FROM_NULL: Final = -1
"""The source of a descriptor that shall be ``/dev/null``."""

_STANDARD: Final = 3  # stdin, stdout, stderr
_ALL_ABOVE: Final = 0xFFFF_FFFF
_EXEC_FAILED: Final = 127

_CLONE_VM = 0x0000_0100
_CLONE_PIDFD = 0x0000_1000
_CLONE_VFORK = 0x0000_4000
_FLAGS: Final = _CLONE_VM | _CLONE_VFORK | _CLONE_PIDFD | int(signal.SIGCHLD)

# Places in gregs[] of sys/ucontext.h: the registers of a call's first three arguments.
_FIRST, _SECOND, _THIRD = 8, 9, 12

_LINE_BYTES: Final = 64  # what makecontext writes at the top of a context's stack, rounded up to a cache line
_SIGSET_BYTES: Final = 128
_STACK_BYTES: Final = 16 * 1024  # the kernel's own alternate stacks are smaller, and no signal handler runs on this one


class _Context(ctypes.Structure):
    """``ucontext_t`` of x86-64 glibc, with room to spare behind what it has."""

    _fields_ = (
        ("flags", ctypes.c_ulong),
        ("link", ctypes.c_void_p),
        ("stack", ctypes.c_void_p),
        ("stack_flags", ctypes.c_long),
        ("stack_bytes", ctypes.c_size_t),
        ("registers", ctypes.c_ulong * 23),
        ("floating", ctypes.c_void_p),
        ("reserved", ctypes.c_ulong * 8),
        ("mask", ctypes.c_ubyte * _SIGSET_BYTES),
        ("rest", ctypes.c_ubyte * (1024 - 424)),
    )


_held = ctypes.PyDLL(None)

_clone = ctypes.CDLL(None, use_errno=True).clone
"""``clone(function, stack, flags, argument, &pidfd) -> pid | -1``; gives the GIL away while the child execs."""
_clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

_errno_location: Any = getattr(_held, "__errno_location", None)  # absent outside glibc
if _errno_location is not None:
    _errno_location.restype = ctypes.c_void_p
_memcpy = _held.memcpy
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_sigmask = _held.pthread_sigmask
_sigmask.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def usable() -> bool:
    """Return whether children can be started this way here. Costs the start of one child, the first time.

    Needs glibc on x86-64, close_range(2), and no shadow stack, which would take a return that no call led to for an attack.
    Whether it really works, sandboxes and all, is tried: a child that has nothing to exec must come back with just that error.
    """
    if platform.machine() != "x86_64" or ctypes.sizeof(ctypes.c_void_p) != 8 or _errno_location is None:
        return False
    pieces = ("clone", "getcontext", "makecontext", "setcontext", "close_range")
    if not all(hasattr(_held, piece) for piece in pieces) or _held.close_range(_ALL_ABOVE, _ALL_ABOVE, 0) != 0:
        return False
    with contextlib.suppress(OSError):
        if b"shstk" in Path("/proc/self/status").read_bytes():
            return False
    nothing = (ctypes.c_char_p * 1)(None)
    arrays = ctypes.addressof(nothing), ctypes.addressof(nothing)
    chain = _Chain(())
    _, pidfd, code = chain.start(b"", arrays)
    if pidfd >= 0:
        chain.end()
    return code == errno.ENOENT


class Cloner:
    """Starts children one after the other, each as leader of its own process group.

    The first one costs more than by posix_spawn, every later one less. Not thread-safe; a thread that starts many keeps one.

    Args:
        keeps_handlers: Whether it may refer to this process's signal handlers, which is quicker; not where it lives as long
            as something that a handler may refer to.
    """

    __slots__ = ("_chain", "_dispositions", "_keeps_handlers", "_null_fd", "_sources", "_thread_id")

    def __init__(self, *, keeps_handlers: bool = True) -> None:
        self._keeps_handlers = keeps_handlers
        self._null_fd = -1
        self._chain: _Chain | None = None
        self._dispositions: list[Any] = []
        self._thread_id = 0
        self._sources: tuple[int, ...] = ()

    def close(self) -> None:
        """Give the descriptor and the memory back. Harmless when called twice."""
        self._chain = None
        if self._null_fd >= 0:
            fd, self._null_fd = self._null_fd, -1
            linux.close_now(fd)

    def start(self, path: bytes, arrays: tuple[int, int], sources: tuple[int, ...]) -> tuple[int, int, int]:
        """Start a child and return its pid, its pidfd and 0; or 0, -1 and the errno for which there is none.

        Args:
            path: The program's file.
            arrays: Addresses of argv and envp, each ended by a null pointer.
            sources: What becomes its descriptors 0, 1 and 2: an open descriptor of this process above 2; ``FROM_NULL``;
                the number of one that comes before, for a copy of it; or its own number, to be kept.

        Raises:
            OSError: No descriptor is left for ``/dev/null`` (EMFILE, ENFILE).
        """
        handlers = [*map(_signal.getsignal, _SIGNALS)]
        # Their ids do where a handler, which may refer to anything, must not live as long as this. That an id comes back for
        # another function is no matter: what is caught is reset, whoever catches it.
        dispositions: list[Any] = handlers if self._keeps_handlers else [*map(id, handlers)]
        if dispositions != self._dispositions or _thread.get_ident() != self._thread_id:
            changed = [n for n, one in zip(_SIGNALS, handlers, strict=True) if one is not _signal.SIG_DFL]
            self._chain = _Chain([*_ALWAYS_RESET, *changed])
            self._dispositions, self._thread_id = dispositions, _thread.get_ident()
            self._sources = ()
        chain = cast(_Chain, self._chain)
        if sources != self._sources:
            chain.connect([self.null_fd() if source == FROM_NULL else source for source in sources])
            self._sources = sources
        return chain.start(path, arrays)

    def null_fd(self) -> int:
        """Return this process's own descriptor of ``/dev/null``, above the standard ones."""
        if self._null_fd < 0:
            fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            if fd < _STANDARD:
                low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _STANDARD)
                os.close(low)
            self._null_fd = fd
        return self._null_fd


class _Chain:
    """What a child does between its creation and its exec, written down in memory.

    The contexts run one after the other on one stack. Each begins a little above the one before, so that a function uses only
    the part that earlier ones have left; the tops, which are used up in passing, are restored from a copy for the next child.

    Args:
        reset: Signals whose disposition becomes the default.
    """

    def __init__(self, reset: Sequence[int]) -> None:
        default_action = ctypes.create_string_buffer(256)  # struct sigaction: SIG_DFL, nothing blocked, no flag
        self._failure = ctypes.c_int()
        self._pidfd = ctypes.c_int(-1)
        self._path: bytes | None = None
        self._path_buffer = ctypes.create_string_buffer(1)
        steps: list[tuple[Any, tuple[int, ...]]] = [
            (_held.setpgid, (0, 0)),
            # What is ignored would stay ignored; what is caught would run this process's handler once it is unblocked.
            *((_held.sigaction, (number, ctypes.addressof(default_action), 0)) for number in reset),
            *((_held.dup2, (target, target)) for target in range(_STANDARD)),
            (_held.close_range, (_STANDARD, _ALL_ABOVE, 0)),
            (_held.execve, (0, 0, 0)),
            # errno is this thread's, which the child shares.
            (_held.memcpy, (ctypes.addressof(self._failure), _errno_location(), ctypes.sizeof(self._failure))),
            (_held._exit, (_EXEC_FAILED,)),
        ]
        self._contexts = (_Context * len(steps))()
        self._stack = ctypes.create_string_buffer(_STACK_BYTES + (len(steps) + 1) * _LINE_BYTES)
        first_top = (ctypes.addressof(self._stack) + _STACK_BYTES) // _LINE_BYTES * _LINE_BYTES
        self._write_down(steps, first_top)
        functions = [function for function, _ in steps]
        self._execve = self._contexts[functions.index(_held.execve)].registers
        first_dup2 = functions.index(_held.dup2)
        self._sources = [self._contexts[first_dup2 + target].registers for target in range(_STANDARD)]

        used_up = len(steps) * _LINE_BYTES
        self._copy = ctypes.create_string_buffer(ctypes.string_at(first_top, used_up), used_up)
        self._keep = default_action  # the contexts refer to it by its address
        self._all_signals = ctypes.create_string_buffer(_SIGSET_BYTES)
        self._mask = ctypes.create_string_buffer(_SIGSET_BYTES)
        _held.sigfillset(self._all_signals)
        address = ctypes.addressof
        self._restoring = (first_top, address(self._copy), used_up)
        self._blocking = (int(signal.SIG_SETMASK), address(self._all_signals), address(self._mask))
        self._unblocking = (int(signal.SIG_SETMASK), address(self._mask), 0)
        self._cloning = (
            _address(_held.setcontext),
            first_top - _LINE_BYTES,
            _FLAGS,
            address(self._contexts),
            address(self._pidfd),
        )

    def _write_down(self, steps: Sequence[tuple[Any, tuple[int, ...]]], first_top: int) -> None:
        addresses = [ctypes.addressof(context) for context in self._contexts]
        for place, (function, arguments) in enumerate(steps):
            context = self._contexts[place]
            _held.getcontext(ctypes.byref(context))
            # The mask that the context begins with: all is blocked until the exec, and then nothing.
            ctypes.memset(ctypes.addressof(context.mask), 0x00 if function is _held.execve else 0xFF, _SIGSET_BYTES)
            context.link = addresses[place + 1] if place + 1 < len(addresses) else None
            context.stack_bytes = _STACK_BYTES // 2
            context.stack = first_top + (place + 1) * _LINE_BYTES - context.stack_bytes
            _held.makecontext(ctypes.byref(context), function, len(arguments), *map(ctypes.c_void_p, arguments))

    def connect(self, sources: Sequence[int]) -> None:
        """Note what becomes the child's descriptors 0, 1 and 2."""
        for registers, source in zip(self._sources, sources, strict=True):
            registers[_FIRST] = source

    def start(self, path: bytes, arrays: tuple[int, int]) -> tuple[int, int, int]:
        """Start a child and return its pid, its pidfd and 0; or 0, -1 and the errno for which there is none."""
        if path is not self._path:
            self._path, self._path_buffer = path, ctypes.create_string_buffer(path)
            self._execve[_FIRST] = ctypes.addressof(self._path_buffer)
        self._execve[_SECOND], self._execve[_THIRD] = arrays
        self._failure.value = 0
        self._pidfd.value = -1
        _memcpy(*self._restoring)
        _sigmask(*self._blocking)
        try:
            try:
                pid = _clone(*self._cloning)
            finally:
                _sigmask(*self._unblocking)  # here comes an interrupt that waited for the call
            code = self._failure.value
        except BaseException:  # which leaves no child behind
            self.end()
            raise
        if pid == -1:
            return 0, -1, ctypes.get_errno()
        if code:
            self.end()
            return 0, -1, code
        return pid, self._pidfd.value, 0

    def end(self) -> None:
        """Kill and reap the child that was started last, if there is one."""
        pidfd = self._pidfd.value
        if pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            linux.close_now(pidfd)
