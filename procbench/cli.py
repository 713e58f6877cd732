"""The command line: a thin door. What a command does lives in ``views``; what it needs is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from procbench import __version__, cli_notebooks
from procbench.cli_options import Data, flag, number, value
from procbench.cli_status import NOT_EXECUTABLE, NOT_FOUND, complain, flushed, open_missing_streams, say, status_of
from procbench.errors import InvalidInputError, SpawnError

app = typer.Typer(
    name="procbench",
    help="Find out what makes your child processes faster on your Linux machine, and prove it.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: nothing to load, and the same in a pipe
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"procbench {__version__}\n")
        raise typer.Exit


@app.callback()
def _every_command(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find out what makes your child processes faster on your Linux machine, and prove it."""


@app.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Run a command for each line of input, several at a time.",
)
def run(
    command: Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND", hidden=True)] = None,
    each: Annotated[str | None, value("FILE", "One argument a line; standard input by default.")] = None,
    null: Annotated[
        bool, flag("--null", "A NUL ends each argument, not a line end, as from find -print0.", "-0")
    ] = False,
    commands: Annotated[
        str | None, value("FILE", "One command a line instead of COMMAND; - is standard input.")
    ] = None,
    args_per_task: Annotated[
        int | None, number("Arguments that one command gets; {} alone becomes all of them.")
    ] = None,
    priority_from: Annotated[
        str | None,
        value("FILE", "One word a line for each command, in their order: critical, high, normal or low."),
    ] = None,
    shuffle: Annotated[bool, flag("--shuffle", "Begin the commands in random order.")] = False,
    seed: Annotated[int | None, number("The same order again with --shuffle.")] = None,
    longest_first: Annotated[
        bool, flag("--longest-first", "Begin with what took longest in the runs recorded in --data.")
    ] = False,
    workers: Annotated[int | None, number("Commands that run at a time; default: the CPUs there are to use.")] = None,
    timeout: Annotated[float | None, value("S", "Seconds until a command is ended.")] = None,
    retries: Annotated[int | None, number("How often a command is run again that failed or timed out.")] = None,
    retry_delay: Annotated[
        float | None, value("S", "Seconds until it is, twice as long before each further attempt.")
    ] = None,
    halt: Annotated[
        str | None,
        value("POLICY", "When to stop: never, or such as soon,fail=3 or now,fail=10% or now,success=1."),
    ] = None,
    memfree: Annotated[str | None, value("SIZE", "Start no command with less memory free, such as 2G.")] = None,
    load: Annotated[float | None, value("N", "Start no command while the load average is N or more.")] = None,
    capture: Annotated[
        bool, flag("--capture", "Show each command's output in one piece when it ends, up to 8 MiB a stream.")
    ] = False,
    keep_order: Annotated[
        bool, flag("--keep-order", "Capture all output, and show it in the order of the commands.", "-k")
    ] = False,
    tag: Annotated[bool, flag("--tag", "Capture all output, and put the argument and a tab before each line.")] = False,
    joblog: Annotated[
        Path | None, value("FILE", "Write a line for each command that has ended, in GNU parallel's columns.")
    ] = None,
    resume: Annotated[bool, flag("--resume", "Skip the commands that --joblog says have ended.")] = False,
    resume_failed: Annotated[
        bool, flag("--resume-failed", "Skip those that --joblog says have ended with status 0.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        value("NAME=VALUE", "Any setting of RunSettings, such as pin=core; repeatable, it wins.", "--set"),
    ] = None,
    record: Annotated[bool, flag("--record", "Keep what every command cost as a run in --data.")] = False,
    data: Data = Path("data"),
    quiet: Annotated[bool, flag("--quiet", "No progress bar and no summary; one line if commands failed.")] = False,
    dry_run: Annotated[
        bool, flag("--dry-run", "Only show the commands, as a shell would need them; run nothing.")
    ] = False,
) -> int:
    """Run a command for each line of input, or a file of commands, several at a time.

    {} in COMMAND is replaced by the argument; without one it comes last. With --priority-from, the more urgent commands
    begin first, those of one priority in the order of their lines.
    No line is ever given to a shell. Exit status: 0; the number of commands that failed or timed out, up to 100; 101 for
    more; 130 after Ctrl-C, 143 after SIGTERM; 2 for bad input. What --resume skips and what --halt ends or cancels counts
    as no failure. Ctrl-C once lets running commands finish, twice kills them.

    A command that is ended takes with it what it started, also what left its process group (containment=subreaper). With
    --set containment=group only what stayed in the group ends with it, with containment=cgroup all that was ever forked.
    Whatever is left when the batch ends is killed.
    """
    asked = locals()  # all of it, by name; RunOptions says what goes together
    from procbench.views.run_options import RunOptions
    from procbench.views.running import run_asked

    return run_asked(RunOptions(**asked), say)


@app.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    short_help="Run one command as a container's first process would, and leave nothing.",
)
def exec_command(
    command: Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND", hidden=True)] = None,
    group: Annotated[bool, typer.Option("-g", help="Pass signals on to the command's whole process group.")] = False,
    timeout: Annotated[float | None, typer.Option(metavar="S", help="Seconds until it is ended; status 124.")] = None,
    grace: Annotated[float, typer.Option(metavar="S", help="Seconds between SIGTERM and SIGKILL.")] = 5.0,
) -> int:
    """Run one command as a container's first process would: pass signals on, reap orphans, leave nothing.

    What outlives the command is ended by SIGTERM, and after --grace by SIGKILL; a signal meanwhile kills it at once. It can
    read from the terminal, and Ctrl-Z and fg work. Exit status: the command's; 128 and the signal that ended it; 124 after
    --timeout; 126 if it cannot be executed; 127 if it is not found; 2 for bad input.
    """
    from procbench.io.init import run_as_init
    from procbench.views.run_options import check_seconds

    check_seconds(timeout)
    if not command:
        raise InvalidInputError("there is no command to run; give one after --")
    try:
        return run_as_init(command, group=group, timeout=timeout, grace_s=grace)
    except SpawnError as error:
        return complain(error, NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


@app.command(short_help="Show what this machine is, and what makes its numbers waver.")
def host(as_json: Annotated[bool, typer.Option("--json", help="Facts and warnings as JSON.")] = False) -> int:
    """Show what this machine is, what makes its numbers waver, why, and what to do."""
    from dataclasses import asdict

    from procbench.lab.host import read_host
    from procbench.lab.noise import noise_warnings
    from procbench.views.summary import show_host

    facts = read_host()
    warnings = noise_warnings(facts)
    if as_json:
        import json

        found = {"facts": facts.to_dict(), "warnings": [asdict(warning) for warning in warnings]}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        show_host(facts, warnings, sys.stdout)
    return 0


@app.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Watch this machine, and a command that runs meanwhile.",
)
def monitor(
    command: Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND", hidden=True)] = None,
    interval: Annotated[float, typer.Option(metavar="S", help="Seconds from one sample to the next.")] = 1.0,
    duration: Annotated[float | None, typer.Option(metavar="S", help="Seconds until it ends, the command too.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep all samples: a .parquet or .csv file, written at the end.")
    ] = None,
    openmetrics: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Let Prometheus ask, on 127.0.0.1 only; with 0 the system chooses."),
    ] = None,
) -> int:
    """Watch CPUs, memory, disks, network, processes and stalls, and what COMMAND and all that it starts use of them.

    On a terminal a table is painted anew at each sample, elsewhere a line is written; with COMMAND to standard error. At the end
    comes a summary on standard error. Exit status: that of COMMAND, 128 and the signal that ended it, 127 or 126 if it could not
    be started, 124 if its time was up; without one 0, also after Ctrl-C. COMMAND cannot read from the terminal.
    """
    from procbench.views.monitored import watch
    from procbench.views.run_options import check_seconds

    check_seconds(interval, "--interval")
    check_seconds(duration, "--duration")
    return watch(command or (), interval_s=interval, duration_s=duration, out=out, port=openmetrics)


@app.command(short_help="Find what would make a batch better, and prove it; or repeat a proof.")
def prove(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RUN | -- COMMAND]", hidden=True)] = None,
    commands: Annotated[str | None, value("FILE", "One command a line; - is standard input.")] = None,
    each: Annotated[str | None, value("FILE", "Run COMMAND for each line of it; - is standard input.")] = None,
    budget: Annotated[
        float | None, value("S", "Seconds for all of it; default: 60, or what the proof had that is repeated.")
    ] = None,
    most: Annotated[int, number("How many suggestions are proved, the most promising first.")] = 3,
    only: Annotated[str, value("RULE", "The one to prove, such as too_few_workers.")] = "",
    settings: Annotated[
        list[str] | None,
        value("NAME=VALUE", "How the commands are run now, such as workers=4; repeatable.", "--set"),
    ] = None,
    data: Data = Path("data"),
    allow_host_changes: Annotated[
        bool, flag("--allow-host-changes", "Change the machine itself where that is suggested; each run puts it back.")
    ] = False,
    as_json: Annotated[bool, flag("--json", "Say it as JSON.")] = False,
) -> int:
    """Watch a batch, see what might make it better, and prove that with the batch itself; or repeat a recorded proof, RUN.

    The commands run dozens of times, with and without each change, in random order; they must bear that, succeed, and do the same
    each time. Each proof is kept in --data, with the commands themselves unless something in them looks like a secret, and its
    row ends with the one command that repeats it: same commands, same change, same settings. RUN is a file or the beginning of
    its id. With --each, COMMAND may get several lines at a time. Exit status: 0; 1 if the budget was too small for a single
    proof, or the commands cannot be measured; 130 after Ctrl-C; 2 for bad input.
    """
    from procbench.views.proving import ProveOptions, prove_asked

    asked = ProveOptions(
        words=words or (),
        commands=commands,
        each=each,
        budget=budget,
        most=most,
        only=only,
        settings=settings or (),
        data=data,
        allow_host_changes=allow_host_changes,
        as_json=as_json,
    )
    return prove_asked(asked, say)


@app.command(short_help="Show where the recorded runs went, and what changed where they jumped.")
def history(
    data: Data = Path("data"),
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Only this experiment.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All lines, runs and changes as JSON.")] = False,
) -> int:
    """Show each experiment and condition run by run, where it goes, and what changed where it got slower or faster.

    Runs of different hosts are never mixed. What cannot be read is named and passed over; a damaged file is moved to
    DIR/quarantine.
    """
    from procbench.views.history import history_json, load_history, show_history
    from procbench.views.run_options import check_folder

    check_folder("--data", data)
    if not data.exists():
        say(f"there is no folder {data}; procbench run --record, prove and report make it")
    lines, loaded = load_history(data, experiment)
    if as_json:
        import json

        sys.stdout.write(json.dumps(history_json(lines, loaded), indent=1) + "\n")
    else:
        show_history(lines, loaded, sys.stdout)
    return 0


app.command(short_help="Put the notebooks into a folder of your own.")(cli_notebooks.init)
app.command(short_help="Open JupyterLab on the notebooks, on this machine only.")(cli_notebooks.lab)
app.command(short_help="Measure this machine, and write a report that stands alone.")(cli_notebooks.report)


def main() -> NoReturn:
    """Run the command line and end the process with its exit status."""
    open_missing_streams()
    sys.exit(flushed(run_command(sys.argv[1:])))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; whatever a person can do wrong ends in one line on standard error."""
    # Not typer's own main: it would answer a closed pipe, Ctrl-C and our errors in its own ways.
    group = typer.main.get_command(app)

    def command() -> int:
        try:
            with group.make_context("procbench", list(arguments) or ["--help"]) as context:
                return int(group.invoke(context) or 0)
        except typer.Exit as end:
            return end.exit_code

    return status_of(command)
