"""Measure older revisions of this project, and record what came out as the history that the project ships.

    python -m benchmarks.record_history [--traced] DATA WORD REVISION...

Each revision gets a worktree of its own, and a process that imports procbench from there and runs the experiment; the
measured code is that revision's, only the recording is today's. What would say whose machine it was is left out before a
run gets its file, because a file is never changed later. ``--traced`` lets a profiler's hook see every call, as a run does
that somebody measures under a profiler by mistake.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from procbench.lab.host import HostFacts
from procbench.lab.store import Store

ROOT = Path(__file__).resolve().parents[1]
HOSTNAME, HOST_ID = "a shared machine", "0" * 12
COMMANDS = 100
WORKLOAD = f"{COMMANDS} times true"
SMALL: dict[str, dict[str, Any]] = {
    "stealing": {"budget_s": 8.0, "workers": [1], "ways": ["thread pool + subprocess.run"]},
    "pools": {"budget_s": 3.0, "sizes": [65_536], "threads": [1]},
}
"""What each experiment is asked for; a few seconds each."""

_RUN = """
import importlib, json, sys
if sys.argv[3] == "traced":
    sys.setprofile(lambda *event: None)
importlib.import_module("procbench.experiments." + sys.argv[1]).run(**json.loads(sys.argv[2]))
"""


@contextmanager
def checked_out(revision: str, scratch: Path) -> Iterator[Path]:
    """Yield a worktree of a revision, and remove it again."""
    place = scratch / revision
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


def record(data: Path, word: str, revision: str, *, traced: bool = False) -> Path:
    """Measure a revision once, and keep the run without what names the machine."""
    with tempfile.TemporaryDirectory(prefix="procbench-") as name, checked_out(revision, Path(name)) as project:
        asked = {**SMALL[word], "data_dir": str(Path(name) / "data")}
        if word == "stealing":
            commands = Path(name) / "commands"
            commands.write_text("true\n" * COMMANDS)
            asked["workload"] = str(commands)
        argv = [sys.executable, "-c", _RUN, word, json.dumps(asked), "traced" if traced else ""]
        subprocess.run(argv, check=True, cwd=project, env={**os.environ, "PYTHONPATH": str(project)})
        [run] = Store(Path(name) / "data").load(word).runs
        host = HostFacts.from_dict(run.host)
        store = Store(data, project=project, now=lambda: run.recorded_at)
        return store.record(
            run.trials,
            experiment=word,
            host=replace(host, hostname=HOSTNAME, host_id=HOST_ID, kernel=host.kernel.partition("-")[0]),
            parameters={**run.parameters, **({"workload": WORKLOAD} if word == "stealing" else {})},
            effects=run.effects,
        )


def main() -> None:
    """Record what was asked for, one run for each revision named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_history", description=__doc__.splitlines()[0])
    parser.add_argument("--traced", action="store_true", help="under a profiler's hook")
    parser.add_argument("data", type=Path)
    parser.add_argument("word", choices=SMALL)
    parser.add_argument("revisions", nargs="+")
    options = parser.parse_args()
    for revision in options.revisions:
        print(revision, record(options.data, options.word, revision, traced=options.traced).name, flush=True)


if __name__ == "__main__":
    main()
