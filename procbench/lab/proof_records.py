"""A proof as it is kept: the change, the settings, the tasks and the seed, so that anybody can run exactly that again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from procbench.analysis.suggestions import OptimizationSuggestion
from procbench.errors import InvalidInputError, RecordError
from procbench.lab.batches import TaskBatch
from procbench.lab.host import read_host
from procbench.lab.proof_runs import ProofRuns
from procbench.lab.results import Trials
from procbench.lab.runs import RecordedRun
from procbench.lab.store import Store, run_name
from procbench.scheduling.settings import RunSettings

EXPERIMENT: Final = "proof"

NOT_REPEATABLE: Final = "cannot be repeated from its record"
"""How the note of a proof begins whose commands were not recorded; the reason follows."""


@dataclass(frozen=True, slots=True)
class StoredProof:
    """What was proved, and all that it takes to do it again.

    Attributes:
        suggestion: With the status and effects of then.
        asked: The suggestion before it was measured.
        batch: The tasks.
        settings: What they were run with before the change.
        budget_s: Seconds that it had.
        seed: Drew the order of runs.
        run: The recorded run.
    """

    suggestion: OptimizationSuggestion
    asked: OptimizationSuggestion
    batch: TaskBatch
    settings: RunSettings
    budget_s: float
    seed: int
    run: RecordedRun

    @classmethod
    def of(cls, run: RecordedRun) -> Self:
        """Return the proof that a run holds.

        Raises:
            InvalidInputError: It is a run of something else, or it was not recorded whole; the message says what to do.
        """
        name = run_name(run.path)
        if run.experiment != EXPERIMENT:
            raise InvalidInputError(f"run {name} is one of {run.experiment!r}, and no proof")
        try:
            parameters = run.parameters
            judged, asked = (OptimizationSuggestion.from_dict(parameters[name]) for name in ("suggestion", "asked"))
            settings = RunSettings.from_dict(parameters["settings"])
            budget_s, seed = float(parameters["budget_s"]), int(parameters["seed"])
            batch = TaskBatch.from_dict(parameters["workload"])
        except InvalidInputError as error:
            raise InvalidInputError(
                f"run {name} cannot be repeated: {error}; prove it anew from a file of commands (--commands FILE)"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"run {name} is no proof that can be read: {error!r}") from error
        return cls(replace(judged, evidence=str(run.path)), asked, batch, settings, budget_s, seed, run)


def recorded(
    judged: OptimizationSuggestion,
    asked: OptimizationSuggestion,
    runs: ProofRuns,
    trials: Trials,
    *,
    budget_s: float,
    data_dir: str | Path,
    repeats: str = "",
) -> OptimizationSuggestion:
    """Keep a proof, and return its suggestion with the file as evidence; where that fails its note says so."""
    workload = runs.batch.to_dict()
    if why := workload["left_out"]:
        judged = judged.noted(f"{NOT_REPEATABLE}: {why}")
    parameters: dict[str, Any] = {
        "suggestion": judged.to_dict(),
        "asked": asked.to_dict(),
        "settings": runs.before.to_dict(),
        "workload": workload,
        "budget_s": budget_s,
        "seed": trials.seed,
        "stopped_because": trials.stopped_because,
        "repeats": repeats,
    }
    effects = [effect for effect in (judged.effect, *judged.side_effects.values()) if effect is not None]
    try:
        path = Store(Path(data_dir)).record(
            runs.frame(trials), experiment=EXPERIMENT, host=read_host(), parameters=parameters, effects=effects
        )
    except RecordError as error:  # what was measured is worth more than its copy
        return judged.noted(f"not recorded: {error}")
    return replace(judged, evidence=str(path))
