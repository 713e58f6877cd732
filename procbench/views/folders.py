"""Build a report's folder out of sight, and let it appear as a whole.

Readers of ``latest`` see the previous report until the new one is complete; a report that is killed leaves a hidden
folder, which the next one removes. Whether its builder still lives is told by a lock, not by a pid: pids are used
again, and say nothing across containers that share a folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from procbench.lab.files import flush_folder, write_atomically
from procbench.lab.names import safe_name

_BUILDING = ".building-"


@contextmanager
def building_folder(out_root: Path) -> Iterator[Path]:
    """Make a hidden, private folder for a report under construction; what is left of dead ones is removed first.

    It is removed at the end unless it was renamed by then.

    Args:
        out_root: Where reports stand; made if missing.
    """
    out_root.mkdir(parents=True, exist_ok=True)
    with _locked(out_root / ".lock"):
        _remove_dead(out_root)
        folder = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=out_root))
        lock = _try_lock(folder / ".lock")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def publish(folder: Path, out_root: Path, when: datetime, host: str, *, latest: bool = True) -> Path:
    """Give a finished report its name and let ``latest`` point to it. Each of the two steps happens as a whole.

    Args:
        folder: What `building_folder` made.
        out_root: Where reports stand.
        when: When the report was begun; becomes the name's UTC part.
        host: The machine's name; becomes the name's other part.
        latest: False leaves ``latest`` where it is.

    Returns:
        The report's final folder.
    """
    (folder / ".lock").unlink(missing_ok=True)
    stem = f"{when.astimezone(UTC):%Y%m%dT%H%M%SZ}-{safe_name(host)}"
    for number in range(1, 1000):
        final = out_root / (stem if number == 1 else f"{stem}-{number}")
        with suppress(OSError):
            if not final.exists():  # rename would replace an empty folder; a full one it refuses
                folder.rename(final)
                break
    else:
        raise FileExistsError(f"{out_root / stem} and 999 more exist already")
    if latest:
        _point(out_root / "latest", final.name)
    flush_folder(out_root)
    return final


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def _remove_dead(out_root: Path) -> None:
    """Remove folders under construction whose builder is gone, and links that were never put in place."""
    for folder in out_root.glob(f"{_BUILDING}*"):
        lock = _try_lock(folder / ".lock")
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    for link in out_root.glob(".latest-*"):
        link.unlink(missing_ok=True)


def _point(link: Path, target: str) -> None:
    """Make a relative symbolic link point to a target; at every moment it points to the old or the new one."""
    fresh = link.with_name(f".{link.name}-{os.getpid()}-{os.urandom(4).hex()}")
    fresh.symlink_to(target)
    try:
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _try_lock(path: Path) -> int | None:
    """Take a file's lock, or return ``None`` where another process holds it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
