"""How a command ends: whatever a person can do wrong is one line on standard error and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Final

from procbench.errors import InvalidInputError, NotebookError, ProcbenchError
from procbench.io.signals import INTERRUPTED, EndedBySignal
from procbench.views.terminal import one_line

BAD_INPUT: Final = 2
FAILED: Final = 1
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
BROKEN_PIPE: Final = 141


def status_of(command: Callable[[], int]) -> int:
    """Call a command and return its exit status; bad input, errors and signals are said in one line.

    Args:
        command: Returns its exit status; what it raises that is no error of a person's is raised here too.
    """
    try:
        return command()
    except (InvalidInputError, NotebookError) as error:
        return complain(error, BAD_INPUT)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        return complain(error, BAD_INPUT)
    except (ProcbenchError, OSError) as error:
        return complain(error, FAILED)
    except KeyboardInterrupt:
        say("interrupted; nothing is left half done")
        return INTERRUPTED
    except EndedBySignal as end:
        say(f"ended by {end.signal.name}; nothing is left half done")
        return 128 + end.signal
    except Exception as error:
        # typer brings a click of its own in some versions, so that there is no one class to name here
        if not hasattr(error, "format_message"):
            raise
        say(f"{error.format_message().rstrip('.')}; see {_command_path(error)} --help")
        return BAD_INPUT


def flushed(status: int) -> int:
    """Write out what standard output still holds; return the status, or another one where that cannot be done."""
    try:
        sys.stdout.flush()
    except OSError as error:
        status = complain(error, status or FAILED) if error.errno != errno.EPIPE else BROKEN_PIPE
        _drop_output()
    return status


def open_missing_streams() -> None:
    """Put /dev/null where a standard stream is closed, before any other file takes its number and gets its text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere == number:
                os.set_inheritable(number, True)  # the commands' stream too
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if number and getattr(sys, name) is None:  # a closed standard input stays one: nobody gave any lines
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


def complain(error: Exception, status: int) -> int:
    """Say what is wrong, and return the status."""
    if isinstance(error, OSError) and not isinstance(error, ProcbenchError):
        named = f"{error.filename}: " if error.filename is not None else ""
        say(f"{named}{error.strerror or error}")
    else:
        say(str(error))
    return status


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "procbench"


def say(text: str) -> None:
    """Write one line to standard error, without control characters."""
    with contextlib.suppress(OSError):  # nobody listens
        sys.stderr.write(f"procbench: {one_line(text, longest=2_000)}\n")


def _drop_output() -> None:
    """Let the interpreter's last flush go nowhere, so that it has nothing to complain about."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
