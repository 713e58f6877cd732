"""The transfer experiment moves real bytes, measures every way in every block, and says what to set."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from procbench import RunSettings
from procbench.errors import InvalidInputError
from procbench.experiments import measuring, transfer, transfer_ways
from procbench.experiments.transfer_outcome import FROM_CHILD, TO_CHILD, TransferResult
from procbench.experiments.words import size_text
from procbench.io.spawn import Child, spawn
from procbench.lab.results import Trials
from procbench.lab.store import Store
from procbench.lab.trials import Condition, measure
from procbench.memory.mapping import MemoryMapping
from procbench.memory.transfer import Received, receive
from procbench.memory.transports import TRANSPORTS
from procbench.views import plots_transfer, tables_transfer
from tests.waiting import run_python


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TransferResult:
    return transfer.run(budget_s=1, largest_bytes=64 * 1024, data_dir=tmp_path_factory.mktemp("data"))


def test_what_must_hold_holds(result: TransferResult) -> None:
    """All invariants are true, and every way is there in both directions, C where there is a compiler."""
    assert all(result.invariants().values()), result.invariants()
    to_child = set(result.rates(TO_CHILD)["way"])
    assert set(TRANSPORTS) - {"auto", "file_stdin"} <= to_child
    assert set(result.rates(FROM_CHILD)["way"]) >= {"captured", "growing mapping", "reused mapping", "file"}
    assert ("C, vmsplice" in to_child) is (shutil.which("cc") is not None)
    assert set(result.rates(TO_CHILD)["size_bytes"]) == {4096, 65536}
    assert not result.unrecorded


def test_its_values_are_tidy_and_recorded(result: TransferResult) -> None:
    """The frame has one row for each trial with its factors, and a recorded run gives it back."""
    frame = result.frame
    assert {"value", "way", "pipe_size_bytes", "direction", "varied", "size_bytes", "block"} <= set(frame.columns)
    assert (frame["value"] > 0).all()


def test_what_it_suggests_is_a_change_of_settings(result: TransferResult) -> None:
    """The suggestion, empty or not, is a change that RunSettings takes; the words say the same."""
    change = result.suggestion()
    assert RunSettings().changed(**change).to_dict().items() >= change.items()
    assert (str(change) in result.advice()) is bool(change)
    assert result.headline()["sentence"].endswith(result.advice())
    assert set(result.wins()) == {"vmsplice", "splice", "sendfile", "memfd_stdin"}
    assert "beat" in result.details()


def test_its_figures_and_its_table_show_every_way(result: TransferResult) -> None:
    """Each way has a line and a row; sizes are labelled in KiB; units stand on the axes."""
    table = result.rates(TO_CHILD)
    axes = plots_transfer.rates_by_size(table, result.memcpy_gb_per_s)
    _, labels = axes.get_legend_handles_labels()
    assert set(labels) == {*table["way"], "memory copy"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4 KiB", "64 KiB"]
    assert "GB/s" in axes.get_ylabel()
    pipes = plots_transfer.rates_by_pipe(result.rates(FROM_CHILD, "pipe"))
    assert [label.get_text() for label in pipes.get_xticklabels()][-1] == "1 MiB"
    shown = tables_transfer.rates(pd.concat([table], keys=["to"], names=["direction", None]))
    assert len(shown) == len(table)
    assert "captured with 64 KiB" in result.alt(FROM_CHILD, "pipe")


@pytest.mark.parametrize(
    "wrong", [{"budget_s": 0}, {"budget_s": float("nan")}, {"largest_bytes": -1}, {"largest_bytes": 9}]
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    """Nothing runs where a number makes no sense."""
    with pytest.raises(InvalidInputError):
        transfer.run(**wrong)  # type: ignore[arg-type]


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a compiler the limit in C is left out by name."""
    monkeypatch.setattr(transfer_ways, "limit_program", lambda folder: None)
    found = transfer.run(budget_s=0.5, largest_bytes=4096)
    assert any(note.startswith("C: left out") for note in found.notes)
    assert not any(way.startswith("C,") for way in found.rates(TO_CHILD)["way"])


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    """What was measured is kept when recording fails, and the details say why."""
    (tmp_path / "file").write_text("")
    found = transfer.run(budget_s=0.5, largest_bytes=4096, data_dir=tmp_path / "file")
    assert "not recorded" in found.details()


def ended(child: Child) -> bool:
    """Whether the child was reaped and its pidfd closed."""
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(child.pidfd)
    return True


def test_an_interrupt_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between a child's start and its end ends the child and closes its pidfd; what was finished is kept."""
    children: list[Child] = []

    def spawned(argv: list[str], stdout: int) -> Child:
        children.append(spawn(argv, stdout=stdout))
        return children[-1]

    def struck(start: Callable[[int], object], into: object) -> Received:
        if len(children) < 6:  # each way was tried once, and a warm-up block has run
            return receive(start, into)  # type: ignore[arg-type]
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        start(write_end)
        os.close(read_end)
        os.close(write_end)
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_ways, "spawn", spawned)
    monkeypatch.setattr(transfer_ways, "receive", struck)
    found = transfer.run(budget_s=0.5, largest_bytes=4096)
    assert {group.direction for group in found.groups} == {TO_CHILD}
    assert children
    assert all(ended(child) for child in children)


def test_an_interrupt_while_the_child_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before spawn has returned is put off until the child is noted, and then raised; the handler is as it was."""
    children: list[Child] = []

    def struck(argv: list[str], stdout: int) -> Child:
        child = spawn(argv, stdout=stdout)
        children.append(child)
        signal.raise_signal(signal.SIGINT)
        return child

    usual = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(transfer_ways, "spawn", struck)
    with pytest.raises(KeyboardInterrupt):
        transfer.run(budget_s=0.5, largest_bytes=4096)
    assert signal.getsignal(signal.SIGINT) is usual
    assert len(children) == 1
    assert ended(children[0])


def test_an_interrupt_between_two_sizes_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while memory for the next size is filled ends the run and keeps the finished sizes."""
    filled = transfer_ways._filled

    def struck(size: int) -> MemoryMapping:
        if size == 65536:
            raise KeyboardInterrupt
        return filled(size)

    monkeypatch.setattr(transfer_ways, "_filled", struck)
    monkeypatch.setattr(transfer_ways.Ways, "right", lambda self, size: {})
    monkeypatch.setattr(transfer, "memcpy_gb_per_s", lambda largest: 1.0)
    found = transfer.run(budget_s=0.5, largest_bytes=65536)
    assert [(group.direction, group.size_bytes) for group in found.groups] == [(TO_CHILD, 4096)]


@pytest.mark.parametrize(
    ("refused", "named"), [("vmsplice", {"vmsplice"}), ("memfd_create", {"splice", "sendfile", "memfd_stdin"})]
)
def test_what_the_kernel_refuses_is_left_out_by_name(refused: str, named: set[str]) -> None:
    """A kernel without a system call loses the ways that need it, each with a note that says why; the rest is measured."""
    probe = ["strace", "-qq", "-o", "/dev/null", "true"]
    if shutil.which("strace") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no strace, or it may not trace here")
    code = """
import json
from procbench.experiments import transfer
found = transfer.run(budget_s=0.5, largest_bytes=4096)
print(json.dumps([sorted(found.rates("to child")["way"]), sorted(found.right), found.notes, found.invariants()]))
"""
    injected = ("-e", f"trace={refused}", "-e", f"inject={refused}:error=ENOSYS")
    ways, right, notes, invariants = json.loads(
        run_python(code, before=("strace", "-f", "-qq", "-o", "/dev/null", *injected))
    )
    expected = {"write", "vmsplice", "splice", "sendfile", "memfd_stdin"} - named
    assert {way for way in ways if not way.startswith("C,")} == expected == set(right)
    for way in named:
        [note] = [note for note in notes if note.startswith(f"{way}: left out, ")]
        assert note != f"{way}: left out, "
    assert all(invariants.values())


def test_memory_is_given_back_before_the_next_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two sizes hold memory at a time, and all ways of a file share one sealed copy."""
    held: list[int] = []

    def looked(conditions: list[Condition], *args: object, **how: object) -> Trials:
        maps = Path("/proc/self/maps").read_text().splitlines()
        held.append(sum("memfd:" in line for line in maps))
        return measure(conditions, *args, **how)  # type: ignore[arg-type]

    before = Path("/proc/self/maps").read_text().count("memfd:")
    monkeypatch.setattr(measuring, "measure", looked)
    transfer.run(budget_s=0.5, largest_bytes=65536)
    assert [count - before for count in held] == [1, 1, 0, 0, 0, 0]


def test_sizes_are_said_for_people() -> None:
    """Sizes are told in the unit that fits."""
    assert [size_text(size) for size in (1, 4096, 3 << 19, 1 << 30)] == ["1 B", "4 KiB", "1.5 MiB", "1 GiB"]


def test_a_recorded_run_can_be_read(result: TransferResult, tmp_path: Path) -> None:
    """record() writes a run that the store lists under the experiment's word."""
    assert result.record(tmp_path).exists()
    loaded = Store(tmp_path).load("transfer")
    assert len(loaded.frame()) == len(result.frame)
