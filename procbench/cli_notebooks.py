"""The doors to the notebooks: to have them, to open them, to run them all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from procbench.cli_options import Data
from procbench.cli_status import say


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder; what is made there must not exist yet.")],
) -> int:
    """Put the notebooks, and folders for data and reports, where you can change them. Nothing is overwritten."""
    from procbench.views.workspace import make_workspace

    made = make_workspace(folder)
    sys.stdout.write(f"{made}\n")
    say(f"the notebooks are yours to change; open them with: procbench lab {folder}")
    return 0


def lab(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", hidden=True),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Open JupyterLab on the tour: on this machine only, and with a token.

    DIR: the folder to show, such as one of procbench init; by default that of procbench's own notebooks.
    """
    from procbench.views.jupyter import lab_command

    argv = lab_command(folder, no_browser=no_browser)
    say(f"opening JupyterLab on {argv[-1].partition('=')[2]}, reachable from this machine only; Ctrl-C twice ends it")
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606 - no shell, and no process of ours left in between


def report(
    only: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Only this notebook; repeatable.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A notebook's parameter, or WORD.NAME=VALUE; repeatable."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Take more time for narrower intervals, where a notebook can.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the reports.")] = Path("reports"),
    data: Data = Path("data"),
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Measure nothing: compare two reports of this --out folder, or two folders."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="S", help="Limit for each notebook, in seconds.")] = 1800.0,
    notebooks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="These notebooks, such as those of procbench init.")
    ] = None,
) -> int:
    """Measure this machine with the notebooks, and write a report that stands alone; of two compared the earlier comes first."""
    from procbench.io.signals import ending_by_exception
    from procbench.lab.host import read_host
    from procbench.lab.noise import noise_warnings
    from procbench.views.compared import compare_reports
    from procbench.views.parameters import asked_parameters, chosen_notebooks, read_declared
    from procbench.views.progress import progress_bar
    from procbench.views.report import build_report
    from procbench.views.run_options import check_folder, check_seconds
    from procbench.views.summary import host_card

    check_seconds(timeout)
    check_folder("--out", out)
    if compare is not None:
        sys.stdout.writelines(f"{line}\n" for line in compare_reports(*compare, out_root=out))
        return 0
    chosen = chosen_notebooks(only or (), notebooks)
    parameters = asked_parameters(read_declared(chosen), settings or (), full=full, data_folder=data)
    facts = read_host()
    with ending_by_exception(), progress_bar() as on_progress:
        built = build_report(
            chosen,
            out_root=out,
            parameters=parameters,
            host_card=host_card(facts),
            host_id=facts.host_id,
            data_folder=data,
            warnings=noise_warnings(facts),
            notebook_timeout_s=timeout,
            on_progress=on_progress,
        )
    sys.stdout.write(f"{built.index}\n")
    for row in built.rows:
        if row.status != "ok":
            reason = row.error.strip().partition("\n")[0]
            say(f"{row.notebook} {row.status.replace('_', ' ')}: {reason}")
    if not built.is_latest:
        say("no notebook came to its end: latest still leads to the report before this one")
    return built.exit_status
