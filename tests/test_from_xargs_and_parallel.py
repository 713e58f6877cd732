"""What the page for those who come from xargs and GNU parallel shows is what happens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
PAGE = (HERE / "docs" / "from-xargs-and-parallel.md").read_text()


def test_the_examples_say_what_the_page_says(tmp_path: Path):
    """Each line of the console is run by a shell, one after the other in one folder, and its output is compared."""
    door = tmp_path / "bin" / "procbench"
    door.parent.mkdir()
    door.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m procbench "$@"\n')
    door.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(HERE), "PATH": f"{door.parent}:{os.environ['PATH']}"}
    (console,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    examples = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    assert len(examples) == console.count("$ seq") + console.count("$ printf")
    for command, said in examples:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.stdout == said, command


def test_every_option_on_the_page_exists():
    """An option in the right column is one of `procbench run`."""
    help_text = subprocess.run(
        [sys.executable, "-m", "procbench", "run", "--help"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(" | ", 1)[1] for line in PAGE.splitlines() if line.startswith("| `") and " | " in line]
    wanted = {option for row in rows for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", row)}
    assert len(wanted) > 10
    assert {option for option in wanted if option not in help_text} == set()
