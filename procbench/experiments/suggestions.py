"""A batch of real work that is badly set: what the analyzer finds wrong with it, what of that is proved, and all of it together.

The batch hashes files of the standard library. It is set as a loop in a shell would run it: one file a command, one command at a
time. Whether the analyzer finds that out, and what mending it brings, is for this machine to say.
"""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from procbench.analysis.suggestions import OptimizationSuggestion
from procbench.errors import InvalidInputError, UnsupportedError
from procbench.experiments.suggestions_outcome import SuggestionsResult
from procbench.lab.advice import advise, all_together, prove_first
from procbench.lab.batches import TaskBatch
from procbench.lab.host import read_host
from procbench.lab.noise import noise_warnings
from procbench.lab.proof import Proof, proof_of
from procbench.lab.results import Progress
from procbench.scheduling.settings import RunSettings

PROGRAM: Final = "sha256sum"
BAD: Final = RunSettings(workers=1, args_per_task=1, discard=True)
"""One file a command, one command at a time."""

_MOST_PROVED: Final = 3
_TOGETHER: Final = 0.25  # of the budget, for all that was proved at once
_FULL_TIMES: Final = 6
_FEWEST_FILES: Final = 8


def run(
    *,
    budget_s: float = 12,
    files: int = 32,
    full: bool = False,
    data_dir: str | Path | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], object] | None = None,
) -> SuggestionsResult:
    """Observe the badly set batch, prove what is suggested, and compare it with all that was proved. Runs in the calling thread.

    Args:
        budget_s: Seconds for all of it; what does not fit into it is not proved, and its row says so.
        files: Files that are hashed, at least 8.
        full: Six times the budget.
        data_dir: Where to record each proof and the run; empty or None not to, and then no row has a run that proves it.
        seed: Draws the order of runs.
        on_progress: As in :func:`procbench.lab.trials.measure`, for each proof.

    Raises:
        InvalidInputError: A number makes no sense; nothing has run then.
        UnsupportedError: There is no ``sha256sum``, or the standard library has no files.
    """
    if isinstance(budget_s, bool) or not (math.isfinite(budget_s) and budget_s > 0):
        raise InvalidInputError(f"budget_s is above 0, and not {budget_s!r}")
    if not isinstance(files, int) or files < _FEWEST_FILES:
        raise InvalidInputError(f"files is at least {_FEWEST_FILES}, and not {files!r}")
    ends_s = time.monotonic() + budget_s * (_FULL_TIMES if full else 1)
    host, batch = read_host(), badly_set_batch(files)
    advice = advise(batch, BAD)
    left_s = max(0.1, ends_s - time.monotonic())

    def tell(_: OptimizationSuggestion, progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress)

    proofs = prove_first(
        advice.suggestions,
        batch,
        BAD,
        budget_s=(1 - _TOGETHER) * left_s,
        most=_MOST_PROVED,
        data_dir=data_dir,
        seed=seed,
        on_progress=tell,
    )
    together, notes = _all_together(proofs, batch, max(0.1, ends_s - time.monotonic()), data_dir, seed, on_progress)
    result = SuggestionsResult(
        proofs=tuple(proofs),
        together=together,
        settings=BAD,
        observed=advice.observed,
        files=files,
        host=host,
        warnings=noise_warnings(host),
        notes=notes,
        parameters={"budget_s": budget_s, "files": files, "full": full, "seed": seed},
    )
    return result.kept_in(data_dir) if len(result.frame) else result


def badly_set_batch(files: int) -> TaskBatch:
    """Return a batch that hashes so many files of the standard library, in a folder that is always there.

    Raises:
        UnsupportedError: There is nothing to hash, or nothing to hash it with.
    """
    program = shutil.which(PROGRAM)
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in library.glob("*.py") if path.is_file() and os.access(path, os.R_OK))
    if program is None or not found:
        raise UnsupportedError(f"this experiment needs {PROGRAM} and the files of the standard library in {library}")
    chosen = [str(found[number % len(found)]) for number in range(files)]
    return TaskBatch.from_template([program, "{}"], chosen, cwd="/")


def _all_together(
    proofs: Sequence[Proof],
    batch: TaskBatch,
    budget_s: float,
    data_dir: str | Path | None,
    seed: int,
    on_progress: Callable[[Progress], object] | None,
) -> tuple[Proof | None, tuple[str, ...]]:
    """Measure all proved changes at once; notes say which of them could not be applied beside the others."""
    if any(one.interrupted for one in proofs):
        return None, ("interrupted: what was proved by then was not measured together",)
    those = [one for one in proofs if one.suggestion.status == "proved"]
    if len(those) == 1:
        return those[0], ()
    suggestion, notes = all_together([one.suggestion for one in those], BAD)
    if suggestion is None:
        return None, (
            *notes,
            "nothing was proved within the budget, so that there is nothing to apply; a longer one may prove more",
        )
    proof = proof_of(suggestion, batch, BAD, budget_s=budget_s, data_dir=data_dir, seed=seed, on_progress=on_progress)
    return proof, notes
