"""What a number, or a number of seconds, must be before anything is done with it; everything else is refused in one voice."""

from __future__ import annotations

import math

from procbench.errors import InvalidInputError


def whole(word: str, value: object, least: int = 0) -> int:
    """Return ``value``, a whole number of at least ``least``.

    Raises:
        InvalidInputError: It is something else; ``True``, ``1.0`` and ``"1"`` are.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInputError(f"{word} is {value!r}; it must be a whole number of at least {least}")
    return value


def seconds(word: str, value: object, otherwise: str = "") -> float:
    """Return ``value``, a finite number of at least 0.

    Args:
        word: What the number is called.
        value: The number, seconds.
        otherwise: What else could have been given, for the message.

    Raises:
        InvalidInputError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidInputError(f"{word} is {value!r}; it must be a finite number of seconds of at least 0{otherwise}")
    return value


def timeout(value: object) -> float | None:
    """Return ``value``, a time-out in seconds or ``None``.

    Raises:
        InvalidInputError: It is neither.
    """
    return None if value is None else seconds("timeout", value, ", or None to wait for as long as it takes")
