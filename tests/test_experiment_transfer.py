"""The transfer experiment moves real bytes, measures every way in every block, and says what to set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from procbench import RunSettings
from procbench.errors import InvalidInputError
from procbench.experiments import transfer
from procbench.experiments.transfer_outcome import FROM_CHILD, TO_CHILD, TransferResult
from procbench.experiments.words import size_text
from procbench.io.spawn import Child, spawn
from procbench.lab.store import Store
from procbench.memory.transports import TRANSPORTS
from procbench.views import plots_transfer, tables_transfer


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
    monkeypatch.setattr(transfer, "limit_program", lambda folder: None)
    found = transfer.run(budget_s=0.5, largest_bytes=4096)
    assert any(note.startswith("C: left out") for note in found.notes)
    assert not any(way.startswith("C,") for way in found.rates(TO_CHILD)["way"])


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    """What was measured is kept when recording fails, and the details say why."""
    (tmp_path / "file").write_text("")
    found = transfer.run(budget_s=0.5, largest_bytes=4096, data_dir=tmp_path / "file")
    assert "not recorded" in found.details()


def test_an_interrupt_leaves_no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C between a child's start and its end ends the child and closes its pidfd."""
    children: list[Child] = []

    def struck(start: Callable[[int], object], into: object) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        start(write_end)
        os.close(read_end)
        os.close(write_end)
        raise KeyboardInterrupt

    def spawned(argv: list[str], stdout: int) -> Child:
        children.append(spawn(argv, stdout=stdout))
        return children[-1]

    monkeypatch.setattr(transfer, "spawn", spawned)
    monkeypatch.setattr(transfer, "receive", struck)
    transfer.run(budget_s=0.5, largest_bytes=4096)  # what was finished before is kept
    assert children
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(child.pidfd)


def test_sizes_are_said_for_people() -> None:
    """Sizes are told in the unit that fits."""
    assert [size_text(size) for size in (1, 4096, 3 << 19, 1 << 30)] == ["1 B", "4 KiB", "1.5 MiB", "1 GiB"]


def test_a_recorded_run_can_be_read(result: TransferResult, tmp_path: Path) -> None:
    """record() writes a run that the store lists under the experiment's word."""
    assert result.record(tmp_path).exists()
    loaded = Store(tmp_path).load("transfer")
    assert len(loaded.frame()) == len(result.frame)
