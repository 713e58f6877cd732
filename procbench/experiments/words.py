"""How the experiments say numbers and details, alike on every page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable


def size_text(size_bytes: float) -> str:
    """Return a number of bytes in KiB, MiB or GiB, for people.

    Example:
        >>> size_text(512), size_text(65536), size_text(1.5 * 2**30)
        ('512 B', '64 KiB', '1.5 GiB')
    """
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes:g} B"


def with_interval(value: float, low: float, high: float, decimals: int) -> str:
    """Return a value with its interval; the interval only where it is known, and nothing where nothing is.

    Example:
        >>> with_interval(0.4123, 0.394, 0.441, 2), with_interval(0.4123, 0, math.inf, 1)
        ('0.41 [0.39, 0.44]', '0.4')
    """
    if math.isnan(value):
        return ""
    both = math.isfinite(low) and math.isfinite(high)
    return f"{value:.{decimals}f}" + (f" [{low:.{decimals}f}, {high:.{decimals}f}]" if both else "")


def details_text(lines: Iterable[str], warnings: Iterable[object]) -> str:
    """Return lines, and what made the run noisy, as text of 88 columns."""
    shown = [*lines, *(f"noise: {one}" for one in warnings)]
    return "\n".join(textwrap.fill(line, 88, subsequent_indent="    ") for line in shown)
