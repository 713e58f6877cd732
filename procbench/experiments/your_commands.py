"""Where does the time of your commands go, what is proved to help, and which settings should be kept?

The batch is run as it is, and what it showed is looked at by the rules of :mod:`procbench.analysis.rules`. The most promising
suggestion is proved by :func:`procbench.lab.proof.prove`; where it helps it is kept, and the batch is looked at again.
"""

from __future__ import annotations

import math
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from procbench.analysis.rules import analyze
from procbench.analysis.suggestions import OptimizationSuggestion, SettingsChange
from procbench.errors import InvalidInputError, WorkloadError
from procbench.experiments.your_commands_batch import OwnCommands, own_commands
from procbench.experiments.your_commands_outcome import YourCommandsResult
from procbench.lab.advice import WatchedRun, all_together, watched_run
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.proof import proof_of
from procbench.lab.results import Progress
from procbench.scheduling.settings import RunSettings
from procbench.scheduling.shown import line_without_secrets

_FULL_TIMES: Final = 8
_MOST_TRIED: Final = 5
_FIRST_SHARE: Final = 0.6  # of the time that is left is for the proof at hand
_TRIAL_TASKS: Final = 12
_FEWEST_TASKS: Final = 6
_WARM_SHARE: Final = 0.1  # of the budget is well spent on a run that does not count
_RUNS: Final = 45  # of a batch, that should fit into the budget: two proofs


def run(
    *,
    workload: str | Path | None = None,
    files: str = "",
    command: str = "",
    settings: str | Sequence[str] = "",
    tasks: int = 0,
    budget_s: float = 12.0,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> YourCommandsResult:
    """Find out where the time of a batch goes, and prove what helps. Runs in the calling thread.

    The commands are run dozens of times, several at a time, and their output is not kept: they must bear that. Nothing
    but settings is ever changed; what would change the machine is said and not done.

    Args:
        workload: A file of commands, one a line, quoted as for a shell; they run in its folder.
        files: A pattern of files, such as ``/data/**/*.csv``; with ``command`` instead of a file of commands.
        command: What is run for each file: ``{}`` becomes its name. Without all three, commands on files of the standard
            library.
        settings: How the commands are run now: ``name=value`` words of :class:`procbench.scheduling.settings.RunSettings`.
        tasks: Most commands to run, spread evenly over the list. With 0 all of a person's own run once, and changes are measured
            with as many of them as fit into the budget.
        budget_s: Seconds for measuring. The batch runs once in any case, and three times more where there is something to prove.
        full: Eight times the budget.
        data_dir: Where to record the run and its proofs; empty or None not to.
        seed: Draws files and order.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each proof.

    Raises:
        InvalidInputError: A number, a setting or the choice of commands makes no sense; nothing has run then.
    """
    if isinstance(tasks, bool) or tasks < 0 or not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"tasks is at least 0 and budget_s above 0, and not {tasks!r} and {budget_s!r}")
    words = shlex.split(settings) if isinstance(settings, str) else list(settings)
    before = RunSettings().changed_by_words(words)
    planned_s = budget_s * (_FULL_TIMES if full else 1)
    host = read_host()
    with tempfile.TemporaryDirectory(prefix="procbench-") as scratch:
        own = own_commands(workload, files, command, Path(scratch), seed=seed)
        chosen = own.spread(tasks) if tasks or not own.is_default else _fitting_default(own, before, planned_s)
        search = _Search(chosen, before, time.monotonic() + planned_s, data_dir, seed, on_progress)
        first = search.run_batch()
        if not chosen.is_default and first.seconds < _WARM_SHARE * planned_s:
            first = search.run_batch()  # the one before brought programs and files into the page cache
        if not tasks and not own.is_default:  # the default commands fit already
            search.own = own.spread(_fitting(len(own), first.seconds, planned_s))
        search.find(first)
    result = YourCommandsResult(
        workload=chosen.name,
        before=before,
        after=search.settings,
        first=first,
        suggestions=tuple(search.suggestions),
        host=host,
        warnings=noise_warnings(host),
        refused=search.refused,
        notes=(*chosen.notes, *(note for note in search.own.notes if note not in chosen.notes), *search.notes),
        parameters={
            "workload": str(workload or ""),
            "files": files,
            "command": line_without_secrets(command),
            "settings": " ".join(words),
            "tasks": tasks,
            "budget_s": budget_s,
            "full": full,
            "seed": seed,
        },
    )
    return result.kept_in(data_dir)


def _fitting(count: int, took_s: float, budget_s: float) -> int:
    """Return how many commands leave room for two proofs, where so many took so long."""
    return max(_FEWEST_TASKS, int(count * budget_s / _RUNS / max(took_s, 1e-9)))


def _fitting_default(own: OwnCommands, settings: RunSettings, budget_s: float) -> OwnCommands:
    """Return as many of the default commands as fit, going by a few of them."""
    trial = _Search(own.spread(_TRIAL_TASKS), settings, math.inf)
    took_s = min(trial.run_batch().seconds for _ in range(2))
    return own.spread(_fitting(_TRIAL_TASKS, took_s, budget_s))


@dataclass(slots=True)
class _Search:
    """Looks at a batch, proves what is suggested, and keeps what helps.

    Attributes:
        settings: Those that are kept so far.
        suggestions: What was suggested, in the order of trying; what was not tried stands last.
        notes: Why something was not tried.
        interrupted: Whether Ctrl-C ended the last proof.
        refused: Why nothing can be proved; empty if it can.
    """

    own: OwnCommands
    settings: RunSettings
    ends_s: float
    data_dir: str | Path | None = None
    seed: int = 0
    on_progress: Callable[[Progress], object] | None = None
    suggestions: list[OptimizationSuggestion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    refused: str = ""

    def run_batch(self) -> WatchedRun:
        """Run the batch once with the settings that are kept so far."""
        return watched_run(self.own.batch, self.settings)

    def find(self, seen: WatchedRun) -> None:
        """Prove one suggestion after the other, each on top of what was proved before it."""
        before, failed = self.settings, [one for one in seen.results if one.outcome != "succeeded"]
        if failed:
            self.refused = f"{len(failed)} of {len(seen.results)} commands do not succeed"
            self.notes.append(f"{self.refused}; nothing is proved with what fails")
        while not failed and len(self.suggestions) < _MOST_TRIED:
            found = self._untried(seen)
            if not found or not self._prove(found[0]):
                break
            if self.suggestions[-1].status == "proved" and not self.interrupted:
                seen = self.run_batch()
        self.suggestions += self._untried(seen, with_host_changes=True)
        proved = [one for one in self.suggestions if one.status == "proved"]
        if self.interrupted:
            self.notes.append("interrupted: what was not tried by then was left")
        elif len(proved) > 1:
            self._prove_together(before, proved)

    def _untried(self, seen: WatchedRun, *, with_host_changes: bool = False) -> list[OptimizationSuggestion]:
        tried = {one.rule for one in self.suggestions}
        found = [one for one in analyze(seen.observed, self.settings) if one.rule not in tried]
        return [one for one in found if with_host_changes or isinstance(one.change, SettingsChange)]

    def _prove(self, suggestion: OptimizationSuggestion) -> bool:
        """Prove a suggestion, and keep it if it helps; return whether another may be tried."""
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            self.notes.append("the budget was spent before all suggestions were tried: raise budget_s")
            return False
        try:
            judged = self._judged(suggestion, self.settings, _FIRST_SHARE * left_s)
        except WorkloadError as error:
            self.refused = f"{error}"
            self.notes.append(f"nothing can be proved: {error}")
            return False
        self.suggestions.append(judged)
        if judged.status == "proved":
            self.settings = judged.apply(self.settings)
        return not self.interrupted

    def _prove_together(self, before: RunSettings, proved: Sequence[OptimizationSuggestion]) -> None:
        """Measure all that was proved at once against how it was, if there is time."""
        whole, notes = all_together(proved, before)
        self.notes += notes
        left_s = self.ends_s - time.monotonic()
        if whole is None or left_s <= 0:
            self.notes.append("there was no time left to measure all changes together: raise budget_s")
            return
        try:
            self.suggestions.append(self._judged(whole, before, left_s))
        except WorkloadError as error:
            self.notes.append(f"all changes together could not be measured: {error}")

    def _judged(
        self, suggestion: OptimizationSuggestion, settings: RunSettings, budget_s: float
    ) -> OptimizationSuggestion:
        proof = proof_of(
            suggestion,
            self.own.batch,
            settings,
            budget_s=budget_s,
            data_dir=self.data_dir,
            seed=self.seed,
            on_progress=self.on_progress,
        )
        self.interrupted = proof.interrupted
        return proof.suggestion
