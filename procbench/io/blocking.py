"""``run``: a command from start to end, with the meaning of ``subprocess.run`` and what the command cost besides."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

from procbench import linux
from procbench.errors import CommandTimeoutError, InvalidInputError, ProcbenchError
from procbench.io.arguments import Stream, order_for
from procbench.io.budget import shared_budget
from procbench.io.command import Argument
from procbench.io.contained import ContainmentLevel
from procbench.io.keep import Overflow, Tee
from procbench.io.order import CAPTURE, DRAIN_GRACE_S, INHERIT, KILL_GRACE_S, NULL, Data
from procbench.io.results import RunResult
from procbench.io.runner import ChildRunner
from procbench.memory.transports import Transport


def run(
    argv: Sequence[Argument],
    *,
    input: Data | None = None,
    stdin: Stream = NULL,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    cwd: Argument | None = None,
    env: Mapping[str, str] | None = None,
    max_output_bytes: int | None = None,
    kill_grace_s: float = KILL_GRACE_S,
    drain_grace_s: float = DRAIN_GRACE_S,
    transport: Transport = "auto",
    pipe_size_bytes: int | None = None,
    overflow: Overflow = "drop",
    tee_stdout: Tee | None = None,
    tee_stderr: Tee | None = None,
    containment: ContainmentLevel = "group",
) -> RunResult:
    """Run a command and wait for its end; arguments mean what they mean for ``subprocess.run``.

    Four things differ, each for a reason. Standard input is ``/dev/null`` unless asked otherwise, so that a child in its
    own process group cannot stop on the terminal or change the mode of this process's input. A time-out ends the whole
    process group, first by SIGTERM. Output is bytes. And a background process that keeps the pipe open does not keep this
    call waiting: after the child's end it is given ``drain_grace_s``.

    Args:
        argv: Program and arguments, as a list; never given to a shell.
        input: Bytes, or a mapping, for its standard input. A sealed memory file, or a file, *becomes* its standard input.
        stdin: ``subprocess.DEVNULL``, a descriptor, an open file, or ``None`` for this process's own.
        stdout: ``subprocess.PIPE``, ``DEVNULL``, a descriptor, an open file, or ``None`` for this process's own.
        stderr: The same, or ``subprocess.STDOUT``.
        capture_output: Short for ``stdout=PIPE, stderr=PIPE``.
        timeout: Seconds until it is ended.
        check: Raise if its status is not 0.
        cwd: Its working directory.
        env: Its whole environment; ``None`` for this process's.
        max_output_bytes: Most bytes kept of each captured stream; the rest is read and counted.
        kill_grace_s: Seconds between SIGTERM and SIGKILL when it has to be ended.
        drain_grace_s: Seconds that a descendant may hold the pipe after the child's end.
        transport: How ``input`` goes to it, if its kind allows that way; see :mod:`procbench.memory.transports`.
        pipe_size_bytes: Size to ask for, of each of its pipes; ``None`` for 1 MiB where more than 64 KiB are sent.
        overflow: What becomes of what goes over ``max_output_bytes``: ``drop`` keeps the beginning, ``ring`` the beginning and
            the end, ``spool`` everything, in an unlinked file, and ``kill`` ends the child.
        tee_stdout: Where a copy of its captured standard output goes as it comes: a function that is called with each piece
            (a memoryview, valid during the call), an open binary file, or a descriptor.
        tee_stderr: The same for its standard error.
        containment: How what it starts is held together, to be ended with it: ``group``, ``subreaper`` or ``cgroup``; see
            :mod:`procbench.io.containment`.

    Returns:
        How it ended and what it cost.

    Raises:
        SpawnError: It could not be started; ``stage`` says where.
        CommandTimeoutError: Its time was up (also a ``subprocess.TimeoutExpired``); it is gone. What was kept of its output in
            memory is attached; a file of it is closed.
        CommandFailedError: ``check`` and it failed (also a ``subprocess.CalledProcessError``); otherwise the same.
        InvalidInputError: The arguments contradict each other.
        MappingLentError: ``input`` is a mapping, not sealed, and a view of it is alive.
    """
    if capture_output:
        if stdout is not INHERIT or stderr is not INHERIT:
            raise InvalidInputError("capture_output stands for stdout=PIPE and stderr=PIPE; leave those two out")
        stdout = stderr = CAPTURE
    if stdin == CAPTURE:
        raise InvalidInputError("stdin=PIPE would leave nobody to write into the pipe; give the bytes as input=")
    order = order_for(
        argv,
        input=input,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        timeout=timeout,
        cwd=cwd,
        env=env,
        max_output_bytes=max_output_bytes,
        overflow=overflow,
        tees=(tee_stdout, tee_stderr),
        kill_grace_s=kill_grace_s,
        drain_grace_s=drain_grace_s,
        containment=containment,
        transport=transport,
        pipe_size_bytes=pipe_size_bytes,
    )
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(contextlib.closing(ChildRunner(containment=containment, budget=shared_budget())))
        if input is not None:
            stack.enter_context(linux.sigpipe_blocked())
        fields = runner.run(order)
    result = RunResult(*fields)
    try:
        if result.timed_out and timeout is not None:
            raise CommandTimeoutError([os.fsdecode(a) for a in argv], timeout, result.stdout, result.stderr)
        if check:
            result.check_returncode()
    except ProcbenchError:
        result.close_files()  # which nobody gets now
        raise
    return result
