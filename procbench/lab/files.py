"""Write a file so that it is there whole or not at all, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from procbench.errors import InvalidInputError, RecordError

FILE_MODE = 0o600
FOLDER_MODE = 0o700


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write ``path`` so that a reader, a crash or a full disk only ever meets the old file or the whole new one.

    The bytes go to a temporary name in the same folder (a rename across file systems is no rename), are flushed to the
    disk, and take the final name in one step; then the folder is flushed, so that the name survives too. A process that
    is killed may leave a temporary file, whose name begins with a dot; nothing reads those. A symbolic link at ``path``
    is replaced, never followed. Missing folders are made, readable by the owner alone.

    Safe for any number of processes and threads; the last one to finish wins.

    Args:
        path: The final name; an older file there is replaced.
        write: Gets the open file and writes all of it; what it raises is raised unchanged, unless it is an OSError.

    Raises:
        RecordError: A system call failed (disk full, quota, file size limit, no permission, I/O error); its cause is
            chained. The temporary file is gone and an older file is as it was, except if only the last step failed,
            flushing the folder: then the new file is there, but may not survive a power cut, and the message says so.

    Source: rename(2), fsync(2) "Calling fsync() does not necessarily ensure that the entry in the directory [...]".
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        handle = os.open(temporary, flags, FILE_MODE)
        try:
            _fill_and_flush(handle, write)
            temporary.replace(path)
        except BaseException:  # also an interrupt: a temporary file that no one will finish is litter
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    try:
        flush_folder(path.parent)
    except OSError as error:
        raise RecordError(
            f"{path} is written, but may not survive a power cut: flushing its folder failed: {error.strerror or error}"
        ) from error


def check_writable_folder(path: Path) -> None:
    """Make the folder where it is missing, and see that files can be made in it, before work is done for its sake.

    An empty file is made and removed again, so a full disk is not found out.

    Raises:
        InvalidInputError: The folder cannot be made or written, or is no folder; its cause is chained.
    """
    probe = path / f".{secrets.token_hex(8)}.tmp"
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))
        probe.unlink()
    except OSError as error:
        raise InvalidInputError(f"cannot write into the folder {path}: {error.strerror or error}") from error


def _fill_and_flush(handle: int, write: Callable[[BinaryIO], object]) -> None:
    """Fill the file, wait until the disk has it, and close it. A failed fsync is final: never retried."""
    with os.fdopen(handle, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make the folder's entries durable, where its file system can do that (some answer EINVAL)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
