"""Start a child through libc's posix_spawn, with the GIL given away while it execs.

``subprocess`` and ``os.posix_spawn`` hold the GIL until the child has exec'ed, so a second spawning thread only waits for
the first. Here several threads spawn at once. The child gets exactly the descriptors it was given, the default signal
dispositions and mask, and by default a process group of its own, by which it and its descendants can be signalled together.
There is no ``preexec_fn``: code that runs between fork and exec in a threaded program can wait for a lock for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from procbench import linux
from procbench.errors import (
    ProcbenchError,
    ProgramNotFoundError,
    ProgramPermissionError,
    SpawnError,
    SpawnLimitError,
    UnsupportedError,
)
from procbench.io.clone import FROM_NULL, Cloner
from procbench.io.command import Argument, encode_arguments, encode_environment, forget_resolved, program_name, resolve
from procbench.io.order import INHERIT, NULL, TO_STDOUT

LIMITS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What says that there is no process, descriptor or memory left at the moment."""

_BUSY_TEXT_TRIES = 5
_BUSY_TEXT_WAIT_S = 0.02
_PIDFD_TRIES = 100
_PIDFD_WAIT_S = 0.01
_CACHED_ACTIONS = 256


class Child(NamedTuple):
    """A running child.

    Attributes:
        pid: Process id, and id of its process group when it has its own.
        pidfd: Descriptor that becomes readable when the child has ended; whoever holds the ``Child`` closes it.
    """

    pid: int
    pidfd: int


def spawn(
    argv: Sequence[Argument],
    cwd: Argument | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | None = NULL,
    stdout: int | None = INHERIT,
    stderr: int | None = INHERIT,
    *,
    pass_fds: Sequence[int] = (),
    new_group: bool = True,
    spare: Spare | None = None,
    cloner: Cloner | None = None,
    mark: bytes | None = None,
) -> Child:
    """Start ``argv`` and return at once after its exec succeeded.

    Thread-safe. Costs one system call that waits for the exec (0.3 ms for a small program) and a few that do not wait.

    Args:
        argv: Program and arguments. A program without a slash is looked for in the PATH of ``env``; what was found is
            believed for one second.
        cwd: Working directory of the child.
        env: The child's whole environment; ``None`` means this process's environment as it is now.
        stdin: A descriptor, ``NULL`` or ``INHERIT``.
        stdout: A descriptor, ``NULL`` or ``INHERIT``.
        stderr: A descriptor, ``NULL``, ``INHERIT`` or ``TO_STDOUT``.
        pass_fds: Further descriptors that the child keeps, under the same numbers. Every other one is closed.
        new_group: Whether the child leads a process group of its own.
        spare: A descriptor held in reserve, for who spawns often; otherwise one is opened and closed for this call.
        cloner: What starts children faster, for a thread that starts many. Used where the child needs nothing else than
            its three streams; not used by several threads at a time.
        mark: One more variable of its environment, as ``NAME=value``.

    Raises:
        CommandArgumentError: The argv is empty, or it or the environment holds a NUL.
        ProgramNotFoundError: The program, its interpreter or ``cwd`` does not exist.
        ProgramPermissionError: The program or ``cwd`` may not be used.
        SpawnLimitError: No process, descriptor or memory is left at the moment.
        SpawnError: Any other refusal (ENOEXEC, E2BIG, ...). No child and no descriptor is left in any of these cases.
    """
    arguments = encode_arguments(argv)
    environment = encode_environment(env, argv, mark)
    directory = os.fsencode(cwd) if cwd is not None else None
    path = resolve(arguments[0], env, directory)
    streams = (stdin, stdout, stderr)
    if not linux.HAS_POSIX_SPAWN:
        return _spawn_with_subprocess(arguments, path, directory, env, streams, pass_fds, new_group, mark)
    vector = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
    arrays = (ctypes.addressof(vector), ctypes.addressof(environment))
    sources = None
    if cloner is not None and directory is None and not pass_fds and new_group:
        sources = _WITHOUT_FDS.get(streams) or _simple(streams)
    borrowed: list[int] = []
    held = spare or Spare()
    start: _Start
    try:
        if cloner is not None and sources is not None:
            start = lambda path: cloner.start(path, arrays, sources)  # noqa: E731 - read where it is used
        else:
            held.take()
            actions = _file_actions(streams, tuple(pass_fds), directory, borrowed)
            start = partial(_spawn, arrays=arrays, actions=actions, new_group=new_group, spare=held, argv=argv)
        pid, pidfd, code = start(path)
        if code == errno.ETXTBSY:
            pid, pidfd, code = _when_text_is_free(start, path)
        elif code == errno.ENOENT and path != arguments[0]:
            forget_resolved()  # it was there within the last second: look again before giving up
            path = resolve(arguments[0], env, directory)
            pid, pidfd, code = start(path)
        if code:
            raise explain(code, program_name(argv), path, directory)
        return Child(pid, pidfd)
    except OSError as error:
        if isinstance(error, ProcbenchError):
            raise
        program = program_name(argv)
        raise SpawnLimitError(error.errno or errno.EMFILE, "limits", program, "no descriptor is left") from error
    finally:
        for fd in borrowed:
            linux.close_now(fd)
        if spare is None:
            held.close()


class Spare:
    """A descriptor held in reserve, so that a child's pidfd does not fail for lack of one once the child runs."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = -1

    def take(self) -> None:
        """Make sure that it is held.

        Raises:
            OSError: No descriptor is left (EMFILE, ENFILE).
        """
        if self._fd < 0:
            self._fd = os.eventfd(0)

    def close(self) -> None:
        """Give it up; harmless when it is given up already."""
        if self._fd >= 0:
            linux.close_now(self._fd)
            self._fd = -1


@functools.cache
def _attributes(new_group: bool) -> linux.SpawnAttributes:
    return linux.SpawnAttributes(new_group=new_group)


_Start = Callable[[bytes], tuple[int, int, int]]
"""Starts the program at a path and returns (pid, pidfd, 0), or (0, -1, errno) where there is no child."""


def _when_text_is_free(start: _Start, path: bytes) -> tuple[int, int, int]:
    """Start a program that somebody had open for writing.

    The script was just written, and a child forked at that moment still holds it open; it lets go when it execs.
    """
    started = 0, -1, errno.ETXTBSY
    for _ in range(_BUSY_TEXT_TRIES):
        time.sleep(_BUSY_TEXT_WAIT_S)
        started = start(path)
        if started[2] != errno.ETXTBSY:
            break
    return started


def _spawn(
    path: bytes,
    *,
    arrays: tuple[int, int],
    actions: linux.FileActions,
    new_group: bool,
    spare: Spare,
    argv: Sequence[Argument],
) -> tuple[int, int, int]:
    """Start a child by posix_spawn; an interrupt that waited for the call leaves none behind."""
    pid = ctypes.c_int()
    code = -1
    try:
        code = linux.posix_spawn(ctypes.addressof(pid), path, actions.address, _attributes(new_group).address, *arrays)
    except BaseException:
        if pid.value:
            end_at_once(pid.value)
        raise
    return (0, -1, code) if code else (pid.value, _open_pidfd(pid.value, spare, argv), 0)


def _simple(streams: _Streams) -> tuple[int, ...] | None:
    """Return what ``Cloner.start`` makes of the streams; ``None`` where it takes more than a duplication that cannot fail."""
    sources = []
    for target, source in enumerate(streams):
        if source is INHERIT:
            sources.append(target)
        elif source == TO_STDOUT:
            sources.append(1)
        elif source == NULL:
            sources.append(FROM_NULL)
        elif source >= len(streams) and linux.is_open(source):
            sources.append(source)
        else:
            return None
    return tuple(sources)


_WITHOUT_FDS: Final = {
    streams: _simple(streams)
    for streams in itertools.product((INHERIT, NULL), (INHERIT, NULL), (INHERIT, NULL, TO_STDOUT))
}


def end_at_once(pid: int) -> None:
    """Kill and reap a child that nobody has begun to look after; one that took another user's id in full cannot be killed."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _open_pidfd(pid: int, spare: Spare, argv: Sequence[Argument]) -> int:
    """Open the running child's pidfd in the spare's place; should another thread snatch that, children that end make room."""
    for attempt in range(_PIDFD_TRIES):
        try:
            return os.pidfd_open(pid)
        except OSError as error:
            failure = error
            if error.errno == errno.ESRCH:
                return os.eventfd(1)  # reaped already, by somebody else or because SIGCHLD is ignored: always readable
            if error.errno not in LIMITS:
                break
        spare.close()
        if attempt:
            time.sleep(_PIDFD_WAIT_S)
    end_at_once(pid)
    if failure.errno == errno.ENOSYS:
        raise UnsupportedError(
            errno.ENOSYS, "pidfd_open(2) is missing; procbench needs Linux 5.3 or newer"
        ) from failure
    program = program_name(argv)
    raise SpawnLimitError(failure.errno or errno.EMFILE, "limits", program, "it was ended again") from failure


# --- what the child does to its descriptors -------------------------------------------------------------------------

_Streams = tuple[int | None, int | None, int | None]
_actions: dict[tuple[_Streams, tuple[int, ...], bytes | None], linux.FileActions] = {}


def _above_standard(streams: _Streams, borrowed: list[int]) -> _Streams:
    """Copy a source among 0, 1, 2 that an earlier duplication would overwrite; the copies are added to ``borrowed``."""
    moved: list[int | None] = []
    for target, source in enumerate(streams):
        if source is None or source == target or not 0 <= source < len(streams):
            moved.append(source)
            continue
        copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, len(streams))
        borrowed.append(copy)
        moved.append(copy)
    return moved[0], moved[1], moved[2]


def _file_actions(
    streams: _Streams, pass_fds: tuple[int, ...], directory: bytes | None, borrowed: list[int]
) -> linux.FileActions:
    """Return the actions for these descriptors, from the cache: pipes get the same few numbers over and over."""
    key = (streams, pass_fds, directory)
    found = _actions.get(key)
    if found is not None:
        return found
    streams = _above_standard(streams, borrowed)
    actions = linux.FileActions()
    for target, source in enumerate(streams):
        if source == NULL:
            actions.open_null(target)
        elif source == TO_STDOUT:
            actions.duplicate(1, target)
        elif source is not None:
            actions.duplicate(source, target)
    kept = sorted(set(pass_fds))
    lowest = len(streams)
    for fd in kept:
        for gap in range(lowest, fd):
            actions.close(gap)
        actions.duplicate(fd, fd)
        lowest = fd + 1
    actions.close_from(lowest)
    if directory is not None:
        actions.enter(directory)
    if not borrowed:  # a copy's number means something else the next time
        if len(_actions) >= _CACHED_ACTIONS:
            _actions.clear()
        _actions[key] = actions
    return actions


def explain(code: int, program: str, path: bytes, directory: bytes | None) -> SpawnError:
    """Return the error for posix_spawn's ``code``, which does not say at which step it arose: look what is wrong now."""
    if code in LIMITS:
        return SpawnLimitError(code, "limits", program)
    if code == errno.E2BIG:
        return SpawnError(code, "limits", program, "arguments and environment are longer than the kernel takes")
    if directory is not None and code in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
        where = f"the working directory {os.fsdecode(directory)!r}"
        if not os.path.isdir(directory):  # noqa: PTH112 - bytes
            return ProgramNotFoundError(code, "cwd", program, f"{where} is not there")
        if not os.access(directory, os.X_OK):
            return ProgramPermissionError(code, "cwd", program, f"{where} may not be entered")
    if code == errno.ENOENT:
        if os.path.exists(os.path.join(directory or b"", path)):  # noqa: PTH110, PTH118 - bytes
            return ProgramNotFoundError(code, "exec", program, "the interpreter its first line names is not there")
        return ProgramNotFoundError(code, "resolve", program)
    if code in (errno.EACCES, errno.EPERM):
        return ProgramPermissionError(code, "exec", program)
    hint = "it is neither a binary for this machine nor a script with a #! line" if code == errno.ENOEXEC else ""
    return SpawnError(code, "exec", program, hint)


# --- the way back ---------------------------------------------------------------------------------------------------


def _spawn_with_subprocess(
    arguments: list[bytes],
    path: bytes,
    directory: bytes | None,
    env: Mapping[str, str] | None,
    streams: _Streams,
    pass_fds: Sequence[int],
    new_group: bool,
    mark: bytes | None,
) -> Child:
    """Start the child as ``subprocess`` does: for a libc without the pieces. Slower, because the GIL is held meanwhile."""
    program = os.fsdecode(arguments[0])
    if mark is not None:
        name, _, value = os.fsdecode(mark).partition("=")
        env = {**(os.environ if env is None else env), name: value}
    # The child inherits the mask, and its own must be empty; Popen sees to the dispositions.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        process = subprocess.Popen(
            arguments,
            executable=path,
            cwd=directory,
            env=env,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            pass_fds=pass_fds,
            process_group=0 if new_group else None,
        )
    except OSError as error:
        raise explain(error.errno or errno.EINVAL, program, path, directory) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    process.returncode = 0  # Popen must neither reap the child nor warn about it: its pidfd is what counts from here
    return Child(process.pid, _open_pidfd(process.pid, Spare(), arguments))
