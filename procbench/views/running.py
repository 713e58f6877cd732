"""What ``procbench run`` does, from the options to the exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from procbench.errors import ProcbenchError
from procbench.scheduling.commands import Commands, read_batch, read_priorities, shell_words
from procbench.scheduling.shown import shell_line
from procbench.scheduling.task import TaskResult
from procbench.views.batch import BatchResult, record_batch, run_batch, showing
from procbench.views.joblog import JobLog, Logged, left_to_run, read_log
from procbench.views.ordering import expected_seconds, longest_first, shuffled
from procbench.views.outputs import Outputs
from procbench.views.run_options import RunOptions, check_folder
from procbench.views.summary import say_failures, show_batch

if TYPE_CHECKING:
    from procbench.lab.host import HostFacts

_FAILED = 1


def run_asked(options: RunOptions, say: Callable[[str], None]) -> int:
    """Run the commands that were asked for, or show them, and return the exit status.

    Args:
        options: What was asked.
        say: Writes one line to the person.

    Raises:
        InvalidInputError: The commands, priorities or job log make no sense; nothing was run.
        ProcbenchError: The batch could not begin, or what was asked to be written could not.
        OSError: A file cannot be read.
    """
    settings = options.chosen
    commands = read_batch(
        options.command or (),
        options.each,
        options.commands,
        null=options.null,
        args_per_task=settings.args_per_task,
    )
    if options.commands is not None and (warning := shell_words(commands.argvs)):
        say(warning)
    priorities = None
    if options.priority_from is not None:
        priorities = read_priorities(options.priority_from, len(commands.argvs))
    if options.dry_run:
        for number in _order(options, commands, _logged(options, commands), say):
            sys.stdout.buffer.write(shell_line(commands.argvs[number]) + b"\n")
        return 0
    host = _host_to_record(options)
    with contextlib.ExitStack() as held:
        log, logged = None, Logged({}, 0)
        if options.joblog is not None:
            log = held.enter_context(JobLog(options.joblog, commands.argvs, resume=options.resumes))
            logged = log.logged
        numbers = _order(options, commands, logged, say)
        outputs = Outputs(commands.tag if options.tag else None, sorted(numbers) if options.keep_order else None)
        show = held.enter_context(showing(len(numbers), quiet=options.quiet, outputs=outputs))
        batch = run_batch(
            commands.argvs, settings, show, priorities, numbers=numbers, log=None if log is None else _adds(log)
        )
    return _tell(batch, options, host, say)


def _logged(options: RunOptions, commands: Commands) -> Logged:
    """Return what the job log says, which is not touched."""
    if options.joblog is None or not options.resumes or not options.joblog.exists():
        return Logged({}, 0)
    return read_log(options.joblog.read_bytes(), str(options.joblog), commands.argvs)


def _order(options: RunOptions, commands: Commands, logged: Logged, say: Callable[[str], None]) -> Sequence[int]:
    """Return the numbers of the commands to run, in the order in which they shall begin."""
    numbers = left_to_run(len(commands.argvs), logged.done(again_if_failed=options.resume_failed))
    if options.shuffle:
        return shuffled(numbers, options.seed)
    if options.chosen.order != "longest_first":
        return numbers
    expected_s = expected_seconds(commands.argvs, options.data)
    if expected_s:
        return longest_first(numbers, expected_s)
    if not options.quiet:
        say(f"nothing in {options.data} says how long these commands take, so they keep their order; --record keeps it")
    return numbers


def _adds(log: JobLog) -> Callable[[TaskResult], None]:
    def add(result: TaskResult) -> None:
        log.add(result, int(result.task.id) + 1)

    return add


def _host_to_record(options: RunOptions) -> HostFacts | None:
    """Return the host as it is before the batch, whose own work would count as noise; ``None`` if nothing is recorded."""
    if not options.record:
        return None
    from procbench.lab.files import check_writable_folder
    from procbench.lab.host import read_host

    check_folder("--data", options.data)
    check_writable_folder(options.data)
    return read_host()


def _tell(batch: BatchResult, options: RunOptions, host: HostFacts | None, say: Callable[[str], None]) -> int:
    """Show how it ended, record it if that was asked, and return the exit status."""
    status = batch.exit_status
    try:
        (say_failures if options.quiet else show_batch)(batch, sys.stderr)
    finally:  # a reader of the summary that went away takes no record with it
        if host is not None:
            try:
                path = record_batch(batch, host, options.data)
            except ProcbenchError as error:
                say(str(error))
                status = batch.exit_status or _FAILED
            else:
                if not options.quiet:
                    say(f"recorded {path}" if path else "nothing was recorded: no command was begun")
    return status
