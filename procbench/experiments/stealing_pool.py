"""The interpreter in which ``multiprocessing.Pool`` is measured; it stands alone and is run by its path.

A pool inside a notebook's kernel would inherit the kernel's threads by fork, or leave a resource tracker behind. In an
interpreter of its own it runs as its manual shows it. Each line on standard input is a batch, commands as JSON; the
answer is the number of those that failed. The end of standard input ends it.
"""

import functools
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def exit_status(command: Sequence[str], folder: str | Path | None) -> int:
    """Run a command in a folder without output and return its status; 127 if it cannot be started."""
    null = subprocess.DEVNULL
    try:
        return subprocess.run(command, stdin=null, stdout=null, stderr=null, cwd=folder, check=False).returncode
    except OSError:
        return 127


def main() -> None:
    """Answer batches until there are no more."""
    run = functools.partial(exit_status, folder=sys.argv[2] or None)
    with multiprocessing.Pool(int(sys.argv[1])) as pool:
        for line in sys.stdin:
            # one command at a time, because map's own chunks leave a worker idle while another has long tasks left
            statuses = pool.map(run, json.loads(line), chunksize=1)
            sys.stdout.write(f"{sum(status != 0 for status in statuses)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
