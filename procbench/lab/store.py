"""Where runs are kept: one Parquet file per run, whole or not there, checked whenever it is read.

A file is never changed once it has its name ``<UTC time>-<experiment>-<hash of its bytes>.parquet``. The hash makes any
flipped bit visible, in the footer too, which Parquet's own page checksums do not cover; and as the bytes hold a random
run id, two processes never want the same name. So there is no index to lock, to tear or to repair: a folder of files is
the whole store, and deleting a run is deleting its file.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procbench.analysis.statistics import Effect
from procbench.errors import DamagedRunError, InvalidInputError, NewerSchemaError, RecordError
from procbench.lab.files import write_atomically
from procbench.lab.host import HostFacts
from procbench.lab.names import safe_name
from procbench.lab.runs import RUN_COLUMNS, LoadedRuns, RecordedRun, git_revision, own_version

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
"""Raised when a reader of the older version would misread a file; files of all older versions stay readable."""

QUARANTINE = "quarantine"
"""Folder beside the runs that damaged files are moved to."""

_METADATA_KEY = b"procbench"
_HASH_LENGTH = 16  # 64 bits: a flipped bit goes unseen once in 2**64
_NAME = re.compile(rf"(?P<time>\d{{8}}T\d{{6}}Z)-(?P<experiment>.+)-(?P<hash>[0-9a-f]{{{_HASH_LENGTH}}})\.parquet")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """A folder of recorded runs.

    Any number of processes and threads may record and load at once.

    Args:
        root: The folder; it is made, readable by its owner alone, with the first run.
        project: Where the measured project lives, for its git revision; None is where ``root`` stands.
        now: The clock; gives an aware time.
    """

    def __init__(self, root: Path, *, project: Path | None = None, now: Callable[[], datetime] = _utc_now) -> None:
        self.root = Path(root)
        self._project = project
        self._now = now

    def record(
        self,
        frame: pd.DataFrame,
        *,
        experiment: str,
        host: HostFacts,
        parameters: Mapping[str, Any] | None = None,
        effects: Iterable[Effect] = (),
    ) -> Path:
        """Keep a run, and return its file once the disk has it.

        Cost: a few milliseconds, and two flushes of the disk.

        Args:
            frame: The trials, tidy; its index is not kept. Names in :data:`procbench.lab.runs.RUN_COLUMNS` are taken.
            experiment: What was measured; any text.
            host: The host that it was measured on.
            parameters: What the experiment was run with; plain JSON values, and no secrets.
            effects: What came out.

        Returns:
            The file. Its name is safe whatever the experiment is called.

        Raises:
            InvalidInputError: The frame is empty, has a taken or a double column name, or it or the parameters hold
                something that cannot be kept.
            RecordError: The file could not be written; nothing is left of it, and older runs are as they were.
        """
        recorded_at = self._now().astimezone(UTC)
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "experiment": experiment,
            "run_id": uuid.uuid4().hex,
            "recorded_at": recorded_at.isoformat(),
            "host_id": host.host_id,
            "host": host.to_dict(),
            "parameters": dict(parameters or {}),
            "effects": [effect.to_dict() for effect in effects],
            "git_revision": git_revision(self._project or self._standing()),
            "procbench_version": own_version(),
        }
        content = _to_parquet(frame, metadata)
        digest = hashlib.sha256(content).hexdigest()[:_HASH_LENGTH]
        path = self.root / f"{recorded_at:%Y%m%dT%H%M%SZ}-{safe_name(experiment)}-{digest}.parquet"
        write_atomically(path, lambda file: file.write(content))
        return path

    def _standing(self) -> Path:
        """Return the nearest folder above the data that exists; the data folder itself may be made only now."""
        return next(folder for folder in self.root.absolute().parents if folder.is_dir())

    def load(
        self, experiment: str | None = None, host_id: str | None = None, *, move_damaged: bool = True
    ) -> LoadedRuns:
        """Read all runs, or those of one experiment or host; what cannot be read is named and never stops the rest.

        A damaged run is moved to ``quarantine/``, never deleted. A file that is not named like a run, that a newer procbench
        wrote, or that may not be read, stays where it is. All of them stand in :attr:`LoadedRuns.quarantined`.

        Args:
            experiment: Only this experiment, as it was called when recorded.
            host_id: Only this host.
            move_damaged: Whether a damaged file is moved; False changes nothing in the folder.

        Returns:
            The runs, oldest first; none if the folder does not exist.

        Raises:
            RecordError: The folder itself cannot be read.
        """
        runs: list[RecordedRun] = []
        refused: list[tuple[Path, str]] = []
        for path in self._files():
            named = _NAME.fullmatch(path.name)
            if experiment is not None and named and named["experiment"] != safe_name(experiment):
                continue
            try:
                run = read_run(path)
            except FileNotFoundError:  # deleted, or moved aside by another process, which reports it
                continue
            except DamagedRunError as error:
                # What is not named like a run is somebody's own file, and not ours to move.
                where = self._quarantine(path) if move_damaged and named else "the file stays where it is"
                refused.append((path, f"{error}; {where}"))
            except (NewerSchemaError, OSError) as error:
                refused.append((path, f"{error}; the file stays where it is"))
            else:
                if experiment in {None, run.experiment} and host_id in {None, run.host_id}:
                    runs.append(run)
        return LoadedRuns(tuple(sorted(runs, key=lambda run: (run.recorded_at, run.run_id))), tuple(refused))

    def find(self, name: str) -> RecordedRun:
        """Return one run by what a person calls it.

        Args:
            name: Its file, the file's name, or the beginning, at least four digits, of the hash in that or of its run id.

        Raises:
            InvalidInputError: There is no such run, or there are several.
            DamagedRunError: The run is damaged; it stays where it is.
            NewerSchemaError: A newer procbench wrote it.
            RecordError: The folder cannot be read.
        """
        given = Path(name)
        if given.suffix == ".parquet":
            path = next((one for one in (given, self.root / given.name) if one.is_file()), None)
            if path is None:
                raise InvalidInputError(f"there is no run {name}, neither there nor in {self.root}")
            return read_run(path)
        if not re.fullmatch(r"[0-9a-f]{4,32}", name):
            raise InvalidInputError(f"{name!r} names no run; give its file, or at least four digits of its id")
        by_hash = [path for path in self._files() if run_name(path).startswith(name)]
        if len(by_hash) == 1:
            return read_run(by_hash[0])
        found = by_hash or [run.path for run in self.load().runs if run.run_id.startswith(name)]
        if len(found) != 1:
            how = f"{len(found)} runs begin with {name}; give more digits" if found else f"there is no run {name}"
            raise InvalidInputError(f"{how}; the folder of runs is {self.root}")
        return read_run(found[0])

    def _files(self) -> list[Path]:
        """Return the regular files that may be runs; names that begin with a dot are unfinished."""
        try:
            found = [path for path in self.root.iterdir() if path.suffix == ".parquet" and path.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordError(f"cannot read the folder {self.root}: {error.strerror}") from error
        return sorted(path for path in found if not path.name.startswith("."))

    def _quarantine(self, path: Path) -> str:
        """Move a damaged file aside without touching what lies there, and say where it is now."""
        place = self.root / QUARANTINE / f"{path.name}.{uuid.uuid4().hex[:8]}"
        try:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            path.rename(place)
        except OSError as error:  # a read-only folder, or another process was quicker
            return f"it could not be moved to {place.parent}: {error.strerror}"
        return f"moved to {place}"


def run_name(path: str | Path) -> str:
    """Return the short name of a run's file, the hash of its bytes; empty if it is not named like a run."""
    named = _NAME.fullmatch(Path(path).name)
    return named["hash"] if named else ""


def read_run(path: Path) -> RecordedRun:
    """Read one run and check every bit of it.

    Args:
        path: A file that :meth:`Store.record` wrote, under the name that it got.

    Raises:
        DamagedRunError: The name or the content is not what was recorded: torn, flipped, renamed, or no run at all.
        NewerSchemaError: A newer procbench wrote it.
        OSError: The file cannot be read at all; that says nothing about its content.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = _NAME.fullmatch(path.name)
    content = path.read_bytes()
    if named is None:
        raise DamagedRunError(f"{path} is no recorded run: its name is not <time>-<experiment>-<hash>.parquet")
    if hashlib.sha256(content).hexdigest()[:_HASH_LENGTH] != named["hash"]:
        raise DamagedRunError(f"{path} is damaged: its {len(content):,} bytes do not have the hash in its name")
    try:
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        metadata = json.loads(file.schema_arrow.metadata[_METADATA_KEY])
        version = int(metadata["schema_version"])
        if version > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{path} has schema version {version}, and this procbench reads up to {SCHEMA_VERSION}; update it"
            )
        return RecordedRun.from_metadata(path, metadata, file.read().to_pandas())
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedRunError(f"{path} is no recorded run: {error!r}") from error


def _to_parquet(frame: pd.DataFrame, metadata: Mapping[str, Any]) -> bytes:
    """Return the bytes of a run's file, or say what in it cannot be kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [str(name) for name in frame.columns]
    taken = sorted({name for name in names if name in RUN_COLUMNS or names.count(name) > 1})
    if taken or frame.empty:
        raise InvalidInputError(f"cannot record it: {f'columns {taken} are taken' if taken else 'it has no rows'}")
    try:
        text = json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"parameters must be plain JSON values: {error}") from error
    try:
        table = pa.Table.from_pandas(frame.set_axis(names, axis="columns"), preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInputError(f"a column holds values that Parquet cannot keep: {error}") from error
    # pandas' own note is kept, since it brings categories and the like back.
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA_KEY: text.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()
