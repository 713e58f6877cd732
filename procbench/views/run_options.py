"""What a person asked of ``procbench run``, and whether it goes together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from procbench.errors import InvalidInputError
from procbench.scheduling.settings import RunSettings

SPOOLED_OVER_BYTES: Final = 1 << 20
"""What a command's captured stream may take of memory where none of it is to be lost, before it goes into a file."""

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGTkmgt]?)")
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of ``procbench run``, as the command line names them; ``None`` for what was not given.

    Raises:
        InvalidInputError: Two of them contradict each other, or one makes no sense.
    """

    command: Sequence[str] | None = None
    each: str | None = None
    null: bool = False
    commands: str | None = None
    args_per_task: int | None = None
    priority_from: str | None = None
    shuffle: bool = False
    seed: int | None = None
    longest_first: bool = False
    workers: int | None = None
    timeout: float | None = None
    retries: int | None = None
    retry_delay: float | None = None
    halt: str | None = None
    memfree: str | None = None
    load: float | None = None
    capture: bool = False
    keep_order: bool = False
    tag: bool = False
    joblog: Path | None = None
    resume: bool = False
    resume_failed: bool = False
    settings: Sequence[str] | None = None
    record: bool = False
    data: Path = Path("data")
    quiet: bool = False
    dry_run: bool = False
    chosen: RunSettings = field(init=False)
    """How the commands are run: the options' settings, and what ``--set`` made of them."""

    def __post_init__(self) -> None:
        check_seconds(self.timeout)
        object.__setattr__(self, "chosen", self._settings())
        check_seconds(self.chosen.timeout, "timeout")
        for contradicts, why in self._contradictions():
            if contradicts:
                raise InvalidInputError(why)

    def _settings(self) -> RunSettings:
        given: dict[str, Any] = {
            "args_per_task": self.args_per_task,
            "retries": self.retries,
            "retry_delay_s": self.retry_delay,
            "halt": self.halt,
            "start_above_free_bytes": None if self.memfree is None else size_bytes(self.memfree, "--memfree"),
            "start_below_load": self.load,
            "order": "longest_first" if self.longest_first else None,
        }
        if self.keep_order or self.tag:  # nothing of it is lost, and little of it stands in memory
            given |= {"overflow": "spool", "max_output_bytes": SPOOLED_OVER_BYTES}
        settings = RunSettings(
            workers=self.workers,
            timeout=self.timeout,
            capture=self.capture or self.keep_order or self.tag,
            containment="subreaper",
            **{name: value for name, value in given.items() if value is not None},
        )
        return settings.changed_by_words(self.settings or ())

    def _contradictions(self) -> list[tuple[bool, str]]:
        resumes = "--resume" if self.resume else "--resume-failed"
        shows = "--keep-order" if self.keep_order else "--tag"
        longest_first = self.chosen.order == "longest_first"
        return [
            (self.resumes and self.joblog is None, f"{resumes} needs --joblog FILE, which says what was done"),
            (self.seed is not None and not self.shuffle, "--seed is for --shuffle; leave it out, or add --shuffle"),
            (
                self.shuffle and longest_first,
                "--shuffle and the order longest_first contradict each other; leave one of them out",
            ),
            (
                self.priority_from is not None and self.chosen.order == "fifo",
                "--priority-from and order=fifo, which takes no notice of priorities, contradict each other",
            ),
            (
                bool(self.retry_delay) and not self.chosen.retries,
                "--retry-delay is for --retries N; leave it out, or add --retries",
            ),
            (
                (self.keep_order or self.tag) and not self.chosen.capture,
                f"{shows} captures output, and capture=false does not; leave one of them out",
            ),
            (self.dry_run and self.record, "--dry-run runs nothing, so that there is nothing to --record"),
        ]

    @property
    def resumes(self) -> bool:
        """Whether what was done before is to be skipped."""
        return self.resume or self.resume_failed


def size_bytes(words: str, name: str) -> int:
    """Return a size as GNU parallel writes it: ``2G`` is 2 GiB, ``2g`` is 2 GB, and without a letter it is bytes.

    Raises:
        InvalidInputError: It is none.
    """
    found = _SIZE.fullmatch(words)
    size = (
        0
        if found is None
        else int(float(found[1]) * (1024 if found[2].isupper() else 1000) ** _POWERS[found[2].lower()])
    )
    if size < 1:
        raise InvalidInputError(f"{name} is {words!r}; it must be a size above 0, such as 500M or 2G")
    return size


def check_seconds(timeout: float | None, name: str = "--timeout") -> None:
    """Raise if it is no time limit.

    Raises:
        InvalidInputError: It is not above 0, or for ever.
    """
    if timeout is not None and not 0 < timeout < float("inf"):
        raise InvalidInputError(f"{name} must be a number of seconds above 0, not {timeout:g}")


def check_folder(option: str, path: Path) -> None:
    """Raise if a file stands where a folder is to be.

    Raises:
        InvalidInputError: It does.
    """
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{option} must be a folder, and {path} is none")
