"""The tables that a command ends with: of a batch, and of the host."""

from __future__ import annotations

import errno
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from procbench.errors import SpawnError
from procbench.lab.host import HostFacts
from procbench.lab.noise import NoiseWarning
from procbench.scheduling.task import TaskResult
from procbench.views.batch import BatchResult
from procbench.views.terminal import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MOST_SHOWN = 10
"""Failed commands that are listed one by one, or causes of more failures than that."""

_SLOWEST_SHOWN = 3
_PIPE_WIDTH = 100  # columns where there is no terminal


def show_batch(batch: BatchResult, stream: TextIO) -> None:
    """Write a summary: counts, times, the slowest commands and the failed ones. Nothing in them reaches the terminal raw."""
    console = _console(stream)
    counts, cpu_s = batch.counts(), sum(r.cpu_s for r in batch.results if not math.isnan(r.cpu_s))
    facts = {word.replace("_", " "): f"{count:,}" for word, count in counts.items()}
    if batch.skipped:
        facts["skipped"] = f"{batch.skipped:,} (done before, as the job log says)"
    if again := sum(result.attempts - 1 for result in batch.results):
        facts["further attempts"] = f"{again:,}"
    facts["wall time"] = seconds_for_people(batch.wall_s)
    facts["CPU time"] = seconds_for_people(cpu_s)
    facts["rate"] = f"{len(batch.results) / batch.wall_s:,.1f} tasks/s" if batch.wall_s > 0 else "unknown"
    if cut := sum(result.truncated for result in batch.results):
        facts["output cut"] = f"{cut:,} (over {batch.settings.max_output_bytes or 0:,} bytes, or ended early)"
    facts["containment"] = batch.settings.containment
    if batch.ended_by is not None:
        facts["ended early by"] = batch.ended_by.name
    if batch.halted:
        facts["halted by"] = batch.settings.halt
    _pairs(console, facts)
    began = [result for result in batch.results if result.error is None]
    slowest = sorted(began, key=lambda result: result.wall_s, reverse=True)[:_SLOWEST_SHOWN]
    if len(batch.results) > 1:
        _commands(console, "slowest", "wall time", slowest, lambda result: seconds_for_people(result.wall_s))
    failed = [result for result in batch.results if result.outcome in ("failed", "timed_out")]
    if len(failed) > MOST_SHOWN:
        _causes(console, failed)
    else:
        _commands(console, "failed", "how", failed, how_it_failed)


def say_failures(batch: BatchResult, stream: TextIO) -> None:
    """Write one line that says how many failed and why the first one did; nothing where none failed."""
    failed = [result for result in batch.results if result.outcome in ("failed", "timed_out")]
    if failed:
        first = f"{how_it_failed(failed[0])}: {_command(failed[0])}"
        halted = f", halted by {batch.settings.halt}" if batch.halted else ""
        stream.write(one_line(f"procbench: {len(failed):,} of {batch.total:,} failed{halted}; first: {first}") + "\n")
        stream.flush()


def how_it_failed(result: TaskResult) -> str:
    """Return in a few words why a task counts as failed."""
    if isinstance(result.error, SpawnError):  # without the stage and the errno's name, which are for programs
        return f"cannot start {result.error.program!r}: {result.error.strerror}"
    if result.error is not None:
        return str(result.error)
    if result.timed_out:
        return f"timed out after {seconds_for_people(result.wall_s)}"
    if result.signal is not None:
        return result.signal
    return "its status could not be learnt" if result.returncode is None else f"status {result.returncode}"


def seconds_for_people(seconds: float) -> str:
    """Return a duration with three digits: ``830 µs``, ``12.3 ms``, ``4.56 s``, ``2 min 05 s``."""
    for below, unit, factor in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3), (60.0, "s", 1.0)):
        if seconds < below:
            return f"{seconds * factor:.3g} {unit}"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def host_card(facts: HostFacts) -> dict[str, str]:
    """Return what a person wants to know of a host, label by label; what it does not show is left out."""
    node = "node" if facts.numa_nodes == 1 else "nodes"
    lines: dict[str, str | None] = {
        "host": f"{facts.hostname} (id {facts.host_id})",
        "CPU": facts.cpu_model,
        "architecture": facts.architecture,
        "logical CPUs": _text(facts.logical_cpus),
        "physical cores": _text(facts.physical_cores),
        "sockets": _text(facts.sockets),
        "NUMA": f"{facts.numa_nodes} {node}" if facts.numa_nodes else None,
        "last level cache": _bytes(facts.last_level_cache_bytes),
        "allowed CPUs": ", ".join(map(str, facts.allowed_cpus)),
        "CPU quota": None if facts.cpu_quota is None else f"{facts.cpu_quota:g} CPUs",
        "usable workers": str(facts.usable_workers),
        "memory": _bytes(facts.memory_bytes),
        "memory available": _bytes(facts.memory_available_bytes),
        "kernel": facts.kernel,
        "C library": facts.libc,
        "Python": f"{facts.python_implementation} {facts.python_version}",
        "frequency governor": ", ".join(facts.governors) or None,
        "turbo": {True: "on", False: "off", None: None}[facts.turbo],
        "hypervisor": facts.hypervisor,
        "container": facts.container,
        "nice value": str(facts.nice_value),
        "load average": None if facts.load_one_minute is None else f"{facts.load_one_minute:.2f} over a minute",
        "busy": None if facts.busy_share is None else f"{facts.busy_share:.0%} of all CPU time",
        "steal": None if facts.steal_share is None else f"{facts.steal_share:.1%} of all CPU time",
    }
    return {label: one_line(text) for label, text in lines.items() if text}


def show_host(facts: HostFacts, warnings: Sequence[NoiseWarning], stream: TextIO) -> None:
    """Write the host card, and what makes results waver on that host: what was seen, why it matters, what to do."""
    console = _console(stream)
    _pairs(console, host_card(facts))
    if not warnings:
        console.print("Nothing was seen that makes results waver.")
        return
    table = _table("seen", "why it matters", "what to do")
    for warning in warnings:
        table.add_row(*(_cell(text) for text in (warning.seen, warning.why, warning.what_to_do)))
    console.print(table)


def _pairs(console: Console, facts: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts.items():
        table.add_row(label, _cell(text))
    console.print(table)


def _commands(
    console: Console, title: str, what: str, results: Sequence[TaskResult], tell: Callable[[TaskResult], str]
) -> None:
    if not results:
        return
    table = _table(f"{title}: {what}", "command")
    for result in results:
        table.add_row(_cell(tell(result)), _cell(_command(result)))
    console.print(table)


def _causes(console: Console, failed: Sequence[TaskResult]) -> None:
    """Show each cause once, the most frequent first, with the first command that it hit."""
    causes: dict[str, list[TaskResult]] = {}
    for result in failed:
        causes.setdefault("timed out" if result.timed_out else how_it_failed(result), []).append(result)
    table = _table("failed", "how", "first")
    for how, hit in sorted(causes.items(), key=lambda item: -len(item[1]))[:MOST_SHOWN]:
        table.add_row(f"{len(hit):,} ×", _cell(how), _cell(_command(hit[0])))  # noqa: RUF001 - a times sign
    console.print(table)
    if len(causes) > MOST_SHOWN:
        console.print(f"... and {len(causes) - MOST_SHOWN:,} more causes", markup=False)


def _command(result: TaskResult) -> str:
    return shlex.join(os.fsdecode(a) for a in result.args)


def _table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _cell(text: str) -> Text:
    from rich.text import Text  # not markup: [red] in a command is a command's own

    return Text(one_line(text))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the process with status 1
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return OurConsole(file=stream, highlight=False, soft_wrap=False, width=None if stream.isatty() else _PIPE_WIDTH)


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _bytes(size: int | None) -> str | None:
    if size is None:
        return None
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
