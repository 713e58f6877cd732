"""The table of suggestions, on a terminal and on a page: each with the run that proves it, and the command that repeats that."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final, TextIO

from procbench.analysis.statistics import Effect
from procbench.analysis.suggestions import HostChange, OptimizationSuggestion
from procbench.lab.proof_records import NOT_REPEATABLE
from procbench.lab.store import run_name
from procbench.views.terminal import one_line

DEFAULT_DATA: Final = Path("data")

STATUS_WORDS: Final[Mapping[str, str]] = {
    "unmeasured": "nobody has measured it",
    "proved": "proved",
    "no gain": "tried: no gain",
    "harmful": "tried: harmful",
    "inconclusive": "tried: not decided",
}

_THE_SAME: Final = 1.1  # times, to either side
_GAIN_WORDS: Final = {"time": "time", "memory": "peak memory"}
_SIDE_WORDS: Final = {"time": "time", "memory": "peak memory", "cpu_time": "CPU time", "latency": "slowest commands"}
_HEADS: Final = ("change", "status", "measured effect", "side effects", "recorded run, and what repeats it")


@dataclass(frozen=True, slots=True)
class Row:
    """A suggestion in words.

    Attributes:
        rule: What made it.
        change: What it changes.
        status: What is known of it.
        effect: What was measured, with its interval; empty if nothing was.
        sides: What else changed, each in a few words.
        run: Short name of the run that proves it; empty if there is none.
        command: What repeats that run; empty if there is none.
        seen: What was seen, and why that hurts.
        note: What a reader should know.
    """

    rule: str
    change: str
    status: str
    effect: str
    sides: tuple[str, ...]
    run: str
    command: str
    seen: str
    note: str

    @classmethod
    def of(cls, one: OptimizationSuggestion) -> Row:
        """Put a suggestion into words; nothing in it is escaped yet."""
        gain = _GAIN_WORDS[one.gain]
        return cls(
            rule=one.rule.replace("_", " "),
            change=str(one.change),
            status=STATUS_WORDS[one.status],
            effect="" if one.effect is None else f"{gain} {effect_words(one.effect)}",
            sides=tuple(
                f"{_SIDE_WORDS.get(name, name)} {effect_words(effect)}" for name, effect in one.side_effects.items()
            ),
            run=run_name(one.evidence) if one.evidence else "",
            command=repeat_command(one),
            seen=f"{one.description}. {one.why}",
            note=one.note,
        )


def effect_words(effect: Effect) -> str:
    """Return an effect as ``1.80 times better [1.62, 2.01]``, less than 1 as so many times worse, about 1 as the same.

    An interval that holds 1 and reaches far says neither.
    """
    known = effect.low > 0 and effect.high < float("inf")
    if known and effect.low <= 1 <= effect.high:
        near = effect.high <= _THE_SAME and effect.low >= 1 / _THE_SAME
        return f"{'the same' if near else 'no difference shown'} within [{effect.low:.2f}, {effect.high:.2f}]"
    better = effect.ratio >= 1
    ends = (effect.low, effect.high) if better else (1 / effect.high, 1 / effect.low if effect.low else float("inf"))
    times = effect.ratio if better else 1 / effect.ratio
    interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if known else ", interval unknown"
    return f"{times:.2f} times {'better' if better else 'worse'}{interval}"


def repeat_command(one: OptimizationSuggestion) -> str:
    """Return the one command that repeats a suggestion's proof, as a shell needs it; empty if it has none, or none can."""
    if not one.evidence or NOT_REPEATABLE in one.note:
        return ""
    path = Path(one.evidence)
    words = ["procbench", "prove", run_name(path) or str(path)]
    if path.parent != DEFAULT_DATA:
        words += ["--data", str(path.parent)]
    if isinstance(one.change, HostChange):
        words.append("--allow-host-changes")
    return shlex.join(words)


def show_suggestions(suggestions: Iterable[OptimizationSuggestion], stream: TextIO) -> None:
    """Write each suggestion as a few lines, the most promising first. Nothing in them reaches the terminal raw."""
    for number, row in enumerate(map(Row.of, suggestions), 1):
        stream.write(f"{number}. {one_line(row.change, 120)}: {row.status}\n")
        lines = [
            ("seen", row.seen),
            ("effect", row.effect or "none is known"),
            *(("beside that", side) for side in row.sides),
            ("note", row.note),
            ("run", row.run),
            ("repeat it", row.command),
        ]
        for name, text in lines:
            if text:
                stream.write(f"   {name:12}{one_line(text, 600)}\n")


class SuggestionTable:
    """Suggestions as a notebook and a page show them; text of unknown origin ends as text.

    Args:
        suggestions: The most promising first.
        runs: What of each recorded run the page shows, in words, by its short name: the row links to it.
        commands: With which commands each was measured, in a few words, by the run's short name.
    """

    def __init__(
        self,
        suggestions: Sequence[OptimizationSuggestion],
        runs: Mapping[str, str] | None = None,
        commands: Mapping[str, str] | None = None,
    ) -> None:
        self.rows = tuple(map(Row.of, suggestions))
        self.runs = dict(runs or {})
        self.commands = dict(commands or {})

    def __repr__(self) -> str:
        return "\n".join(f"{row.change}: {row.status} {row.effect} {row.command}".rstrip() for row in self.rows)

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{name}</th>' for name in _HEADS)
        body = "".join(map(self._row, self.rows)) or f'<tr><td colspan="{len(_HEADS)}">nothing was suggested</td></tr>'
        caption = "<caption>What was suggested, and what measuring it showed</caption>"
        return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{self._details()}"

    def _row(self, row: Row) -> str:
        sides = ",<br>".join(map(escape, row.sides)) or "none is known"
        proof = "none"
        if row.run:
            proof = f'<a href="#run-{escape(row.run)}"><code>{escape(row.run)}</code></a>'
            proof += f"<br><code>{escape(row.command)}</code>" * bool(row.command)
        measured_with = self.commands.get(row.run, "")
        change = escape(row.change) + f"<br><small>{escape(measured_with)}</small>" * bool(measured_with)
        return (
            f'<tr><th scope="row">{change}</th><td>{escape(row.status)}</td>'
            f"<td>{escape(row.effect) or 'none is known'}</td><td>{sides}</td><td>{proof}</td></tr>"
        )

    def _details(self) -> str:
        """Return of each suggestion what was seen and why that hurts, and its run, which the row leads to."""
        return f"<dl>{''.join(map(self._detail, self.rows))}</dl>" if self.rows else ""

    def _detail(self, row: Row) -> str:
        place = f' id="run-{escape(row.run)}"' if row.run else ""
        run = f": run <code>{escape(row.run)}</code>" if row.run else ""
        texts = [row.seen, row.note, self.runs.get(row.run, "")]
        lines = [escape(text) for text in texts if text]
        return f"<dt{place}><strong>{escape(row.change)}</strong>{run}</dt><dd>{'<br>'.join(lines)}</dd>"
