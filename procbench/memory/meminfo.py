"""What the kernel says of this machine's memory: one reader of ``/proc/meminfo`` for all who want to know."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MEMINFO: Final = Path("proc/meminfo")
"""Where it stands, below the root of the system."""


def meminfo_bytes(text: bytes, name: str) -> int | None:
    """Return in bytes what stands behind a name, such as ``MemAvailable``; ``None`` where it is not there.

    Source: proc_meminfo(5), whose kB are KiB. Costs a search, and not a look at each of its fifty lines.
    """
    key = name.encode() + b":"
    place = 0 if text.startswith(key) else text.find(b"\n" + key) + 1
    if not place and not text.startswith(key):
        return None
    number, _, unit = text[place + len(key) :].partition(b"\n")[0].strip().partition(b" ")
    return int(number) * 1024 if unit == b"kB" and number.isdigit() else None


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that could be had without swapping; ``None`` where that is not told."""
    try:
        text = (root / MEMINFO).read_bytes()
    except OSError:
        return None
    return meminfo_bytes(text, "MemAvailable")
