"""File names from whatever a person calls an experiment or a report."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from procbench.errors import InvalidInputError

LONGEST_SLUG = 63
"""Leaves room for a time stamp, a hash and a temporary suffix in the 255 bytes that file systems allow."""

HASH_LENGTH = 8
"""Hex digits of the hash that stands in for what a slug lost: two texts in four billion share one."""

_PLAIN = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{LONGEST_SLUG - 1}}}")
_LOOKS_ALTERED = re.compile(rf".*-[0-9a-f]{{{HASH_LENGTH}}}")
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})


def safe_name(text: str) -> str:
    """Turn any text into a file name that means the same text.

    A plain word, such as ``spawn`` or ``42_stealing``, stays as it is. Anything else, such as ``../x``, a device name
    of Windows, capitals (which some file systems do not tell apart) or a text of 300 letters, becomes a readable slug
    and a short hash of the text, so that two texts do not meet in one file.

    Returns:
        1 to 72 characters of ``a-z 0-9 _ -`` that begin with a letter or digit.

    Raises:
        InvalidInputError: ``text`` is no text.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"a name is a text, and not {type(text).__name__}: {text!r:.80}")
    if _PLAIN.fullmatch(text) and text not in _DEVICES and not _LOOKS_ALTERED.fullmatch(text):
        return text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", ascii_text)[:LONGEST_SLUG].strip("-_") or "unnamed"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:HASH_LENGTH]}"
