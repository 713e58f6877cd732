"""The command line as a person has it: a process of its own, whose warnings are errors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
INSTALLED_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""In which an installed procbench is found, and not this checkout's."""

PROCBENCH = (sys.executable, "-m", "procbench")


@contextlib.contextmanager
def started(
    *arguments: str, cwd: Path, stdin: bytes = b"", stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line beside the test; killed at the end if it still runs."""
    (cwd / "stdin").write_bytes(stdin)
    with (cwd / "stdin").open("rb") as file:
        child = subprocess.Popen(
            [*PROCBENCH, *arguments], cwd=cwd, env=ENVIRONMENT, stdin=file, stdout=stdout, stderr=subprocess.PIPE
        )
    with child:
        try:
            yield child
        finally:
            child.kill()
