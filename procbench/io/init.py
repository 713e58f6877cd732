"""Run one command as the first process of a container would: pass signals on, reap whatever is orphaned, leave nothing.

A process with pid 1 has duties that programs do not know of. The kernel hands it all orphans, which stay zombies until it
reaps them, and keeps signals from it that it has no handler for. Here a process of its own has these duties, in a pid namespace
or as a subreaper outside of one, and the command is an ordinary child.

All signals are held back and taken one by one by sigwaitinfo(2), so that none is lost between the start and the end, and
nothing runs while nothing happens.

Source: pid_namespaces(7), PR_SET_CHILD_SUBREAPER in prctl(2), sigwaitinfo(2), setpgid(2); tini and dumb-init for the custom.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import time
from collections.abc import Sequence
from typing import Final

from procbench import linux
from procbench.errors import InvalidInputError
from procbench.io.command import Argument, encode_arguments, encode_environment, program_name, resolve
from procbench.io.foreground import Foreground, stop_like
from procbench.io.groups import descendants, signal_process
from procbench.io.orphans import adopt, adopt_no_longer

TIMED_OUT: Final = 124
"""The status that says that time was up, as timeout(1) has it."""

_FAULTS: Final = frozenset(
    getattr(signal, f"SIG{name}") for name in ("ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP")
)
_HELD: Final = signal.valid_signals() - _FAULTS - {signal.SIGKILL, signal.SIGSTOP}
_OURS: Final = frozenset({signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU})  # all others are the command's
_IMPATIENT: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})

# Python ignores the first two from its start, so that nobody can tell whether they were ignored before.
_RESET: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)

_FROM_KERNEL: Final = 0x80  # SI_KERNEL of sigaction(2): from the terminal, which means a whole process group
_GIVE_UP_S: Final = 5.0  # what outlives SIGKILL that long waits in the kernel, or is another user's
_LONGEST_WAIT_S: Final = 86_400.0
_WAIT_PER_LOOK: Final = 4  # with many processes a look takes long; this keeps it from being all that is done


def run_as_init(
    argv: Sequence[Argument], *, group: bool = False, timeout: float | None = None, grace_s: float = 5.0
) -> int:
    """Run a command to its end, and return the status to exit with: its own, or 128 and the signal that ended it.

    The command leads a process group of its own, and has this process's streams, inheritable descriptors and ignored signals.
    Every signal is passed on to it; one that comes from the terminal, to its whole group. It can read from the terminal, and
    when it is stopped this process stops too, so that a shell takes over. What it leaves behind is ended: by SIGTERM, and
    after the grace, or when another signal asks to end meanwhile, by SIGKILL. Children that this process had before are
    taken for such.

    For the main and only thread of a process that ends with the status returned: its signals stay held back until
    then, so that one which comes late does not change it.

    Args:
        argv: The command.
        group: Pass signals on to the command's whole group instead of the command alone.
        timeout: Seconds until it is ended, like what it leaves behind, and the status is 124; ``None`` is for ever.
        grace_s: Seconds between SIGTERM and SIGKILL.

    Raises:
        InvalidInputError: ``timeout`` or ``grace_s`` is not a number of seconds.
        CommandArgumentError: The argv is empty, or holds a NUL.
        ProgramNotFoundError: The program or its interpreter does not exist.
        SpawnError: Any other refusal. As with the errors before, nothing was started, and signals are as they were.
    """
    for name, value in (("timeout", timeout), ("grace_s", grace_s)):
        if value is not None and not 0 <= value < float("inf"):
            raise InvalidInputError(f"{name} must be a number of seconds from 0, not {value:g}")
    until_s = None if timeout is None else time.monotonic() + timeout
    before, on_child = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD), signal.getsignal(signal.SIGCHLD)
    foreground = Foreground()
    try:
        # Ignored, it would have the kernel reap, and tell nobody the status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        adopt()
        command = _start(argv, foreground)
    except BaseException:
        foreground.close()
        adopt_no_longer()
        signal.signal(signal.SIGCHLD, on_child or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    init = _Init(command, foreground, whole_group=group)
    status = init.wait(until_s)
    init.end_the_rest(grace_s)
    foreground.close()
    return status


def _start(argv: Sequence[Argument], foreground: Foreground) -> int:
    """Start the command and return its pid; as with exec(2), it keeps every descriptor that is not close-on-exec."""
    arguments, environment = encode_arguments(argv), encode_environment(None, argv)
    path = resolve(arguments[0])
    vector = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
    arrays = ctypes.addressof(vector), ctypes.addressof(environment)
    actions, attributes = linux.FileActions(), linux.SpawnAttributes(new_group=True, reset=_RESET)
    # In a pipeline others may have to read from the terminal; there it is lent once the command is stopped for want of it.
    if foreground.belongs_to(os.getpgrp()) and not any(map(_is_pipe, range(3))):
        actions.to_foreground(foreground.terminal)
        foreground.lent = True
    pid = ctypes.c_int()
    code = linux.posix_spawn(ctypes.addressof(pid), path, actions.address, attributes.address, *arrays)
    if code:
        from procbench.io.spawn import explain  # much to load, for what seldom happens

        raise explain(code, program_name(argv), path, None)
    return pid.value


def _is_pipe(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    return False  # closed


class _Init:
    """Looks after a command that was started, and all that becomes an orphan meanwhile."""

    def __init__(self, command: int, foreground: Foreground, *, whole_group: bool) -> None:
        self._command = command
        self._foreground = foreground
        self._whole_group = whole_group
        self._status: int | None = None

    def wait(self, until_s: float | None) -> int:
        """Pass signals on and reap until the command has ended, or time is up; return the status."""
        while self._status is None:
            info = _next_signal(until_s)
            if info is None:
                if until_s is not None and time.monotonic() >= until_s:
                    self._status = TIMED_OUT  # the foreground stays with it: it may have to set the terminal right
            elif info.si_signo == signal.SIGCHLD:
                self._reap()
            elif info.si_signo not in _OURS:
                self._send(info.si_signo, to_group=self._whole_group or info.si_code == _FROM_KERNEL)
        return self._status

    def end_the_rest(self, grace_s: float) -> None:
        """End and reap all descendants; who asks this process to end meanwhile has them killed at once."""
        number, kill_at_s = signal.SIGTERM, time.monotonic() + grace_s
        told: set[tuple[int, int]] = set()
        look_at_s, earliest_s = 0.0, 0.0
        while self._reap():
            now_s = time.monotonic()
            if now_s >= kill_at_s:
                if number == signal.SIGKILL:
                    return
                number, kill_at_s, look_at_s = signal.SIGKILL, now_s + _GIVE_UP_S, now_s
                told.clear()
            if now_s >= look_at_s:
                _tell_descendants(number, told)
                look_at_s, took_s = kill_at_s, time.monotonic() - now_s
                earliest_s = now_s + _WAIT_PER_LOOK * took_s
            info = _next_signal(min(look_at_s, kill_at_s))
            if info is not None and info.si_signo == signal.SIGCHLD:
                # Whoever the last look missed has become an orphan by the end of one that was told.
                look_at_s = earliest_s
            elif info is not None and info.si_signo in _IMPATIENT and number != signal.SIGKILL:
                kill_at_s = 0.0

    def _reap(self) -> bool:
        """Reap all that has ended, see whether the command was stopped, and return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid != self._command or self._status is not None:
                continue
            if os.WIFSTOPPED(status):
                self._stopped(os.WSTOPSIG(status))
            else:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
                self._foreground.take_back()

    def _stopped(self, number: int) -> None:
        """Let the terminal's shell, if there is one, take over while the command is stopped."""
        if self._foreground.terminal < 0:
            return  # whoever stopped it continues it
        wants_terminal = number in (signal.SIGTTIN, signal.SIGTTOU)
        if not (wants_terminal and self._foreground.lend(self._command)):
            self._foreground.take_back()
            continued = stop_like(number)
            self._foreground.lend(self._command)
            if not continued and number == signal.SIGSTOP:
                return
            if not continued and wants_terminal:  # nobody will ever let it read: what the kernel says in such a case
                self._send(signal.SIGHUP, to_group=True)
        self._send(signal.SIGCONT, to_group=True)

    def _send(self, number: int, *, to_group: bool) -> None:
        # It is not reaped, so that its number is nobody else's. A set-user-id program may be out of reach.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if to_group else os.kill)(self._command, number)


def _next_signal(until_s: float | None) -> signal.struct_siginfo | None:
    if until_s is None:
        return signal.sigwaitinfo(_HELD)
    return signal.sigtimedwait(_HELD, min(max(until_s - time.monotonic(), 0.0), _LONGEST_WAIT_S))


def _tell_descendants(number: int, told: set[tuple[int, int]]) -> None:
    """Send a signal to every descendant that was not told before, stopped ones included."""
    if os.getpid() == 1:  # all there are, at once: /proc may be another namespace's
        everyone = (-1, 0)
        for one in (number, signal.SIGCONT) if everyone not in told else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, one)
        told.add(everyone)
        return
    for process in descendants(os.getpid()):
        which = process.pid, process.started_ticks
        if which not in told:
            told.add(which)
            signal_process(process, number)
            signal_process(process, signal.SIGCONT)
