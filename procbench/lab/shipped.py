"""The recorded history that procbench brings along: runs of its own experiments, there to be read and not to be changed."""

from __future__ import annotations

from pathlib import Path

from procbench.errors import RecordError


def shipped_folders() -> tuple[Path, ...]:
    """Return where it may be: in the installed package first, then in the checkout. The working folder plays no part."""
    package = Path(__file__).resolve().parent.parent
    return package / "recorded", package.parent / "data" / "recorded"


def shipped_history() -> Path:
    """Return the folder of the runs that procbench brings along.

    Raises:
        RecordError: This installation has none.
    """
    for folder in shipped_folders():
        if folder.is_dir():
            return folder
    raise RecordError("this procbench was installed without its recorded history: name a folder of recorded runs")


def is_shipped(folder: Path) -> bool:
    """Return whether a folder is that history, by whatever path it is reached."""
    return folder.resolve() in shipped_folders()
