"""Several suggestions proved one after the other: what is known is not lost for what comes later."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.errors import WorkloadError
from procbench.lab import advice
from procbench.lab.batches import TaskBatch
from procbench.lab.proof import Proof, proof_of
from procbench.scheduling.settings import RunSettings


def more(workers: int) -> OptimizationSuggestion:
    """A suggestion of so many workers instead of one."""
    change = SettingsChange({"workers": workers}, {"workers": 1})
    return OptimizationSuggestion(
        rule=f"more{workers}", category="concurrency", priority="high", description="d", why="w", change=change
    )


def test_a_batch_that_fails_later_does_not_take_an_earlier_proof_with_it(tmp_path: Path, monkeypatch):
    """The second suggestion says why it has no result; the third is left."""
    flag = tmp_path / "fails"
    batch = TaskBatch.of([["sh", "-c", f"sleep 0.05; ! test -e {flag}"]] * 4)

    def breaks_afterwards(one: OptimizationSuggestion, *given: object, **options: object) -> Proof:
        found = proof_of(one, *given, **options)  # type: ignore[arg-type]
        flag.touch()
        return found

    monkeypatch.setattr(advice, "proof_of", breaks_afterwards)
    found = advice.prove_first([more(4), more(3), more(2)], batch, RunSettings(workers=1), budget_s=60)
    assert [one.suggestion.status for one in found] == ["proved", "unmeasured", "unmeasured"]
    assert "not measured: " in found[1].suggestion.note
    assert found[2].suggestion.note == ""
    with pytest.raises(WorkloadError):
        advice.prove_first([more(4)], batch, RunSettings(workers=1), budget_s=60)


def test_who_looks_at_a_batch_looks_at_the_machine_too(tmp_path: Path):
    """Bytes that reach a disk, pressure and processes are known without anybody having asked for a monitor."""
    argv = ["dd", "if=/dev/zero", f"of={tmp_path}/written", "bs=1M", "count=8", "conv=fsync", "status=none"]
    seen = advice.watched_run(TaskBatch.of([argv]), RunSettings(workers=1)).observed
    assert seen.processes >= 1
    assert seen.zombie_share >= 0
    if Path("/proc/pressure/io").exists():
        assert 0 <= seen.io_pressure <= 1
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip()
    if kind not in {"tmpfs", "overlayfs"}:
        assert seen.storage_bytes_per_s > 1e6
