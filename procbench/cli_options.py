"""How the command line's options are written: what several commands take, and short forms for what repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Data = Annotated[Path, typer.Option(metavar="DIR", help="Folder of recorded runs.")]
"""The option of every command that keeps or reads runs."""


def number(text: str, *names: str) -> Any:
    """Return an option that takes a whole number."""
    return typer.Option(*names, metavar="N", parser=_whole_number, help=text)


def flag(name: str, text: str, *short: str) -> Any:
    """Return an option without a value."""
    return typer.Option(name, *short, help=text)


def value(metavar: str, text: str, *names: str) -> Any:
    """Return an option that takes a value."""
    return typer.Option(*names, metavar=metavar, help=text)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"it must be a whole number, not {text!r}") from None
