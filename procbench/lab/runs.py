"""What was recorded, as it comes back from the store."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.analysis.statistics import Effect
from procbench.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

RUN_COLUMNS = ("experiment", "recorded_at", "host_id", "run_id")
"""Columns that :meth:`LoadedRuns.frame` puts before the recorded ones, which therefore may not be called so."""

GIT_TIMEOUT_S = 5.0
"""A git that waits longer, on a dead network drive for instance, is not worth waiting for."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRun:
    """One run, with all that is needed to judge it later.

    Attributes:
        path: Its file.
        run_id: Unique for ever.
        experiment: What was measured.
        recorded_at: When, in UTC.
        host_id: Which host; values of different hosts do not compare.
        host: The host's facts, as recorded then; see :class:`procbench.lab.host.HostFacts`.
        parameters: What the experiment was run with.
        effects: What came out.
        git_revision: Commit of the project that the data folder belongs to; None outside git.
        procbench_version: Which procbench measured.
        trials: The raw values, one row per trial.
    """

    path: Path
    run_id: str
    experiment: str
    recorded_at: datetime
    host_id: str
    host: Mapping[str, Any]
    parameters: Mapping[str, Any]
    effects: tuple[Effect, ...]
    git_revision: str | None
    procbench_version: str
    trials: pd.DataFrame

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, Any], trials: pd.DataFrame) -> RecordedRun:
        """Build a run from what its file holds.

        Raises:
            KeyError: A field is missing.
            ValueError: A field holds nonsense.
        """
        return cls(
            path=path,
            run_id=str(metadata["run_id"]),
            experiment=str(metadata["experiment"]),
            recorded_at=datetime.fromisoformat(metadata["recorded_at"]),
            host_id=str(metadata["host_id"]),
            host=dict(metadata["host"]),
            parameters=dict(metadata["parameters"]),
            effects=tuple(Effect.from_dict(effect) for effect in metadata["effects"]),
            git_revision=metadata["git_revision"],
            procbench_version=str(metadata["procbench_version"]),
            trials=trials,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRuns:
    """All runs that could be read, and the name of each file that could not.

    Attributes:
        runs: The runs, oldest first.
        quarantined: Each file that could not be read, under its old path, and the reason, which says where it is now.
    """

    runs: tuple[RecordedRun, ...]
    quarantined: tuple[tuple[Path, str], ...]

    @property
    def host_ids(self) -> tuple[str, ...]:
        """The hosts that the runs come from, sorted."""
        return tuple(sorted({run.host_id for run in self.runs}))

    def frame(self, host_id: str | None = None) -> pd.DataFrame:
        """Return the trials of all runs of **one** host as one tidy frame.

        Args:
            host_id: The host; needed as soon as the runs come from more than one.

        Returns:
            ``experiment`` (text), ``recorded_at`` (UTC time), ``host_id`` and ``run_id`` (text), then every column that
            any run has; it is missing (NaN, None) in the rows of runs that lack it. Oldest run first; empty, with the
            four columns, if there is no run.

        Raises:
            InvalidInputError: The runs come from several hosts and none was named, or none comes from the one named.
        """
        import pandas as pd

        if host_id is None and len(self.host_ids) > 1:
            raise InvalidInputError(
                f"the runs come from {len(self.host_ids)} hosts, whose values do not compare; "
                f"name one with host_id=...: {', '.join(self.host_ids)}"
            )
        if host_id is not None and host_id not in self.host_ids:
            raise InvalidInputError(f"no run comes from host {host_id!r}; there are: {', '.join(self.host_ids) or '-'}")
        parts = [_with_run_columns(run) for run in self.runs if host_id in {None, run.host_id}]
        if not parts:
            return pd.DataFrame(columns=list(RUN_COLUMNS))
        return pd.concat(parts, ignore_index=True)


def git_revision(project: Path | None = None) -> str | None:
    """Return the commit that a folder is at, as 40 hex digits; None outside git or without git. Never raises.

    Args:
        project: The folder; None is the working folder.
    """
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
            check=False,
            cwd=project,
            env=quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def own_version() -> str:
    """Return the installed version of procbench; ``unknown`` in a checkout that is not installed."""
    try:
        return importlib.metadata.version("procbench")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _with_run_columns(run: RecordedRun) -> pd.DataFrame:
    """Put the run's own columns before those of its trials."""
    import pandas as pd

    own = {column: getattr(run, column) for column in RUN_COLUMNS}
    return pd.concat([pd.DataFrame(own, index=run.trials.index), run.trials], axis="columns")
