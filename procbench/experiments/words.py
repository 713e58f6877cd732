"""How the experiments say numbers, alike on every page."""

from __future__ import annotations

import math


def size_text(size_bytes: float) -> str:
    """Return a number of bytes in KiB, MiB or GiB, for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes:g} B"


def known(end: float) -> float:
    """Return an interval's end, and NaN where too few blocks know none."""
    return end if math.isfinite(end) else math.nan
